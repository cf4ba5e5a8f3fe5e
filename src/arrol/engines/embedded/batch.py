"""One call of ``generate``: refill, decode, probe, sample, collect.

One decode step feeds the last token of every live row and gives its hidden state. In this order: rows that have now
been fed ``probe_tokens`` completion tokens are shown to the controller, and the rows it stops leave; the others get
their next token; rows that ended leave; the last rows move into the holes, the caller may ask for more, and waiting
rollouts take the free rows.

A stopped completion has ``probe_tokens`` tokens, or more when it waited for siblings. A rollout that ends at or before
the probe is never shown.

When memory runs out, the batch goes on with fewer rows. The last rows are suspended: their rollouts return to the front
of the queue with their tokens, which are prefilled again when a row is free. Legend: ``S`` rows, ``C`` candidates,
``D`` hidden size, ``V`` vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from arrol.engines.asked import Asked, report_ends
from arrol.engines.embedded.cache import columns_for
from arrol.engines.embedded.line import Line
from arrol.engines.embedded.memory import GIB, RanOut
from arrol.engines.embedded.own_cache import OwnCache
from arrol.engines.embedded.rows import Rows, Suspended
from arrol.engines.embedded.sampling import sample
from arrol.engines.stops import stops_of
from arrol.errors import ConfigError, ModelError
from arrol.protocols import Controller, More
from arrol.quality.features import END
from arrol.types import FinishReason, GroupRequest, ProbeEvent, RolloutId, SamplingParams

if TYPE_CHECKING:
    from arrol.engines.embedded.engine import EmbeddedEngine

PROMPT_SHARE = 0.25
"""Most of the cache's memory that one prefill pass may take."""
logger = logging.getLogger(__name__)


