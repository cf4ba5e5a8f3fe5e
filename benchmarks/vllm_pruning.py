"""Pruning inside vLLM: what scoring costs when nothing is stopped, and what stopping half of the rollouts gives.

Two engines of one random model live in this process, vLLM as it is and vLLM with our scheduler and worker, and take
turns. Every request writes all its tokens unless it is stopped. Arms:

* ``plain``      vLLM without our classes
* ``idle``       our classes, requests that ask for nothing
* ``scored``     every request is scored (last hidden state, its running mean, log-probabilities) and kept
* ``last``       the same with a head that reads the last hidden state alone
* ``half``       rule ``uniform`` stops half of each group at the probe; in its rival ``all`` no request asks for it

The cost of scoring is small, so those arms run often, on a quarter of the groups; ``half`` and ``all`` run on all.
The bound of ``half`` is the ratio of tokens that have to be fed, prompts included unless they are cached. Freed rows
are taken by requests that wait, in sixteen waves, so that the end, when no request waits and rows stay empty, weighs
little. Needs the environment of ``make vllm-env``.

    OMP_NUM_THREADS=1 .venv-vllm/bin/python benchmarks/vllm_pruning.py [--repeats N] [--out FILE]

With ``--model FOLDER`` one engine runs that model, the arm is ``scored``, and what scoring costs is read from the
worker's own counter, ``arrol:scoring_seconds``. Differences of a per cent between two arms are within their noise.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from prometheus_client import REGISTRY
from transformers import AutoConfig, Qwen3Config, Qwen3ForCausalLM

from arrol.configs.method import QualityConfig
from arrol.engines.vllm import pruning_args, push_estimator
from arrol.quality.estimator import QualityEstimator
from arrol.quality.features import FeatureLayout
from arrol.quality.snapshot import EstimatorSnapshot
from arrol.records.schema import BenchRecord
from measure import Laps, Samples, interleave, speedup_record, time_record, write

MAX_COST, MIN_SHARE = 0.01, 0.95
"""What we ask of ourselves: cost of scoring, and share of the token bound."""
CLASSES = {"scheduler_cls": "arrol.engines.vllm.PruningScheduler", "worker_cls": "arrol.engines.vllm.PruningWorker"}


def build_model(folder: str, flags: argparse.Namespace) -> None:
    """Random weights; sampling at temperature 1 costs the same whatever they say."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=2048,
        hidden_size=flags.hidden_size,
        intermediate_size=3 * flags.hidden_size,
        num_hidden_layers=flags.layers,
        num_attention_heads=flags.hidden_size // 64,
        num_key_value_heads=flags.hidden_size // 64,
        head_dim=64,
        max_position_embeddings=1024,
        tie_word_embeddings=False,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)


def build_engine(folder: str, flags: argparse.Namespace, **classes: str) -> Any:
    from vllm import LLM

    return LLM(
        folder,
        skip_tokenizer_init=True,
        dtype="float32",
        enforce_eager=True,
        max_num_seqs=flags.rows,
        max_model_len=flags.tokens + 64,
        use_tqdm_on_load=False,
        **classes,
    )


def snapshot_of(names: tuple[str, ...], flags: argparse.Namespace) -> EstimatorSnapshot:
    layout = FeatureLayout(names, flags.hidden_size)
    return QualityEstimator(QualityConfig(), layout, [flags.probe], seed=0).snapshot()


class Arm:
    """One way of asking one engine; a call generates everything."""

    def __init__(
        self,
        engine: Any,
        flags: argparse.Namespace,
        rule: dict[str, Any],
        head: EstimatorSnapshot | None = None,
        groups: int = 0,
    ) -> None:
        """``groups`` of this arm; those of the flags when 0."""
        self.engine, self.flags, self.rule, self.head, self.groups = engine, flags, rule, head, groups
        self.tokens = self.fed = 0

    def __call__(self, number: int) -> Laps:
        from vllm import SamplingParams

        flags, prompts, params = self.flags, [], []
        groups = self.groups or flags.groups
        if self.head is not None:
            push_estimator(self.engine, self.head)
        for group in range(groups):
            for index in range(flags.group_size):
                asked = (
                    pruning_args(group=f"{number}-{group}", size=flags.group_size, **self.rule) if self.rule else None
                )
                prompts.append({"prompt_token_ids": [(7 * group + i) % 2000 for i in range(40)]})
                params.append(
                    SamplingParams(
                        max_tokens=flags.tokens, ignore_eos=True, logprobs=0, detokenize=False, extra_args=asked,
                        seed=1000 * group + index,
                    )
                )  # fmt: skip
        laps, scored_before = Laps(), _scoring_s()
        answers = self.engine.generate(prompts, params, use_tqdm=False)
        laps.lap("generate")
        laps.wall["scoring"] = laps.cpu["scoring"] = _scoring_s() - scored_before
        self.tokens = sum(len(answer.outputs[0].token_ids) for answer in answers)
        self.fed = self.tokens + sum(len(a.prompt_token_ids) - (a.num_cached_tokens or 0) for a in answers)
        return laps


