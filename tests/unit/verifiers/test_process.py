"""A process that answers lines: its reply, its silence, its death, and no trace of it afterwards."""

import sys

import pytest

from arrol.verifiers.process import AnsweringProcess

ECHO = """
import json, os, sys, time
print(json.dumps({"ready": True}), flush=True)
for line in sys.stdin:
    word = line.strip()
    if word == "die":
        os._exit(1)
    if word == "wait":
        time.sleep(60)
    print("no json" if word == "nonsense" else "[1]" if word == "list" else json.dumps({"word": word}), flush=True)
"""


@pytest.fixture
def start():
    started = []

    def make(code=ECHO, **options):
        started.append(AnsweringProcess([sys.executable, "-c", code], start_limit_s=30, **options))
        return started[-1]

    yield make
    for process in started:
        process.stop()


def test_hello_and_replies(start):
    process = start()
    assert process.hello == {"ready": True}
    assert process.ask(b"a\n", 30) == {"word": "a"}
    assert process.ask(b"b" * 300_000 + b"\n", 30) == {"word": "b" * 300_000}


@pytest.mark.parametrize(("word", "timed_out"), [(b"die\n", False), (b"wait\n", True), (b"nonsense\n", False)])
def test_no_reply_and_why(start, word, timed_out):
    process = start()
    assert process.ask(word, 0.3 if timed_out else 30) is None
    assert process.timed_out == timed_out


def test_a_reply_that_is_no_object_is_none(start):
    assert start().ask(b"list\n", 30) is None


def test_a_process_that_says_nothing_has_no_hello_and_takes_no_question(start):
    process = start("")
    assert process.hello is None
    process.process.wait()
    assert process.ask(b"a\n", 5) is None


@pytest.mark.parametrize("owns_group", [False, True])
def test_stopping_reaps_it_and_closes_its_pipes(start, owns_group):
    process = start(owns_group=owns_group)
    process.stop()
    assert process.process.returncode is not None
    assert process.process.stdin.closed
    assert process.process.stdout.closed
    process.stop()
