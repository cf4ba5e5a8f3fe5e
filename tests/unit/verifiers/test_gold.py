r"""Gold answers of several parts: written, read, split and paired."""

import pytest

from arrol.verifiers.gold import MAX_PARTS, Gold, all_of, any_of, can_be_paired, read_gold, split_parts


def test_what_is_written_is_read():
    assert read_gold(all_of(["2", "x, y"])) == Gold(("2", "x, y"), need_all=True)
    assert read_gold(any_of(["1/2", "0.5", "1/2"])) == Gold(("1/2", "0.5"), need_all=False)
    assert all_of(["3"]) == any_of(["3", "3"]) == "3"
    assert read_gold(all_of(["2", "3"])).joined == "2, 3"


@pytest.mark.parametrize(
    "text", ["3", r"\{1, 2\}", '{"all_of": [', '{"all_of": [1]}', '{"any_of": []}', '{"x": ["1"]}']
)
def test_any_other_text_is_one_part(text):
    assert read_gold(text) == Gold((text,), need_all=True)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("1, 2", ["1", "2"]),
        ("1,2;3", ["1", "2", "3"]),
        (r"2 \text{ and } 3", ["2", "3"]),
        ("2 or 3", ["2", "3"]),
        (r"\{(1, 2), 3\}", ["(1, 2)", "3"]),
        ("(0, 1], [2, 3)", ["(0, 1]", "[2, 3)"]),
        ("1,000", ["1,000"]),
        ("1,000, 2,000", ["1,000", "2,000"]),
        ("$1$, $2$", ["1", "2"]),
        (r"\frac{1}{2}, y = 3", [r"\frac{1}{2}", "y = 3"]),
        ("sand, corn", ["sand", "corn"]),
        (", ,", []),
        ("", []),
        ("))), 1", ["))), 1"]),
    ],
)
def test_members_of_a_list(text, parts):
    assert split_parts(text) == parts


def test_splitting_takes_linear_time():
    assert len(split_parts("1," * 100_000)) == 100_000


def test_pairing_finds_the_one_way_round_that_fits():
    likes = {("a", "x"), ("a", "y"), ("b", "x")}  # a must leave x to b
    assert can_be_paired(["a", "b"], ["x", "y"], lambda *pair: pair in likes)
    assert not can_be_paired(["a", "b"], ["x", "y"], lambda *pair: pair in {("a", "x"), ("b", "x")})
    assert not can_be_paired(["a"], ["x", "y"], lambda *pair: True)
    assert not can_be_paired(["a"] * (MAX_PARTS + 1), ["x"] * (MAX_PARTS + 1), lambda *pair: True)


def test_no_pair_is_compared_twice():
    asked = []

    def same(*pair):
        asked.append(pair)
        return pair[1] in "xy"

    assert not can_be_paired(list("abc"), list("xyz"), same)
    assert len(asked) == len(set(asked)) <= 9
