"""What is written comes back: after crashes, after resumes, on a full disk, without a path of the machine."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import arrol.records.store as store
from arrol.errors import DataError, MissingExtraError
from arrol.records.schema import BenchRecord, EndRecord, EvalRecord, RolloutRecord, RunRecord, StepRecord
from arrol.records.store import (
    RecordWriter,
    current_records,
    find_runs,
    read_records,
    read_run,
)


def run_row(segment: int = 0, *, resume_step: int | None = None, **changes: object) -> RunRecord:
    row = RunRecord(
        run_id="r",
        name="n",
        arm="grpo",
        seed=0,
        command="arrol train",
        commit="c",
        dirty=False,
        versions={},
        device="d",
        config={},
        started_at=f"2026-01-01T0{segment}:00:00+00:00",
        segment=segment,
        resume_step=resume_step,
    )
    return dataclasses.replace(row, **changes)


def step_row(step: int, segment: int = 0) -> StepRecord:
    return StepRecord(step=step, segment=segment, metrics={"x": float(100 * segment + step)})


def eval_row(step: int, segment: int = 0) -> EvalRecord:
    return EvalRecord(step=step, segment=segment, accuracy=0.5, low=0.4, high=0.6, num_prompts=10, samples_per_prompt=1)


def rollout_row(step: int, group: int, index: int, segment: int = 0) -> RolloutRecord:
    return RolloutRecord(
        step=step,
        segment=segment,
        group=group,
        index=index,
        prompt_key="p",
        level=0,
        finish_reason="stop",
        completion_tokens=3,
        reward=1.0,
        score=0.0,
        quality=0.5,
        survival=1.0,
        reason="draw",
        keep=True,
    )


def write(path: Path, *records) -> Path:
    with RecordWriter(path) as writer:
        for record in records:
            writer.write(record)
    return path


def places(records) -> list[tuple[str, int, int]]:
    return [(record.kind, record.step, record.segment) for record in records if not isinstance(record, RunRecord)]


class TestWriter:
    def test_rows_come_back_in_order(self, tmp_path):
        rows = [run_row(), eval_row(0), step_row(1), step_row(2)]
        assert read_records(write(tmp_path / "deep" / "records.jsonl", *rows)) == rows

    def test_each_row_is_in_the_file_before_the_next(self, tmp_path):
        writer = RecordWriter(tmp_path / "r.jsonl")
        for count in (1, 2, 3):
            writer.write(step_row(count))
            assert len((tmp_path / "r.jsonl").read_bytes().splitlines()) == count
        writer.sync()
        writer.close()
        writer.close()

    def test_a_second_writer_appends(self, tmp_path):
        path = write(tmp_path / "r.jsonl", step_row(1))
        before = path.read_bytes()
        write(path, step_row(2))
        assert path.read_bytes().startswith(before)
        assert places(read_records(path)) == [("step", 1, 0), ("step", 2, 0)]

    def test_rows_are_ascii_lines_without_nan(self, tmp_path):
        path = write(tmp_path / "r.jsonl", dataclasses.replace(run_row(), name="\u00fcber\n"), step_row(1))
        assert path.read_bytes().isascii()
        assert [json.loads(line)["kind"] for line in path.read_text().splitlines()] == ["run", "step"]

    def test_closes_after_an_error(self, tmp_path):
        with pytest.raises(KeyError), RecordWriter(tmp_path / "r.jsonl") as writer:
            raise KeyError
        with pytest.raises(ValueError, match="closed"):
            writer.write(step_row(1))

    def test_a_folder_in_the_way_is_a_one_line_error(self, tmp_path):
        (tmp_path / "r.jsonl").mkdir()
        with pytest.raises(DataError, match=r"records = '.*r\.jsonl': cannot be written \(Is a directory\)"):
            RecordWriter(tmp_path / "r.jsonl")

    @pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
    def test_full_disk_is_a_one_line_error(self, tmp_path):
        writer = RecordWriter(tmp_path / "r.jsonl")
        writer.write(step_row(1))
        good = writer._file
        writer._file = FullAfter(good, room=20)
        with pytest.raises(DataError, match="No space left on device"):
            writer.write(step_row(2))
        writer._file = good
        writer.close()
        assert places(read_records(tmp_path / "r.jsonl")) == [("step", 1, 0)]

    def test_failed_sync_is_a_one_line_error(self, tmp_path, monkeypatch):
        def refuse(_: int) -> None:
            raise OSError(28, "No space left on device")

        writer = RecordWriter(tmp_path / "r.jsonl")
        monkeypatch.setattr(os, "fsync", refuse)
        with pytest.raises(DataError, match="No space left"):
            writer.close()
        assert writer._file.closed


class FullAfter:
    """A file on a disk with ``room`` bytes left."""

    def __init__(self, file, room: int) -> None:
        self._file, self._room = file, room

    def write(self, data: bytes) -> int:
        if not self._room:
            raise OSError(28, "No space left on device")
        taken, self._room = self._file.write(data[: self._room]), 0
        return taken

    def __getattr__(self, name: str):
        return getattr(self._file, name)


class TestTornLines:
    def test_a_torn_last_line_is_left_out(self, tmp_path):
        path = write(tmp_path / "r.jsonl", step_row(1), step_row(2))
        whole = path.read_bytes()
        first = whole.index(b"\n") + 1
        for end in range(first, len(whole) - 1):  # a crash at every byte of the second line
            path.write_bytes(whole[:end])
            assert places(read_records(path)) == [("step", 1, 0)]

    def test_the_next_writer_removes_half_an_object(self, tmp_path):
        path = write(tmp_path / "r.jsonl", step_row(1))
        path.write_bytes(path.read_bytes() + b'{"kind": "step", "st')
        write(path, step_row(2))
        assert places(read_records(path)) == [("step", 1, 0), ("step", 2, 0)]
        assert path.read_bytes().count(b"\n") == 2

    def test_the_next_writer_ends_a_whole_object(self, tmp_path):
        path = write(tmp_path / "r.jsonl", step_row(1), step_row(2))
        path.write_bytes(path.read_bytes()[:-1])
        assert len(read_records(path)) == 2
        write(path, step_row(3))
        assert places(read_records(path)) == [("step", 1, 0), ("step", 2, 0), ("step", 3, 0)]

    @pytest.mark.parametrize("torn", [b"1", b"\x00" * 4096, b"\xff\xfe", b'"' + b"x" * 200_000])
    def test_any_debris_is_mended(self, tmp_path, torn):
        path = write(tmp_path / "r.jsonl", step_row(1))
        path.write_bytes(path.read_bytes() + torn)
        write(path, step_row(2))
        assert places(read_records(path)) == [("step", 1, 0), ("step", 2, 0)]

    def test_a_file_of_debris_only(self, tmp_path):
        path = tmp_path / "r.jsonl"
        path.write_bytes(b'{"kind"')
        assert read_records(path) == []
        write(path, step_row(1))
        assert places(read_records(path)) == [("step", 1, 0)]

    @pytest.mark.parametrize("damage", [b"{oops", b"[" * 100_000], ids=["torn", "deep"])
    def test_damage_before_the_end_is_an_error_with_its_line(self, tmp_path, damage):
        path = write(tmp_path / "r.jsonl", step_row(1))
        path.write_bytes(damage + b"\n" + path.read_bytes())
        with pytest.raises(DataError, match=r"r\.jsonl': line 1 is not JSON"):
            read_records(path)

    def test_a_bad_row_is_an_error_with_its_line(self, tmp_path):
        path = write(tmp_path / "r.jsonl", step_row(1))
        path.write_bytes(path.read_bytes() + b'{"kind": "step", "step": 1, "segment": 0}\n')
        with pytest.raises(DataError, match=r"line 2: step\.metrics: missing field"):
            read_records(path)

    def test_killed_while_writing(self, tmp_path):
        """A real process, killed at an arbitrary moment: whole rows, consecutive, at most the tail is lost."""
        path = tmp_path / "r.jsonl"
        code = (
            "import sys; from arrol.records.store import RecordWriter; from arrol.records.schema import StepRecord\n"
            "writer = RecordWriter(sys.argv[1]); print('ready', flush=True); step = 0\n"
            "while True:\n    step += 1; writer.write(StepRecord(step=step, metrics={'x': 1.0}))\n"
        )
        environment = {**os.environ, "PYTHONPATH": str(Path(store.__file__).parents[2])}
        child = subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE, env=environment)
        with child:
            assert child.stdout.readline() == b"ready\n"
            while not path.stat().st_size:
                assert child.poll() is None
            child.kill()
        count = len(read_records(path))
        assert [record.step for record in read_records(path)] == list(range(1, count + 1))
        write(path, step_row(count + 1))
        assert len(read_records(path)) == count + 1

    def test_missing_file(self, tmp_path):
        with pytest.raises(DataError, match="cannot be read"):
            read_records(tmp_path / "none.jsonl")


class TestSegments:
    def test_the_newest_segment_of_a_step_wins(self):
        rows = [run_row(), *map(step_row, (1, 2, 3)), run_row(1), step_row(3, 1), step_row(4, 1)]
        assert places(current_records(rows)) == [("step", 1, 0), ("step", 2, 0), ("step", 3, 1), ("step", 4, 1)]

    def test_rows_beyond_the_resume_step_go_even_when_not_computed_again(self):
        # Killed after step 9, resumed from the checkpoint of step 4, killed again after step 5.
        rows = [run_row(), *map(step_row, range(1, 10)), eval_row(8), run_row(1), step_row(5, 1)]
        assert places(current_records(rows)) == [("step", step, 0) for step in range(1, 5)] + [("step", 5, 1)]

    def test_a_declared_resume_step_needs_no_rows(self):
        rows = [run_row(), *map(step_row, range(1, 6)), run_row(1, resume_step=2)]
        assert places(current_records(rows)) == [("step", 1, 0), ("step", 2, 0)]

    def test_a_segment_that_wrote_nothing_drops_nothing(self):
        rows = [run_row(), step_row(1), eval_row(1), run_row(1)]
        assert places(current_records(rows)) == [("step", 1, 0), ("eval", 1, 0)]

    def test_evaluating_again_at_the_resume_step_keeps_that_step(self):
        rows = [run_row(), step_row(1), step_row(2), eval_row(2), run_row(1), eval_row(2, 1), step_row(3, 1)]
        assert places(current_records(rows)) == [("step", 1, 0), ("step", 2, 0), ("eval", 2, 1), ("step", 3, 1)]

    def test_each_resume_cuts_all_older_segments(self):
        # Segment 1 resumed at 4, segment 2 went back to 2: nothing beyond 2 of either counts.
        rows = [run_row(), *map(step_row, range(1, 7)), run_row(1), step_row(5, 1), run_row(2), step_row(3, 2)]
        assert places(current_records(rows)) == [("step", 1, 0), ("step", 2, 0), ("step", 3, 2)]

    def test_rollouts_are_told_apart_by_group_and_index(self, tmp_path):
        rows = [rollout_row(1, group, index) for group in (0, 1) for index in (0, 1)]
        again = [rollout_row(2, 0, 0), rollout_row(2, 0, 0, segment=1)]
        path = write(tmp_path / "rollouts.jsonl", *rows, *again)
        assert places(read_records(path)) == [("rollout", 1, 0)] * 4 + [("rollout", 2, 1)]

    def test_bench_rows_are_all_kept(self):
        bench = BenchRecord(benchmark="b", variant="v", unit="s", median=1, p20=1, p80=1, repeats=1)
        assert current_records([bench, bench]) == [bench, bench]


class TestLoading:
    def test_a_run_with_everything(self, tmp_path):
        write(tmp_path / "records.jsonl", run_row(), eval_row(0), step_row(1), EndRecord(step=1, outcome="finished"))
        write(tmp_path / "rollouts.jsonl", rollout_row(1, 0, 1), rollout_row(1, 0, 0))
        for path in (tmp_path, str(tmp_path), tmp_path / "records.jsonl"):
            run = read_run(path)
            assert run.run == run_row()
            assert (run.steps, run.evals) == ((step_row(1),), (eval_row(0),))
            assert [rollout.index for rollout in run.rollouts] == [0, 1]
            assert run.end.outcome == "finished"

    def test_steps_decide_which_rollouts_count(self, tmp_path):
        # Rollouts are kept of every tenth step only: their own rows cannot tell that step 10 was computed again.
        write(tmp_path / "records.jsonl", run_row(), *map(step_row, range(1, 11)), run_row(1), step_row(9, 1))
        write(tmp_path / "rollouts.jsonl", rollout_row(1, 0, 0), rollout_row(10, 0, 0))
        run = read_run(tmp_path)
        assert [rollout.step for rollout in run.rollouts] == [1]
        assert [step.step for step in run.steps] == list(range(1, 10))

    def test_resumed_run_shows_its_newest_provenance_and_first_start(self, tmp_path):
        write(
            tmp_path / "records.jsonl",
            run_row(commit="old"),
            EndRecord(step=1, outcome="stopped"),
            run_row(1, commit="new"),
        )
        run = read_run(tmp_path)
        assert (run.run.commit, run.run.started_at) == ("new", "2026-01-01T00:00:00+00:00")
        assert run.end is None  # the end of segment 0 is not the end of the run

    def test_a_file_without_a_run_row(self, tmp_path):
        write(tmp_path / "records.jsonl", step_row(1))
        with pytest.raises(DataError, match="holds no run row"):
            read_run(tmp_path)

    def test_runs_are_found_once_in_any_form(self, tmp_path):
        for name in ("grpo-seed0", "balanced-seed0"):
            write(tmp_path / "compare" / name / "records.jsonl", run_row())
        write(tmp_path / "single" / "records.jsonl", run_row())
        (tmp_path / "compare" / "comparison.json").write_text("{}")
        found = find_runs([tmp_path / "single", tmp_path / "compare", tmp_path / "compare" / "grpo-seed0"])
        assert [path.name for path in found] == ["single", "balanced-seed0", "grpo-seed0"]
        assert find_runs([tmp_path / "single" / "records.jsonl"]) == [tmp_path / "single"]

    def test_nothing_found(self, tmp_path):
        with pytest.raises(DataError, match=r"holds no records\.jsonl"):
            find_runs([tmp_path])
        with pytest.raises(DataError, match="no such folder"):
            find_runs([tmp_path / "none"])
        with pytest.raises(DataError, match="no folder given"):
            find_runs([])


def test_the_steps_of_a_run_as_a_data_frame(tmp_path):
    with RecordWriter(tmp_path / "records.jsonl") as writer:
        for row in (run_row(), step_row(1), step_row(2)):
            writer.write(row)
    frame = read_run(tmp_path).frame()
    assert list(frame.index) == [1, 2]
    assert list(frame["x"]) == [1.0, 2.0]


def test_a_run_without_a_step_is_an_empty_frame(tmp_path):
    with RecordWriter(tmp_path / "records.jsonl") as writer:
        writer.write(run_row())
    assert len(read_run(tmp_path).frame()) == 0


def test_without_pandas_the_frame_says_what_to_install(tmp_path, monkeypatch):
    with RecordWriter(tmp_path / "records.jsonl") as writer:
        writer.write(run_row())
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtraError, match=r"^frame: pandas is not installed; run: pip install pandas$"):
        read_run(tmp_path).frame()
