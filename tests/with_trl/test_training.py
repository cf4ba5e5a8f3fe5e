"""Whole trainings: what TRL is given, what it reports, and that without pruning nothing is ours."""

import numpy as np
import pandas
import pytest
import torch
import trl

import trl_host
from arrol.errors import ConfigError, DataError, NonFiniteError
from arrol.integrations.trl import GRPOTrainer, prune_rewards, pruned_rollout
from arrol.integrations.trl.trainer import SaveHead
from trl_host import config, has_digit, history, is_short, text_of, trainer, weights


def spied(args, **more):
    """A trainer that keeps what entered TRL's loss, and what TRL was going to put there."""

    class Spy(GRPOTrainer):
        seen = []
        before = []

        def compute_loss(self, model, inputs, *rest, **named):
            self.before.append(inputs)
            return super().compute_loss(model, inputs, *rest, **named)

    host = trainer(args, Spy, **more)
    original = trl.GRPOTrainer.compute_loss

    def keep(self, model, inputs, *rest, **named):
        Spy.seen.append(inputs)
        return original(self, model, inputs, *rest, **named)

    return host, Spy, keep


@pytest.mark.parametrize("chat", [True, False])
def test_a_pruned_run_trains_on_survivors_alone(tmp_path, monkeypatch, chat):
    host, spy, keep = spied(config(tmp_path, max_steps=4, thinning=0), chat=chat)
    monkeypatch.setattr(trl.GRPOTrainer, "compute_loss", keep)
    host.train()
    kept = history(host, "arrol/pruning/kept_frac")
    assert kept[0] == 1.0  # the warm-up
    assert all(0.3 < share < 0.7 for share in kept[1:])
    survivors = [round(16 * share) for share in history(host, "arrol/rollout/survivors_frac")]
    assert [len(inputs["completion_mask"]) for inputs in spy.seen] == survivors
    assert survivors[0] == 16
    assert max(survivors[1:]) < 16
    for before, seen in zip(spy.before, spy.seen, strict=True):
        assert seen["completion_mask"].any(1).all()
        assert seen["completion_ids"].shape[1] == seen["completion_mask"].sum(1).max()
        assert len(before["completion_mask"]) == 16


def test_never_is_trl_bit_for_bit(tmp_path):
    plain = trainer(trl_host.trl_config(tmp_path / "a"), trl.GRPOTrainer)
    plain.train()
    ours = trainer(config(tmp_path / "b", pruning={"rule": "never"}))
    assert ours.pruned is None
    ours.train()
    assert torch.equal(weights(plain), weights(ours))
    free = ("step_time", "train_runtime", "train_samples_per_second", "train_steps_per_second")
    for mine, theirs in zip(ours.state.log_history, plain.state.log_history, strict=True):
        assert {k: v for k, v in mine.items() if k not in free} == {k: v for k, v in theirs.items() if k not in free}


def test_one_seed_gives_one_run(tmp_path):
    runs = []
    for name in "ab":
        host = trainer(config(tmp_path / name))
        host.train()
        runs.append((weights(host), history(host, "reward"), history(host, "arrol/tokens/generated")))
    assert torch.equal(runs[0][0], runs[1][0])
    assert runs[0][1:] == runs[1][1:]


def test_reward_functions_see_survivors_and_their_columns(tmp_path):
    calls = []

    def checked(completions, answer, prompts, completion_ids, trainer_state, **kwargs):
        assert "arrol_rollout" not in kwargs
        assert len(completions) == len(answer) == len(prompts) == len(completion_ids)
        assert all(len(ids) > 0 for ids in completion_ids)
        calls.append((trainer_state.global_step, len(completions)))
        return has_digit(completions, answer)

    host = trainer(config(tmp_path), reward_funcs=checked)
    host.train()
    survivors = [round(16 * share) for share in history(host, "arrol/rollout/survivors_frac")]
    assert calls == list(enumerate(survivors))


