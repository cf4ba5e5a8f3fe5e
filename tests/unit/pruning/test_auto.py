"""Rule ``auto``: when it stops, what it remembers, what it says."""

import numpy as np
import pytest

from arrol.configs.method import AutoRule
from arrol.pruning.auto import MIN_GROUPS, MIN_MERIT, RECENT_STEPS, AutoChoice, Thinning
from arrol.pruning.survival import Candidates
from arrol.types import (
    Completion,
    Contribution,
    FinishReason,
    Prompt,
    PruningDecision,
    Reason,
    Rollout,
    RolloutGroup,
    RolloutId,
)

SIZE, GROUPS, TOKENS = 8, 16, 100
RULE = AutoRule(probe_tokens=(10,), warmup_steps=0)


def play(choice, step, *, dead=0.5, live=0.5, probes=1, seed=0, count=GROUPS):
    """One step. A share of the prompts never succeeds and looks like it; the others succeed at the rate ``live``."""
    rng = np.random.default_rng([seed, step])
    groups, outcomes = [], []
    for number in range(count):
        rate = 0.0 if number < dead * count else live
        ids = [RolloutId(step, number, index) for index in range(SIZE)]
        candidates = Candidates(np.full(SIZE, 0.01 + rate), np.full(SIZE, number), history_C=np.full(SIZE, 0.01 + rate))
        survival = np.ones(SIZE)
        for probe in range(probes):
            choice.note(ids, probe, candidates)
            if choice.stops_at(probe):
                survival = choice.survival(candidates)
        reward, kept = (rng.random(SIZE) < rate).astype(float), rng.random(SIZE) < survival
        rollouts = []
        for index, rollout_id in enumerate(ids):
            reason = FinishReason.STOP if kept[index] else FinishReason.PRUNED
            tokens = TOKENS if kept[index] else 10
            completion = Completion((1,) * tokens, np.full(tokens, -1.0, np.float32), reason)
            decision = PruningDecision(rollout_id, 0, bool(kept[index]), survival[index], Reason.DRAW)
            rollouts.append(Rollout(rollout_id, completion, decision, reward[index] if kept[index] else None))
        groups.append(RolloutGroup(Prompt("p", (0,), "", ""), rollouts))
        outcomes.append(Contribution(np.where(kept, reward - rate, 0.0), np.ones(SIZE)))
    choice.learn(groups, outcomes)
    return groups


def run(rule=RULE, steps=12, **population):
    choice = AutoChoice(rule)
    for step in range(1, steps + 1):
        play(choice, step, **population)
    return choice


def test_it_stops_where_that_pays_and_finds_most_of_the_gain():
    """Half of the prompts are dead: their rollouts cost 200 of (200 + 800) / 2. Stopped at 10 tokens: 1000 / 838."""
    choice = run()
    assert choice.choice.probe == 0
    assert MIN_MERIT < choice.choice.low <= choice.choice.merit < 1000 / 820
    assert choice.choice.merit > 1.12
    survival = choice.survival(Candidates(np.array([0.01, 0.51]), np.arange(2)))
    assert survival[1] == pytest.approx(1.0, abs=0.05)
    assert survival[0] < 0.3


@pytest.mark.parametrize("dead", [0.0, 1.0])
def test_it_keeps_everything_where_nothing_tells_candidates_apart(dead):
    choice = run(dead=dead)
    assert choice.choice.probe is None
    assert choice.metrics()["pruning/auto/probe_tokens"] == 0.0
    assert choice.metrics()["pruning/auto/keep"] == 1.0
    assert not choice.stops_at(0)


