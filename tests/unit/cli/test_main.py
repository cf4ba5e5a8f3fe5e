"""Commands, options, exit codes."""

import subprocess
import sys

import pytest

from arrol.cli import main as module
from arrol.cli.main import build_parser, main
from arrol.errors import ArrolError

COMMANDS = ("sft", "train", "compare", "report", "info")


def test_help_lists_the_commands_and_exit_codes():
    done = subprocess.run(
        [sys.executable, "-m", "arrol.cli.main", "--help"], capture_output=True, text=True, check=True
    )
    assert all(f"    {command} " in done.stdout for command in COMMANDS)
    assert "Exit status: 0 finished; 2 something to mend" in " ".join(done.stdout.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert "--json" in capsys.readouterr().out


def test_flags_before_and_after_options_reach_the_config(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(module, "_dispatch", lambda options, flags: seen.append((options, flags)) or 0)
    assert main(["train", "a.toml", "--training.steps", "5", "--json", "--pruning.balance_strength", "-0.5"]) == 0
    ((options, flags),) = seen
    assert (options.config, options.json, options.resume) == ("a.toml", True, False)
    assert flags == ["--training.steps", "5", "--pruning.balance_strength", "-0.5"]


@pytest.mark.parametrize(
    "argv", [[], ["fly"], ["report"], ["report", "x", "--training.steps", "5"], ["info", "--resume"]]
)
def test_a_wrong_command_line_exits_with_2(argv, capsys):
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "usage: arrol" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ArrolError("a = 1: two\nlines"), 2, "arrol: a = 1: two lines\n"),
        (PermissionError(13, "Permission denied", "runs/x"), 2, "arrol: runs/x: Permission denied; check the path, "),
        (KeyboardInterrupt(), 130, "arrol: interrupted; what was saved before is intact, go on with --resume\n"),
    ],
)
def test_what_goes_wrong_is_one_line(monkeypatch, capsys, error, status, line):
    def fail(options, flags):
        raise error

    monkeypatch.setattr(module, "_dispatch", fail)
    assert main(["train", "a.toml"]) == status
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(line)
    assert err.count("\n") == 1


def test_a_mistake_of_ours_is_not_hidden(monkeypatch):
    def fail(options, flags):
        raise ZeroDivisionError

    monkeypatch.setattr(module, "_dispatch", fail)
    with pytest.raises(ZeroDivisionError):
        main(["info"])


def test_options_are_not_abbreviated():
    options, flags = build_parser().parse_known_args(["train", "a.toml", "--res", "x"])
    assert (options.resume, flags) == (False, ["--res", "x"])
