"""``arrol train``: one run of a config. ``arrol compare`` calls ``train_one`` for each arm and seed."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console

from arrol import assembly
from arrol.cli.files import require_place
from arrol.cli.live import LivePage
from arrol.cli.output import run_console, warner
from arrol.cli.report import report_after
from arrol.cli.run_folder import CHECKPOINTS, forget_start, has_learned
from arrol.cli.tables import show_rows
from arrol.configs.learning import cautions
from arrol.configs.run import RunConfig
from arrol.errors import CheckpointError
from arrol.evaluation.runner import Amount, eval_record, sample_prompts
from arrol.protocols import Task
from arrol.records.diagnosis import final_findings
from arrol.records.folder import NO_RECORDS, cut_records, forget_records, readable_runs, seal_records
from arrol.records.lock import Claim
from arrol.records.schema import EndRecord, EvalRecord, Record, RunRecord, StepRecord
from arrol.records.store import RECORDS_FILE, RecordWriter, portable, provenance, read_records, read_run
from arrol.reports.tables import comparison_rows
from arrol.training.checkpoint import (
    forget_partial,
    load_state,
    manifest_of,
    newest_checkpoint,
    reading,
    require_same_config,
    set_aside,
    sound_checkpoint,
)
from arrol.training.learner import Learner
from arrol.training.policy import (
    load_policy,
    load_tokenizer,
    load_trained,
    require_lora,
    require_positions,
    resolve_device,
    stop_token_ids,
)
from arrol.training.room import require_run_room
from arrol.training.sinks import TerminalSink
from arrol.training.trackers import build_trackers, require_services
from arrol.training.trainer import FREE_FIELDS, Parts, Trainer

EXIT_STOPPED = 130
"""A signal ended the run; it was saved and goes on with --resume."""
PROMPTS_CHECKED = 10_000
"""First prompts of training whose length is checked before it begins, in 3 s at most."""
PATH_FIELDS = frozenset({"model", "task.source", "task.eval_source", "task.demonstrations"})
"""Written into records relative to the working directory, so they may differ between two records of one run."""


class Ended(NamedTuple):
    """How ``train_one`` ended, and whether a signal asked it to stop, which may come during the last step."""

    end: EndRecord
    stop_requested: bool


def run_train(config: RunConfig, *, resume: bool, live: bool, as_json: bool) -> int:
    console = run_console(as_json=as_json)
    end = train_one(config, arm=config.name, resume=resume, console=console, live=live).end
    folder = run_folder(config)
    rows = comparison_rows([read_run(folder)])
    show_rows(console, config.name, rows, as_json=as_json)
    say_findings(console, config)
    report_after([folder], folder, console)
    console.print(f"{end.outcome} at step {end.step}; records, rollouts and checkpoints: {folder}", soft_wrap=True)
    return 0 if end.outcome == "finished" else EXIT_STOPPED


def say_findings(console: Console, config: RunConfig) -> None:
    """Print why a run learned nothing, where it did not."""
    records = sorted(
        (row for row in _records(run_folder(config)) if isinstance(row, StepRecord)), key=lambda row: row.step
    )
    for finding in final_findings([row.metrics for row in records]):
        console.print(f"warning: {config.name}: {finding.text}", soft_wrap=True)


def run_folder(config: RunConfig) -> Path:
    return Path(config.out_dir) / config.name


def train_one(
    config: RunConfig, *, arm: str, resume: bool, console: Console, live: bool = False, task: Task | None = None
) -> Ended:
    """Build, resume if asked, train. Everything is checked before anything on disk changes, and a run that fails before
    its first step leaves nothing. ``live``: show the curves in the terminal and on a page. ``task``: in place of the
    config's."""
    folder = run_folder(config)
    require_place("out_dir", folder)
    with Claim() as claim:
        is_held = claim.take(folder)
        previous = previous_record(config, resume=resume)
        checkpoint = _checkpoint(config, folder, console) if previous else None
        trainer = _trainer(config, folder, previous, checkpoint, console, task)
        folder.mkdir(parents=True, exist_ok=True)
        claim.take(folder)
        if not is_held:  # a process may have begun and ended there since
            previous_record(config, resume=False)
        forget_partial(folder / CHECKPOINTS)
        if previous is None:
            forget_records(folder)
        else:
            set_aside(folder / CHECKPOINTS, after=trainer.step)
            cut_records(folder, manifest_of(checkpoint).run if checkpoint else NO_RECORDS)
        try:
            return _trained(trainer, arm, previous, console, live=live)
        except BaseException:
            if not has_learned(folder, _records(folder)):
                forget_start(folder)
            raise


def _trainer(
    config: RunConfig,
    folder: Path,
    previous: RunRecord | None,
    checkpoint: Path | None,
    console: Console,
    task: Task | None,
) -> Trainer:
    """The trainer of a new run, or of the newest checkpoint of one."""
    torch.set_num_threads(config.num_threads)
    device = resolve_device(config.device)
    require_services(config.report_to, config.report_every)
    tokenizer = load_tokenizer(config.model)
    require_lora(config)
    if task is None:
        task = assembly.build_task(config.task, tokenizer, seed=config.seed)  # wrong data are an error before the model
    require_run_room(config, device)
    source = str(checkpoint / "policy") if checkpoint else config.model
    model, saved = load_trained(config, source, device, base=config.model)
    parts = _parts(config, model, tokenizer, task, _reference(config, model, device))
    parts.saved = saved
    for caution in cautions(config):
        console.print(f"warning: {caution}", soft_wrap=True)
    trainer = Trainer(config, parts, folder, segment=previous.segment + 1 if previous else 0)
    if checkpoint:
        trainer.resume(checkpoint)
    return trainer


