"""Records of a run inside another trainer: the files that ``arrol train`` writes, so that ``arrol view FOLDER`` and
``arrol report FOLDER`` open it, also while it runs.

How a host calls it, in the one process that writes::

    records = HostRecords(folder, host, tokenizer, prefix="arrol.")    # no file yet; host: its HostConfig
    records.begin(HostRun(name, seed, config), step=0)                 # step: the last one of the loaded checkpoint
    ...                                                                # in each training step:
    records.write_groups([RecordedGroup(group, advantage_G, weight_G, left_out_G)], probe_tokens)
    records.write_step(step, metrics)                                  # again with more of them: the last row counts
    records.write_eval(EvalRecord(step=step, ...))                     # where the host evaluates
    records.sync()                                                     # before a checkpoint of that step is written
    records.end("finished")                                            # or "stopped", "failed" with a message

``group.rollouts`` carry what the host knows: token ids, log-probabilities, reward, ``success`` (where it is not read
from the reward), answer, the last decision, ``dropped``; ``group.prompt`` has the text and the gold answer. The step of
a rollout's id is the step of its row. Groups that come later in the same step may count from 0 again.

No method raises: where recording fails, such as on a full disk, it ends with one warning and training goes on. A new
start (``step=0``) in the folder of another run moves that run aside, to ``FOLDER-1``; so does a resumed run where rows
are not as they were at the end (their sums stand in ``manifest.json``). Else a resumed run begins a segment; rows after
its checkpoint's step do not count any more. Methods may be called from several threads.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from arrol.configs.host import HostConfig
from arrol.errors import ArrolError
from arrol.integrations.secrets import hidden_text, hidden_values, hidden_words
from arrol.records.folder import forget_records, moved_aside, seal_records
from arrol.records.groups import RecordedGroup, group_texts, rollout_records
from arrol.records.manifest import run_damage
from arrol.records.pieces import Pieces, TokenTexts
from arrol.records.schema import EndRecord, EvalRecord, RunRecord, StepRecord
from arrol.records.store import RECORDS_FILE, ROLLOUTS_FILE, RecordWriter, provenance, read_records
from arrol.records.texts import TextWriter
from arrol.tasks.columns import USUAL_ANSWER_COLUMNS
from arrol.types import Rollout

logger = logging.getLogger(__name__)

MAX_ANSWER = 2000
"""Characters of an answer, and of the message of a failed run, that are kept."""


@dataclass(frozen=True)
class HostRun:
    """What a host says of its run."""

    name: str
    seed: int
    config: Mapping[str, Any]
    """As of :func:`run_config`; what is no JSON value is written as its text, and secrets are left out."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """Of the host's packages."""
    command: Sequence[str] | None = None
    """``sys.argv`` of the host; None: of this process."""
    gpu: str = ""
    """Name of the device, empty on a CPU."""


def run_config(
    host: HostConfig, *, steps: int, group_size: int, sampling: Mapping[str, Any], rewards: Sequence[str], **more: Any
) -> dict[str, Any]:
    """The resolved config of a record, in the sections of ``arrol train``; ``more`` stands beside them.

    ``sampling`` has ``max_completion_tokens``. ``rewards`` names reward functions whose number is not the success
    itself: then each rollout carries ``success``; empty where the reward tells.
    """
    options = host.model_dump(mode="json")
    own = {name: options.pop(name) for name in ("pruning", "quality", "allocation")}
    kept = {name: options.pop(name) for name in ("keep_records", "keep_texts_mib", "records_dir")}
    return {
        **own,
        "algorithm": {"name": options.pop("algorithm"), **options},
        "records": kept,
        "training": {"steps": steps, "group_size": group_size},
        "sampling": dict(sampling),
        "task": {"reward": list(rewards)},
        **more,
    }


def gold_answer(row: Mapping[str, object]) -> str:
    """Gold answer of a row of data under one of the usual names, as text; empty without one."""
    for name in USUAL_ANSWER_COLUMNS:
        value: object = row
        for part in name.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        if value is not None:
            return shown_answer(value)
    return ""


def shown_answer(value: object) -> str:
    """An answer as text of a bounded length."""
    return str(value)[:MAX_ANSWER]


