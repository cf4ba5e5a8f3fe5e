"""A deterministic engine without a model: plays given completions and drives a controller as a real engine does.

For tests of rules, trainers and integrations, yours included. Numpy only.

>>> from arrol.types import FinishReason, GroupRequest, Prompt, SamplingParams
>>> engine = ScriptedEngine(lambda rollout_id: [7] * (rollout_id.index + 1))
>>> request = GroupRequest(1, 0, Prompt("a", (5,), "a", "7"), 2)
>>> [c.num_tokens for c in engine.generate([request], SamplingParams(8), seed=0)[0]]
[1, 2]
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from arrol.protocols import Controller
from arrol.types import Completion, FinishReason, GroupRequest, ProbeEvent, RolloutId, SamplingParams


class ScriptedEngine:
    """Implements :class:`arrol.protocols.Engine` from two functions of the rollout's id."""

    def __init__(
        self,
        tokens: Callable[[RolloutId], Sequence[int]],
        features: Callable[[RolloutId, int], np.ndarray] | None = None,
        *,
        delay: Callable[[RolloutId], int] = lambda rollout_id: 0,
    ) -> None:
        """``tokens`` writes the whole completion; ``features`` is what the probe at a length sees; ``delay`` starts a
        rollout late, in decode steps, to play refilled rows."""
        self._tokens, self._features, self._delay = tokens, features, delay

    def generate(
        self,
        requests: Sequence[GroupRequest],
        params: SamplingParams,
        *,
        seed: int,
        controller: Controller | None = None,
    ) -> list[list[Completion]]:
        """One token per rollout and step, in the order: probe, stop, extend, end."""
        texts = {
            i: tuple(self._tokens(i))[: params.max_completion_tokens]
            for request in requests
            for i in request.rollout_ids
        }
        length = dict.fromkeys(texts, 0)
        done: dict[RolloutId, FinishReason] = {}
        seen: dict[RolloutId, dict[int, np.ndarray]] = {i: {} for i in texts}
        probes = controller.probe_tokens if controller else ()
        for request in requests:
            if controller:
                controller.open(request.step, request.group, request.size, request.success_rate)
        clock = 0
        while len(done) < len(texts):
            clock += 1
            live = [i for i in texts if i not in done and clock > self._delay(i)]
            if controller and probes:
                events = [self._event(i, probes.index(length[i]), length[i], seen) for i in live if length[i] in probes]
                _stop(done, controller.probed(events) if events else [])
            ended = []
            for i in [i for i in live if i not in done]:
                length[i] += 1
                if length[i] >= len(texts[i]):
                    full = len(texts[i]) >= params.max_completion_tokens
                    done[i] = FinishReason.LENGTH if full else FinishReason.STOP
                    ended.append(i)
            if controller and probes:
                _stop(done, controller.finished(ended) if ended else [])
                _stop(done, controller.tick(float(clock)))
        return [
            [self._completion(texts[i][: length[i]], done[i], seen[i]) for i in request.rollout_ids]
            for request in requests
        ]

    def _event(
        self, rollout_id: RolloutId, probe: int, length: int, seen: dict[RolloutId, dict[int, np.ndarray]]
    ) -> ProbeEvent:
        features = None if self._features is None else self._features(rollout_id, length)
        if features is not None:
            seen[rollout_id][length] = features
        return ProbeEvent(rollout_id, probe, features)

    def _completion(self, tokens: tuple[int, ...], reason: FinishReason, seen: dict[int, np.ndarray]) -> Completion:
        return Completion(tokens, np.zeros(len(tokens), np.float32), reason, seen)


def _stop(done: dict[RolloutId, FinishReason], stops: Sequence[RolloutId]) -> None:
    for rollout_id in stops:
        done.setdefault(rollout_id, FinishReason.PRUNED)
