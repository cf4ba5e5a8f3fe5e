"""The sink that rewrites the page of a run."""

import io

import pytest
from rich.console import Console

from arrol.cli import live
from arrol.cli.live import LIVE_FILE, LivePage
from arrol.records.schema import StepRecord

ROW = {"step": 1, "time/step_s": 2.0, "rollout/success_frac_before": 0.25, "name": "a text"}


@pytest.fixture
def clock(monkeypatch):
    """Seconds of the monotonic clock, to set."""
    now = [100.0]
    monkeypatch.setattr(live.time, "monotonic", lambda: now[0])
    return now


def page_at(tmp_path, out=None, earlier=()):
    return LivePage(tmp_path, "mine", 8, Console(file=out or io.StringIO(), width=200), earlier)


def test_the_page_is_there_at_once_and_its_place_is_said(tmp_path, clock):
    out = io.StringIO()
    page_at(tmp_path, out)
    assert out.getvalue() == f"live: {tmp_path / LIVE_FILE}, renewed every 5 s; open it in a browser\n"
    assert "Step 0 of 8." in (tmp_path / LIVE_FILE).read_text("utf-8")


def test_the_page_is_written_every_five_seconds_and_at_the_end(tmp_path, clock):
    page = page_at(tmp_path)

    def said():
        return (tmp_path / LIVE_FILE).read_text("utf-8").split('<p class="headline">')[1].split("<")[0]

    clock[0] += 4
    page.write(ROW)
    assert said() == "Step 0 of 8."
    clock[0] += 1
    page.write({**ROW, "step": 2})
    assert said() == "Step 2 of 8, 15 s left."
    page.write({**ROW, "step": 3})
    page.close()
    assert said() == "Step 3 of 8."
    assert sorted(path.name for path in (tmp_path / "report").iterdir()) == ["live.html"]


def test_a_resumed_run_shows_its_earlier_steps_and_its_own_pace(tmp_path, clock):
    earlier = [StepRecord(step=step, metrics={"rollout/success_frac_before": 0.1}) for step in (1, 2, 3, 4)]
    page = page_at(tmp_path, earlier=earlier)
    clock[0] += 6
    page.write({**ROW, "step": 6})
    text = (tmp_path / LIVE_FILE).read_text("utf-8")
    assert "Step 6 of 8, 6 s left." in text
    assert ">step 1</span><span>step 6</span>" in text


def test_a_run_that_learns_nothing_says_so_on_the_page(tmp_path, clock):
    page = page_at(tmp_path)
    for step in range(1, 7):
        page.write({**ROW, "step": step, "rollout/dead_group_frac": 1.0})
    page.close()
    text = (tmp_path / LIVE_FILE).read_text("utf-8")
    assert text.count("Step 5: the rollouts of every prompt got equal rewards") == 1


def test_a_page_that_cannot_be_written_is_said_once_and_ends_nothing(tmp_path, clock):
    (tmp_path / "report").write_text("a file where the folder should be")
    out = io.StringIO()
    page = page_at(tmp_path, out)
    clock[0] += 9
    page.write(ROW)
    page.close()
    (line,) = out.getvalue().splitlines()
    assert line.startswith(f"live: the page is not written any more (out = '{tmp_path / LIVE_FILE}': cannot be written")
