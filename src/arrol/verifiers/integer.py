r"""The final integer of a text.

Sample: ``"... so she has 3 * 4 = <<3*4=12>>12 left.\n#### 1,012.00"`` holds the integer 1012.

Rules, in this order:

1. The number behind the last mark (default ``####``), on the same line. A mark without a number means no answer.
2. Without any mark, the last number of the text, unless ``require_mark``.
3. A number is ASCII digits with an optional sign, ``$``, thousands separators in their right places and a fraction of
   zeros. Any other number (``1,23``, ``4.5``, ``5M``, ``3/4``, ``2^5``, ``5\sqrt{2}``, digits of another script) means
   no answer; nothing earlier in the text is tried.

Work is bounded: one backward search for each mark, then at most :data:`WINDOW_CHARS` characters are read.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from arrol.errors import ConfigError, DataError
from arrol.types import Verdict

MAX_DIGITS = 100
"""Longer numbers are refused: int() of a long text takes quadratic time."""
WINDOW_CHARS = 2_000
"""Characters read behind a mark, or at the end of a text without one."""

_NUMBER = re.compile(r"(?P<sign>[-+]?)(?P<whole>[0-9]{1,3}(?:,[0-9]{3})+|[0-9]+)(?:\.0+)?")
_SIGN = r"(?:(?<![\w)\]}.])[-+\u2212])?"
# \d and \w know every script on purpose: a digit of another script must spoil the number, not cut it short.
_TOKEN = re.compile(rf"(?P<sign>{_SIGN})(?:\\?\$[ ]?(?P<inner>[-+\u2212]?))?(?P<body>\d(?:[\d,.]|\{{,\}}|\\,(?=\d))*)")
_BEHIND_MARK = re.compile(r"[ \t*:=]{0,16}(?:\\?[(\[])?[ \t*]{0,4}")
# What would make the digits a part of something else: a letter, an operator with an operand, a LaTeX command other than
# a unit or the end of a formula.
_CONTINUES = re.compile(
    r"\w|[/^(]|[-+=*][A-Za-z]|[ \t]*[-+*/^=][ \t]*[0-9($\\]|[ \t]*\\(?!text|mathrm|quad|dots|box)[A-Za-z]"
)


def parse_integer(text: str) -> int | None:
    """The integer that is the whole of ``text``, or None."""
    text = text.strip()[: WINDOW_CHARS + 1]
    match = _TOKEN.match(text)
    return _value(match) if match and match.end() == len(text) else None


def final_integer(text: str, marks: Sequence[str] = ("####",), *, require_mark: bool = False) -> int | None:
    """The integer a text ends with, by the rules above, or None."""
    end = max((start + len(mark) for mark in marks if (start := text.rfind(mark)) >= 0), default=-1)
    if end >= 0:
        window = text[end : end + WINDOW_CHARS]
        skipped = _BEHIND_MARK.match(window)
        match = _TOKEN.match(window, skipped.end() if skipped else 0)
        return _value(match) if match and not _CONTINUES.match(window, match.end()) else None
    if require_mark:
        return None
    return _last_integer(text[-WINDOW_CHARS:])


def _last_integer(window: str) -> int | None:
    matches = list(_TOKEN.finditer(window))
    if not matches or _CONTINUES.match(window, matches[-1].end()):
        return None
    match = matches[-1]
    before = window[match.start() - 1] if match.start() else " "
    if before in "./^_\\" or before.isalnum():
        return None
    return _value(match)


def _value(match: re.Match[str]) -> int | None:
    """The integer a token spells, or None when its spelling is not exact."""
    sign, inner = match["sign"], match["inner"] or ""
    if sign and inner:
        return None
    body = match["body"].replace("{,}", ",").replace("\\,", ",").rstrip(".,")
    number = _NUMBER.fullmatch(body)
    if number is None or len(body) > MAX_DIGITS:
        return None
    value = int(number["whole"].replace(",", ""))
    return value if (sign or inner) in ("", "+") else -value


class IntegerVerifier:
    """Right when the final integer of the text equals the gold integer."""

    def __init__(self, marks: Sequence[str] = ("####",), *, require_mark: bool = False) -> None:
        if isinstance(marks, str) or not all(marks) or (require_mark and not marks):
            raise ConfigError(f"marks: {marks!r} must be a list of texts that are not empty, such as ['####']")
        self.marks = tuple(marks)
        self.require_mark = require_mark

    def verify(self, text: str, answer: str) -> Verdict:
        gold = parse_integer(answer)
        if gold is None:
            raise DataError(f"answer: {answer[:80]!r} is not an integer; choose verifier 'symbolic' for this task")
        found = final_integer(text, self.marks, require_mark=self.require_mark)
        return Verdict(reward=float(found == gold), answer=None if found is None else str(found))
