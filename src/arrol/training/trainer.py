"""The loop, read from top to bottom: sample, verify, estimate, learn, record. One process.

A run is its folder: records, rollouts, checkpoints. Randomness is keyed by (seed, step, ...) and everything that learns
is saved, so a killed and resumed run writes the same metrics as an uninterrupted one, bit for bit on a CPU.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from arrol.algorithms.allocation.allocator import Allocator
from arrol.algorithms.allocation.verdicts import VerdictQueue
from arrol.algorithms.lesson import Lesson, without_unrewarded
from arrol.configs.method import AutoRule, OracleRule
from arrol.configs.run import RunConfig
from arrol.engines.stops import completion_text
from arrol.errors import ArrolError
from arrol.protocols import Engine, PendingVerdict, Sink, Task, TrainingController
from arrol.pruning.controller import PruningController
from arrol.pruning.draws import ORACLE_STREAM, systematic
from arrol.pruning.ledger import Ledger, answer_metrics, sampling_metrics, survivor_metrics
from arrol.pruning.survival import oracle
from arrol.quality.estimator import QualityEstimator
from arrol.records.groups import RecordedGroup, group_texts, rollout_records
from arrol.records.manifest import GrowingSum, Sum
from arrol.records.pieces import Pieces
from arrol.records.schema import EndRecord, EvalRecord, StepRecord
from arrol.records.store import RECORDS_FILE, ROLLOUTS_FILE, RecordWriter
from arrol.records.texts import TextWriter
from arrol.training.checkpoint import (
    Content,
    forget_checkpoints,
    load_optimizer,
    load_state,
    manifest_of,
    reading,
    require_same_config,
    save_checkpoint,
)
from arrol.training.clock import Clock
from arrol.training.details import step_details
from arrol.training.learner import Learner
from arrol.training.shadows import Finisher, Shadow, add_shadows, finish_stopped, shadow_metrics
from arrol.training.signals import step_contributions, step_signals, trained_rewards
from arrol.training.stopping import Interrupted, StopRequest
from arrol.training.trackers import Tracker
from arrol.types import (
    Completion,
    GroupRequest,
    Prompt,
    PruningDecision,
    Reason,
    Rollout,
    RolloutGroup,
    RolloutId,
    SamplingParams,
    State,
)

FREE_FIELDS = frozenset(
    {
        "out_dir",
        "report_to",
        "report_every",
        "device",
        "training.gradient_checkpointing",
        "training.steps",
        "training.checkpoint_every",
        "training.keep_checkpoints",
        "records",
    }
    | {"task.reward_folder", "task.reward_time_limit_s"}
)
"""Fields that a resuming run may change."""


@dataclass
class Parts:
    """The objects that a trainer needs."""

    model: Any
    tokenizer: Any
    task: Task
    engine: Engine
    estimator: QualityEstimator
    controller: TrainingController
    allocator: Allocator
    learner: Learner
    sampling: SamplingParams
    evaluate: Callable[[int, int], EvalRecord]
    """(step, segment) -> one row of the learning curve."""
    sinks: list[Sink] = field(default_factory=list)
    trackers: list[Tracker] = field(default_factory=list)
    """Sinks too, which show completions and histograms every ``report_every`` steps."""
    saved: Any = None
    """What a checkpoint saves: with LoRA the ``PeftModel`` of ``model``; None for the model itself."""


class Trainer:
    """Trains one policy. Nothing is written before ``run``, which may be called once."""

    def __init__(self, config: RunConfig, parts: Parts, folder: Path, *, segment: int = 0) -> None:
        self.config, self.parts, self.folder, self.segment = config, parts, folder, segment
        weights = list(parts.model.parameters())
        self.ledger = Ledger(sum(w.numel() for w in weights), sum(w.numel() for w in weights if not w.requires_grad))
        self.step = 0
        self._stop = StopRequest()
        self._position = 0
        self._unjudged: dict[str, float] = {}
        """Metrics of the last step where its evaluation was given up; it is repeated first."""
        self._saved_step = 0
        self._reward_metrics: dict[str, float] = {}
        self._records: RecordWriter
        self._rollouts: RecordWriter
        self._texts: TextWriter
        self._sums = {name: GrowingSum(folder / name) for name in (RECORDS_FILE, ROLLOUTS_FILE)}
        self._text_sums: Mapping[str, Sum] = {}
        self._pieces = Pieces(parts.tokenizer)

    @property
    def stop_requested(self) -> bool:
        """A signal came: end after this step."""
        return self._stop.is_made

    def resume(self, checkpoint: Path) -> None:
        """Continue after ``checkpoint``; its policy must be in ``parts.model`` already."""
        state, guard = load_state(checkpoint), self.parts.learner.guard
        with reading(checkpoint, "state.json"):
            require_same_config(state["config"], self.config.model_dump(mode="json"), FREE_FIELDS)
            load_optimizer(checkpoint, guard.optimizer, float(state["learning_rate"]))
            self.parts.estimator.load(state["estimator"])
            self._load_sampling_state(state)
            guard.num_skipped, guard.bad_in_a_row = int(state["num_skipped"]), int(state["bad_in_a_row"])
            self.step = self._saved_step = int(state["step"])
            self._unjudged = {key: float(value) for key, value in state.get("unjudged", {}).items()}
        self._text_sums = manifest_of(checkpoint).run

    def run(self) -> EndRecord:
        """Run the steps that are left.

        A first SIGINT or SIGTERM saves and ends the run: an update is finished; sampling and an evaluation are given
        up, and a resumed run repeats them.
        """
        with ExitStack() as closing:
            closing.enter_context(self._stop.watched())  # until the last row is written
            for sink in (*self.parts.sinks, *self.parts.trackers):
                closing.callback(sink.close)
            self._records = closing.enter_context(RecordWriter(self.folder / RECORDS_FILE))
            self._rollouts = closing.enter_context(RecordWriter(self.folder / ROLLOUTS_FILE))
            limit = round(self.config.records.keep_texts_mib * 2**20)
            self._texts = TextWriter(self.folder, limit, step=self.step, sums=self._text_sums)
            try:
                self._all_steps()
            except ArrolError as error:
                with suppress(ArrolError):  # a disk that is full refuses this row too
                    self._end("failed", str(error))
                raise
            is_over = self.step >= self.config.training.steps and not self._unjudged
            return self._end("finished" if is_over else "stopped")

    def _all_steps(self) -> None:
        """Sample, learn, judge, record, save; a request to stop may end the first and the third."""
        try:
            if self.step == 0:
                self._evaluate()
            if self._unjudged:
                self._end_step(self._unjudged)
            while self.step < self.config.training.steps and not self.stop_requested:
                self.step += 1
                self._end_step(self.train_step())
        except Interrupted:
            if self.step > self._saved_step:
                self.save()

    def _end_step(self, metrics: dict[str, float]) -> None:
        """Evaluate and save where it is due, and record."""
        every, evaluation = self.config.training.checkpoint_every, self.config.evaluation
        is_last = self.step == self.config.training.steps
        if is_last or (evaluation.every and self.step % evaluation.every == 0):
            self._unjudged = metrics
            metrics = metrics | self._evaluate()
            self._unjudged = {}
        self._record(metrics)
        if is_last or self.stop_requested or (every and self.step % every == 0):
            self.save()

    def train_step(self) -> dict[str, float]:
        """One step: the whole method in order."""
        clock = Clock()
        groups, metrics, shadows = self._sampled(clock)
        metrics |= shadow_metrics(shadows)
        clock.skip("time/shadow_s" if shadows else "")
        if self.parts.controller.probe_tokens or self.config.quality.judge_ends:
            metrics |= self.parts.estimator.learn(groups)
        if isinstance(self.config.pruning, OracleRule):
            self._drop_by_outcome(groups)
        clock.lap("time/estimate_s")
        lessons = self.parts.allocator.lessons(groups, [trained_rewards(group, self.config) for group in groups])
        lessons = [without_unrewarded(*pair) for pair in zip(lessons, (g.unrewarded_G for g in groups), strict=True)]
        controller = self.parts.controller
        auto = controller.auto if isinstance(controller, PruningController) else None
        learnt = self.parts.learner.update(groups, self.step, lessons, thinning=auto.thinning if auto else None)
        clock.lap("time/learn_s")
        if isinstance(self.config.pruning, AutoRule):
            contributions = step_contributions(groups, step_signals(groups, lessons, self.config), self.config)
            self.parts.controller.learn(groups, contributions)
        metrics |= learnt | survivor_metrics(groups) | self.parts.allocator.metrics() | self.parts.controller.metrics()
        metrics |= self.ledger.learned(scored=int(learnt["tokens/scored"]), trained=int(learnt["tokens/trained"]))
        self.parts.allocator.learn(groups)
        clock.skip()
        self._write_rollouts(groups, lessons, shadows)
        self._write_texts(groups, lessons, shadows)
        clock.skip("time/record_s")
        self._show(groups, lessons)
        return metrics | clock.laps

    def save(self) -> None:
        """A checkpoint of everything that learns; rows of its steps are on disk before it is, and it has their sums."""
        parts, folder = self.parts, self.folder / "checkpoints"
        self._records.sync()
        self._rollouts.sync()
        sums = {name: each.now() for name, each in self._sums.items()} | self._texts.sync()
        saved = Content(parts.saved or parts.model, parts.tokenizer, parts.learner.guard.optimizer, self._state(), sums)
        save_checkpoint(folder, self.step, saved)
        self._saved_step = self.step
        forget_checkpoints(folder, self.config.training.keep_checkpoints, self.step)

    def _state(self) -> State:
        guard = self.parts.learner.guard
        return {
            "config": self.config.model_dump(mode="json"),
            "step": self.step,
            "segment": self.segment,
            "estimator": self.parts.estimator.save(),
            **self._sampling_state(),
            "unjudged": self._unjudged,
            "num_skipped": guard.num_skipped,
            "bad_in_a_row": guard.bad_in_a_row,
            "learning_rate": guard.optimizer.param_groups[0]["lr"],
        }

    def _sampling_state(self) -> State:
        """What changes while a step is sampled."""
        return {
            "position": self._position,
            "controller": self.parts.controller.save(),
            "ledger": self.ledger.save(),
            "allocator": self.parts.allocator.save(),
        }

    def _load_sampling_state(self, state: Mapping[str, Any]) -> None:
        self._position = int(state["position"])
        self.parts.controller.load(state["controller"])
        self.ledger.load(state["ledger"])
        self.parts.allocator.load(state["allocator"])

    def _sampled(self, clock: Clock) -> tuple[list[RolloutGroup], dict[str, float], list[Shadow]]:
        """Groups with their metrics, and stopped rollouts finished aside; a request to stop gives the step up."""
        before = copy.deepcopy(self._sampling_state())
        try:
            with self._stop.gives_up():
                groups = self._sample(clock)
                return groups, self._describe(groups), self._finish_stopped(groups)
        except Interrupted:
            self._load_sampling_state(before)
            self.step -= 1
            raise

    def _sample(self, clock: Clock) -> list[RolloutGroup]:
        """Generated and verified rollouts of all requests of the allocator; verdicts run during generation."""
        parts, allocator = self.parts, self.parts.allocator
        requests = allocator.begin(self.step, self._next_prompt)

        def submit(rollout_id: RolloutId, completion: Completion) -> PendingVerdict:
            text = completion_text(parts.tokenizer, completion.token_ids, parts.sampling.stop)
            return parts.task.submit(allocator.prompt(rollout_id.group), text, completion.token_ids)

        verdicts = VerdictQueue(submit, parts.controller, allocator)

        def more(ended: Sequence[tuple[RolloutId, Completion]]) -> list[GroupRequest]:
            clock.lap("time/generate_s")
            verdicts.add(ended)
            new = verdicts.requests()
            clock.lap("time/verify_s")
            return new

        parts.engine.sync_weights()
        parts.engine.generate(requests, parts.sampling, seed=self.config.seed, controller=parts.controller, more=more)
        clock.lap("time/generate_s")
        verdicts.observe()
        clock.lap("time/verify_s")
        verdicts.tally.require_one(f"step {self.step}")
        self._reward_metrics = verdicts.tally.metrics("reward")
        return allocator.groups()

    def _next_prompt(self) -> Prompt:
        self._position += 1
        return self.parts.task.train_prompt(self._position - 1)

    def _drop_by_outcome(self, groups: Sequence[RolloutGroup]) -> None:
        """Control ``oracle``: everything was generated, now the outcome decides what is trained on."""
        rule = self.config.pruning
        assert isinstance(rule, OracleRule)
        if self.step <= rule.warmup_steps:
            return
        for number, group in enumerate(groups):
            finished = [rollout for rollout in group.survivors if rollout.label is not None]
            right = np.array([rollout.label for rollout in finished], float)
            # One exact-count draw per kind keeps exactly as many of each as the rule says.
            for stratum, kind in enumerate((right > 0, right <= 0)):
                rows = np.flatnonzero(kind)
                survival = oracle(right, rule, rule.keep_ratio)[rows]
                kept = systematic(survival, [self.config.seed, ORACLE_STREAM, self.step, number, stratum])
                for row, probability, keep in zip(rows, survival, kept, strict=True):
                    rollout = finished[row]
                    rollout.dropped = not keep
                    judged = rollout.decision or PruningDecision(rollout.rollout_id, 0, True, 1.0, Reason.OUTCOME)
                    rollout.decision = replace(
                        judged, keep=bool(keep), survival=max(float(probability), 1e-9), reason=Reason.OUTCOME
                    )  # score, quality and version stay the head's: the baseline and the records read them

    def _describe(self, groups: Sequence[RolloutGroup]) -> dict[str, float]:
        """Metrics of the sampled groups, before the oracle drops any."""
        judged = self._reward_metrics or answer_metrics(groups)
        steps = self.parts.engine.decode_steps
        decoded = {"rollout/decode_steps": float(steps)} if steps else {}
        return {**sampling_metrics(groups), **judged, **decoded, **self.ledger.generated(groups)}

    def _finish_stopped(self, groups: Sequence[RolloutGroup]) -> list[Shadow]:
        """A sampled share of the stopped rollouts, finished with the weights that wrote them."""
        share, parts = self.config.records.shadow_share, self.parts
        if not share:
            return []
        by = Finisher(parts.engine, parts.task, parts.tokenizer, parts.sampling, self.config.seed)
        return finish_stopped(groups, share, by)

    def _write_rollouts(
        self, groups: Sequence[RolloutGroup], lessons: Sequence[Lesson], shadows: Sequence[Shadow]
    ) -> None:
        for shadow in shadows:
            self._rollouts.write(shadow.record(self.segment))
        for group, lesson in zip(groups, lessons, strict=True):
            for row in rollout_records(group, lesson.left_out_G, self.segment):
                self._rollouts.write(row)

    def _write_texts(
        self, groups: Sequence[RolloutGroup], lessons: Sequence[Lesson], shadows: Sequence[Shadow]
    ) -> None:
        """Completions, where they are kept."""
        if not self.config.records.keep_texts_mib:
            return
        signals, probes = step_signals(groups, lessons, self.config), self.parts.controller.probe_tokens
        recorded = [
            RecordedGroup(group, signal.advantage_G, signal.weight_G, lesson.left_out_G)
            for group, signal, lesson in zip(groups, signals, lessons, strict=True)
        ]
        texts = [group_texts(each, self._pieces, probes) for each in recorded]
        add_shadows(texts, shadows, self._pieces)
        self._texts.write(self.step, texts)

    def _show(self, groups: Sequence[RolloutGroup], lessons: Sequence[Lesson]) -> None:
        """Completions and histograms for the trackers, where they are due."""
        every, parts = self.config.report_every, self.parts
        if not (parts.trackers and every and (self.step == 1 or self.step % every == 0)):
            return

        def text_of(rollout: Rollout) -> str:
            return completion_text(parts.tokenizer, rollout.completion.token_ids, parts.sampling.stop)

        details = step_details(self.step, groups, step_signals(groups, lessons, self.config), text_of)
        for tracker in parts.trackers:
            tracker.show(details)

    def _evaluate(self) -> dict[str, float]:
        started = time.monotonic()
        with self._stop.gives_up():
            record = self.parts.evaluate(self.step, self.segment)
        self._records.write(record)
        return {"eval/accuracy": record.accuracy, "time/eval_s": time.monotonic() - started, **record.metrics}

    def _record(self, metrics: dict[str, float]) -> None:
        self._records.write(StepRecord(step=self.step, segment=self.segment, metrics=metrics))
        for sink in (*self.parts.trackers, *self.parts.sinks):
            sink.write({"step": self.step, **metrics})

    def _end(self, outcome: str, message: str = "") -> EndRecord:
        totals = {key: float(value) for key, value in self.ledger.totals.items()}
        record = EndRecord(step=self.step, segment=self.segment, outcome=outcome, message=message, totals=totals)
        self._records.write(record)
        return record
