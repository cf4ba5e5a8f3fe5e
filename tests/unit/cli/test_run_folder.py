"""A run's folder: what may be resumed, and starts that learned nothing."""

import pytest

from arrol.cli.run_folder import forget_start, has_learned, require_run
from arrol.errors import CheckpointError
from arrol.records.folder import forget_records
from arrol.records.store import read_records


def test_a_resume_needs_a_run(tmp_path, write_run):
    with pytest.raises(CheckpointError) as caught:
        require_run([tmp_path / "a"])
    assert str(caught.value) == (
        f"--resume: {tmp_path / 'a'} holds no run to go on with; {tmp_path} has no run; leave --resume out to start it"
    )
    write_run(tmp_path / "b", "b")
    require_run([tmp_path / "a", tmp_path / "b"])


def test_a_start_that_learned_nothing_is_forgotten(tmp_path, write_run):
    folder = write_run(tmp_path / "a", "a", steps=0)
    assert not has_learned(folder, read_records(folder / "records.jsonl"))
    (folder / "mine.txt").write_text("kept")
    forget_start(folder)
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]
    write_run(folder, "a", steps=1)
    assert has_learned(folder, read_records(folder / "records.jsonl"))
    (folder / "mine.txt").unlink()
    forget_records(folder)
    assert folder.is_dir()
    (folder / "report").mkdir()
    (folder / "report" / "live.html").write_text("of a start that failed")
    (folder / ".lock").touch()
    forget_start(folder)
    forget_start(folder)
    assert not folder.exists()
    checkpoint = folder / "checkpoints" / "step-000001"
    checkpoint.mkdir(parents=True)
    (checkpoint / "state.json").write_text("{}")
    assert has_learned(folder, [])
