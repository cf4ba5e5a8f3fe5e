"""``corrected`` rejection keeps the expected gradient of the full group, alone and behind pruning; the others do not.

Exact: every subset that rejection may keep is enumerated, and with pruning every keep-pattern too, on a policy with a
row of logits per rollout's first token. Six rollouts, two of them right.
"""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch

from arrol.algorithms.allocation import selection as module
from arrol.algorithms.allocation.allocator import RULES
from arrol.algorithms.allocation.rule import Outcomes, StepShape
from arrol.algorithms.allocation.selection import rejected
from arrol.algorithms.lesson import Lesson, Observed, lesson_signal
from arrol.algorithms.losses import LossInputs, policy_loss
from arrol.algorithms.posterior import Belief
from arrol.configs.allocation import ALLOCATIONS, PosteriorConfig
from arrol.configs.method import DrGrpoConfig, GrpoConfig
from arrol.training.packing import batch_denominator
from rollouts import group_of

TOKEN = [0, 3, 1, 2, 2, 1]
REWARD = np.array([1.0, 0, 0, 1, 0, 0])
SURVIVAL = np.array([0.9, 0.3, 0.5, 0.7, 0.4, 1.0])
QUALITY = np.array([0.2, 0.7, 0.9, 0.1, 0.5, np.nan])
ALL_KEPT = (True,) * 6


@pytest.fixture
def choose(monkeypatch):
    """Makes rejection keep the first of the order that is given."""
    order = []
    monkeypatch.setattr(module, "_shuffled_rows", lambda mask_G, key: np.array([i for i in order if mask_G[i]], int))
    return lambda chosen: order.__setitem__(slice(None), chosen)


def gradient(keep, config, choice, survival=SURVIVAL):
    """Of the real loss, by the logits of four tokens; every completion is one token."""
    logits = torch.tensor([0.3, -0.2, 0.1, 0.5], dtype=torch.float64).requires_grad_()
    kept = np.array(keep)
    seen = Observed(np.where(kept, REWARD, np.nan), survival, QUALITY)
    signal = lesson_signal(seen, Lesson(choice), config, posterior=PosteriorConfig())
    group = group_of([1.0] * 6, tokens=1)
    logprob = logits.log_softmax(-1)[TOKEN][:, None]
    inputs = LossInputs(
        logprob,
        logprob.detach(),
        torch.ones(6, 1, dtype=torch.float64),
        torch.from_numpy(signal.advantage_G),
        torch.from_numpy(signal.weight_G),
    )
    policy_loss(inputs, config, batch_denominator([group], [signal], 4))[0].backward()
    return logits.grad.numpy()


def choices(keep, baseline, choose, ratio=1):
    """Every selection that rejection may make among these survivors, all as likely."""
    right, wrong = np.array(keep) & (REWARD == 1), np.array(keep) & (REWARD == 0)
    count = max(1, ratio * int(right.sum()))
    for chosen in itertools.combinations(np.flatnonzero(wrong), min(count, int(wrong.sum()))):
        choose([*chosen, *(i for i in range(6) if i not in chosen)])
        yield rejected(right, wrong, count, baseline, [0])


def expected(baseline, config, choose, keep=ALL_KEPT, **options):
    """Nothing was stopped."""
    found = [gradient(keep, config, choice, np.ones(6)) for choice in choices(keep, baseline, choose, **options)]
    return np.mean(found, axis=0)


def full(config):
    plain = type(config)(correction="plain", aggregation=config.aggregation)
    return gradient(ALL_KEPT, plain, module.whole(6), np.ones(6))


CONFIGS = [
    DrGrpoConfig(),
    DrGrpoConfig(correction="plain", aggregation="sequence_mean"),
    GrpoConfig(aggregation="constant"),
    GrpoConfig(correction="plain"),
]


@pytest.mark.parametrize("config", CONFIGS)
def test_corrected_rejection_has_the_gradient_of_the_full_group(config, choose):
    assert np.abs(full(config)).max() > 1e-2
    np.testing.assert_allclose(expected("corrected", config, choose), full(config), atol=1e-9)


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("baseline", ["kept", "all"])
def test_the_other_baselines_are_other_objectives(baseline, config, choose):
    """Even in direction: no rescaling makes them the full group's."""
    found, wanted = expected(baseline, config, choose), full(config)
    assert np.abs(found - wanted).max() > 0.05 * np.abs(wanted).max()
    if baseline == "all":
        cosine = found @ wanted / np.linalg.norm(found) / np.linalg.norm(wanted)
        assert cosine < 0.999


