r"""Rows in the schemas of the usual sets, as published on the hub or as files people keep; the rows are made up."""

import json
import os
from pathlib import Path

import pytest

from arrol.errors import DataError
from arrol.tasks.columns import Columns

GSM8K = {"question": "Two and two?", "answer": "2 + 2 = <<2+2=4>>4\n#### 4"}
MATH = {"problem": "p", "solution": r"so \boxed{\frac12}.", "answer": r"\frac12", "subject": "Algebra", "level": 5}
HENDRYCKS = {"problem": "p", "solution": r"so \boxed{\frac12}.", "level": "Level 3", "type": "Algebra"}
MINERVA_FILE = {"problem": "p", "solution": r"so \boxed{4.5e33}", "type": "Astronomy", "idx": 0}
OLYMPIAD = {
    "id": 1606,
    "question": "Find n.",
    "solution": ["because"],
    "final_answer": ["2"],
    "context": None,
    "is_multiple_answer": False,
    "unit": None,
    "answer_type": "Numerical",
    "error": None,
}
AMC = {"id": 0, "problem": "p", "answer": 27.0, "url": "u", "question": "p"}
SVAMP = {"Body": "Ann has 3 eggs", "Question": "How many?", "Equation": "( 3.0 )", "Answer": 3.0, "ID": "chal-1"}


def read(tmp_path, record, **columns):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(record) + "\n")
    (row,) = Columns(**columns).read(str(path), "test")
    return row


@pytest.mark.parametrize(
    ("record", "question", "answer", "level"),
    [
        (GSM8K, "Two and two?", "4", 0),
        (MATH, "p", r"\frac12", 5),
        (HENDRYCKS, "p", r"\frac12", 3),
        (MINERVA_FILE, "p", "4.5e33", 0),
        ({"question": "q", "answer": "4.5e33"}, "q", "4.5e33", 0),
        (OLYMPIAD, "Find n.", "2", 0),
        ({**OLYMPIAD, "context": "Let n be even"}, "Let n be even. Find n.", "2", 0),
        ({**OLYMPIAD, "final_answer": [r"$\frac{1}{2}$"], "unit": "cm"}, "Find n.", r"\frac{1}{2}", 0),
        ({**OLYMPIAD, "final_answer": ["(0, 1]"], "answer_type": "Interval"}, "Find n.", "(0, 1]", 0),
        ({**OLYMPIAD, "final_answer": ["1,2"], "is_multiple_answer": True}, "Find n.", '{"all_of": ["1", "2"]}', 0),
        ({**OLYMPIAD, "final_answer": ["$1$, $x$"], "is_multiple_answer": 1}, "Find n.", '{"all_of": ["1", "x"]}', 0),
        ({**OLYMPIAD, "final_answer": ["(1,2)"], "is_multiple_answer": True}, "Find n.", "(1,2)", 0),
        ({**OLYMPIAD, "final_answer": ["1", "2"], "is_multiple_answer": True}, "Find n.", '{"all_of": ["1", "2"]}', 0),
        ({**OLYMPIAD, "final_answer": ["1/2", "0.5"]}, "Find n.", '{"any_of": ["1/2", "0.5"]}', 0),
        (AMC, "p", "27", 0),
        ({"id": 0, "question": "p", "answer": "27.0", "url": "u"}, "p", "27.0", 0),
        ({"id": 60, "problem": "p", "answer": "033", "year": "2024"}, "p", "033", 0),
        ({"ID": "2024-I-1", "Problem": "p", "Solution": "s", "Answer": 33}, "p", "33", 0),
        ({"problem_idx": 1, "problem": "p", "answer": 70, "problem_type": ["Algebra"]}, "p", "70", 0),
        (SVAMP, "Ann has 3 eggs. How many?", "3", 0),
        ({**SVAMP, "Body": "Ann has 3 eggs. "}, "Ann has 3 eggs. How many?", "3", 0),
        ({"prompt": [{"role": "user", "content": "q"}], "reward_model": {"ground_truth": "34"}}, "q", "34", 0),
        ({"question": "q", "answer": ["1", 2.0]}, "q", '{"all_of": ["1", "2"]}', 0),
        ({"question": "q", "answer": "(B)", "level": "Level ?"}, "q", "(B)", 0),
        ({"question": "q", "answer": "1", "level": True}, "q", "1", 0),
        ({"question": "q", "answer": "1", "level": float("nan")}, "q", "1", 0),
    ],
)  # fmt: skip
def test_schemas_are_recognised_by_their_columns(tmp_path, record, question, answer, level):
    row = read(tmp_path, record)
    assert (row.question, row.answer, row.level) == (question, answer, level)


