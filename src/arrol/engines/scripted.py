"""A deterministic engine without a model: plays given completions and drives a controller as a real engine does.

For tests of rules, trainers and integrations, including your own. Numpy only.

    >>> from arrol.types import FinishReason, GroupRequest, Prompt, SamplingParams
    >>> engine = ScriptedEngine(lambda rollout_id: [7] * (rollout_id.index + 1))
    >>> request = GroupRequest(1, 0, Prompt("a", (5,), "a", "7"), 2)
    >>> [c.num_tokens for c in engine.generate([request], SamplingParams(8), seed=0)[0]]
    [1, 2]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from arrol.engines.asked import Asked, report_ends
from arrol.engines.stops import stops_of
from arrol.protocols import Controller, Engine, More
from arrol.types import Completion, FinishReason, GroupRequest, ProbeEvent, RolloutId, SamplingParams


@dataclass
class _Play:
    """A rollout while it runs."""

    tokens: tuple[int, ...]
    start: int
    """Decode step after which it writes."""
    fails_at: int | None = None
    length: int = 0
    features_at: dict[int, np.ndarray] = field(default_factory=dict)

    def completion(self, reason: FinishReason) -> Completion:
        written = self.tokens[: self.length]
        return Completion(written, np.zeros(len(written), np.float32), reason, self.features_at)


class ScriptedEngine(Engine):
    """An engine from two functions of the rollout's id."""

    def __init__(
        self,
        tokens: Callable[[RolloutId], Sequence[int]],
        features: Callable[[RolloutId, int], np.ndarray] | None = None,
        *,
        delay: Callable[[RolloutId], int] = lambda rollout_id: 0,
        fails_at: Callable[[RolloutId], int | None] = lambda rollout_id: None,
    ) -> None:
        """``tokens`` gives the whole completion; ``features`` what a probe at a length sees.

        ``delay`` starts a rollout late, in decode steps after its request, as in a refilled row; ``fails_at`` is
        the length at which it ends as an error, None for never.
        """
        self._tokens, self._features, self._delay, self._fails_at = tokens, features, delay, fails_at

    def generate(
        self,
        requests: Sequence[GroupRequest],
        params: SamplingParams,
        *,
        seed: int,
        controller: Controller | None = None,
        more: More | None = None,
    ) -> list[list[Completion]]:
        """One token per rollout and step, in the order: probe, stop, extend, end; then more rollouts come."""
        stops_of(params, None)
        asked = Asked(requests, controller=controller, more=more)
        running: dict[RolloutId, _Play] = {}
        clock, new = 0, asked.requests
        while True:
            running |= {i: self._begin(i, params, clock) for request in new for i in request.rollout_ids}
            if not running:
                return asked.completions()
            clock += 1
            for rollout_id, reason in self._step(running, clock, params, controller).items():
                asked.end(rollout_id, running.pop(rollout_id).completion(reason))
            new = asked.ask()

    def _begin(self, rollout_id: RolloutId, params: SamplingParams, clock: int) -> _Play:
        tokens = tuple(self._tokens(rollout_id))[: params.max_completion_tokens]
        return _Play(tokens, clock + self._delay(rollout_id), self._fails_at(rollout_id))

    def _step(
        self, running: dict[RolloutId, _Play], clock: int, params: SamplingParams, controller: Controller | None
    ) -> dict[RolloutId, FinishReason]:
        """Rollouts that end in this step, with the reason."""
        probes = controller.probe_tokens if controller else ()
        done: dict[RolloutId, FinishReason] = {}
        live = {i: play for i, play in running.items() if clock > play.start}
        if controller and probes:
            events = [self._event(i, probes.index(p.length), p) for i, p in live.items() if p.length in probes]
            _stop(done, controller.probed(events) if events else [])
        ended: dict[RolloutId, FinishReason] = {}
        for i, play in live.items():
            if i in done:
                continue
            play.length += 1
            if play.length == play.fails_at:
                ended[i] = FinishReason.ERROR
            elif play.length >= len(play.tokens):
                stopped = play.tokens[-1:] and play.tokens[-1] in params.stop_token_ids
                full = len(play.tokens) >= params.max_completion_tokens and not stopped
                ended[i] = FinishReason.LENGTH if full else FinishReason.STOP
        done = {**report_ends(controller, ended), **done, **ended}
        if controller and probes:
            _stop(done, controller.tick(float(clock)))
        return {i: reason for i, reason in done.items() if i in running}

    def _event(self, rollout_id: RolloutId, probe: int, play: _Play) -> ProbeEvent:
        features = None if self._features is None else self._features(rollout_id, play.length)
        if features is not None:
            play.features_at[play.length] = features
        return ProbeEvent(rollout_id, probe, features)


def _stop(done: dict[RolloutId, FinishReason], stops: Iterable[RolloutId]) -> None:
    for rollout_id in stops:
        done.setdefault(rollout_id, FinishReason.PRUNED)
