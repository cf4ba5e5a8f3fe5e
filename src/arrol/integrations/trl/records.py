"""Rows and texts of a TRL run, for ``arrol view`` and ``arrol report``; see :mod:`arrol.integrations.records`.

A step of the record is a generation batch, or a batch of the asynchronous trainer's worker. Its metrics are arrol's,
and under ``trl/`` the means of what TRL logs until the next batch begins. The main process writes the groups of all
ranks. The phases add up to ``time/step_s``:

* ``time/generate_s``   the rollout function; in the worker, the whole batch
* ``time/verify_s``     reward functions, and TRL's own log-probabilities of the batch
* ``time/estimate_s``   the head's refit
* ``time/learn_s``      until the next batch begins, without evaluation
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from arrol.algorithms.lesson import Lesson
from arrol.configs.host import HostConfig
from arrol.integrations.evaluation import EvaluatedRollout, eval_row
from arrol.integrations.records import HostRecords, HostRun, run_config
from arrol.integrations.trl.batch import RewardedGroup
from arrol.integrations.trl.host import TrainerLike
from arrol.integrations.trl.signal import GroupAdvantages, unweighted
from arrol.records.groups import RecordedGroup
from arrol.records.pieces import TokenTexts
from arrol.types import RolloutGroup

if TYPE_CHECKING:
    from transformers import TrainingArguments
    from trl.experimental.async_grpo import AsyncGRPOConfig

FOLDER = "arrol"
"""Below TRL's ``output_dir``."""


class TrlRecords:
    """Takes what a trainer's batches, logs and evaluations say, and writes it on the main process."""

    def __init__(self, out: HostRecords, run: Callable[[], HostRun]) -> None:
        """``run`` is called when the first batch begins."""
        self._out, self._run = out, run
        self._has_begun = self._has_ended = False
        self._step = 0
        self._metrics: dict[str, float] | None = None
        """Of the batch whose row is not complete; None without one."""
        self._logs: dict[str, list[float]] = {}
        self._clock: dict[str, float] = {}
        self._last = time.monotonic()
        self._judged: dict[str, list[EvaluatedRollout]] = {}
        """Name of an evaluation -> its rollouts, at this step."""
        self._lock = threading.RLock()

    @property
    def has_begun(self) -> bool:
        """A training goes on."""
        return self._has_begun

    def begin(self, done: int) -> None:
        """A training begins, or has begun; ``done`` batches came before it."""
        if not self._has_begun:
            self._has_begun, self._step = True, done
            self._out.begin(self._run, done)
            self._write_eval()

    def begin_batch(self, since: float | None = None) -> None:
        """A training batch begins, or began at ``since``, in seconds of ``time.monotonic``."""
        with self._lock:
            began = time.monotonic() if since is None else since
            self._finish_step(began)
            self._judged, self._logs, self._clock, self._last = {}, {}, {}, began

    def lap(self, phase: str, ended: float | None = None) -> None:
        """A phase of the batch has ended, now or at ``ended``."""
        now = time.monotonic() if ended is None else ended
        self._clock[phase] = self._clock.get(phase, 0.0) + now - self._last
        self._last = now

    def settled(
        self,
        step: int,
        everyone: Sequence[RewardedGroup],
        groups: Callable[[], list[RecordedGroup]],
        metrics: Mapping[str, float],
        probe_tokens: Sequence[int],
    ) -> None:
        """The groups of all ranks are verified and learned from; ``groups`` is called on the main process alone."""
        with self._lock:
            totals = np.concatenate([each.total_G for each in everyone]) if everyone else np.zeros(0)
            mean = math.nan if np.isnan(totals).all() else float(np.nanmean(totals))
            self._step, self._metrics = step, {**metrics, "reward/mean": mean}
            self._out.write_groups(groups, probe_tokens)
            self._last = time.monotonic()

    def log(self, logs: Mapping[str, object]) -> None:
        """What TRL logs while it trains."""
        with self._lock:
            for key, value in logs.items() if self._has_begun else ():
                is_other = key.startswith(("arrol/", "eval_", "train_"))
                if isinstance(value, (int, float)) and not is_other:
                    self._logs.setdefault(f"trl/{key}", []).append(float(value))

    def evaluated(self, judged: Sequence[EvaluatedRollout], metrics: Mapping[str, float]) -> None:
        """An evaluation has ended; those of several data sets at one step are one row."""
        name = next((key for key in metrics if key.endswith("_runtime")), "eval_runtime")
        self._judged[name] = list(judged)
        self._last += float(metrics.get(name, 0.0))  # it is no part of the step
        self._write_eval()

    def save(self) -> None:
        """All rows so far are on disk, with the metrics of the batch that trains."""
        with self._lock:
            if self._metrics is not None:
                self._write_step(time.monotonic())
        self._out.sync()

    def end(self, outcome: str, message: str = "") -> None:
        """The training has ended; the next one begins another segment."""
        with self._lock:
            self._finish_step(time.monotonic())
            self._out.end(outcome, message)
            self._has_ended, self._has_begun = self._has_begun, False

    def end_resumed(self, done: int) -> None:
        """A resumed training has ended; ``done`` batches came before it. Where it was killed behind its last checkpoint
        no batch was left, and nothing has begun here: the record says that the run has finished.
        """
        if not self._has_ended:
            self.begin(done)
            self.end("finished")

    def _finish_step(self, ended: float) -> None:
        if self._metrics is not None:
            self._write_step(ended)
        self._metrics = None

    def _write_step(self, ended: float) -> None:
        assert self._metrics is not None
        self.lap("learn", ended)
        times = {f"time/{phase}_s": seconds for phase, seconds in self._clock.items()}
        logs = {key: float(np.mean(values)) for key, values in self._logs.items()}
        self._metrics["time/record_s"] = self._metrics.get("time/record_s", 0.0) + self._out.take_seconds()
        whole = {"time/step_s": math.fsum(self._clock.values())}
        self._out.write_step(self._step, {**self._metrics, **logs, **times, **whole})

    def _write_eval(self) -> None:
        judged = [one._replace(prompt=f"{name} {one.prompt}") for name, rows in self._judged.items() for one in rows]
        if judged:
            self._out.write_eval(eval_row(judged, self._step))


