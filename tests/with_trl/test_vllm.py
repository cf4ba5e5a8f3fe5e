"""TRL with vLLM in its own process and as a server, on the CPU; run by ``make test-vllm``, which has both.

TRL itself cannot send weights to vLLM on a CPU: colocated, vLLM's CPU layers no longer know how to load; as a server,
TRL asks for NCCL. So weights go through vLLM's reload here, and the server's client is a stand-in that sends none.
Everything of ours is real: classes, requests, RPC, HTTP.
"""

import argparse
import json
import os
import socket
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

import trl_host
from arrol.engines.vllm.served import ServedLlm
from arrol.errors import ConfigError
from arrol.integrations.trl import GRPOTrainer
from arrol.integrations.trl.rollout import PrunedRollout
from arrol.records.store import read_records, read_run
from arrol.records.texts import read_texts
from trl_host import config, has_digit, history
from vllm_host import serving

pytest.importorskip("vllm.sampling_params")
pytestmark = pytest.mark.filterwarnings("ignore")  # vLLM and TRL warn of themselves and of each other
VLLM = {"use_vllm": True, "vllm_max_model_length": 64, "vllm_gpu_memory_utilization": 0.3}


@pytest.fixture(scope="module", autouse=True)
def launcher_variables():
    """As TRL sets them for a colocated vLLM; other tests of this process must not see them."""
    before = dict(os.environ)
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model with heads of a size that vLLM's CPU kernels know, its embeddings untied."""
    path = tmp_path_factory.mktemp("model")
    _, tokenizer = trl_host.model_and_tokenizer()
    torch.manual_seed(0)
    shape = {"hidden_size": 128, "intermediate_size": 128, "num_hidden_layers": 2, "head_dim": 64}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128}
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    model = Qwen3ForCausalLM(Qwen3Config(vocab_size=len(tokenizer), **shape, **heads, **ids, tie_word_embeddings=False))
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def colocated(folder, out, cls=GRPOTrainer, **changes):
    """A trainer whose vLLM gets its weights from a folder."""
    host = cls(
        model=str(folder),
        reward_funcs=has_digit,
        args=config(out, **VLLM, vllm_mode="colocate", **changes),
        train_dataset=trl_host.dataset(),
    )

    def sync_weights():
        host.model.save_pretrained(out / "weights")
        host.vllm_generation.llm.collective_rpc("reload_weights", kwargs={"weights_path": str(out / "weights")})
        host.vllm_generation.llm.reset_prefix_cache()

    host.vllm_generation.sync_weights = sync_weights
    return host


def assert_recorded(host, out):
    """The record's last step is the last batch."""
    run = read_run(out / "arrol")
    step = run.steps[-1].step
    texts = {group["group"]: group for group in json.loads(read_texts(out / "arrol", step))["groups"]}
    rows = {(row.group, row.index): row for row in run.rollouts if row.step == step}
    assert run.end.outcome == "finished"
    assert len(rows) == len(host.pruned.batch.rollouts)
    for rollout in host.pruned.batch.rollouts:
        row, group = rows[rollout.rollout_id[1:]], texts[rollout.rollout_id.group]
        assert (row.finish_reason, row.survival) == (rollout.completion.finish_reason, rollout.survival)
        told = next(each for each in group["rollouts"] if each["index"] == row.index)
        text = "".join(group["tokens"][at] for at in told["tokens"])
        assert text == host.processing_class.decode(list(rollout.completion.token_ids))
        assert told["logprobs"] == pytest.approx(rollout.completion.sampler_logprobs_T, abs=0.0051)
        assert len(told["probes"]) == (rollout.decision is not None)


def test_colocated_rollouts_are_stopped_inside_vllm(folder, tmp_path):
    """At the probe that the lengths of the first batch have chosen; the head is one batch younger."""
    host = colocated(folder, tmp_path, max_steps=5, learning_rate=5e-3, probe_tokens=None)
    try:
        host.train()
    finally:
        host.vllm_generation.llm.llm_engine.engine_core.shutdown()
    kept = history(host, "arrol/pruning/kept_frac")
    assert kept[0] == 1.0
    assert all(0.2 < share < 0.8 for share in kept[1:])
    assert max(history(host, "sampling/sampling_logp_difference/mean")) < 5e-3  # vLLM follows, in bfloat16
    assert history(host, "arrol/rollout/finish/pruned")[-1] > 0
    stopped = [r for r in host.pruned.batch.rollouts if not r.survived]
    (probe,) = host.pruned.memory.probe_tokens
    assert all(probe <= r.completion.num_tokens < 24 for r in stopped)
    size = (2 * 128 + 3,)
    assert all(r.completion.features_at[probe].shape == size for r in host.pruned.batch.rollouts if r.decision)
    assert host.pruned.memory.estimator.version == 4
    assert_recorded(host, tmp_path)
    assert [r.decision.version for r in host.pruned.batch.rollouts if r.decision] == [3] * len(
        [r for r in host.pruned.batch.rollouts if r.decision]
    )


