"""Where a command writes: refused before anything is computed, and whole or absent."""

import os

import pytest

from arrol.cli.files import require_place, require_writable, reserved, whole
from arrol.errors import CheckpointError, ConfigError


def test_a_place_is_refused_without_making_anything(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=f"^--out = '{tmp_path}/file/a/b': {tmp_path}/file is a file; choose another"):
        require_place("--out", tmp_path / "file" / "a" / "b")
    require_place("--out", tmp_path / "a" / "b")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError, match=f"nothing can be written in {tmp_path}; choose another folder"):
        require_place("--out", tmp_path / "a")


def test_a_folder_is_made_and_refused(tmp_path, monkeypatch):
    require_writable("--out", tmp_path / "a")
    assert (tmp_path / "a").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be made"):
        require_writable("--out", tmp_path / "file")
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ConfigError, match="nothing can be written there; choose another folder"):
        require_writable("--out", tmp_path / "a")


def test_a_result_has_one_writer(tmp_path):
    path = tmp_path / "a" / "out.jsonl"
    with reserved("--out", path):
        assert path.parent.is_dir()
        with pytest.raises(CheckpointError, match=r"^--out = '.*out.jsonl': process \d+ on "), reserved("--out", path):
            pass
    assert list(tmp_path.iterdir()) == []
    path.parent.mkdir()
    with reserved("--to", path.parent):  # an empty folder may be named
        path.write_text("written")
    for taken in (path, path.parent):
        with pytest.raises(ConfigError, match="exists since a moment ago; choose another"), reserved("--out", taken):
            pass
    assert [each.name for each in path.parent.iterdir()] == ["out.jsonl"]


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_result_is_whole_or_absent(tmp_path, is_folder):
    def write(partial, text):
        if is_folder:
            partial.mkdir()
        (partial / "a" if is_folder else partial).write_text(text)

    target = tmp_path / "result"

    def fail():
        with whole(target) as partial:
            write(partial, "half")
            raise OSError("full")

    with pytest.raises(OSError, match="full"):
        fail()
    assert list(tmp_path.iterdir()) == []
    write(tmp_path / ".partial-result", "left by a crash")
    if is_folder:
        target.mkdir()  # an empty folder may be named
    with whole(target) as partial:
        write(partial, "whole")
    assert (target / "a" if is_folder else target).read_text() == "whole"
    assert [path.name for path in tmp_path.iterdir()] == ["result"]
