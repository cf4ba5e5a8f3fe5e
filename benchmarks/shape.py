"""The common shape of every benchmark: one small random model, prompts of mixed lengths, completions of full length.

1.6 M parameters (Qwen3, 6 layers, hidden size 128, a character vocabulary of 64), 16 prompts x 16 rollouts x 96
completion tokens, float32, one thread. Weights are random, so what is sampled means nothing; no stop token is given, so
every rollout writes all its tokens and the token counts are known before the run. ``--smoke`` shrinks it to something
that runs in a second and measures nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from arrol.configs.run import EngineConfig, RunConfig, SamplingConfig, TrainingConfig
from arrol.configs.task import ArithmeticTaskConfig
from arrol.training.policy import character_tokenizer
from arrol.types import GroupRequest, Prompt, Rollout, RolloutGroup, SamplingParams

ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMN +-*/=.?:()"
"""61 characters; with padding, end and unknown a vocabulary of 64."""


@dataclass(frozen=True)
class Shape:
    """What is generated and learnt, by which model, on how many threads."""

    prompts: int = 16
    rollouts: int = 16
    """Per prompt."""
    completion_tokens: int = 96
    prompt_tokens: int = 16
    """Mean length of a prompt; lengths spread over half to one and a half of it."""
    hidden_size: int = 128
    intermediate_size: int = 512
    layers: int = 6
    heads: int = 4
    threads: int = 1
    dtype: str = "float32"
    """Precision of generation; weights and gradients of the learner are float32."""
    seed: int = 0

    @property
    def rows(self) -> int:
        return self.prompts * self.rollouts


SMOKE = Shape(prompts=2, rollouts=4, completion_tokens=8, hidden_size=32, intermediate_size=64, layers=2)


def add_shape_arguments(parser: argparse.ArgumentParser) -> None:
    """Flags that every script shares."""
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="precision of generation")
    parser.add_argument("--completion-tokens", type=int, help="length of every completion (default 96)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--smoke", action="store_true", help="a tiny shape and two repeats: proves that the script runs"
    )


def shape_of(arguments: argparse.Namespace) -> Shape:
    """The shape the flags ask for; sets the number of threads."""
    shape = replace(
        SMOKE if arguments.smoke else Shape(),
        threads=arguments.threads,
        dtype=arguments.dtype,
        seed=arguments.seed,
    )
    torch.set_num_threads(shape.threads)
    return replace(shape, completion_tokens=arguments.completion_tokens or shape.completion_tokens)


def build_model(shape: Shape) -> Any:
    """Random weights, the same for the same shape."""
    torch.manual_seed(shape.seed)
    model = Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(build_tokenizer()),
            hidden_size=shape.hidden_size,
            intermediate_size=shape.intermediate_size,
            num_hidden_layers=shape.layers,
            num_attention_heads=shape.heads,
            num_key_value_heads=shape.heads,
            head_dim=shape.hidden_size // shape.heads,
            max_position_embeddings=2048,
            tie_word_embeddings=True,
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=0,
        )
    )
    return model.float()


def build_tokenizer() -> Any:
    """One token per character."""
    return character_tokenizer(ALPHABET)


def build_prompts(shape: Shape) -> list[Prompt]:
    """Random texts of mixed lengths, one token per character."""
    generator, tokenizer = np.random.default_rng(shape.seed), build_tokenizer()
    shortest, longest = max(1, shape.prompt_tokens // 2), shape.prompt_tokens * 3 // 2
    lengths = np.linspace(shortest, longest, shape.prompts).round().astype(int)
    prompts = []
    for number, length in enumerate(generator.permutation(lengths)):
        text = "".join(generator.choice(list(ALPHABET.replace(" ", "")), length))
        prompts.append(Prompt(str(number), tuple(tokenizer.encode(text)), text, ""))
    return prompts


def build_requests(shape: Shape, step: int) -> list[GroupRequest]:
    return [GroupRequest(step, n, prompt, shape.rollouts) for n, prompt in enumerate(build_prompts(shape))]


def build_sampling(shape: Shape) -> SamplingParams:
    """Temperature 1 and no stop token."""
    return SamplingParams(shape.completion_tokens)


def build_config(shape: Shape, **sections: Any) -> RunConfig:
    """The run that the engine and the learner of this shape belong to; defaults but for sizes, and for the correction
    that an engine of another precision than the learner's needs."""
    if shape.dtype != "float32":
        sections = {"algorithm": {"name": "dr_grpo", "importance_cap": 2.0}, **sections}
    return RunConfig(
        model="random",
        task=ArithmeticTaskConfig(),
        seed=shape.seed,
        num_threads=shape.threads,
        sampling=SamplingConfig(max_completion_tokens=shape.completion_tokens),
        engine=EngineConfig(max_rows=shape.rows, dtype=shape.dtype),
        training=TrainingConfig(
            prompts_per_step=shape.prompts, group_size=shape.rollouts, **sections.pop("training", {})
        ),
        **sections,
    )


def reward_half(groups: Sequence[RolloutGroup], generator: np.random.Generator) -> None:
    """A random half of each group's survivors is right, so that no advantage is 0 and the learner skips no rollout."""
    for group in groups:
        survivors: list[Rollout] = group.survivors
        right = generator.permutation(len(survivors)) < len(survivors) / 2
        for rollout, is_right in zip(survivors, right, strict=True):
            rollout.reward = float(is_right)


def describe(shape: Shape, model: Any) -> dict[str, Any]:
    """The shape for a record."""
    return asdict(shape) | {"parameters": sum(p.numel() for p in model.parameters())}
