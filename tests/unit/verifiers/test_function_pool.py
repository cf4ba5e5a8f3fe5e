"""A hang or a killed worker costs that completion alone, and nothing is left behind."""

import os
import sys
import time
from datetime import date
from pathlib import Path

import pytest

from arrol.errors import ConfigError, DataError
from arrol.verifiers.function_pool import FunctionPool
from arrol.verifiers.functions import Failure, Submission, load_functions
from unit.verifiers import reward_module


@pytest.fixture
def pool_of(tmp_path, monkeypatch):
    """Pools of functions of the module; closed afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    folder, pools = reward_module.write(tmp_path, "pooled"), []

    def make(*names, limit=30.0, num_workers=1):
        functions = load_functions([f"pooled:{name}" for name in names], folder=folder)
        pools.append(FunctionPool(functions, limit, folder, num_workers=num_workers))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()
    del sys.modules["pooled"]


def submission(text, key="k", **cells):
    return Submission(key, {"prompt": "q", "gold": "4", **cells}, text, (1,) * len(text))


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split(")")[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(what, seconds=20.0):
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_values_of_every_function_in_order(pool_of):
    pool = pool_of("right", "length", "later", num_workers=2)
    pending = [pool.submit(submission(text, when=date(2024, 5, 6))) for text in ("4", "55", "")]
    assert [wait() for wait in pending] == [[1.0, -1.0, 1.0], [0.0, -2.0, 2.0], [0.0, 0.0, 0.0]]
    assert len(pool.worker_pids()) in (1, 2)


def test_an_error_and_no_opinion_come_back_as_such(pool_of):
    pool = pool_of("picky", "right")
    ((failure, not_asked),) = [pool.submit(submission("x"))()]
    assert failure.reason.startswith("ValueError: an x in the text, pooled.py line ")
    assert not_asked is None
    assert pool.submit(submission(""))() == [None, 0.0]


def test_a_hang_and_a_killed_worker_cost_that_completion_alone(pool_of):
    pool = pool_of("moody", limit=1.5)
    pool.submit(submission("start"))()
    texts = ("a", "hang", "b", "die", "c", "exit")
    found = [pending() for pending in [pool.submit(submission(text)) for text in texts]]
    assert [found[place] for place in (0, 2, 4)] == [[1.0]] * 3, "what they print is no reply"
    assert found[1] == [Failure("took longer than task.reward_time_limit_s = 1.5")]
    assert found[3] == [Failure("its worker process died")]
    assert found[5][0].reason.startswith("SystemExit: bye")


def children():
    """Process ids of all ``sleep 61``, which the module starts."""
    lines = {path: path.joinpath("cmdline") for path in Path("/proc").glob("[0-9]*")}
    found = []
    for path, line in lines.items():
        try:
            if line.read_bytes() == b"sleep\x0061\x00":
                found.append(int(path.name))
        except OSError:
            continue
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_the_processes_that_a_hanging_function_started_end_with_it(pool_of):
    pool = pool_of("moody", limit=1.0)
    assert pool.submit(submission("child"))() == [Failure("took longer than task.reward_time_limit_s = 1")]
    wait_for(lambda: not children())


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_closing_ends_what_workers_are_at_and_a_later_call_starts_others(pool_of):
    pool = pool_of("moody", num_workers=2)
    pool.submit(submission("a"))()
    pids, started = pool.worker_pids(), time.monotonic()
    pending = pool.submit(submission("hang"))
    wait_for(lambda: not pool.worker_pids())
    pool.close()
    assert time.monotonic() - started < 25
    assert pending() == [Failure("its worker process died")]
    assert not any(map(is_alive, pids))
    assert pool.submit(submission("a"))() == [1.0]


def test_what_is_no_list_ends_the_run_also_from_a_worker(pool_of, tmp_path):
    (tmp_path / "pooled.py").write_text("def f(completions, **columns): return 3", "utf-8")
    sys.modules.pop("pooled", None)
    with pytest.raises(DataError, match=r"task.reward = 'pooled:f': returned 3, no list"):
        pool_of("f").submit(submission("a"))()


def test_a_module_that_fails_in_a_worker_only_says_so(pool_of, tmp_path):
    pool = pool_of("right")
    (tmp_path / "pooled.py").write_text("raise OSError('only here')", "utf-8")
    with pytest.raises(ConfigError, match=r"no worker process started \(.*OSError: only here.*\); mend the module"):
        pool.submit(submission("a"))()


def test_several_completions_may_be_sent_in_one_call(pool_of):
    pool = pool_of("picky")
    found = pool.values(0, [submission("a"), submission("x")])
    assert found[0] == 1.0
    assert isinstance(found[1], Failure)
    assert os.getpid() not in pool.worker_pids()
