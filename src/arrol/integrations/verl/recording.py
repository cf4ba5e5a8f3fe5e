"""The service's record of a run: what workers and driver say of a step, written in a thread while verl trains.

Per step, in this order: ``announce`` for each prompt, ``wrote`` for each rollout, ``settled`` when the rewards are
known, ``sampled`` when verl's sampler has chosen the rows that train. One job at a time writes; ``idle`` waits for all
of them, so at most one step is held. What fails ends recording with one warning, and training goes on.

No hook of verl says that training has ended. A run is finished with the validation after its last step, else with the
checkpoint of that step; with neither it has no end row.

A step lasts until the next one or an evaluation begins::

    time/generate_s   from its first prompt to its rewards
    time/estimate_s   the head's refit
    time/learn_s      the rest, verl's checkpoint included
    time/step_s       their sum
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from arrol.configs.host import HostConfig
from arrol.integrations.evaluation import EvaluatedRollout, eval_row
from arrol.integrations.records import HostRecords
from arrol.integrations.verl.options import NAME
from arrol.integrations.verl.plan import RecordPlan
from arrol.integrations.verl.recorded import UNKNOWN, AskedPrompt, SettledGroup, WrittenText, recorded_group
from arrol.records.groups import RecordedGroup
from arrol.types import FinishReason, RolloutId

LATE_S = 10.0
"""How long a job waits for texts under way; Ray may deliver them after the rewards."""


class FolderTokenizer:
    """A tokenizer that is loaded at its first use, in the thread that writes."""

    def __init__(self, path: str, *, trusts_code: bool) -> None:
        """``trusts_code``: verl's own ``trust_remote_code``."""
        self._path, self._trusts_code = path, trusts_code
        self._loaded: Any = None

    def decode(self, token_ids: Sequence[int], /, *, skip_special_tokens: bool = False) -> str:
        """The text of these ids; empty for unknown ones."""
        if UNKNOWN in token_ids:
            return ""
        if self._loaded is None:
            from transformers import AutoTokenizer

            self._loaded = AutoTokenizer.from_pretrained(self._path, trust_remote_code=self._trusts_code)
        return str(self._loaded.decode(list(token_ids), skip_special_tokens=skip_special_tokens))


