"""Parts of ``gpu_check.py`` with vLLM: our scheduler and worker on a GPU.

* ``vllm``, ``vllm graphs``              a small model in bfloat16, CUDA graphs off and on: who is stopped, the head's
                                         scores, how many survivors have the tokens that they have without stops;
                                         ``gpu_check.py`` compares the two
* ``vllm invariant``                     vLLM's batch-invariant kernels: there every survivor must be the same
* ``vllm large``, ``vllm large graphs``  1.7 B parameters, random: half of 128 rollouts stopped at 512 of 1,400 tokens
                                         (without graphs 256 of 700), 64 at a time, beside the bound by token counts
* ``vllm sleep``                         the engine of ``arrol train`` with sleep level 2: memory given back, the same
                                         tokens after waking, new weights after an update
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from arrol.configs.method import QualityConfig
from arrol.configs.run import SamplingConfig, VllmEngineConfig
from arrol.engines.vllm import StopReport, pruning_args, push_estimator
from arrol.engines.vllm.engine import VllmEngine
from arrol.evaluation.reading import read_completions
from arrol.types import Completion, SamplingParams
from gpu_rows import NotHere, Rows, device, gpu_share, random_head, run_parts, seconds
from shape import SMOKE, Shape, build_model, build_requests
from vllm_pruning import CLASSES, _scoring_s

MISMATCH = 0.1
"""Mean difference of a token's log-probability between vLLM and the learner, in bfloat16."""
SHARED = "{part}.json"


class Sizes(NamedTuple):
    """A model and what is asked of it."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    vocabulary: int
    groups: int
    group_size: int
    rows: int
    """Requests that decode at once."""
    tokens: int
    probe: int


SMALL = Sizes(512, 1536, 8, 8, 4, 2048, groups=8, group_size=8, rows=64, tokens=96, probe=32)
LARGE = Sizes(2048, 6144, 28, 16, 8, 151936, groups=8, group_size=16, rows=64, tokens=1400, probe=512)
TINY = Sizes(128, 128, 2, 2, 1, 256, groups=4, group_size=4, rows=8, tokens=12, probe=4)


class Answers(NamedTuple):
    """What came back from all requests, in their order."""

    tokens: list[list[int]]
    stopped: list[int]
    """Numbers of the requests that were stopped."""
    scores: list[float]
    """NaN where no score was told."""


def small(rows: Rows, flags: argparse.Namespace, *, graphs: bool = False, invariant: bool = False) -> None:
    require_gpu(graphs, "CUDA graphs")
    sizes = TINY if flags.smoke else SMALL
    with tempfile.TemporaryDirectory() as folder:
        save_model(folder, sizes, with_weights=True)
        llm = start(folder, sizes, graphs=graphs, gib=8)
    push_estimator(llm, random_head(QualityConfig().features, sizes.hidden, sizes.probe))
    whole = ask(llm, sizes, {"rule": "never", "observe": True})
    stopped = ask(llm, sizes, {"rule": "uniform", "keep_ratio": 0.5, "warmup_steps": 0})
    kept = [number for number in range(len(whole.tokens)) if number not in stopped.stopped]
    rows.check("stopped", "share", len(stopped.stopped) / len(whole.tokens), least=0.45, most=0.55)
    lengths = {len(stopped.tokens[number]) for number in stopped.stopped}
    rows.check("tokens of a stopped rollout", "tokens", max(lengths), most=sizes.probe + 8)
    scored = [*whole.scores, *stopped.scores]
    rows.check("rollouts without a score", "share", float(np.mean(np.isnan(scored))), most=0.0)
    changed = float(np.mean([whole.tokens[number] != stopped.tokens[number] for number in kept]))
    if invariant or device().type == "cpu":
        rows.check("changed survivors", "share", changed, most=0.0, survivors=len(kept))
    else:
        rows.number("changed survivors", "share", changed, survivors=len(kept))
    if flags.shared:
        (flags.shared / SHARED.format(part=rows.part)).write_text(json.dumps({"all": whole, "half": stopped}))


def large(rows: Rows, flags: argparse.Namespace, *, graphs: bool = False) -> None:
    require_gpu(graphs, "CUDA graphs")
    sizes = TINY if flags.smoke else LARGE if graphs else LARGE._replace(tokens=700, probe=256)
    with tempfile.TemporaryDirectory() as folder:
        save_model(folder, sizes, with_weights=False)
        llm = start(folder, sizes, graphs=graphs, gib=34, load_format="dummy")
    push_estimator(llm, random_head(QualityConfig().features, sizes.hidden, sizes.probe))
    ask(llm, sizes._replace(tokens=2), {})
    taken, answers = {}, {}
    for name, rule in (("all", {}), ("half", {"rule": "uniform", "keep_ratio": 0.5, "warmup_steps": 0})):
        before = _scoring_s()
        taken[name], answers[name] = seconds(lambda rule=rule: ask(llm, sizes, rule))
        rows.number(f"generation, {name}", "s", taken[name], tokens=sum(map(len, answers[name].tokens)))
    rows.number("scoring", "share", (_scoring_s() - before) / taken["half"])
    fed = {name: sum(map(len, answer.tokens)) for name, answer in answers.items()}
    rows.speed_up("generation", taken["all"], taken["half"], fed["all"] / fed["half"], **sizes._asdict())


def sleep(rows: Rows, flags: argparse.Namespace) -> None:
    on_gpu = device().type == "cuda"
    shape = Shape(prompts=8, rollouts=8, hidden_size=512, intermediate_size=1536, layers=8, heads=8)
    if flags.smoke:
        shape = replace(SMOKE, hidden_size=64, heads=2)
    model = build_model(shape).to(device())
    config = VllmEngineConfig(
        dtype="bfloat16", max_rows=shape.rows, sleep_level=2 if on_gpu else 0, gpu_memory_frac=gpu_share(8)
    )
    engine = VllmEngine(model, config, SamplingConfig(max_completion_tokens=shape.completion_tokens))
    try:
        written, free = [], []
        for number in range(3):
            if number == 2:
                other = build_model(replace(shape, seed=1))
                model.load_state_dict(other.state_dict())
            engine.sync_weights()
            free.append(free_gib())
            written.append(flat(engine, shape))
            free.append(free_gib())
        rows.check("changed rollouts after waking", "share", changed_share(written[0], written[1]), most=0.02)
        rows.check("changed rollouts after an update", "share", changed_share(written[1], written[2]), least=0.5)
        mismatch = difference(model, shape, written[2])
        rows.check("log-probabilities of engine and learner", "nats", mismatch, most=MISMATCH)
    finally:
        engine.close()
    if not on_gpu:
        raise NotHere("sleep needs a GPU; the engine ran without it")
    rows.check("memory given back while asleep", "GiB", free[3] - free[2], least=1.0)


def flat(engine: VllmEngine, shape: Shape) -> list[Completion]:
    written = engine.generate(build_requests(shape, 1), SamplingParams(shape.completion_tokens), seed=0)
    return [completion for group in written for completion in group]


def changed_share(one: Sequence[Completion], other: Sequence[Completion]) -> float:
    return float(np.mean([a.token_ids != b.token_ids for a, b in zip(one, other, strict=True)]))


def difference(model: Any, shape: Shape, written: Sequence[Completion]) -> float:
    """Mean difference of the log-probabilities from those of the learner's model."""
    prompts = [request.prompt.token_ids for request in build_requests(shape, 1) for _ in request.rollout_ids]
    read = read_completions(model, [(p, c.token_ids) for p, c in zip(prompts, written, strict=True)])
    pairs = zip(written, read, strict=True)
    return float(np.mean([np.abs(c.sampler_logprobs_T - r.logprob_T).mean() for c, r in pairs]))