def test_it_keeps_everything_until_enough_groups_are_known():
    choice = run(steps=MIN_GROUPS // GROUPS - 1)
    assert choice.choice.probe is None
    assert np.isnan(choice.metrics()["pruning/auto/merit"])
    play(choice, MIN_GROUPS // GROUPS)
    assert choice.choice.merit > 1.05
    assert run().choice.probe == 0


def test_what_no_group_has_shown_yet_counts_as_noise_of_unequal_survival(monkeypatch):
    """The same groups and curves: without the allowance stopping looks better."""
    careful = run().choice
    monkeypatch.setattr("arrol.pruning.moments.Curve.unknown", lambda self, signal_C: np.zeros(len(signal_C)))
    careless = run().choice
    assert not careful.is_alike
    assert careful.merit < careless.merit


def test_keep_ratio_is_the_least_share_it_keeps():
    low, high = (run(RULE.model_copy(update={"keep_ratio": ratio})).choice.keep for ratio in (0.2, 0.8))
    assert low < 0.7
    assert high >= 0.8


def test_unequal_survival_must_lead_by_a_margin(monkeypatch):
    """Half of the prompts are dead, so it pays here, by less than a larger margin."""
    choice = run().choice
    assert (choice.probe, choice.is_alike) == (0, False)
    monkeypatch.setattr("arrol.pruning.auto.UNLIKE_MARGIN", 1.2)
    assert run().choice.probe is None


def test_dear_training_makes_stopping_dead_groups_pay_less():
    """They do not train, so only generation is saved."""
    assert run(RULE.model_copy(update={"trained_price": 60.0})).choice.probe is None


def test_it_prefers_the_earlier_of_two_probes_that_show_the_same():
    choice = run(AutoRule(probe_tokens=(10, 50), warmup_steps=0), probes=2)
    assert choice.choice.probe == 0


def test_only_recent_steps_are_remembered():
    choice = run(steps=RECENT_STEPS + 3)
    steps = choice.save()["memory"][:, 0]
    assert (steps.min(), steps.max()) == (4, RECENT_STEPS + 3)
    assert choice.metrics()["pruning/auto/groups"] <= RECENT_STEPS * GROUPS


def test_small_steps_are_remembered_until_there_are_groups_enough():
    """Two groups a step, as with large groups of few prompts: 16 steps alone would never be enough."""
    choice = run(steps=MIN_GROUPS, count=2)
    assert choice.metrics()["pruning/auto/groups"] == MIN_GROUPS
    steps = choice.save()["memory"][:, 0]
    assert (steps.min(), steps.max()) == (MIN_GROUPS // 2 + 1, MIN_GROUPS)
    assert np.isfinite(choice.choice.merit)


def test_it_goes_on_as_before_after_a_restart():
    first = run(steps=9)
    second = AutoChoice(RULE)
    second.load(first.save())
    assert second.choice == first.choice
    for step in range(10, 14):
        play(first, step)
        play(second, step)
        assert second.choice == first.choice
        np.testing.assert_array_equal(second.save()["memory"], first.save()["memory"])
    assert second.metrics() == first.metrics()


def test_a_memory_of_stopped_groups_says_what_one_of_kept_groups_says():
    """Survivors, weighted, teach all: the merit beside keeping all is the same, whatever was stopped."""
    stopped = run(steps=16)
    never = run(RULE.model_copy(update={"keep_ratio": 1.0}), steps=16)
    assert never.choice.probe is None
    kept = AutoChoice(RULE)
    kept.load(never.save())
    assert kept.choice.merit == pytest.approx(stopped.choice.merit, rel=0.05)


def test_random_stops_pay_where_prompts_differ_more_than_the_group_can_average():
    """All prompts alike, one in two right, groups of 8: noise within prompts is only a part of all noise."""
    assert run(dead=0.0).choice.probe is None
    alike = run(RULE.model_copy(update={"noise_ratio": 1.0}), dead=0.0).choice
    assert alike.probe == 0
    assert alike.merit > 1.2
    assert run(RULE.model_copy(update={"noise_ratio": 100.0}), dead=0.0).choice.probe is None


def test_decode_steps_make_it_stop_what_runs_longest():
    """Nothing tells rollouts apart at 10 tokens; a step lasts as long as its longest rollout."""
    rule = AutoRule(probe_tokens=(10, 90), warmup_steps=0, noise_ratio=4.0, step_price=40000.0, trained_price=0.0)
    choice = AutoChoice(rule)
    lengths = np.full(16, 20.0)
    choice.load({"memory": tail_memory(lengths, longest=1000.0)})
    assert choice.choice.probe == 1
    assert choice.choice.keep < 0.5
    assert choice.choice.merit > 1.5
    choice = AutoChoice(rule.model_copy(update={"step_price": 0.0, "trained_price": 6.0}))
    choice.load({"memory": tail_memory(lengths, longest=1000.0)})
    assert choice.choice.probe != 1


def tail_memory(lengths, steps=8, groups=16, longest=None):
    """Groups whose rollouts have these lengths, one in two right; candidates at 10, and at 90 the longer ones.

    The first rollout of a step is the longest.
    """
    rng, rows = np.random.default_rng(0), []
    for step in range(1, steps + 1):
        for group in range(groups):
            for index, right in enumerate(rng.random(len(lengths)) < 0.5):
                tokens = longest if longest and group == index == 0 else lengths[index]
                second = 0.25 if tokens > 90 else np.nan
                rows.append([step, group, 1.0, right - 0.5, 1.0, tokens, 0.25, second])
    return np.array(rows)


def test_a_lottery_before_the_update_makes_training_cheaper_and_stopping_pay_less():
    """Where small contributions rarely train anyway, stopped rollouts save less."""
    rule = RULE.model_copy(update={"noise_ratio": 1.0, "trained_price": 60.0})
    merits = []
    for thinning in (Thinning(), Thinning(kept=2.0, pruned=2.0), Thinning(kept=0.0, pruned=2.0)):
        choice = AutoChoice(rule, thinning)
        for step in range(1, 9):
            play(choice, step, dead=0.0)
        merits.append(choice.choice.merit)
    none, both, after = merits
    assert after > none
    assert after > both


def lottery_of(rate, steps=8):
    """After groups of this success rate, none of which looks like anything."""
    choice = AutoChoice(RULE, Thinning(is_chosen=True))
    for step in range(1, steps + 1):
        play(choice, step, dead=0.0, live=rate)
    return choice


def test_a_lottery_is_chosen_where_small_advantages_cost_as_much_as_large_ones():
    """At a rate of .1 nine of ten rollouts have an advantage of -.1, and the tenth one of .9."""
    choice = lottery_of(0.1)
    assert choice.thinning == choice.metrics()["pruning/auto/lottery"] >= 0.5
    assert choice.metrics()["pruning/auto/lottery_merit"] > MIN_MERIT
    assert choice.choice.probe is None


def test_no_lottery_where_all_advantages_are_of_one_size():
    choice = lottery_of(0.5)
    assert choice.thinning == 0.0
    assert choice.metrics()["pruning/auto/lottery_merit"] <= 1.0


def test_the_config_says_the_lottery_unless_it_is_chosen():
    choice = run()
    assert choice.thinning is None
    assert "pruning/auto/lottery" not in choice.metrics()


def test_the_lottery_follows_from_the_memory():
    first = lottery_of(0.1)
    second = AutoChoice(RULE, Thinning(is_chosen=True))
    second.load(first.save())
    assert second.thinning == first.thinning > 0
