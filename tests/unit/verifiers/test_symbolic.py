"""math-verify behind a pipe: what is extracted, what is equal, and what hostile text costs."""

import gc
import os
import random
import signal
import subprocess
import sys
import time

import pytest

from arrol.errors import ConfigError, MissingExtraError
from arrol.types import Verdict
from arrol.verifiers import symbolic
from arrol.verifiers.extraction import MAX_CHARS
from arrol.verifiers.gold import with_tolerance
from arrol.verifiers.rules import Judged
from arrol.verifiers.symbolic import SymbolicVerifier


@pytest.fixture(scope="module")
def verifier():
    verifier = SymbolicVerifier(time_limit_s=3.0)
    yield verifier
    verifier.close()


BOMB = r"\boxed{\sum_{k=1}^{10^9} k^k}"


def is_gone(pid):
    """True when no such process is left, not even as a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{\frac{3}{4}}", "0.75"),
        (r"\boxed{0.5}", r"\frac{1}{2}"),
        (r"\boxed{2^{1/2}}", r"\sqrt{2}"),
        (r"\boxed{12\text{ cm}}", "12"),
        (r"\boxed{11,10}", "10,11"),
        (r"\boxed{x+1}", "1+x"),
        (r"\boxed{027}", "27.0"),
        ("#### 1,080", "1080"),
        ("#### $1,080", "1080"),
        ("so it must be 3/4", "0.75"),
        ("the total is 2125 dollars", "2125"),
    ],
)
def test_equal_answers_are_right(verifier, text, answer):
    verdict = verifier.verify(text, answer)
    assert (verdict.reward, verdict.timed_out) == (1.0, False)
    assert verdict.answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        (r"\boxed{3}", "4"),
        (r"\boxed{x}", "y"),
        ("#### 1081", "1080"),
        ("2125 or 2126", "2125"),
        ("no idea", "1"),
        ("", "1"),
    ]
    + [("\\boxed{\u0663}", "3"), ("#### \uff13", "3"), ("\\boxed{3} \\boxed{4", "3")],
)
def test_other_answers_are_wrong(verifier, text, answer):
    assert verifier.verify(text, answer).reward == 0.0


def test_an_answer_spelled_like_the_gold_one_starts_no_worker(monkeypatch):
    monkeypatch.setattr(symbolic, "_Worker", None)
    assert SymbolicVerifier().verify(r"\boxed{(-\infty, 2]}", r"(-\infty, 2]").reward == 1.0


@pytest.mark.parametrize(
    "hostile",
    [
        r"\boxed{9**9**9**9}",
        "9**9**9**9",
        r"\boxed{" + r"\frac{" * 100_000 + "1" + "}" * 100_001,
        r"\boxed{" + r"\frac{1}{" * 20 + "1" + "}" * 21,
        r"\boxed{" + "(" * 200 + "1" + ")" * 200 + "}",
        "(" * 400 + "1",
        r"\boxed{" * 100_000,
        "{" * 1_000_000,
        "1+" * 500_000,
        "$" * 1_000_000,
        "\u0664" * 1_000_000,
        "\\" * 1_000_000,
        r"\boxed{__import__('os').system('true')}",
        "\ud800 \\boxed{\ud800}",
        "\x00\\boxed{\x00}",
    ],
)
def test_hostile_texts_are_wrong(verifier, hostile):
    assert verifier.verify(hostile, "7").reward == 0.0


def test_a_computation_without_end_is_killed_at_the_time_limit_and_the_next_verdict_is_right():
    verifier = SymbolicVerifier(time_limit_s=1.5)
    assert verifier.verify(r"\boxed{3}", r"\max(3, 1)").reward == 1.0
    pid = verifier._worker.process.pid
    verdict = verifier.verify(BOMB, "1")
    assert (verdict.reward, verdict.timed_out) == (0.0, True)
    assert is_gone(pid)
    verdict = verifier.verify(r"\boxed{4}", r"\max(4, 1)")
    assert (verdict.reward, verdict.timed_out) == (1.0, False)
    verifier.close()


def test_a_worker_that_died_costs_no_verdict(verifier):
    """Killed from outside, as by a system short of memory."""
    assert verifier.verify(r"\boxed{2}", r"\max(2, 1)").reward == 1.0
    verifier._worker.process.kill()
    verifier._worker.process.wait()
    verdict = verifier.verify(r"\boxed{5}", r"\max(5, 1)")
    assert (verdict.reward, verdict.timed_out, verdict.reason) == (1.0, False, "equal")


def test_workers_end_with_close_and_with_their_verifier():
    closed, dropped = SymbolicVerifier(), SymbolicVerifier()
    for verifier in (closed, dropped):
        verifier.start()
    pids = [closed._worker.process.pid, dropped._worker.process.pid]
    closed.close()
    closed.close()
    del dropped, verifier
    gc.collect()
    assert all(is_gone(pid) for pid in pids)
    for _ in range(50):
        SymbolicVerifier().close()


def test_the_worker_ends_with_the_interpreter():
    code = (
        "from arrol.verifiers.symbolic import SymbolicVerifier\n"
        "v = SymbolicVerifier()\n"
        "v.start()\n"
        "print(v.verify(r'\\boxed{1+x}', 'x+1').reward, v._worker.process.pid)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    reward, pid = done.stdout.split()
    assert (reward, done.stderr) == ("1.0", "")
    assert is_gone(int(pid))


def test_a_worker_that_cannot_start_is_a_missing_package(monkeypatch):
    monkeypatch.setattr(symbolic.sys, "executable", "/bin/false")
    with pytest.raises(MissingExtraError, match="math-verify"):
        SymbolicVerifier().verify(r"\boxed{3}", r"\max(3, 1)")


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="time_limit_s: 0"):
        SymbolicVerifier(time_limit_s=0)
    with pytest.raises(ConfigError, match="marks"):
        SymbolicVerifier("####")


def test_fuzzed_latex_never_crashes(verifier):
    draw = random.Random(2)
    pieces = [
        "\\frac",
        "{",
        "}",
        "1",
        "x",
        "^",
        "_",
        "\\sqrt",
        "(",
        ")",
        "\\",
        "$",
        "&",
        ",",
        "-",
        "\\left",
        "\\text",
        "\n",
        "%",
    ]
    for _ in range(60):
        body = "".join(draw.choice(pieces) for _ in range(draw.randrange(1, 30)))
        assert verifier.verify("\\boxed{" + body + "}", "7").reward in (0.0, 1.0)


@pytest.mark.parametrize(
    ("text", "gold", "reward"),
    [
        (r"\boxed{3, 2}", '{"all_of": ["2", "3"]}', 1.0),
        (r"\boxed{2 \text{ and } 3}", '{"all_of": ["2", "3"]}', 1.0),
        (r"\boxed{2}", '{"all_of": ["2", "3"]}', 0.0),
        (r"\boxed{2, 3, 4}", '{"all_of": ["2", "3"]}', 0.0),
        (r"\boxed{2, 2}", '{"all_of": ["2", "3"]}', 0.0),
        (r"\boxed{y = -x, y = 2x}", '{"all_of": ["y=2x", "y=-x"]}', 1.0),
        (r"\boxed{(0,1), (3,2)}", '{"all_of": ["(3,2)", "(0,1)"]}', 1.0),
        (r"\boxed{2,000 \text{ and } 1,000}", '{"all_of": ["1,000", "2,000"]}', 1.0),
        ("so they are 3, 2", '{"all_of": ["2", "3"]}', 1.0),
        (r"\boxed{0.5}", '{"any_of": ["1/2", "2"]}', 1.0),
        (r"\boxed{2.0}", '{"any_of": ["1/2", "2"]}', 1.0),
        (r"\boxed{1/2, 2}", '{"any_of": ["1/2", "2"]}', 0.0),
        (r"\boxed{(B)}", "B", 1.0),
        (r"\boxed{\text{(B)}}", "(B)", 1.0),
        (r"\boxed{C}", "B", 0.0),
        (r"\boxed{[0, 1)}", r"0 \le x < 1", 1.0),
        (r"\boxed{(0, 1)}", "[0, 1)", 0.0),
        (r"\boxed{5\text{ cm}}", "5", 1.0),
        (r"\boxed{5}", "5 cm", 1.0),
        (r"\boxed{1\,000}", "1000", 1.0),
    ],
)
def test_lists_letters_intervals_and_units(verifier, text, gold, reward):
    assert verifier.verify(text, gold).reward == reward


def test_a_member_that_runs_out_of_time_ends_the_search(monkeypatch):
    asked, deadlines = [], set()

    def compared(found, gold, deadline, tolerance):
        asked.append(gold)
        deadlines.add(deadline)
        return False, "out of time" if gold == "b" else ""

    verifier = SymbolicVerifier()
    monkeypatch.setattr(verifier, "_compared", compared)
    verdict = verifier.settled(Judged(Verdict(0.0, "x, y, z"), is_open=True), '{"all_of": ["a", "b", "c"]}')
    assert (verdict.reward, verdict.timed_out) == (0.0, True)
    assert asked == ["a, b, c", "a", "b"]
    assert len(deadlines) == 1


def test_a_list_of_bombs_costs_one_time_limit():
    verifier = SymbolicVerifier(time_limit_s=1.5)
    golds = ", ".join(f'"{n}"' for n in range(2, 8))
    found = ", ".join(rf"\sum_{{k={n}}}^{{10^9}} k^k" for n in range(2, 8))
    started = time.monotonic()
    verdict = verifier.verify(rf"\boxed{{{found}}}", f'{{"all_of": [{golds}]}}')
    assert (verdict.reward, verdict.timed_out) == (0.0, True)
    assert time.monotonic() - started < 20  # far below a time limit for each of the 36 pairs and a start for each
    verifier.close()


def test_a_question_that_kills_the_worker_is_asked_twice_and_then_never_again(monkeypatch):
    verifier, asked = SymbolicVerifier(time_limit_s=1.5), []
    reply = verifier._reply
    monkeypatch.setattr(verifier, "_reply", lambda *question: asked.append(question) or reply(*question))
    verdicts = [verifier.verify(BOMB, "1") for _ in range(4)]
    assert [verdict.timed_out for verdict in verdicts] == [True] * 4
    assert len(asked) == 2
    assert [verifier.verify(r"\boxed{3}", r"\max(3, 1)").reward for _ in range(4)] == [1.0] * 4
    assert len(asked) == 3
    verifier.close()


def test_a_question_whose_workers_die_twice_is_open_and_says_so(monkeypatch):
    verifier = SymbolicVerifier(time_limit_s=30.0)

    class Dying(symbolic._Worker):
        def ask(self, question, time_limit_s):
            os.kill(self.process.pid, signal.SIGKILL)
            return super().ask(question, time_limit_s)

    with monkeypatch.context() as patch:
        patch.setattr(symbolic, "_Worker", Dying)
        verdict = verifier.verify(r"\boxed{3}", r"\max(3, 1)")
    assert (verdict.reward, verdict.timed_out, verdict.reason) == (0.0, True, "its worker process died twice")
    assert verifier.verify(r"\boxed{3}", r"\max(3, 1)").reward == 1.0, "asked once more when it comes again"
    verifier.close()


def test_what_is_remembered_is_bounded(monkeypatch):
    monkeypatch.setattr(symbolic, "MAX_REMEMBERED", 3)
    verifier = SymbolicVerifier()
    assert all(verifier.verify(rf"\boxed{{{n}}}", rf"\max({n}, 0)").reward == 1.0 for n in range(1, 8))
    assert len(verifier._remembered) <= 3
    verifier.close()


def test_rules_settle_what_needs_no_algebra_without_a_worker(monkeypatch):
    monkeypatch.setattr(symbolic, "_Worker", None)
    verdict = SymbolicVerifier().verify(r"so \boxed{\frac{2\sqrt{3}}{2}}", r"\sqrt{3}")
    assert (verdict.is_right, verdict.mark, verdict.verifier) == (True, "box", "rules")
    assert SymbolicVerifier().decided(r"\boxed{3}", r"\max(3, 1)").is_open


def test_an_answer_extracted_before_is_judged_like_a_boxed_one(verifier):
    assert verifier.same(" 1/2 ", "0.5").reward == 1.0
    assert verifier.same("x+1", "1+x").reward == 1.0
    for unreadable in ("", "  ", "1+" * MAX_CHARS, "(" * 40 + "1" + ")" * 40, "\u0663"):
        assert verifier.same(unreadable, "3").reward == 0.0


def test_a_copy_has_the_settings_and_a_worker_of_its_own(verifier):
    copy = SymbolicVerifier(("=>",), time_limit_s=2.0).copy()
    assert (copy.marks, copy.time_limit_s, copy._worker) == (("=>",), 2.0, None)


def test_copies_ask_algebra_once(monkeypatch):
    first, asked = SymbolicVerifier(), []
    second = first.copy()
    for one in (first, second):
        monkeypatch.setattr(one, "_reply", lambda question, limit: asked.append(question["found"]) or {"right": True})
    assert [one.same(r"\int_0^1 x dx", "1/3").reward for one in (first, second)] == [1.0, 1.0]
    assert len(asked) == 1


def test_a_tolerance_holds_where_algebra_decides():
    verifier, gold = SymbolicVerifier(time_limit_s=60.0), with_tolerance("3.14", 0.02)
    near, far = (verifier.verify(rf"\boxed{{\sum_{{k=1}}^3 {term}}}", gold) for term in ("1.05", "1.06"))
    verifier.close()
    assert (near.is_right, near.verifier, far.is_right, far.verifier) == (True, "math-verify", False, "math-verify")