def free_gib() -> float:
    return torch.cuda.mem_get_info()[0] / 2**30 if torch.cuda.is_available() else 0.0


def require_gpu(is_needed: bool, what: str) -> None:
    if is_needed and device().type == "cpu":
        raise NotHere(f"{what} need a GPU")


def save_model(folder: str, sizes: Sizes, *, with_weights: bool) -> None:
    config = Qwen3Config(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.hidden,
        intermediate_size=sizes.intermediate,
        num_hidden_layers=sizes.layers,
        num_attention_heads=sizes.heads,
        num_key_value_heads=sizes.kv_heads,
        head_dim=sizes.hidden // sizes.heads,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        architectures=["Qwen3ForCausalLM"],
        bos_token_id=None,
        eos_token_id=None,
    )
    config.save_pretrained(folder)
    if with_weights:
        torch.manual_seed(0)
        Qwen3ForCausalLM(config).save_pretrained(folder)


def start(folder: str, sizes: Sizes, *, graphs: bool, gib: float, **options: Any) -> Any:
    """vLLM's ``LLM`` with our two classes."""
    from vllm import LLM

    return LLM(
        folder,
        skip_tokenizer_init=True,
        dtype="float32" if device().type == "cpu" else "bfloat16",
        enforce_eager=not graphs,
        max_num_seqs=sizes.rows,
        max_model_len=sizes.tokens + 64,
        gpu_memory_utilization=gpu_share(gib),
        use_tqdm_on_load=False,
        **CLASSES,
        **options,
    )


def ask(llm: Any, sizes: Sizes, rule: dict[str, Any]) -> Answers:
    """All groups at once; an empty rule asks for nothing."""
    from vllm import SamplingParams as Settings

    prompts, settings = [], []
    for group in range(sizes.groups):
        for index in range(sizes.group_size):
            name = {"group": f"{group}", "size": sizes.group_size, "index": index, "step": 1, "report": True}
            name["run"] = str(len(_CALLS))
            arguments = pruning_args(**name, probe_tokens=sizes.probe, **rule) if rule else None
            prompts.append({"prompt_token_ids": [(7 * group + i) % 200 for i in range(32)]})
            settings.append(
                Settings(
                    max_tokens=sizes.tokens,
                    ignore_eos=True,
                    logprobs=0,
                    detokenize=False,
                    extra_args=arguments,
                    seed=1000 * group + index,
                )
            )
    _CALLS.append(rule)
    outputs = [answer.outputs[0] for answer in llm.generate(prompts, settings, use_tqdm=False)]
    reports = [StopReport.parse(output.stop_reason) for output in outputs]
    stopped = [number for number, report in enumerate(reports) if report is not None and not report.keep]
    return Answers(
        [list(output.token_ids) for output in outputs],
        stopped,
        [float("nan") if report is None else report.score for report in reports],
    )


_CALLS: list[dict[str, Any]] = []
"""One for each call, so that a group's name is new."""


def graphs_small(rows: Rows, flags: argparse.Namespace) -> None:
    small(rows, flags, graphs=True)


def invariant(rows: Rows, flags: argparse.Namespace) -> None:
    require_gpu(True, "batch-invariant kernels")
    os.environ["VLLM_BATCH_INVARIANT"] = "1"
    small(rows, flags, invariant=True)


def graphs_large(rows: Rows, flags: argparse.Namespace) -> None:
    large(rows, flags, graphs=True)


PARTS = {
    "vllm": small,
    "vllm graphs": graphs_small,
    "vllm invariant": invariant,
    "vllm large": large,
    "vllm large graphs": graphs_large,
    "vllm sleep": sleep,
}

if __name__ == "__main__":
    run_parts(PARTS, __doc__ or "")
