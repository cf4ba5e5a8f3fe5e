"""A run's files: read, cut, removed, or kept under another name."""

import json

from arrol.records.folder import (
    NO_RECORDS,
    cut_records,
    forget_records,
    moved_aside,
    readable_runs,
    seal_records,
)
from arrol.records.manifest import file_sum, read_manifest
from arrol.records.schema import encode
from arrol.records.store import RECORDS_FILE, RecordWriter
from arrol.records.texts import TextWriter
from viewer_runs import run_row


def test_a_folder_gets_the_first_free_name(tmp_path):
    for number, name in enumerate(("run-1", "run-2")):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "records.jsonl").write_text(str(number))
        assert moved_aside(tmp_path / "run") == tmp_path / name
        assert (tmp_path / name / "records.jsonl").read_text() == str(number)


def test_records_go_and_other_files_stay(tmp_path):
    for name in ("records.jsonl", "rollouts.jsonl", "manifest.json", "mine.txt"):
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
    (tmp_path / "manifest.json").touch()
    with records.open("a") as file:
        file.write("three\nhalf a li")
    cut_records(tmp_path, {})  # a checkpoint of an older release: nothing is known
    assert records.read_text() == "one\ntwo\nthree\nhalf a li"
    assert not (tmp_path / "manifest.json").exists()  # of the end that is no end any more
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


def test_the_end_of_a_run_is_sealed(tmp_path, monkeypatch):
    (tmp_path / "records.jsonl").write_text("one\n")
    TextWriter(tmp_path, 2**20).write(3, [])
    seal_records(tmp_path)
    names = {"records.jsonl", "texts/00000003.json.gz"}
    assert read_manifest(tmp_path).run == {name: file_sum(tmp_path / name) for name in names}
    (tmp_path / "manifest.json").unlink()
    with monkeypatch.context() as full:
        full.setattr("pathlib.Path.write_text", raise_full)
        seal_records(tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def raise_full(*_):
    raise OSError(28, "No space left on device")


def test_a_line_of_deep_nesting_is_no_row(tmp_path):
    with RecordWriter(tmp_path / RECORDS_FILE) as writer:
        writer.write(run_row())
    with (tmp_path / RECORDS_FILE).open("a") as file:
        file.write("[" * 100_000 + "\n")
    assert readable_runs(tmp_path) == [run_row()]
