"""Prefill, fan out, decode, probe, stop, refill. No other subject.

One decode step feeds the last token of every live row and gives its hidden state. In this order: rows that have now
been fed ``probe_tokens`` completion tokens are shown to the controller and the rows it stops leave, with exactly that
many tokens; the others get their next token; rows that ended leave; holes are closed, the caller may ask for more, and
waiting rollouts take the free rows.

The completion of a stopped rollout thus has ``probe_tokens`` tokens, unless it waited for siblings (then more, the
ledger calls them wasted). A rollout that ends at or before the probe is never shown. The engine knows no rule and no
quality: it computes features and obeys. Legend: ``S`` rows, ``C`` candidates, ``D`` hidden size, ``V`` vocabulary,
``M`` most completion tokens, ``P`` prompts, ``T`` prompt tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from arrol.configs.run import EngineConfig
from arrol.engines.asked import Asked, report_ends
from arrol.engines.embedded.attention import over_rows
from arrol.engines.embedded.cache import PromptCache, RowCache
from arrol.engines.embedded.decoder import flat_decoder
from arrol.engines.embedded.line import Line
from arrol.engines.embedded.sampling import sample, token_uniforms
from arrol.engines.embedded.support import additive, copy_of, require_supported
from arrol.errors import ModelError
from arrol.protocols import Controller, Engine, More
from arrol.quality.features import END, FeatureLayout
from arrol.types import Completion, FinishReason, GroupRequest, ProbeEvent, RolloutId, SamplingParams


class EmbeddedEngine(Engine):
    """Generates with a Hugging Face causal language model in this process; an :class:`arrol.protocols.Engine`."""

    def __init__(
        self, model: Any, config: EngineConfig, layout: FeatureLayout | None = None, *, shows_ends: bool = False
    ) -> None:
        """With ``shows_ends`` every completion carries the features of its last fed token, under ``END``."""
        self._config, self._layout = config, layout
        self.shows_ends = shows_ends and layout is not None
        self._dtype = getattr(torch, config.dtype)
        self._source = model
        self._cache: RowCache | None = None
        self.device = next(model.parameters()).device
        self.clock = 0
        """Decode steps that a controller was told of; never set back, since a controller may outlive a call."""
        require_supported(model)
        self._model = model if model.dtype == self._dtype else copy_of(model, self._dtype)
        self._needs_numbers = model.config._attn_implementation == "eager"
        self._flat = flat_decoder(self._model)

    def sync_weights(self) -> None:
        """Take over the learner's weights; free when both are the same object."""
        if self._model is self._source:
            return
        with torch.no_grad():
            for ours, theirs in zip(self._model.parameters(), self._source.parameters(), strict=True):
                ours.copy_(theirs)

    @torch.inference_mode()
    def generate(
        self,
        requests: Sequence[GroupRequest],
        params: SamplingParams,
        *,
        seed: int,
        controller: Controller | None = None,
        more: More | None = None,
    ) -> list[list[Completion]]:
        """See :class:`arrol.protocols.Engine`; prompts must not be empty."""
        was_training = self._model.training
        self._model.eval()
        try:
            batch = _Batch(self, requests, params, seed, controller, more)
            while batch.has_work:
                batch.advance()
            return batch.asked.completions()
        finally:
            self._model.train(was_training)

    def rows_for(self, num_rollouts: int, width: int) -> RowCache:
        """A cache that is large enough, kept for the next call."""
        rows = min(self._config.max_rows, num_rollouts)
        if self._cache is None or self._cache.max_rows < rows or self._cache.max_width < width:
            self._cache = None  # free the old one first
            self._cache = RowCache(self._model.config, rows, width, device=self.device, dtype=self._dtype)
        self._cache.clear()
        return self._cache

    def prefill(self, prompts: Sequence[Sequence[int]]) -> tuple[PromptCache, torch.Tensor]:
        """Keys and values of prompts, and logits ``[P, V]`` behind the last token of each."""
        longest = max(map(len, prompts))
        ids_PT = torch.zeros(len(prompts), longest, dtype=torch.long)
        for row, prompt in enumerate(prompts):
            ids_PT[row, : len(prompt)] = torch.tensor(prompt)
        cache, columns = PromptCache(), torch.arange(longest, device=self.device)
        hidden = self.decoder(
            ids_PT.to(self.device), columns[None, :], (columns[None, :] <= columns[:, None])[None, None], cache
        )
        last = torch.tensor([len(prompt) - 1 for prompt in prompts], device=self.device)
        return cache, self.logits(hidden[torch.arange(len(prompts), device=self.device), last])

    def decoder(self, ids: torch.Tensor, positions: torch.Tensor, mask: torch.Tensor, cache: Any) -> torch.Tensor:
        """Hidden states after the final norm; ``mask`` is true where attention may look."""
        mask = additive(mask, self._dtype) if self._needs_numbers else mask
        return self._model.base_model(
            input_ids=ids, attention_mask=mask, position_ids=positions, past_key_values=cache, use_cache=True
        ).last_hidden_state

    def step(self, token_S: torch.Tensor, cache: RowCache, width: int) -> torch.Tensor:
        """Feed one token to every live row; ``width`` is one more than the longest holds. Hidden states ``[S, D]``."""
        mask, positions_S = cache.begin_step(width), cache.length_S[: cache.num_live]
        if self._flat:
            hidden_SD = self._flat(token_S, positions_S, over_rows(cache, mask, self._flat.scaling))
        else:
            hidden_SD = self.decoder(token_S[:, None], positions_S[:, None], mask, cache)[:, -1]
        cache.end_step()
        return hidden_SD

    def logits(self, hidden_SD: torch.Tensor) -> torch.Tensor:
        return self._model.get_output_embeddings()(hidden_SD)

    @property
    def config(self) -> EngineConfig:
        return self._config

    @property
    def layout(self) -> FeatureLayout | None:
        return self._layout


