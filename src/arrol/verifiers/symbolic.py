r"""Mathematical answers: rules and numbers first, math-verify in a process of its own for the rest.

Sample: ``"... so \\boxed{\\frac{3}{4}}"`` is right for the gold answer ``0.75``.

The answer of a text is found by the order of marks in ``extraction.py``. An answer that is found and cannot be read is
wrong; nothing earlier is tried. ``comparison.py`` decides most questions in this process: equal spellings, numbers,
formulas by their values, lists, sets, intervals. What it leaves open is asked of math-verify.

The cost of a text is bounded: at most :data:`MAX_CHARS` of it reach the worker, brackets nest at most
:data:`MAX_DEPTH` deep, and the worker is killed at ``time_limit_s``; the next verdict starts a new one. All parts of a
gold answer (``gold.py``) share one time limit. A worker that dies, perhaps killed from outside, costs no verdict: its
question goes to a new one at once. A question that ran out of time, or ended two workers, is asked once more when it
comes again, since the machine may have been busy, and then never again.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Self

from arrol.errors import ConfigError, MissingExtraError
from arrol.types import Verdict
from arrol.verifiers.comparison import equality
from arrol.verifiers.extraction import DEFAULT_MARKS, Found
from arrol.verifiers.gold import Gold, can_be_paired, read_gold, split_parts
from arrol.verifiers.process import AnsweringProcess
from arrol.verifiers.rules import Judged, judged, judged_answer
from arrol.verifiers.spelling import tidied

START_LIMIT_S = 60.0
"""Time for a worker to import sympy on a busy machine; not part of a verdict's time limit."""
MAX_REMEMBERED = 4096
"""Questions to algebra whose replies are kept."""
TIMED_OUT, DIED = "out of time", "its worker process died twice"
"""Why a question stays open: ``Verdict.reason`` beside ``timed_out``."""
MATH_VERIFY = "math-verify"
"""``Verdict.verifier`` of verdicts by algebra."""


