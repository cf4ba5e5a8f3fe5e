"""``arrol init``: looks at a data file and a model, and writes a commented config for them."""

from __future__ import annotations

import argparse
import shlex
import tomllib
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from transformers import AutoModelForCausalLM

from arrol import assembly
from arrol.cli.files import require_writable
from arrol.cli.first_config import Seen, as_toml, draft, first_numbers, open_questions
from arrol.cli.tables import print_json
from arrol.configs.base import validate
from arrol.configs.run import RunConfig
from arrol.engines.embedded.memory import free_bytes
from arrol.engines.embedded.support import max_positions
from arrol.errors import ConfigError, ModelError
from arrol.tasks.columns import Columns
from arrol.tasks.dataset import DatasetTask
from arrol.training.policy import load_config, load_tokenizer, resolve_device
from arrol.verifiers.integer import parse_integer

LOOKED_AT = 512
"""Rows whose lengths are read."""


def run_init(options: argparse.Namespace) -> int:
    console = Console(stderr=options.json, markup=False, highlight=False)
    out = Path(options.out)
    if out.suffix != ".toml":
        raise ConfigError(f"--out = {options.out!r}: a config is a .toml file; give such a name")
    if out.exists():
        raise ConfigError(f"--out = {options.out!r}: exists; give the name of a new file")
    require_writable("--out", out.parent)
    seen = look(options.data, options.model, tuple(options.reward))
    numbers = first_numbers(seen)
    written = as_toml(out, seen, numbers)
    validate(RunConfig, tomllib.loads(written))
    out.write_text(written, "utf-8")
    questions = open_questions(seen, numbers)
    if options.json:
        print_json({"config": str(out), "open_questions": questions})
        return 0
    asked = f"column {seen.prompt_column!r}" + (f", answers in {seen.answer_column!r}" if not seen.rewards else "")
    console.print(f"{out}: {seen.num_train} rows to train on, {seen.num_eval} set aside; {asked}.", soft_wrap=True)
    console.print("Not known from data and model:")
    for question in questions:
        console.print(f"- {question}", soft_wrap=True)
    words = shlex.quote(str(out))
    first = "" if seen.num_eval else "set task.eval_source in it, "
    console.print(f"Next: {first}arrol eval {words}, then arrol train {words}", soft_wrap=True)
    return 0


def look(source: str, model: str, rewards: tuple[str, ...]) -> Seen:
    """What the rows and the model's config and tokenizer say; no weights are read."""
    tokenizer = load_tokenizer(model)
    config = load_config(model)
    columns = Columns(for_rewards=bool(rewards)).settled(source, "train")
    template = "chat" if getattr(tokenizer, "chat_template", None) else "plain"
    task = assembly.build_task(draft(source, model, rewards, template).task, tokenizer, seed=0)
    assert isinstance(task, DatasetTask)
    try:
        prompts = [task.train_prompt(position) for position in range(min(len(task.train_rows), LOOKED_AT))]
        solutions = [row.solution for row in task.train_rows[:LOOKED_AT] if row.solution]
        rows = [*task.train_rows, *task.eval_rows]
        is_integer = all(parse_integer(row.answer) is not None for row in rows)
        return Seen(
            source=source,
            model=model,
            rewards=rewards,
            prompt_column=columns.prompt or "",
            answer_column=columns.answer,
            answer_format=columns.answer_format,
            num_train=len(task.train_rows),
            num_eval=len(task.eval_rows),
            template=template,
            verifier="" if rewards else "integer" if is_integer else "symbolic",
            longest_prompt=max(len(prompt.token_ids) for prompt in prompts),
            solution_tokens=tuple(len(tokenizer.encode(text, add_special_tokens=False)) for text in solutions),
            num_parameters=_num_parameters(config),
            vocab_size=int(config.get_text_config().vocab_size),
            positions=max_positions(config.get_text_config()),
            free_bytes=free_bytes(resolve_device("auto")),
        )
    finally:
        task.close()


def _num_parameters(config: Any) -> int:
    """Parameters of the model, counted without loading weights."""
    try:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config).num_parameters()
    except ValueError as error:
        line = " ".join(str(error).split())[:160]
        raise ModelError(f"model = {config.name_or_path!r}: no causal language model ({line}); give one") from None
