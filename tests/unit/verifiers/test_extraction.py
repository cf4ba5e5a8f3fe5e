"""Which text is the answer, and which mark pointed at it."""

import pytest

from arrol.verifiers.extraction import MAX_CHARS, Found, boxed_content, final_answer


@pytest.mark.parametrize(
    ("text", "answer", "mark"),
    [
        (r"#### 3 and \boxed{4}", "4", "box"),
        (r"<answer>5</answer> \boxed{4}", "5", "<answer>"),
        ("The answer is 3.\n#### 4", "4", "####"),
        ("#### 4\nThe answer is 3.", "3", "answer"),
        ("#### 3\n#### **$4$**.\nbye", "$4$", "####"),
        ("Answer: x+1", "x+1", "answer"),
        ("so it is 3/4.", "3/4", "tail"),
        (r"\boxed{1}, \boxed{2} and \boxed{3}", "1, 2, 3", "box"),
        ("\\boxed{x^2}\n**Answer: D**", "D) x^2", "box"),
    ],
)
def test_the_order_of_marks(text, answer, mark):
    assert final_answer(text) == Found(answer, mark)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (r"5 \boxed{", "the box never closes"),
        (r"\boxed{5} \boxed{}", "an empty box"),
        ("#### \n", "nothing behind the mark"),
        ("#### " + "1+" * MAX_CHARS, "the answer is too long"),
        ("<think>\\boxed{5}", "the thinking never ends"),
        ("".join(f"\\boxed{{{n}}}" for n in range(99)), "too many boxes"),
        ("   ", "no answer found"),
    ],
)
def test_why_there_is_no_answer(text, reason):
    found = final_answer(text)
    assert (found.text, found.reason) == (None, reason)


def test_a_required_mark_leaves_the_tail_out_and_other_marks_may_be_named():
    assert final_answer("it is 5", require_mark=True).reason == "no mark"
    assert final_answer("so 12, #39", ("####", "#")) == Found("39", "#")


def test_the_last_box():
    assert boxed_content(r"\boxed{1} then \boxed{\frac{1}{2}} .") == r"\frac{1}{2}"
    assert boxed_content(r"\boxed{1} then \boxed{2") is None
    assert boxed_content(r"\boxed{" + "1" * (MAX_CHARS + 1) + "}") is None


@pytest.mark.parametrize(
    "unit", ["#", "\\boxed", "\\boxed{", "<think>", "answer ", "Answer:", "\nQ:", "** ", " ", "$", "."]
)
def test_a_million_characters_are_searched(unit):
    final_answer(unit * (1_000_000 // len(unit)))