class SymbolicVerifier:
    """Right when math-verify takes the text's final expression for the gold answer.

    Any number of verifiers may exist; each owns at most one worker, which ends with :meth:`close`, with the verifier,
    or with the interpreter. Calls from several threads wait for each other.
    """

    def __init__(self, marks: Sequence[str] = DEFAULT_MARKS, *, time_limit_s: float = 5.0) -> None:
        if not 0 < time_limit_s < float("inf"):
            raise ConfigError(f"time_limit_s: {time_limit_s} must be a finite number of seconds above 0")
        if isinstance(marks, str) or not all(marks):
            raise ConfigError(f"marks: {marks!r} must be a list of texts that are not empty, such as ['####']")
        self.marks = tuple(marks)
        self.time_limit_s = time_limit_s
        self._worker: _Worker | None = None
        self._lock = threading.Lock()
        self._remembered: dict[tuple[str, str, float], tuple[bool, str]] = {}
        self._failed: set[tuple[str, str, float]] = set()
        self._ended = ""

    def copy(self) -> Self:
        """Another verifier with these settings and a worker of its own; both remember the replies of either."""
        other = type(self)(self.marks, time_limit_s=self.time_limit_s)
        other._remembered, other._failed = self._remembered, self._failed
        return other

    def start(self) -> None:
        """Start the worker now; MissingExtraError where it cannot. Otherwise the first question does."""
        with self._lock:
            if self._worker is None:
                self._worker = _Worker(self.time_limit_s)

    @property
    def worker_pid(self) -> int | None:
        """Process id of the worker; None while there is none."""
        worker = self._worker  # another thread may end it meanwhile
        return None if worker is None else worker.process.pid

    def verify(self, text: str, answer: str) -> Verdict:
        return self.settled(self.decided(text, answer), answer)

    def decided(self, text: str, answer: str) -> Judged:
        """The verdict as far as it needs no algebra: no worker, no waiting, from any thread."""
        return judged(text, answer, self.marks)

    def settled(self, judged: Judged, answer: str) -> Verdict:
        """The verdict, by algebra where the rules leave it open."""
        return self._asked_of_algebra(judged.verdict, answer) if judged.is_open else judged.verdict

    def same(self, found: str, answer: str) -> Verdict:
        """The verdict on an answer that is extracted already."""
        if not found.strip():
            return Verdict(reward=0.0, answer=None)
        return self.settled(judged_answer(Found(found.strip(), ""), answer), answer)

    def close(self) -> None:
        """End the worker; a later verdict would start another."""
        with self._lock:
            if self._worker is not None:
                self._worker.stop()
                self._worker = None

    def _asked_of_algebra(self, verdict: Verdict, answer: str) -> Verdict:
        found, gold = verdict.answer or "", read_gold(answer)
        if len(gold.parts) > 1:
            self.start()  # so that its start is not part of the time the parts share
        with self._lock:
            deadline = time.monotonic() + self.time_limit_s
            for part in [gold.joined] if gold.need_all else gold.parts:
                right, open_because = self._compared(found, part, deadline, gold.tolerance)
                if right or open_because:
                    break
            else:
                if gold.need_all and len(gold.parts) > 1:
                    right, open_because = self._paired(found, gold, deadline)
        reason = open_because or ("equal" if right else "not equal")
        return replace(verdict, reward=float(right), timed_out=bool(open_because), verifier=MATH_VERIFY, reason=reason)

    def _paired(self, found: str, golds: Gold, deadline: float) -> tuple[bool, str]:
        """Member by member; a pair that stays open is not the same, and ends the search."""
        open_because = ""

        def same(member: str, gold: str) -> bool:
            nonlocal open_because
            if open_because:
                return False
            right, open_because = self._compared(member, gold, deadline, golds.tolerance)
            return right

        right = can_be_paired(split_parts(found), golds.parts, same)
        return right, "" if right else open_because

    def _compared(self, found: str, gold: str, deadline: float, tolerance: float) -> tuple[bool, str]:
        """One answer and one part of the gold, by rules, memory or the worker: is it right, and why is that open?"""
        decided = equality(found, gold, tolerance).right
        if decided is not None:
            return decided, ""
        question = (tidied(found), tidied(gold), tolerance)
        if question not in self._remembered:
            asked: dict[str, object] = {"gold": question[1], "found": question[0], "tolerance": tolerance}
            limit_s = max(0.001, deadline - time.monotonic())
            reply = self._reply(asked, limit_s)
            if reply is None and self._ended == DIED:
                reply = self._reply(asked, limit_s)
            result = (False, self._ended) if reply is None else (reply["right"] is True, "")
            if reply is None and question not in self._failed:
                self._failed.add(question)
                return result
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
                self._failed.clear()
            self._remembered[question] = result
        return self._remembered[question]

    def _reply(self, question: dict[str, object], time_limit_s: float) -> dict[str, object] | None:
        """The worker's reply; None when it was killed or died."""
        if self._worker is None:
            self._worker = _Worker(self.time_limit_s)
        reply = self._worker.ask(json.dumps(question).encode() + b"\n", time_limit_s)
        if reply is None:
            self._ended = TIMED_OUT if self._worker.timed_out else DIED
            self._worker.stop()
            self._worker = None
        return reply


class _Worker(AnsweringProcess):
    """One process that runs ``worker.py``."""

    def __init__(self, time_limit_s: float) -> None:
        # By path, independent of the parent's import path; -P keeps our module names out of its way.
        path = str(Path(__file__).with_name("worker.py"))
        super().__init__([sys.executable, "-P", "-W", "ignore", path, str(time_limit_s)], start_limit_s=START_LIMIT_S)
        if self.hello is None or "ready" not in self.hello:
            self.stop()
            reason = "did not start" if self.hello is None else self.hello.get("missing", "gave no sign")
            raise MissingExtraError(f"math-verify: its worker process failed ({reason}); pip install math-verify")
