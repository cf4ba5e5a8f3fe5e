"""Every message with which ``src`` refuses something, read from the syntax trees; ``{}`` stands for a value."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "arrol"
ERRORS = {"ConfigError", "DataError", "ModelError", "CheckpointError", "NonFiniteError", "MissingExtraError"}
VALIDATED = ("configs", "engines/vllm/request.py")
"""Where a plain ValueError becomes a ConfigError."""


@dataclass(frozen=True)
class Refusal:
    """A message and where it is written."""

    path: str
    line: int
    text: str


@cache
def refusals() -> list[Refusal]:
    """All of them; messages without words of their own, which pass another's on, are left out."""
    found = [refusal for path in sorted(SOURCE.rglob("*.py")) for refusal in refusals_of(path)]
    return [refusal for refusal in found if sum(map(str.isalpha, refusal.text)) > 2]


def refusals_of(path: Path) -> Iterator[Refusal]:
    inside = path.relative_to(SOURCE).as_posix()
    names = ERRORS | ({"ValueError"} if inside.startswith(VALIDATED) else set())
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in names and node.args:
            yield Refusal(inside, node.lineno, template(node.args[0]))


def template(node: ast.expr) -> str:
    """Text of a string expression with ``{}`` for what is known at run time only."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(template(part) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    if isinstance(node, ast.BinOp):
        return template(node.left) + template(node.right)
    return "{}"
