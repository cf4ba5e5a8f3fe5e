"""The commands and code blocks of docs that need verl (``tests/document_table.py``)."""

import os
import subprocess
import sys

from arrol.integrations.verl.__main__ import main
from document_table import MANAGER, TABLE, VERL_ARGS, VERL_QUICKSTART
from documents import units, workplace

REST = ("algorithm.adv_estimator=grpo", "actor_rollout_ref.actor.ppo_mini_batch_size=256", "data.train_batch_size=256")
"""What the dots stand for."""
HERE = {key for key, row in TABLE.items() if row.where == "verl"}


def test_all_of_them_are_here():
    assert {
        VERL_QUICKSTART,
        'derived=$(python -m arrol.integrations.verl "${args[@]}")',
        f"docs/verl.md: {MANAGER}",
    } == HERE


def test_the_helper_prints_the_lines_of_the_page(capsys):
    """``...`` stands for the rest of the user's command."""
    shown = next(unit.text for unit in units() if unit.key == f"docs/verl.md: {MANAGER}")
    words = [word for word in VERL_ARGS.removeprefix("args=(").removesuffix(")").split() if word != "..."]
    assert main([*words, *REST]) == 0
    assert capsys.readouterr().out.splitlines() == shown.splitlines()


def test_the_quickstart_trains(host, tmp_path):
    """One step instead of four."""
    environment = {**os.environ, "PYTHON": sys.executable, "WORK": str(tmp_path / "runs"), "STEPS": "1"}
    with host.slots:
        done = subprocess.run(
            VERL_QUICKSTART.split(),
            env=environment,
            cwd=workplace(tmp_path),
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "step:1 - " in done.stdout
