"""``arrol sft``: make or tune a base model, and record how it was made.

The result is ``OUT/NAME/model``, a plain ``save_pretrained`` folder, and ``OUT/NAME/records.jsonl``.
"""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

from arrol import assembly
from arrol.cli.files import require_place
from arrol.cli.output import warner
from arrol.cli.run_folder import CHECKPOINTS, forget_start, has_learned
from arrol.cli.sft_judging import JUDGED_SAMPLES, MODEL, is_judged, judge_later, judge_saved
from arrol.cli.tables import print_columns, print_json
from arrol.cli.train import EXIT_STOPPED
from arrol.configs.sft import SftConfig
from arrol.configs.task import DatasetTaskConfig
from arrol.engines.embedded.support import max_positions
from arrol.errors import CheckpointError
from arrol.records.folder import cut_records, forget_records, readable_runs, seal_records
from arrol.records.lock import LOCK_FILE, Claim
from arrol.records.manifest import GrowingSum, run_damage
from arrol.records.schema import EndRecord, EvalRecord, Record, RunRecord, StepRecord
from arrol.records.store import RECORDS_FILE, RecordWriter, portable, provenance, read_records
from arrol.training.checkpoint import (
    Content,
    flush,
    forget_checkpoints,
    forget_partial,
    load_optimizer,
    load_state,
    manifest_of,
    reading,
    require_same_config,
    save_checkpoint,
    save_policy,
    set_aside,
    sound_checkpoint,
    step_of,
)
from arrol.training.lora import merged
from arrol.training.model_shapes import wanted_shapes
from arrol.training.policy import (
    character_tokenizer,
    laid_out,
    load_policy,
    load_tokenizer,
    load_trained,
    require_lora,
    require_positions,
    resolve_device,
)
from arrol.training.room import require_sft_room
from arrol.training.sft import (
    Demonstration,
    WarmStartProgress,
    encode_demonstrations,
    file_demonstrations,
    new_config,
    new_model,
    require_fitting,
    row_demonstrations,
    warm_start,
)
from arrol.training.sinks import TerminalSink

PARTIAL_MODEL = ".partial-model"
"""Where the model is written before it gets its name: half a model never has it."""
FREE_FIELDS = frozenset({"out_dir", "device", "checkpoint_every", "gradient_checkpointing", "model"}) | frozenset(
    {"demonstrations", "task.source", "task.eval_source", "task.reward_folder"}
)
"""Fields that a resumed warm start may change; paths differ from another working directory."""
KEEP_CHECKPOINTS = 2
"""The newest, and one before in case it is damaged."""


class _Parts(NamedTuple):
    model: Any
    adapted: Any
    """The ``PeftModel`` of ``model`` with LoRA, else the model."""
    tokenizer: Any
    task: Any
    demonstration: Demonstration
    resumed: Path | None
    """The checkpoint that the model is of."""


def run_sft(config: SftConfig, *, resume: bool, as_json: bool) -> int:
    console = Console(stderr=as_json, markup=False, highlight=False)
    folder = Path(config.out_dir) / config.name
    require_place("out_dir", folder)
    with Claim() as claim:
        is_held = claim.take(folder)
        previous = _previous(config, folder, resume=resume)
        record = _resumed_or_new(config, folder, claim, previous, console, is_held=is_held)
        if record is not None:
            seal_records(folder)
            shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)
    if record is None:
        left = "stopped and saved" if folder.is_dir() else "stopped before the first step had ended; nothing is kept"
        if (folder / MODEL).is_dir():
            left = f"stopped; {folder / MODEL} is whole and not evaluated yet"
        console.print(f"{left}; go on with --resume: {folder}" if folder.is_dir() else left, soft_wrap=True)
        return EXIT_STOPPED
    facts = {"accuracy": record.accuracy, "low": record.low, "high": record.high, **record.metrics}
    if as_json:
        print_json(facts)
    else:
        print_columns(console, config.name, *_table(record))
    console.print(f"model: {folder / MODEL}", soft_wrap=True)
    return 0


