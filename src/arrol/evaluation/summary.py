"""Rows of ``arrol eval`` and ``arrol vote``: metrics and votes of judged problems, as plain JSON values.

One row per metric and k, or per vote and k. Differences between votes are paired: same problems, samples and subsets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from arrol.errors import ConfigError, DataError
from arrol.evaluation.judging import JudgedProblem, ballots_of, has_confidences, is_by_function
from arrol.evaluation.majority import SubsetPlan, maj_at_k
from arrol.evaluation.metrics import avg_at_k, best_of_k, paired_difference, pass_at_k, summary
from arrol.evaluation.problems import Sample, SampledProblem
from arrol.test_time.confidence import MEASURES
from arrol.test_time.voting import RULES, Ballots, WeightRule, top_percent, vote_rule

Row = dict[str, Any]
FILTERS = {"top10": 10, "top90": 90}
"""Suffix of a vote's name -> percent of the candidates that vote, by confidence: DeepConf's two settings."""
COLUMNS: dict[str, tuple[str, ...]] = {
    "majority": (),
    **dict.fromkeys(("rank", "rank_floor", "score_prob", "softmax", "best_of_n"), ("score",)),
    **dict.fromkeys(("quality", "log_odds"), ("quality",)),
    "confidence": ("confidence",),
    "quality_confidence": ("quality", "confidence"),
    "top_percent": ("confidence",),
}
"""Rule -> the columns it reads of each sample."""
_FORMS = {
    "confidence": [
        *(f"confidence:{measure}" for measure in MEASURES),
        *(f"confidence:{measure}:{suffix}" for measure in ("lowest", "tail") for suffix in FILTERS),
    ],
    "quality_confidence": ["quality_confidence:lowest"],
    "top_percent": [],
}
"""Rule -> the votes that are counted by default, where it is not the rule alone."""


def usual_ks(problems: Sequence[SampledProblem]) -> list[int]:
    """1, 4, 16, 64, 256 as far as each problem has more samples, and the least number of samples."""
    most = min(len(one.samples) for one in problems)
    return sorted({k for k in (1, 4, 16, 64, 256) if k < most} | {most})


def require_samples(problems: Sequence[SampledProblem], ks: Sequence[int]) -> None:
    """Refuse a k above the number of samples of a problem."""
    for problem in problems:
        if len(problem.samples) < max(ks):
            raise DataError(
                f"--k = {max(ks)}: problem {problem.key!r} has {len(problem.samples)} samples; "
                "sample more or give a smaller k"
            )


def require_votes(problems: Sequence[SampledProblem], names: Sequence[str]) -> None:
    """Refuse a vote that does not exist, or that reads a column which a sample lacks."""
    for name in names:
        lacks = _lacks(problems, _columns_of(name))
        if lacks is not None:
            column, key, number = lacks
            raise DataError(
                f"--rules: {name!r} reads {column}, which sample {number} of problem {key!r} lacks; "
                "leave the vote out, or add the column"
            )


def metric_rows(judged: Sequence[JudgedProblem], ks: Sequence[int]) -> list[Row]:
    """avg, pass@k, maj@k, coverage gap, and best-of-k where there are scores.

    Where reward functions judged there is no answer to vote on: mean reward, avg and pass@k.
    """
    right_P, size_P = _counts(judged)
    ballots = [ballots_of(one) for one in judged]
    rows = [_row(f"avg@{_size_text(size_P)}", avg_at_k(right_P, size_P))]
    if is_by_function(judged):
        rewards = [[s.reward for s in one.samples if s.reward is not None] for one in judged]
        reward_P = np.array([np.mean(each) for each in rewards if each])
        passes = [_row(f"pass@{k}", pass_at_k(right_P, size_P, k)) for k in ks]
        return [*([_row("mean reward", reward_P)] if len(reward_P) else []), *rows, *passes]
    verdicts = [one.votes_right_N for one in judged]
    votes = maj_at_k(ballots, verdicts, ks)
    best_PK = None
    if all(b.score_N is not None for b in ballots):  # unreadable answers rank last
        scores = [np.where(b.answer_N >= 0, np.asarray(b.score_N), -np.inf) for b in ballots]
        best_PK = best_of_k(scores, verdicts, ks)
    for column, k in enumerate(ks):
        pass_P = pass_at_k(right_P, size_P, k)
        rows.append(_row(f"pass@{k}", pass_P))
        rows.append({**_row(f"maj@{k}", votes.right_PK[:, column]), "ties": float(votes.tied_PK[:, column].mean())})
        if best_PK is not None:
            rows.append(_row(f"best-of-{k}", best_PK[:, column]))
        rows.append(_row(f"coverage gap@{k}", pass_P - votes.right_PK[:, column]))
    return rows


def level_rows(judged: Sequence[JudgedProblem]) -> list[Row]:
    """Accuracy per difficulty level; empty without two levels."""
    level_P, right_P = np.array([one.problem.level for one in judged]), avg_at_k(*_counts(judged))
    levels = np.unique(level_P)
    return [_row(f"level {level}", right_P[level_P == level]) for level in levels] if len(levels) > 1 else []


def facts(judged: Sequence[JudgedProblem]) -> Row:
    """Counts that stand beside the numbers."""
    tokens = np.concatenate([one.tokens_N for one in judged])
    classes = np.concatenate([one.class_N for one in judged])
    return {
        "problems": len(judged),
        "samples": int(sum(len(one.samples) for one in judged)),
        "tokens_per_sample": None if np.isnan(tokens).all() else float(np.nanmean(tokens)),
        "unreadable_frac": 0.0 if is_by_function(judged) else float(np.mean(classes < 0)),
        **({"unrewarded": _num_unrewarded(judged)} if is_by_function(judged) else {}),
        "judged_by": dict(Counter(sample.verifier or "" for one in judged for sample in one.samples)),
    }


def vote_rows(
    judged: Sequence[JudgedProblem], names: Sequence[str], ks: Sequence[int], *, window: int = 2048, subsets: int = 1000
) -> list[Row]:
    """Each vote at each k, with its difference to the majority of the same subsets; ``oracle`` is pass@k."""
    plan, verdicts = SubsetPlan(subsets=subsets), [one.votes_right_N for one in judged]
    tokens_P = np.array([one.tokens_N.mean() for one in judged])
    base_PK = maj_at_k([ballots_of(one) for one in judged], verdicts, ks, plan=plan).right_PK
    rows = []
    for name in names:
        value_PK, tied_K = _vote_values(judged, name, ks, window, plan)
        for column, k in enumerate(ks):
            beside = compared(value_PK[:, column], base_PK[:, column])
            tokens = None if np.isnan(tokens_P).any() else float(tokens_P.mean() * k)
            rows.append({"vote": name, "k": k, **beside, "ties": tied_K[column], "tokens_per_problem": tokens})
    return rows


def compared(value_P: np.ndarray, baseline_P: np.ndarray) -> Row:
    """Mean and interval of a value, and of its paired difference to a baseline."""
    ahead = paired_difference(value_P, baseline_P)
    return {**asdict(summary(value_P)), "ahead": ahead.value, "ahead_low": ahead.low, "ahead_high": ahead.high}


def possible_votes(problems: Sequence[SampledProblem]) -> list[str]:
    """Names of the votes whose columns every sample has."""
    known = {column for column in ("score", "quality", "confidence") if _lacks(problems, [column]) is None}
    possible = [rule for rule, columns in COLUMNS.items() if known.issuperset(columns)]
    return [*(name for rule in possible for name in _FORMS.get(rule, [rule])), "oracle"]


def _columns_of(name: str) -> tuple[str, ...]:
    """Columns that a vote reads; ConfigError for a name that is no vote."""
    if name == "oracle":
        return ()
    parsed_vote(name)
    rule, *rest = name.split(":")
    return (*COLUMNS[rule], "confidence") if len(rest) == 2 else COLUMNS[rule]


def _lacks(problems: Sequence[SampledProblem], columns: Sequence[str]) -> tuple[str, str, int] | None:
    """The first column that a sample lacks, the problem's key and the sample's number from 1."""
    for column in columns:
        for problem in problems:
            for number, sample in enumerate(problem.samples, 1):
                if not _has(sample, column):
                    return column, problem.key, number
    return None


def _has(sample: Sample, column: str) -> bool:
    if column == "confidence":
        return has_confidences(sample)
    return (sample.score if column == "score" else sample.quality) is not None


def parsed_vote(name: str) -> tuple[WeightRule, str]:
    """Rule and confidence measure of a name: ``rule``, ``rule:measure`` or ``rule:measure:top10``."""
    rule, _, rest = name.partition(":")
    measure, _, suffix = rest.partition(":")
    measure = measure or "lowest"
    if rule not in RULES or measure not in MEASURES or (suffix and suffix not in FILTERS):
        raise ConfigError(
            f"rules: {name!r} is no vote; choose oracle or {', '.join(RULES)}; a rule that reads the confidence may be "
            f"followed by :{{{', '.join(MEASURES)}}} and then :{{{', '.join(FILTERS)}}}"
        )
    found = vote_rule(rule)
    return (top_percent(found, FILTERS[suffix]) if suffix else found), measure


def _vote_values(
    judged: Sequence[JudgedProblem], name: str, ks: Sequence[int], window: int, plan: SubsetPlan
) -> tuple[np.ndarray, list[float]]:
    """``[P, K]`` and the share of ties per k."""
    if name == "oracle":
        right_P, size_P = _counts(judged)
        return np.stack([pass_at_k(right_P, size_P, k) for k in ks], axis=1), [0.0] * len(ks)
    rule, measure = parsed_vote(name)
    ballots: list[Ballots] = [ballots_of(one, measure=measure, window=window) for one in judged]
    votes = maj_at_k(ballots, [one.votes_right_N for one in judged], ks, rule=rule, plan=plan)
    return votes.right_PK, votes.tied_PK.mean(axis=0).tolist()


def _counts(judged: Sequence[JudgedProblem]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([int(one.right_N.sum()) for one in judged]), np.array([len(one.samples) for one in judged])


def _num_unrewarded(judged: Sequence[JudgedProblem]) -> int:
    return sum(sample.reward is None for one in judged for sample in one.samples)


def _row(name: str, value_P: np.ndarray) -> Row:
    return {"metric": name, **asdict(summary(value_P))}


def _size_text(size_P: np.ndarray) -> str:
    return str(size_P[0]) if len(set(size_P.tolist())) == 1 else "all"
