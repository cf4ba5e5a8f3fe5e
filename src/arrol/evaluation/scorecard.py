"""All metrics of a table of samples: avg@1, pass@k, maj@k per vote rule, best-of-k, gap, by k and by level. Pure numpy.

Every row is a mean of one value per prompt with its interval; ``tokens`` beside it is k times the mean completion of
the prompt, so accuracy never stands without its cost. Compare two rules on the same samples by
``metrics.paired_difference`` of their columns in :func:`columns`, not by looking at two intervals.

Legend: ``P`` prompts, ``N`` samples of a prompt.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from arrol.errors import DataError
from arrol.evaluation.majority import DEFAULT_PLAN, SubsetPlan, maj_at_k
from arrol.evaluation.metrics import avg_at_k, best_of_k, coverage_gap, pass_at_k, summary
from arrol.test_time.voting import Ballots, WeightRule


@dataclass(frozen=True)
class PromptSamples:
    """The samples of one prompt."""

    ballots: Ballots
    right_N: np.ndarray
    """bool: the verifier's verdicts."""
    tokens_N: np.ndarray = field(default_factory=lambda: np.zeros(0))
    """Completion tokens; empty where nobody counted."""
    level: int = 0


@dataclass(frozen=True)
class Column:
    """One metric at one k, prompt by prompt."""

    metric: str
    """avg, pass, maj, best or gap."""
    k: int
    rule: str
    """Vote rule of maj and gap, else empty."""
    value_P: np.ndarray
    tied_P: np.ndarray
    """Share of subsets in which the weights did not decide; NaN where nobody votes."""
    tokens_P: np.ndarray


Row = dict[str, str | int | float | None]
"""metric, k, rule, level (None: all), value, low, high, num_prompts, tied_frac, tokens."""


def columns(
    samples_P: Sequence[PromptSamples],
    ks: Sequence[int],
    *,
    rules: Sequence[str] | Mapping[str, WeightRule] = ("majority",),
    plan: SubsetPlan = DEFAULT_PLAN,
    deployed_ties: bool = False,
) -> list[Column]:
    """Every metric at every k. best-of-k only where each prompt has scores; unreadable samples rank last in it."""
    if not samples_P:
        raise DataError("samples_P is empty: there is nothing to score; give at least one prompt")
    ballots_P, right_P = [s.ballots for s in samples_P], [np.asarray(s.right_N, bool) for s in samples_P]
    right_count_P, size_P = np.array([r.sum() for r in right_P]), np.array([r.size for r in right_P])
    tokens_P = np.array([np.mean(s.tokens_N) if np.size(s.tokens_N) else np.nan for s in samples_P])
    never_P = np.full(len(samples_P), np.nan)
    found = [Column("avg", 1, "", avg_at_k(right_count_P, size_P), never_P, tokens_P)]
    passes = {k: pass_at_k(right_count_P, size_P, k) for k in ks}
    found += [Column("pass", k, "", passes[k], never_P, k * tokens_P) for k in ks]
    if all(ballots.score_N is not None for ballots in ballots_P):
        score_P = [np.where(b.answer_N >= 0, np.asarray(b.score_N), -np.inf) for b in ballots_P]
        best_PK = best_of_k(score_P, right_P, ks)
        found += [Column("best", k, "", best_PK[:, i], never_P, k * tokens_P) for i, k in enumerate(ks)]
    named: Mapping[str, str | WeightRule] = rules if isinstance(rules, Mapping) else {name: name for name in rules}
    for name, rule in named.items():
        votes = maj_at_k(ballots_P, right_P, ks, rule=rule, deployed_ties=deployed_ties, plan=plan)
        for i, k in enumerate(ks):
            value_P, tied_P = votes.right_PK[:, i], votes.tied_PK[:, i]
            found.append(Column("maj", k, name, value_P, tied_P, k * tokens_P))
            found.append(Column("gap", k, name, coverage_gap(passes[k], value_P), tied_P, k * tokens_P))
    return found


def rows(columns: Sequence[Column], level_P: Sequence[int] | None = None, seed: int = 0) -> list[Row]:
    """Means and intervals, over all prompts and then, where levels are given, level by level."""
    found: list[Row] = []
    for column in columns:
        found.append(_row(column, np.ones(len(column.value_P), bool), None, seed))
        for level in [] if level_P is None else sorted(set(level_P)):
            found.append(_row(column, np.asarray(level_P) == level, level, seed))
    return found


def _row(column: Column, chosen_P: np.ndarray, level: int | None, seed: int) -> Row:
    metric = summary(column.value_P[chosen_P], seed)
    return {
        "metric": column.metric,
        "k": column.k,
        "rule": column.rule,
        "level": level,
        "value": metric.value,
        "low": metric.low,
        "high": metric.high,
        "num_prompts": metric.num_prompts,
        "tied_frac": float(column.tied_P[chosen_P].mean()),
        "tokens": float(column.tokens_P[chosen_P].mean()),
    }
