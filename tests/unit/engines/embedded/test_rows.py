"""Rows grow without a change to what they hold, and a suspended rollout resumes with all it had."""

import numpy as np
import torch

from arrol.engines.embedded.rows import FIRST_TOKENS, Rows
from arrol.engines.embedded.sampling import token_uniforms
from arrol.types import FinishReason, RolloutId

IDS = [RolloutId(1, 0, index) for index in range(5)]


def written(count, most=1000, hidden=3):
    """Five rows of ``count`` tokens; token t of row s is 100 s + t."""
    rows = Rows(7, most, hidden, torch.device("cpu"))
    for rollout_id in IDS:
        rows.start(rollout_id, (5, 6))
    for token in range(count):
        rows.reserve(5, token + 1)
        uniforms = [token_uniforms(7, rollout_id, token + 1)[-1] for rollout_id in IDS]
        assert rows.uniforms(slice(0, 5)).tolist() == uniforms
        token_S = torch.arange(5) * 100 + token
        rows.write(slice(0, 5), token_S, -token_S.float(), torch.zeros(5, dtype=torch.bool))
        rows.hidden_sum_SD += 1.0
    return rows


def test_memory_follows_the_tokens_in_use():
    rows = written(3, most=38_000)
    assert rows.tokens_SM.shape[1] == rows.uniforms_SM.shape[1] == FIRST_TOKENS
    rows = written(FIRST_TOKENS + 1, most=38_000)
    assert rows.tokens_SM.shape == (8, 2 * FIRST_TOKENS)
    assert written(FIRST_TOKENS + 1, most=70).tokens_SM.shape[1] == 70
    assert written(1, most=9).tokens_SM.shape[1] == 9


def test_completions_hold_what_was_written_through_growth_and_compaction():
    rows = written(FIRST_TOKENS + 5)
    rows.compact([4], [1], 4)
    assert [row.rollout_id.index for row in rows.live] == [0, 4, 2, 3]
    (one,) = rows.completions([1], {IDS[4]: FinishReason.STOP})
    assert one.token_ids == tuple(range(400, 400 + FIRST_TOKENS + 5))
    assert one.sampler_logprobs_T.tolist() == [-float(token) for token in one.token_ids]
    assert one.finish_reason is FinishReason.STOP


def test_a_suspended_rollout_resumes_with_all_it_had():
    rows = written(5)
    rows.live[3].features_at[4] = np.ones(2)
    suspended = rows.suspend(3)
    assert [one.row.rollout_id for one in suspended] == IDS[3:]
    assert suspended[0].fed == (5, 6, 300, 301, 302, 303), "the last token was never fed"
    assert [row.rollout_id for row in rows.live] == IDS[:3]
    rows.start(RolloutId(1, 9, 9), (8,))
    rows.resume(suspended[0])
    row = rows.live[4]
    assert (row.rollout_id, row.num_tokens, list(row.features_at)) == (IDS[3], 7, [4])
    assert (int(rows.token_S[4]), int(rows.count_S[4])) == (304, 5)
    assert rows.hidden_sum_SD[4].tolist() == [5.0] * 3
    assert rows.uniforms(slice(4, 5)).tolist() == [token_uniforms(7, IDS[3], 6)[-1]]
    (one,) = rows.completions([4], {IDS[3]: FinishReason.LENGTH})
    assert one.token_ids == (300, 301, 302, 303, 304)


def test_the_tail_of_a_row_is_its_last_completion_tokens():
    rows = written(5)
    assert rows.tail(2, 3) == [202, 203, 204]
    assert rows.tail(4, 9) == [400, 401, 402, 403, 404]
