"""Plans that surely fail are refused from config.json alone; the ones that we ship and advise are not."""

import json
from pathlib import Path

import pytest
import torch

from arrol.configs.base import validate
from arrol.configs.run import RunConfig, load_compare, load_run, planned_runs
from arrol.configs.sft import SftConfig
from arrol.errors import ConfigError
from arrol.lab.collect import PoolPlan, require_pool_room
from arrol.training.model_shapes import wanted_shapes
from arrol.training.policy import laid_out
from arrol.training.room import require_eval_room, require_run_room, require_sft_room

CPU = torch.device("cpu")
GIB, MIB = 2**30, 2**20
ROOT = Path(__file__).parents[3]
SMOLLM2 = {
    "model_type": "llama", "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30,
    "num_attention_heads": 9, "num_key_value_heads": 3, "max_position_embeddings": 8192, "tie_word_embeddings": True,
}  # fmt: skip
WEIGHTS = 134_515_008


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The config of SmolLM2-135M; its weights are never read."""
    folder = tmp_path_factory.mktemp("smollm2")
    (folder / "config.json").write_text(json.dumps(SMOLLM2))
    return str(folder)


def run(folder, **fields):
    return validate(RunConfig, {"model": folder, "task": {"name": "arithmetic"}, **fields})


def refused(check, *given, **room):
    with pytest.raises(ConfigError) as caught:
        check(*given, **room)
    return str(caught.value)


def test_a_run_needs_its_learner(folder):
    config = run(folder)
    need = 16 * WEIGHTS
    require_run_room(config, CPU, room=need + 2 * MIB)
    assert refused(require_run_room, config, CPU, room=need - 1) == (
        f"model = {folder!r}: its weights, gradients and AdamW's moments take 2 GiB or more, the plan as a whole 2 "
        "GiB, and 2 GiB can be allocated; take a smaller model, or train adapters with --lora.r 16"
    )
    adapters = run(folder, lora={"r": 16})
    require_run_room(adapters, CPU, room=GIB)
    assert refused(require_run_room, adapters, CPU, room=GIB // 2).endswith("allocated; take a smaller model")


@pytest.mark.parametrize(
    ("fields", "room", "begins", "ends"),
    [
        ({"sampling": {"max_completion_tokens": 8000}}, 1.9, "sampling.max_completion_tokens = 8000: the activations "
         "of one rollout's update take 1.89 GiB", "at most, or set training.gradient_checkpointing = true"),
        ({"sampling": {"max_completion_tokens": 8000}, "training": {"gradient_checkpointing": True, "steps": 1},
          "algorithm": {"name": "dr_grpo", "kl_coef": 0.1}, "lora": {"r": 8}, "evaluation": {"num_prompts": 16}}, 0.8,
         "sampling.max_completion_tokens = 8000: the activations of", "at most"),
        ({"training": {"group_size": 65536}}, 1.5, "model = ", "--lora.r 16"),
        ({"training": {"group_size": 65536}, "lora": {"r": 8}}, 0.85,
         "model = ", "take a smaller model"),
        ({"training": {"group_size": 65536, "prompts_per_step": 16}, "lora": {"r": 1}, "model": None}, 0.3,
         "training.group_size = 65536: the completions of a step take 0.391 GiB or more", "at most"),
        ({"evaluation": {"num_prompts": 9, "samples_per_prompt": 65536 * 16}, "model": None}, 0.5, None, None),
        ({"evaluation": {"num_prompts": 999_999, "samples_per_prompt": 16}, "model": None}, 2.0,
         "evaluation.num_prompts = 999999: the completions of an evaluation take 5.96 GiB or more", "at most"),
        ({"algorithm": {"name": "dr_grpo", "kl_coef": 0.1}}, 2.3, "model = ", "--lora.r 16"),
    ],
)  # fmt: skip
def test_the_field_that_dominates_is_named(folder, tmp_path, fields, room, begins, ends):
    if "model" in fields:
        shape = {**SMOLLM2, "num_hidden_layers": 1, "hidden_size": 36, "vocab_size": 30}
        (tmp_path / "config.json").write_text(json.dumps(shape))
        folder = str(tmp_path)
    if begins is None:
        with pytest.raises(ConfigError, match="must be at most 65536"):
            run(folder, **{name: value for name, value in fields.items() if name != "model"})
        return
    config = run(folder, **{name: value for name, value in fields.items() if name != "model"})
    message = refused(require_run_room, config, CPU, room=int(room * GIB))
    assert message.startswith(begins), message
    assert message.endswith(ends), message
    require_run_room(config, CPU, room=100 * GIB)


def test_what_the_message_advises_fits(folder):
    """The largest limit that it names, and with recomputed layers the first one."""
    config = run(folder, sampling={"max_completion_tokens": 8000}, lora={"r": 8})
    message = refused(require_run_room, config, CPU, room=GIB)
    most = int(message.partition("lower it to ")[2].partition(" ")[0])
    assert 500 < most < 8000
    require_run_room(run(folder, sampling={"max_completion_tokens": most - 2}, lora={"r": 8}), CPU, room=GIB)
    assert refused(require_run_room, run(folder, sampling={"max_completion_tokens": most + 9}), CPU, room=GIB)
    training = {"gradient_checkpointing": True}
    fits = run(folder, sampling={"max_completion_tokens": 3000}, lora={"r": 8}, training=training)
    require_run_room(fits, CPU, room=GIB)


def test_nothing_that_we_ship_or_advise_is_refused(folder, monkeypatch):
    """On 8 GiB, but the configs of 1 B models and more, which ask for a GPU."""
    monkeypatch.chdir(ROOT)
    for path in sorted(ROOT.glob("configs/*.toml")):
        text = path.read_text()
        if "models/" not in text or "sft" in path.name:
            continue
        configs = [config for _, config in planned_runs(load_compare(path))] if "[[arms]]" in text else [load_run(path)]
        for config in configs[:4]:
            require_run_room(config, CPU, room=GIB // 4)
    two_groups = {"prompts_per_step": 2, "group_size": 24, "steps": 200}
    require_run_room(run(folder, training=two_groups, sampling={"max_completion_tokens": 512}), CPU, room=4 * GIB)


def test_an_evaluation_needs_the_weights_alone(folder):
    require_eval_room(run(folder), folder, CPU, room=4 * WEIGHTS + 8 * MIB)
    message = refused(require_eval_room, run(folder), folder, CPU, room=4 * WEIGHTS)
    assert message.startswith(f"model = {folder!r}: its weights take 0.501 GiB or more")
    bfloat16 = run(folder, engine={"dtype": "bfloat16"}, algorithm={"name": "dr_grpo", "importance_cap": 2.0})
    assert refused(require_eval_room, bfloat16, folder, CPU, room=4 * WEIGHTS + 8 * MIB)
    long = run(folder, sampling={"max_completion_tokens": 8000})
    assert refused(require_eval_room, long, folder, CPU, room=4 * WEIGHTS + 8 * MIB).startswith("model = ")


def sft(**fields):
    return validate(SftConfig, {"task": {"name": "arithmetic"}, **fields})


def test_a_warm_start_needs_its_batch(folder):
    laid = laid_out(folder)
    given = {"length": 50, "samples": 16}
    require_sft_room(sft(model=folder, batch_size=4), laid, CPU, room=3 * GIB, **given)
    message = refused(require_sft_room, sft(model=folder, batch_size=2**20), laid, CPU, room=3 * GIB, **given)
    assert message.startswith("batch_size = 1048576: the activations of a step take 1.24e+04 GiB or more")
    assert message.endswith("and 3 GiB can be allocated; lower it to 116 at most")
    message = refused(require_sft_room, sft(model=folder, eval_prompts=10**6), laid, CPU, room=3 * GIB, **given)
    assert message.startswith("eval_prompts = 1000000: the completions of the evaluation take 5.96 GiB")


def test_a_new_model_needs_its_shape(folder):
    config = laid_out(folder)[0]
    message = refused(
        require_sft_room, sft(), (config, wanted_shapes(config)), CPU, room=GIB, length=9, samples=16
    )  # fmt: skip
    assert message.startswith(
        "shape.hidden_size = 128: its weights, gradients and AdamW's moments take 1.5 GiB or more"
    )
    assert message.endswith("; lower it")


def test_a_pool_needs_its_features_and_sketches(folder):
    config = run(folder)
    require_pool_room(config, PoolPlan(prompts=64, rollouts=96), folder, CPU, room=4 * GIB)
    message = refused(require_pool_room, config, PoolPlan(2**20, 65536), folder, CPU, room=4 * GIB)
    assert message.startswith("--prompts = 1048576: the features and sketches of the pool take 1.9")
    message = refused(require_pool_room, config, PoolPlan(3, 65536 * 8), folder, CPU, room=4 * GIB)
    assert message.startswith("--rollouts = 524288: ")
    assert refused(require_pool_room, config, PoolPlan(), folder, CPU, room=GIB).endswith("or --sketch-size 0")
    require_pool_room(config, PoolPlan(sketch_size=0), folder, CPU, room=GIB)
