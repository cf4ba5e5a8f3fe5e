r"""Columns of a row, read as a question with its gold answer.

Sample: the row ``{"Body": "Ann has 3 eggs", "Question": "How many?", "Answer": 3.0}`` is the question ``Ann has 3 eggs.
How many?`` with the gold answer ``3``.

1. A column may be dotted (``reward_model.ground_truth``), and columns joined by ``+`` are one question; a part that is
   null or blank is left out.
2. A question may be a list of chat messages. Where the assistant has the last word, that is left out of the question,
   and is the gold answer when no column is.
3. A list of gold answers means all of them in any order, or any one of them when ``is_multiple_answer`` is false. A
   single text with a true ``is_multiple_answer`` is split at its commas (``verifiers/gold.py``).
4. ``error`` beside a list of gold answers is a tolerance. Columns of units and choices are not read: an answer is right
   with or without its unit.
5. ``level`` is a number or ``Level 3``; anything else is level 0.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from arrol.errors import ConfigError, DataError
from arrol.tasks.presets import Preset, preset_of
from arrol.tasks.sources import records
from arrol.verifiers.extraction import boxed_content
from arrol.verifiers.gold import all_of, any_of, split_parts, with_tolerance

USUAL_PROMPT_COLUMNS = ("prompt", "question", "problem", "Body+Question", "Question", "Problem", "messages")
USUAL_ANSWER_COLUMNS = ("answer", "final_answer", "Answer", "reward_model.ground_truth", "solution")
LAST_WORD = "last message of the assistant"
"""Stands for a column of answers."""


@dataclass(frozen=True)
class Row:
    """One question, read and checked."""

    key: str
    question: str
    messages: tuple[Mapping[str, str], ...]
    """The question as chat messages, where it came as such."""
    answer: str
    """Empty where there is none and a reward function judges."""
    solution: str
    level: int
    cells: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """All columns, where reward functions judge; ``prompt`` is the question as the data has it."""


@dataclass(frozen=True)
class Columns:
    """Columns to read and the format of the answer; None means the preset's or the usual one."""

    prompt: str | None = None
    answer: str | None = None
    answer_format: str | None = None
    preset: Preset | None = None
    """Preset of a local copy; None means the source's own, if it is one."""
    for_rewards: bool = False
    """Reward functions judge: every column is kept, and a gold answer is read only where it is a text or a number."""

    def settled(self, source: str, split: str) -> Columns:
        """The columns and the format that the first row of a split tells."""
        for _, record in records(source, split):
            return self._resolved(source, record)
        raise _is_empty(source, split)

    def first(self, source: str, split: str) -> Row:
        """The first row of a split, which tells the columns."""
        for place, record in records(source, split):
            return self._resolved(source, record).row(record, place)
        raise _is_empty(source, split)

    def read(self, source: str, split: str, *, deduplicate: bool = False) -> list[Row]:
        """The rows of a split in file order; ``deduplicate`` keeps the first of equal questions."""
        rows: dict[object, Row] = {}
        columns = None
        for number, (place, record) in enumerate(records(source, split), 1):
            columns = columns or self._resolved(source, record)
            row = columns.row(record, place)
            rows.setdefault(row.key if deduplicate else number, row)
        if not rows:
            raise _is_empty(source, split)
        return list(rows.values())

    def row(self, record: Mapping[str, Any], where: str) -> Row:
        """One record, checked; the columns are settled."""
        assert self.prompt is not None
        asked, last_word = _without_answer(_asked(record, self.prompt, where))
        question, messages = _question(asked, where)
        key = hashlib.blake2b(question.encode("utf-8", "replace"), digest_size=8).hexdigest()
        level = _level(record.get("level"))
        if self.for_rewards:
            told = self._told(record) if self.answer else last_word
            return Row(key, question, messages, told, "", level, {**record, "prompt": asked})
        gold, written = self._gold(record if self.answer != LAST_WORD else {LAST_WORD: last_word}, where)
        return Row(key, question, messages, gold, self._solution(record, written), level)

    def _told(self, record: Mapping[str, Any]) -> str:
        """The answer column as it stands, for samples files; empty where it holds no text and no number."""
        column = self.answer or ""
        value = _value(record, column, "answer_column", "row") if _has(record, column) else None
        return str(value) if isinstance(value, str | int | float) else ""

    def _gold(self, record: Mapping[str, Any], where: str) -> tuple[str, str]:
        """The gold answer, and the text it was read from."""
        assert self.answer is not None
        assert self.answer_format is not None
        value = _value(record, self.answer, "answer_column", where)
        written = [_text(each, where) for each in (value if isinstance(value, list) and value else [value])]
        golds = [ANSWER_FORMATS[self.answer_format](text) for text in written]
        if not all(golds):
            text = written[golds.index("")]
            raise DataError(f"answer_column: {where} holds {text[-60:]!r}, not format {self.answer_format!r}")
        if not isinstance(value, list):
            return golds[0], written[0]
        golds = [gold.strip(" $") or gold for gold in golds]
        is_multiple = record.get("is_multiple_answer")
        if len(golds) == 1 and is_multiple:
            golds = split_parts(golds[0]) or golds
        gold = (any_of if is_multiple is False else all_of)(golds)
        return with_tolerance(gold, _tolerance(record.get("error"))), written[0]

    def _solution(self, record: Mapping[str, Any], written: str) -> str:
        if self.answer_format != "plain":
            return written
        solution = record.get("solution")
        return solution if isinstance(solution, str) and self.answer != "solution" else ""

    def _resolved(self, source: str, first: Mapping[str, Any]) -> Columns:
        preset = self.preset or preset_of(source)
        prompt = self.prompt or (preset.prompt_column if preset else _usual(first, USUAL_PROMPT_COLUMNS, "prompt"))
        if not self.prompt and not preset and {"context", "question", "final_answer"} <= first.keys():
            prompt = "context+question"
        if self.for_rewards:
            usual = next((name for name in USUAL_ANSWER_COLUMNS if name in first), None)
            return replace(self, prompt=prompt, answer=self.answer or (preset.answer_column if preset else usual))
        answer = self.answer or (preset.answer_column if preset else _usual_answer(first, prompt))
        record = {LAST_WORD: _last_word(first, prompt)} if answer == LAST_WORD else first
        answer_format = self.answer_format or (preset.answer_format if preset else _usual_format(record, answer))
        if answer_format not in ANSWER_FORMATS:
            raise ConfigError(f"answer_format: {answer_format!r} is unknown; choose from {', '.join(ANSWER_FORMATS)}")
        return Columns(prompt, answer, answer_format)