def test_an_error_beside_a_list_is_a_tolerance(tmp_path):
    record = {"question": "q", "final_answer": ["3.14"], "error": "1e-2"}
    assert read(tmp_path, record).answer == '{"all_of": ["3.14"], "tolerance": 0.01}'
    assert read(tmp_path, {**record, "error": None}).answer == "3.14"


def test_worked_solutions_are_kept(tmp_path):
    assert read(tmp_path, GSM8K).solution == GSM8K["answer"]
    assert read(tmp_path, MATH).solution == MATH["solution"]
    assert read(tmp_path, HENDRYCKS).solution == HENDRYCKS["solution"]
    assert read(tmp_path, OLYMPIAD).solution == ""
    assert read(tmp_path, {"question": "q", "solution": "4"}).solution == ""


def test_what_is_asked_for_goes_first(tmp_path):
    record = {**GSM8K, "other": "7", "a+b": "literal"}
    assert read(tmp_path, record, answer="other").answer == "7"
    assert read(tmp_path, record, answer_format="plain").answer == GSM8K["answer"]
    assert read(tmp_path, record, prompt="other + question").question == "7. Two and two?"
    assert read(tmp_path, record, prompt="a+b").question == "literal"


@pytest.mark.parametrize(
    ("record", "columns", "message"),
    [
        ({**OLYMPIAD, "final_answer": []}, {}, r"answer_column: .*a.jsonl' line 1 holds '\[\]'; it must be a text or"),
        ({**OLYMPIAD, "final_answer": None}, {}, "holds 'None'"),
        ({**OLYMPIAD, "final_answer": ["1", None]}, {}, "holds 'None'"),
        ({"question": "q", "answer": True}, {}, "holds 'True'"),
        ({"question": "q", "answer": {"a": 1}}, {}, "holds"),
        ({"question": "q", "answer": float("inf")}, {}, "holds 'inf'"),
        ({"question": "q", "answer": float("nan")}, {}, "holds 'nan'"),
        ({**SVAMP, "Body": None, "Question": " "}, {}, "prompt_column: .*a.jsonl' line 1 holds ''"),
        (SVAMP, {"prompt": "Body+Query"}, "prompt_column: 'Query' is not in .* line 1; available: Body, Question"),
        ({"question": "q"}, {}, "answer_column: not given and none of answer, final_answer, .* exists"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(tmp_path, record, columns, message):
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path, record, **columns)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "count", "first"), [("gsm8k", 1_319, "18"), ("svamp", 1_000, "145"), ("amc23", 40, "27")]
)
def test_published_files_are_read_as_they_are(name, count, first):
    root = Path(os.environ.get("ARROL_DATA") or Path(__file__).parents[3].parent / "shared" / "data")
    if not (root / name).is_dir():
        pytest.skip(f"{name}: no such folder in {root}; set ARROL_DATA to the folder that holds it")
    rows = Columns().read(str(root / name), "test")
    assert (len(rows), rows[0].answer) == (count, first)
    assert all(len(row.question) > 10 for row in rows)


def test_the_first_row_tells_the_columns(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"question": "q", "gold": 1}\n{"no": "question"}\n', "utf-8")
    row = Columns(for_rewards=True).first(str(path), "train")
    assert (row.question, row.answer, row.cells) == ("q", "", {"question": "q", "gold": 1, "prompt": "q"})
    path.write_text("", "utf-8")
    with pytest.raises(DataError, match="is empty; give a file with at least one row"):
        Columns(for_rewards=True).first(str(path), "train")


def test_a_gold_answer_may_be_a_huge_number(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"question": "10^400?", "answer": 10**400}) + "\n")
    assert [row.answer for row in Columns().read(str(path), "train")] == ["1" + "0" * 400]
