"""The update is one gradient, however the batch is split; who teaches nothing costs nothing; bad steps are skipped."""

from collections import Counter

import numpy as np
import pytest
import torch

from arrol.configs.lora import LoraConfig
from arrol.configs.method import DapoConfig, DrGrpoConfig, GrpoConfig
from arrol.configs.run import (
    EngineConfig,
    OptimizerConfig,
    RunConfig,
    SamplingConfig,
    TrainingConfig,
)
from arrol.configs.task import ArithmeticTaskConfig
from arrol.engines.embedded.engine import EmbeddedEngine
from arrol.errors import NonFiniteError
from arrol.training import learner as learner_module
from arrol.training import policy as policy_module
from arrol.training.learner import Learner
from arrol.training.lora import with_adapters
from arrol.training.packing import group_examples, pack
from arrol.training.policy import token_logprobs
from arrol.types import (
    Completion,
    FinishReason,
    GroupRequest,
    Prompt,
    PruningDecision,
    Reason,
    Rollout,
    RolloutGroup,
    SamplingParams,
)

LIMIT = 12
ALGORITHMS = {
    "grpo": GrpoConfig(),
    "dr_grpo": DrGrpoConfig(),
    "dapo": DapoConfig(overlong_buffer_tokens=4, overlong_penalty=0.5),
    "everything": GrpoConfig(importance_cap=1.5, kl_coef=0.05, self_normalized=True),
}


def config_of(algorithm=None, **training):
    """Plain steps of size 1e-3, so that a change of weights shows the gradient."""
    return RunConfig(
        model="none",
        task=ArithmeticTaskConfig(),
        sampling=SamplingConfig(max_completion_tokens=LIMIT),
        algorithm=algorithm or DrGrpoConfig(),
        training=TrainingConfig(**{"steps": 10, "group_size": 6, **training}),
        optimizer=OptimizerConfig(learning_rate=1e-3, max_grad_norm=1e9),
    )


def groups_of(model, *, num_groups=5, stopped=True, seed=0):
    """Verified groups, really sampled, with every third rollout stopped at token 3."""
    prompts = [tuple(3 + (5 * g + i) % 20 for i in range(1 + 2 * g)) for g in range(num_groups)]
    requests = [GroupRequest(1, g, Prompt(str(g), ids, "", ""), 6) for g, ids in enumerate(prompts)]
    params = SamplingParams(LIMIT, stop_token_ids=(4, 9))
    rng, groups = np.random.default_rng(seed), []
    written = EmbeddedEngine(model, EngineConfig()).generate(requests, params, seed=seed)
    for request, completions in zip(requests, written, strict=True):
        rollouts = []
        for rollout_id, c in zip(request.rollout_ids, completions, strict=True):
            decision = None
            if c.num_tokens > 3:
                stop = stopped and rollout_id.index % 3 == 2
                decision = PruningDecision(rollout_id, 0, not stop, 0.6, Reason.DRAW, 0.0, float(rng.random()))
                if stop:
                    c = Completion(c.token_ids[:3], c.sampler_logprobs_T[:3], FinishReason.PRUNED)
            reward = float(rng.random() < 0.5) if c.finish_reason.survived else None
            rollouts.append(Rollout(rollout_id, c, decision, reward))
        groups.append(RolloutGroup(request.prompt, rollouts))
    return groups


def gradient_of(model, groups, config, *, reference=None):
    """The gradient of one update, caught before the optimiser clears it, and the update's metrics."""
    model.zero_grad(set_to_none=True)
    learner = Learner(model, config, reference=reference)
    caught = []
    learner.guard.step = lambda *_, **__: caught.append(_flat_gradient(model)) or 0.0
    metrics = learner.update(groups, 1)
    return sum(caught), metrics


def _flat_gradient(model):
    values = torch.cat([weight.grad.flatten() for weight in model.parameters() if weight.requires_grad])
    model.zero_grad(set_to_none=True)
    return values