def _resumed_or_new(
    config: SftConfig, folder: Path, claim: Claim, previous: RunRecord | None, console: Console, *, is_held: bool
) -> EvalRecord | None:
    """The warm start from its saved model, from its checkpoint, or from its beginning; None where a signal ended it."""
    if previous is not None and (folder / MODEL).is_dir() and not run_damage(folder, [RECORDS_FILE]):
        return judge_later(config, folder, previous)
    say = warner(console, config.name)
    parts = _parts(config, sound_checkpoint(folder / CHECKPOINTS, say) if previous else None)
    folder.mkdir(parents=True, exist_ok=True)
    claim.take(folder)
    if not is_held:  # a process may have begun and ended there since
        _previous(config, folder, resume=False)
    forget_partial(folder / CHECKPOINTS)
    if parts.resumed is None:
        previous = None
        forget_records(folder)
    else:
        set_aside(folder / CHECKPOINTS, after=step_of(parts.resumed))
        cut_records(folder, manifest_of(parts.resumed).run)
    try:
        return _train(config, parts, folder, previous, console)
    finally:
        if not (folder / MODEL).is_dir() and not has_learned(folder, _records(folder)):
            forget_start(folder)


def _table(record: EvalRecord) -> tuple[list[str], list[list[str]]]:
    """Labels, and one column of values."""
    metrics, percent = record.metrics, "{:.1%}".format
    lines = {
        f"held-out prompts x {record.samples_per_prompt}": str(record.num_prompts),
        "right": percent(record.accuracy),
        "95% interval": f"{percent(record.low)} to {percent(record.high)}",
        "spread between prompts": percent(metrics["eval/prompt_success/std"]),
        "tokens per completion": f"{metrics['eval/completion_tokens/mean']:.1f}",
        "groups of 8 all alike": percent(metrics["eval/dead_group_frac_8"]),
        "groups of 16 all alike": percent(metrics["eval/dead_group_frac_16"]),
    }
    return ["the saved model", *lines], [["", *lines.values()]]


def _previous(config: SftConfig, folder: Path, *, resume: bool) -> RunRecord | None:
    """The run to go on with; CheckpointError where the name is taken, finished, or of another config."""
    held = {path.name for path in folder.iterdir()} - {LOCK_FILE} if folder.is_dir() else set()
    if not resume:
        if held - {RECORDS_FILE, PARTIAL_MODEL}:
            if RECORDS_FILE in held and not (MODEL in held and is_judged(folder)):
                raise CheckpointError(
                    f"name = {config.name!r}: {folder} holds a warm start that was interrupted; go on with --resume, "
                    "or choose another --name"
                )
            raise CheckpointError(f"name = {config.name!r}: {folder} exists; choose another --name or remove it")
        return None
    if MODEL in held and is_judged(folder):
        raise CheckpointError(f"--resume: {folder / MODEL} is finished; choose another --name, or leave --resume out")
    opened = readable_runs(folder)
    if not opened:
        sound_checkpoint(folder / CHECKPOINTS, lambda _: None)  # which names the file of records
        return None
    wanted = portable(config.model_dump(mode="json"))
    try:
        require_same_config(opened[0].config, wanted, FREE_FIELDS, where="run in that folder")
    except CheckpointError:
        sound_checkpoint(folder / CHECKPOINTS, lambda _: None)  # records that are damaged say other things
        raise
    return replace(opened[0], segment=max(row.segment for row in opened))


def _records(folder: Path) -> list[Record]:
    return read_records(folder / RECORDS_FILE) if (folder / RECORDS_FILE).exists() else []


def _parts(config: SftConfig, checkpoint: Path | None) -> _Parts:
    """Model, task and demonstrations; what is wrong with them is an error now, before anything is written."""
    torch.set_num_threads(config.num_threads)
    device = resolve_device(config.device)
    tokenizer = (
        load_tokenizer(config.model) if config.model else character_tokenizer(assembly.task_alphabet(config.task))
    )
    require_lora(config)
    task = assembly.build_task(config.task, tokenizer, seed=config.seed)  # wrong data are an error before the model
    demonstration = _demonstrations(task, config)
    _require_room(config, tokenizer, demonstration, device)
    if checkpoint:
        source = str(checkpoint / "policy")
        model, adapted = load_trained(config, source, device, base=config.model or source)
    elif config.model:
        model, adapted = load_trained(config, config.model, device, base=config.model)
    else:
        model = adapted = new_model(config.shape, tokenizer, config.seed).to(device)
    prompts = task.eval_prompts(config.eval_prompts)  # too few problems are an error now, not after the training
    require_positions(model.config, prompts, config.max_completion_tokens, field="max_completion_tokens")
    for is_first in (True, False):
        demonstration(0, is_first)  # an unknown solver too
    require_fitting(demonstration, tokenizer, config, max_positions(model.config))
    return _Parts(model, adapted, tokenizer, task, demonstration, checkpoint)


