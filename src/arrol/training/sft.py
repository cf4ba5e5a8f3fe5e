"""Supervised warm start: a model learns worked solutions, its task's own or those of a file.

A mixture of solvers of different reliability gives reinforcement learning something to elicit, and the quality head
something to see: which solver a completion imitates shows early and decides much. First steps may see exact solutions
only, so that the model learns to compute before it learns to be careless. Legend: ``R`` demonstrations, ``T`` tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from arrol.configs.sft import ModelShape, SftConfig
from arrol.errors import DataError
from arrol.records.tables import table_rows
from arrol.training.lora import trained_weights
from arrol.training.optimization import GuardedOptimizer, learning_rate
from arrol.training.policy import token_logprobs
from arrol.training.recompute import recomputed_layers, require_layers
from arrol.training.stopping import Interrupted, StopRequest

IDLE_BAD_STEPS = 5
CHECKED = 10_000
"""First demonstrations whose length is checked before training begins."""
DROPOUT_STRIDE = 2**31 - 1
Demonstration = Callable[[int, bool], tuple[str | Sequence[int], str]]
"""(position, in the first phase) -> prompt as text or token ids, solution text."""


def new_model(shape: ModelShape, tokenizer: Any, seed: int) -> Any:
    """A random model over the tokenizer's vocabulary."""
    torch.manual_seed(seed)
    return AutoModelForCausalLM.from_config(new_config(shape, tokenizer))


def new_config(shape: ModelShape, tokenizer: Any) -> Any:
    """Its config."""
    return AutoConfig.for_model(
        shape.architecture,
        vocab_size=len(tokenizer),
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_kv_heads,
        head_dim=shape.hidden_size // shape.num_heads,
        max_position_embeddings=shape.max_positions,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def file_demonstrations(path: str) -> Demonstration:
    """The columns ``prompt`` and ``solution`` of a file of any form (``records/tables.py``), cycled in order."""
    if not Path(path).is_file():
        raise DataError(f"demonstrations = {path!r}: no such file; give a file with the columns prompt and solution")
    rows = []
    for where, row in table_rows(Path(path), field="demonstrations"):
        prompt, solution = row.get("prompt"), row.get("solution")
        if prompt is None or solution is None:
            missing = "prompt" if prompt is None else "solution"
            raise DataError(f"demonstrations: {where} has no {missing}; add the column, or remove that row")
        rows.append((str(prompt), str(solution)))
    if not rows:
        raise DataError(f"demonstrations = {path!r}: the file is empty; add a row with prompt and solution")
    return lambda position, is_first: rows[position % len(rows)]


def row_demonstrations(pairs: Sequence[tuple[Sequence[int], str]]) -> Demonstration:
    """Prompts with their solutions, cycled in order."""
    return lambda position, is_first: pairs[position % len(pairs)]


def require_fitting(demonstration: Demonstration, tokenizer: Any, config: SftConfig, limit: int | None) -> None:
    """DataError where one of the first demonstrations is longer than the model's ``limit`` of positions, if any."""
    for position in range(min(CHECKED, config.steps * config.batch_size) if limit is not None else 0):
        prompt, solution = demonstration(position, position < config.pretrain_steps * config.batch_size)
        ids = tokenizer.encode(prompt) if isinstance(prompt, str) else prompt
        length = len(ids) + len(tokenizer.encode(solution, add_special_tokens=False)) + 1
        if limit is not None and length > limit:
            raise DataError(
                f"demonstrations: the one with the solution {solution[:40]!r} has {length} tokens, and the model has "
                f"{limit} positions (max_position_embeddings); leave it out, or take a model with more"
            )


class WarmStartProgress(NamedTuple):
    """Of a warm start: its optimiser with the state of the steps that are done, their number, and whether to stop."""

    guard: GuardedOptimizer
    done: int
    stop: StopRequest

    @classmethod
    def none(cls, model: Any, config: SftConfig) -> WarmStartProgress:
        """Before the first step."""
        return cls(GuardedOptimizer(trained_weights(model), config.optimizer, IDLE_BAD_STEPS), 0, StopRequest())


def warm_start(
    model: Any,
    tokenizer: Any,
    demonstration: Demonstration,
    config: SftConfig,
    on_step: Callable[[int, dict[str, float]], None],
    progress: WarmStartProgress | None = None,
) -> None:
    """Train ``model`` in place after the steps that are done; ``on_step`` receives the 1-based step and its metrics. A
    request to stop in ``progress`` ends it; a step whose gradient is not there yet is given up."""
    device = next(model.parameters()).device
    guard, done, stop = progress or WarmStartProgress.none(model, config)
    if config.gradient_checkpointing:
        require_layers(model, "gradient_checkpointing")
    model.train()
    for step in range(done, config.steps):
        torch.manual_seed((config.seed + DROPOUT_STRIDE * step) % 2**63)  # of dropout, so that a resumed step equals it
        start = step * config.batch_size
        try:
            with stop.gives_up():
                pairs = [demonstration(start + i, step < config.pretrain_steps) for i in range(config.batch_size)]
                loss, count = _backward(model, *encode_demonstrations(pairs, tokenizer, device), config)
        except Interrupted:
            return
        norm = guard.step(step, config.steps)
        on_step(
            step + 1,
            {
                "loss/sft": loss,
                "loss/grad_norm": norm,
                "tokens/trained": count,
                "train/learning_rate": learning_rate(config.optimizer, step, config.steps),
            },
        )


def _backward(model: Any, ids_RT: torch.Tensor, learns_RT: torch.Tensor, config: SftConfig) -> tuple[float, float]:
    """The gradient of the mean loss of the tokens to learn; the loss, and how many they are."""
    autocast = torch.autocast(ids_RT.device.type, torch.bfloat16, enabled=config.bf16)
    with autocast, recomputed_layers(model, enabled=config.gradient_checkpointing):
        logprob_N, _ = token_logprobs(model, ids_RT, learns_RT)
    loss = -logprob_N.mean()
    loss.backward()
    return float(loss.detach()), float(learns_RT.sum())


def encode_demonstrations(
    pairs: list[tuple[str | Sequence[int], str]], tokenizer: Any, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded ids and a mask of the tokens to learn: the solution and the eos behind it."""
    rows, masks = [], []
    for prompt, solution in pairs:
        prompt_ids = tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        solution_ids = [*tokenizer.encode(solution, add_special_tokens=False), tokenizer.eos_token_id]
        rows.append(torch.tensor(prompt_ids + solution_ids))
        masks.append(torch.tensor([False] * len(prompt_ids) + [True] * len(solution_ids)))
    ids_RT = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return ids_RT.to(device), torch.nn.utils.rnn.pad_sequence(masks, batch_first=True).to(device)