def records(arms: dict[str, Arm], samples: dict[str, Samples], config: dict[str, Any]) -> list[BenchRecord]:
    """Seconds of each arm beside its rival's, and the speed-up of ``half``."""
    rows = []
    for name, mine in samples.items():
        rival = {"plain": None, "idle": "plain", "all": None, "half": "all"}.get(name, "idle")
        counted = config | {"tokens_generated": arms[name].tokens, "tokens_fed": arms[name].fed}
        against = None if rival is None else (rival, samples[rival])
        rows.append(time_record("vllm", f"{name} generate", mine, "generate", rival=against, config=counted))
    bound = arms["all"].fed / arms["half"].fed
    against = ("all generate", samples["all"].wall["generate"])
    times = samples["half"].wall["generate"]
    rows.append(speedup_record("vllm", "half generate speed-up", times, against, limit=bound, config=config))
    return rows


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name, value, text in (
        ("hidden-size", 384, "width of the model"),
        ("layers", 6, "layers of the model"),
        ("rows", 16, "requests that decode at once"),
        ("groups", 32, "groups"),
        ("group-size", 8, "requests per group"),
        ("tokens", 96, "tokens per request"),
        ("probe", 24, "tokens at the probe"),
        ("repeats", 3, "timed calls of half and all; three times as many of the others"),
    ):
        parser.add_argument(f"--{name}", type=int, default=value, help=f"{text} (default {value})")
    parser.add_argument("--model", default="", help="folder of a model; measures the share of scoring alone")
    parser.add_argument("--out", default="results/bench-vllm.jsonl", help="records; replaced")
    flags = parser.parse_args(arguments)
    if flags.model:
        measure_scoring(flags)
        return
    with tempfile.TemporaryDirectory() as folder:
        build_model(folder, flags)
        plain, ours = build_engine(folder, flags), build_engine(folder, flags, **CLASSES)
    everything = snapshot_of(("last_hidden", "mean_hidden", "logprobs"), flags)
    last = snapshot_of(("last_hidden",), flags)
    observe = {"rule": "never", "observe": True, "probe_tokens": flags.probe}
    stops = {"rule": "uniform", "keep_ratio": 0.5, "probe_tokens": flags.probe}
    few = max(1, flags.groups // 4)
    costs = {
        "plain": Arm(plain, flags, {}, groups=few),
        "idle": Arm(ours, flags, {}, everything, few),
        "scored": Arm(ours, flags, observe, everything, few),
        "last": Arm(ours, flags, observe, last, few),
    }
    gains = {"all": Arm(ours, flags, {}, everything), "half": Arm(ours, flags, stops, everything)}
    usage = ours.llm_engine.engine_core.engine_core.scheduler.kv_usage
    samples = interleave(_calls(costs), warmup=1, repeats=3 * flags.repeats)
    samples |= interleave(_calls(gains), warmup=1, repeats=flags.repeats)
    config = {key: value for key, value in vars(flags).items() if key not in ("out", "model")}
    config["threads"] = torch.get_num_threads()
    config["kv_usage_before_and_after"] = _usage(usage, flags)
    write(flags.out, Path(flags.out).stem, config, records(costs | gains, samples, config), seed=0)


def _scoring_s() -> float:
    """Seconds that workers of this process have spent on probes."""
    return REGISTRY.get_sample_value("arrol:scoring_seconds_sum") or 0.0


def scoring_records(arm: Arm, samples: Samples, config: dict[str, Any]) -> list[BenchRecord]:
    """Seconds of ``scored``, and of scoring in it."""
    counted = config | {"tokens_generated": arm.tokens, "tokens_fed": arm.fed}
    whole = Samples(wall={"scoring": samples.wall["generate"]}, cpu={"scoring": samples.cpu["generate"]})
    return [
        time_record("vllm", "scored generate", samples, "generate", rival=None, config=counted),
        time_record("vllm", "scored scoring", samples, "scoring", rival=("scored generate", whole), config=counted),
    ]


def measure_scoring(flags: argparse.Namespace) -> None:
    """Write what scoring costs in the model of the flags."""
    flags.hidden_size = AutoConfig.from_pretrained(flags.model, trust_remote_code=False).hidden_size
    everything = snapshot_of(("last_hidden", "mean_hidden", "logprobs"), flags)
    observe = {"rule": "never", "observe": True, "probe_tokens": flags.probe}
    arm = Arm(build_engine(flags.model, flags, **CLASSES), flags, observe, everything)
    samples = interleave(_calls({"scored": arm}), warmup=1, repeats=flags.repeats)["scored"]
    config = {key: value for key, value in vars(flags).items() if key not in ("out", "model", "layers")}
    config["threads"] = torch.get_num_threads()
    write(flags.out, Path(flags.out).stem, config, scoring_records(arm, samples, config), seed=0)


def _calls(arms: dict[str, Arm]) -> dict[str, Callable[[int], Laps]]:
    return {**arms}


def _usage(usage: Sequence[tuple[float, float]], flags: argparse.Namespace) -> list[float]:
    """Median share of the cache in use just before and just after half of a wave of requests was stopped."""
    stopped_at_once = max(1, min(flags.rows, flags.groups * flags.group_size) // 2)
    waves = [list(usage)[i : i + stopped_at_once] for i in range(0, len(usage), stopped_at_once)]
    whole = [wave for wave in waves if len(wave) == stopped_at_once]
    return [statistics.median(wave[0][0] for wave in whole), statistics.median(wave[-1][1] for wave in whole)]


if __name__ == "__main__":
    main()