@pytest.mark.parametrize("options", [{}, {"rule": "uniform", "pruning_warmup_steps": 0}])
def test_several_rewards_async_weighted_and_none(tmp_path, options):
    async def late(completions, log_extra, **kwargs):
        log_extra("seen", [text_of(c) for c in completions])
        return [None if len(text_of(c)) % 2 else 0.5 for c in completions]

    changes = {"success_reward": "has_digit", "reward_weights": [1.0, 2.0, 0.5], "log_completions": True}
    host = trainer(config(tmp_path, max_steps=4, **changes, **options), reward_funcs=[has_digit, is_short, late])
    host.train()
    assert (history(host, "arrol/rollout/survivors_frac")[0] < 1) == bool(options)  # stopped from the first batch on
    tables = [pandas.read_parquet(path) for path in (tmp_path / "completions").glob("*.parquet")]
    assert len(tables) == 4
    for table in tables:
        survived = table["seen"].notna()  # beside its own prompt, nothing beside a stopped row
        assert [text_of(c) for c in table["completion"][survived]] == list(table["seen"][survived])
        assert table["has_digit"].notna().equals(survived)
    assert len(history(host, "rewards/late/mean")) == 4
    before = history(host, "arrol/rollout/success_frac_before")
    assert all(0 <= share <= 1 for share in before)


def test_every_reward_none_leaves_a_survivor_out_of_its_group(tmp_path):
    def silent(completions, answer, **kwargs):
        rewards = has_digit(completions, answer)
        return [None if i % 3 == 0 else r for i, r in enumerate(rewards)]

    host = trainer(config(tmp_path), reward_funcs=silent)
    host.train()
    assert np.isfinite(history(host, "loss")).all()


@pytest.mark.parametrize("options", [{}, {"correction": "ipw", "draw": "bernoulli"}, {"correction": "plain"}])
def test_a_prompt_without_any_reward_teaches_nothing_and_is_counted(tmp_path, options):
    """Groups of one answer get None for every rollout, in pruned batches too."""

    def silent(completions, answer, **kwargs):
        rewards = has_digit(completions, answer)
        return [None if int(digit) % 2 else r for digit, r in zip(answer, rewards, strict=True)]

    host = trainer(config(tmp_path, max_steps=4, per_device_train_batch_size=32, **options), reward_funcs=silent)
    host.train()
    counted = history(host, "arrol/rollout/unrewarded_groups")
    assert len(counted) == 4
    assert 0 < max(counted[1:]) < 4
    assert min(history(host, "arrol/pruning/kept_frac")) < 1
    assert np.isfinite(history(host, "loss")).all()
    assert torch.isfinite(weights(host)).all()


def test_rewards_below_the_threshold_are_told_at_the_end_of_the_warmup(tmp_path, caplog):
    """Up to 0.4 under the default threshold of 0.5: every label is wrong, so the head learns nothing."""

    def partial_credit(completions, answer, **kwargs):
        return [0.4 * reward for reward in has_digit(completions, answer)]

    sizes = {"per_device_train_batch_size": 32, "pruning_warmup_steps": 2}
    trainer(config(tmp_path, max_steps=3, **sizes), reward_funcs=partial_credit).train()
    (line,) = [line for line in caplog.messages if line.startswith("arrol: success_threshold = ")]
    assert line == (
        "arrol: success_threshold = 0.5: none of the 64 rewards of 'partial_credit' so far (0 to 0.4) is above it, so "
        "the head has learned nothing; set it between the rewards of wrong and of right answers, or use easier prompts"
    )


def test_a_reward_that_never_varies_is_said_meanwhile_and_at_the_end(tmp_path, caplog):
    def constant(completions, **kwargs):
        return [0.25] * len(completions)

    sizes = {"per_device_train_batch_size": 32, "pruning_warmup_steps": 2}
    trainer(config(tmp_path, max_steps=7, **sizes), reward_funcs=constant).train()
    said = [record.getMessage() for record in caplog.records if "got the reward" in record.getMessage()]
    assert len(said) == 2
    assert said[0].startswith("arrol: every rollout got the reward 0.25 in each of 5 steps: the prompts are far too")
    assert "log_completions = True" in said[0]
    assert " in each of 7 steps: " in said[1]


def test_a_run_that_learns_ends_without_a_word(tmp_path, caplog):
    trainer(config(tmp_path, max_steps=6, per_device_train_batch_size=32)).train()
    assert [line for line in caplog.messages if "learned" in line] == []