@pytest.mark.parametrize("name", ALGORITHMS)
def test_gradient_does_not_depend_on_microbatches_or_order(make_model, name):
    model, groups = make_model(), groups_of(make_model())
    reference = make_model(seed=1)
    whole, _ = gradient_of(model, groups, config_of(ALGORITHMS[name]), reference=reference)
    assert whole.norm() > 1e-3
    for budget in (1, 30, 64):
        config = config_of(ALGORITHMS[name], microbatch_tokens=budget)
        split, _ = gradient_of(model, groups, config, reference=reference)
        torch.testing.assert_close(split, whole, atol=2e-6, rtol=1e-4)
    turned = [RolloutGroup(g.prompt, g.rollouts[::-1]) for g in groups[::-1]]
    torch.testing.assert_close(
        gradient_of(model, turned, config_of(ALGORITHMS[name]), reference=reference)[0], whole, atol=2e-6, rtol=1e-4
    )


def test_microbatches_hold_their_budget_and_every_example_once(make_model):
    groups = groups_of(make_model())
    examples = examples_of(groups)
    packed = pack(examples, 40, torch.device("cpu"))
    assert len(packed) > 2
    assert all(mb.ids_RT.numel() <= 40 or len(mb.ids_RT) == 1 for mb in packed)
    ids = [rollout_id for mb in packed for rollout_id in mb.rollout_ids]
    assert sorted(ids) == sorted(r.rollout_id for g in groups for r in g.survivors)
    assert packed[0].ids_RT.shape[1] == max(e.num_tokens for e in examples)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo"])
def test_zero_advantages_are_left_out_at_no_loss(make_model, name, monkeypatch):
    model, groups = make_model(), groups_of(make_model(), stopped=False)
    for rollout in groups[1].rollouts:
        rollout.reward, rollout.decision = 1.0, None
    algorithm = {"grpo": GrpoConfig, "dr_grpo": DrGrpoConfig, "dapo": DapoConfig}[name](thinning=0)
    without, metrics = gradient_of(model, groups, config_of(algorithm))
    dead = sum(r.completion.num_tokens for r in groups[1].rollouts)
    survivors = sum(r.completion.num_tokens for g in groups for r in g.survivors)
    assert metrics["tokens/trained"] == survivors - dead
    monkeypatch.setattr(Learner, "_uses_reference", property(lambda self: True))
    monkeypatch.setattr(Learner, "_frozen_logprobs", _no_reference)
    monkeypatch.setattr("arrol.training.learner._rows", lambda scored, microbatch: None)
    with_zeros, metrics = gradient_of(model, groups, config_of(algorithm))
    assert metrics["tokens/trained"] == survivors
    torch.testing.assert_close(with_zeros, without, atol=2e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "dapo"])
def test_a_rollout_left_out_by_the_lottery_changes_no_denominator(make_model, name, monkeypatch):
    """Half of the rows at twice their weight, and the other half: their mean is the gradient of all rows."""
    model, groups = make_model(), groups_of(make_model())
    config = config_of(ALGORITHMS[name].model_copy(update={"thinning": 0.0}))
    whole, all_rows = gradient_of(model, groups, config)
    halves, trained = [], []
    for kept in (0, 1):
        factors = lambda c, ids, *_, kept=kept, **__: np.array([2.0 * (i.index % 2 == kept) for i in ids])  # noqa: E731
        monkeypatch.setattr("arrol.training.learner.thinned", factors)
        gradient, metrics = gradient_of(model, groups, config)
        halves.append(gradient)
        trained.append(metrics["tokens/trained"])
    torch.testing.assert_close((halves[0] + halves[1]) / 2, whole, atol=2e-6, rtol=1e-4)
    assert sum(trained) == all_rows["tokens/trained"]


