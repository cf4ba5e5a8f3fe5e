"""What TRL would accept and pruning would silently spoil is refused in one line, before anything is generated."""

import dataclasses
import functools
import sys
import types
from contextlib import nullcontext

import pytest
import torch
import trl

import trl_host
from arrol.errors import ConfigError, ModelError
from arrol.integrations.trl import GRPOConfig, pruned_rollout
from trl_host import config, has_digit, is_short, trainer


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"keep_ratio": 1.5}, "keep_ratio = 1.5"),
        ({"rule": "best"}, "rule = 'best'"),
        ({"rule": "oracle"}, "rule = 'oracle'"),
        ({"probe_tokens": [24]}, r"probe_tokens = \[24\]: no rollout runs beyond max_completion_length = 24"),
        ({"probe_tokens": [9, 4]}, "probe_tokens"),
        ({"keep_ratio": 0.2}, "keep_ratio = 0.2: leaves 1"),
        ({"pruning_warmup_steps": -1}, "pruning_warmup_steps = -1"),
        ({"correction": "magic"}, "correction = 'magic'"),
        ({"draw": "coin"}, "draw = 'coin'"),
        ({"rule_options": {"scop": "batch"}}, "scop = 'batch'"),
        ({"rule_options": "not json"}, "rule_options"),
        ({"quality": {"width": 3}}, "quality.width = 3"),
        ({"quality": "[1, 2]"}, r"quality = \[1, 2\]"),
        ({"cache_gib": 0}, "^cache_gib = 0.0: set it to a number of GiB above 0, or to 'auto'$"),
        ({"cache_gib": "half"}, "^cache_gib = 'half': set it to a number of GiB above 0, or to 'auto'$"),
        ({"vllm_two_phase": True}, "vllm_two_phase = True"),
        ({"max_completion_length": None}, "^max_completion_length = None: pruning needs a limit; set a number, or "),
        ({"allocation": "podz"}, "allocation = 'podz'.*is 'pods'"),
        ({"allocation": "greso"}, "allocation = 'greso': TRL's own sampler chooses the prompts"),
        ({"allocation": "pods", "allocation_options": {"train_size": 9}}, "allocation.train_size = 9: more than"),
        ({"allocation": "aero", "allocation_options": {"max_group": 9}}, "allocation.max_group = 9"),
        ({"allocation_options": {"train_size": 9}}, "allocation.train_size = 9: unknown key"),
        ({"allocation_options": "[1]"}, r"allocation_options = \[1\]"),
        ({"allocation": "aero", "scale_rewards": "batch"}, "scale_rewards = 'batch'"),
    ],
)
def test_a_wrong_option_is_named(tmp_path, changes, words):
    with pytest.raises(ConfigError, match=words) as error:
        config(tmp_path, **changes)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("pruning", "probes"),
    [
        ({}, ()),
        ({"probe_tokens": [9]}, (9,)),
        ({"probe_tokens": 9}, (9,)),
        ({"rule_options": {"probe_tokens": [7]}}, (7,)),
    ],
)
def test_the_lengths_choose_the_probe_unless_one_is_given(tmp_path, pruning, probes):
    assert config(tmp_path, pruning=pruning).host_config().pruning.probe_tokens == probes


def test_options_from_flags_are_json(tmp_path):
    args = config(tmp_path, rule_options='{"scope": "batch"}', quality='{"hidden_size": 4}')
    assert args.host_config().pruning.scope == "batch"
    assert args.host_config().quality.hidden_size == 4


