r"""Gold answers of several parts, in the one text that ``Prompt.answer`` holds.

Sample: a problem with the solutions 2 and 3 has the gold answer ``{"all_of": ["2", "3"]}``; the answer ``3, 2`` is
right and ``2`` is not. Where either spelling will do, it is ``{"any_of": ["2", "two"]}``. A single answer is its own
text.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple, TypeVar

MAX_PARTS = 16
"""Longer lists are compared as one text."""
MAX_REMEMBERED = 4096
"""Gold texts whose reading is kept."""

_OPENING, _CLOSING = "([{", ")]}"
_SEPARATOR = re.compile(
    r"[,;](?![0-9]{3}(?![0-9]))|[,;](?= )|\\text\{ *(?:and|or) *\}|(?<![A-Za-z\\])(?:and|or)(?![A-Za-z])"
)
_KINDS = ("all_of", "any_of")


Member = TypeVar("Member")


class Gold(NamedTuple):
    """A gold answer, read."""

    parts: tuple[str, ...]
    need_all: bool
    """True: the answer names every part, in any order. False: it is one of them."""
    tolerance: float = 0.0
    """How far a number may be off."""

    @property
    def joined(self) -> str:
        """The parts as one list."""
        return ", ".join(self.parts)


def all_of(parts: Sequence[str]) -> str:
    """The gold text of an answer that names every part."""
    return parts[0] if len(parts) == 1 else json.dumps({"all_of": list(parts)})


def any_of(parts: Sequence[str]) -> str:
    """The gold text of an answer that is one of the parts."""
    return parts[0] if len(set(parts)) == 1 else json.dumps({"any_of": list(dict.fromkeys(parts))})


def with_tolerance(gold: str, tolerance: float) -> str:
    """The gold text of a number that may be off by as much."""
    read = read_gold(gold)
    kind = "all_of" if read.need_all else "any_of"
    return json.dumps({kind: list(read.parts), "tolerance": tolerance}) if tolerance > 0 else gold


@lru_cache(maxsize=MAX_REMEMBERED)
def read_gold(text: str) -> Gold:
    """The parts of a gold text; anything that the functions above did not write is one part."""
    text = text.strip()
    if text.startswith(tuple(f'{{"{kind}": [' for kind in _KINDS)):
        try:
            fields = json.loads(text)
        except ValueError:
            return Gold((text,), need_all=True)
        kind, parts = next(iter(fields.items()))
        tolerance = fields.get("tolerance", 0.0)
        if isinstance(parts, list) and parts and all(isinstance(part, str) for part in parts):
            parts = tuple(part.strip() for part in parts)
            return Gold(parts, kind == "all_of", tolerance if isinstance(tolerance, float) else 0.0)
    return Gold((text,), need_all=True)


def split_parts(text: str) -> list[str]:
    r"""The members of a list: split at commas, semicolons, ``and`` and ``or`` outside brackets.

    Sample: ``\{(1, 2), 3\}`` has the members ``(1, 2)`` and ``3``; ``1,000`` has one.
    """
    text = text.strip().strip("$").strip()
    if text.startswith("\\{") and text.endswith("\\}"):
        text = text[2:-2]
    depth, start, parts = 0, 0, []
    separators = {match.start(): match.end() for match in _SEPARATOR.finditer(text)}
    for index, character in enumerate(text):
        depth += (character in _OPENING) - (character in _CLOSING)
        if index in separators and index >= start and depth == 0:
            parts.append(text[start:index])
            start = separators[index]
    parts.append(text[start:])
    return [part for part in (part.strip(" $\t\n") for part in parts) if part]


def can_be_paired(found: Sequence[Member], golds: Sequence[Member], same: Callable[[Member, Member], bool]) -> bool:
    """True when a one-to-one pairing of equal members exists; every pair is compared at most once."""
    if len(found) != len(golds) or len(found) > MAX_PARTS:
        return False
    known: dict[tuple[int, int], bool] = {}
    partner: dict[int, int] = {}

    def is_same(index: int, gold: int) -> bool:
        if (index, gold) not in known:
            known[index, gold] = same(found[index], golds[gold])
        return known[index, gold]

    def finds_partner(index: int, tried: set[int]) -> bool:
        for gold in range(len(golds)):
            if gold not in tried and is_same(index, gold):
                tried.add(gold)
                if gold not in partner or finds_partner(partner[gold], tried):
                    partner[gold] = index
                    return True
        return False

    return all(finds_partner(index, set()) for index in range(len(found)))
