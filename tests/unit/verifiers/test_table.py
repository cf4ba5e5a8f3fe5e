"""Every row of the table of verdicts holds, by the verifier of every gold answer and by the one of integers."""

import pytest

from arrol.verifiers.integer import IntegerVerifier, parse_integer
from arrol.verifiers.symbolic import SymbolicVerifier

from .verdict_table import TABLE

NAMES = [f"{row.source}: {row.gold[:40]} <- {row.completion[:60]}" for row in TABLE]


@pytest.fixture(scope="module")
def verifier():
    verifier = SymbolicVerifier()
    yield verifier
    verifier.close()


@pytest.mark.parametrize("row", TABLE, ids=NAMES)
def test_the_verdict_of_a_row(verifier, row):
    verdict = verifier.verify(row.completion, row.gold)
    assert verdict.is_right == row.right, verdict
    if parse_integer(row.gold) is not None:
        assert IntegerVerifier().verify(row.completion, row.gold).is_right == row.right