def test_the_lottery_acts_where_rollouts_were_pruned_and_nothing_else_needs_every_row(make_model, monkeypatch):
    model, shares = make_model(), []
    monkeypatch.setattr(
        "arrol.training.learner.thinned",
        lambda c, ids, share, *, seed: shares.append(share) or np.ones(len(ids)),
    )
    pruned, plain = groups_of(model), groups_of(model, stopped=False)
    for rollout in (r for group in plain for r in group.rollouts):
        rollout.decision = None
    gradient_of(model, pruned, config_of())
    gradient_of(model, plain, config_of())
    gradient_of(model, pruned, config_of(DrGrpoConfig(kl_coef=0.1)), reference=make_model(seed=1))
    assert shares == [0.5, 0.0, 0.0]


def _no_reference(self, examples, sums):
    from arrol.training.learner import _Frozen

    return _Frozen({}, {})


def test_stopped_rollouts_cost_nothing_and_their_tokens_do_not_matter(make_model):
    model, groups = make_model(), groups_of(make_model())
    algorithm = GrpoConfig(kl_coef=0.1, importance_cap=2.0)
    gradient, metrics = gradient_of(model, groups, config_of(algorithm, epochs=1), reference=make_model(seed=1))
    survivors = sum(r.completion.num_tokens for g in groups for r in g.survivors)
    assert metrics["tokens/trained"] == survivors
    assert metrics["tokens/scored"] == survivors, "the reference only: one update needs no second look at itself"
    assert any(not r.survived for g in groups for r in g.rollouts)
    for group in groups:
        for rollout in group.rollouts:
            if not rollout.survived:
                rollout.completion.token_ids = (20, 21, 22, 23)
    again, _ = gradient_of(model, groups, config_of(algorithm), reference=make_model(seed=1))
    assert torch.equal(again, gradient)


def test_a_batch_without_signal_leaves_the_weights_alone(make_model):
    model, groups = make_model(), groups_of(make_model(), stopped=False)
    for group in groups:
        for rollout in group.rollouts:
            rollout.reward, rollout.decision = 0.0, None
    before = [weight.clone() for weight in model.parameters()]
    metrics = Learner(model, config_of(DapoConfig())).update(groups, 1)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert metrics["tokens/trained"] == 0
    assert metrics["loss/grad_norm"] == 0


def test_one_token_that_is_not_finite_does_not_cost_the_step(make_model):
    model = make_model()
    groups = groups_of(model)
    rollout = next(r for group in groups for r in group.survivors if len(set(group.rewards_G)) > 1)
    rollout.completion.sampler_logprobs_T[0] = np.nan
    metrics = Learner(model, config_of()).update(groups, 1)
    assert metrics["loss/nonfinite_tokens"] == 1
    assert metrics["train/skipped_updates"] == 0
    assert all(np.isfinite(value) for value in metrics.values())


def test_steps_that_are_not_finite_are_skipped_counted_and_end_the_run(make_model):
    model = make_model()
    groups = groups_of(model)
    learner = Learner(model, config_of(max_bad_steps=3))
    good = groups[0].survivors[0].completion.sampler_logprobs_T.copy()

    def poison(value):
        for group in groups:
            for rollout in group.survivors:
                rollout.completion.sampler_logprobs_T[:] = value

    poison(np.nan)
    before = [weight.clone() for weight in model.parameters()]
    assert learner.update(groups, 1)["train/skipped_updates"] == 1
    assert learner.update(groups, 2)["train/skipped_updates"] == 2
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert not learner.guard.optimizer.state, "no moment has seen the bad gradient"
    poison(float(good.mean()))
    metrics = learner.update(groups, 3)
    assert np.isfinite(metrics["loss/grad_norm"])
    assert metrics["train/skipped_updates"] == 2
    assert learner.guard.bad_in_a_row == 0
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    poison(np.nan)
    learner.update(groups, 4)
    learner.update(groups, 5)
    with pytest.raises(NonFiniteError, match="max_bad_steps = 3"):
        learner.update(groups, 6)
    assert all(torch.isfinite(weight).all() for weight in model.parameters())


