"""The worker's own line protocol, in this process and as a process."""

import json
import subprocess
import sys

from arrol.verifiers import worker


def run_worker(*lines):
    done = subprocess.run(
        [sys.executable, "-P", worker.__file__, "5"],
        input="".join(line + "\n" for line in lines),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_compare_parses_both_sides():
    assert worker.compare("1/2", r"\frac{1}{2}") == {"right": True}
    assert worker.compare("1/2", "nothing") == {"right": False}


def test_a_tolerance():
    assert worker.compare("3.14", r"\sum_{k=1}^3 1.05", 0.02) == {"right": True}
    assert worker.compare("3.14", r"\sum_{k=1}^3 1.06", 0.02) == {"right": False}
    assert worker.compare("3.14", r"x + \sum_{k=1}^3 1.05", 0.02) == {"right": False}
    assert worker.compare("3.14", r"\sum_{k=1}^3 1.05") == {"right": False}


def test_one_line_in_one_line_out_and_any_error_means_wrong():
    question = json.dumps({"gold": "1", "found": "1.0"})
    ready, right, broken, again = run_worker(question, json.dumps({"gold": "1"}), question)
    assert ready == {"ready": True}
    assert right["right"] is again["right"] is True
    assert (broken["right"], broken["error"]) == (False, "TypeError")


def test_it_ends_with_its_input():
    assert run_worker() == [{"ready": True}]
