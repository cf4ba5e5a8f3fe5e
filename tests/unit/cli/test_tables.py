"""A comparison fits the terminal it is printed on."""

import io
import json
import math

import pytest
from rich.console import Console

from arrol.cli.tables import print_columns, print_json, print_rows
from arrol.records.store import read_run
from arrol.reports.tables import comparison_rows, display_rows


@pytest.fixture
def rows(tmp_path, write_run):
    arms = ("grpo", "pruned-with-a-long-name", "uniform", "small_group")
    return comparison_rows([read_run(write_run(tmp_path / arm, arm)) for arm in arms])


def printed(rows, width):
    out = io.StringIO()
    print_rows(Console(file=out, width=width), "trial", rows)
    return out.getvalue()


def test_metrics_stand_down_and_arms_across_however_wide_the_terminal(rows):
    lines = printed(rows, 240).splitlines()
    assert lines[0] == "trial"
    assert sum(line.startswith("speed-up") for line in lines) == 1
    (line,) = (line for line in lines if line.startswith("final accuracy"))
    assert line.split()[2:] == ["0.400"] * 4
    assert any(line.startswith("Training time leaves evaluation out. Speed-up: against grpo") for line in lines)


@pytest.mark.parametrize("width", [60, 80, 100])
def test_too_many_arms_for_the_terminal_stand_in_whole_blocks(tmp_path, write_run, width):
    arms = ["grpo", *(f"arm-number-{number}" for number in range(9)), "uniform"]
    rows = comparison_rows([read_run(write_run(tmp_path / arm, arm)) for arm in arms])
    text = printed(rows, width)
    assert max(map(len, text.splitlines())) <= width
    heads = [line.split()[1:] for line in text.splitlines() if line.startswith("arm ")]
    assert [name for head in heads for name in head] == [*arms[:-1], "(control)"]
    assert len(heads) < 6
    assert all(len(head) > 1 for head in heads[:-1])
    tables = text.split("Accuracy intervals")[0].splitlines()
    for label in display_rows(rows, narrow=True)[0]:
        assert sum(line.startswith(f"{label} ") for line in tables) == len(heads)


def test_six_usual_arms_stand_side_by_side_in_80_columns(tmp_path, write_run):
    arms = ("grpo", "neyman", "paper", "uniform", "oracle", "small_group")
    rows = comparison_rows([read_run(write_run(tmp_path / arm, arm)) for arm in arms])
    lines = printed(rows, 80).splitlines()
    assert max(map(len, lines)) <= 80
    assert sum(line.startswith("arm ") for line in lines) == 1


def test_a_long_name_is_broken_not_cut(rows):
    text = printed(rows, 80)
    assert all(part in text for part in ("pruned-with-a-", "long-name"))
    assert "Controls not run: oracle." in text


def test_a_single_run_has_neither_controls_nor_notes(rows, tmp_path):
    text = printed(comparison_rows([read_run(tmp_path / "grpo")]), 80)
    assert "not run" not in text
    assert "oracle" not in text
    assert "Speed-up: against" not in text


def test_columns_beyond_the_width_begin_a_block_with_its_labels():
    out = io.StringIO()
    columns = [["k = 1", "0.500", "0.500"], ["k = 4", "0.600", "0.610 *+0.010"], ["k = 16", "0.700", "0.700  +0.000"]]
    print_columns(Console(file=out, width=40), "", ["vote", "majority", "confidence"], columns)
    assert [line.rstrip() for line in out.getvalue().splitlines() if "\u2500" not in line] == [
        "vote        k = 1          k = 4",
        "majority    0.500          0.600",
        "confidence  0.500  0.610 *+0.010",
        "",
        "vote               k = 16",
        "majority            0.700",
        "confidence  0.700  +0.000",
        "",
    ]


def test_numbers_that_are_not_finite_are_null_in_json(capsys):
    print_json([{"low": math.nan, "of": (math.inf, 0.5)}, None, "nan"])
    assert json.loads(capsys.readouterr().out, parse_constant=pytest.fail) == [
        {"low": None, "of": [None, 0.5]},
        None,
        "nan",
    ]
