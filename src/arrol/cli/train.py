"""``arrol train``: from a config to a finished run folder. ``train_one`` is the whole recipe; ``compare`` calls it per
arm."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from arrol import assembly
from arrol.configs.run import RunConfig, load_run
from arrol.errors import CheckpointError
from arrol.evaluation.runner import evaluate
from arrol.records.schema import EndRecord, EvalRecord
from arrol.records.store import RecordWriter, provenance
from arrol.records.store import load_run as read_run
from arrol.training.checkpoint import load_state, newest_checkpoint, require_same_config
from arrol.training.learner import Learner
from arrol.training.policy import load_policy, load_tokenizer, resolve_device, stop_token_ids
from arrol.training.sinks import TerminalSink, build_sinks
from arrol.training.trainer import FREE_FIELDS, Parts, Trainer


def run_train(path: str, flags: list[str], *, resume: bool, as_json: bool) -> int:
    config = load_run(path, flags)
    console = Console(stderr=as_json)
    end = train_one(config, arm=config.name, resume=resume, console=console)
    folder = run_folder(config)
    from arrol.reports.tables import comparison_rows, markdown_table

    rows = comparison_rows([read_run(folder)])
    print(json.dumps(rows, indent=1) if as_json else markdown_table(rows))
    console.print(f"{end.outcome} at step {end.step}; records, rollouts and checkpoints: {folder}", highlight=False)
    return 0


def run_folder(config: RunConfig) -> Path:
    return Path(config.out_dir) / config.name


def train_one(config: RunConfig, *, arm: str, resume: bool, console: Console) -> EndRecord:
    """Build, resume if asked, train. Nothing on disk changes before everything that can be checked has been."""
    torch.set_num_threads(config.num_threads)
    device, folder = resolve_device(config.device), run_folder(config)
    checkpoint = _checkpoint(config, folder, resume)
    tokenizer = load_tokenizer(config.model)
    model = load_policy(str(checkpoint / "policy") if checkpoint else config.model, device)
    reference = load_policy(config.model, device).eval().requires_grad_(False) if config.algorithm.kl_coef > 0 else None
    parts = _parts(config, model, tokenizer, reference)
    segment = _open_records(config, arm, folder, checkpoint, device)
    done = load_state(checkpoint)["step"] if checkpoint else 0
    parts.sinks = [
        *build_sinks(config.report_to, folder, config.name, config.model_dump(mode="json")),
        TerminalSink(config.name, config.training.steps, console, done=done),
    ]
    trainer = Trainer(config, parts, folder, segment=segment)
    if checkpoint:
        trainer.resume(checkpoint)
    return trainer.run()


def _checkpoint(config: RunConfig, folder: Path, resume: bool) -> Path | None:
    """The checkpoint to go on from; refuses to write over a run that is there."""
    if not (folder / "records.jsonl").exists():
        return None
    if not resume:
        raise CheckpointError(
            f"name = {config.name!r}: {folder} holds a run already; go on with --resume or choose another --name"
        )
    checkpoint = newest_checkpoint(folder / "checkpoints")
    if checkpoint:
        require_same_config(load_state(checkpoint)["config"], config.model_dump(mode="json"), FREE_FIELDS)
    return checkpoint


def _parts(config: RunConfig, model: Any, tokenizer: Any, reference: Any) -> Parts:
    task = assembly.build_task(config.task, tokenizer, seed=config.seed)
    task.eval_prompts(config.evaluation.num_prompts)  # an empty or too small source is an error now, not after an hour
    engine = assembly.build_engine(config, model)
    estimator = assembly.build_estimator(config, model)
    stops = stop_token_ids(model, tokenizer)

    def judge(step: int, segment: int) -> EvalRecord:
        engine.sync_weights()
        return evaluate(
            engine,
            task,
            tokenizer,
            assembly.build_sampling(config, stops, temperature=config.evaluation.temperature),
            num_prompts=config.evaluation.num_prompts,
            samples=config.evaluation.samples_per_prompt,
            seed=config.seed,
            step=step,
            segment=segment,
        )

    return Parts(
        model=model,
        tokenizer=tokenizer,
        task=task,
        engine=engine,
        estimator=estimator,
        controller=assembly.build_controller(config, estimator),
        learner=Learner(model, config, reference=reference),
        sampling=assembly.build_sampling(config, stops),
        evaluate=judge,
    )


def _open_records(config: RunConfig, arm: str, folder: Path, checkpoint: Path | None, device: torch.device) -> int:
    """Write the row that opens this segment; returns the segment's number."""
    records = folder / "records.jsonl"
    previous = read_run(folder).run if records.exists() else None
    gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
    row = provenance(sys.argv, [config.seed], gpu=gpu).run_record(
        name=config.name,
        arm=arm,
        seed=config.seed,
        config=config.model_dump(mode="json"),
        previous=previous,
        resume_step=(load_state(checkpoint)["step"] if checkpoint else 0) if previous else None,
    )
    folder.mkdir(parents=True, exist_ok=True)
    with RecordWriter(records) as writer:
        writer.write(row)
    return row.segment

