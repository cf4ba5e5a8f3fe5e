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


@pytest.mark.parametrize("where", ["policy_logprobs_RT", "sampler_logprobs_RT", "learner_logprobs_RT"])
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_token_that_is_not_finite_costs_itself_alone(where, value):
    config = GrpoConfig(importance_cap=2.0, aggregation="token_mean")
    columns = {
        name: torch.full((1, 3), -1.0) for name in ("policy_logprobs_RT", "sampler_logprobs_RT", "learner_logprobs_RT")
    }
    columns["policy_logprobs_RT"].requires_grad_()
    bad = {**columns, where: columns[where].detach().clone()}
    bad[where][0, 1] = value
    leaf = bad["policy_logprobs_RT"].requires_grad_()
    one = torch.ones(1)
    inputs = LossInputs(loss_mask_RT=torch.ones(1, 3), advantage_R=one, weight_R=one, **bad)
    loss, sums = policy_loss(inputs, config, Denominator(1.0, 3.0, 3))
    loss.backward()
    assert loss.item() == pytest.approx(-2 / 3)  # two of three tokens, and three in the denominator
    torch.testing.assert_close(leaf.grad, torch.tensor([[-1 / 3, 0.0, -1 / 3]]))
    assert (float(sums["nonfinite"]), float(sums["tokens"])) == (1.0, 3.0)


@pytest.mark.parametrize("kl_coef", [0.0, 0.1])
def test_a_log_ratio_that_would_overflow_is_bounded(kl_coef):
    config, one = GrpoConfig(importance_cap=2.0, kl_coef=kl_coef, aggregation="token_mean"), torch.ones(1)
    policy = torch.tensor([[0.0, -200.0]], requires_grad=True)
    far = torch.tensor([[-200.0, 0.0]])
    inputs = LossInputs(policy, far, torch.ones(1, 2), -one, one, far, far)
    loss, sums = policy_loss(inputs, config, Denominator(1.0, 2.0, 2))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(policy.grad).all()
    assert all(torch.isfinite(value) for value in sums.values())
    assert float(sums["nonfinite"]) == 0.0


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