def test_evaluation_is_neither_pruned_nor_random(tmp_path):
    args = config(
        tmp_path,
        max_steps=4,
        eval_strategy="steps",
        eval_steps=2,
        per_device_eval_batch_size=8,
        num_generations_eval=2,
        eval_on_start=True,
        learning_rate=0.0,
    )
    host = trainer(args, evaluate=True)
    host.train()
    rewards = history(host, "eval_reward")
    assert len(rewards) == 3
    assert len(set(rewards)) == 1  # the policy stands still
    assert not any(key.startswith("eval_arrol") for row in host.state.log_history for key in row)


def test_the_parts_alone_serve_a_trainer_of_your_own(tmp_path):
    rollout = pruned_rollout(
        probe_tokens=6, keep_ratio=0.5, warmup_steps=1, quality={"hidden_size": 8, "min_class_records": 4}
    )

    class Own(trl.GRPOTrainer):
        def compute_loss(self, model, inputs, *rest, **named):
            return super().compute_loss(model, rollout.loss_inputs(inputs, self), *rest, **named)

    own = trainer(
        trl_host.trl_config(tmp_path / "a", save_strategy="steps", save_steps=3),
        Own,
        reward_funcs=prune_rewards(has_digit),
        rollout_func=rollout,
        callbacks=[SaveHead(rollout)],
    )
    own.train()
    ours = trainer(config(tmp_path / "b"))
    ours.train()
    assert torch.equal(weights(own), weights(ours))
    assert (tmp_path / "a" / "checkpoint-3" / "arrol_head.safetensors").is_file()


def test_without_our_loss_stopped_rows_are_masked_in_place(tmp_path):
    """The two parts without ``compute_loss``: TRL's plain advantages, right for losses that count tokens."""
    rollout = pruned_rollout(probe_tokens=6, warmup_steps=1, correction="plain", rule="uniform")
    own = trainer(
        trl_host.trl_config(tmp_path / "a"),
        trl.GRPOTrainer,
        reward_funcs=prune_rewards(has_digit),
        rollout_func=rollout,
    )
    own.train()
    ours = trainer(config(tmp_path / "b", correction="plain", rule="uniform"))
    ours.train()
    torch.testing.assert_close(weights(own), weights(ours), rtol=0, atol=1e-5)
    assert not torch.equal(weights(own), weights(ours))  # other shapes, other rounding: compaction did happen


@pytest.mark.parametrize("correction", ["doubly_robust", "plain"])
def test_advantages_that_a_subclass_changes_are_not_replaced_in_silence(tmp_path, correction):
    class Clipped(GRPOTrainer):
        def compute_loss(self, model, inputs, *rest, **named):
            changed = {**inputs, "advantages": inputs["advantages"].clamp(-0.5, 0.5)}
            return super().compute_loss(model, changed, *rest, **named)

    host = trainer(config(tmp_path, max_steps=1, correction=correction), Clipped)
    if correction == "plain":
        host.train()
    else:
        words = "^advantages: a subclass changed TRL's, and correction = 'doubly_robust' with allocation = 'uniform' "
        with pytest.raises(ConfigError, match=words):
            host.train()


def test_a_policy_that_is_not_finite_ends_the_run_and_leaves_the_head_intact(tmp_path):
    class Diverged(GRPOTrainer):
        def compute_loss(self, *given, **named):
            loss = super().compute_loss(*given, **named)
            return loss * float("nan") if self.state.global_step == 2 else loss

    host = trainer(config(tmp_path, max_steps=5), Diverged)
    with pytest.raises(NonFiniteError, match=r"^policy: the logits of every rollout are not finite; resume from an ea"):
        host.train()
    assert host.state.global_step == 3
    assert not torch.isfinite(weights(host)).all()
    assert host.pruned.memory.estimator.snapshot().is_finite


def test_a_reward_too_few_names_its_function(tmp_path):
    def forgetful(completions, **kwargs):
        return [1.0] * (len(completions) - 1)

    with pytest.raises(DataError, match="'forgetful': returned 15 values for 16 survivors; give one each"):
        trainer(config(tmp_path), reward_funcs=forgetful).train()


def test_more_generation_batches_than_steps_and_reused_batches(tmp_path):
    """Two optimiser steps per generation batch, each batch used twice."""
    args = config(tmp_path, per_device_train_batch_size=8, steps_per_generation=2, num_iterations=2, max_steps=8)
    host = trainer(args)
    host.train()
    assert np.isfinite(history(host, "loss")).all()
    assert len(history(host, "arrol/pruning/candidates")) == 2


