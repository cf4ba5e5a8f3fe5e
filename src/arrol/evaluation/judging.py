"""Verdicts, classes of equal answers and ballots of sampled problems, for metrics and votes.

Rewards and answers of a file are kept; a verifier finds the missing ones: the integer verifier where every gold answer
is an integer, else math-verify. Equal answers (0.5 and 1/2) are one class.

A vote picks a class, so all members of a class must have one verdict. Where they differ, the first member's verdict
holds in votes; a right sample without a readable answer is wrong in votes, not in pass@k (``disagreements``).

Legend: ``N`` samples of a problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from arrol.errors import DataError
from arrol.evaluation.problems import Sample, SampledProblem
from arrol.protocols import Verifier
from arrol.test_time.confidence import confidence_sampled, trace_confidence
from arrol.test_time.voting import Ballots
from arrol.verifiers.integer import IntegerVerifier, parse_integer
from arrol.verifiers.pool import Progress, VerifierPool
from arrol.verifiers.symbolic import SymbolicVerifier

MARKS = ("####", "\\boxed{", "Answer:")
"""Marks of a final integer in a completion."""


@dataclass(frozen=True)
class JudgedProblem:
    """A problem whose samples all have verdicts and classes."""

    problem: SampledProblem
    class_N: np.ndarray
    """int: class of each answer, -1 without a readable answer."""
    right_N: np.ndarray
    """bool: as verified."""
    votes_right_N: np.ndarray
    """bool: in votes; the same for every member of a class, false without an answer."""

    @property
    def samples(self) -> tuple[Sample, ...]:
        return self.problem.samples

    @property
    def tokens_N(self) -> np.ndarray:
        """float64: completion tokens, NaN where unknown."""
        return np.array([np.nan if s.num_tokens is None else s.num_tokens for s in self.samples], float)


def verifier_for(problems: Sequence[SampledProblem]) -> Verifier:
    """The integer verifier if it reads every gold answer, else math-verify."""
    golds = [problem.answer for problem in problems if problem.answer is not None]
    if golds and all(parse_integer(gold) is not None for gold in golds):
        return IntegerVerifier(MARKS)
    return SymbolicVerifier()


def judged(
    problems: Sequence[SampledProblem],
    pool: VerifierPool,
    progress: Progress | None = None,
    grouping: Progress | None = None,
) -> list[JudgedProblem]:
    """Verdicts and classes of all problems, in order; DataError for a problem without gold answer and rewards.

    ``progress`` counts verdicts, then ``grouping`` the problems whose equal answers are grouped.
    """
    whole = _with_verdicts(problems, pool, progress)
    classes = pool.classes_of_all([[sample.answer for sample in problem.samples] for problem in whole], grouping)
    return [_judged(problem, np.array(found.ids_N, int)) for problem, found in zip(whole, classes, strict=True)]


def disagreements(judged_P: Sequence[JudgedProblem]) -> int:
    """Number of samples whose verdict in votes differs from their own."""
    return int(sum((one.right_N != one.votes_right_N).sum() for one in judged_P))


def ballots_of(one: JudgedProblem, *, measure: str = "lowest", window: int = 2048) -> Ballots:
    """The columns that a vote may read; a column that some sample lacks is left out."""
    score_N = [sample.score for sample in one.samples]
    quality_N = [sample.quality for sample in one.samples]
    confidence_N = [_confidence(sample, measure, window) for sample in one.samples]
    return Ballots(one.class_N, _whole(score_N), _whole(quality_N), _whole(confidence_N))


def _whole(values: Sequence[float | None]) -> np.ndarray | None:
    return None if any(value is None for value in values) else np.array(values, float)


def token_confidences(sample: Sample) -> Sequence[float] | None:
    """The token confidences, or the sampled tokens' probabilities where there are no confidences; None for neither."""
    tokens = sample.confidences
    if tokens is None and sample.logprobs is not None and np.isfinite(sample.logprobs).all():
        tokens = tuple(confidence_sampled(np.minimum(sample.logprobs, 0.0)).tolist())
    return tokens or None


def _confidence(sample: Sample, measure: str, window: int) -> float | None:
    tokens = token_confidences(sample)
    return None if tokens is None else trace_confidence(tokens, measure, window)


def _with_verdicts(
    problems: Sequence[SampledProblem], pool: VerifierPool, progress: Progress | None
) -> list[SampledProblem]:
    """The problems with missing answers and rewards verified from the texts."""
    pairs, places = [], []
    for p, problem in enumerate(problems):
        for n, sample in enumerate(problem.samples):
            if sample.reward is None and problem.answer is None:
                raise DataError(
                    f"samples: problem {problem.key!r} has neither a gold answer nor rewards; "
                    "add the field answer, or a reward to each sample"
                )
            if sample.answer is None or sample.reward is None:
                pairs.append((sample.completion, problem.answer or ""))
                places.append((p, n))
    filled = [list(problem.samples) for problem in problems]
    for (p, n), verdict in zip(places, pool.verify_all(pairs, progress), strict=True):
        old = filled[p][n]
        filled[p][n] = replace(
            old,
            answer=verdict.answer if old.answer is None else old.answer,
            reward=verdict.reward if old.reward is None else old.reward,
        )
    return [replace(problem, samples=tuple(part)) for problem, part in zip(problems, filled, strict=True)]


def _judged(problem: SampledProblem, class_N: np.ndarray) -> JudgedProblem:
    right_N = np.array([float(sample.reward or 0.0) > 0.5 for sample in problem.samples])
    first = {int(c): bool(right_N[np.flatnonzero(class_N == c)[0]]) for c in np.unique(class_N) if c >= 0}
    votes_N = np.array([first.get(int(c), False) for c in class_N])
    return JudgedProblem(problem, class_N, right_N, votes_N)