def trainer_records(host: HostConfig, trainer: TrainerLike) -> TrlRecords:
    """Records of a ``GRPOTrainer``."""

    def run() -> HostRun:
        args, model = trainer.args, trainer.accelerator.unwrap_model(trainer.model)
        sampling = {"max_completion_tokens": trainer.max_completion_length, **_sampling(args)}
        config = run_config(
            host,
            steps=batches_of(trainer, trainer.state.max_steps),
            group_size=trainer.num_generations,
            sampling=sampling,
            rewards=trainer.reward_func_names,
            model=str(getattr(model.config, "name_or_path", "")),
            trl=args.to_dict(),
        )
        return host_run(args, config, trainer.accelerator.device)

    folder, is_main = records_folder(host, trainer.args), trainer.accelerator.is_main_process
    return TrlRecords(HostRecords(folder, host, trainer.processing_class, is_on=is_main), run)


def worker_records(
    host: HostConfig, args: AsyncGRPOConfig, tokenizer: TokenTexts, model: str, rewards: Sequence[str]
) -> TrlRecords:
    """Records of the worker of an ``AsyncGRPOTrainer``, which runs on the main process."""

    def run() -> HostRun:
        sampling = {"max_completion_tokens": args.max_completion_length, **_sampling(args)}
        config = run_config(
            host,
            steps=0,  # how many batches the trainer asks for is not known
            group_size=args.num_generations,
            sampling=sampling,
            rewards=rewards,
            model=model,
            trl=args.to_dict(),
        )
        return host_run(args, config, args.device)

    return TrlRecords(HostRecords(records_folder(host, args), host, tokenizer), run)


def host_run(args: TrainingArguments, config: dict[str, Any], device: torch.device) -> HostRun:
    """What is known of a run of TRL."""
    versions = {name: metadata.version(name) for name in ("trl", "accelerate")}
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    return HostRun(Path(str(args.output_dir)).resolve().name, args.seed, config, versions, gpu=gpu)


def records_folder(host: HostConfig, args: TrainingArguments) -> Path:
    """Folder of the records."""
    return Path(host.records_dir) if host.records_dir else Path(str(args.output_dir)) / FOLDER


def recorded_groups(
    everyone: Sequence[RewardedGroup],
    advantages: Sequence[GroupAdvantages],
    lessons: Sequence[Lesson] | None,
    trls: Sequence[np.ndarray] = (),
) -> list[RecordedGroup]:
    """Groups whose rollouts carry the reward that TRL trains on, and apart from it whether they are right.

    ``trls`` are TRL's own advantages ``[G]``, which train where there are no ``lessons``.
    """
    found = []
    for place, (each, known) in enumerate(zip(everyone, advantages, strict=True)):
        rollouts = [
            replace(
                rollout,
                reward=None if math.isnan(total) else total,
                success=math.nan if rollout.survived and rollout.reward is None else rollout.reward,
            )
            for rollout, total in zip(each.group.rollouts, each.total_G.tolist(), strict=True)
        ]
        reasons = lessons[place].left_out_G if lessons else [""] * len(rollouts)
        told = [
            reason or "unrewarded" * (rollout.survived and rollout.reward is None)
            for reason, rollout in zip(reasons, rollouts, strict=True)
        ]
        advantage_G = unweighted(known) if lessons else trls[place]
        found.append(RecordedGroup(RolloutGroup(each.group.prompt, rollouts), advantage_G, known.weight_G, told))
    return found


def _sampling(args: Any) -> dict[str, Any]:
    return {name: getattr(args, name) for name in ("temperature", "top_p", "top_k")}


def batches_of(trainer: TrainerLike, steps: int) -> int:
    """Generation batches that so many optimizer steps take."""
    args = trainer.args
    microbatches = max(steps, 0) * args.gradient_accumulation_steps
    return -(-microbatches // max(1, int(args.steps_per_generation or 1) * args.num_iterations))