@pytest.mark.parametrize(
    ("changes", "more", "words"),
    [
        ({"num_generations": 8, "per_device_train_batch_size": 8, "loss_type": "new"}, {}, "loss_type = 'new'"),
        ({"multi_objective_aggregation": "normalize_then_sum"}, {}, "multi_objective_aggregation"),
        (
            {"multi_objective_aggregation": "normalize_then_sum", "correction": "plain", "allocation": "cppo"},
            {},
            "allocation = 'uniform'",
        ),
        ({}, {"reward_funcs": [has_digit, is_short]}, "success_reward = None: name the one of"),
        ({"success_reward": "typo"}, {}, "success_reward = 'typo'"),
        ({}, {"rollout_func": lambda prompts, trainer: {}}, "rollout_func"),
        ({}, {"reward_funcs": torch.nn.Linear(1, 1)}, "a reward model cannot"),
        ({}, {"reward_funcs": None}, "reward_funcs: missing"),
        ({"use_liger_kernel": True}, {}, "^use_liger_kernel = True: never run with pruning; set it to False$"),
    ],
)
def test_a_trainer_that_would_go_wrong_silently_is_not_built(tmp_path, changes, more, words):
    with pytest.raises(ConfigError, match=words) as error:
        trainer(config(tmp_path, **changes), **more)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"min_p": 0.1}, "min_p = 0.1"),
        ({"repetition_penalty": 1.1}, "repetition_penalty = 1.1"),
        ({"generation_kwargs": {"typical_p": 0.5}}, r"generation_kwargs = {'typical_p': 0.5}"),
    ],
)
def test_sampling_that_the_embedded_engine_lacks(tmp_path, changes, words):
    rest = ": the embedded engine samples by temperature, top_p and top_k only; leave it out, or set use_vllm = True"
    with pytest.raises(ConfigError, match=f"^{words}{rest}$"):
        trainer(config(tmp_path, **changes))


def test_what_vllm_would_not_be_told_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"^generation_kwargs\['n'\]: pruning sets it itself, or it was not tested; "):
        trainer(config(tmp_path, use_vllm=True, generation_kwargs={"n": 2, "min_tokens": 3}))
    changes = {"vllm_structured_outputs_regex": "[0-9]+", "quality": {"features": ["logprobs"]}}
    with pytest.raises(ConfigError, match=r"^vllm_two_phase = True: grammars and generation_kwargs would start again"):
        trainer(config(tmp_path, use_vllm=True, vllm_two_phase=True, **changes))


def test_a_learned_prompt_is_refused(tmp_path):
    """The engine would sample without it."""
    peft = pytest.importorskip("peft")
    tuning = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    with pytest.raises(ConfigError, match=r"^peft_config = PromptTuningConfig: rollouts would be sampled without the "):
        trainer(config(tmp_path), peft_config=tuning)


def test_completions_beyond_the_models_positions_are_refused(tmp_path):
    words = r"^max_completion_length = 126: with a prompt of 4 tokens it exceeds the 128 positions of the model "
    with pytest.raises(ConfigError, match=words + r"\(max_position_embeddings\); lower it to 124$"):
        trainer(config(tmp_path, max_completion_length=126)).train()


@pytest.mark.filterwarnings("ignore:`use_transformers_paged` is deprecated:FutureWarning")
@pytest.mark.parametrize("name", ["use_transformers_paged", "use_transformers_continuous_batching"])
def test_an_option_that_would_be_ignored_is_refused(tmp_path, name):
    if name not in {field.name for field in dataclasses.fields(trl.GRPOConfig)}:
        pytest.skip("this TRL has no continuous batching")
    with pytest.raises(ConfigError, match=f"^{name} = True: ignored, since the embedded engine samples; set it to Fal"):
        trainer(config(tmp_path, **{name: True}))


def test_auto_is_refused_where_vllm_decides(tmp_path):
    message = "^rule = 'auto': vLLM's scheduler sees no outcomes to learn from; set vllm_two_phase = True$"
    with pytest.raises(ConfigError, match=message):
        trainer(config(tmp_path, rule="auto", use_vllm=True))


