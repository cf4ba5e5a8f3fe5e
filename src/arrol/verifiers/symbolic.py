r"""Mathematical answers, compared by math-verify in a process of its own.

Sample: ``"... so \boxed{\frac{3}{4}}"`` is right for the gold answer ``0.75``.

The answer of a text is the last ``\boxed{...}``, else the line behind the last mark (``####``, ``Answer:``), else the
last expression of the text's tail. An answer that is found and cannot be read is wrong; nothing earlier is tried.

The cost of a text is bounded: at most :data:`MAX_CHARS` of it reach the worker, brackets nest at most
:data:`MAX_DEPTH` deep, and the worker is killed at ``time_limit_s``; the next verdict starts a new one. All parts of a
gold answer (``gold.py``) share one time limit.

The worker is not asked about the spelling of the gold answer, two choice letters, two plain numbers (``canonical.py``)
that are equal or not near, and recent questions. A question that killed the worker is asked once more, since the
machine may have been busy, and then never again. Beyond math-verify, ``1\,000`` is 1000.
"""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Self

from arrol.errors import ConfigError, MissingExtraError
from arrol.types import Verdict
from arrol.verifiers.canonical import answer_key, are_near
from arrol.verifiers.gold import can_be_paired, read_gold, split_parts

MAX_CHARS = 500
"""Longer answers are wrong; of a text without a box or mark, the tail that is searched."""
MAX_DEPTH = 24
"""Nested brackets of any kind."""
START_LIMIT_S = 60.0
"""Time for a worker to import sympy on a busy machine; not part of a verdict's time limit."""
DEFAULT_MARKS = ("####", "Answer:")
MAX_REMEMBERED = 4096
"""Questions whose verdicts are kept."""


class Found(NamedTuple):
    """A candidate answer in a text."""

    text: str
    boxed: bool
    """True when ``text`` is the answer alone, False when the worker must look for it."""


class Value(NamedTuple):
    """The value of an answer."""

    number: complex | None
    """None when the answer is not one finite number, or its value is unknown."""
    has_failed: bool = False
    """True when the computation killed the worker."""


def boxed_content(text: str) -> str | None:
    r"""Inside of the last ``\boxed{...}``; None when there is none, or it does not close in time."""
    start = text.rfind("\\boxed{")
    if start < 0:
        return None
    start += len("\\boxed{")
    depth = 1
    for offset, character in enumerate(text[start : start + MAX_CHARS + 1]):
        if character in "{}":
            depth += 1 if character == "{" else -1
            if depth == 0:
                return text[start : start + offset].strip()
    return None


def final_expression(text: str, marks: Sequence[str] = DEFAULT_MARKS) -> Found | None:
    """The answer of a text by the rules above; None when there is none."""
    if "\\boxed{" in text:
        inside = boxed_content(text)
        return Found(inside, boxed=True) if inside else None
    end = max((start + len(mark) for mark in marks if (start := text.rfind(mark)) >= 0), default=-1)
    if end >= 0:
        # One character more than allowed shows that a line is too long.
        line = text[end : end + MAX_CHARS + 1].partition("\n")[0]
        content = line.strip(" *$.\t\r") if len(line) <= MAX_CHARS else ""
        return Found(content, boxed=True) if content else None
    tail = text[-MAX_CHARS:].strip()
    return Found(tail, boxed=False) if tail else None


