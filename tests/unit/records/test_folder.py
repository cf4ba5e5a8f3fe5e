"""A run's files: removed, or kept under another name."""

from arrol.records.folder import forget_records, moved_aside
from arrol.records.texts import TextWriter


def test_a_folder_gets_the_first_free_name(tmp_path):
    for number, name in enumerate(("run-1", "run-2")):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "records.jsonl").write_text(str(number))
        assert moved_aside(tmp_path / "run") == tmp_path / name
        assert (tmp_path / name / "records.jsonl").read_text() == str(number)


def test_records_go_and_other_files_stay(tmp_path):
    for name in ("records.jsonl", "rollouts.jsonl", "mine.txt"):
        (tmp_path / name).write_text("")
    TextWriter(tmp_path, 2**20).write(1, [])
    forget_records(tmp_path)
    forget_records(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]
