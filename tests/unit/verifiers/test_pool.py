"""Many answers at once: order, progress, a hang that costs one answer, and ends that leave nothing behind."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from arrol.errors import ConfigError, DataError
from arrol.types import Verdict
from arrol.verifiers import pool as module
from arrol.verifiers.integer import IntegerVerifier
from arrol.verifiers.pool import BLOCK, VerifierPool
from arrol.verifiers.rules import Judged
from arrol.verifiers.symbolic import SymbolicVerifier


def test_integers_are_verified_in_order_by_one_verifier():
    told = []
    with VerifierPool(IntegerVerifier(), num_workers=4) as pool:
        assert pool.num_workers == 1
        pairs = [(f"so\n#### {n}", str(n - n % 2)) for n in range(3 * BLOCK + 1)]
        verdicts = pool.verify_all(pairs, lambda *progress: told.append((*progress, threading.current_thread())))
    assert [v.reward for v in verdicts] == [float(n % 2 == 0) for n in range(len(pairs))]
    assert [v.answer for v in verdicts] == [str(n) for n in range(len(pairs))]
    assert told[-1][:2] == (len(pairs), len(pairs))
    assert [done for done, *_ in told] == sorted(done for done, *_ in told)
    assert {thread for *_, thread in told} == {threading.main_thread()}


def test_symbolic_verdicts_are_those_of_one_verifier_in_the_same_order():
    pairs = [(rf"\boxed{{{n}}}", rf"\sum_{{k=1}}^{{2}} (k+{n // 2})") for n in range(12)]
    pairs += [("no idea", "1"), (r"\boxed{2,3}", '{"all_of": ["3", "2"]}')]
    single = SymbolicVerifier()
    with VerifierPool(SymbolicVerifier(), num_workers=2) as pool:
        assert pool.num_workers == 2
        assert pool.verify_all(pairs) == [single.verify(*pair) for pair in pairs]
        workers = [verifier._worker for verifier in (pool.verifier, *pool._copies)]
    single.close()
    assert all(worker is not None and worker.process.poll() is not None for worker in workers)


def test_an_equal_completion_and_gold_answer_are_judged_once():
    asked = []

    class Counting(SymbolicVerifier):
        def decided(self, text, answer):
            asked.append((text, answer))
            return super().decided(text, answer)

    pairs = [("#### 3", "3"), ("#### 3", "4"), ("#### 3", "3")]
    with VerifierPool(Counting(), num_workers=1) as pool:
        assert [verdict.reward for verdict in pool.verify_all(pairs)] == [1.0, 0.0, 1.0]
    assert asked == pairs[:2]


def test_a_hang_costs_that_answer_alone():
    pairs = [(rf"\boxed{{{n}}}", rf"\max({n}, 0)") for n in range(20)]
    pairs[7] = (r"\boxed{\sum_{k=1}^{10^9} k^k}", "1")
    with VerifierPool(SymbolicVerifier(time_limit_s=1.0), num_workers=2) as pool:
        verdicts = pool.verify_all(pairs)
    assert [v.timed_out for v in verdicts] == [n == 7 for n in range(20)]
    assert [v.reward for v in verdicts] == [float(n != 7) for n in range(20)]


def test_submitted_verdicts_run_in_other_threads_and_wait_for_nothing_but_themselves():
    started, release = threading.Semaphore(0), threading.Event()

    class Slow(SymbolicVerifier):
        def decided(self, text, answer):
            return Judged(Verdict(0.0, text), is_open=True)

        def settled(self, judged, answer):
            text = judged.verdict.answer
            started.release()
            assert threading.current_thread() is not threading.main_thread()
            assert text != "slow" or release.wait(60)
            if text == "bad":
                raise DataError("answer: 'x' is not an integer")
            return Verdict(float(text == answer), text)

    with VerifierPool(Slow(), num_workers=2) as pool:
        slow = pool.submit("slow", "slow")
        others = [pool.submit(str(n), "3") for n in range(6)]
        bad = pool.submit("bad", "")
        assert all(started.acquire(timeout=60) for _ in range(8)), "the other worker goes on"
        assert [verdict().reward for verdict in others] == [0, 0, 0, 1, 0, 0]
        release.set()
        assert slow() == Verdict(1.0, "slow")
        with pytest.raises(DataError, match="not an integer"):
            bad()


def test_a_verdict_that_needs_no_worker_is_given_in_this_thread():
    threads = []

    class Cheap(IntegerVerifier):
        def verify(self, text, answer):
            threads.append(threading.current_thread())
            return super().verify(text, answer)

    pool = VerifierPool(Cheap())
    pending = pool.submit("#### 7", "7")
    assert threads == [threading.main_thread()]
    assert pending().reward == 1.0
    assert len(threads) == 1


def test_a_closed_pool_starts_again():
    pool = VerifierPool(SymbolicVerifier(), num_workers=1)
    for _ in range(2):
        assert pool.submit(r"\boxed{3}", r"\max(3, 2)")().reward == 1.0
        pool.close()
        assert pool.worker_pids() == []


def test_classes_of_many_problems():
    problems = [["x+1", "1+x", None], ["0.5", "1/2"], [], ["y"]]
    with VerifierPool(SymbolicVerifier(), num_workers=1) as pool:
        assert [c.ids_N for c in pool.classes_of_all(problems)] == [[0, 0, -1], [0, 0], [], [0]]
    with VerifierPool(IntegerVerifier()) as pool:
        assert [c.ids_N for c in pool.classes_of_all(problems)] == [[0, 0, -1], [0, 0], [], [0]]


def test_an_error_ends_the_work_and_reaches_the_caller():
    calls = []

    class Refusing:
        def verify(self, text, answer):
            calls.append(text)
            if text == "3":
                raise DataError("answer: 'x' is not an integer")
            return None

    pool = VerifierPool(Refusing())
    with pytest.raises(DataError, match="not an integer"):
        pool.verify_all([(str(n), "x") for n in range(10 * BLOCK)])
    assert len(calls) < 10 * BLOCK


def test_a_caller_that_gives_up_is_obeyed():
    def progress(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        VerifierPool(IntegerVerifier()).verify_all([("#### 1", "1")] * 5, progress)


def test_nothing_to_do():
    told = []
    assert VerifierPool(IntegerVerifier()).verify_all([], lambda *p: told.append(p)) == []
    assert told == []


def test_settings_are_checked():
    with pytest.raises(ConfigError, match="num_workers: -1 is negative"):
        VerifierPool(IntegerVerifier(), num_workers=-1)


def test_many_first_callers_share_one_set_of_threads(monkeypatch):
    """Each would start its own, with as many threads as workers, and wait for the others'."""
    made, all_here = [], threading.Barrier(8)

    def slow(*sizes):
        made.append(ThreadPoolExecutor(*sizes))
        time.sleep(0.05)
        return made[-1]

    monkeypatch.setattr(module, "ThreadPoolExecutor", slow)
    with VerifierPool(IntegerVerifier(), num_workers=1) as pool, ThreadPoolExecutor(8) as callers:
        rewards = list(callers.map(lambda n: all_here.wait() >= 0 and pool.verify_all([(f"#### {n}", "3")]), range(8)))
    assert [verdict.reward for (verdict,) in rewards] == [float(n == 3) for n in range(8)]
    assert len(made) == 1
