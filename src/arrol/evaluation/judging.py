"""Verdicts, classes of equal answers and ballots of sampled problems, for metrics and votes.

Rewards and answers of a file are kept; a verifier finds the missing ones. Equal answers (0.5 and 1/2) are one class.
Samples that were judged and grouped before (``arrol eval --out``) are neither judged nor grouped again;
:func:`unjudged` forgets the verdicts.

A vote picks a class, so all members of a class must have one verdict. Where they differ, the first member's verdict
holds in votes; a right sample without a readable answer is wrong in votes, not in pass@k (``disagreements``).

Legend: ``N`` samples of a problem.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from arrol.errors import DataError
from arrol.evaluation.problems import Sample, SampledProblem, changed
from arrol.test_time.confidence import confidence_sampled, trace_confidence
from arrol.test_time.voting import Ballots
from arrol.verifiers.extraction import DEFAULT_MARKS
from arrol.verifiers.integer import IntegerVerifier, parse_integer
from arrol.verifiers.pool import Progress, VerifierPool
from arrol.verifiers.symbolic import SymbolicVerifier

FROM_FILE = "file"
"""``Sample.verifier`` where the reward came with the completion."""


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


def verifier_for(
    problems: Sequence[SampledProblem], choice: str | None = None, marks: Sequence[str] = ()
) -> IntegerVerifier | SymbolicVerifier:
    """The verifier of that name; None means symbolic for any gold answers.

    ``marks`` stand before an answer; without any the usual ones do.
    """
    golds = [(problem.key, problem.answer) for problem in problems if problem.answer is not None]
    other = next(((key, gold) for key, gold in golds if parse_integer(gold) is None), None)
    if choice == "integer" and other is not None:
        key, gold = other
        raise DataError(
            f"--verifier = 'integer': the gold answer {gold[:60]!r} of problem {key!r} is not an integer; "
            "choose symbolic"
        )
    if choice == "integer":
        return IntegerVerifier(marks or DEFAULT_MARKS)
    return SymbolicVerifier(marks) if marks else SymbolicVerifier()


def unjudged(problems: Sequence[SampledProblem]) -> list[SampledProblem]:
    """The problems without what verdicts added: rewards, answers and the rest."""
    return [replace(one, samples=tuple(_unjudged(sample) for sample in one.samples)) for one in problems]


def _unjudged(sample: Sample) -> Sample:
    return changed(
        sample, answer=None, reward=None, success=None, mark=None, verifier=None, reason=None, answer_class=None
    )


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
    open_ones = [number for number, problem in enumerate(whole) if not _is_grouped(problem)]
    answers = [[sample.answer for sample in whole[number].samples] for number in open_ones]
    found = dict(zip(open_ones, pool.classes_of_all(answers, grouping), strict=True))
    known = [[-1 if s.answer_class is None else s.answer_class for s in problem.samples] for problem in whole]
    return [
        _judged(problem, np.array(found[number].ids_N if number in found else known[number], int))
        for number, problem in enumerate(whole)
    ]


def _is_grouped(problem: SampledProblem) -> bool:
    """True when every sample was judged and the equal answers were grouped before."""
    return all(sample.verifier is not None for sample in problem.samples) and any(
        sample.answer_class is not None for sample in problem.samples
    )


def is_by_function(judged_P: Sequence[JudgedProblem]) -> bool:
    """Reward functions judged every sample, and there are no answers to vote on."""
    return all(s.success is not None and s.answer is None for one in judged_P for s in one.samples)


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


def has_confidences(sample: Sample) -> bool:
    """True when the sample has token confidences, or finite log-probabilities in their place."""
    if sample.confidences is not None:
        return bool(sample.confidences)
    return bool(sample.logprobs) and all(map(math.isfinite, sample.logprobs or ()))


def _confidence(sample: Sample, measure: str, window: int) -> float | None:
    """A measure of the token confidences, or of the sampled tokens' probabilities where there are no confidences."""
    if not has_confidences(sample):
        return None
    tokens = sample.confidences or confidence_sampled(np.minimum(sample.logprobs or (), 0.0))
    return trace_confidence(tokens, measure, window)


def _with_verdicts(
    problems: Sequence[SampledProblem], pool: VerifierPool, progress: Progress | None
) -> list[SampledProblem]:
    """The problems with missing answers and rewards verified from the texts."""
    pairs, places, filled = [], [], [list(problem.samples) for problem in problems]
    for p, problem in enumerate(problems):
        for n, sample in enumerate(problem.samples):
            if sample.verifier is not None:
                continue
            if sample.reward is None and problem.answer is None:
                raise DataError(
                    f"samples: problem {problem.key!r} has neither a gold answer nor rewards; "
                    "add the field answer, or a reward to each sample"
                )
            if sample.answer is None or sample.reward is None:
                pairs.append((sample.completion, problem.answer or ""))
                places.append((p, n))
            else:
                filled[p][n] = changed(sample, verifier=FROM_FILE)
    name = "integer" if isinstance(pool.verifier, IntegerVerifier) else "symbolic"
    for (p, n), verdict in zip(places, pool.verify_all(pairs, progress), strict=True):
        old = problems[p].samples[n]
        filled[p][n] = changed(
            old,
            answer=verdict.answer if old.answer is None else old.answer,
            reward=verdict.reward if old.reward is None else old.reward,
            mark=verdict.mark or None,
            verifier=(verdict.verifier or name) if old.reward is None else FROM_FILE,
            reason=verdict.reason or None,
        )
    return [replace(problem, samples=tuple(part)) for problem, part in zip(problems, filled, strict=True)]


def _is_right(sample: Sample) -> bool:
    return float(sample.reward or 0.0) > 0.5 if sample.success is None else sample.success == 1.0


def _judged(problem: SampledProblem, class_N: np.ndarray) -> JudgedProblem:
    rights, classes = [_is_right(sample) for sample in problem.samples], class_N.tolist()
    first: dict[int, bool] = {}
    for number, right in zip(classes, rights, strict=True):
        first.setdefault(number, right and number >= 0)
    right_N, votes_N = np.array(rights), np.array([first[number] for number in classes])
    samples = tuple(
        changed(sample, answer_class=number if number >= 0 else None)
        for sample, number in zip(problem.samples, classes, strict=True)
    )
    return JudgedProblem(replace(problem, samples=samples), class_N, right_N, votes_N)