def test_the_part_of_gpu_check_passes_on_a_cpu(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    import gpu_rows
    import gpu_trl

    with gpu_rows.Rows("trl colocated", tmp_path / "rows.jsonl") as rows:
        gpu_trl.colocated(rows, argparse.Namespace(smoke=True))
    checks = [row.config["check"] for row in read_records(tmp_path / "rows.jsonl") if "check" in row.config]
    assert checks == ["passed"] * 4


def test_two_phases_need_none_of_our_classes(folder, tmp_path):
    host = colocated(
        folder,
        tmp_path,
        max_steps=4,
        vllm_two_phase=True,
        quality={"features": ["logprobs"], "hidden_size": 8, "min_class_records": 4},
    )
    try:
        scheduler = host.vllm_generation.llm.llm_engine.vllm_config.scheduler_config.scheduler_cls
        assert "arrol" not in str(scheduler)
        host.train()
    finally:
        host.vllm_generation.llm.llm_engine.engine_core.shutdown()
    assert 0.2 < history(host, "arrol/pruning/kept_frac")[-1] < 0.8
    assert {r.completion.num_tokens for r in host.pruned.batch.rollouts if not r.survived} == {6}
    assert_recorded(host, tmp_path)


def test_sizes_and_selections_work_without_pruning_and_a_grammar_holds(folder, tmp_path):
    options = {"allocation": "knapsack", "allocation_options": {"rollout_budget": 8}}
    options |= {"vllm_structured_outputs_regex": "[0-9]{3}", "min_p": 0.01}
    host = colocated(folder, tmp_path, max_steps=2, rule="never", probe_tokens=None, **options)
    try:
        host.train()
    finally:
        host.vllm_generation.llm.llm_engine.engine_core.shutdown()
    assert history(host, "arrol/allocation/rollouts_asked") == [8.0, 8.0]
    assert all(rollout.survived for rollout in host.pruned.batch.rollouts)
    texts = [host.processing_class.decode(r.completion.token_ids[:3]) for r in host.pruned.batch.rollouts]
    assert len(texts) == 8
    assert all(len(text) == 3 and text.isdecimal() for text in texts)


def test_never_leaves_trls_vllm_alone(folder, tmp_path):
    host = colocated(folder, tmp_path, max_steps=2, pruning_warmup_steps=0, rule="never", probe_tokens=None)
    try:
        assert "arrol" not in str(host.vllm_generation.llm.llm_engine.vllm_config.scheduler_config.scheduler_cls)
        host.train()
    finally:
        host.vllm_generation.llm.llm_engine.engine_core.shutdown()
    assert host.pruned is None
    from trl.generation import vllm_generation

    run = read_run(tmp_path / "arrol")
    assert [row.step for row in run.steps] == [1, 2]
    assert {row.finish_reason for row in run.rollouts} <= {"stop", "length"}
    from vllm import LLM

    assert vllm_generation.LLM is LLM


@pytest.fixture(scope="module")
def server(folder):
    """Address of ``vllm serve`` in development mode, with our classes."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder), "--enforce-eager"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--max-model-len", "64"]
    command += ["--logprobs-mode", "processed_logprobs", "--no-enable-chunked-prefill", "--max-num-seqs", "32"]
    command += ["--scheduler-cls", "arrol.engines.vllm.PruningScheduler"]
    command += ["--worker-cls", "arrol.engines.vllm.PruningWorker"]
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "LOCAL_RANK", "WORLD_SIZE")}
    environment |= {"VLLM_SERVER_DEV_MODE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "1"}
    environment |= {"VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn"}
    with serving(command, environment):
        yield f"http://127.0.0.1:{port}"


def served(server, folder, out, *, two_phase=False, **changes):
    """A trainer whose rollout alone believes in a server, the weights of which stand still."""
    args = config(out, **changes, learning_rate=0.0)
    rollout = PrunedRollout(args.host_config(), two_phase=two_phase)
    host = GRPOTrainer(
        model=str(folder),
        reward_funcs=has_digit,
        args=args,
        train_dataset=trl_host.dataset(),
        rollout_func=_as_server(rollout, server),
    )
    return host


def _as_server(rollout, server):
    """Tells the rollout alone that TRL uses a server."""

    class Served(PrunedRollout):
        def __call__(self, prompts, trainer):
            changes = {"vllm_mode": "server", "vllm_server_base_url": server, "to_dict": trainer.args.to_dict}
            args = types.SimpleNamespace(**{**vars(trainer.args), **changes})
            view = _View(trainer, use_vllm=True, args=args)
            output = super().__call__(prompts, view)
            return {**output, "logprobs": output["logprobs"]}

    rollout.__class__ = Served
    return rollout


class _View:
    """A trainer with some attributes changed."""

    def __init__(self, inner, **changes):
        self.__dict__.update(changes)
        self.__dict__["inner"] = inner

    def __getattr__(self, name):
        return getattr(self.inner, name)


def test_a_server_prunes_by_http_alone(server, folder, tmp_path):
    host = served(server, folder, tmp_path, max_steps=5)
    host.train()
    kept = history(host, "arrol/pruning/kept_frac")
    assert kept[0] == 1.0
    assert all(0.2 < share < 0.8 for share in kept[1:])
    rollouts = host.pruned.batch.rollouts
    assert {r.decision.version for r in rollouts if r.decision} == {4}
    assert_recorded(host, tmp_path)
    stopped = [r for r in rollouts if not r.survived]
    assert stopped
    assert all(6 <= r.completion.num_tokens < 24 for r in stopped)
    assert all(6 in r.completion.features_at for r in rollouts if r.decision)
    model = host.model.eval()
    for rollout in [r for r in rollouts if r.survived][:4]:
        group = host.pruned.batch.groups[rollout.rollout_id.group]
        ids = torch.tensor([[*group.prompt.token_ids, *rollout.completion.token_ids]])
        with torch.no_grad():
            logprob = model(ids).logits[0, :-1].log_softmax(-1).gather(1, ids[0, 1:, None])[:, 0]
        mine = logprob[-rollout.completion.num_tokens :].numpy()
        np.testing.assert_allclose(mine, rollout.completion.sampler_logprobs_T, atol=1e-3)


def test_the_asynchronous_worker_over_http(server, folder, tmp_path):
    """Batches of the worker for ``AsyncGRPOTrainer``; its trainer needs NCCL, so the weights stand still."""
    import async_host

    from arrol.integrations.trl import PrunedRolloutWorker

    args = async_host.config(tmp_path, vllm_server_base_url=server)
    options = {**async_host.PRUNING, "rule": "neyman", "allocation": {"rule": "aero", "explore_size": 4}}
    tokenizer = async_host.tokenizer_of(folder)
    worker = PrunedRolloutWorker(str(folder), args, trl_host.dataset(), has_digit, tokenizer, **options)
    maker = worker.batch_maker()
    made = [maker.make(lambda: 1, lambda: None) for _ in range(4)]
    kept = [batch.metrics["pruning/kept_frac"] for batch in made]
    assert kept[0] == 1.0
    assert all(0.2 < share < 0.9 for share in kept[1:])
    assert made[-1].metrics["async/head_version"] == 3.0, "refitted by each batch before"
    samples = [sample for batch in made for sample in batch.samples]
    assert samples
    assert all(np.isfinite(sample.old_log_probs).all() and np.isfinite(sample.advantage) for sample in samples)


def test_two_phases_over_http(server, folder, tmp_path):
    quality = {"features": ["logprobs"], "hidden_size": 8, "min_class_records": 4}
    host = served(server, folder, tmp_path, max_steps=3, two_phase=True, quality=quality)
    host.train()
    assert 0.2 < history(host, "arrol/pruning/kept_frac")[-1] < 0.8
    assert_recorded(host, tmp_path)


def test_a_server_without_our_worker_or_none_at_all_is_one_line(server):
    with pytest.raises(ConfigError, match="does not answer"):
        ServedLlm("http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="VLLM_SERVER_DEV_MODE=1"):
        ServedLlm(server).collective_rpc("unknown_method")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"vllm_enable_sleep_mode": True}, "vllm_enable_sleep_mode = True"),
        ({"vllm_tensor_parallel_size": 2}, "vllm_tensor_parallel_size = 2"),
    ],
)
def test_what_vllm_under_trl_cannot_do_is_refused(folder, tmp_path, changes, words):
    with pytest.raises(ConfigError, match=words):
        colocated(folder, tmp_path, **changes)
