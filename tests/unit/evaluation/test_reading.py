"""Reading a completion again says what the engine said when it wrote it."""

import numpy as np
import pytest
import torch
from tests.unit.engines.embedded.test_engine import LAYOUT, PROMPTS, Spy, requests_for

from arrol.configs.run import EngineConfig
from arrol.engines.embedded.engine import EmbeddedEngine
from arrol.evaluation import reading
from arrol.evaluation.reading import read_completions
from arrol.quality.features import END
from arrol.types import SamplingParams


@pytest.fixture
def written(any_model):
    engine = EmbeddedEngine(any_model, EngineConfig(), LAYOUT, shows_ends=True)
    params = SamplingParams(14, temperature=0.7, stop_token_ids=(4, 7, 9))
    groups = engine.generate(requests_for(PROMPTS, 3), params, seed=2, controller=Spy((3,)))
    return [(PROMPTS[number], completion) for number, group in enumerate(groups) for completion in group]


def read(model, written, **options):
    pairs = [(prompt, completion.token_ids) for prompt, completion in written]
    return read_completions(model, pairs, layout=LAYOUT, lengths=(3, END), temperature=0.7, **options)


def test_logprobs_and_features_are_those_of_the_engine(any_model, written):
    for (_, completion), again in zip(written, read(any_model, written), strict=True):
        np.testing.assert_allclose(again.logprob_T, completion.sampler_logprobs_T, atol=1e-4)
        assert again.features_at.keys() == completion.features_at.keys()
        for length, features in completion.features_at.items():
            np.testing.assert_allclose(again.features_at[length], features, atol=1e-3)


def test_the_split_into_batches_changes_nothing(any_model, written, monkeypatch):
    whole = read(any_model, written)
    monkeypatch.setattr(reading, "BATCH_TOKENS", 40)
    monkeypatch.setattr(reading, "LOGIT_CHUNK", 5 * any_model.config.vocab_size)
    for one, other in zip(whole, read(any_model, written), strict=True):
        np.testing.assert_allclose(one.confidence_T, other.confidence_T, atol=1e-5)
        np.testing.assert_allclose(one.logprob_T, other.logprob_T, atol=1e-5)


def test_confidence_is_high_where_the_model_is_peaked(any_model, written):
    flat = read(any_model, written, top_k=5)
    with torch.no_grad():
        any_model.get_output_embeddings().weight.mul_(10.0)
    peaked = read(any_model, written, top_k=5)
    assert np.mean([r.confidence_T.mean() for r in peaked]) > np.mean([r.confidence_T.mean() for r in flat])


def test_the_whole_vocabulary_is_the_most_that_k_can_be(any_model, written):
    (one, *_) = read(any_model, written, top_k=10**6)
    (same, *_) = read(any_model, written, top_k=any_model.config.vocab_size)
    np.testing.assert_array_equal(one.confidence_T, same.confidence_T)


def test_an_empty_completion_reads_as_nothing(any_model):
    (empty, one) = read_completions(any_model, [((5, 6), ()), ((5,), (7,))], layout=LAYOUT)
    assert (len(empty.logprob_T), len(empty.confidence_T), empty.features_at) == (0, 0, {})
    assert (len(one.logprob_T), one.features_at) == (1, {})
