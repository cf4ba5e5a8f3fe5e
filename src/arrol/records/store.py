"""Records on disk: provenance, an append-only JSONL writer, a reader that handles crashes and resumes.

Layout::

    RUN/records.jsonl        run, step, eval and end rows
    RUN/rollouts.jsonl       rollout rows
    COMPARISON/<arm>-seed<k>/records.jsonl

After a crash:

1. A torn last line. The reader leaves it out; the next writer completes it with a newline when it is a whole object
   and cuts it off otherwise, so every line but the last is always whole.
2. Rows of steps that a resumed run computes again. The reader keeps, per (kind, step[, group, index]), the newest
   segment, and drops rows of older segments beyond the step where a newer one resumed.

No path of the machine enters a record: paths become relative to the working directory, or keep their last two parts.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import platform
import re
import shlex
import subprocess
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any

from arrol.errors import DataError, MissingExtraError
from arrol.records.lines import LineWriter
from arrol.records.manifest import run_damage
from arrol.records.schema import (
    BenchRecord,
    EndRecord,
    EvalRecord,
    MeritRecord,
    PoolRecord,
    Record,
    RolloutRecord,
    RunRecord,
    ShadowRecord,
    StepRecord,
    VoteRecord,
    decode,
    encode,
)

if TYPE_CHECKING:
    import pandas

RECORDS_FILE = "records.jsonl"
ROLLOUTS_FILE = "rollouts.jsonl"


@dataclass(frozen=True)
class Run:
    """A run as read back: one row per step, also after crashes and resumes."""

    run: RunRecord
    """Row of the newest segment, with ``started_at`` of the first."""
    steps: tuple[StepRecord, ...]
    """Ascending in step, as are the next two."""
    evals: tuple[EvalRecord, ...]
    rollouts: tuple[RolloutRecord, ...]
    end: EndRecord | None
    """None when the newest segment was killed or still runs."""
    folder: Path = Path()
    """The run's folder."""
    shadows: tuple[ShadowRecord, ...] = ()
    """Stopped rollouts that were finished aside."""

    def frame(self) -> pandas.DataFrame:
        """Metrics of the steps, one row each, with the step as index; needs pandas."""
        try:
            import pandas
        except ImportError:
            raise MissingExtraError("frame: pandas is not installed; run: pip install pandas") from None
        rows = [{"step": step.step, **step.metrics} for step in self.steps]
        return pandas.DataFrame(rows, columns=None if rows else ["step"]).set_index("step")


def success_of(run: RunRecord, row: RolloutRecord) -> float | None:
    """What the task says of a rollout apart from its reward: 1 right, 0 wrong, NaN unknown; None: the reward tells.

    JSON has no NaN, so an unknown success is written as null, as is that of a task without reward functions.
    """
    return math.nan if row.success is None and judges_by_function(run) else row.success


def judges_by_function(run: RunRecord) -> bool:
    """Whether reward functions say what is right."""
    return bool(run.section("task").get("reward"))


def success_label(reward: float | None, success: float | None, *, by_function: bool) -> int | None:
    """1 right, 0 wrong, None unknown: of a row's reward and success; ``by_function``: the task has reward functions."""
    told = success if by_function or success is not None else reward
    return None if told is None or reward is None or math.isnan(told) else int(told > 0.5)


@dataclass(frozen=True)
class Provenance:
    """Command, seeds, commit, versions and device of a run."""

    command: str
    seeds: tuple[int, ...]
    commit: str
    dirty: bool
    versions: dict[str, str]
    device: str

    def run_record(
        self,
        *,
        name: str,
        arm: str,
        seed: int,
        config: Mapping[str, Any],
        previous: RunRecord | None = None,
        resume_step: int | None = None,
    ) -> RunRecord:
        """The row that opens a segment; ``previous`` is the last one of the run that is resumed."""
        return RunRecord(
            run_id=previous.run_id if previous else uuid.uuid4().hex[:12],
            name=name,
            arm=arm,
            seed=seed,
            command=self.command,
            commit=self.commit,
            dirty=self.dirty,
            versions=self.versions,
            device=self.device,
            config=portable(dict(config)),
            started_at=datetime.now(UTC).isoformat(timespec="seconds"),
            segment=previous.segment + 1 if previous else 0,
            resume_step=resume_step,
        )


def provenance(command: Sequence[str], seeds: Sequence[int] = (), *, gpu: str = "") -> Provenance:
    """Provenance of this process. ``command`` is ``sys.argv``; ``gpu`` is the device's name; no torch is loaded."""
    commit, dirty = _commit()
    versions = {name: _version(name) for name in ("arrol", "torch", "transformers", "numpy")}
    versions["python"] = platform.python_version()
    return Provenance(portable_command(command), tuple(seeds), commit, dirty, versions, device_text(gpu))


