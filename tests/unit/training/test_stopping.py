"""A signal makes the request while it is watched for, and the handlers are put back."""

import os
import signal

import pytest

from arrol.training.stopping import StopRequest


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
