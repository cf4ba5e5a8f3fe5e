"""A run that is watched while it trains: the same numbers, and no reader that can end it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from arrol.cli.main import main
from arrol.records.store import RECORDS_FILE, read_run
from integration import tiny

LIVE = Path("tiny") / "report" / "live.html"


@pytest.fixture
def short(config):
    """Arguments of a run of four steps."""
    return ["train", str(config), "--training.steps", "4"]


def learnt(folder):
    """What a run computed: metrics but times, rollouts, evaluations."""
    run = read_run(folder)
    steps = [{key: value for key, value in row.metrics.items() if not key.startswith("time/")} for row in run.steps]
    return repr((steps, run.rollouts, [(row.step, row.accuracy) for row in run.evals], run.end.outcome))


def test_watching_changes_no_number(short, tmp_path, capsys):
    assert main([*short, "--out_dir", str(tmp_path / "plain")]) == 0
    capsys.readouterr()
    assert main([*short, "--live", "--out_dir", str(tmp_path / "watched")]) == 0
    assert f"live: {tmp_path / 'watched' / LIVE}, renewed every 5 s" in capsys.readouterr().out
    assert learnt(tmp_path / "plain" / "tiny") == learnt(tmp_path / "watched" / "tiny")
    page = (tmp_path / "watched" / LIVE).read_text("utf-8")
    assert "Step 4 of 4." in page
    assert page.count("<polyline") >= 6
    assert not (tmp_path / "plain" / LIVE).exists()


def test_trackers_get_completions_and_histograms_every_few_steps_and_change_no_number(short, tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    assert main([*short, "--out_dir", str(tmp_path / "plain")]) == 0
    tracked = ["--report_to", "tensorboard", "--report_every", "2", "--out_dir", str(tmp_path / "tracked")]
    assert main([*short, *tracked]) == 0
    assert learnt(tmp_path / "plain" / "tiny") == learnt(tmp_path / "tracked" / "tiny")
    events = accumulator.EventAccumulator(str(tmp_path / "tracked" / "tiny" / "tensorboard"), {"histograms": 0})
    events.Reload()
    assert [event.step for event in events.Tensors("completions/text_summary")] == [1, 2, 4]
    assert [event.step for event in events.Scalars("rollout/success_frac_before")] == [1, 2, 3, 4]
    (rewards,) = [event.histogram_value for event in events.Histograms("rollouts/reward") if event.step == 1]
    judged = [row.reward for row in read_run(tmp_path / "plain" / "tiny").rollouts if row.step == 1]
    assert rewards.num == sum(reward is not None for reward in judged)
    table = events.Tensors("completions/text_summary")[0].tensor_proto.string_val[0].decode()
    assert len(table.splitlines()) == 2 + len(judged)
    longer = [*short[:-1], "5", "--out_dir", str(tmp_path / "tracked"), "--report_to", "tensorboard"]
    assert main([*longer, "--report_every", "0", "--resume"]) == 0
    again = accumulator.EventAccumulator(str(tmp_path / "tracked" / "tiny" / "tensorboard"), {"histograms": 0})
    again.Reload()
    assert [event.step for event in again.Tensors("completions/text_summary")] == [1, 2, 4]


@pytest.mark.parametrize("live", [[], ["--live"]])
def test_a_closed_pipe_does_not_end_a_run(short, tmp_path, live):
    """As ``arrol train CONFIG | head -1``."""
    command = [sys.executable, "-m", "arrol.cli.main", *short, *live]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.readline()
        process.stdout.close()
        assert (process.stderr.read(), process.wait(120)) == (b"", 0)
    run = read_run(tmp_path / "runs" / "tiny")
    assert (run.end.outcome, run.end.step) == ("finished", 4)
    assert (tmp_path / "runs" / "tiny" / "report" / "report.html").is_file()


def test_a_closed_terminal_ends_the_step_and_saves(short, tmp_path):
    at = ("arrol.training.trainer", "Trainer._write_rollouts", 2)
    status = tiny.finish([*short, "--live"], tmp_path / "log", at, signal.SIGHUP)
    assert status == 130, (tmp_path / "log").read_text()
    run = read_run(tmp_path / "runs" / "tiny")
    assert (run.end.outcome, run.end.step) == ("stopped", 2)
    assert tiny.finish([*short, "--live", "--resume"], tmp_path / "log") == 0
    assert ">step 1</span><span>step 4</span>" in (tmp_path / "runs" / LIVE).read_text("utf-8")


def test_a_closed_terminal_does_not_end_a_run_under_nohup(short, tmp_path):
    command = [sys.executable, "-c", SELF_HANGUP, *short]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=_as_nohup)
    assert done.returncode == 0, done.stderr
    assert read_run(tmp_path / "runs" / "tiny").end.step == 4


SELF_HANGUP = """
import os, signal, sys
from arrol.cli.main import main
from arrol.training.trainer import Trainer
record = Trainer._record
def hang_up(self, metrics):
    os.kill(os.getpid(), signal.SIGHUP)
    record(self, metrics)
Trainer._record = hang_up
sys.exit(main(sys.argv[1:]))
"""


def _as_nohup():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def test_a_running_run_is_reported_at_every_moment(short, tmp_path, capsys):
    """Records end anywhere: after the first row, in the middle of a row, in the middle of a character."""
    assert main(short) == 0
    folder, part = tmp_path / "runs" / "tiny", tmp_path / "part"
    part.mkdir()
    whole = (folder / RECORDS_FILE).read_bytes()
    lines = whole.splitlines(keepends=True)
    rollouts = (folder / "rollouts.jsonl").read_bytes()
    cuts = [len(lines[0]), len(lines[0]) + 9, len(lines[0] + lines[1] + lines[2]), len(whole) - 30]
    for cut in cuts:
        (part / RECORDS_FILE).write_bytes(whole[:cut])
        (part / "rollouts.jsonl").write_bytes(rollouts[: 3 * cut // 2])
        capsys.readouterr()
        assert main(["report", str(part)]) == 0, cut
        text = (part / "report" / "report.md").read_text("utf-8")
        assert "has no end: killed, or still running" in text
    assert os.listdir(part / "report" / "plots")