def test_gradient_accumulation_splits_a_generation_batch(tmp_path):
    """Each microbatch finds its own rows after TRL has shuffled them."""
    whole = trainer(config(tmp_path / "a", learning_rate=1e-2))
    whole.train()
    parts = trainer(
        config(tmp_path / "b", learning_rate=1e-2, per_device_train_batch_size=4, gradient_accumulation_steps=4)
    )
    parts.train()
    assert history(whole, "arrol/tokens/generated") == history(parts, "arrol/tokens/generated")
    torch.testing.assert_close(weights(whole), weights(parts), rtol=0, atol=2e-4)


def test_the_tokens_are_those_of_trl_for_a_prompt(tmp_path):
    """Our tokenisation of prompts is TRL's."""
    seen = []

    class Spy(trl.GRPOTrainer):
        def compute_loss(self, model, inputs, *rest, **named):
            seen.append(inputs["prompt_ids"].sort(0).values)
            return super().compute_loss(model, inputs, *rest, **named)

    for more in ({}, {"rollout_func": pruned_rollout(warmup_steps=9, probe_tokens=6)}):
        trainer(trl_host.trl_config(tmp_path, max_steps=1), Spy, **more).train()
    assert torch.equal(*seen)


def test_the_default_precision_is_sampled_as_it_is_trained(tmp_path):
    """``bf16=True``, TRL's default: float32 weights under autocast."""
    host = trainer(config(tmp_path, bf16=True, learning_rate=0.0))
    assert host.model.dtype == torch.float32
    host.train()
    assert history(host, "arrol/rollout/survivors_frac")[-1] < 1
    assert all(norm > 0 for norm in history(host, "grad_norm"))
    group = host.pruned.batch.groups[0]
    completion = max((r.completion for r in group.survivors), key=lambda each: each.num_tokens)
    ids = torch.tensor([[*group.prompt.token_ids, *completion.token_ids]])
    with torch.no_grad(), host.accelerator.autocast():
        logits = host.model.eval()(ids).logits[0, :-1].float()
    logprobs = logits.log_softmax(-1).gather(1, ids[0, 1:, None])[-completion.num_tokens :, 0]
    np.testing.assert_allclose(completion.sampler_logprobs_T, logprobs.numpy(), atol=0.02)


def test_an_adapters_own_tokens_are_sampled(tmp_path):
    """LoRA: the engine decodes with the adapter, which lies inside the layers, and only the adapter is trained."""
    peft = pytest.importorskip("peft")
    layers = ["q_proj", "v_proj", "down_proj"]
    lora = peft.LoraConfig(r=4, lora_alpha=16, target_modules=layers, task_type="CAUSAL_LM", init_lora_weights=False)
    host = trainer(config(tmp_path, learning_rate=0.0), peft_config=lora)
    host.train()
    assert history(host, "arrol/rollout/survivors_frac")[-1] < 1
    assert all(norm > 0 for norm in history(host, "grad_norm"))
    group, model = host.pruned.batch.groups[0], host.model.eval()
    longest = max((r.completion for r in group.survivors), key=lambda completion: completion.num_tokens)
    ids = torch.tensor([[*group.prompt.token_ids, *longest.token_ids]])

    def logprobs():
        with torch.no_grad():
            logits = model(ids).logits[0, :-1].log_softmax(-1)
        return logits.gather(1, ids[0, 1:, None])[-longest.num_tokens :, 0].numpy()

    np.testing.assert_allclose(longest.sampler_logprobs_T, logprobs(), atol=1e-4)
    with model.disable_adapter():
        assert np.abs(longest.sampler_logprobs_T - logprobs()).max() > 1e-2


def test_auto_learns_what_the_rollouts_contributed(tmp_path):
    """Sixteen groups a batch: after four batches enough are known to judge every probe, and it says so."""
    rule = {"rule": "auto", "rule_options": {"noise_ratio": 2.0}}
    host = trainer(config(tmp_path, per_device_train_batch_size=128, max_steps=6, **rule))
    host.train()
    assert history(host, "arrol/pruning/auto/groups") == [16.0 * batch for batch in range(1, 7)]
    merits = history(host, "arrol/pruning/auto/merit")
    assert len(merits) == 3
    assert np.isfinite(merits).all()
    kept = history(host, "arrol/pruning/kept_frac")
    assert kept[:4] == [1.0] * 4