class HostRecords:
    """See the module."""

    def __init__(
        self, folder: Path, host: HostConfig, tokenizer: TokenTexts | None, *, prefix: str = "", is_on: bool = True
    ) -> None:
        """``prefix`` stands before the names of options in warnings; without ``tokenizer`` no text is kept;
        ``is_on`` is False in processes that do not write."""
        self.folder = folder
        self._limit = round(host.keep_texts_mib * 2**20) if tokenizer is not None else 0
        self._pieces = None if tokenizer is None else Pieces(tokenizer)
        self._prefix, self._may_write = prefix, is_on and host.keep_records
        self._lock = threading.RLock()
        self._files = ExitStack()
        self._run: RunRecord | None = None
        self._ended: RunRecord | None = None
        self._records: RecordWriter
        self._rollouts: RecordWriter
        self._texts: TextWriter
        self._same_step: list[Mapping[str, Any]] = []
        """Texts of the step that was written last."""
        self._written, self._next_group, self._last_step = 0, 0, 0
        self._seconds = 0.0

    @property
    def is_on(self) -> bool:
        """False where nothing is written: not begun, ended, switched off, or failed."""
        return self._run is not None

    def begin(self, run: HostRun | Callable[[], HostRun], step: int) -> None:
        """Open the files and write the row of this run; ``step`` is the last one of the checkpoint, 0 without one."""
        if self._may_write and self._run is None:
            self._guarded(lambda: self._begin(run() if callable(run) else run, step))

    def write_groups(
        self, groups: Sequence[RecordedGroup] | Callable[[], Sequence[RecordedGroup]], probe_tokens: Sequence[int]
    ) -> None:
        """Rows and texts of the groups of a step, or of what ``groups`` returns, which is called only where they are
        written; ``probe_tokens``: probes at which their rollouts were judged. A prompt without text is decoded."""

        def write(run: RunRecord) -> None:
            found = [each for each in (groups() if callable(groups) else groups) if each.group.rollouts]
            if found:
                self._write_groups(found, list(probe_tokens), run)

        self._with_run(write)

    def write_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Metrics of a step, under the keys of ``docs/metrics.md``."""

        def write(run: RunRecord) -> None:
            self._last_step = max(self._last_step, step)
            self._records.write(StepRecord(step=step, segment=run.segment, metrics=dict(metrics)))

        self._with_run(write)

    def write_eval(self, record: EvalRecord) -> None:
        """An evaluation, also one after the end; its segment is set here."""
        if self._ended is not None:
            late = replace(record, segment=self._ended.segment)
            self._guarded(lambda: self._write_late(late))
        self._with_run(lambda run: self._records.write(replace(record, segment=run.segment)))

    def sync(self) -> None:
        """Wait until all rows are on disk."""

        def sync(run: RunRecord) -> None:
            self._records.sync()
            self._rollouts.sync()

        self._with_run(sync)

    def end(self, outcome: str, message: str = "", totals: Mapping[str, float] | None = None) -> None:
        """Write how the run ended, and close the files; a later :meth:`begin` opens a new segment."""

        def write(run: RunRecord) -> None:
            line = hidden_text(" ".join(message.split()))[:MAX_ANSWER]
            row = EndRecord(
                step=self._last_step, segment=run.segment, outcome=outcome, message=line, totals=dict(totals or {})
            )
            self._records.write(row)
            self._run, self._ended = None, run
            self._files.close()
            seal_records(self.folder)

        self._with_run(write)

    def take_seconds(self) -> float:
        """Seconds that recording took since the last call: ``time/record_s``."""
        taken, self._seconds = self._seconds, 0.0
        return taken

    def _with_run(self, act: Callable[[RunRecord], None]) -> None:
        def acting() -> None:
            if self._run is not None:
                act(self._run)

        if self.is_on:
            self._guarded(acting)

    def _guarded(self, act: Callable[[], None]) -> None:
        """Run ``act``; what it raises ends recording with one warning."""
        began = time.monotonic()
        with self._lock:
            try:
                act()
            except Exception as error:  # a record is never worth the training of a host
                self._run, self._ended, self._may_write = None, None, False
                logger.warning(
                    "arrol: recording has stopped, training goes on: %s; %skeep_records False records nothing",
                    self._shown(error), self._prefix,
                )  # fmt: skip
                _close(self._files)
        self._seconds += time.monotonic() - began

    def _shown(self, error: Exception) -> str:
        if isinstance(error, OSError) and not isinstance(error, ArrolError):
            named = f"{self._prefix}records_dir = {str(self.folder)!r}"
            return f"{named}: cannot be written ({error.strerror}); free space or choose another folder"
        return str(error) or type(error).__name__

    def _begin(self, run: HostRun, step: int) -> None:
        previous = self._previous(step)
        words = hidden_words(sys.argv if run.command is None else run.command)
        source = provenance(words, [run.seed], gpu=run.gpu)
        source = replace(source, versions={**source.versions, **run.versions})
        opened = source.run_record(
            name=run.name,
            arm=run.name,
            seed=run.seed,
            config=hidden_values(run.config),
            previous=previous,
            resume_step=step if previous or step else None,
        )
        field_ = f"{self._prefix}records_dir"
        self._files = ExitStack()
        weakref.finalize(self, _close, self._files)  # a host that fails may never call end()
        self._records = self._files.enter_context(RecordWriter(self.folder / RECORDS_FILE, field=field_))
        self._rollouts = self._files.enter_context(RecordWriter(self.folder / ROLLOUTS_FILE, field=field_))
        self._texts = TextWriter(self.folder, self._limit, step=step, option=f"{self._prefix}keep_texts_mib")
        self._records.write(opened)
        self._last_step, self._written, self._same_step = step, 0, []
        self._run, self._ended = opened, None

    def _write_late(self, record: EvalRecord) -> None:
        with RecordWriter(self.folder / RECORDS_FILE, field=f"{self._prefix}records_dir") as writer:
            writer.write(record)
        seal_records(self.folder)

    def _previous(self, step: int) -> RunRecord | None:
        """The run in the folder that this one continues; a run that it does not continue makes room."""
        if not (self.folder / RECORDS_FILE).is_file():
            return None
        for damage in run_damage(self.folder, (RECORDS_FILE, ROLLOUTS_FILE)):
            logger.warning("arrol: %s: %s; it is %s now", self.folder, damage, moved_aside(self.folder))
            return None
        records = read_records(self.folder / RECORDS_FILE)
        runs = [record for record in records if isinstance(record, RunRecord)]
        if step and runs:
            return runs[-1]
        if any(isinstance(record, (StepRecord, EvalRecord)) for record in records):
            logger.warning("arrol: %s has an earlier run; it is %s now", self.folder, moved_aside(self.folder))
        else:
            forget_records(self.folder)
        return None

    def _write_groups(self, groups: Sequence[RecordedGroup], probe_tokens: list[int], run: RunRecord) -> None:
        self._say_probes(probe_tokens)
        step = groups[0].group.rollouts[0].rollout_id.step
        if step != self._written:
            self._written, self._next_group, self._same_step = step, 0, []
        numbers = [each.group.rollouts[0].rollout_id.group for each in groups]
        shift = self._next_group if min(numbers) < self._next_group else 0
        groups = [_renumbered(each, shift) for each in groups] if shift else groups
        self._next_group = shift + max(numbers) + 1
        for each in groups:
            for row in rollout_records(each.group, each.left_out_G, run.segment):
                self._rollouts.write(row)
        if self._pieces is not None and self._limit:
            told = [self._with_prompt(each, self._pieces) for each in groups]
            self._same_step += [group_texts(each, self._pieces, probe_tokens) for each in told]
            self._texts.write(step, self._same_step)

    def _with_prompt(self, recorded: RecordedGroup, pieces: Pieces) -> RecordedGroup:
        group = recorded.group
        if group.prompt.text or not group.prompt.token_ids:
            return recorded
        text = "".join(pieces.of(group.prompt.token_ids))
        return recorded._replace(group=replace(group, prompt=replace(group.prompt, text=text)))

    def _say_probes(self, probe_tokens: list[int]) -> None:
        """Write the row of the run again where its probes were chosen since."""
        assert self._run is not None
        pruning = self._run.section("pruning")
        if probe_tokens != list(pruning.get("probe_tokens", [])):
            config = {**self._run.config, "pruning": {**pruning, "probe_tokens": probe_tokens}}
            self._run = replace(self._run, config=config)
            self._records.write(self._run)


def _close(files: ExitStack) -> None:
    with suppress(ArrolError):  # closing syncs, and may fail again
        files.close()


def _renumbered(recorded: RecordedGroup, shift: int) -> RecordedGroup:
    """The group under a number of its own."""

    def moved(rollout: Rollout) -> Rollout:
        return replace(rollout, rollout_id=rollout.rollout_id._replace(group=rollout.rollout_id.group + shift))

    group = recorded.group
    return recorded._replace(group=replace(group, rollouts=[moved(rollout) for rollout in group.rollouts]))
