"""Exact distributions, checked by counts under a fixed seed; streams that belong to one rollout."""

import numpy as np
import pytest
import torch

from arrol.engines.embedded.sampling import sample, token_uniforms
from arrol.types import RolloutId, SamplingParams

PROBS = np.array([0.4, 0.05, 0.25, 0.02, 0.18, 0.1])
LOGITS = torch.tensor(np.log(PROBS) + 1.7, dtype=torch.float32)
NUM_DRAWS = 20_000


def draw(params, logits=LOGITS, count=NUM_DRAWS):
    uniforms = torch.from_numpy(np.random.default_rng(0).random(count))
    return sample(logits.expand(count, -1), uniforms, params)


def chi_square(tokens, expected):
    """Pearson's statistic over the tokens that may occur; others must not."""
    counts = np.bincount(tokens.numpy(), minlength=len(expected))
    possible = expected > 0
    assert counts[~possible].sum() == 0, counts
    wanted = expected[possible] / expected.sum() * len(tokens)
    return float((((counts[possible] - wanted) ** 2) / wanted).sum())


def only(*tokens):
    return np.where(np.isin(np.arange(6), tokens), PROBS, 0)


@pytest.mark.parametrize(
    ("params", "expected"),
    [
        (SamplingParams(1), PROBS),
        (SamplingParams(1, temperature=2.0), PROBS**0.5),
        (SamplingParams(1, temperature=0.5), PROBS**2),
        (SamplingParams(1, top_k=3), only(0, 2, 4)),
        (SamplingParams(1, top_k=1), only(0)),
        (SamplingParams(1, top_k=99), PROBS),
        (SamplingParams(1, top_p=0.6), only(0, 2)),
        (SamplingParams(1, top_p=0.7), only(0, 2, 4)),
        (SamplingParams(1, top_p=1e-6), only(0)),
        (SamplingParams(1, top_k=2, top_p=0.6), only(0)),
        (SamplingParams(1, top_k=2, top_p=0.62), only(0, 2)),
        (SamplingParams(1, temperature=2.0, top_k=4), np.where(only(0, 2, 4, 5) > 0, PROBS**0.5, 0)),
    ],
    ids=str,
)
def test_counts_follow_the_exact_probabilities(params, expected):
    """The 99.9 % point of chi-square with 5 degrees of freedom is 20.5. With top-k 2 the first token has 8/13 = .615,
    so a nucleus of .6 holds it alone and one of .62 does not: top-p looks at what top-k left."""
    tokens, logprobs = draw(params)
    assert chi_square(tokens, expected) < 20.5
    tempered = PROBS ** (1 / params.temperature)
    np.testing.assert_allclose(logprobs, np.log(tempered / tempered.sum())[tokens], atol=1e-5)


def test_temperature_zero_takes_the_most_likely_and_reports_the_untempered_logprob():
    tokens, logprobs = draw(SamplingParams(1, temperature=0), count=9)
    assert tokens.tolist() == [0] * 9
    np.testing.assert_allclose(logprobs, np.log(0.4), atol=1e-6)


@pytest.mark.parametrize("uniform", [0.0, np.nextafter(1.0, 0.0)])
@pytest.mark.parametrize("params", [SamplingParams(1), SamplingParams(1, top_p=0.9), SamplingParams(1, top_k=2)])
def test_the_ends_of_the_unit_interval_never_hit_an_impossible_token(uniform, params):
    logits = torch.tensor([[-1e9, 0.0, 1.0, -1e9]])
    token, logprob = sample(logits, torch.tensor([uniform]), params)
    assert token.item() in (1, 2)
    assert torch.isfinite(logprob).all()


def test_a_row_does_not_know_its_neighbours():
    logits = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    uniforms = torch.linspace(0.1, 0.9, 5, dtype=torch.float64)
    for params in (SamplingParams(1), SamplingParams(1, top_p=0.8, top_k=4)):
        together = sample(logits, uniforms, params)[0]
        alone = [sample(logits[i : i + 1], uniforms[i : i + 1], params)[0].item() for i in range(5)]
        assert together.tolist() == alone


def test_half_precision_logits_are_drawn_in_single():
    tokens, logprobs = draw(SamplingParams(1), LOGITS.bfloat16())
    assert logprobs.dtype == torch.float32
    probs = LOGITS.bfloat16().double().softmax(-1).numpy()
    assert chi_square(tokens, probs) < 20.5


def test_streams_belong_to_one_rollout_and_grow_without_changing():
    ids = [RolloutId(1, 0, 0), RolloutId(1, 0, 1), RolloutId(1, 1, 0), RolloutId(2, 0, 0)]
    streams = [tuple(token_uniforms(3, rollout_id, 8)) for rollout_id in ids]
    assert len({*streams, tuple(token_uniforms(4, ids[0], 8))}) == 5
    np.testing.assert_array_equal(token_uniforms(3, ids[0], 20)[:8], streams[0])
    assert all(0 <= u < 1 for stream in streams for u in stream)


@pytest.mark.parametrize("size", [1, 2, 255, 256, 257, 1000])
def test_the_search_in_blocks_is_the_search_over_the_vocabulary(size):
    """Also for uniform numbers at both ends; tokens without mass are never drawn."""
    generator = np.random.default_rng(size)
    logits = torch.from_numpy(generator.normal(0, 3, size)).float()
    logits[generator.random(size) < 0.3] = -torch.inf
    logits[size // 2] = 1.0
    uniforms = torch.from_numpy(np.concatenate([[0.0, 1 - 2**-53], generator.random(500)]))
    tokens, logprobs = sample(logits.expand(len(uniforms), -1), uniforms, SamplingParams(1))
    mass = (logits - logits.max()).exp().double()
    expected = torch.searchsorted(mass.cumsum(0), uniforms * mass.sum(), right=True)
    assert (tokens != expected).sum() == 0
    assert torch.isfinite(logits[tokens]).all()
    torch.testing.assert_close(logprobs, logits.log_softmax(-1)[tokens], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
@pytest.mark.parametrize("params", [SamplingParams(1), SamplingParams(1, top_k=3), SamplingParams(1, temperature=0)])
def test_logits_that_are_not_finite_show_in_the_logprob(bad, params):
    logits = torch.stack([LOGITS, LOGITS.clone()])
    logits[1, 3] = bad
    tokens, logprobs = sample(logits, torch.tensor([0.5, 0.5], dtype=torch.float64), params)
    assert torch.isfinite(logprobs).tolist() == [True, False]
    assert tokens.max() < 6