def _trained(trainer: Trainer, arm: str, previous: RunRecord | None, console: Console, *, live: bool) -> Ended:
    """The trainer run to its end, with its record and its sinks."""
    config, folder, parts = trainer.config, trainer.folder, trainer.parts
    device = next(parts.model.parameters()).device
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    with RecordWriter(folder / RECORDS_FILE) as writer:
        writer.write(
            provenance(sys.argv, [config.seed], gpu=gpu).run_record(
                name=config.name,
                arm=arm,
                seed=config.seed,
                config=config.model_dump(mode="json"),
                previous=previous,
                resume_step=trainer.step if previous else None,
            )
        )
    parts.trackers = build_trackers(config.report_to, folder, config.name, config.model_dump(mode="json"))
    parts.sinks = [TerminalSink(config.name, config.training.steps, console, done=trainer.step, has_curves=live)]
    if live:
        earlier = [row for row in _records(folder) if isinstance(row, StepRecord) and row.step <= trainer.step]
        parts.sinks.insert(0, LivePage(folder, config.name, config.training.steps, console, earlier))
    try:
        ended = Ended(trainer.run(), trainer.stop_requested)
        seal_records(folder)
        return ended
    finally:
        parts.task.close()  # a verifier's worker process
        parts.engine.close()


def previous_record(config: RunConfig, *, resume: bool) -> RunRecord | None:
    """First ``RunRecord`` in the config's folder, with the newest segment; None for a new start. CheckpointError when
    the run may not be resumed: ``resume`` is False, or its config differs. A run that has learned nothing gives way to
    a new start."""
    folder, checkpoints = run_folder(config), run_folder(config) / CHECKPOINTS
    opened = readable_runs(folder) if resume else []
    if not resume and not has_learned(folder, _records(folder)):
        return None
    if not resume:
        raise CheckpointError(
            f"name = {config.name!r}: {folder} holds a run already; go on with --resume or choose another --name"
        )
    if not opened:  # new, or killed before the first row was whole
        if newest_checkpoint(checkpoints):
            sound_checkpoint(checkpoints, lambda _: None)  # which names the file of records
            raise CheckpointError(
                f"name = {config.name!r}: {folder} holds checkpoints without their records; choose another --name"
            )
        return None
    wanted = portable(config.model_dump(mode="json"))
    try:
        require_same_config(opened[0].config, wanted, FREE_FIELDS | PATH_FIELDS, where="run in that folder")
    except CheckpointError:
        sound_checkpoint(checkpoints, lambda _: None)  # records that are damaged say other things
        if newest_checkpoint(checkpoints) or has_learned(folder, _records(folder)):
            raise
        return None
    return replace(opened[0], segment=max(row.segment for row in opened))


def _records(folder: Path) -> list[Record]:
    """Records of the folder; none where there is no file."""
    return read_records(folder / RECORDS_FILE) if (folder / RECORDS_FILE).exists() else []


def _checkpoint(config: RunConfig, folder: Path, console: Console) -> Path | None:
    """The checkpoint to resume from; None for a run that was killed before its first, which starts over."""
    say = warner(console, config.name)
    checkpoint = sound_checkpoint(folder / CHECKPOINTS, say)
    if checkpoint:
        state = load_state(checkpoint)
        with reading(checkpoint, "state.json"):
            require_same_config(state["config"], config.model_dump(mode="json"), FREE_FIELDS)
    elif any(isinstance(row, StepRecord) for row in _records(folder)):
        say(f"no checkpoint in {folder / CHECKPOINTS}; the run starts again with its first step")
    return checkpoint


def _reference(config: RunConfig, model: Any, device: torch.device) -> Any:
    """The frozen policy of a KL term: with LoRA the model itself, whose adapters the learner switches off."""
    if not config.algorithm.kl_coef:
        return None
    if config.lora is not None:
        return model
    return load_policy(config.model, device).eval().requires_grad_(False)


def _parts(config: RunConfig, model: Any, tokenizer: Any, task: Task, reference: Any) -> Parts:
    prompts = task.eval_prompts(config.evaluation.num_prompts)  # too small a source is an error now, not after an hour
    first = min(PROMPTS_CHECKED, config.training.steps * config.training.prompts_per_step)
    prompts += [task.train_prompt(position) for position in range(first)]
    require_positions(model.config, prompts, config.sampling.max_completion_tokens)
    estimator = assembly.build_estimator(config, model)
    engine = assembly.build_engine(config, model, estimator, tokenizer=tokenizer)
    stops = stop_token_ids(model, tokenizer)

    def judge(step: int, segment: int) -> EvalRecord:
        engine.sync_weights()
        params = assembly.build_sampling(config, stops, temperature=config.evaluation.temperature)
        amount = Amount(config.evaluation.num_prompts, config.evaluation.samples_per_prompt, config.seed)
        return eval_record(sample_prompts(engine, task, tokenizer, params, amount), step=step, segment=segment)

    return Parts(
        model=model,
        tokenizer=tokenizer,
        task=task,
        engine=engine,
        estimator=estimator,
        controller=assembly.build_controller(config, estimator),
        allocator=assembly.build_allocator(config),
        learner=Learner(model, config, reference=reference),
        sampling=assembly.build_sampling(config, stops),
        evaluate=judge,
    )
