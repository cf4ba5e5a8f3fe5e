"""Commands, options, exit codes."""

import os
import subprocess
import sys
from importlib import metadata

import pytest

from arrol.cli import main as module
from arrol.cli.main import EXIT_PIPE, main
from arrol.errors import ArrolError

COMMANDS = ("sft", "train", "compare", "report", "info")


def test_help_lists_the_commands_and_exit_codes():
    done = subprocess.run(
        [sys.executable, "-m", "arrol.cli.main", "--help"], capture_output=True, text=True, check=True
    )
    assert all(f"    {command} " in done.stdout for command in COMMANDS)
    assert "Exit status: 0 finished; 2 wrong input" in " ".join(done.stdout.split())


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as caught:
        main([command, "--help"])
    assert caught.value.code == 0
    assert "--json" in capsys.readouterr().out


TEXT = ["--training.steps", "5", "--pruning.balance_strength", "-0.5"]


@pytest.mark.parametrize(
    "argv",
    [
        ["a.toml", *TEXT[:2], "--json", *TEXT[2:]],
        [*TEXT, "a.toml", "--json"],
        ["--json", *TEXT[:2], "a.toml", *TEXT[2:]],
    ],
)
def test_flags_before_and_after_the_config_reach_it(monkeypatch, argv):
    seen = []
    monkeypatch.setattr(module, "_dispatch", lambda options, flags: seen.append((options, flags)) or 0)
    assert main(["train", *argv]) == 0
    ((options, flags),) = seen
    assert (options.config, options.json, options.resume) == ("a.toml", True, False)
    assert flags == TEXT


def test_a_closed_pipe_is_no_error_of_the_user(run_file):
    """As in ``arrol info CONFIG | head``: what is left to print is dropped without a word."""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "arrol", "info", str(run_file)], stdout=writer, stderr=subprocess.PIPE, check=False
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (EXIT_PIPE, b"")


def test_the_module_is_the_command():
    done = subprocess.run([sys.executable, "-m", "arrol", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"arrol {metadata.version('arrol')}\n"


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
