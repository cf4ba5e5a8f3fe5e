"""Steps of training on a pool: the allocator, controller, baselines and lotteries of training, without a model.

:class:`PoolEngine` plays rollouts of the pool to the controller; :func:`replay` runs whole steps of a config with it
and returns what each would have trained and cost. The policy stands still; the allocator's history and the controller's
buffers learn as in a run. Predicted qualities are the pool's own (:mod:`arrol.lab.scores`).

Legend: ``R`` rollouts of a group, ``C`` candidates, the rest as in :mod:`arrol.lab.pool`.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from arrol import assembly
from arrol.algorithms.advantages import GroupSignal
from arrol.algorithms.allocation.verdicts import VerdictQueue
from arrol.configs.method import OracleRule
from arrol.configs.run import RunConfig
from arrol.engines.asked import Asked, report_ends
from arrol.errors import ConfigError
from arrol.lab.costs import Counts
from arrol.lab.pool import Pool
from arrol.protocols import Controller, Engine, More, PendingVerdict
from arrol.pruning.controller import PruningController
from arrol.pruning.survival import Survival
from arrol.training.packing import batch_denominator
from arrol.training.signals import step_contributions, step_signals, training_probabilities
from arrol.types import (
    Completion,
    FinishReason,
    GroupRequest,
    ProbeEvent,
    Prompt,
    RolloutGroup,
    RolloutId,
    SamplingParams,
    Verdict,
)

POOL_STREAM = 11
"""Second word of the key of every choice of a rollout."""


class PooledQuality:
    """Implements :class:`arrol.protocols.Estimator`: a score is the logit of a quality that the pool knows."""

    version = 0

    def scores(self, features_CF: np.ndarray, probe: int) -> np.ndarray:
        raise NotImplementedError("a pool's rollouts come with scores")

    def quality(self, score_C: np.ndarray, probe: int) -> np.ndarray:
        """float64 ``[C]``: the sigmoid; NaN where the score is NaN."""
        return 0.5 * (1.0 + np.tanh(0.5 * np.asarray(score_C, float)))


class _Play(NamedTuple):
    prompt: int
    rollout: int
    start: int
    """Decode step after which it writes."""
    length: int
    looks: tuple[int, ...]
    """Lengths of the probes that it reaches."""


class PoolEngine(Engine):
    """Plays rollouts of a pool; each rollout of a group is drawn from its prompt's, independently."""

    def __init__(self, pool: Pool, *, seed: int) -> None:
        self._pool, self._seed = pool, seed
        self._place = {key: number for number, key in enumerate(pool.keys)}
        self._rows = [np.flatnonzero(known_N) for known_N in pool.is_known_PN]
        self._column = {length: number for number, length in enumerate(pool.probe_tokens)}
        quality_PNK = np.clip(pool.quality_PNK.astype(float), 1e-6, 1 - 1e-6)
        self._score_PNK = np.log(quality_PNK) - np.log1p(-quality_PNK)
        self._confidence_PNK = pool.mean_logprobs()
        self.played: dict[RolloutId, tuple[int, int]] = {}
        """Place in the pool of each rollout of this call."""
        self.decode_steps = 0
        """Decode steps of the last call."""

    def generate(
        self,
        requests: Sequence[GroupRequest],
        params: SamplingParams,
        *,
        seed: int,
        controller: Controller | None = None,
        more: More | None = None,
    ) -> list[list[Completion]]:
        """As every engine; time jumps from event to event, since nothing is computed in between."""
        asked = Asked(requests, controller=controller, more=more)
        self.played = {}
        running: dict[RolloutId, _Play] = {}
        queue: list[tuple[int, int, RolloutId]] = []
        probes = controller.probe_tokens if controller else ()
        clock, new, last = 0, asked.requests, 0
        while True:
            for request in new:
                for rollout_id, play in self._begin(request, clock, probes):
                    running[rollout_id] = play
                    heapq.heappush(queue, (clock + (play.looks[0] if play.looks else play.length), 0, rollout_id))
            if not running:
                self.decode_steps = last
                return asked.completions()
            clock = queue[0][0]
            looked: list[tuple[RolloutId, int]] = []
            ended: dict[RolloutId, FinishReason] = {}
            while queue and queue[0][0] == clock:
                _, look, rollout_id = heapq.heappop(queue)
                if rollout_id not in running:
                    continue
                play = running[rollout_id]
                if look < len(play.looks):
                    looked.append((rollout_id, play.looks[look]))
                    after = play.looks[look + 1] if look + 1 < len(play.looks) else play.length
                    heapq.heappush(queue, (play.start + after, look + 1, rollout_id))
                else:
                    is_truncated = self._pool.is_truncated_PN[play.prompt, play.rollout]
                    ended[rollout_id] = FinishReason.LENGTH if is_truncated else FinishReason.STOP
            stops: dict[RolloutId, FinishReason] = {}
            if controller and looked:
                events = [self._event(rollout_id, running[rollout_id], tokens, probes) for rollout_id, tokens in looked]
                stops |= dict.fromkeys(controller.probed(events), FinishReason.PRUNED)
            stops |= report_ends(controller, ended)
            if controller and probes:
                stops |= dict.fromkeys(controller.tick(float(clock)), FinishReason.PRUNED)
            for rollout_id, reason in {**stops, **ended}.items():
                if rollout_id in running:
                    asked.end(rollout_id, self._completion(running.pop(rollout_id), clock, reason))
                    last = clock
            new = asked.ask()

    def _begin(self, request: GroupRequest, clock: int, probes: tuple[int, ...]) -> Iterator[tuple[RolloutId, _Play]]:
        place = self._place[request.prompt.key]
        rng = np.random.default_rng([self._seed, POOL_STREAM, request.step, request.group, request.first])
        drawn = rng.choice(self._rows[place], request.size).tolist()
        for rollout_id, rollout in zip(request.rollout_ids, drawn, strict=True):
            self.played[rollout_id] = place, rollout
            length = int(self._pool.length_PN[place, rollout])
            yield rollout_id, _Play(place, rollout, clock, length, tuple(probe for probe in probes if probe < length))

    def _event(self, rollout_id: RolloutId, play: _Play, tokens: int, probes: tuple[int, ...]) -> ProbeEvent:
        where = play.prompt, play.rollout, self._column[tokens]
        score, confidence = float(self._score_PNK[where]), float(self._confidence_PNK[where])
        return ProbeEvent(rollout_id, probes.index(tokens), score=score, confidence=confidence)

    def _completion(self, play: _Play, clock: int, reason: FinishReason) -> Completion:
        length = min(clock - play.start, play.length)
        logprobs_T = self._pool.logprobs(play.prompt, play.rollout)[:length]
        return Completion(self._pool.tokens(play.prompt, play.rollout, length), logprobs_T, reason)


