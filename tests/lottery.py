"""A controller whose estimator believes what it is told, and a host that plays groups through it."""

import numpy as np

from arrol.pruning.controller import PruningController
from arrol.types import ProbeEvent, RolloutId


class GivenQuality:
    """The score is the quality."""

    version = 3

    def scores(self, features_CF, probe):
        return features_CF[:, 0].astype(float)

    def quality(self, score_C, probe):
        return np.clip(score_C, 0.0, 1.0)


def controller_of(config, *, seed=0, state=None):
    controller = PruningController(config, GivenQuality(), seed=seed)
    if state is not None:
        controller.load(state)
    return controller


def event(group, index, score, *, step=1, probe=0, **more):
    return ProbeEvent(RolloutId(step, group, index), probe, score=score, **more)


def open_groups(controller, quality_PG, *, step=1, history=None):
    for group, row in enumerate(quality_PG):
        controller.open(step, group, len(row), None if history is None else history[group])


def events_of(quality_PG, *, step=1, probe=0):
    """One per rollout; its mean log-probability grows with its quality, without being it."""
    return [
        event(g, i, float(q), step=step, probe=probe, confidence=float(np.log(0.2 + 0.5 * q)))
        for g, row in enumerate(quality_PG)
        for i, q in enumerate(row)
    ]


def play(controller, quality_PG, *, step=1, history=None, probes=1):
    """All rollouts reach every probe together; returns the stopped ones."""
    open_groups(controller, quality_PG, step=step, history=history)
    stopped = set()
    for probe in range(probes):
        alive = [e for e in events_of(quality_PG, step=step, probe=probe) if e.rollout_id not in stopped]
        stopped |= set(controller.probed(alive))
    return stopped


def filled_state(config, quality_PG, *, history=None):
    """What a controller remembers after one warm-up step over these qualities."""
    warm = controller_of(config.model_copy(update={"warmup_steps": 1}))
    play(warm, quality_PG, history=history, probes=len(config.probe_tokens))
    return warm.save()


def all_decisions(controller, count, *, step=1):
    return [decision for group in range(count) for decision in controller.decisions(step, group)]