def portable_command(command: Sequence[str]) -> str:
    """``sys.argv`` as typed: ``arrol ...``, or ``python FILE ...`` for another script."""
    words = [str(word) for word in command]
    program = Path(words[0]).name if words else "arrol"
    is_script = program.endswith(".py") and program not in ("main.py", "__main__.py")
    head = ["python", portable_path(words[0])] if is_script else ["arrol"]
    return shlex.join(head + [_portable_word(word) for word in words[1:]])


def portable(value: Any) -> Any:
    """The same JSON value with every absolute path in it made portable."""
    if isinstance(value, (str, Path)):
        return portable_path(str(value))
    if isinstance(value, Mapping):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [portable(item) for item in value]
    return value


def portable_path(text: str) -> str:
    """An absolute path of two or more parts, relative to the working directory or else its last two parts."""
    if "\n" in text or "://" in text:
        return text
    path = PureWindowsPath(text) if re.match(r"[A-Za-z]:[\\/]", text) else PurePosixPath(text)
    if not path.is_absolute() or len(path.parts) < 3:
        return text
    for base in (Path.cwd(), Path.cwd().resolve()):
        if path.is_relative_to(base):
            return path.relative_to(base).as_posix()
    return "/".join(path.parts[-2:]) if len(path.parts) > 3 else path.name