@dataclass(frozen=True)
class Visit:
    """One group of a step, as training would use it."""

    prompt: int
    """Place of its prompt in the pool."""
    rollout_R: np.ndarray
    """int: place in the pool of every rollout that was started."""
    factor_R: np.ndarray
    """float64: what multiplies each rollout's gradient in the prompt's estimate, before the lottery; 0 where it does
    not train. The step's gradient is the mean of its prompts' estimates."""
    trains_R: np.ndarray
    """float64 in [0, 1]: probability of training, where the factor is not 0."""
    is_kept_R: np.ndarray
    """bool: it was not stopped."""
    counts: Counts
    """Expected; the decode steps are the step's, divided by its prompts."""


def require_replayable(pool: Pool, config: RunConfig) -> None:
    """ConfigError where a pool cannot play the config's rules."""
    pruning = config.pruning
    if isinstance(pruning, OracleRule):
        raise ConfigError("pruning.rule = 'oracle': acts after training's own verdicts; a pool cannot play it")
    missing = [length for length in pruning.probe_tokens if length not in pool.probe_tokens]
    if pruning.has_probes and missing:
        known = ", ".join(map(str, pool.probe_tokens)) or "none"
        raise ConfigError(f"pruning.probe_tokens = {missing}: the pool read features at {known}; choose among them")


