"""Rows of Python as JSON lines: what is read, how it is named, and which row is refused."""

import json

import numpy as np
import pytest
from datasets import Dataset, DatasetDict
from pandas import DataFrame

from arrol.cli.rows import is_rows, rows_text
from arrol.errors import DataError

ROWS = [{"prompt": "1+1=", "answer": 2}, {"prompt": "2+3=", "answer": 5}]


@pytest.mark.parametrize("rows", [ROWS, tuple(ROWS), Dataset.from_list(ROWS), DataFrame(ROWS)])
def test_one_split_is_a_file_named_for_its_content(rows):
    assert is_rows(rows)
    name, files = rows_text(rows)
    assert name == rows_text(ROWS)[0] != rows_text(ROWS[:1])[0]
    assert name.endswith(".jsonl")
    assert [json.loads(line) for line in files[""].splitlines()] == ROWS


@pytest.mark.parametrize(
    "make", [dict, lambda **splits: DatasetDict({k: Dataset.from_list(v) for k, v in splits.items()})]
)
def test_several_splits_are_files_of_a_folder(make):
    splits = make(train=ROWS, test=ROWS[:1])
    assert is_rows(splits)
    name, files = rows_text(splits)
    assert "." not in name
    assert {split: len(text.splitlines()) for split, text in files.items()} == {"train": 2, "test": 1}


def test_numbers_of_numpy_and_letters_of_any_language_are_kept():
    _, files = rows_text([{"prompt": "\u00e4", "answer": np.int64(3), "many": np.array([1.5, 2.0])}])
    assert json.loads(files[""]) == {"prompt": "\u00e4", "answer": 3, "many": [1.5, 2.0]}
    assert "\u00e4" in files[""]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], r"task = \[\]: no rows; give a list of dicts"),
        ({}, r"task = \{\}: no rows"),
        ({"train": []}, r"task\['train'\] = \[\]: no rows"),
        ({"prompt": "1+1="}, r"task\['prompt'\] = str: no rows"),
        ({"no split": ROWS}, "'no split' is no name of a split"),
        ([*ROWS, "3"], r"task row 3 is '3', no dict; give the columns by name"),
        ([{"prompt": "1", "x": object()}], "task row 1: column 'x' holds object .*, which no JSON file can"),
        ([{"prompt": "1", "x": float("nan")}], "column 'x' holds float 'nan'"),
    ],
)
def test_what_is_no_row_is_one_line(rows, message):
    with pytest.raises(DataError, match=message) as caught:
        rows_text(rows)
    assert "\n" not in str(caught.value)