def _require_room(config: SftConfig, tokenizer: Any, demonstration: Demonstration, device: torch.device) -> None:
    """ConfigError where the warm start would surely run out of memory."""
    if config.model:
        laid = laid_out(config.model)
    else:
        shape = new_config(config.shape, tokenizer)
        laid = shape, wanted_shapes(shape)
    length = encode_demonstrations([demonstration(0, config.pretrain_steps > 0)], tokenizer, device)[0].shape[1]
    require_sft_room(config, laid, device, length=length, samples=JUDGED_SAMPLES)


def _demonstrations(task: Any, config: SftConfig) -> Demonstration:
    """Of the file, of the rows of a data set, or of the task's solvers."""
    if isinstance(config.task, DatasetTaskConfig):
        if config.demonstrations and not Path(config.demonstrations).is_file():
            return file_demonstrations(config.demonstrations)  # which says so
        return row_demonstrations(task.demonstrations(config.demonstrations))
    return file_demonstrations(config.demonstrations) if config.demonstrations else _own(task, config)


def _own(task: Any, config: SftConfig) -> Demonstration:
    """Demonstrations of the task's solvers, in the mixture of the phase; the first solver is the exact one."""
    first = config.pretrain_mixture or {task.solvers[0]: 1.0}
    then = config.mixture or None
    return lambda position, is_first: task.demonstration(position, first if is_first else then)


def _train(
    config: SftConfig, parts: _Parts, folder: Path, previous: RunRecord | None, console: Console
) -> EvalRecord | None:
    """Train, save the model and judge it; None where a signal ended that."""
    guard, done, stop = WarmStartProgress.none(parts.model, config)
    if parts.resumed:
        state = load_state(parts.resumed)
        with reading(parts.resumed, "state.json"):
            load_optimizer(parts.resumed, guard.optimizer, float(state["learning_rate"]))
            guard.num_skipped, guard.bad_in_a_row = int(state["num_skipped"]), int(state["bad_in_a_row"])
            done = int(state["step"])
    segment = previous.segment + 1 if previous else 0
    terminal = TerminalSink(config.name, config.steps, console, done=done)
    last, at, sums = [time.monotonic()], done, GrowingSum(folder / RECORDS_FILE)
    with RecordWriter(folder / RECORDS_FILE) as records, closing(terminal):
        here = provenance(sys.argv, [config.seed])
        dumped = config.model_dump(mode="json")
        facts: dict[str, Any] = {"name": config.name, "arm": config.name, "seed": config.seed, "config": dumped}
        records.write(here.run_record(**facts, previous=previous, resume_step=done if previous else None))

        def save(step: int) -> None:
            records.sync()
            state = {"config": dumped, "step": step, "learning_rate": guard.optimizer.param_groups[0]["lr"]}
            state |= {"num_skipped": guard.num_skipped, "bad_in_a_row": guard.bad_in_a_row}
            held = {RECORDS_FILE: sums.now()}
            save_checkpoint(folder / CHECKPOINTS, step, Content(parts.adapted, tokenizer, guard.optimizer, state, held))
            forget_checkpoints(folder / CHECKPOINTS, KEEP_CHECKPOINTS, step)

        def on_step(step: int, metrics: dict[str, float]) -> None:
            nonlocal at
            now, at = time.monotonic(), step
            metrics["time/step_s"], last[0] = now - last[0], now
            if step % 10 == 0 or step == config.steps:
                records.write(StepRecord(step=step, segment=segment, metrics=metrics))
            terminal.write({"step": step, **metrics})
            if config.checkpoint_every and step % config.checkpoint_every == 0 and step < config.steps:
                save(step)

        tokenizer, start = parts.tokenizer, WarmStartProgress(guard, done, stop)
        with stop.watched():
            warm_start(parts.model, tokenizer, parts.demonstration, config, on_step, start)
            if stop.is_made and at < config.steps:
                if at > done:
                    save(at)
                records.write(EndRecord(step=at, segment=segment, outcome="stopped"))
                return None
        saved = _saved_model(config, parts, folder)
        return judge_saved(config, records, (saved, tokenizer, parts.task), segment)


def _saved_model(config: SftConfig, parts: _Parts, folder: Path) -> Any:
    """Write the model under its final name when it is whole, and load it again."""
    model = merged(parts.adapted) if config.lora else parts.model
    shutil.rmtree(folder / PARTIAL_MODEL, ignore_errors=True)
    save_policy(folder / PARTIAL_MODEL, model.to(getattr(torch, config.save_dtype)), parts.tokenizer)
    flush(folder / PARTIAL_MODEL)  # the checkpoints go next
    shutil.rmtree(folder / MODEL, ignore_errors=True)  # of a process that died before it could judge it
    os.replace(folder / PARTIAL_MODEL, folder / MODEL)
    return load_policy(str(folder / MODEL), next(model.parameters()).device)