class Recording:
    """See the module. Every method must run in one event loop."""

    def __init__(self, plan: RecordPlan, host: HostConfig) -> None:
        self._plan, self._threshold = plan, host.success_threshold
        tokenizer = FolderTokenizer(plan.tokenizer, trusts_code=plan.trusts_code)
        self._out = HostRecords(plan.folder, host, tokenizer, prefix=f"{NAME}.")
        self._keeps_texts, self._has_begun = host.keep_texts_mib > 0, False
        self._step = 0
        self._asked: dict[tuple[int, int], AskedPrompt] = {}
        self._written: dict[RolloutId, WrittenText] = {}
        self._settled: list[tuple[SettledGroup, AskedPrompt]] = []
        """Groups whose rows were not chosen yet."""
        self._probe_tokens: list[int] = []
        self._arrived = asyncio.Event()
        """Set when a text arrives."""
        self._clock = StepClock()
        self._metrics: dict[str, float] | None = None
        """Of the step that trains; None before its rows were chosen, and when its last row was written."""
        self._totals: dict[str, float] = {}
        self._record_s = 0.0
        self._judged: list[EvaluatedRollout] = []
        self._judged_at, self._evaluation_began = -1, 0.0
        self._is_last = False
        self._job: asyncio.Task[None] | None = None

    @property
    def wants_texts(self) -> bool:
        """Workers are to send what their rollouts wrote."""
        return self._keeps_texts and (self._out.is_on or not self._has_begun)

    def begin_step(self, step: int) -> None:
        """A batch begins, or a refill of the same step."""
        if self._settled:
            self.sampled(None, {}, {})
        if step != self._step:
            self._finish_step()
            self._step, self._clock = step, StepClock()
            self._asked, self._written = {}, {}

    def announce(self, number: int, asked: AskedPrompt) -> None:
        """A prompt of the step is sampled, as group ``number``."""
        self._asked[self._step, number] = asked

    def wrote(self, rollout_id: RolloutId, text: WrittenText) -> None:
        """What a rollout wrote until its end; too late after its step."""
        if rollout_id.step == self._step and self.wants_texts:
            self._written[rollout_id] = text
            self._arrived.set()

    def settled(self, groups: Sequence[SettledGroup], probe_tokens: Sequence[int], estimate_s: float) -> None:
        """The groups of a step are verified and learned from; ``estimate_s`` is the time of that."""
        unknown = AskedPrompt("", "", "")
        for each in groups:
            address = each.group.rollouts[0].rollout_id[:2]
            self._settled.append((each, self._asked.pop(address, unknown)))
        self._probe_tokens = list(probe_tokens)
        self._clock.verified(estimate_s)

    def sampled(
        self, rows: Sequence[tuple[str, int]] | None, metrics: Mapping[str, float], totals: Mapping[str, float]
    ) -> None:
        """``rows``: uid and rollout of what trains, None where verl did not say; ``totals`` are those of the run."""
        groups, self._settled = self._settled, []
        self._totals = dict(totals)
        kept = None if rows is None else set(rows)
        known = {key: value for key, value in metrics.items() if not key.startswith("total/")}
        known |= _trained_metrics([each for each, _ in groups], [asked.uid for _, asked in groups], kept)
        self._metrics = known
        step, probe_tokens, written = self._step, self._probe_tokens, self._written

        def recorded() -> list[RecordedGroup]:
            return [recorded_group(each, asked, written, kept, scale=self._plan.scale) for each, asked in groups]

        async def job() -> None:
            if self.wants_texts:
                await self._wait_for([each for each, _ in groups], written)
            await self._in_thread(lambda: self._out.write_groups(recorded, probe_tokens))
            self._record_s = self._out.take_seconds()
            await self._in_thread(lambda: self._out.write_step(step, {**known, "time/record_s": self._record_s}))

        self._submit(job)

    def evaluating(self, step: int) -> None:
        """verl begins to validate after ``step``, or goes on to."""
        self._finish_step()
        if self._judged_at != step:
            self._judged, self._judged_at, self._evaluation_began = [], step, time.monotonic()

    def evaluated(self, step: int, scores: Sequence[tuple[str, float, int]]) -> None:
        """uid, score and tokens of the rows of a batch of validation; several batches are one row of the record."""
        threshold = self._threshold
        self._judged += [
            EvaluatedRollout(uid, score, float(score > threshold), tokens) for uid, score, tokens in scores
        ]
        if self._judged:
            seconds = {"time/eval_s": time.monotonic() - self._evaluation_began}
            record = eval_row(self._judged, step, seconds)
            self._submit_write(lambda: self._out.write_eval(record))
        if self._is_last:
            self._end()

    def last_step(self) -> None:
        """verl ends with this step."""
        self._is_last = True

    async def nothing_left(self, totals: Mapping[str, float]) -> None:
        """verl resumes behind its last step, perhaps killed before that was told here: it trains nothing and ends."""
        self._totals = dict(totals)
        self._end()
        await self.idle()

    async def sync(self, *, is_saved: bool) -> None:
        """Wait until all rows so far are on disk. ``is_saved``: verl has written its checkpoint of this step."""
        if is_saved and self._is_last and not self._plan.validates:
            self._finish_step()
            self._end()
        self._submit_write(self._out.sync)
        await self.idle()

    async def idle(self) -> None:
        """Wait until nothing is left to write."""
        if self._job is not None:
            await asyncio.wait([self._job])

    def _finish_step(self) -> None:
        """Write the row of the step again, with its times."""
        if self._metrics is None:
            return
        step, metrics = self._step, {**self._metrics, **self._clock.metrics()}
        self._metrics = None
        self._submit_write(lambda: self._out.write_step(step, {**metrics, "time/record_s": self._record_s}))

    def _end(self) -> None:
        totals = self._totals
        self._submit_write(lambda: self._out.end("finished", totals=totals))

    def _submit_write(self, write: Callable[[], None]) -> None:
        async def job() -> None:
            await self._in_thread(write)

        self._submit(job)

    def _submit(self, act: Callable[[], Any]) -> None:
        """Run ``act`` after all jobs before it."""
        before = self._job

        async def job() -> None:
            if before is not None:
                await asyncio.wait([before])
            await act()

        self._job = asyncio.get_running_loop().create_task(job())

    async def _in_thread(self, write: Callable[[], None]) -> None:
        def opened() -> None:
            if not self._has_begun:
                self._out.begin(self._plan.run, self._plan.step)
                self._has_begun = True
            write()

        await asyncio.to_thread(opened)

    async def _wait_for(self, groups: Sequence[SettledGroup], written: Mapping[RolloutId, WrittenText]) -> None:
        """Wait for the texts of rollouts that ended in their worker; of those that never come the text stays empty."""
        ended = [
            rollout.rollout_id
            for each in groups
            for rollout in each.group.rollouts
            if rollout.completion.finish_reason is FinishReason.PRUNED or rollout.rollout_id.index in each.ends
        ]
        with suppress(TimeoutError):
            async with asyncio.timeout(LATE_S):
                while any(rollout_id not in written for rollout_id in ended):
                    self._arrived.clear()
                    await self._arrived.wait()


class StepClock:
    """Times of a step."""

    def __init__(self) -> None:
        self._began = self._verified = time.monotonic()
        self._estimate_s = 0.0

    def verified(self, estimate_s: float) -> None:
        """The rewards of the step are known, and were learned from in so much time."""
        self._verified, self._estimate_s = time.monotonic(), estimate_s

    def metrics(self) -> dict[str, float]:
        """Of the step, which ends now."""
        phases = {
            "time/generate_s": self._verified - self._began - self._estimate_s,
            "time/estimate_s": self._estimate_s,
            "time/learn_s": time.monotonic() - self._verified,
        }
        return {**phases, "time/step_s": math.fsum(phases.values())}


def _trained_metrics(
    groups: Sequence[SettledGroup], uids: Sequence[str], rows: set[tuple[str, int]] | None
) -> dict[str, float]:
    """Mean reward, and the tokens of the rows that train."""
    known = np.concatenate([each.total_G for each in groups]) if groups else np.zeros(0)
    known = known[~np.isnan(known)]
    found = {"reward/mean": float(known.mean()) if len(known) else math.nan}
    if rows is not None:
        found["tokens/trained"] = float(
            sum(
                rollout.completion.num_tokens
                for each, uid in zip(groups, uids, strict=True)
                for rollout in each.group.rollouts
                if (uid, rollout.rollout_id.index) in rows
            )
        )
    return found
