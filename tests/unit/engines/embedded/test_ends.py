"""What a completion shows at its end: the last token that was fed, with or without a probe before it."""

import numpy as np
import pytest
from tests.unit.engines.embedded.test_engine import LAYOUT, PROMPTS, Spy, forward, requests_for

from arrol.configs.run import EngineConfig
from arrol.engines.embedded.engine import EmbeddedEngine
from arrol.quality.features import END
from arrol.types import FinishReason, SamplingParams

PARAMS = SamplingParams(14, stop_token_ids=(4, 7, 9))


def ends_of(model, spy=None):
    engine = EmbeddedEngine(model, EngineConfig(max_rows=5), LAYOUT, shows_ends=True)
    return engine.generate(requests_for(PROMPTS, 4), PARAMS, seed=2, controller=spy)


@pytest.mark.parametrize("spy", [None, Spy((3,))], ids=["alone", "probed"])
def test_ends_equal_a_forward_pass(any_model, spy):
    lengths = set()
    for number, group in enumerate(ends_of(any_model, spy)):
        for completion in group:
            logprobs, hidden = forward(any_model, PROMPTS[number], completion.token_ids)
            fed = completion.num_tokens - 1
            if fed == 0:
                assert END not in completion.features_at
                continue
            lengths.add(fed)
            seen = logprobs[:fed]
            expected = [*hidden[fed - 1], *hidden[:fed].mean(0), seen.sum(), seen.min(), seen.mean()]
            np.testing.assert_allclose(completion.features_at[END], expected, atol=1e-4)
    assert len(lengths) > 2


def test_a_stopped_rollout_has_no_end_to_show(make_model):
    asked = [rollout_id for request in requests_for(PROMPTS, 4) for rollout_id in request.rollout_ids]
    groups = ends_of(make_model(), Spy((3,), stops=[rollout_id for rollout_id in asked if rollout_id.index == 1]))
    stopped = [c for group in groups for c in group if c.finish_reason is FinishReason.PRUNED]
    assert stopped
    assert all(END not in completion.features_at for completion in stopped)


def test_ends_are_shown_only_on_request(make_model):
    engine = EmbeddedEngine(make_model(), EngineConfig(), LAYOUT)
    groups = engine.generate(requests_for(PROMPTS, 2), PARAMS, seed=2)
    assert not any(completion.features_at for group in groups for completion in group)