@pytest.mark.parametrize("chunk", [policy_module.LOGIT_CHUNK, 24 * 7])
def test_token_logprobs_equal_a_plain_forward_pass(any_model, chunk, monkeypatch):
    monkeypatch.setattr(policy_module, "LOGIT_CHUNK", chunk)
    ids = torch.tensor([[5, 6, 7, 8, 9, 10], [3, 4, 5, 0, 0, 0], [11, 12, 0, 0, 0, 0]])
    selected = torch.tensor([[0, 0, 1, 1, 1, 1], [0, 1, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0]]).bool()
    got, entropy = token_logprobs(any_model, ids, selected, temperature=0.7, with_entropy=True)
    got.sum().backward()
    gradient = _flat_gradient(any_model)
    expected, entropies = [], []
    for row, length in enumerate((6, 3, 2)):
        logprobs = (any_model(input_ids=ids[row : row + 1, :length]).logits[0] / 0.7).log_softmax(-1)
        for place in torch.nonzero(selected[row]).flatten().tolist():
            expected.append(logprobs[place - 1, ids[row, place]])
            entropies.append(-(logprobs[place - 1].exp() * logprobs[place - 1]).sum())
    torch.testing.assert_close(got, torch.stack(expected), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(entropy, torch.stack(entropies).detach(), atol=1e-5, rtol=1e-5)
    assert not entropy.requires_grad
    torch.stack(expected).sum().backward()
    torch.testing.assert_close(gradient, _flat_gradient(any_model), atol=1e-4, rtol=1e-4)


def test_bf16_autocast_runs_close_to_float32(make_model):
    model, groups = make_model(), groups_of(make_model())
    exact, _ = gradient_of(model, groups, config_of())
    rough, metrics = gradient_of(model, groups, config_of(bf16=True))
    assert rough.dtype == torch.float32
    assert not torch.equal(rough, exact)
    assert torch.cosine_similarity(rough, exact, dim=0) > 0.98
    assert metrics["loss/sampler_mismatch"] > 1e-4


def test_sampler_and_learner_agree_on_fresh_rollouts(make_model):
    model = make_model()
    _, metrics = gradient_of(model, groups_of(model), config_of())
    assert metrics["loss/sampler_mismatch"] < 1e-5
    assert metrics["loss/ratio/mean"] == pytest.approx(1.0, abs=1e-5)
    assert metrics["loss/clip_frac"] == 0.0


def test_importance_correction_uses_the_policy_from_before_the_first_update(make_model):
    """With an engine that agrees, corrected and uncorrected updates are the same, also in later minibatches and
    epochs.
    """
    weights = []
    for cap in (0.0, 5.0):
        model = make_model()
        config = config_of(DrGrpoConfig(importance_cap=cap), minibatches=2, epochs=2)
        metrics = Learner(model, config).update(groups_of(make_model()), 1)
        weights.append(torch.cat([w.detach().flatten() for w in model.parameters()]))
        assert abs(metrics["loss/ratio/mean"] - 1) > 1e-5, "later minibatches are off policy"
    assert metrics["loss/importance/mean"] == pytest.approx(1.0, abs=1e-5)
    torch.testing.assert_close(weights[0], weights[1], atol=1e-4, rtol=1e-4)


def test_importance_correction_caps_an_engine_that_differs(make_model):
    groups = groups_of(make_model())
    for group in groups:
        for rollout in group.survivors:
            rollout.completion.sampler_logprobs_T -= 1.0
    _, metrics = gradient_of(make_model(), groups, config_of(DrGrpoConfig(importance_cap=1.5)))
    assert metrics["loss/importance/mean"] == pytest.approx(1.5)
    assert metrics["loss/ratio/mean"] == pytest.approx(1.0)
    _, metrics = gradient_of(make_model(), groups, config_of(DrGrpoConfig()))
    assert metrics["loss/ratio/mean"] == pytest.approx(np.e, rel=1e-3)


def test_kl_pulls_towards_the_reference_and_scores_each_token_once(make_model):
    model, reference = make_model(), make_model(seed=3)
    groups = groups_of(make_model(), stopped=False)
    for group in groups:
        for rollout in group.rollouts:
            rollout.reward, rollout.decision = 1.0, None
    config = config_of(GrpoConfig(kl_coef=1.0), epochs=3)
    learner = Learner(model, config, reference=reference)
    metrics = learner.update(groups, 1)
    tokens = sum(r.completion.num_tokens for g in groups for r in g.survivors)
    assert metrics["tokens/scored"] == tokens
    assert metrics["tokens/trained"] == 3 * tokens
    assert metrics["loss/kl"] > learner.update(groups, 2)["loss/kl"] > 0
    same = Learner(make_model(), config_of(GrpoConfig(kl_coef=1.0)), reference=make_model())
    assert same.update(groups, 1)["loss/kl"] == pytest.approx(0.0, abs=1e-9)


def test_adapters_alone_learn_and_their_reference_is_the_model_without_them(make_model):
    pytest.importorskip("peft")
    model, groups = make_model(), groups_of(make_model(), stopped=False)
    with_adapters(model, LoraConfig(r=2), "base", seed=0)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    config = config_of(GrpoConfig(kl_coef=0.1), epochs=3)
    results = [Learner(model, config, reference=reference) for reference in (model, make_model())]
    first = results[0].update(groups, 1)
    assert first["loss/kl"] > 0
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name]) != (".lora_" in name), name
    own, apart = ({**one.update(groups, 2)} for one in results)
    assert own["loss/kl"] > 0
    assert apart["loss/kl"] > 0
    scored = [learner._frozen_logprobs(examples_of(groups), Counter()).reference for learner in results]
    assert len(scored[0]) == sum(len(group.survivors) for group in groups)
    assert all(torch.allclose(scored[0][key], scored[1][key], atol=1e-5) for key in scored[1])


