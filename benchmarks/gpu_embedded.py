"""Parts of ``gpu_check.py`` with the embedded engine and the learner.

* ``embedded``        a small model: survivors are equal with and without stops in float32, how often in bfloat16; the
                      head's scores equal those of a forward pass; a step in bfloat16 with half of the rollouts stopped
* ``embedded large``  1.7 B parameters, random, bfloat16: 64 rollouts of 1,400 tokens, half of them stopped at 512

The bound of a speed-up counts tokens. The embedded engine starts every kernel from Python: where these starts take most
of a step, fewer rows save little of it, and the speed-up stays far below the bound.
"""

from __future__ import annotations

import argparse
import gc
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from arrol.assembly import build_engine
from arrol.configs.method import NeverRule, QualityConfig
from arrol.engines.embedded.engine import EmbeddedEngine
from arrol.quality.snapshot import EstimatorSnapshot
from arrol.training.learner import Learner
from arrol.types import Completion, FinishReason, GroupRequest, Rollout, RolloutGroup
from gpu_rows import Rows, device, random_head, run_parts, seconds
from halves import HalfController
from shape import SMOKE, Shape, build_config, build_model, build_requests, build_sampling, reward_half

SMALL = Shape(completion_tokens=256, hidden_size=512, intermediate_size=1536, layers=8, heads=8)
PROBE_SHARE = 512 / 1400
CHANGED = 0.02
"""Share of survivors that may differ in float32: a sampling boundary met by float noise."""
SCORES = {"float32": 1e-2, "bfloat16": 0.5}
"""Largest difference of a head's score from that of a forward pass in float32."""
MISMATCH = {"float32": 1e-3, "bfloat16": 0.1}
"""Mean difference of a token's log-probability between engine and learner."""
LARGE = {"layers": 28, "hidden": 2048, "intermediate": 6144, "heads": 16, "kv_heads": 8, "vocabulary": 151936}
TINY = {"layers": 2, "hidden": 64, "intermediate": 128, "heads": 4, "kv_heads": 2, "vocabulary": 64}


