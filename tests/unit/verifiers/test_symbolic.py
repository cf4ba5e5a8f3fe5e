"""math-verify behind a pipe: what is extracted, what is equal, and what hostile text costs."""

import gc
import os
import random
import subprocess
import sys

import pytest

from arrol.errors import ConfigError, MissingExtraError
from arrol.verifiers import symbolic
from arrol.verifiers.symbolic import MAX_CHARS, Found, SymbolicVerifier, boxed_content, final_expression


@pytest.fixture(scope="module")
def verifier():
    verifier = SymbolicVerifier(time_limit_s=3.0)
    yield verifier
    verifier.close()


def is_gone(pid):
    """True when no such process is left, not even as a zombie."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_where_the_answer_stands():
    assert boxed_content(r"\boxed{1} then \boxed{\frac{1}{2}} .") == r"\frac{1}{2}"
    assert boxed_content(r"\boxed{1} then \boxed{2") is None
    assert boxed_content(r"\boxed{" + "1" * (MAX_CHARS + 1) + "}") is None
    assert final_expression(r"#### 3 and \boxed{4}") == Found("4", boxed=True)
    assert final_expression("#### 3\n#### **$4$**.\nbye") == Found("4", boxed=True)
    assert final_expression("Answer: x+1") == Found("x+1", boxed=True)
    assert final_expression("so it is 3/4.") == Found("so it is 3/4.", boxed=False)
    assert final_expression(r"5 \boxed{") is None
    assert final_expression("#### \n") is None
    assert final_expression("#### " + "1+" * MAX_CHARS) is None
    assert final_expression("   ") is None


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
    verifier = SymbolicVerifier(time_limit_s=0.5)
    assert verifier.verify(r"\boxed{1.0}", "1").reward == 1.0
    pid = verifier._worker.process.pid
    verdict = verifier.verify(r"\boxed{2^{1000000000}}", "1")
    assert (verdict.reward, verdict.timed_out) == (0.0, True)
    assert is_gone(pid)
    verdict = verifier.verify(r"\boxed{1.00}", "1")
    assert (verdict.reward, verdict.timed_out) == (1.0, False)
    verifier.close()


def test_a_worker_that_died_costs_one_verdict(verifier):
    assert verifier.verify(r"\boxed{1.0}", "1").reward == 1.0
    verifier._worker.process.kill()
    verifier._worker.process.wait()
    verdict = verifier.verify(r"\boxed{1.0}", "1")
    assert (verdict.reward, verdict.timed_out) == (0.0, False)
    assert verifier.verify(r"\boxed{1.0}", "1").reward == 1.0


def test_workers_end_with_close_and_with_their_verifier():
    closed, dropped = SymbolicVerifier(), SymbolicVerifier()
    for verifier in (closed, dropped):
        assert verifier.verify(r"\boxed{1.0}", "1").reward == 1.0
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
        "print(v.verify(r'\\boxed{1.0}', '1').reward, v._worker.process.pid)\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    reward, pid = done.stdout.split()
    assert (reward, done.stderr) == ("1.0", "")
    assert is_gone(int(pid))


def test_a_worker_that_cannot_start_is_a_missing_package(monkeypatch):
    monkeypatch.setattr(symbolic.sys, "executable", "/bin/false")
    with pytest.raises(MissingExtraError, match="math-verify"):
        SymbolicVerifier().verify(r"\boxed{1.0}", "1")


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
