"""What a terminal shows, and what a service receives."""

import io
import math

import pytest
from rich.console import Console

from arrol.training.sinks import TerminalSink

ROW = {
    "step": 1,
    "time/step_s": 2.0,
    "tokens/generated": 3000.0,
    "rollout/success_frac_before": 0.25,
    "pruning/kept_frac": 0.5,
    "loss/policy": math.nan,
}


def test_a_terminal_shows_rate_reward_share_and_time_left():
    out = io.StringIO()
    sink = TerminalSink("mine", 3, Console(file=out, width=200))
    sink.write(ROW)
    sink.write({**ROW, "step": 2})  # too soon for another line
    sink.write({**ROW, "step": 3, "eval/accuracy": 0.75})
    sink.close()
    first, last = out.getvalue().splitlines()
    assert first.startswith("mine 1/3 1,500 tok/s  reward 0.250  kept 0.500  ")
    assert first.endswith(" s left")
    assert last.startswith("mine 3/3 1,500 tok/s  reward 0.250  kept 0.500  accuracy 0.750  0 s left")


def test_a_live_terminal_gets_one_line_that_moves():
    out = io.StringIO()
    sink = TerminalSink("mine", 2, Console(file=out, width=120, force_terminal=True), done=1)
    sink.write({**ROW, "step": 2})
    sink.close()
    assert "2/2" in out.getvalue()
    assert "reward 0.250" in out.getvalue()


@pytest.mark.parametrize(("encoding", "course"), [("utf-8", "\u2581\u2588"), ("ascii", "_#")])
def test_a_terminal_shows_curves_where_they_are_asked_for(encoding, course):
    raw = io.BytesIO()
    out = io.TextIOWrapper(raw, encoding=encoding, errors="replace")
    sink = TerminalSink("mine", 2, Console(file=out, width=120, force_terminal=True), has_curves=True)
    sink.write(ROW)
    sink.write({**ROW, "step": 2, "rollout/success_frac_before": 0.75})
    sink.close()
    out.flush()
    shown = raw.getvalue().decode(encoding)
    last = [line for line in shown.splitlines() if line.startswith("share right")][-1]
    assert last.split() == ["share", "right", course, "0.750"]
    assert "2/2" in shown


def test_curves_are_for_terminals_only():
    out = io.StringIO()
    sink = TerminalSink("mine", 1, Console(file=out, width=120), has_curves=True)
    sink.write(ROW)
    sink.close()
    assert len(out.getvalue().splitlines()) == 1


def test_a_reason_why_nothing_is_learned_is_said_once_and_not_at_the_last_step():
    out = io.StringIO()
    sink = TerminalSink("mine", 7, Console(file=out, width=200))
    for step in range(1, 8):
        label = {"rollout/success_frac_before": 0.0, "quality/head_loss": 0.1} if step > 2 else {}
        sink.write({**ROW, "step": step, "rollout/dead_group_frac": 1.0, **label})
    sink.close()
    (warning,) = [line for line in out.getvalue().splitlines() if line.startswith("warning: ")]
    assert warning.startswith("warning: mine, step 5: the rollouts of every prompt got equal rewards")


def test_a_warm_start_shows_its_loss_and_nothing_it_does_not_have():
    out = io.StringIO()
    sink = TerminalSink("warm", 1, Console(file=out, width=200))
    sink.write({"step": 1, "loss/sft": 1.5, "tokens/trained": 10.0})
    assert out.getvalue().startswith("warm 1/1 loss 1.500  0 s left")


def test_the_reward_of_functions_is_shown_in_place_of_the_share_of_successes():
    out = io.StringIO()
    TerminalSink("mine", 1, Console(file=out, width=200)).write({**ROW, "reward/mean": -1.5})
    assert "reward -1.500  kept" in out.getvalue()
