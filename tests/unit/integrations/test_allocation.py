"""Rules inside a host: what is judged, what is believed, what is refused."""

import numpy as np
import pytest

from arrol.algorithms.allocation.rule import StepShape
from arrol.algorithms.allocation.selection import SELECTION_STREAM, pods
from arrol.algorithms.posterior import Belief
from arrol.configs.host import parse_host
from arrol.errors import ConfigError
from arrol.integrations.allocation import HostAllocation, acts, refuse_unused
from arrol.integrations.trl.rules import REASONS, USED, refuse_impossible, share_of
from arrol.quality.buffer import PromptHistory

from .groups import group_of

LABELS = np.array([1.0, 0.0, 0.0, 1.0, 0.0, 0.0])


def allocation_of(options, history=None, seed=5, correction="plain"):
    config = parse_host({"allocation": options}).allocation
    return HostAllocation(config, StepShape(1, 6), history or PromptHistory(), seed=seed, correction=correction)


def group(labels=LABELS, keep=None, number=0):
    return group_of(keep or [1] * len(labels), [1.0] * len(labels), labels, number=number)


def test_a_rule_that_takes_grades_sees_totals_and_the_choice_is_keyed():
    totals = np.array([3.0, 0.1, 0.2, 2.0, -1.0, 0.3])
    (lesson,) = allocation_of({"rule": "pods", "train_size": 4}).lessons([group()], [totals], 7)
    wanted = pods(totals, 4, [5, SELECTION_STREAM, 7, 0])
    np.testing.assert_array_equal(lesson.selection.train_G, wanted.train_G)
    assert lesson.belief is None


@pytest.mark.parametrize("correction", ["plain", "ipw", "doubly_robust"])
@pytest.mark.parametrize("survival", [1.0, 0.5])
@pytest.mark.parametrize("kept", [[1] * 6, [1, 1, 0, 1, 0, 1]])
def test_equal_survivors_of_a_draw_train_where_they_weigh_for_stopped_siblings(correction, survival, kept):
    labels = np.where(kept, 1.0, np.nan)
    options = {"rule": "aero", "posterior": {"used_for": "nothing"}}
    one = group_of(kept, [survival] * 6, labels)
    (lesson,) = allocation_of(options, correction=correction).lessons([one], [labels], 1)
    assert lesson.selection.train_G.any() == (correction != "plain" and survival < 1)


def test_a_rule_that_judges_outcomes_sees_labels():
    totals = np.where(LABELS > 0, 5.0, -2.0)
    options = {"rule": "aero", "posterior": {"used_for": "nothing"}}
    (lesson,) = allocation_of(options).lessons([group()], [totals], 1)
    assert lesson.selection.train_G[LABELS == 1].all()
    assert lesson.selection.train_G.sum() == 4
    np.testing.assert_array_equal(lesson.selection.factor_G[lesson.selection.train_G & (LABELS == 0)], 2.0)


def test_the_belief_is_of_earlier_visits_and_this_one():
    history = PromptHistory(discount=0.5)
    history.observe("p0", 6.0, 8.0)
    (lesson,) = allocation_of({"posterior": {"used_for": "advantage"}}, history).lessons([group()], [LABELS], 1)
    assert lesson.belief == Belief(1 + 3 + 2, 1 + 1 + 4)
    assert lesson.selection.is_whole


def test_a_right_answer_whose_reward_a_penalty_took_to_0_is_no_outcome():
    """At the limit the whole penalty is due: read as a failure, it would make its whole group one."""
    allocation = allocation_of({"posterior": {"used_for": "advantage"}})
    with pytest.raises(ConfigError, match="used_for = 'advantage': a rollout got reward 0"):
        allocation.lessons([group(np.ones(6))], [np.array([0.0, 1, 1, 1, 1, 1])], 1)


def test_rows_without_a_reward_are_neither_judged_nor_counted():
    totals = np.array([1.0, 0.0, np.nan, 1.0, 0.0, np.nan])
    allocation = allocation_of("dapo")
    (lesson,) = allocation.lessons([group()], [totals], 1)
    assert lesson.selection.is_whole
    (lesson,) = allocation.lessons([group(np.ones(6))], [np.where(totals == 0, np.nan, totals)], 1)
    assert not lesson.selection.train_G.any()
    assert allocation.metrics() == {
        "allocation/dropped/uniform": 2.0,
        "allocation/tokens_dropped": 1.0 + 4.0,
        "allocation/prompts_trained": 0.0,
    }


