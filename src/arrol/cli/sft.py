"""``arrol sft``: make or tune a base model, and record how it was made.

The result is ``OUT/NAME/model``, a plain ``save_pretrained`` folder, and ``OUT/NAME/records.jsonl``.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

from arrol import assembly
from arrol.cli.files import require_place
from arrol.cli.run_folder import Claim, forget_records, forget_start, has_learned
from arrol.cli.tables import print_json
from arrol.configs.run import EngineConfig
from arrol.configs.sft import SftConfig
from arrol.engines.embedded.engine import EmbeddedEngine
from arrol.errors import CheckpointError
from arrol.evaluation.metrics import accuracy_with_interval, dead_group_frac
from arrol.evaluation.runner import Amount, outcomes_and_tokens, sample_prompts
from arrol.records.schema import EndRecord, EvalRecord, StepRecord
from arrol.records.store import RECORDS_FILE, RecordWriter, provenance, read_records
from arrol.training.checkpoint import save_policy
from arrol.training.lora import merged
from arrol.training.policy import (
    character_tokenizer,
    load_policy,
    load_tokenizer,
    load_trained,
    require_lora,
    require_positions,
    resolve_device,
    stop_token_ids,
)
from arrol.training.sft import Demonstration, file_demonstrations, new_model, warm_start
from arrol.training.sinks import TerminalSink
from arrol.types import SamplingParams

PARTIAL_MODEL = ".partial-model"
"""Where the model is written before it gets its name: half a model never has it."""
JUDGED_SAMPLES = 16
"""Completions per held-out prompt of the last evaluation: enough for groups of 8 and 16."""


class _Parts(NamedTuple):
    model: Any
    adapted: Any
    """The ``PeftModel`` of ``model`` with LoRA, else the model."""
    tokenizer: Any
    task: Any
    demonstration: Demonstration


def run_sft(config: SftConfig, *, as_json: bool) -> int:
    console = Console(stderr=as_json, markup=False, highlight=False)
    folder = Path(config.out_dir) / config.name
    require_place("out_dir", folder)
    with Claim() as claim:
        claim.take(folder)
        if folder.exists() and {path.name for path in folder.iterdir()} - {RECORDS_FILE, PARTIAL_MODEL}:
            raise CheckpointError(f"name = {config.name!r}: {folder} exists; choose another --name or remove it")
        parts = _parts(config)
        folder.mkdir(parents=True, exist_ok=True)
        claim.take(folder)
        forget_records(folder)
        try:
            record = _train(config, parts, folder, console)
        except BaseException:
            if not has_learned(folder, read_records(folder / RECORDS_FILE)):
                forget_start(folder)
            raise
    facts = {"accuracy": record.accuracy, "low": record.low, "high": record.high, **record.metrics}
    if as_json:
        print_json(facts)
    else:
        print("\n".join(f"{key}: {value:.3f}" for key, value in facts.items()))
    console.print(f"model: {folder / 'model'}", soft_wrap=True)
    return 0


def _parts(config: SftConfig) -> _Parts:
    """Model, task and demonstrations; what is wrong with them is an error now, before anything is written."""
    torch.set_num_threads(config.num_threads)
    device = resolve_device(config.device)
    tokenizer = (
        load_tokenizer(config.model) if config.model else character_tokenizer(assembly.task_alphabet(config.task))
    )
    require_lora(config)
    if config.model:
        model, adapted = load_trained(config, config.model, device, base=config.model)
    else:
        model = adapted = new_model(config.shape, tokenizer, config.seed).to(device)
    task = assembly.build_task(config.task, tokenizer, seed=config.seed)
    demonstration = file_demonstrations(config.demonstrations) if config.demonstrations else _own(task, config)
    prompts = task.eval_prompts(config.eval_prompts)  # too few problems are an error now, not after the training
    require_positions(model.config, prompts, config.max_completion_tokens, field="max_completion_tokens")
    for is_first in (True, False):
        demonstration(0, is_first)  # an unknown solver too
    return _Parts(model, adapted, tokenizer, task, demonstration)


def _own(task: Any, config: SftConfig) -> Demonstration:
    """Demonstrations of the task's solvers, in the mixture of the phase; the first solver is the exact one."""
    first = config.pretrain_mixture or {task.solvers[0]: 1.0}
    then = config.mixture or None
    return lambda position, is_first: task.demonstration(position, first if is_first else then)


def _train(config: SftConfig, parts: _Parts, folder: Path, console: Console) -> EvalRecord:
    terminal = TerminalSink(config.name, config.steps, console)
    last = [time.monotonic()]
    with RecordWriter(folder / RECORDS_FILE) as records, closing(terminal):
        here = provenance(sys.argv, [config.seed])
        dumped = config.model_dump(mode="json")
        records.write(here.run_record(name=config.name, arm=config.name, seed=config.seed, config=dumped))

        def on_step(step: int, metrics: dict[str, float]) -> None:
            now = time.monotonic()
            metrics["time/step_s"], last[0] = now - last[0], now
            if step % 10 == 0 or step == config.steps:
                records.write(StepRecord(step=step, metrics=metrics))
            terminal.write({"step": step, **metrics})

        model, tokenizer = parts.model, parts.tokenizer
        warm_start(model, tokenizer, parts.demonstration, config, on_step)
        model = merged(parts.adapted) if config.lora else model
        shutil.rmtree(folder / PARTIAL_MODEL, ignore_errors=True)
        save_policy(folder / PARTIAL_MODEL, model.to(getattr(torch, config.save_dtype)), tokenizer)
        os.replace(folder / PARTIAL_MODEL, folder / "model")
        saved = load_policy(str(folder / "model"), next(model.parameters()).device)
        record = _judge(config, saved, tokenizer, parts.task)
        records.write(record)
        records.write(EndRecord(step=config.steps, outcome="finished"))
    return record


def _judge(config: SftConfig, model: Any, tokenizer: Any, task: Any) -> EvalRecord:
    """Evaluation of the saved model: success on held-out prompts, its spread, and dead groups."""
    params = SamplingParams(config.max_completion_tokens, stop_token_ids=stop_token_ids(model, tokenizer))
    engine, amount = EmbeddedEngine(model, EngineConfig()), Amount(config.eval_prompts, JUDGED_SAMPLES, config.seed)
    reward_PG, tokens_PG = outcomes_and_tokens(sample_prompts(engine, task, tokenizer, params, amount))
    accuracy, low, high = accuracy_with_interval(reward_PG)
    metrics = {
        "eval/completion_tokens/mean": float(tokens_PG.mean()),
        "eval/prompt_success/std": float(reward_PG.mean(1).std()),
        "eval/dead_group_frac_8": dead_group_frac(reward_PG, 8),
        "eval/dead_group_frac_16": dead_group_frac(reward_PG, 16),
    }
    return EvalRecord(
        step=config.steps, accuracy=accuracy, low=low, high=high, num_prompts=reward_PG.shape[0],
        samples_per_prompt=JUDGED_SAMPLES, metrics=metrics,
    )  # fmt: skip
