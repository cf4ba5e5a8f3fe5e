"""What is equal, what is not, and what is left to algebra; the table holds the rest."""

from arrol.verifiers.comparison import equality, equality_of_parts


def test_what_is_left_to_algebra():
    assert equality("3", r"\max(3, 2)").right is None
    assert equality(r"\sum_{k=1}^2 k", "3").right is None
    assert equality("7?8", "7").right is False
    assert equality("9^{9^{9^9}}", "7").right is False


def test_a_tolerance():
    assert equality("3.15", "3.14", 0.02).right is True
    assert equality("3.17", "3.14", 0.02).right is False


def test_parts():
    assert equality_of_parts(r"\pm 2", ("2", "-2")).right is True
    assert equality_of_parts("(3,4), (1,2)", ("(1,2)", "(3,4)")).right is True
    assert equality_of_parts("2", ("2", "-2")).right is False


def test_reasons():
    assert equality("10 km", "10 m").reason == "unit km is not m"
    assert equality("1,2", "1,2,3").reason == "2 members, not 3"
