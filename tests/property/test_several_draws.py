"""How often two rollouts of a group survive both, where several draws decided it: the controller beside the decisions.

Two probes, two waves, and a deadline at which candidates are drawn alone. Where the chance is right, the survivors'
pairs count 1 on average over the draws, each divided by its chance; then advantages are unbiased
(``test_unbiased.py``). The control takes the product of each rollout's survivals for one draw.
"""

import numpy as np
import pytest

from arrol.configs.method import PaperRule, UniformRule
from arrol.pruning.draws import joint_survival, joint_systematic
from arrol.types import RolloutId
from lottery import controller_of, event, play

QUALITY = (0.9, 0.1, 0.8, 0.2, 0.5, 0.3)
EARLY, LATE = range(3), range(3, 6)
DRAWS = 2_000
EXACT = {"draw": "systematic", "min_survivors": 1, "min_survival": 0.05, "warmup_steps": 0}


def two_probes(seed):
    config = PaperRule(keep_ratio=0.6, probe_tokens=(4, 8), balance_strength=1.0, **EXACT)
    controller = controller_of(config, seed=seed)
    stopped = play(controller, [QUALITY], probes=2)
    return controller, stopped


def two_waves(seed):
    config = UniformRule(keep_ratio=0.5, probe_tokens=(4,), **EXACT)
    controller, stopped = controller_of(config, seed=seed), set()
    for wave in (EARLY, LATE):
        controller.open(1, 0, len(wave))
        stopped |= set(controller.probed([event(0, i, QUALITY[i]) for i in wave]))
        controller.finished([RolloutId(1, 0, i) for i in wave])
    return controller, stopped


def a_deadline(seed):
    """Half of them are drawn when it passes, each alone."""
    config = UniformRule(keep_ratio=0.5, probe_tokens=(4,), barrier_timeout=1, **EXACT)
    controller, stopped = controller_of(config, seed=seed), set()
    controller.open(1, 0, 6)
    stopped |= set(controller.tick(0.0) + controller.probed([event(0, i, QUALITY[i]) for i in EARLY]))
    stopped |= set(controller.tick(1.0) + controller.tick(2.0))
    stopped |= set(controller.probed([event(0, i, QUALITY[i]) for i in LATE]))
    return controller, stopped


def errors(situation):
    """How many standard errors a pair's count is from 1, pairs of EARLY and the others: by the decisions' chances, and
    by one draw's."""
    rows, columns = np.triu_indices(6, 1)
    is_early, counts = columns < 3, []
    for seed in range(DRAWS):
        controller, stopped = situation(seed)
        decisions = controller.decisions(1, 0)
        assert len(decisions) == 6
        kept = np.array([decision.rollout_id not in stopped for decision in decisions])
        survival = np.array([decision.survival for decision in decisions])
        joints = [joint_survival(decisions)[rows, columns], joint_systematic(survival)[rows, columns]]
        count = (kept[rows] & kept[columns]) / joints
        counts.append([count[:, is_early].mean(1), count[:, ~is_early].mean(1)])
    mean, error = np.mean(counts, 0), np.std(counts, 0) / np.sqrt(DRAWS)
    return np.abs((mean - 1) / error).max(0)


@pytest.mark.parametrize("situation", [two_probes, two_waves, a_deadline])
def test_a_pair_counts_one_on_average(situation):
    told, one_draw = errors(situation)
    assert told < 4
    assert one_draw > 5