def device_text(gpu: str = "") -> str:
    """CPU model, usable cores, memory and GPU in words, such as ``AMD EPYC 7B13, 2 cores, 7.8 GiB``."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    parts = [_cpu_model(), f"{cores} core{'s' * (cores != 1)}"]
    with contextlib.suppress(AttributeError, ValueError, OSError):  # not every system tells
        parts.append(f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB")
    return ", ".join(parts + [gpu] * bool(gpu))


class RecordWriter(LineWriter):
    """Appends records to a JSONL file, one whole line per write, on disk at :meth:`close`."""

    def __init__(self, path: str | Path, named: str | Path | None = None, *, field: str = "records") -> None:
        """``named`` is the path that an error names, where the file has another name until it is whole; ``field`` is
        the option that chose the folder."""
        super().__init__(path, _is_record, field=field, shown=str(named or path))

    def write(self, record: Record) -> None:
        """Append one row; when the disk refuses, the file keeps the rows it had."""
        self.write_line(json.dumps(encode(record), allow_nan=False).encode())


def _is_record(line: bytes) -> bool:
    try:
        decode(json.loads(line))
    except (ValueError, RecursionError):  # half an object; DataError is a ValueError too
        return False
    return True


def read_records(path: str | Path) -> list[Record]:
    """Current rows of a file, in the order written; a torn last line is left out."""
    return current_records(list(_decoded_lines(Path(path))))


def current_records(records: Sequence[Record]) -> list[Record]:
    """The records without the rows that a later segment computed again (point 2 above)."""
    limits = segment_limits(records)
    newest: dict[tuple[object, ...], tuple[int, Record]] = {}
    for position, record in enumerate(records):
        key, segment = _key(record, position), getattr(record, "segment", 0)
        if getattr(record, "step", 0) > limits[segment]:
            continue
        held = newest.get(key)
        if held is None or getattr(held[1], "segment", 0) <= segment:
            newest[key] = (position, record)
    return [record for _, record in sorted(newest.values(), key=lambda item: item[0])]


def segment_limits(records: Sequence[Record]) -> dict[int, float]:
    """Segment -> the last of its steps that no later segment computed again."""
    resumed_at = _resume_steps(records)
    return {
        segment: min((step for newer, step in resumed_at.items() if newer > segment), default=math.inf)
        for segment in {getattr(record, "segment", 0) for record in records}
    }


def read_run(path: str | Path) -> Run:
    """The run of a folder, or of the records file in it; DataError where its manifest tells that rows are damaged or
    missing."""
    folder = Path(path).parent if Path(path).name == RECORDS_FILE else Path(path)
    for line in run_damage(folder, [name for name in (RECORDS_FILE, ROLLOUTS_FILE) if (folder / name).is_file()]):
        raise DataError(f"records = {str(folder)!r}: {line}, as its manifest.json says; copy that file back")
    records = list(_decoded_lines(folder / RECORDS_FILE))
    if (folder / ROLLOUTS_FILE).is_file():
        records += _decoded_lines(folder / ROLLOUTS_FILE)
    runs = sorted((record for record in records if isinstance(record, RunRecord)), key=lambda run: run.segment)
    if not runs:
        shown = str(folder / RECORDS_FILE)
        raise DataError(f"records = {shown!r}: holds no run row; give the folder that arrol train wrote")
    records = current_records(records)
    ends = [record for record in records if isinstance(record, EndRecord) and record.segment == runs[-1].segment]
    return Run(
        run=RunRecord(**{**vars(runs[-1]), "started_at": runs[0].started_at}),
        steps=tuple(sorted((r for r in records if isinstance(r, StepRecord)), key=lambda r: r.step)),
        evals=tuple(sorted((r for r in records if isinstance(r, EvalRecord)), key=lambda r: r.step)),
        rollouts=tuple(
            sorted((r for r in records if isinstance(r, RolloutRecord)), key=lambda r: (r.step, r.group, r.index))
        ),
        end=ends[-1] if ends else None,
        folder=folder,
        shadows=tuple(r for r in records if isinstance(r, ShadowRecord)),
    )


def find_runs(paths: Iterable[str | Path]) -> list[Path]:
    """Run folders among and below the given folders and records files, each once; DataError when a path has none."""
    found: dict[Path, Path] = {}
    for path in map(Path, paths):
        folder = path.parent if path.name == RECORDS_FILE else path
        if (folder / RECORDS_FILE).is_file():
            runs = [folder]
        else:
            runs = sorted(child.parent for child in folder.glob(f"*/{RECORDS_FILE}"))
        if not runs:
            what = (
                "is a file" if folder.is_file() else "holds no records.jsonl" if folder.is_dir() else "no such folder"
            )
            raise DataError(
                f"run = {str(path)!r}: {what}; give a folder that arrol train or compare wrote, or the output folder "
                "of TRL or verl"
            )
        for run in runs:
            found.setdefault(run.resolve(), run)
    if not found:
        raise DataError(
            "run = (nothing): no folder given; give one that arrol train or compare wrote, or the output folder of "
            "TRL or verl"
        )
    return list(found.values())


def _decoded_lines(path: Path) -> Iterator[Record]:
    shown = str(path)
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"records = {shown!r}: cannot be read ({error.strerror}); give a run folder") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            if number == len(lines):  # no newline after it: torn by a crash
                return
            raise DataError(f"records = {shown!r}: line {number} is not JSON; mend or remove that line") from None
        try:
            yield decode(row)
        except DataError as error:
            raise DataError(f"records = {shown!r}, line {number}: {error}") from None


def _resume_steps(records: Sequence[Record]) -> dict[int, int]:
    """Segment after the first -> the step it continued from: as recorded, else from its first row."""
    steps: dict[int, int] = {}
    kind = StepRecord if any(isinstance(record, StepRecord) for record in records) else RolloutRecord
    for record in records:
        if isinstance(record, kind) and record.segment > 0:
            steps[record.segment] = min(steps.get(record.segment, record.step - 1), record.step - 1)
    for record in records:
        if isinstance(record, RunRecord) and record.segment > 0 and record.resume_step is not None:
            steps[record.segment] = record.resume_step
    return steps


def _key(record: Record, position: int) -> tuple[object, ...]:
    if isinstance(record, (RolloutRecord, ShadowRecord)):
        return (record.kind, record.step, record.group, record.index)
    if isinstance(record, RunRecord):
        return (record.kind, record.segment)
    if isinstance(record, (BenchRecord, VoteRecord, PoolRecord, MeritRecord)):
        return (record.kind, position)
    return (record.kind, record.step)


def _portable_word(word: str) -> str:
    flag, equals, value = word.partition("=")
    return flag + equals + portable_path(value) if equals and flag.startswith("-") else portable_path(word)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _commit() -> tuple[str, bool]:
    """Commit of the checkout this file is tracked in, and whether it differs; else of the wheel; else unknown."""
    source = Path(__file__).resolve()
    tracked = _git(source.parent, "ls-files", "--error-unmatch", "--", source.name)
    commit = _git(source.parent, "rev-parse", "HEAD") if tracked else None
    if commit:
        package = str(source.parents[1])
        changed = _git(source.parent, "status", "--porcelain", "--untracked-files=no")
        added = _git(source.parent, "status", "--porcelain", "--", package)
        return commit, changed != "" or added != ""
    try:
        origin = json.loads(metadata.distribution("arrol").read_text("direct_url.json") or "{}")
        return str(origin["vcs_info"]["commit_id"]), False
    except (metadata.PackageNotFoundError, ValueError, KeyError, TypeError):
        return "unknown", True


def _git(folder: Path, *words: str) -> str | None:
    """Output of a git command run in ``folder``, None when there is no git or it refuses."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", *words], cwd=folder, env=environment, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines():
            if line.lower().startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    except OSError:
        pass  # not Linux
    return platform.processor() or platform.machine() or "unknown CPU"