def behind_pruning(config, choose, factor=lambda choice, keep: choice):
    """Over all keep-patterns and all selections."""
    total = np.zeros(4)
    for keep in itertools.product((False, True), repeat=6):
        probability = float(np.prod(np.where(keep, SURVIVAL, 1 - SURVIVAL)))
        if probability > 0:
            found = [gradient(keep, config, factor(choice, keep)) for choice in choices(keep, "corrected", choose)]
            total += probability * np.mean(found, axis=0)
    return total


@pytest.mark.parametrize("aggregation", ["constant", "sequence_mean"])
@pytest.mark.parametrize("correction", ["ipw", "doubly_robust"])
def test_corrected_rejection_behind_pruning_has_it_too(correction, aggregation, choose):
    config = DrGrpoConfig(correction=correction, aggregation=aggregation)
    np.testing.assert_allclose(behind_pruning(config, choose), full(config), atol=1e-9)


@pytest.mark.parametrize("correction", ["ipw", "doubly_robust"])
@pytest.mark.parametrize("rule", ["aero", "dapo"])
@pytest.mark.parametrize("reward", [REWARD, np.ones(6)])
def test_no_rule_drops_a_group_whose_survivors_alone_are_alike(reward, rule, correction, choose, monkeypatch):
    """Over all keep-patterns and the orders of the wrong ones; a right one always survives."""
    monkeypatch.setattr(f"{__name__}.REWARD", reward)
    survival = np.array([1.0, 0.3, 0.5, 0.7, 0.4, 0.9])
    config, total = DrGrpoConfig(correction=correction), np.zeros(4)
    corrected = {"rejection": {"baseline": "corrected"}, "posterior": {"used_for": "allocation"}}
    built = RULES[rule](ALLOCATIONS[rule](**(corrected if rule == "aero" else {})), StepShape(1, 6))
    orders = list(itertools.permutations(np.flatnonzero(REWARD == 0))) if rule == "aero" else [(1, 2, 4, 5)]
    right = np.flatnonzero(REWARD == 1)
    for keep in itertools.product((False, True), repeat=6):
        probability = float(np.prod(np.where(keep, survival, 1 - survival)))
        outcomes = Outcomes(np.where(keep, REWARD, np.nan), Belief(1, 1), is_weighted=True)
        for order in orders if probability else ():
            choose([*right, *order])
            total += probability * gradient(keep, config, built.select(outcomes, [0]), survival) / len(orders)
    np.testing.assert_allclose(total, full(config), atol=1e-9)
    assert not built.select(Outcomes(np.ones(6), Belief(1, 1)), [0]).train_G.any()


@pytest.mark.parametrize(("weigh_kept", "least_error"), [(False, 0.3), (True, 0.01)])
def test_each_kept_one_stands_for_a_plain_number_of_survivors_not_a_weighted_one(weigh_kept, least_error, choose):
    """1/p times x/m, with x and m survivors of the rejected kind. A weighted x, over m or a weighted m, is biased."""

    def weighted(choice, keep):
        wrong = np.array(keep) & (REWARD == 0)
        kept = choice.train_G & wrong
        effective_rollouts = (kept / SURVIVAL).sum() if weigh_kept else kept.sum()
        factor_G = np.where(kept, (wrong / SURVIVAL).sum() / max(effective_rollouts, 1), 1.0)
        return replace(choice, factor_G=factor_G)

    config = DrGrpoConfig(correction="ipw")
    found, wanted = behind_pruning(config, choose, weighted), full(config)
    assert np.abs(found - wanted).max() > least_error * np.abs(wanted).max()


@pytest.mark.parametrize("ratio", [1, 2])
def test_a_larger_ratio_is_as_unbiased(ratio, choose):
    config = DrGrpoConfig()
    np.testing.assert_allclose(expected("corrected", config, choose, ratio=ratio), full(config), atol=1e-9)
