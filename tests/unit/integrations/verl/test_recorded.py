"""A group as the record keeps it: what verl tells, what it does not, and its advantages."""

import numpy as np
import pytest

from arrol.integrations.verl.recorded import AskedPrompt, SettledGroup, WrittenText, recorded_group, verl_advantages
from arrol.types import FinishReason, Rollout, RolloutId
from integrations.groups import group_of

ASKED = AskedPrompt("uid", "a question", "7")
REWARDS = [0.25, np.nan, 1.0, 0.0]


def settled(ends=None, left_out=("",) * 4, rewards=REWARDS):
    group = group_of([1, 0, 1, 1], [0.5, 0.5, 0.5, 1.0], [0, 0, 1, 0], lengths=[3, 2, 3, 1])
    return SettledGroup(group, np.array(rewards), ends or {}, left_out)


def text(index, word, **changes):
    token_ids = np.frombuffer(word.encode(), np.uint8).astype(np.int32)
    values = {"logprobs_T": np.full(len(token_ids), -1, np.float32), "answer": None, **changes}
    return {RolloutId(1, 0, index): WrittenText(np.array([ord("q")], np.int32), token_ids, **values)}


def recorded(known, written, rows=((("uid", 0)), ("uid", 2), ("uid", 3)), scale="std"):
    return recorded_group(known, ASKED, written, rows, scale=scale)


def test_texts_replace_what_the_service_did_not_know():
    found = recorded(settled(), {**text(0, "abc", answer="c"), **text(1, "ab", logprobs_T=None)})
    first, stopped, lost, _ = found.group.rollouts
    assert (first.completion.token_ids, first.answer) == ((97, 98, 99), "c")
    np.testing.assert_array_equal(first.completion.sampler_logprobs_T, [-1, -1, -1])
    assert np.isnan(stopped.completion.sampler_logprobs_T).all()
    assert lost.completion.token_ids == (-1, -1, -1)
    assert [rollout.reward for rollout in found.group.rollouts] == [0.25, None, 1.0, 0.0]
    assert [rollout.success for rollout in found.group.rollouts] == [0, None, 1, 0]
    prompt = found.group.prompt
    assert (prompt.token_ids, prompt.text, prompt.answer) == ((ord("q"),), "", "7")
    assert first.decision == settled().group.rollouts[0].decision


def test_log_probabilities_of_another_length_are_unknown():
    found = recorded(settled(), text(0, "abc", logprobs_T=np.zeros(2, np.float32)))
    assert np.isnan(found.group.rollouts[0].completion.sampler_logprobs_T).all()


def test_without_a_text_the_messages_are_the_prompt():
    assert recorded(settled(), {}).group.prompt.text == "a question"


def test_a_complete_rollout_without_a_reward_did_not_fail():
    """The service counts it as failed; its end is known all the same."""
    known = settled({0: FinishReason.LENGTH}, rewards=[np.nan, np.nan, 1.0, 0.0])
    first = known.group.rollouts[0]
    known.group.rollouts[0] = Rollout(first.rollout_id, first.completion, first.decision)
    first.completion.finish_reason = FinishReason.ERROR
    found = recorded(known, {}, rows=[("uid", 2), ("uid", 3)])
    assert found.group.rollouts[0].completion.finish_reason is FinishReason.LENGTH
    assert np.isnan(found.group.rollouts[0].success)
    assert found.left_out_G == ["unrewarded", "", "", ""]
    del known.ends[0]
    assert recorded(known, {}).group.rollouts[0].success is None


@pytest.mark.parametrize(
    ("left_out", "rows", "wanted"),
    [
        (["", "", "", ""], [("uid", 0), ("uid", 2), ("uid", 3)], ["", "", "", ""]),
        (["", "", "", "surplus"], [("uid", 0), ("uid", 2)], ["", "", "", "surplus"]),
        (["", "", "", "surplus"], [("other", 0)], ["filtered", "", "filtered", "surplus"]),
        (["", "", "", "surplus"], None, ["", "", "", "surplus"]),
    ],
)
def test_what_trains_is_what_the_sampler_chose(left_out, rows, wanted):
    found = recorded(settled(left_out=left_out), {}, rows)
    assert found.left_out_G == wanted
    trains = [float(not reason and index != 1) for index, reason in enumerate(wanted)]
    assert found.weight_G.tolist() == trains
    assert [advantage == 0 for advantage in found.advantage_G] == [weight == 0 for weight in trains] or rows is None


def test_advantages_by_hand():
    """Rewards 0, 1, 1, 0, of which the last does not train: mean 2/3, squared distances 4/9, 1/9, 1/9, sum 2/3; with
    n - 1 = 2 the variance is 1/3."""
    total_G, trains_G = np.array([0.0, 1, 1, 0]), np.array([True, True, True, False])
    wanted_G = np.array([-2 / 3, 1 / 3, 1 / 3, 0])
    np.testing.assert_allclose(verl_advantages(total_G, trains_G, "none"), wanted_G)
    np.testing.assert_allclose(verl_advantages(total_G, trains_G, "std"), wanted_G / (3**-0.5 + 1e-6))
    np.testing.assert_array_equal(verl_advantages(total_G, trains_G, "unknown"), [np.nan, np.nan, np.nan, 0])
    alone_G = np.array([False, True, False, False])
    np.testing.assert_allclose(verl_advantages(total_G, alone_G, "std"), [0, 1, 0, 0], atol=1e-5)
    np.testing.assert_array_equal(verl_advantages(total_G, ~np.ones(4, bool), "std"), np.zeros(4))
