"""What the loss promises beyond the golden numbers: gradients, masks, bounds."""

from dataclasses import replace

import pytest
import torch

from arrol.algorithms.losses import Denominator, LossInputs, aggregate, policy_loss
from arrol.configs.method import DapoConfig, DrGrpoConfig, GrpoConfig

SIZES = Denominator(2.0, 6.0, 10)


def batch(seed=0, **changes):
    generator = torch.Generator().manual_seed(seed)
    sampler = -torch.rand(2, 4, generator=generator)
    inputs = LossInputs(
        (sampler + 0.05 * torch.randn(2, 4, generator=generator)).requires_grad_(),
        sampler,
        torch.tensor([[1.0, 1, 1, 1], [1, 1, 0, 0]]),
        torch.tensor([1.0, -0.5]),
        torch.tensor([1.0, 2.0]),
    )
    return replace(inputs, **changes)


def gradient(inputs, config):
    policy_loss(inputs, config, SIZES)[0].backward()
    return inputs.policy_logprobs_RT.grad


def test_on_policy_gradient_is_the_weighted_advantage():
    inputs = batch()
    inputs = replace(inputs, policy_logprobs_RT=inputs.sampler_logprobs_RT.clone().requires_grad_())
    expected = -torch.tensor([[1.0] * 4, [-1.0, -1.0, 0, 0]])
    torch.testing.assert_close(gradient(inputs, DrGrpoConfig()), expected / (2 * 10))


def test_nothing_behind_the_mask_matters_not_even_an_overflow():
    clean, dirty = batch(), batch()
    policy = dirty.policy_logprobs_RT.detach().clone()
    policy[1, 2:] = 80.0
    dirty = replace(dirty, policy_logprobs_RT=policy.requires_grad_())
    config = GrpoConfig(kl_coef=0.1, importance_cap=2.0)
    extra = {"learner_logprobs_RT": clean.sampler_logprobs_RT - 0.1, "reference_logprobs_RT": clean.sampler_logprobs_RT}
    one, _ = policy_loss(replace(clean, **extra), config, SIZES)
    two, _ = policy_loss(replace(dirty, **extra), config, SIZES)
    assert float(one.detach()) == float(two.detach())
    assert (gradient(replace(dirty, **extra), config)[1, 2:] == 0).all()


def test_clipped_tokens_have_no_gradient():
    inputs = batch()
    policy = inputs.sampler_logprobs_RT + torch.tensor([[0.5, -0.5, 0.5, -0.5], [0.5, -0.5, 0, 0]])
    inputs = replace(inputs, policy_logprobs_RT=policy.requires_grad_())
    moved = gradient(inputs, DapoConfig()) != 0
    assert moved.tolist() == [[False, True, False, True], [True, False, False, False]]


def test_the_correction_is_a_constant_and_its_cap_holds():
    inputs = batch()
    learner = (inputs.sampler_logprobs_RT + 2.0).requires_grad_()
    inputs = replace(inputs, learner_logprobs_RT=learner.detach())
    _, sums = policy_loss(inputs, GrpoConfig(importance_cap=3.0), SIZES)
    assert float(sums["correction"]) == pytest.approx(3.0 * 6)
    _, ignored = policy_loss(inputs, GrpoConfig(), SIZES)
    assert float(ignored["correction"]) == 6.0


def test_kl_is_never_negative_and_zero_at_the_reference():
    inputs = batch()
    same = replace(inputs, reference_logprobs_RT=inputs.policy_logprobs_RT.detach())
    assert float(policy_loss(same, GrpoConfig(kl_coef=1.0), SIZES)[1]["kl"]) == 0.0
    other = replace(inputs, reference_logprobs_RT=torch.full((2, 4), -1.0))
    assert float(policy_loss(other, GrpoConfig(kl_coef=1.0), SIZES)[1]["kl"]) > 0.0


def test_rows_that_say_nothing_do_not_divide_by_zero():
    assert float(aggregate(torch.zeros(1), torch.zeros(1), "sequence_mean", SIZES)) == 0.0


def test_unknown_aggregation_and_shapes_are_refused():
    with pytest.raises(AssertionError):
        aggregate(torch.zeros(1), torch.ones(1), "sum", SIZES)
    with pytest.raises(AssertionError):
        policy_loss(batch(advantage_R=torch.ones(3)), GrpoConfig(), SIZES)
    with pytest.raises(AssertionError):
        policy_loss(batch(loss_mask_RT=torch.ones(2, 3)), GrpoConfig(), SIZES)
