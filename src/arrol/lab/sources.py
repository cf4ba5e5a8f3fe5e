"""Pools without gradients: from a run's rollout records, and from sample files of any tool. Numpy only.

A pool of samples has the head features that any server gives: sum, minimum and mean of the log-probabilities up to
each length. Legend: as in :mod:`arrol.lab.pool`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from arrol.errors import DataError
from arrol.evaluation.problems import Sample, SampledProblem
from arrol.lab.pool import Pool
from arrol.lab.scores import crossfit_quality
from arrol.records.schema import RolloutRecord
from arrol.records.store import Run, success_of

LOOKS = 12
"""Lengths at which log-probabilities are read, evenly spaced up to the longest completion."""
RECENT_GROUPS = 256
"""Groups of a run that are read, the newest: the policy moves."""
CHARACTERS_PER_TOKEN = 4
"""Assumed where a file gives neither token counts nor log-probabilities."""

Group = TypeVar("Group")


def pool_of_samples(problems: Sequence[SampledProblem], notes: list[str]) -> Pool:
    """Completions of one problem are a prompt's rollouts; what had to be assumed is appended to ``notes``.

    Rewards are taken as they are; a completion without one is a missing rollout. DataError where no prompt has two.
    """
    problems = _with_two(problems, [[sample.reward for sample in one.samples] for one in problems], notes)
    samples = [sample for problem in problems for sample in problem.samples]
    if any(_num_tokens(sample) is None for sample in samples):
        notes.append(f"no token counts in the file: a token is taken as {CHARACTERS_PER_TOKEN} characters")
        lengths = [max(1, -(-len(sample.completion) // CHARACTERS_PER_TOKEN)) for sample in samples]
    else:
        lengths = [max(1, _num_tokens(sample) or 0) for sample in samples]
    is_logged = all(sample.logprobs and len(sample.logprobs) == n for sample, n in zip(samples, lengths, strict=True))
    pool = _pool(
        [(problem.key, len(problem.samples)) for problem in problems],
        [np.nan if sample.reward is None else sample.reward for sample in samples],
        lengths,
        [sample.finish_reason == "length" for sample in samples],
        [sample.success for sample in samples],
    )
    if not is_logged:
        notes.append("no log-probability of every token in the file: what a head could know is unknown")
        return pool
    flat = [np.maximum(np.array(sample.logprobs, np.float32), -50.0) for sample in samples]
    longest = int(pool.length_PN.max())
    probes = tuple(sorted({max(1, round(longest * (k + 1) / (LOOKS + 1))) for k in range(LOOKS)}))
    pool = replace(pool, logprobs_T=np.concatenate(flat), probe_tokens=probes)
    features_PNKF = np.full((*pool.length_PN.shape, len(probes), 3), np.nan, np.float16)
    places = [(p, n) for p, problem in enumerate(problems) for n in range(len(problem.samples))]
    for (p, n), logprobs_T in zip(places, flat, strict=True):
        for k, tokens in enumerate(probes):
            if len(logprobs_T) >= tokens:
                seen_T = logprobs_T[:tokens]
                features_PNKF[p, n, k] = np.maximum(seen_T.sum(), -6e4), seen_T.min(), seen_T.mean()
    pool = replace(pool, features_PNKF=features_PNKF)
    return replace(pool, quality_PNK=crossfit_quality(pool))


def pool_of_run(run: Run, notes: list[str]) -> Pool:
    """The newest groups of a run; the qualities are what its head said before the outcome was known.

    A prompt that came again is another group, since the policy had moved.
    """
    groups: dict[tuple[int, int], list[RolloutRecord]] = {}
    for record in run.rollouts:
        groups.setdefault((record.step, record.group), []).append(record)
    rows = list(groups.values())[-RECENT_GROUPS:]
    if not rows:
        raise DataError(f"run {run.run.name!r}: has no rollout records; give a run with its rollouts.jsonl")
    rows = _with_two(rows, [[record.reward for record in row] for row in rows], notes)
    records = [record for row in rows for record in row]
    stopped = sum(record.reward is None for record in records)
    if stopped:
        notes.append(f"{stopped} of {len(records)} rollouts have no reward, such as stopped ones, and are left out")
    again = len(rows) - len({row[0].prompt_key for row in rows})
    if again:
        notes.append(f"{again} of {len(rows)} groups repeat a prompt of an earlier step; each counts as its own")
    pool = _pool(
        [(f"{row[0].prompt_key}@{row[0].step}", len(row)) for row in rows],
        [np.nan if record.reward is None else record.reward for record in records],
        [record.completion_tokens for record in records],
        [record.finish_reason == "length" for record in records],
        [success_of(run.run, record) for record in records],
    )
    probes = run.run.section("pruning").get("probe_tokens", ())
    qualities = np.array([record.quality for record in records], float)
    if not isinstance(probes, list) or len(probes) != 1 or type(probes[0]) is not int or np.isnan(qualities).all():
        return pool
    quality_PNK = np.full((*pool.length_PN.shape, 1), np.nan, np.float32)
    quality_PNK[(*_places([len(row) for row in rows]), 0)] = qualities
    return replace(pool, probe_tokens=tuple(probes), quality_PNK=quality_PNK)


def usual_step(run: Run) -> tuple[int, int]:
    """Median rollouts of a group and groups of a step, 1 or more: records of TRL and verl do not name the latter."""
    sizes = Counter((record.step, record.group) for record in run.rollouts)
    prompts = Counter(step for step, _ in sizes)
    return int(np.median(list(sizes.values()))), int(np.median(list(prompts.values())))


def _pool(
    groups: Sequence[tuple[str, int]],
    rewards: Sequence[float],
    lengths: Sequence[int],
    truncated: Sequence[bool],
    successes: Sequence[float | None],
) -> Pool:
    """Ragged groups as a pool; a success of None is read from the reward."""
    if (longest := max(lengths)) >= 2**31 or min(lengths) < 0:
        wrong = longest if longest >= 2**31 else min(lengths)
        raise DataError(f"rollouts: a completion of {wrong} tokens; give a number from 0 to {2**31 - 1}")
    sizes = [size for _, size in groups]
    shape, places = (len(groups), max(sizes)), _places(sizes)
    reward_PN, length_PN = np.full(shape, np.nan, np.float32), np.zeros(shape, np.int32)
    is_truncated_PN = np.zeros(shape, bool)
    reward_PN[places], length_PN[places], is_truncated_PN[places] = rewards, lengths, truncated
    pool = Pool(tuple(key for key, _ in groups), reward_PN, length_PN, is_truncated_PN)
    if all(success is None for success in successes):
        return pool
    success_PN = pool.label_PN.astype(np.float32)
    told = [np.nan if success is None else success for success in successes]
    success_PN[places] = np.where([success is None for success in successes], success_PN[places], told)
    pool = replace(pool, success_PN=success_PN)
    if np.isnan(pool.label_PN).all():
        raise DataError(
            "success: unknown for every rollout; give 1 or 0, or leave it out and a reward above 0.5 is right"
        )
    return pool


def _with_two(groups: Sequence[Group], rewards: Sequence[Sequence[float | None]], notes: list[str]) -> list[Group]:
    """The groups with at least two rewards; DataError where there is none."""
    kept = [group for group, each in zip(groups, rewards, strict=True) if len(each) - each.count(None) >= 2]
    if not kept:
        raise DataError("rollouts: no prompt has two with a reward; give several completions of each prompt")
    if len(kept) < len(groups):
        notes.append(f"{len(groups) - len(kept)} of {len(groups)} prompts have fewer than two rewards and are left out")
    return kept


def _places(sizes: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each rollout, group after group."""
    return np.repeat(np.arange(len(sizes)), sizes), np.concatenate([np.arange(size) for size in sizes])


def _num_tokens(sample: Sample) -> int | None:
    if sample.num_tokens is not None:
        return sample.num_tokens
    return len(sample.logprobs) if sample.logprobs else None
