"""Pruning by several calls to an engine without our classes: generate to the probe, decide, continue the survivors.

Costs against pruning inside the engine: survivors are prefilled again (the prefix cache makes that cheap), all rollouts
wait for the slowest at each probe, and only log-probabilities can be read: ``quality.features`` is ``("logprobs",)``.
Each call has a seed of its own, so a rollout's tokens still depend on its id alone. Requests that ``more`` adds are
generated when all others have ended. Legend: ``T`` tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from arrol.engines.asked import Asked, report_ends
from arrol.engines.vllm.sampler import LlmLike, completion_of, rollout_fields, rollout_seed, settings_of
from arrol.errors import ConfigError
from arrol.protocols import Controller, Engine, More
from arrol.quality.features import FeatureLayout, logprob_statistics
from arrol.types import Completion, FinishReason, GroupRequest, ProbeEvent, RolloutId, SamplingParams

ONLY_FEATURES = ("logprobs",)
NO_STATES = np.zeros((1, 0))


def require_only_logprobs(features: Sequence[str]) -> None:
    """ConfigError for features that several calls cannot read."""
    if tuple(features) != ONLY_FEATURES:
        raise ConfigError(
            f"quality.features = {list(features)}: several calls can read only log-probabilities; "
            f"set it to {list(ONLY_FEATURES)}"
        )


@dataclass
class _Draft:
    """A rollout between two calls."""

    rollout_id: RolloutId
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...] = ()
    logprob_T: np.ndarray = field(default_factory=lambda: np.zeros(0, np.float32))
    ended: FinishReason | None = None
    features_at: dict[int, np.ndarray] = field(default_factory=dict)

    def completion(self) -> Completion:
        assert self.ended is not None, self.rollout_id
        return Completion(self.token_ids, self.logprob_T, self.ended, self.features_at)


class TwoPhaseSampler(Engine):
    """An engine over anything that generates as vLLM's ``LLM`` does."""

    def __init__(self, llm: LlmLike, layout: FeatureLayout) -> None:
        require_only_logprobs(layout.names)
        self._llm, self._layout = llm, layout

    def generate(
        self,
        requests: Sequence[GroupRequest],
        params: SamplingParams,
        *,
        seed: int,
        controller: Controller | None = None,
        more: More | None = None,
    ) -> list[list[Completion]]:
        """See :class:`arrol.protocols.Engine`."""
        asked = Asked(requests, controller=controller, more=more)
        new = asked.requests
        while new:
            drafts = {i: _Draft(i, request.prompt.token_ids) for request in new for i in request.rollout_ids}
            self._write(drafts, params, seed, controller)
            for rollout_id, draft in drafts.items():
                asked.end(rollout_id, draft.completion())
            new = asked.ask()
        return asked.completions()

    def _write(
        self, drafts: dict[RolloutId, _Draft], params: SamplingParams, seed: int, controller: Controller | None
    ) -> None:
        """From probe to probe, and to the end."""
        probes = controller.probe_tokens if controller is not None else ()
        for phase, length in enumerate([*probes, params.max_completion_tokens]):
            running = [draft for draft in drafts.values() if draft.ended is None]
            self._extend(running, length, params, seed * 1_000_003 + phase)
            if controller is not None and phase < len(probes):
                stops = list(report_ends(controller, _ended(running)))
                events = [self._event(draft, phase, length) for draft in running if draft.ended is None]
                for rollout_id in [*stops, *(controller.probed(events) if events else [])]:
                    drafts[rollout_id].ended = FinishReason.PRUNED
        report_ends(controller, _ended(drafts.values()))  # after the last probe, so that groups can be forgotten

    def _extend(self, running: list[_Draft], length: int, params: SamplingParams, seed: int) -> None:
        """Generate up to ``length`` completion tokens."""
        if not running:
            return
        settings = []
        for draft in running:
            fields = rollout_fields(params, rollout_seed(seed, draft.rollout_id), {})
            settings.append(settings_of(self._llm, {**fields, "max_tokens": length - len(draft.token_ids)}))
        prompts = [{"prompt_token_ids": [*draft.prompt_ids, *draft.token_ids]} for draft in running]
        for draft, answer in zip(running, self._llm.generate(prompts, settings, use_tqdm=False), strict=True):
            piece = completion_of(answer.outputs[0])
            draft.token_ids += piece.token_ids
            draft.logprob_T = np.concatenate([draft.logprob_T, piece.sampler_logprobs_T]).astype(np.float32)
            is_full = piece.finish_reason is FinishReason.LENGTH and len(draft.token_ids) < params.max_completion_tokens
            draft.ended = None if is_full else piece.finish_reason

    def _event(self, draft: _Draft, probe: int, length: int) -> ProbeEvent:
        statistics_13 = logprob_statistics(draft.logprob_T[None, :length])
        draft.features_at[length] = row = self._layout.assemble(NO_STATES, NO_STATES, statistics_13)[0]
        return ProbeEvent(draft.rollout_id, probe, row, confidence=float(statistics_13[0, 2]))


def _ended(drafts: Iterable[_Draft]) -> dict[RolloutId, FinishReason]:
    return {draft.rollout_id: draft.ended for draft in drafts if draft.ended is not None}
