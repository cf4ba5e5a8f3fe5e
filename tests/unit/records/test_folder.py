"""A run's files: read, cut, removed, or kept under another name."""

import json

from arrol.records.folder import NO_RECORDS, cut_records, forget_records, moved_aside, readable_runs
from arrol.records.manifest import file_sum
from arrol.records.schema import encode
from arrol.records.texts import TextWriter
from viewer_runs import run_row


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


def test_records_are_cut_where_the_checkpoint_found_them(tmp_path):
    records, rollouts = tmp_path / "records.jsonl", tmp_path / "rollouts.jsonl"
    records.write_text("one\ntwo\n")
    rollouts.write_text("row\n")
    held = {path.name: file_sum(path) for path in (records, rollouts)}
    with records.open("a") as file:
        file.write("three\nhalf a li")
    cut_records(tmp_path, {})  # a checkpoint of an older release: nothing is known
    assert records.read_text() == "one\ntwo\nthree\nhalf a li"
    cut_records(tmp_path, held)
    assert (records.read_text(), rollouts.read_text()) == ("one\ntwo\n", "row\n")
    rollouts.unlink()
    cut_records(tmp_path, NO_RECORDS)
    assert records.read_text() == ""
    assert not rollouts.exists()


def test_rows_that_open_a_segment_are_read_beside_damaged_ones(tmp_path):
    assert readable_runs(tmp_path / "none") == []
    row = run_row(segment=2)
    lines = [b"\xff", b"[3]", b"{}", json.dumps(encode(row)).encode(), b'{"kind": "ru']
    (tmp_path / "records.jsonl").write_bytes(b"\n".join(lines))
    assert readable_runs(tmp_path) == [row]