def examples_of(groups):
    ones = np.ones(6)
    return [example for group in groups for example in group_examples(group, ones, ones, keep_zero=True)]


@pytest.mark.parametrize("adapters", [False, True])
@pytest.mark.parametrize("shares", [True, False])
def test_layers_computed_again_give_the_same_gradient_bit_for_bit(any_model, shares, adapters, monkeypatch):
    if not shares:
        monkeypatch.setattr(learner_module, "flat_decoder", lambda model: None)
    if adapters:
        pytest.importorskip("peft")
        with_adapters(any_model, LoraConfig(r=2), "base", seed=0)
    kept, results = [], []
    groups = groups_of(any_model)
    for again in (False, True):
        saved = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t, saved=saved: saved.append(t.numel()) or t, lambda t: t):
            results.append(gradient_of(any_model, groups, config_of(gradient_checkpointing=again))[0])
        kept.append(sum(saved))
    assert results[0].norm() > 1e-3
    assert torch.equal(*results)
    assert kept[1] < kept[0]
    assert not any("forward" in vars(module) for module in any_model.modules())


def test_dropout_of_the_config_never_reaches_the_ratio(make_model):
    model = make_model(attention_dropout=0.5).train()
    _, metrics = gradient_of(model, groups_of(make_model()), config_of())
    assert metrics["loss/ratio/mean"] == pytest.approx(1.0, abs=1e-5)


def test_the_same_update_twice_is_the_same_bit_for_bit(make_model):
    results = []
    for _ in range(2):
        model = make_model()
        Learner(model, config_of(minibatches=2, epochs=2)).update(groups_of(make_model()), 1)
        results.append(torch.cat([weight.detach().flatten() for weight in model.parameters()]))
    assert torch.equal(*results)


def test_a_model_that_cannot_share_prompts_has_the_same_gradient(make_model, monkeypatch):
    model, groups = make_model(), groups_of(make_model())
    shared, _ = gradient_of(model, groups, config_of())
    monkeypatch.setattr("arrol.training.learner.flat_decoder", lambda model: None)
    padded, _ = gradient_of(model, groups, config_of())
    assert not torch.equal(shared, padded), "two ways, not one"
    torch.testing.assert_close(shared, padded, atol=2e-6, rtol=1e-4)
