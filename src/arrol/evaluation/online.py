"""Online strategies replayed on recorded samples, compared with the majority at equal tokens and at equal accuracy.

The control is the majority of 1 ... n samples: a curve of accuracy over tokens. A strategy is a point; its row has the
paired difference to the curve at its own tokens, and the tokens that the curve needs for its accuracy. DeepConf needs
confidences and the head needs qualities at probes; strategies whose data a file lacks are left out. Warm-up and stopped
tokens are counted. Every strategy is averaged over the same orderings of the samples of a problem.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from arrol.errors import DataError
from arrol.evaluation.judging import JudgedProblem, ballots_of
from arrol.evaluation.summary import Row, compared
from arrol.test_time.replay import (
    Evidence,
    ReplayTable,
    Traces,
    at_accuracy,
    at_tokens,
    probe_evidence,
    replay_table,
    window_evidence,
)
from arrol.test_time.strategies import Strategy, deepconf_online, early_consensus, fixed_traces, head_stop

MIN_SAMPLES = 8
"""Per problem; with fewer there is nothing to stop."""


def online_rows(
    judged: Sequence[JudgedProblem], *, window: int = 2048, num_orderings: int = 16, stop_quality: float = 0.2
) -> list[Row]:
    """One row per strategy that the samples allow; none for unknown token counts or fewer than ``MIN_SAMPLES``."""
    count = min(len(one.samples) for one in judged)
    if count < MIN_SAMPLES or any(np.isnan(one.tokens_N).any() for one in judged):
        return []
    verdicts = [one.votes_right_N for one in judged]
    fixed = [fixed_traces(k) for k in fixed_sizes(count)]
    plain = [Traces(ballots_of(one), one.tokens_N.astype(int)) for one in judged]
    curve = replay_table(fixed, plain, verdicts, num_orderings=num_orderings)
    rows = []
    for name, strategy, evidence in _strategies(judged, count, window, stop_quality):
        traces = [
            Traces(ballots_of(one, measure="lowest", window=window), one.tokens_N.astype(int), found)
            for one, found in zip(judged, evidence, strict=True)
        ]
        table = replay_table([strategy], traces, verdicts, num_orderings=num_orderings)
        rows.append({"strategy": name, **_beside(table, curve)})
    return rows


def fixed_sizes(count: int) -> list[int]:
    """Numbers of samples on the control's curve: 1, 2, 4, ... and all."""
    return sorted({2**power for power in range(count.bit_length()) if 2**power <= count} | {count})


def _strategies(
    judged: Sequence[JudgedProblem], count: int, window: int, stop_quality: float
) -> list[tuple[str, Strategy, list[Sequence[Evidence]]]]:
    nothing: list[Sequence[Evidence]] = [() for _ in judged]
    least = max(2, count // 8)
    found = [(f"consensus .8, {least}+", early_consensus(count, min_traces=least, consensus=0.8), nothing)]
    found.append((f"consensus .95, {least}+", early_consensus(count, min_traces=least), nothing))
    warmup = min(16, count // 4)
    if all(sample.confidences for one in judged for sample in one.samples):
        windows = [[window_evidence(s.confidences or (), window) for s in one.samples] for one in judged]
        for name, percent in (("DeepConf low", 10), ("DeepConf high", 90)):
            strategy = deepconf_online(count, keep_top_percent=percent, warmup_traces=warmup)
            found.append((name, strategy, list(windows)))
    if all(sample.probe_qualities is not None for one in judged for sample in one.samples):
        probes = [[probe_evidence(dict(s.probe_qualities or ())) for s in one.samples] for one in judged]
        found.append((f"head, quality < {stop_quality:g}", head_stop(count, stop_quality=stop_quality), list(probes)))
        half = head_stop(count, keep_top_percent=50, warmup_traces=warmup)
        found.append(("head, lower half", half, list(probes)))
    return found


def _beside(table: ReplayTable, curve: ReplayTable) -> Row:
    """The strategy, the control at its tokens, and the control's tokens at its accuracy."""
    right_P, tokens = table.right_AP[0], float(table.tokens_AP[0].mean())
    fixed_P = at_tokens(curve.tokens_AP, curve.right_AP, tokens)
    if np.isnan(fixed_P).any():
        raise DataError(f"tokens = {tokens:.0f}: outside the control's curve; report this as a fault of the strategy")
    needed_P = at_accuracy(curve.tokens_AP, curve.right_AP, float(right_P.mean()))
    needed = None if np.isnan(needed_P).any() else float(needed_P.mean())
    return {
        **compared(right_P, fixed_P),
        "tokens_per_problem": tokens,
        "majority_at_equal_tokens": float(fixed_P.mean()),
        "majority_tokens_at_equal_accuracy": needed,
        "traces_started": float(table.started_AP[0].mean()),
        "traces_stopped": float(table.stopped_AP[0].mean()),
    }
