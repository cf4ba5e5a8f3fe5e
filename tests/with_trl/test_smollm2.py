"""SmolLM2 at TRL's defaults: float32 weights under bfloat16 autocast, gradient checkpointing, chat prompts.

A processor without bfloat16 units multiplies up to eight times slower in it, so the runs use the first layers of the
thirty, and one uses all.
"""

import json
from pathlib import Path

import pytest
import torch
import trl
from datasets import Dataset

from arrol.integrations.trl import GRPOConfig, GRPOTrainer
from arrol.records.texts import read_texts
from smollm2 import smollm2_folder
from trl_host import history, weights

SIZES = {
    "per_device_train_batch_size": 8,
    "num_generations": 4,
    "max_completion_length": 10,
    "max_steps": 5,
    "logging_steps": 1,
    "save_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
    "model_init_kwargs": {"num_hidden_layers": 3},
}
PRUNING = {"pruning_warmup_steps": 1, "quality": {"hidden_size": 8, "min_class_records": 2}}
NOISE = 0.25
"""Largest difference of log-probabilities in bfloat16, in nats; the mean is far smaller."""


def has_even_length(completions, **columns):
    """Right in about half of the rollouts, also from a model without its last layers."""
    return [float(len(chat[0]["content"]) % 2 == 0) for chat in completions]


def built(cls, config, folder, **changes):
    """A trainer as the README builds it."""
    torch.set_num_threads(1)
    rows = [
        {"prompt": [{"role": "system", "content": "Count."}, {"role": "user", "content": f"{i}+{i + 1}?"}]}
        for i in range(8)
    ]
    peft_config = changes.pop("peft_config", None)
    args = config(str(folder), **{**SIZES, **changes})
    assert (args.bf16, args.gradient_checkpointing) == (True, True)
    return cls(
        model=smollm2_folder(),
        reward_funcs=has_even_length,
        args=args,
        train_dataset=Dataset.from_list(rows),
        peft_config=peft_config,
    )


def learned(host, *, is_exact=False):
    """Log-probability of every token of the last batch's survivors, as the loss computes it or in float32."""
    model, found = host.model.eval(), []
    for group in host.pruned.batch.groups:
        for rollout in group.survivors:
            completion = rollout.completion
            ids = torch.tensor([[*group.prompt.token_ids, *completion.token_ids]])
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=not is_exact):
                logits = model(ids).logits[0, :-1].float()
            found.append(logits.log_softmax(-1).gather(1, ids[0, 1:, None])[-completion.num_tokens :, 0])
    return torch.cat(found)


def sampled(host):
    """The same of the sampler."""
    return torch.cat(
        [
            torch.from_numpy(rollout.completion.sampler_logprobs_T)
            for group in host.pruned.batch.groups
            for rollout in group.survivors
        ]
    )


def differences(host):
    """|sampler - learner| log-probability of every token of the last batch's survivors."""
    return (sampled(host) - learned(host)).abs()


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    host = built(GRPOTrainer, GRPOConfig, tmp_path_factory.mktemp("pruned"), **PRUNING)
    host.train()
    return host


def test_five_steps_prune_and_stay_finite(pruned):
    assert pruned.model.dtype == torch.float32
    kept = history(pruned, "arrol/pruning/kept_frac")
    assert kept[0] == 1.0
    assert max(kept[1:]) < 1.0
    assert pruned.pruned.memory.probe_tokens == (5,)  # no answer ends before its limit of 10
    logged = [row for row in pruned.state.log_history if "loss" in row]
    assert len(logged) == 5
    assert all(torch.isfinite(torch.tensor(list(row.values()))).all() for row in logged)
    assert max(row["grad_norm"] for row in logged) > 0
    assert torch.isfinite(weights(pruned)).all()


def test_the_record_has_the_words_of_a_real_tokenizer(pruned):
    folder = Path(pruned.args.output_dir) / "arrol"
    groups = {group["group"]: group for group in json.loads(read_texts(folder, 5))["groups"]}
    for sampled_group in pruned.pruned.batch.groups:
        group = groups[sampled_group.rollouts[0].rollout_id.group]
        assert group["prompt"] == pruned.processing_class.decode(sampled_group.prompt.token_ids)
        assert "Count." in group["prompt"]
        for rollout, row in zip(sampled_group.rollouts, group["rollouts"], strict=True):
            text = "".join(group["tokens"][at] for at in row["tokens"])
            assert text == pruned.processing_class.decode(rollout.completion.token_ids)
            assert [probe["at"] for probe in row["probes"]] == [5]


def test_the_learner_gives_the_tokens_their_sampled_probabilities(pruned):
    apart = differences(pruned)
    assert apart.mean() < NOISE / 10
    assert apart.max() < NOISE


def test_auto_learns_from_the_batches_of_a_real_model(tmp_path):
    host = built(GRPOTrainer, GRPOConfig, tmp_path, rule="auto", **PRUNING)
    host.train()
    groups = history(host, "arrol/pruning/auto/groups")
    assert groups[-1] > groups[0] > 0
    assert history(host, "arrol/pruning/kept_frac") == [1.0] * 5  # too little is known to stop any
    assert torch.isfinite(weights(host)).all()


def test_an_adapter_is_sampled_as_it_is_trained(tmp_path):
    peft = pytest.importorskip("peft")
    layers = ["q_proj", "v_proj", "down_proj"]
    lora = peft.LoraConfig(r=8, target_modules=layers, task_type="CAUSAL_LM", init_lora_weights=False)
    host = built(GRPOTrainer, GRPOConfig, tmp_path, **PRUNING, max_steps=2, peft_config=lora)
    host.train()
    assert history(host, "arrol/pruning/kept_frac")[-1] < 1.0
    apart = differences(host)
    assert apart.mean() < NOISE / 10
    assert apart.max() < NOISE
    with host.model.disable_adapter():
        assert differences(host).mean() > 5 * apart.mean()


def test_the_whole_model_is_sampled_as_exactly_as_it_is_trained(tmp_path):
    """Thirty layers of bfloat16: two passes in another order differ, and the sampler's is no further from float32."""
    sizes = {"per_device_train_batch_size": 2, "num_generations": 2, "max_completion_length": 8, "max_steps": 1}
    changes = {"keep_ratio": 1.0, "learning_rate": 0.0, "model_init_kwargs": None, **sizes}
    host = built(GRPOTrainer, GRPOConfig, tmp_path, **changes)
    host.train()
    assert len(host.model.base_model.layers) == 30
    with torch.autocast("cpu", enabled=False):
        host.model.forward = type(host.model).forward.__get__(host.model)  # without accelerate's autocast
        exact = learned(host, is_exact=True)
        noise = (learned(host) - exact).abs().mean()
    assert 0 < (sampled(host) - exact).abs().mean() < 2 * noise
    assert differences(host).mean() < 3 * noise


def test_never_is_trl_bit_for_bit(tmp_path):
    sizes = {"max_steps": 2, "max_completion_length": 6, "per_device_train_batch_size": 4}
    ours = built(GRPOTrainer, GRPOConfig, tmp_path / "ours", rule="never", **sizes)
    ours.train()
    theirs = built(trl.GRPOTrainer, trl.GRPOConfig, tmp_path / "theirs", **sizes)
    theirs.train()
    assert torch.equal(weights(ours), weights(theirs))
    assert history(ours, "reward") == history(theirs, "reward")
    assert history(ours, "loss") == history(theirs, "loss")