def small(rows: Rows, flags: argparse.Namespace) -> None:
    shape = replace(SMOKE, layers=1) if flags.smoke else SMALL
    for dtype in ("float32", "bfloat16"):
        mine = replace(shape, dtype=dtype)
        engine, head = parts_of(mine)
        whole, stopped = with_and_without(mine, engine)
        share = changed_share(whole, stopped)
        if dtype == "float32":
            rows.check(f"changed survivors, {dtype}", "share", share, most=CHANGED, survivors=mine.rows // 2)
        else:
            rows.number(f"changed survivors, {dtype}", "share", share, survivors=mine.rows // 2)
        difference = score_difference(mine, engine, head)
        rows.check(f"scores beside a forward pass, {dtype}", "difference", difference, most=SCORES[dtype])
    learn(rows, replace(shape, dtype="bfloat16"), build_model(shape).to(device()), {"microbatch_tokens": 16384})


def large(rows: Rows, flags: argparse.Namespace) -> None:
    sizes = TINY if flags.smoke else LARGE
    shape = Shape(prompts=4, completion_tokens=1400, dtype="bfloat16", prompt_tokens=64)
    shape = replace(SMOKE, dtype="bfloat16") if flags.smoke else shape
    learn(rows, shape, large_model(sizes), {"microbatch_tokens": 8192, "gradient_checkpointing": True})


def parts_of(shape: Shape) -> tuple[EmbeddedEngine, EstimatorSnapshot]:
    """Engine of a shape with a fresh model, and a random head for it."""
    model = build_model(shape).to(device())
    engine = build_engine(build_config(shape), model)
    assert isinstance(engine, EmbeddedEngine)
    return engine, random_head(QualityConfig().features, shape.hidden_size, probe_of(shape))


def probe_of(shape: Shape) -> int:
    return max(1, round(PROBE_SHARE * shape.completion_tokens))


def with_and_without(shape: Shape, engine: EmbeddedEngine) -> tuple[list[list[Completion]], list[list[Completion]]]:
    """The same requests whole, and with every second rollout stopped at the probe."""
    requests, sampling = build_requests(shape, 1), build_sampling(shape)
    whole = engine.generate(requests, sampling, seed=0)
    return whole, engine.generate(requests, sampling, seed=0, controller=HalfController(probe_of(shape)))


def changed_share(whole: Sequence[Sequence[Completion]], stopped: Sequence[Sequence[Completion]]) -> float:
    """Share of survivors with another token than without stops."""
    pairs = [
        (a.token_ids, b.token_ids)
        for mine, theirs in zip(whole, stopped, strict=True)
        for a, b in zip(mine, theirs, strict=True)
        if b.finish_reason is not FinishReason.PRUNED
    ]
    return float(np.mean([a != b for a, b in pairs]))


class Listener(HalfController):
    """Stops nothing and keeps the features of every candidate."""

    def __init__(self, probe: int) -> None:
        super().__init__(probe)
        self.features: dict[Any, np.ndarray] = {}

    def probed(self, events: Any) -> list[Any]:
        self.features |= {event.rollout_id: event.features_F for event in events}
        return []


@torch.no_grad()
def score_difference(shape: Shape, engine: EmbeddedEngine, head: EstimatorSnapshot) -> float:
    """Largest difference between the scores of the engine's features and of a forward pass over the same tokens."""
    requests, listener = build_requests(shape, 1)[:2], Listener(probe_of(shape))
    written = engine.generate(requests, build_sampling(shape), seed=0, controller=listener)
    model = build_model(shape).to(device())
    differences = []
    for request, completions in zip(requests, written, strict=True):
        for rollout_id, completion in zip(request.rollout_ids, completions, strict=True):
            ids = [*request.prompt.token_ids, *completion.token_ids[: listener.probe_tokens[0]]]
            hidden = model.model(torch.tensor([ids], device=device())).last_hidden_state[0].float()
            start = len(request.prompt.token_ids)
            logprobs = model.lm_head(hidden[start - 1 : -1]).float().log_softmax(-1)
            chosen = logprobs[range(len(ids) - start), ids[start:]].cpu().numpy()
            state = hidden[start:].cpu().numpy()
            numbers = [chosen.sum(), chosen.min(), chosen.mean()]
            expected = np.concatenate([state[-1], state.mean(0), numbers]).astype(np.float32)
            pair = np.stack([listener.features[rollout_id], expected])
            score, reference = head.scores(pair, 0)
            differences.append(abs(score - reference))
    return float(max(differences))


def learn(rows: Rows, shape: Shape, model: Any, training: dict[str, Any]) -> None:
    """Generation and an update in bfloat16, whole and with half of the rollouts stopped."""
    training = {"bf16": True, **training}
    config = build_config(shape, pruning=NeverRule(), training=training)
    engine, half = build_engine(config, model), HalfController(probe_of(shape))
    requests, sampling = build_requests(shape, 1), build_sampling(shape)
    short = replace(sampling, max_completion_tokens=2)
    engine.generate(requests, short, seed=0)  # kernels are loaded, memory is taken
    written, taken = {}, {}
    for name, controller in (("all", None), ("half", half)):
        call = generation(engine, requests, sampling, controller)
        taken[name], written[name] = seconds(call)
        rows.number(f"generation, {name}", "s", taken[name], tokens=count(written[name]), rollouts=shape.rows)
    bound = count(written["all"]) / count(written["half"])
    rows.speed_up("generation", taken["all"], taken["half"], bound)
    del engine
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    learner = Learner(model, config)
    batches = {name: groups_of(requests, completions, shape) for name, completions in written.items()}
    learner.update(batches["half"][:1], 1)
    trained = {}
    for number, (name, groups) in enumerate(batches.items(), 2):
        taken[name], metrics = seconds(lambda groups=groups, number=number: learner.update(groups, number))
        trained[name] = sum(len(g.prompt.token_ids) + r.completion.num_tokens for g in groups for r in g.survivors)
        rows.number(f"update, {name}", "s", taken[name], tokens=trained[name])
        if name == "all":
            mismatch = metrics["loss/sampler_mismatch"]
            rows.check("log-probabilities of engine and learner", "nats", mismatch, most=MISMATCH["bfloat16"])
    rows.speed_up("update", taken["all"], taken["half"], trained["all"] / trained["half"])


def generation(engine: Any, requests: Any, sampling: Any, controller: Any) -> Callable[[], list[list[Completion]]]:
    return lambda: engine.generate(requests, sampling, seed=0, controller=controller)


def count(written: Sequence[Sequence[Completion]]) -> int:
    return sum(completion.num_tokens for group in written for completion in group)


def groups_of(
    requests: Sequence[GroupRequest], written: Sequence[Sequence[Completion]], shape: Shape
) -> list[RolloutGroup]:
    """Rollouts with rewards, so that no advantage is 0."""
    groups = [
        RolloutGroup(request.prompt, [Rollout(i, c) for i, c in zip(request.rollout_ids, completions, strict=True)])
        for request, completions in zip(requests, written, strict=True)
    ]
    reward_half(groups, np.random.default_rng(0))
    return groups


def large_model(sizes: dict[str, int]) -> Any:
    """Random weights in float32, made on the device."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    with torch.device(device()):
        return Qwen3ForCausalLM(
            Qwen3Config(
                vocab_size=sizes["vocabulary"],
                hidden_size=sizes["hidden"],
                intermediate_size=sizes["intermediate"],
                num_hidden_layers=sizes["layers"],
                num_attention_heads=sizes["heads"],
                num_key_value_heads=sizes["kv_heads"],
                head_dim=sizes["hidden"] // sizes["heads"],
                max_position_embeddings=2048,
                tie_word_embeddings=True,
                bos_token_id=None,
                eos_token_id=None,
                pad_token_id=0,
            )
        ).float()


if __name__ == "__main__":
    run_parts({"embedded": small, "embedded large": large}, __doc__ or "")