class Batch:
    """The state of one ``generate`` call."""

    def __init__(
        self,
        engine: EmbeddedEngine,
        requests: Sequence[GroupRequest],
        params: SamplingParams,
        seed: int,
        controller: Controller | None,
        more: More | None,
    ) -> None:
        self.engine, self.params, self.controller = engine, params, controller
        self.probes = controller.probe_tokens if controller else ()
        if self.probes and engine.layout is None:
            raise ModelError("engine.layout = None: a controller with probes reads features; give their FeatureLayout")
        self.cache, self._tokens = engine.begin()
        prefill_tokens = min(engine.config.prefill_tokens, int(PROMPT_SHARE * self._tokens))
        self.cache.most_tokens = self._tokens - prefill_tokens
        self.line = Line(engine.prefill, prefill_tokens)
        self.keeps_sums = bool(self.probes) or engine.shows_ends
        hidden_size = engine.layout.hidden_size if self.keeps_sums and engine.layout else 0
        self.rows = Rows(seed, params.max_completion_tokens, hidden_size, engine.device)
        self._suspended: dict[RolloutId, Suspended] = {}
        self._width = self._sampled_rows = 0
        self._stop_ids = torch.tensor(params.stop_token_ids, dtype=torch.long, device=engine.device)
        self._stops = stops_of(params, engine.tokenizer)
        self.asked = Asked(requests, controller=controller, more=more)
        self._add(requests)

    @property
    def has_work(self) -> bool:
        return bool(self.line or self.rows.live)

    def advance(self) -> None:
        """Fill free rows, decode one step, then queue what the caller asks for."""
        self._refill()
        if self.rows.live:
            self.engine.decode_steps += 1
            self._decode()
        with torch.inference_mode(False):  # the caller may compute gradients
            new = self.asked.ask()
        if new:
            self._add(new)

    def _add(self, requests: Sequence[GroupRequest]) -> None:
        self.line.add(requests)
        longest = max((len(request.prompt.token_ids) for request in requests), default=0)
        self._width = max(self._width, columns_for(longest + self.params.max_completion_tokens))
        config, fitting = self.engine.config, self.cache.most_tokens // self._width
        if not fitting and config.cache_gib != "auto":
            needed = self._width * self.cache.bytes_per_token / (1 - PROMPT_SHARE) / GIB
            raise ConfigError(
                f"engine.cache_gib = {config.cache_gib:g}: one rollout of {self._width} tokens needs {needed:.3g} GiB; "
                "raise it, or lower sampling.max_completion_tokens"
            )
        self._limit = max(1, min(self.engine.most_rows, fitting))
        if config.cache_gib == "auto" and self._limit < min(self.engine.most_rows, len(self.line)):
            self.engine.say_rows(self._limit, self._width)

    def _refill(self) -> None:
        """Waiting rollouts take the free rows; siblings follow each other, so a prompt is prefilled shortly before."""
        if isinstance(self.cache, OwnCache):
            return self._begin_pass(self.cache)
        first = len(self.rows)
        while self.line and len(self.rows) < self._limit:
            start = len(self.rows)
            with RanOut() as prefill_ran_out:
                width = self.line.prefill()
            if prefill_ran_out:
                if not self.line.shrink():
                    self._lower(start)
                continue
            wanted = min(self._limit, start + len(self.line))
            with RanOut() as ran_out:
                self.cache.reserve(wanted, width)
                self.rows.reserve(wanted, 1)
            if ran_out:
                self.line.forget()
                self._lower(start or wanted // 2)
                continue
            rollout_ids, prompt, prefilled = self.line.take(self._limit - start)
            self.cache.fan_out(prefilled.prompts, prefilled.place, len(prompt), slice(start, start + len(rollout_ids)))
            self._start(rollout_ids, prompt, prefilled.logits_V)
        if len(self.rows) > first:
            self._collect()

    def _begin_pass(self, cache: OwnCache) -> None:
        """As many waiting rollouts as fit start together, once all rows have left."""
        if self.rows.live or not self.line:
            return
        taken: list[tuple[list[RolloutId], tuple[int, ...]]] = []
        while self.line and (free := self._limit - sum(len(ids) for ids, _ in taken)):
            taken.append(self.line.take_waiting(free))
        with RanOut() as ran_out:
            hidden_PD = cache.start([prompt for _, prompt in taken], [len(ids) for ids, _ in taken])
        if ran_out:
            for ids, prompt in reversed(taken):
                self.line.add_first(prompt, ids)
            self._lower(sum(len(ids) for ids, _ in taken) // 2)
            return
        for place, (ids, prompt) in enumerate(taken):
            self._start(ids, prompt, self.engine.logits(hidden_PD[place : place + 1])[0])
        self._collect()

    def _start(self, rollout_ids: list[RolloutId], prompt: tuple[int, ...], logits_V: torch.Tensor) -> None:
        """Siblings in the next rows, with their first token; or a rollout that was suspended."""
        start, suspended = len(self.rows), self._suspended.pop(rollout_ids[0], None)
        if suspended is not None:
            self.rows.resume(suspended)
            return
        for rollout_id in rollout_ids:
            self.rows.start(rollout_id, prompt)
        self._sample(slice(start, len(self.rows)), lambda part: logits_V.expand(part.stop - part.start, -1))

    def _decode(self) -> None:
        """One more token for every row that goes on."""
        hidden_SD = self._feed()
        if hidden_SD is None:
            return
        if self.keeps_sums:
            self.rows.hidden_sum_SD[: len(self.rows)] += hidden_SD.float()
        if self.probes:
            hidden_SD = self._probe(hidden_SD)
        if self.rows.live:
            self._sample(slice(0, len(self.rows)), lambda part: self.engine.logits(hidden_SD[part]))
            self._collect(hidden_SD)
        if self.controller and self.probes:
            self.engine.clock += 1
            self._remove(dict.fromkeys(self.controller.tick(float(self.engine.clock)), FinishReason.PRUNED))

    def _feed(self) -> torch.Tensor | None:
        """Hidden state ``[S, D]`` of the last token of every live row; None when all of them had to be suspended."""
        while self.rows.live:
            width = max(row.num_tokens for row in self.rows.live)
            with RanOut():
                return self.engine.step(self.rows.token_S[: len(self.rows)], self.cache, width)
            self._suspend(len(self.rows) // 2)
        return None

    def _suspend(self, keep: int) -> None:
        """Go on with the first ``keep`` rows; the rollouts of the others wait."""
        self._lower(keep)
        suspended = self.rows.suspend(self.cache.shrink(keep))
        self.line.forget()
        for one in reversed(suspended):
            self._suspended[one.row.rollout_id] = one
            self.line.add_first(one.fed, [one.row.rollout_id])

    def _lower(self, rows: int) -> None:
        """Fewer rows, in later calls too."""
        if not rows:
            raise ModelError(
                f"engine.max_rows = {self.engine.config.max_rows}: memory ran out with one row of up to {self._width} "
                "tokens; lower sampling.max_completion_tokens, or free memory"
            )
        logger.warning("arrol: memory ran out; the embedded engine goes on with %d rows", rows)
        self._limit = self.engine.most_rows = rows

    def _sample(self, rows: slice, logits: Callable[[slice], torch.Tensor]) -> None:
        """The next token of these rows, fewer rows at a time when memory runs out."""
        start = rows.start
        while start < rows.stop:
            part = slice(start, min(rows.stop, start + (self._sampled_rows or rows.stop)))
            with RanOut():
                longest = max(row.num_completion for row in self.rows.live[part])
                self.rows.reserve(len(self.rows), longest + 1)
                token_S, logprob_S = sample(logits(part), self.rows.uniforms(part), self.params)
                self.rows.write(part, token_S, logprob_S, ~torch.isfinite(logprob_S))
                start = part.stop
                continue
            self._sampled_rows = (part.stop - part.start) // 2
            if not self._sampled_rows:
                self._lower(0)

    def _collect(self, hidden_SD: torch.Tensor | None = None) -> None:
        """Take out the rows that ended and the siblings stopped as a result; ``hidden_SD`` belongs to the tokens just
        fed.
        """
        live = len(self.rows)
        stopped_S, bad_S = torch.isin(self.rows.token_S[:live], self._stop_ids), self.rows.bad_S[:live]
        flags = (stopped_S + 2 * bad_S).tolist()  # one transfer a step
        ended: dict[RolloutId, FinishReason] = {}
        at_stop = self._at_stop_string()
        for s, (flag, row) in enumerate(zip(flags, self.rows.live, strict=True)):
            if flag >= 2:
                ended[row.rollout_id] = FinishReason.ERROR
            elif flag or s in at_stop:
                ended[row.rollout_id] = FinishReason.STOP
            elif row.num_completion >= self.params.max_completion_tokens:
                ended[row.rollout_id] = FinishReason.LENGTH
        if not ended:
            return
        if self.engine.shows_ends and hidden_SD is not None:
            self._show_ends([s for s, row in enumerate(self.rows.live) if row.rollout_id in ended], hidden_SD)
        self._remove({**report_ends(self.controller, ended), **ended})

    def _at_stop_string(self) -> set[int]:
        """Rows whose last token completes a stop string."""
        if self._stops is None:
            return set()
        last_S = self.rows.token_S[: len(self.rows)].tolist()
        rows = [s for s, token_id in enumerate(last_S) if self._stops.may_end(token_id)]
        return {s for s in rows if self._stops.is_in(self.rows.tail(s, self._stops.window))}

    def _probe(self, hidden_SD: torch.Tensor) -> torch.Tensor:
        """Show rows at a probe to the controller, take out those it stops; returns the others' hidden states."""
        events: list[ProbeEvent] = []
        for probe, length in enumerate(self.probes):
            due = [s for s, row in enumerate(self.rows.live) if row.num_completion == length]
            if due:
                events += self._events(probe, length, due, hidden_SD)
        if not events:
            return hidden_SD
        assert self.controller is not None
        stops = self.controller.probed(events)
        return hidden_SD[self._remove(dict.fromkeys(stops, FinishReason.PRUNED))]

    def _events(self, probe: int, length: int, due: list[int], hidden_SD: torch.Tensor) -> list[ProbeEvent]:
        assert self.engine.layout is not None
        fed_C = torch.full((len(due),), length, device=hidden_SD.device)
        features_CF, confidence_C = self.rows.features(self.engine.layout, due, fed_C, hidden_SD)
        events = []
        for s, features_F, confidence in zip(due, features_CF, confidence_C, strict=True):
            row = self.rows.live[s]
            row.features_at[length] = features_F
            events.append(ProbeEvent(row.rollout_id, probe, features_F, None, float(confidence)))
        return events

    def _show_ends(self, ended: list[int], hidden_SD: torch.Tensor) -> None:
        """Features of rows whose last token was sampled and never fed."""
        assert self.engine.layout is not None
        fed_C = self.rows.count_S[ended] - 1
        features_CF, _ = self.rows.features(self.engine.layout, ended, fed_C, hidden_SD)
        for s, features_F in zip(ended, features_CF, strict=True):
            self.rows.live[s].features_at[END] = features_F

    def _remove(self, ended: dict[RolloutId, FinishReason]) -> torch.Tensor:
        """Hand out completions and move the last rows into the holes; returns the former row of each that is left."""
        live = self.rows.live
        gone = [s for s, row in enumerate(live) if row.rollout_id in ended]
        if not gone:
            return self.rows.numbers_S[: len(live)]
        for s, completion in zip(gone, self.rows.completions(gone, ended), strict=True):
            self.asked.end(live[s].rollout_id, completion)
        failed = [s for s in gone if ended[live[s].rollout_id] is FinishReason.ERROR]
        if failed:
            self.cache.wipe(torch.tensor(failed, device=self.engine.device))
        num_left, lost = len(live) - len(gone), set(gone)
        holes = [s for s in gone if s < num_left]
        sources = [s for s in range(num_left, len(live)) if s not in lost]
        width = max((live[s].num_tokens for s in sources), default=0)
        sources_C, holes_C = self.rows.compact(sources, holes, num_left)
        self.cache.compact(sources_C, holes_C, num_left, width)
        origin_S = self.rows.numbers_S[:num_left].clone()
        origin_S[holes_C] = sources_C
        return origin_S
