"""The last mark decides, a number is exact or absent, hostile text costs nothing."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from arrol.errors import ConfigError, DataError
from arrol.verifiers.integer import MAX_DIGITS, IntegerVerifier, final_integer, parse_integer

ALL_MARKS = ("####", "\\boxed{", "Answer:")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", 42),
        ("-10", -10),
        ("+7", 7),
        ("1,450,000", 1450000),
        ("$1,080", 1080),
        ("-$5", -5),
        ("$-5", -5),
        ("27.0", 27),
        ("18.00", 18),
        ("42.", 42),
        ("007", 7),
        ("\u22123", -3),
        ("1{,}000", 1000),
    ],
)
def test_a_whole_text_that_is_an_integer(text, value):
    assert parse_integer(text) == value
    assert parse_integer(f" {text}\n") == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "4.5",
        "1,23",
        "1,2345",
        "1.2.3",
        "--5",
        "-$-5",
        "5 6",
        "3/4",
        "1e5",
        "\u0664\u0662",
        "4\uff12",
        "12\u00bd",
    ]
    + ["9" * (MAX_DIGITS + 1)],
)
def test_a_text_that_is_no_integer(text):
    assert parse_integer(text) is None


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("so 3*4=12\n#### 12", 12),
        ("#### 5\nwait\n#### 6", 6),
        ("#### $1,012.00 in all", 1012),
        ("#### **42**", 42),
        ("#### -3.", -3),
        ("\\boxed{42}", 42),
        ("\\boxed{ 1{,}000 }", 1000),
        ("\\boxed{34\\text{ cm}}", 34),
        ("\\boxed{\\$18}", 18),
        ("Answer: $42$", 42),
        ("**Answer:** 42", 42),
        ("Answer: \\boxed{7}", 7),
        ("Answer: \\(9\\)", 9),
        ("#### 50%", 50),
        ("#### 42 - as was said", 42),
    ],
)
def test_the_number_behind_the_last_mark(text, value):
    assert final_integer(text, ALL_MARKS, require_mark=True) == value


@pytest.mark.parametrize(
    "tail",
    [
        "",
        "\n42",
        "x",
        "42.5",
        "42x",
        "42\\sqrt{2}",
        "42\u0663",
        "\u0664\u0662",
        "4_2",
    ],
)
def test_a_mark_without_an_exact_number_is_no_answer_and_nothing_earlier_is_tried(tail):
    assert final_integer(f"42 and 42\n#### {tail}", ALL_MARKS) is None


@pytest.mark.parametrize(
    ("tail", "value"), [("42/7", 6), ("42 / 7", 6), ("42^2", 1764), ("42 + 1", 43), ("42(3)", 126)]
)
def test_a_sum_behind_a_mark_has_its_value(tail, value):
    assert final_integer(f"42 and 42\n#### {tail}", ALL_MARKS) == value


def test_without_a_mark_the_last_number_decides():
    assert final_integer("first 3, then 4 apples.") == 4
    assert final_integer("10-5") == 5  # a difference
    assert final_integer("it fell to -5") == -5
    assert final_integer("3, or rather 4.5") is None
    assert final_integer("3, or rather 1/2") is None
    assert final_integer("3, or rather \u0664") is None
    assert final_integer("no number") is None
    assert final_integer("first 3", require_mark=True) is None


def test_verdict_carries_the_extracted_integer():
    verifier = IntegerVerifier()
    assert verifier.verify("#### 1,080", "1080").reward == 1.0
    wrong = verifier.verify("#### 1,081", "1080")
    assert (wrong.reward, wrong.answer, wrong.timed_out) == (0.0, "1,081", False)
    assert verifier.verify("", "1").answer is None


def test_a_gold_answer_that_is_no_integer_is_the_users_error():
    with pytest.raises(DataError, match=r"answer: '1/2' .*'symbolic'"):
        IntegerVerifier().verify("#### 1", "1/2")


@pytest.mark.parametrize("marks", ["####", ("",)])
def test_marks_are_a_list_of_texts(marks):
    with pytest.raises(ConfigError, match="marks"):
        IntegerVerifier(marks)


def test_required_marks_must_exist():
    with pytest.raises(ConfigError, match="marks"):
        IntegerVerifier((), require_mark=True)


@pytest.mark.parametrize("filler", ["9", "#", "9,", "-", "9.", " ", "####", "\u0664", "#### 1 ", "$", "{,}", "\\,9"])
def test_a_million_characters_are_answered(filler):
    text = filler * (1_000_000 // len(filler))
    for candidate in (text, "#### " + text, text + "#### 7", text + " 7"):
        verdict = IntegerVerifier().verify(candidate, "7")
        assert verdict.reward in (0.0, 1.0)
    assert IntegerVerifier().verify(text + "\n#### 7", "7").reward == 1.0


@given(st.integers(-(10**30), 10**30))
def test_every_integer_is_read_back_in_every_usual_spelling(value):
    for spelled in (f"{value}", f"{value:,}", f"{value}.0", f"{value:,}.00"):
        assert parse_integer(spelled) == value
        assert final_integer(f"12 and #### {spelled}\n") == value
        assert final_integer(f"that makes {spelled} .") == value


@given(st.text(max_size=200), st.text(alphabet="0123456789,.$-+#{}\\ \n\u0664\u00b2", max_size=60))
def test_no_text_crashes(text, numeric):
    for candidate in (text, text + "####" + numeric, numeric):
        found = final_integer(candidate, ALL_MARKS)
        assert found is None or isinstance(found, int)


def test_random_bytes_never_crash():
    draw = random.Random(0)
    for _ in range(300):
        text = bytes(draw.randrange(256) for _ in range(200)).decode("latin-1")
        IntegerVerifier(("#",)).verify(text, "1")
