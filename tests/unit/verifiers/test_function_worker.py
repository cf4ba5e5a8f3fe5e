"""One pickled question in, one JSON line out; it ends with its input and with its parent."""

import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from arrol.verifiers import function_worker
from unit.verifiers import reward_module

COMMAND = [sys.executable, "-m", "arrol.verifiers.function_worker"]


def question(*texts, place=0):
    asked = [("k", {"prompt": "q", "gold": "4"}, text, (1, 2)) for text in texts]
    return pickle.dumps({"place": place, "asked": asked})


def replies(folder, *questions, names=("right", "later")):
    paths = [f"rewards_of_tests:{name}" for name in names]
    done = subprocess.run(
        [*COMMAND, folder, *paths], input=b"".join(questions), capture_output=True, check=True, start_new_session=True
    )
    return [json.loads(line) for line in done.stdout.splitlines()], done.stderr.decode()


def test_questions_are_answered_until_they_end(tmp_path):
    folder = reward_module.write(tmp_path)
    found, _ = replies(folder, question("4", "5"), question("abc", place=1))
    assert found == [{"ready": True}, {"values": [1.0, 0.0]}, {"values": [3.0]}]


def test_errors_and_what_is_no_list_are_told_apart_and_prints_go_to_stderr(tmp_path):
    text = reward_module.SOURCE + "\ndef three(completions, **columns):\n    print('noise')\n    return 3\n"
    folder = reward_module.write(tmp_path, text=text)
    found, told = replies(folder, question("x", "a"), question("a", place=1), names=("picky", "three"))
    assert found[1]["values"][1] == 1.0
    assert found[1]["values"][0]["failure"].startswith("ValueError: an x in the text")
    assert found[2]["malformed"].startswith("task.reward = 'rewards_of_tests:three': returned 3, no list")
    assert "noise" in told


def test_an_import_that_fails_is_the_first_line(tmp_path):
    (found,), _ = replies(str(tmp_path))
    assert found["error"].startswith("task.reward = 'rewards_of_tests:right': no module 'rewards_of_tests' in ")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_it_ends_when_its_parent_is_gone_although_a_function_hangs(tmp_path):
    folder = reward_module.write(tmp_path)
    words = [*COMMAND, folder, "rewards_of_tests:moody"]
    code = f"""
import subprocess, sys, time
worker = subprocess.Popen({words!r}, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, start_new_session=True)
worker.stdout.readline()
worker.stdin.write({question("hang")!r})
worker.stdin.flush()
print(worker.pid, flush=True)
time.sleep(60)
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    end = time.monotonic() + 20

    def lives():
        try:
            return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
        except OSError:
            return False

    while lives():
        assert time.monotonic() < end, "the worker outlived its parent"
        time.sleep(0.05)


def test_the_watch_looks_often_enough_for_an_orphan_to_end_soon():
    assert function_worker.LOOK_EVERY_S <= 2
