"""Errors for the user are one line, whatever they quote."""

import doctest

import pytest

from arrol import errors
from arrol.errors import ArrolError, MissingExtraError


def test_docstring_examples():
    assert doctest.testmod(errors).failed == 0


@pytest.mark.parametrize("kind", [errors.ArrolError, *errors.ArrolError.__subclasses__()])
def test_every_error_is_one_printable_line(kind):
    said = str(kind("a = 1: two\nlines\r\u2028 \x1b[2J \ud800 \x00; \u00e4"))
    assert said == "a = 1: two lines   \\x1b[2J \\ud800 \\x00; \u00e4"
    assert said.isprintable()
    said.encode("utf-8")


def test_an_error_without_a_message_stays_empty():
    assert str(ArrolError()) == ""
    assert str(MissingExtraError("pandas is not installed", name="pandas")) == "pandas is not installed"
