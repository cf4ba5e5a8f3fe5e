"""A signal makes the request while it is watched for, and the handlers are put back."""

import os
import signal

import pytest

from arrol.training.stopping import Interrupted, StopRequest, ended_by_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_first_signal_asks(number):
    stop, before = StopRequest(), signal.getsignal(number)
    with stop.watched():
        assert not stop.is_made
        os.kill(os.getpid(), number)
        assert stop.is_made
    assert signal.getsignal(number) is before


def test_a_second_interrupt_ends_at_once():
    stop, before = StopRequest(), signal.getsignal(signal.SIGINT)
    with stop.watched():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def repeatable(stop, work):
    with stop.gives_up():
        work()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_work_that_can_be_repeated_ends_at_once(number):
    stop, after = StopRequest(), []

    def work():
        os.kill(os.getpid(), number)
        after.append("went on")

    with stop.watched():
        with pytest.raises(Interrupted):
            repeatable(stop, work)
        assert stop.is_made
        with pytest.raises(Interrupted):
            repeatable(stop, lambda: after.append("began"))
    assert after == []


def test_work_that_went_on_all_the_same_ends_with_the_next_signal():
    """An exception that is raised in a destructor is lost."""
    stop, after = StopRequest(), []

    def work():
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except Interrupted:
            after.append("lost")
        os.kill(os.getpid(), signal.SIGTERM)
        after.append("went on")

    with stop.watched(), pytest.raises(Interrupted):
        repeatable(stop, work)
    assert after == ["lost"]


def test_other_work_is_finished():
    stop, after = StopRequest(), []
    with stop.watched():
        with stop.gives_up():
            pass
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        after.append("went on")
    assert after == ["went on"]


def test_a_command_without_a_state_to_save_ends_as_at_ctrl_c():
    before = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)]
    with ended_by_signals():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL, "a second one ends the process"
    assert [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)] == before


def test_a_run_inside_such_a_command_hears_a_closed_terminal():
    stop = StopRequest()
    with ended_by_signals(), stop.watched():
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.is_made


def test_a_closed_terminal_that_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = StopRequest()
        with ended_by_signals(), stop.watched():
            os.kill(os.getpid(), signal.SIGHUP)
        assert not stop.is_made
    finally:
        signal.signal(signal.SIGHUP, before)
