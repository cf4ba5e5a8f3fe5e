"""The last part of ``arrol sft``: the saved model is judged on held-out prompts.

The model is whole by then. Where a signal or a kill ends this part, ``--resume`` repeats it alone.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch

from arrol import assembly
from arrol.configs.run import EngineConfig
from arrol.configs.sft import SftConfig
from arrol.engines.embedded.engine import EmbeddedEngine
from arrol.errors import DataError
from arrol.evaluation.metrics import dead_group_frac
from arrol.evaluation.runner import Amount, outcomes_and_tokens, sample_prompts
from arrol.records.schema import EndRecord, EvalRecord, RunRecord
from arrol.records.store import RECORDS_FILE, RecordWriter, provenance, read_records
from arrol.stats import accuracy_with_interval
from arrol.training.policy import load_policy, load_tokenizer, resolve_device, stop_token_ids
from arrol.training.stopping import Interrupted, StopRequest
from arrol.types import SamplingParams

MODEL = "model"
"""Folder of the saved model, below that of the warm start."""
JUDGED_SAMPLES = 16
"""Completions per held-out prompt: enough for groups of 8 and 16."""


def is_judged(folder: Path) -> bool:
    """True for a warm start that ended with its last evaluation; False where a row of it cannot be read."""
    try:
        records = read_records(folder / RECORDS_FILE) if (folder / RECORDS_FILE).is_file() else []
    except DataError:  # which the checkpoint names
        return False
    return any(isinstance(record, EndRecord) and record.outcome == "finished" for record in records)


def judge_later(config: SftConfig, folder: Path, previous: RunRecord) -> EvalRecord | None:
    """As :func:`judge_saved`, for a model that an earlier process has saved."""
    torch.set_num_threads(config.num_threads)
    source = str(folder / MODEL)
    tokenizer = load_tokenizer(source)
    task = assembly.build_task(config.task, tokenizer, seed=config.seed)
    model = load_policy(source, resolve_device(config.device))
    facts: dict[str, Any] = {"name": config.name, "arm": config.name, "seed": config.seed}
    facts["config"] = config.model_dump(mode="json")
    with RecordWriter(folder / RECORDS_FILE) as records:
        here = provenance(sys.argv, [config.seed])
        records.write(here.run_record(**facts, previous=previous, resume_step=config.steps))
        return judge_saved(config, records, (model, tokenizer, task), previous.segment + 1)


def judge_saved(
    config: SftConfig, records: RecordWriter, judged: tuple[Any, Any, Any], segment: int
) -> EvalRecord | None:
    """Evaluate model, tokenizer and task of ``judged`` and record it; None where a signal ended that."""
    stop = StopRequest()
    try:
        with stop.watched(), stop.gives_up():
            record = _evaluation(config, *judged, segment)
    except Interrupted:
        records.write(EndRecord(step=config.steps, segment=segment, outcome="stopped"))
        return None
    records.write(record)
    records.write(EndRecord(step=config.steps, segment=segment, outcome="finished"))
    return record


def _evaluation(config: SftConfig, model: Any, tokenizer: Any, task: Any, segment: int) -> EvalRecord:
    """Success on held-out prompts, its spread, and dead groups."""
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
        step=config.steps, segment=segment, accuracy=accuracy, low=low, high=high, num_prompts=reward_PG.shape[0],
        samples_per_prompt=JUDGED_SAMPLES, metrics=metrics,
    )  # fmt: skip
