"""Little memory, by a real limit of the process: a plan that cannot fit is refused in one line, and fewer rows at once
give the same tokens.
"""

import json
import logging
import multiprocessing
import sys

import pytest
import torch

from arrol.cli.main import main
from arrol.configs.run import EngineConfig
from arrol.engines.embedded.engine import EmbeddedEngine
from arrol.training import footprint
from arrol.types import GroupRequest, Prompt, SamplingParams
from integration import tiny

MIB = 2**20
linux = pytest.mark.skipif(sys.platform != "linux", reason="limits of a process are read from /proc")
MANY = ["--training.group_size", "65536", "--training.prompts_per_step", "16"]
"""400 MiB of completions at least."""


@linux
def test_a_plan_beyond_the_limit_of_the_process_is_refused_at_once(config, tmp_path):
    log = tmp_path / "log"
    before = set(tmp_path.iterdir())
    assert tiny.finish(["train", config, *MANY], log, memory=300 * MIB) == 2
    (line,) = log.read_text().splitlines()
    assert line.startswith("arrol: training.group_size = 65536: the completions of a step take 0.391 GiB or more")
    assert "GiB can be allocated; lower it to " in line
    assert set(tmp_path.iterdir()) == before | {log}


def compare_of(config):
    text = config.read_text().replace('name = "tiny"\n', "")
    run = "\n".join(f"[run.{line[1:]}" if line.startswith("[") else line for line in text.splitlines())
    arms = '[[arms]]\nname = "a"\n[[arms]]\nname = "b"\nchange.training.group_size = 65536\n'
    path = config.with_name("compare.toml")
    path.write_text(f'name = "both"\n[run]\n{run}\n{arms}')
    return path


COMMANDS = {
    "train": ([], "model = "),
    "eval": ([], "model = "),
    "lab": (["--prompts", "2", "--rollouts", "2", "--sketch-size", "8"], "model = "),
    "compare": ([], "training.group_size = 65536: "),
    "sft": (["--batch_size", "1", "--eval_prompts", "1"], "shape.hidden_size = 16: "),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_refuses_before_weights_are_read_and_anything_is_written(
    command, config, tmp_path, monkeypatch, capsys
):
    flags, begins = COMMANDS[command]
    if command == "sft":
        config = tmp_path / "sft.toml"
        shape = {"hidden_size": 16, "intermediate_size": 32, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1}
        config.write_text(tiny.toml({"out_dir": str(tmp_path / "runs"), "shape": shape, "task": {"name": "countdown"}}))
    if command == "compare":
        config = compare_of(config)
    before = set(tmp_path.rglob("*"))
    monkeypatch.setattr(footprint, "host_most_bytes", lambda: 50 * MIB if command == "compare" else 5_000)
    for load in ("from_pretrained", "from_config"):
        real = getattr(footprint_models(), load)
        monkeypatch.setattr(footprint_models(), load, staticmethod(only_without_memory(real)))
    assert main([command, str(config), *flags]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith(f"arrol: {begins}"), err
    assert "can be allocated; " in err
    assert set(tmp_path.rglob("*")) == before


def footprint_models():
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM


def only_without_memory(real):
    """The function, which may lay models out and may not fill them."""

    def call(*args, **kwargs):
        assert torch.get_default_device().type == "meta", "weights were read"
        return real(*args, **kwargs)

    return call


@linux
def test_fewer_rows_under_a_real_limit_give_the_same_tokens(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(tiny.PRELOAD)
    process = context.Process(target=sample_twice, args=(str(tmp_path / "found"),))
    process.start()
    process.join(120)
    process.kill()
    plain, scarce, same, said = json.loads((tmp_path / "found").read_text())
    assert (plain, same) == (64, True)
    assert 1 <= scarce < 32
    assert len(said) == 1, "once, although it samples twice"
    assert said[0] == (
        f"arrol: the free memory is enough for {scarce} rows of 64 tokens; the embedded engine goes on with "
        f"{scarce} rows"
    )


def sample_twice(path):
    """Rows at once without and with a limit, whether the tokens are the same bit for bit, and what was said."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.set_num_threads(1)
    torch.manual_seed(0)
    shape = {"num_hidden_layers": 2, "num_attention_heads": 8, "num_key_value_heads": 8, "head_dim": 128}
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=32, hidden_size=32, intermediate_size=32, **shape)).eval()
    said = []
    handler = logging.Handler()
    handler.emit = lambda record: said.append(record.getMessage())
    logging.getLogger("arrol").addHandler(handler)

    def sampled():
        engine, rows = EmbeddedEngine(model, EngineConfig()), []
        real = engine.step
        engine.step = lambda token_S, cache, width: rows.append(len(token_S)) or real(token_S, cache, width)
        prompts = [Prompt(str(n), tuple(range(2 + n, 14)), "", "", 1, "") for n in range(4)]
        requests = [GroupRequest(1, n, prompt, 16) for n, prompt in enumerate(prompts)]
        groups = [engine.generate(requests, SamplingParams(50), seed=seed) for seed in (0, 1)]
        return max(rows), [one.token_ids for part in groups for group in part for one in group]

    plain, tokens = sampled()
    tiny.limit_memory(40 * MIB)
    scarce, again = sampled()
    with open(path, "w") as file:
        json.dump((plain, scarce, tokens == again, said), file)
