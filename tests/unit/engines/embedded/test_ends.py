"""What a completion shows at its end: the last token that was fed, with or without a probe before it."""

import numpy as np
import pytest
from tests.unit.engines.embedded.test_engine import LAYOUT, PROMPTS, Spy, forward, requests_for

from arrol.configs.run import EngineConfig
from arrol.engines.embedded.engine import EmbeddedEngine
from arrol.errors import ConfigError
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


class Letters:
    """Token n decodes to one letter, or to two for every third token."""

    eos_token_id = None

    def decode(self, token_ids, skip_special_tokens=False):
        return "".join(chr(97 + n % 26) + ("#" if n % 3 == 0 else "") for n in token_ids)


def stopped_at(stop, completion, text_of):
    """Tokens up to the one that completes the first stop string."""
    for count in range(1, completion.num_tokens + 1):
        if any(text in text_of(completion.token_ids[:count]) for text in stop):
            return completion.token_ids[:count]
    return completion.token_ids


@pytest.mark.parametrize("rows", [2, 16])
@pytest.mark.parametrize("spy", [None, Spy((3,))], ids=["alone", "probed"])
def test_a_stop_string_ends_a_completion_and_changes_no_other_token(any_model, rows, spy):
    letters = Letters()

    def written(stop):
        engine = EmbeddedEngine(any_model, EngineConfig(max_rows=rows), LAYOUT, tokenizer=letters)
        params = SamplingParams(14, stop_token_ids=PARAMS.stop_token_ids, stop=stop)
        groups = engine.generate(requests_for(PROMPTS, 6), params, seed=2, controller=spy)
        return [completion for group in groups for completion in group]

    whole = written(())
    texts = [letters.decode(completion.token_ids) for completion in whole]
    stop = tuple({text[4:6] for text in texts if len(text) > 6}) + ("#",)
    found = written(stop)
    expected = [stopped_at(stop, completion, letters.decode) for completion in whole]
    assert [completion.token_ids for completion in found] == expected
    shorter = [new for new, old in zip(found, whole, strict=True) if new.num_tokens < old.num_tokens]
    assert len(shorter) > 5
    assert {completion.finish_reason for completion in shorter} == {FinishReason.STOP}
    for new, old in zip(found, whole, strict=True):
        np.testing.assert_allclose(new.sampler_logprobs_T, old.sampler_logprobs_T[: new.num_tokens], atol=1e-5)


def test_a_stop_string_needs_a_tokenizer(make_model):
    engine = EmbeddedEngine(make_model(), EngineConfig(), LAYOUT)
    with pytest.raises(ConfigError, match=r"sampling.stop = \['x'\]: this engine reads no text"):
        engine.generate(requests_for(PROMPTS, 1), SamplingParams(4, stop=("x",)), seed=0)