def is_deep(text: str) -> bool:
    """True when brackets nest deeper than :data:`MAX_DEPTH`."""
    depth = deepest = 0
    for character in text:
        depth += (character in "{[(") - (character in "}])")
        deepest = max(deepest, depth)
    return deepest > MAX_DEPTH


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
        self._remembered: dict[tuple[Found, str], Verdict] = {}
        self._failed: set[tuple[Found, str]] = set()
        self._timed_out = False

    def copy(self) -> Self:
        """Another verifier with these settings and a worker of its own."""
        return type(self)(self.marks, time_limit_s=self.time_limit_s)

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
        found = final_expression(text, self.marks)
        return Verdict(reward=0.0, answer=None) if found is None else self._verdict(found, answer)

    def same(self, found: str, answer: str) -> Verdict:
        """The verdict on an answer that is extracted already."""
        found = found.strip()
        if not found or len(found) > MAX_CHARS:
            return Verdict(reward=0.0, answer=None)
        return self._verdict(Found(found, boxed=True), answer)

    def value(self, answer: str) -> Value:
        """The value of an answer that is one number; a percentage has none, since math-verify reads it as three."""
        if len(answer) > MAX_CHARS or is_deep(answer) or _has_foreign_digit(answer) or "%" in answer:
            return Value(None)
        with self._lock:
            reply = self._reply({"value_of": answer}, self.time_limit_s)
        parts = None if reply is None else reply.get("value")
        return Value(complex(*parts) if isinstance(parts, list) else None, has_failed=reply is None)

    def close(self) -> None:
        """End the worker; a later verdict would start another."""
        with self._lock:
            if self._worker is not None:
                self._worker.stop()
                self._worker = None

    def _verdict(self, found: Found, answer: str) -> Verdict:
        if found.boxed and found.text == answer.strip():
            return Verdict(reward=1.0, answer=found.text)
        if is_deep(found.text) or (found.boxed and _has_foreign_digit(found.text)):
            return Verdict(reward=0.0, answer=found.text if found.boxed else None)
        gold = read_gold(answer)
        if len(gold.parts) > 1:
            self.start()  # so that its start is not part of the time the parts share
        with self._lock:
            deadline = time.monotonic() + self.time_limit_s
            verdict = Verdict(reward=0.0, answer=None)
            for part in [gold.joined] if gold.need_all else gold.parts:
                verdict = self._compared(found, part, deadline)
                if verdict.reward or verdict.timed_out:
                    return verdict
            if gold.need_all and len(gold.parts) > 1 and found.boxed:
                return self._paired(found, gold.parts, deadline)
        return verdict

    def _paired(self, found: Found, golds: Sequence[str], deadline: float) -> Verdict:
        """Member by member; a pair that runs out of time is not the same, and ends the search."""
        timed_out = False

        def same(member: str, gold: str) -> bool:
            nonlocal timed_out
            verdict = None if timed_out else self._compared(Found(member, boxed=True), gold, deadline)
            timed_out = timed_out or (verdict is not None and verdict.timed_out)
            return verdict is not None and verdict.reward == 1.0

        right = can_be_paired(split_parts(found.text), golds, same)
        return Verdict(reward=float(right), answer=found.text, timed_out=timed_out and not right)

    def _compared(self, found: Found, gold: str, deadline: float) -> Verdict:
        """One answer and one part of the gold: by spelling, memory or the worker."""
        decided = _decided(found.text, gold) if found.boxed else None
        if decided is not None:
            return Verdict(reward=float(decided), answer=found.text)
        question = (found, gold)
        if question not in self._remembered:
            verdict, was_answered = self._asked(found, gold, max(0.001, deadline - time.monotonic()))
            if not was_answered and question not in self._failed:
                self._failed.add(question)
                return verdict
            if len(self._remembered) >= MAX_REMEMBERED:
                self._remembered.clear()
                self._failed.clear()
            self._remembered[question] = verdict
        return self._remembered[question]

    def _asked(self, found: Found, gold: str, time_limit_s: float) -> tuple[Verdict, bool]:
        """The worker's verdict, and whether the worker survived."""
        reply = self._reply({"gold": gold, "found": found.text, "boxed": found.boxed}, time_limit_s)
        if reply is None:
            return Verdict(reward=0.0, answer=found.text if found.boxed else None, timed_out=self._timed_out), False
        spelled = found.text if found.boxed else reply.get("answer")
        return Verdict(reward=float(reply["right"] is True), answer=None if spelled is None else str(spelled)), True

    def _reply(self, question: dict[str, object], time_limit_s: float) -> dict[str, object] | None:
        """The worker's reply; None when it was killed or died."""
        if self._worker is None:
            self._worker = _Worker(self.time_limit_s)
        reply = self._worker.ask(question, time_limit_s)
        if reply is None:
            self._timed_out = self._worker.timed_out
            self._worker.stop()
            self._worker = None
        return reply


def _decided(found: str, gold: str) -> bool | None:
    """Whether two answers are the same by their spelling; None when algebra must decide."""
    one, other = answer_key(found), answer_key(gold)
    if one == other:
        return True
    if one.kind == other.kind == "letter":
        return False
    if isinstance(one.value, str) or isinstance(other.value, str) or are_near(one.value, other.value):
        return None
    return False


def _has_foreign_digit(text: str) -> bool:
    return any(character.isdecimal() and not character.isascii() for character in text)


class _Worker:
    """One process that runs ``worker.py``, and its two pipes."""

    def __init__(self, time_limit_s: float) -> None:
        # By path, independent of the parent's import path; -P keeps our module names out of its way.
        command = [sys.executable, "-P", "-W", "ignore", str(Path(__file__).with_name("worker.py")), str(time_limit_s)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0
        )
        self.timed_out = False
        self._received = b""
        # Runs when the verifier is dropped and at the interpreter's end, whichever comes first.
        self.stop = weakref.finalize(self, _end, self.process)
        hello = self._receive(START_LIMIT_S)
        if hello is None or "ready" not in hello:
            self.stop()
            reason = "did not start" if hello is None else hello.get("missing", "gave no sign")
            raise MissingExtraError(f"math-verify: its worker process failed ({reason}); pip install math-verify")

    def ask(self, question: dict[str, object], time_limit_s: float) -> dict[str, object] | None:
        """The reply, or None when the worker died or took too long; it must be stopped then."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(question).encode() + b"\n")
        except OSError:  # it died between two questions
            return None
        return self._receive(time_limit_s)

    def _receive(self, time_limit_s: float) -> dict[str, object] | None:
        assert self.process.stdout is not None
        descriptor, deadline = self.process.stdout.fileno(), time.monotonic() + time_limit_s
        with selectors.DefaultSelector() as selector:
            selector.register(descriptor, selectors.EVENT_READ)
            while b"\n" not in self._received:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    self.timed_out = True
                    return None
                block = os.read(descriptor, 65_536)
                if not block:
                    return None
                self._received += block
        line, _, self._received = self._received.partition(b"\n")
        reply: dict[str, object] = json.loads(line)
        return reply


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill and reap: no zombie, no open pipe."""
    process.kill()
    process.wait()
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            pipe.close()
