"""A comparison fits the terminal it is printed on."""

import io

import pytest
from rich.console import Console

from arrol.cli.tables import print_rows
from arrol.records.store import load_run
from arrol.reports.tables import comparison_rows, display_rows


@pytest.fixture
def rows(tmp_path, write_run):
    arms = ("grpo", "pruned-with-a-long-name", "uniform", "small_group")
    return comparison_rows([load_run(write_run(tmp_path / arm, arm)) for arm in arms])


def printed(rows, width):
    out = io.StringIO()
    print_rows(Console(file=out, width=width), "trial", rows)
    return out.getvalue()


def test_a_wide_terminal_has_one_line_per_arm(rows):
    text = printed(rows, 240)
    (line,) = (line for line in text.splitlines() if "pruned-with-a-long-name" in line)
    assert "0.400 (0.000 to 1.000)" in line
    (absent,) = (line for line in text.splitlines() if "oracle (control)" in line)
    assert absent.count("not run") > 10
    assert "Speed-up: against grpo" in text


@pytest.mark.parametrize("width", [80, 100, 120])
def test_a_narrow_terminal_has_one_column_per_arm_and_never_breaks_a_cell(rows, width):
    text = printed(rows, width)
    assert max(map(len, text.splitlines())) <= width
    for row in display_rows(rows):
        if row["seeds"] != "not run":
            assert row["arm"] in text
            assert row["final accuracy (95% interval)"] in text
    assert "final accuracy (95% interval)" in text
    assert "Controls not run: oracle." in text


def test_a_single_run_has_neither_controls_nor_notes(rows, tmp_path):
    text = printed(comparison_rows([load_run(tmp_path / "grpo")]), 80)
    assert "not run" not in text.replace("│ not run", "").replace("not run │", "")
    assert "oracle" not in text
    assert "Speed-up: against" not in text