def replay(
    pool: Pool, config: RunConfig, *, steps: int, seed: int = 0, survival: Survival | None = None
) -> Iterator[list[Visit]]:
    """The visits of each step of a run that begins with the pool's prompts in a random order, epoch after epoch.

    The caller leaves out the first epochs, in which histories are empty and ``auto`` knows too little. Warm-up steps of
    the rule are skipped. ``survival`` replaces the rule; see :class:`arrol.pruning.controller.PruningController`.
    """
    require_replayable(pool, config)
    config = config.model_copy(update={"seed": seed, "pruning": config.pruning.model_copy(update={"warmup_steps": 0})})
    engine, allocator = PoolEngine(pool, seed=seed), assembly.build_allocator(config)
    controller = PruningController(
        config.pruning, PooledQuality(), seed=seed, survival=survival, thinning=assembly.build_thinning(config)
    )
    sampling = SamplingParams(int(pool.length_PN.max()) + 1)
    prompts = _prompts(pool, seed)

    def submit(rollout_id: RolloutId, completion: Completion) -> PendingVerdict:
        place = engine.played[rollout_id]
        success = float(pool.label_PN[place]) if pool.success_PN.size else None
        verdict = Verdict(float(pool.reward_PN[place]), None, success=success)
        return lambda: verdict

    for step in range(1, steps + 1):
        verdicts = VerdictQueue(submit, controller, allocator)

        def more(ended: Sequence[tuple[RolloutId, Completion]], queue: VerdictQueue = verdicts) -> list[GroupRequest]:
            queue.add(ended)
            return queue.requests()

        requests = allocator.begin(step, lambda: next(prompts))
        engine.generate(requests, sampling, seed=seed, controller=controller, more=more)
        verdicts.observe()
        groups = allocator.groups()
        lessons = allocator.lessons(groups, [group.rewards_G for group in groups])
        signals = step_signals(groups, lessons, config)
        denominator = batch_denominator(groups, signals, config.sampling.max_completion_tokens)
        per_prompt = denominator.rollouts / max(len(groups), 1)
        thinning = controller.auto.thinning if controller.auto else None
        trains = training_probabilities(groups, signals, config, thinning=thinning)
        yield _visits(groups, signals, trains, engine, per_prompt)
        controller.learn(groups, step_contributions(groups, signals, config))
        allocator.learn(groups)


def _prompts(pool: Pool, seed: int) -> Iterator[Prompt]:
    epoch = 0
    while True:
        for place in np.random.default_rng([seed, POOL_STREAM, epoch]).permutation(pool.num_prompts):
            yield Prompt(pool.keys[place], (0,), "", "")
        epoch += 1


def _visits(
    groups: Sequence[RolloutGroup],
    signals: Sequence[GroupSignal],
    trains: Sequence[np.ndarray],
    engine: PoolEngine,
    per_prompt: float,
) -> list[Visit]:
    """``per_prompt``: what the sum over a group's rollouts is divided by."""
    visits = []
    for group, signal, trains_G in zip(groups, signals, trains, strict=True):
        tokens_G = np.array([rollout.completion.num_tokens for rollout in group.rollouts], float)
        places = [engine.played[rollout.rollout_id] for rollout in group.rollouts]
        visits.append(
            Visit(
                places[0][0],
                np.array([rollout for _, rollout in places]),
                signal.advantage_G * signal.weight_G / per_prompt,
                trains_G,
                np.array([rollout.completion.finish_reason.survived for rollout in group.rollouts]),
                Counts(tokens_G.sum(), engine.decode_steps / len(groups), 0.0, float((trains_G * tokens_G).sum())),
            )
        )
    return visits