def _is_empty(source: str, split: str) -> DataError:
    return DataError(f"source: {source!r} split {split!r} is empty; give a file with at least one row")


def _tolerance(value: object) -> float:
    """How far a number may be off (OlympiadBench's ``error``); 0 where the cell holds no single number."""
    try:
        tolerance = float(value) if isinstance(value, str | float) else 0.0
    except ValueError:
        return 0.0
    return tolerance if 0 < tolerance < math.inf else 0.0


def _gsm8k(text: str) -> str:
    _, mark, gold = text.rpartition("####")
    return gold.strip() if mark else ""


ANSWER_FORMATS: dict[str, Callable[[str], str]] = {
    "gsm8k": _gsm8k,
    "boxed": lambda text: boxed_content(text) or "",
    "plain": str.strip,
}
"""How a gold answer is read from its column; empty when it is not written that way."""


def _usual(record: Mapping[str, Any], names: Sequence[str], what: str) -> str:
    for name in names:
        if all(_has(record, part) for part in name.split("+")):
            return name
    raise DataError(f"{what}_column: not given and none of {', '.join(names)} exists; available: {', '.join(record)}")


def _usual_answer(record: Mapping[str, Any], prompt: str) -> str:
    """The usual column of answers, else the assistant's last word in the question."""
    has_column = any(_has(record, name) for name in USUAL_ANSWER_COLUMNS)
    if not has_column and _last_word(record, prompt):
        return LAST_WORD
    return _usual(record, USUAL_ANSWER_COLUMNS, "answer")


def _last_word(record: Mapping[str, Any], prompt: str) -> str:
    """What the assistant says at the end of the question; empty where it does not, or where there is no question."""
    return _without_answer(_value(record, prompt, "prompt_column", "row"))[1] if _has(record, prompt) else ""


def _without_answer(asked: Any) -> tuple[Any, str]:
    """Chat messages up to the last one that is not the assistant's, and what the assistant says behind it."""
    is_chat = isinstance(asked, list) and len(asked) > 1 and all(isinstance(each, Mapping) for each in asked)
    if not is_chat or asked[-1].get("role") != "assistant":
        return asked, ""
    return asked[:-1], str(asked[-1].get("content") or "")


def _usual_format(record: Mapping[str, Any], column: str) -> str:
    """The format of a gold answer that is written like a worked solution."""
    value = record.get(column)
    if isinstance(value, str) and "####" in value:
        return "gsm8k"
    return "boxed" if isinstance(value, str) and "\\boxed{" in value else "plain"


def _has(record: Mapping[str, Any], column: str) -> bool:
    value: Any = record
    for part in column.split("."):
        if not isinstance(value, Mapping) or part not in value:
            return False
        value = value[part]
    return True


def _asked(record: Mapping[str, Any], column: str, where: str) -> Any:
    """The question: a cell, or the cells of several columns one after the other, each ended like a sentence."""
    if column in record or "+" not in column:
        return _value(record, column, "prompt_column", where)
    parts = [_value(record, name.strip(), "prompt_column", where) for name in column.split("+")]
    texts = [str(part).strip() for part in parts if part is not None]
    texts = [text for text in texts if text]
    ended = [text if text.endswith((".", "!", "?", ":", ",")) else f"{text}." for text in texts[:-1]]
    return " ".join([*ended, *texts[-1:]])


def _value(record: Mapping[str, Any], column: str, field: str, where: str) -> Any:
    """A cell; dots reach inside unless a column has that very name."""
    if column in record:
        return record[column]
    value: Any = record
    for part in column.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise DataError(f"{field}: {column!r} is not in {where}; available: {', '.join(map(str, record))}")
        value = value[part]
    return value


def _question(value: Any, where: str) -> tuple[str, tuple[Mapping[str, str], ...]]:
    """The question as text, and as messages when it came as such."""
    if isinstance(value, str) and value.strip():
        return value, ()
    if isinstance(value, list) and value and all(isinstance(m, Mapping) and "content" in m for m in value):
        messages = tuple({"role": str(m.get("role", "user")), "content": str(m["content"])} for m in value)
        return "\n".join(message["content"] for message in messages), messages
    raise DataError(f"prompt_column: {where} holds {str(value)[:60]!r}; it must be text or a list of chat messages")


def _text(value: Any, where: str) -> str:
    """A gold answer as text; 27.0 is 27."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    is_number = type(value) is int or (isinstance(value, float) and math.isfinite(value))
    if not is_number and not (isinstance(value, str) and value.strip()):
        raise DataError(f"answer_column: {where} holds {str(value)[:60]!r}; it must be a text or a number, or a list")
    return str(value)


def _level(value: Any) -> int:
    if isinstance(value, str):
        digits = re.fullmatch(r"(?:[Ll]evel )?([0-9]{1,3})", value.strip())
        return int(digits[1]) if digits else 0
    return int(value) if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1000 else 0
