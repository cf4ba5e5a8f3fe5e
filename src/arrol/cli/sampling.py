"""Completions of held-out prompts, with the scores and confidences that votes use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from arrol import assembly
from arrol.cli.policies import newest_of_run
from arrol.configs.run import RunConfig
from arrol.evaluation.problems import Sample, SampledProblem
from arrol.evaluation.reading import CompletionStatistics, read_completions
from arrol.evaluation.runner import Amount, Written, sample_prompts
from arrol.quality.features import END
from arrol.quality.snapshot import EstimatorSnapshot
from arrol.training.checkpoint import load_state, reading
from arrol.training.policy import load_policy, load_tokenizer, require_positions, resolve_device, stop_token_ids
from arrol.training.room import require_eval_room


def newest_state(run: str, say: Callable[[str], None]) -> tuple[Path, dict[str, Any]]:
    """The newest checkpoint of a run's folder with a whole policy and state, and that state; ``say`` hears of damaged
    ones."""
    checkpoint = newest_of_run(run, say)
    return checkpoint, load_state(checkpoint)


def snapshot_of(
    path: str | None, config: RunConfig, policy: str, state: Mapping[str, Any] | None
) -> EstimatorSnapshot | None:
    """The estimator of a file that ``arrol export`` wrote, else that of the run; None without either."""
    if path is not None:
        return EstimatorSnapshot.read(path)
    if state is None:
        return None
    with reading(Path(policy).parent, "state.json"):
        if not state["estimator"]["version"]:
            return None
        estimator = assembly.build_estimator(config, load_policy(policy, torch.device("cpu")))
        estimator.load(state["estimator"])
    return estimator.snapshot()


def sample(
    config: RunConfig, policy: str, estimator: EstimatorSnapshot | None, *, confidences: bool, console: Console
) -> list[SampledProblem]:
    """Problems with judged samples; with an estimator scores and qualities, on request token confidences."""
    torch.set_num_threads(config.num_threads)
    tokenizer, evaluation = load_tokenizer(policy), config.evaluation
    task = assembly.build_task(config.task, tokenizer, seed=config.seed)  # wrong data are an error before the model
    device = resolve_device(config.device)
    require_eval_room(config, policy, device)
    model = load_policy(policy, device)
    engine = assembly.build_engine(config, model, tokenizer=tokenizer)
    params = assembly.build_sampling(config, stop_token_ids(model, tokenizer), temperature=evaluation.temperature)
    try:
        prompts = task.eval_prompts(evaluation.num_prompts)
        require_positions(model.config, prompts, config.sampling.max_completion_tokens)
        amount = Amount(evaluation.num_prompts, evaluation.samples_per_prompt, config.seed)
        columns = (TextColumn("sampling"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
            bar = progress.add_task("", total=len(prompts) * amount.samples)
            written = sample_prompts(
                engine, task, tokenizer, params, amount, on_ended=lambda count: progress.advance(bar, count)
            )
        problems = [one.problem() for one in written]
        if estimator is None and not confidences:
            return problems
        with console.status("reading"):
            return _read(problems, written, model, estimator, confidences, evaluation.temperature)
    finally:
        task.close()
        engine.close()


def _read(
    problems: list[SampledProblem],
    written: list[Written],
    model: Any,
    estimator: EstimatorSnapshot | None,
    confidences: bool,
    temperature: float,
) -> list[SampledProblem]:
    layout = None if estimator is None else estimator.layout
    if estimator is not None:
        estimator.require_model(model.config.get_text_config())
    pairs = [(one.prompt.token_ids, completion.token_ids) for one in written for completion in one.completions]
    lengths = (END,) if estimator is None else (*estimator.probe_tokens, END)
    readings = iter(read_completions(model, pairs, layout=layout, lengths=lengths, temperature=temperature))
    found = []
    for problem in problems:
        samples = [_told(one, next(readings), estimator, confidences) for one in problem.samples]
        found.append(replace(problem, samples=tuple(samples)))
    return found


def _told(one: Sample, reading: CompletionStatistics, estimator: EstimatorSnapshot | None, confidences: bool) -> Sample:
    """The sample with what the reading says of it; the last probe's head reads ends where none was trained for them."""
    if confidences:
        one = replace(one, confidences=tuple(reading.confidence_T.tolist()))
    if estimator is None:
        return one
    looks = [(head, length) for head, length in enumerate(estimator.probe_tokens) if length != END]
    known = [(head, length) for head, length in looks if length in reading.features_at]
    points = tuple((length, _quality(estimator, reading, head, length)) for head, length in known)
    one = replace(one, probe_qualities=points)
    if END not in reading.features_at:  # it ended before anything was fed
        return replace(one, score=0.0, quality=0.0)
    head = len(estimator.probe_tokens) - 1
    score = estimator.scores(reading.features_at[END][None], head)
    return replace(one, score=float(score[0]), quality=float(estimator.quality(score, head)[0]))


def _quality(estimator: EstimatorSnapshot, reading: CompletionStatistics, head: int, length: int) -> float:
    return float(estimator.quality(estimator.scores(reading.features_at[length][None], head), head)[0])
