"""A row of the table of verdicts."""

from typing import NamedTuple


class Row(NamedTuple):
    gold: str
    completion: str
    right: bool
    source: str


def rows(source: str, right: bool, *pairs: tuple[str, str]) -> list[Row]:
    return [Row(gold, completion, right, source) for gold, completion in pairs]
