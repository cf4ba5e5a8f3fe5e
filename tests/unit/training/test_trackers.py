"""What a tracker receives."""

import math
import sys
import types

import numpy as np
import pytest

from arrol.errors import MissingExtraError
from arrol.training import trackers
from arrol.training.details import StepDetails
from arrol.training.trackers import ServiceSink, TensorBoardSink, build_trackers, require_services

ROW = {"step": 1, "time/step_s": 2.0, "pruning/kept_frac": 0.5, "loss/policy": math.nan}
DETAILS = StepDetails(
    1,
    [
        {"step": 1, "prompt": "1+1=", "completion": "a | b\n<b>*c*</b>", "reward": 1.0, "advantage": 0.5},
        {"step": 1, "prompt": "1+1=", "completion": "", "reward": None, "advantage": None},
    ],
    {"reward": np.array([1.0, 0.0, 1.0]), "survival": np.array([0.5, 1.0])},
)


class Run:
    def __init__(self):
        self.rows, self.finished = [], False

    def log(self, row, step):
        self.rows.append((step, row))

    def finish(self):
        self.finished = True


def test_a_service_receives_finite_numbers_under_our_name(monkeypatch, tmp_path):
    run, calls = Run(), []
    fake = types.ModuleType("trackio")
    fake.init = lambda **fields: calls.append(fields) or run
    monkeypatch.setitem(sys.modules, "trackio", fake)
    (sink,) = build_trackers(["trackio"], tmp_path, "mine", {"seed": 1})
    assert isinstance(sink, ServiceSink)
    sink.write(ROW)
    sink.close()
    assert calls == [{"project": "arrol", "name": "mine", "config": {"seed": 1}}]
    assert run.rows == [
        (1, {f"arrol/{key}": value for key, value in ROW.items() if key not in ("step", "loss/policy")})
    ]
    assert run.finished


def test_a_service_receives_table_and_histograms_with_the_numbers_of_their_step(monkeypatch, tmp_path):
    """In one call, since a service counts calls."""
    pandas, run = pytest.importorskip("pandas"), Run()
    fake = types.ModuleType("wandb")
    fake.init, fake.Histogram = lambda **fields: run, lambda values: ("histogram", values.tolist())
    fake.Table = lambda dataframe: ("table", dataframe)
    monkeypatch.setitem(sys.modules, "wandb", fake)
    (sink,) = build_trackers(["wandb"], tmp_path, "mine", {})
    sink.show(DETAILS)
    assert run.rows == []
    sink.write(ROW)
    sink.write({**ROW, "step": 2})
    (first, shown), (second, plain) = run.rows
    assert (first, second) == (1, 2)
    kind, frame = shown.pop("completions")
    assert kind == "table"
    pandas.testing.assert_frame_equal(frame, pandas.DataFrame(DETAILS.completions))
    assert shown.pop("arrol/rollouts/reward") == ("histogram", [1.0, 0.0, 1.0])
    assert shown.pop("arrol/rollouts/survival") == ("histogram", [0.5, 1.0])
    assert shown == plain


def test_tensorboard_has_scalars_histograms_and_a_table_of_text(tmp_path):
    """Read back from its event file."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    (sink,) = build_trackers(["tensorboard"], tmp_path, "mine", {})
    assert isinstance(sink, TensorBoardSink)
    sink.show(DETAILS)
    sink.write(ROW)
    sink.close()
    events = accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("pruning/kept_frac")] == [(1, 0.5)]
    (histogram,) = [event.histogram_value for event in events.Histograms("rollouts/reward")]
    assert (histogram.num, histogram.min, histogram.max, histogram.sum) == (3, 0, 1, 2)
    (text,) = events.Tensors("completions/text_summary")
    lines = text.tensor_proto.string_val[0].decode().splitlines()
    assert lines[:2] == ["| step | prompt | completion | reward | advantage |", "| --- | --- | --- | --- | --- |"]
    assert len(lines) == 4
    assert lines[2].count("|") == lines[0].count("|")
    assert "a &#124; b<br>&#60;b&#62;&#42;c&#42;&#60;/b&#62;" in lines[2]
    assert lines[3] == "| 1 | 1&#43;1= |  |  |  |"


def test_a_service_that_is_not_installed_says_how_to_get_it():
    require_services([])
    with pytest.raises(MissingExtraError, match=r"^report_to = 'wandbx': not installed; run: pip install wandbx$"):
        require_services(["wandbx"])


@pytest.mark.parametrize(("every", "installed", "refused"), [(5, False, True), (0, False, False), (5, True, False)])
def test_tables_of_a_service_need_pandas(monkeypatch, every, installed, refused):
    monkeypatch.setattr(trackers, "find_spec", lambda name: None if name == "pandas" and not installed else object())
    if refused:
        with pytest.raises(
            MissingExtraError, match=r"^report_every = 5: tables for wandb need pandas; run: pip install"
        ):
            require_services(["wandb"], every)
    else:
        require_services(["wandb"], every)
    require_services(["tensorboard"], every)


def test_a_step_without_completions_is_said(tmp_path):
    pytest.importorskip("tensorboard")
    (sink,) = build_trackers(["tensorboard"], tmp_path, "mine", {})
    sink.show(StepDetails(3, [], {}))
    sink.close()
    (events,) = (tmp_path / "tensorboard").iterdir()
    assert b"no completions" in events.read_bytes()
