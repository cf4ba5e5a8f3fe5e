"""Where the tokens went, counted by hand."""

import numpy as np
import pytest

from arrol.pruning.ledger import Ledger, answer_metrics, sampling_metrics, survivor_metrics
from arrol.types import Completion, FinishReason, Prompt, PruningDecision, Reason, Rollout, RolloutGroup, RolloutId
from rollouts import group_of


def rollout(index, tokens, reason="stop", survival=None):
    rollout_id, finish = RolloutId(1, 0, index), FinishReason(reason)
    decision = None
    if survival is not None:
        decision = PruningDecision(rollout_id, 0, finish is not FinishReason.PRUNED, survival, Reason.DRAW)
    completion = Completion((1,) * tokens, np.zeros(tokens, np.float32), finish)
    return Rollout(rollout_id, completion, decision)


def group(*rollouts):
    return RolloutGroup(Prompt("p", (1,), "", ""), list(rollouts))


MIXED = group(
    rollout(0, 3),  # ended before the probe: says nothing about candidates
    rollout(1, 20, "length", 0.5),
    rollout(2, 10, "stop", 0.25),
    rollout(3, 8, "pruned", 0.5),
    rollout(4, 15, "pruned", 0.5),
)


def test_one_step_by_hand():
    """Kept candidates weigh 2 and 4: expected length (2 x 20 + 4 x 10) / 6 = 13.33.

    Saved: 5.33 by the first stop, nothing by the second, which is already longer.
    """
    figures = Ledger().generated([MIXED])
    assert figures["tokens/generated"] == 56
    assert figures["tokens/wasted"] == 23
    assert figures["tokens/saved"] == pytest.approx(40 / 3 - 8)
    assert figures["rollout/finish/stop"] == 2
    assert figures["rollout/finish/length"] == 1
    assert figures["rollout/finish/pruned"] == 2
    assert figures["rollout/finish/error"] == 0


@pytest.mark.parametrize(
    "rollouts",
    [
        (rollout(0, 5), rollout(1, 9)),  # none stopped
        (rollout(0, 30), rollout(1, 9, "pruned", 0.5)),  # no candidate kept
        (),
    ],
)
def test_nothing_is_claimed_without_evidence(rollouts):
    assert Ledger().generated([group(*rollouts)])["tokens/saved"] == 0


def test_totals_add_up_and_survive_a_restart():
    ledger = Ledger()
    ledger.generated([MIXED])
    ledger.learned(scored=7, trained=11)
    again = Ledger()
    again.load(ledger.save())
    for each in (ledger, again):
        step = each.generated([MIXED, MIXED])
        each.learned(scored=1, trained=2)
        assert step["tokens/generated"] == 112
    assert again.metrics() == ledger.metrics()
    assert ledger.metrics()["total/tokens/generated"] == 168
    assert ledger.metrics()["total/tokens/scored"] == 8
    assert ledger.metrics()["total/tokens/trained"] == 13
    assert ledger.metrics()["total/rollout/finish/pruned"] == 6


def test_a_saved_state_is_not_the_live_one():
    ledger = Ledger()
    ledger.learned(scored=1, trained=1)
    state = ledger.save()
    ledger.learned(scored=1, trained=1)
    assert state["tokens/scored"] == 1


def compute(generated, scored, trained):
    """FLOPs of one step of a model with 3 parameters."""
    ledger = Ledger(3)
    ledger.generated([group(rollout(0, generated))])
    return ledger.learned(scored=scored, trained=trained)["compute/flops"]


def test_compute_is_two_two_and_six_per_token_and_parameter():
    assert compute(100, 40, 10) == 3 * (200 + 80 + 60)
    ledger = Ledger(1)
    for tokens in (10, 20):
        ledger.generated([group(rollout(0, tokens))])
        ledger.learned(scored=0, trained=tokens)
    assert ledger.totals["compute/flops"] == 8 * 30
    assert "compute/flops" not in Ledger().learned(scored=1, trained=1)


@pytest.mark.parametrize(
    ("share", "scored", "full_scored"), [(0.40, 400, 1000), (0.424, 848, 2000), (0.20, 1000, 1000)]
)
def test_what_may_be_trained_at_052_of_full_cost(share, scored, full_scored):
    """.40 of the generated tokens when those are scored that train, .424 with a reference, .20 when all are scored."""
    full = compute(1000, full_scored, 1000)
    assert compute(1000, scored, round(share * 1000)) / full == pytest.approx(0.52, abs=1e-3)


def test_success_is_read_from_labels_and_a_dead_group_from_its_rewards():
    """Equal rewards teach nothing, whatever their size; rewards of mean 1 or 0 may teach."""
    shaped, equal = group_of([0.0, 2.0, 0.4, None]), group_of([0.3, 0.3])
    for one, success in zip(shaped.rollouts, (0.0, 1.0, 1.0, None), strict=True):
        one.success = success
    after = survivor_metrics([shaped, equal])
    assert after["rollout/dead_group_frac"] == 0.5
    assert after["rollout/success_frac_after"] == pytest.approx(2 / 5)
    assert after["rollout/outcome_variance/mean"] == pytest.approx((2 / 9 + 0) / 2)
    assert sampling_metrics([shaped, equal])["rollout/success_frac_before"] == pytest.approx(2 / 5)
    assert survivor_metrics([group_of([None, None])])["rollout/dead_group_frac"] == 1.0


def test_answers_found_are_counted_among_the_verified():
    read, unread = group_of([1.0, 0.0, None]), group_of([0.0])
    read.rollouts[0].answer = "7"
    assert answer_metrics([read, unread]) == {"rollout/answered_frac": pytest.approx(1 / 3)}
    assert np.isnan(answer_metrics([group_of([None])])["rollout/answered_frac"])


def test_the_spread_of_rewards_is_over_all_prompts():
    assert survivor_metrics([group_of([0.0, 0.0]), group_of([1.0, None])])["rollout/reward_std"] == pytest.approx(
        (2 / 9) ** 0.5
    )
    assert np.isnan(survivor_metrics([group_of([None])])["rollout/reward_std"])