@dataclass
class _Row:
    """A rollout while it lives in a row."""

    rollout_id: RolloutId
    num_prompt: int
    num_completion: int = 0
    features_at: dict[int, np.ndarray] = field(default_factory=dict)


ROW_TENSORS = ("token_S", "tokens_SM", "logprobs_SM", "uniforms_SM", "count_S", "bad_S", "hidden_sum_SD")
"""Of :class:`_Batch`: what moves with a row."""


class _Batch:
    """The state of one ``generate`` call. Device tensors are indexed by row; ``rows[s]`` says who lives there."""

    def __init__(
        self,
        engine: EmbeddedEngine,
        requests: Sequence[GroupRequest],
        params: SamplingParams,
        seed: int,
        controller: Controller | None,
        more: More | None,
    ) -> None:
        self.engine, self.params, self.seed, self.controller = engine, params, seed, controller
        self.probes = controller.probe_tokens if controller else ()
        if self.probes and engine.layout is None:
            raise ModelError(
                "engine.layout = None: a controller that looks at rollouts needs the layout of their features"
            )
        self.cache = engine.rows_for(sum(request.size for request in requests), self._width(requests))
        self.rows: list[_Row] = []
        self.asked = Asked(requests, controller=controller, more=more)
        self.line = Line(engine.prefill, engine.config.prefill_tokens)
        self.line.add(requests)
        self._stop_ids = torch.tensor(params.stop_token_ids, dtype=torch.long, device=engine.device)
        self._allocate(self.cache.max_rows, params.max_completion_tokens, engine.device)

    def _width(self, requests: Sequence[GroupRequest]) -> int:
        """Columns that the longest of these may need."""
        prompt = max((len(request.prompt.token_ids) for request in requests), default=1)
        return prompt + self.params.max_completion_tokens

    def _allocate(self, rows: int, most: int, device: torch.device) -> None:
        floats: dict[str, Any] = {"dtype": torch.float32, "device": device}
        self._row_numbers, self._columns = torch.arange(rows, device=device), torch.arange(most, device=device)
        self.token_S = torch.zeros(rows, dtype=torch.long, device=device)
        self.tokens_SM = torch.zeros(rows, most, dtype=torch.long, device=device)
        self.logprobs_SM = torch.zeros(rows, most, **floats)
        self.uniforms_SM = torch.zeros(rows, most, dtype=torch.float64, device=device)
        self.count_S = torch.zeros(rows, dtype=torch.long, device=device)
        self.bad_S = torch.zeros(rows, dtype=torch.bool, device=device)
        self.looks = bool(self.probes) or self.engine.shows_ends
        size = self.engine.layout.hidden_size if self.looks and self.engine.layout else 0
        self.hidden_sum_SD = torch.zeros(rows, size, **floats)

    @property
    def has_work(self) -> bool:
        return bool(self.line or self.rows)

    def advance(self) -> None:
        """Fill free rows, then one decode step, then whoever is asked for besides joins the line."""
        self._refill()
        if self.rows:
            self._decode()
        with torch.inference_mode(False):  # whatever the caller computes is no business of ours
            new = self.asked.ask()
        if new:
            self.line.add(new)
            self._make_room(new)

    def _make_room(self, requests: Sequence[GroupRequest]) -> None:
        """Rows for those who wait, by doubling, and columns for the longest; live rows move along."""
        rows, wanted = self.cache.max_rows, len(self.rows) + len(self.line)
        if wanted > rows:
            rows = max(rows, min(self.engine.config.max_rows, max(wanted, 2 * rows)))
        self.cache.grow(rows, max(self.cache.max_width, self._width(requests)))
        if rows > len(self.token_S):
            self._row_numbers = torch.arange(rows, device=self.engine.device)
            for name in ROW_TENSORS:
                old = getattr(self, name)
                grown = old.new_zeros(rows, *old.shape[1:])
                grown[: len(old)] = old
                setattr(self, name, grown)

    def _decode(self) -> None:
        """One token for everybody who goes on."""
        hidden_SD = self._feed()
        if self.looks:
            self.hidden_sum_SD[: len(self.rows)] += hidden_SD.float()
        if self.probes:
            hidden_SD = self._probe(hidden_SD)
        if self.rows:
            self._extend(slice(0, len(self.rows)), self.engine.logits(hidden_SD))
            self._collect(hidden_SD)
        if self.controller and self.probes:
            self.engine.clock += 1
            self._remove(dict.fromkeys(self.controller.tick(float(self.engine.clock)), FinishReason.PRUNED))

    def _refill(self) -> None:
        """Waiting rollouts take the free rows; siblings follow each other, so a prompt is prefilled shortly before."""
        first = len(self.rows)
        while self.line and len(self.rows) < self.cache.max_rows:
            start = len(self.rows)
            rollout_ids, num_prompt, prefilled = self.line.take(self.cache.max_rows - start)
            for rollout_id in rollout_ids:
                self._start(rollout_id, num_prompt)
            rows = slice(start, len(self.rows))
            self.cache.fan_out(prefilled.prompts, prefilled.place, num_prompt, rows)
            self._extend(rows, prefilled.logits_V.expand(len(rollout_ids), -1))
        if len(self.rows) > first:
            self._collect()

    def _start(self, rollout_id: RolloutId, num_prompt: int) -> None:
        row = len(self.rows)
        self.rows.append(_Row(rollout_id, num_prompt))
        uniforms = token_uniforms(self.seed, rollout_id, self.params.max_completion_tokens)
        self.uniforms_SM[row] = torch.from_numpy(uniforms).to(self.uniforms_SM.device)
        self.hidden_sum_SD[row] = 0.0
        self.count_S[row] = 0
        self.bad_S[row] = False

    def _feed(self) -> torch.Tensor:
        """Hidden state ``[S, D]`` of the last token of every live row."""
        width = max(row.num_prompt + row.num_completion for row in self.rows)
        return self.engine.step(self.token_S[: len(self.rows)], self.cache, width)

    def _extend(self, rows: slice, logits_SV: torch.Tensor) -> None:
        """Sample the next token of these rows."""
        count_S, row_S = self.count_S[rows], self._row_numbers[rows]
        uniform_S = self.uniforms_SM[row_S, count_S]
        finite_S = torch.isfinite(logits_SV).all(-1)
        logits_SV = torch.where(
            finite_S[:, None], logits_SV, torch.zeros((), device=logits_SV.device, dtype=logits_SV.dtype)
        )
        token_S, logprob_S = sample(logits_SV, uniform_S, self.params)
        self.bad_S[rows] |= ~finite_S
        self.token_S[rows] = token_S
        self.tokens_SM[row_S, count_S] = token_S
        self.logprobs_SM[row_S, count_S] = logprob_S
        self.count_S[rows] += 1
        for row in self.rows[rows]:
            row.num_completion += 1

    def _collect(self, hidden_SD: torch.Tensor | None = None) -> None:
        """Take out the rows that ended by themselves, and those that their end condemns; ``hidden_SD`` is that of the
        tokens just fed."""
        live = len(self.rows)
        stopped_S, bad_S = torch.isin(self.token_S[:live], self._stop_ids), self.bad_S[:live]
        flags = (stopped_S + 2 * bad_S).tolist()  # one transfer a step
        ended: dict[RolloutId, FinishReason] = {}
        for flag, row in zip(flags, self.rows, strict=True):
            if flag >= 2:
                ended[row.rollout_id] = FinishReason.ERROR
            elif flag:
                ended[row.rollout_id] = FinishReason.STOP
            elif row.num_completion >= self.params.max_completion_tokens:
                ended[row.rollout_id] = FinishReason.LENGTH
        if not ended:
            return
        if self.engine.shows_ends and hidden_SD is not None:
            self._show_ends([s for s, row in enumerate(self.rows) if row.rollout_id in ended], hidden_SD)
        self._remove({**report_ends(self.controller, ended), **ended})

    def _probe(self, hidden_SD: torch.Tensor) -> torch.Tensor:
        """Show rows at a probe to the controller, take out those it stops; returns the others' hidden states."""
        events: list[ProbeEvent] = []
        for probe, length in enumerate(self.probes):
            due = [s for s, row in enumerate(self.rows) if row.num_completion == length]
            if due:
                events += self._events(probe, length, due, hidden_SD)
        if not events:
            return hidden_SD
        assert self.controller is not None
        stops = self.controller.probed(events)
        return self._remove(dict.fromkeys(stops, FinishReason.PRUNED), hidden_SD)

    def _events(self, probe: int, length: int, due: list[int], hidden_SD: torch.Tensor) -> list[ProbeEvent]:
        fed_C = torch.full((len(due),), length, device=hidden_SD.device)
        features_CF, confidence_C = self._features(due, fed_C, hidden_SD)
        for place, s in enumerate(due):
            self.rows[s].features_at[length] = features_CF[place]
        return [
            ProbeEvent(self.rows[s].rollout_id, probe, features_CF[place], None, float(confidence_C[place]))
            for place, s in enumerate(due)
        ]

    def _show_ends(self, ended: list[int], hidden_SD: torch.Tensor) -> None:
        """Features of rows whose last token was sampled and never fed."""
        features_CF, _ = self._features(ended, self.count_S[ended] - 1, hidden_SD)
        for place, s in enumerate(ended):
            self.rows[s].features_at[END] = features_CF[place]

    def _features(self, rows: list[int], fed_C: torch.Tensor, hidden_SD: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Features ``[C, F]`` of rows that were fed so many completion tokens, and their mean log-probabilities."""
        assert self.engine.layout is not None
        rows_C = torch.tensor(rows, device=hidden_SD.device)
        is_fed_CL = self._columns[: int(fed_C.max())] < fed_C[:, None]
        logprobs_CL = self.logprobs_SM[rows_C, : is_fed_CL.shape[1]]
        sum_C = (logprobs_CL * is_fed_CL).sum(1)
        least_C = torch.where(is_fed_CL, logprobs_CL, torch.inf).amin(1)
        statistics_C3 = torch.stack([sum_C, least_C, sum_C / fed_C], 1).cpu().numpy()
        last_CD = hidden_SD[rows_C].float().cpu().numpy()
        mean_CD = (self.hidden_sum_SD[rows_C] / fed_C[:, None]).cpu().numpy()
        return self.engine.layout.assemble(last_CD, mean_CD, statistics_C3), statistics_C3[:, 2]

    def _remove(self, ended: dict[RolloutId, FinishReason], hidden_SD: torch.Tensor | None = None) -> Any:
        """Hand out completions, close the holes with the last rows; ``hidden_SD`` is compacted alike and returned."""
        gone = [s for s, row in enumerate(self.rows) if row.rollout_id in ended]
        if not gone:
            return hidden_SD
        tokens = self.tokens_SM[gone].cpu().numpy()
        logprobs = self.logprobs_SM[gone].cpu().numpy()
        for place, s in enumerate(gone):
            row, length = self.rows[s], self.rows[s].num_completion
            completion = Completion(
                tuple(tokens[place, :length].tolist()),
                logprobs[place, :length].copy(),
                ended[row.rollout_id],
                row.features_at,
            )
            self.asked.end(row.rollout_id, completion)
        failed = [s for s in gone if ended[self.rows[s].rollout_id] is FinishReason.ERROR]
        if failed:
            self.cache.wipe(torch.tensor(failed, device=self.token_S.device))
        return self._close_holes(gone, hidden_SD)

    def _close_holes(self, gone: list[int], hidden_SD: torch.Tensor | None) -> torch.Tensor | None:
        live, num_left = len(self.rows), len(self.rows) - len(gone)
        lost = set(gone)
        holes = [s for s in gone if s < num_left]
        sources = [s for s in range(num_left, live) if s not in lost]
        if holes:
            width = max(self.rows[s].num_prompt + self.rows[s].num_completion for s in sources)
            holes_t = torch.tensor(holes, device=self.token_S.device)
            sources_t = torch.tensor(sources, device=self.token_S.device)
            self.cache.compact(sources_t, holes_t, num_left, min(width, self.cache.max_width))
            for name in ROW_TENSORS:
                tensor = getattr(self, name)
                tensor[holes_t] = tensor[sources_t]
            if hidden_SD is not None:
                hidden_SD[holes_t] = hidden_SD[sources_t]
            for hole, source in zip(holes, sources, strict=True):
                self.rows[hole] = self.rows[source]
        self.cache.num_live = num_left
        del self.rows[num_left:]
        return None if hidden_SD is None else hidden_SD[:num_left]