def test_split_layers_are_refused_when_the_trainer_is_built(tmp_path, monkeypatch):
    original = trl.GRPOTrainer.__init__

    @functools.wraps(original)
    def sharded(self, *given, **named):
        original(self, *given, **named)
        self.is_fsdp_enabled = True

    rest = "the embedded engine needs whole layers on each process; set use_vllm = True, or rule = 'never'$"
    monkeypatch.setattr("arrol.integrations.trl.host.is_deepspeed_zero3_enabled", lambda: True)
    with pytest.raises(ConfigError, match=f"^deepspeed = ZeRO-3: {rest}"):
        trainer(config(tmp_path))
    monkeypatch.setattr(trl.GRPOTrainer, "__init__", sharded)
    with pytest.raises(ConfigError, match=f"^fsdp = True: {rest}"):
        trainer(config(tmp_path))


def test_two_phases_without_their_features_are_refused_when_the_trainer_is_built(tmp_path):
    words = r"^quality\.features = \['last_hidden', 'mean_hidden', 'logprobs'\]: several calls can read only log-pro"
    with pytest.raises(ConfigError, match=words):
        trainer(config(tmp_path, use_vllm=True, vllm_two_phase=True))
    with pytest.raises(ConfigError, match=words):
        pruned_rollout(two_phase=True)


@pytest.mark.parametrize(("cap", "words"), [(None, None), (3.0, "its logits are not the output embedding")])
def test_a_model_that_the_engine_cannot_run_is_refused_when_the_trainer_is_built(tmp_path, monkeypatch, cap, words):
    model, _ = trl_host.model_and_tokenizer()
    forward = model.forward

    @functools.wraps(forward)
    def capped(*given, **named):
        output = forward(*given, **named)
        output.logits = output.logits if cap is None else cap * output.logits
        return output

    monkeypatch.setattr(model, "forward", capped)
    with nullcontext() if words is None else pytest.raises(ModelError, match=words):
        trainer(config(tmp_path), model=model)


def test_a_reward_model_is_not_split(tmp_path, monkeypatch):
    monkeypatch.setattr("transformers.integrations.is_deepspeed_zero3_enabled", lambda: True)
    words = "^reward_funcs = 'hub/judge': ZeRO-3 would split the reward model; wrap it in a function, or use ZeRO-2$"
    with pytest.raises(ConfigError, match=words):
        trainer(config(tmp_path), reward_funcs="hub/judge")


def test_unsloth_is_refused(tmp_path, monkeypatch):
    """It replaces trl.GRPOTrainer, its generation and its loss when it is imported."""
    monkeypatch.setitem(sys.modules, "unsloth", types.ModuleType("unsloth"))
    with pytest.raises(
        ConfigError, match=r"^unsloth = imported: it replaces the parts of TRL that pruning uses, gener"
    ):
        trainer(config(tmp_path))
    assert trainer(config(tmp_path, pruning={"rule": "never"})).pruned is None


def test_tools_are_refused(tmp_path):
    def add(a: int, b: int) -> int:
        """Add.

        Args:
            a: one
            b: other
        """
        return a + b

    with pytest.raises(ConfigError, match="tools: TRL ignores env_mask"):
        trainer(config(tmp_path), tools=[add])
    trainer(config(tmp_path), tools=[])


def test_trls_own_config_is_told_apart(tmp_path):
    with pytest.raises(
        ConfigError,
        match=r"^args = trl\.GRPOConfig: has no pruning fields; import GRPOConfig from arrol\.integrations\.trl$",
    ):
        trainer(trl_host.trl_config(tmp_path))


def test_our_fields_collide_with_none_of_trls():
    """A field that TRL gains under a name of ours would change its meaning without a word."""
    ours = set(GRPOConfig.__annotations__)
    theirs = {field.name for field in dataclasses.fields(trl.GRPOConfig)}
    assert not ours & theirs


def test_a_plain_rule_accepts_what_the_others_do_not(tmp_path):
    args = config(tmp_path, correction="plain", multi_objective_aggregation="normalize_then_sum", max_steps=2)
    trainer(args).train()