def test_metrics_are_of_the_last_batch():
    allocation = allocation_of({"rule": "cppo", "train_size": 2})
    for _ in range(2):
        allocation.lessons([group(), group(number=1)], [LABELS, LABELS], 1)
    assert allocation.metrics()["allocation/dropped/surplus"] == 8.0
    assert allocation.metrics()["allocation/prompts_trained"] == 2.0


def test_a_posterior_of_grades_is_refused():
    with pytest.raises(ConfigError, match=r"a rollout got reward 0\.25"):
        allocation_of("aero").lessons([group()], [np.where(LABELS > 0, 1.0, 0.25)], 1)


@pytest.mark.parametrize(
    ("options", "differs"),
    [({}, False), ({"posterior": {"used_for": "advantage"}}, True), ("dapo", True), ("pods", True)],
)
def test_uniform_without_a_posterior_does_nothing(options, differs):
    assert acts(parse_host({"allocation": options}).allocation) is differs


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"allocation": "mopps"}, ["allocation.rule = 'mopps'", "sampler chooses the prompts", "pods"]),
        ({"allocation": "pilot_commit"}, ["allocation.rule = 'pilot_commit'", "computes rewards after all rollouts"]),
        (
            {"allocation": "knapsack"},
            ["allocation.rollout_budget = 0", "from 8 (allocation.least per prompt) to 32 rows"],
        ),
        ({"allocation": {"rule": "knapsack", "rollout_budget": 33}}, ["allocation.rollout_budget = 33"]),
        (
            {"allocation": {"rule": "knapsack", "rollout_budget": 16, "max_group": 9}},
            ["allocation.max_group = 9", "num_generations = 8"],
        ),
        ({"allocation": {"rule": "aero", "rescue_step": 4}}, ["allocation.rescue_step = 4", "leave it out"]),
        ({"allocation": {"rule": "dapo", "max_draws": 2}}, ["allocation.max_draws = 2"]),
        ({"allocation": {"token_budget": 9}}, ["allocation.token_budget = 9"]),
        ({"allocation": {"posterior": {"used_for": "allocation"}}}, ["used_for = 'allocation'", "'advantage'"]),
        ({"allocation": {"rule": "pods", "train_size": 9}}, ["allocation.train_size = 9", "num_generations = 8"]),
        ({"allocation": {"rule": "reinforce_ada", "keep_size": 12}}, ["allocation.keep_size = 12"]),
        ({"allocation": "aero", "algorithm": "mc_grpo"}, ["algorithm = 'mc_grpo'"]),
    ],
)
def test_what_trl_does_not_allow_is_one_line(options, words):
    with pytest.raises(ConfigError) as error:
        refuse_impossible(parse_host(options), 8, 32)
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words), error.value


def test_every_rule_is_possible_or_has_its_reason():
    from arrol.configs.allocation import ALLOCATIONS

    assert USED.keys() | REASONS.keys() == ALLOCATIONS.keys()
    assert not USED.keys() & REASONS.keys()
    for name, fields in USED.items():
        assert fields <= ALLOCATIONS[name].model_fields.keys()
        refuse_unused(ALLOCATIONS[name](), USED, REASONS, "TRL")
    with pytest.raises(ConfigError, match="scale_rewards = 'batch'"):
        refuse_impossible(parse_host({"algorithm": "mc_grpo"}), 8, 32, "batch")


def test_a_budget_is_shared_by_the_processes():
    allocation = parse_host({"allocation": {"rule": "knapsack", "rollout_budget": 24}}).allocation
    shared = share_of(allocation, 8, 2)
    assert (shared.rollout_budget, shared.max_group) == (12, 8)
    uniform = parse_host({}).allocation
    assert share_of(uniform, 8, 2) is uniform


def test_sizes_are_the_hosts_own_unless_the_rule_says_them():
    prompts = [("a", 6), ("b", 6)]
    assert allocation_of({"rule": "aero"}).sizes(prompts, 1, 0) == [6, 6]
    history = PromptHistory(discount=1.0)
    history.observe("a", 0.0, 60.0)
    history.observe("b", 20.0, 60.0)
    config = parse_host({"allocation": {"rule": "knapsack", "rollout_budget": 8, "max_group": 6}}).allocation
    allocation = HostAllocation(config, StepShape(2, 6), history, seed=0, correction="plain")
    assert allocation.sizes(prompts, 1, 0) == [2, 6]
    assert allocation.metrics() == {"allocation/prompts_drawn": 2.0, "allocation/rollouts_asked": 8.0}
