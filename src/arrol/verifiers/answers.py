r"""Answers read: which kind an answer is, and its parts.

Sample: ``x = \frac{1}{2} \text{ or } x = 3`` is a list of two relations; ``[0, 1)`` is an interval; ``E) 12`` is the
choice E with the content 12; ``\text{Friday}`` are words; ``7?8`` is unreadable. Texts are bounded by the caller.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from arrol.verifiers.formula import FormulaError, Node, parse_formula
from arrol.verifiers.gold import split_parts
from arrol.verifiers.spelling import tidied, without_unit

MAX_REMEMBERED = 8192
"""Answers whose reading is kept."""
MAX_MEMBERS = 32
"""Longer lists are unreadable."""

_LETTER = re.compile(r"(?:\\text\{)?\(?([A-J])\)?\}?[.:]?")
_CHOICE = re.compile(r"(?:\\text\{)?\(?([A-J])(?:\)[.:]?|[.:](?=[\s\\]))\}?\s*(?!\s*(?:or|and)\b)(\S.*)", re.DOTALL)
_OTHER_CHOICE = re.compile(r"(?<![A-Za-z\\])[A-J]\)")
_RELATION = re.compile(r"\\(?:le|ge|ne|in|approx|equiv|simeq)(?![A-Za-z])|\\notin|==|=|<|>")
_WORDS = re.compile(r"(?:\\text\{[^{}]*\}|[A-Za-z][A-Za-z'-]*[,.]?|\s)+")
_CLOCK = re.compile(r"(\d{1,2}):(\d{2})\s*(?:\\text\{)?\s*([ap])?\.?\s*m?\.?\s*\}?", re.IGNORECASE)
_RATIO = re.compile(r"[^:\\]+(?::[^:\\]+)+")
_BASED = re.compile(r"(?:\\text\{)?([0-9A-Za-z]+)\}?_(?:\{?(\d{1,2})\}?|\{?\\text\{(\w+)\}\}?)")
_MIXED = re.compile(r"([-+]?)(\d+) (\d+)/(\d+)")
_DECIMAL = re.compile(
    r"[-+]?(?:(\d*)\.(\d+)|(\d+))(?:[eE]([-+]?\d{1,4})|(?:\\times|\\cdot|\*)10(?:\^|\*\*)\{?([-+]?\d{1,4})\}?)?"
)
_DECIMAL_COMMA = re.compile(r"([-+]?\d+),(\d+)")
_PERCENT = re.compile(r"\s*(?:\\?%|\\text\{\s*(?:percent|pct|percentage)\s*\}|(?:percent|pct|percentage)\b)\s*$")
_MATRIX = re.compile(r"(?:\[|\()?\\begin\{([a-z]?matrix|array)\}(?:\{[lcr|]*\})?(.*)\\end\{\1\}(?:\]|\))?", re.DOTALL)
_MEMBER_JOIN = re.compile(r",?\s(?:and|or)\s")
_FUNCTION_OF = re.compile(r"[A-Za-z]'*\([A-Za-z0-9](?:,[A-Za-z0-9])*\)|[A-Za-z]{1,12}|\\text\{[^{}]*\}|[A-Z]_\{?\w+\}?")


@dataclass(frozen=True)
class Answer:
    """An answer, read."""

    kind: str
    """letter, choice, words, formula, list, set, tuple, union, relation, matrix, empty, opaque (unreadable)."""
    text: str
    """Tidied spelling."""
    node: Node | None = None
    """The formula."""
    raw: Node | None = None
    """The formula if what was taken for a unit is a letter of it."""
    unit: str = ""
    has_percent: bool = False
    letter: str = ""
    members: tuple[Answer, ...] = ()
    """Members, sides of a relation, entries of a matrix row by row, or the content of a choice."""
    signs: tuple[str, ...] = ()
    """Signs of a relation; the brackets of a tuple; the shape of a matrix; signs of a union."""

    @property
    def is_lone_name(self) -> bool:
        return (self.node is not None and self.node.kind == "name") or bool(_FUNCTION_OF.fullmatch(self.text))


@lru_cache(maxsize=MAX_REMEMBERED)
def read_answer(text: str) -> Answer:
    """The answer that is the whole of a text."""
    return _read(tidied(text))


@lru_cache(maxsize=MAX_REMEMBERED)
def decimal_places(text: str) -> tuple[int, int] | None:
    """Significant digits and exponent of the last place of a decimal number with a point; None for anything else."""
    match = _DECIMAL.fullmatch(text)
    if match is None or match[2] is None:
        return None
    digits = (match[1] + match[2]).lstrip("0")
    return len(digits), int(match[4] or match[5] or 0) - len(match[2])


def _read(text: str) -> Answer:
    text = _without_braces(text)
    letter = _LETTER.fullmatch(text)
    if letter and text.count("(") == text.count(")"):
        return Answer("letter", letter[1], letter=letter[1])
    choice = _CHOICE.fullmatch(text)
    if choice and not _OTHER_CHOICE.search(choice[2]) and (content := choice[2].strip(" ,.")):
        inner = _read(tidied(content))
        if inner.kind not in ("letter", "choice", "opaque"):
            return Answer("choice", text, letter=choice[1], members=(inner,))
    if text == "\\emptyset":
        return Answer("empty", text)
    return _special(text) or _compound(text) or _simple(text)


def _without_braces(text: str) -> str:
    while len(text) > 1 and text[0] == "{" and _closing(text, 0) == len(text) - 1:
        text = text[1:-1].strip()
    return text


def _closing(text: str, start: int) -> int:
    """Where the bracket at ``start`` closes; -1 when it does not."""
    depth = 0
    for at in range(start, len(text)):
        depth += (text[at] in "([{") - (text[at] in ")]}")
        if depth == 0:
            return at
    return -1


def _special(text: str) -> Answer | None:
    """Times, numbers with a base, ratios, matrices."""
    clock = _CLOCK.fullmatch(text)
    if clock:
        return Answer("words", f"{int(clock[1])}:{clock[2]} {(clock[3] or '').lower()}".strip())
    based = _BASED.fullmatch(text)
    if based and any(c.isdigit() for c in based[1]):
        return Answer("words", f"{based[1].lower()}_{based[2] or based[3]}")
    matrix = _MATRIX.fullmatch(text)
    if matrix:
        rows = [
            row for row in re.split(r"\\\\(?:\[\d*[a-z]*\])?", matrix[2]) if row.strip() and row.strip() != "\\hline"
        ]
        cells = [[_read(cell.strip()) for cell in row.split("&")] for row in rows]
        if len({len(row) for row in cells}) == 1:
            shape = (str(len(cells)), str(len(cells[0])))
            return Answer("matrix", text, members=tuple(cell for row in cells for cell in row), signs=shape)
    if ":" in text and _RATIO.fullmatch(text) and "\\{" not in text and "=" not in text:
        members = tuple(_simple(part.strip()) for part in text.split(":"))
        if all(member.kind == "formula" for member in members):
            return Answer("tuple", text, members=members, signs=(":", ":"))
    return None


def _compound(text: str) -> Answer | None:
    """Lists, relations, unions, sets, tuples and intervals."""
    if ";" in text and (pairs := _assigned(text)):
        return Answer("list", text, members=pairs)
    parts = split_parts(text) if not text.startswith("\\{") or _set_end(text) < len(text) else [text]
    if len(parts) > MAX_MEMBERS:
        return Answer("opaque", text)
    if len(parts) > 1:
        return Answer("list", text, members=flat(tuple(_read(part) for part in parts)))
    if len(parts) == 1 and parts[0] != text and _MEMBER_JOIN.search(f" {text} "):
        return Answer("opaque", text)
    relation = _split_outside(text, _RELATION)
    if len(relation) > 1:
        sides, signs = relation[::2], relation[1::2]
        if not all(side.strip() for side in sides) or len(sides) > MAX_MEMBERS:
            return Answer("opaque", text)
        if "\\pm" in text and signs == ["="]:
            return _read(sides[1])
        signs = ["=" if sign in ("==", "\\equiv") else sign for sign in signs]
        return Answer("relation", text, members=tuple(_read(side.strip()) for side in sides), signs=tuple(signs))
    union = _split_outside(text, re.compile(r"\\(?:cup|setminus|backslash|cap)(?![A-Za-z])"))
    if len(union) > 1:
        return Answer("union", text, members=tuple(_read(p.strip()) for p in union[::2]), signs=tuple(union[1::2]))
    if text.startswith("\\mathbb{R}"):
        return Answer("union", "\\mathbb{R}") if text == "\\mathbb{R}" else Answer("opaque", text)
    if text.startswith("\\{") and _set_end(text) == len(text):
        members = flat(tuple(_read(part) for part in split_parts(text[2:-2])))
        return Answer("set", text, members=members) if members else Answer("empty", text)
    if "\\pm" in text or "\\mp" in text:
        return _plus_minus(text)
    if text[:1] in ("(", "[") and _closing(text, 0) == len(text) - 1 and "\\begin" not in text:
        members = tuple(_read(part) for part in split_parts(text[1:-1]))
        if 1 < len(members) <= MAX_MEMBERS:
            return Answer("tuple", text, members=members, signs=(text[0], text[-1]))
    return None


def _assigned(text: str) -> tuple[Answer, ...]:
    """``p=5,q=2;p=7,q=2`` as its tuples (5, 2) and (7, 2); empty for anything else."""
    groups = [[member.split("=") for member in part.split(",")] for part in text.split(";")]
    names = [tuple(sides[0] for sides in group) for group in groups]
    if len(set(names)) != 1 or not 1 < len(names[0]) <= MAX_MEMBERS or len(groups) > MAX_MEMBERS:
        return ()
    if any(len(sides) != 2 or not re.fullmatch(r"[A-Za-z]", sides[0]) for group in groups for sides in group):
        return ()
    return tuple(_read(f"({','.join(sides[1] for sides in group)})") for group in groups)


def _set_end(text: str) -> int:
    depth = 0
    for at in range(len(text) - 1):
        depth += (text[at : at + 2] == "\\{") - (text[at : at + 2] == "\\}")
        if depth == 0 and text[at : at + 2] == "\\}":
            return at + 2
    return len(text) + 1


def flat(members: tuple[Answer, ...]) -> tuple[Answer, ...]:
    """Members with the lists among them (``\\pm``) opened."""
    return tuple(one for member in members for one in (member.members if member.kind == "list" else (member,)))


def _plus_minus(text: str) -> Answer:
    upper = text.replace("\\pm", "+").replace("\\mp", "-")
    lower = text.replace("\\pm", "-").replace("\\mp", "+")
    return Answer("list", text, members=(_read(upper), _read(lower)))


def _split_outside(text: str, separator: re.Pattern[str]) -> list[str]:
    """Parts and separators in turn; separators inside brackets do not count."""
    depth = start = 0
    parts: list[str] = []
    found = {match.start(): match for match in separator.finditer(text)}
    if not found:
        return [text]
    for at, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if depth == 0 and at in found and at >= start:
            parts += [text[start:at], found[at][0]]
            start = found[at].end()
    return [*parts, text[start:]]


def _simple(text: str) -> Answer:
    """A formula with or without a unit, or words."""
    mixed = _MIXED.fullmatch(text)
    if mixed:
        text = f"{mixed[1]}({mixed[2]}+{mixed[3]}/{mixed[4]})"
    percent = _PERCENT.search(text)
    bare, unit = (text[: percent.start()], "") if percent else without_unit(text)
    node = _formula(bare)
    if node is not None and not (unit and not percent and node.kind == "name" and _is_word(text)):
        raw = _formula(text) if unit and not percent else None
        return Answer("formula", bare, node=node, raw=raw, unit=unit, has_percent=percent is not None)
    if _WORDS.fullmatch(text) and _is_word(text):
        words = re.sub(r"\\text\{([^{}]*)\}", r" \1 ", text)
        return Answer("words", " ".join(re.sub(r"[^\w\s'-]", " ", words).casefold().split()))
    return Answer("opaque", text)


def _formula(text: str) -> Node | None:
    if _is_word(text) and re.fullmatch(r"[A-Za-z]{4,}", text):
        return None
    try:
        return parse_formula(text)
    except FormulaError:
        return None


def _is_word(text: str) -> bool:
    return bool(re.search(r"[A-Za-z]{2}", re.sub(r"\\(?!text)[A-Za-z]+", "", text)))


def decimal_point(text: str) -> str | None:
    """``1,22`` as ``1.22``; None for anything else."""
    match = _DECIMAL_COMMA.fullmatch(text.strip(" $"))
    return f"{match[1]}.{match[2]}" if match else None
