r"""Rows of any tool, read as problems or as completions of them.

A row holds one problem with lists (one entry per completion) or one completion; ``dialects.py`` finds its fields.
``--column FIELD=NAME`` names the column of a field in a row of any tool; dots reach inside.

Prompts and completions may be chat messages; their contents are joined by newlines. Of a gold answer that is a worked
solution, only the text after ``####`` or the content of the last ``\boxed{}`` is read. A list of gold answers means any
of them. The key of a row without one is a hash of its prompt.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from arrol.errors import ConfigError, DataError
from arrol.evaluation.cells import COUNT, NUMBER, Cells
from arrol.evaluation.dialects import PLAIN, Fields, fields_of, reward_columns
from arrol.evaluation.problems import Sample, sample_of
from arrol.verifiers.extraction import boxed_content
from arrol.verifiers.gold import any_of

_PER_SAMPLE = ("extracted", "reward", "score", "quality", "num_tokens", "finish_reason", "logprobs", "confidences")
_NUMBERS = ("reward", "score", "quality", "num_tokens")
_ONE_EACH = ("extracted", *_NUMBERS, "finish_reason")


class Part(NamedTuple):
    """One row: a whole problem, or completions of a problem that other rows may add to."""

    key: str
    has_key: bool
    """False when the key is the hash of the prompt."""
    prompt: str
    gold: str | None
    level: int
    samples: list[Sample]
    """Empty for a completion of a training step without reward and gold answer, such as a stopped rollout."""
    is_whole: bool
    variant: str | None = None
    """Tells apart rows that repeat the same completions; one variant is read."""


def parsed_columns(words: Sequence[str]) -> dict[str, str]:
    """Field -> column of ``FIELD=NAME`` words; ConfigError for another form, field or a field named twice."""
    columns: dict[str, str] = {}
    for word in words:
        field, _, name = word.partition("=")
        if field not in PLAIN or not name or field in columns:
            raise ConfigError(
                f"--column = {word!r}: write FIELD=NAME, each field once; the fields are {', '.join(PLAIN)}"
            )
        columns[field] = name
    return columns


def part_of(row: Mapping[str, Any], where: str, columns: Mapping[str, str] | None = None) -> Part:
    """The row as ours; ``where`` is the file and line that an error names, ``columns`` maps fields to columns."""
    fields = fields_of(Cells(row, where))
    for field, name in (columns or {}).items():
        fields[field] = (name, _inside(row, name, f"samples: {where}: --column {field}={name}"))
    for field, needs in (("completion", "completions"), ("prompt", "prompts")):
        if field not in fields:
            raise DataError(
                f"samples: {where}: no column holds {needs} (columns: {_listed(row)}); name it: --column {field}=NAME"
            )
    part = _part(Cells(dict(fields.values()), where), fields)
    if "answer" not in fields and "reward" not in fields:
        if len(rewards := reward_columns(row)) > 1:
            raise DataError(
                f"samples: {where}: several columns hold rewards ({', '.join(rewards)}); "
                "name the one that says right: --column reward=NAME"
            )
        raise DataError(
            f"samples: {where}: no column holds gold answers or rewards (columns: {_listed(row)}); "
            "name it: --column answer=NAME, or --column reward=NAME"
        )
    return part


def _part(cells: Cells, fields: Fields) -> Part:
    column = {field: name for field, (name, _) in fields.items()}
    prompt = _text_of(cells.row[column["prompt"]])
    if not isinstance(prompt, str) or not prompt:
        cells.fail(column["prompt"], "must be a text that is not empty, or a list of chat messages")
    texts = _completions(cells, column["completion"])
    is_whole = isinstance(texts, list)
    key, has_key = _key(cells, column.get("key", "key"), prompt)
    if "index" in fields:
        key, has_key = f"{fields['index'][1]}-{prompt_key(prompt)[:8]}", True
    if "step" in fields and fields["step"][1] is not None:
        key = f"{key}@{Cells({'step': _number(fields['step'][1])}, cells.where).read(COUNT, 'step')}"
    samples = [
        sample_of(each, f"{cells.where}, completion {number}" if is_whole else cells.where)
        for number, each in enumerate(_sample_rows(cells, column, texts), 1)
    ]
    if (
        {"step", "reward"} <= fields.keys()
        and "answer" not in fields
        and all(sample.reward is None for sample in samples)
    ):
        samples = []
    variant = fields.get("variant", ("", None))[1]
    gold = _gold(cells, column["answer"]) if "answer" in column else None
    level = _level(cells, column["level"]) if "level" in column else 0
    return Part(key, has_key, prompt, gold, level, samples, is_whole and "index" not in fields, variant)


def _completions(cells: Cells, name: str) -> str | list[Any]:
    """A completion, or a list of them; chat messages are one text."""
    value = _text_of(cells.row[name])
    if isinstance(value, list):
        value = [_text_of(each) for each in value]
    if not isinstance(value, str) and not (isinstance(value, list) and value):
        cells.fail(name, "must be a text, or a list of at least one")
    return value


def _sample_rows(cells: Cells, column: Mapping[str, str], texts: str | list[Any]) -> list[dict[str, Any]]:
    """The cells of each completion under our names; of a whole problem, from lists of one length."""
    present = [field for field in _PER_SAMPLE if field in column and cells.row[column[field]] is not None]
    values = {field: cells.row[column[field]] for field in present}
    if isinstance(texts, str):
        return [_spelled({"completion": texts, **values})]
    for field in present:
        if not isinstance(values[field], list):
            cells.fail(column[field], f"must be a list of {len(texts)}, one entry per completion")
        if len(values[field]) != len(texts):
            have, completions = len(values[field]), column["completion"]
            cells.fail(column[field], f"has {have} entries for the {len(texts)} completions of {completions}")
    values = {"completion": texts, **values}
    return [_spelled({field: entries[i] for field, entries in values.items()}) for i in range(len(texts))]


def _spelled(cells: dict[str, Any]) -> dict[str, Any]:
    """Our names; numbers as texts in the extracted answer, texts as numbers elsewhere; a list of one as its entry."""
    for field in _ONE_EACH:
        if isinstance(cells.get(field), list) and len(cells[field]) == 1:
            cells[field] = cells[field][0]
    if isinstance(cells.get("extracted"), int | float) and not isinstance(cells["extracted"], bool):
        cells["extracted"] = number_text(cells["extracted"])
    if "extracted" in cells:
        cells["answer"] = cells.pop("extracted")
    return {field: _number(value) if field in _NUMBERS else value for field, value in cells.items()}


def _number(value: Any) -> Any:
    """A text of CSV as the number or truth value that it spells; anything else as it is."""
    if not isinstance(value, str):
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    try:
        return int(value) if value.isascii() and value.isdecimal() and len(value) < 16 else float(value)
    except ValueError:
        return value


def _inside(row: Mapping[str, Any], name: str, named: str) -> Any:
    """The cell of a column; dots reach into objects and, by number, into lists."""
    if name in row:
        return row[name]
    value: Any = row
    for part in name.split("."):
        if isinstance(value, Mapping) and part in value:
            value = value[part]
        elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
            value = value[int(part)]
        else:
            raise DataError(f"{named}: no such column (columns: {_listed(row)}); name one of them")
    return value


def _listed(row: Mapping[str, Any]) -> str:
    names = ", ".join(map(str, row))
    return names if len(names) <= 200 else names[:197] + "..."


def _text_of(value: Any) -> Any:
    """Chat messages as the text of their contents; anything else as it is."""
    if isinstance(value, list) and value and all(isinstance(turn, Mapping) and "content" in turn for turn in value):
        contents = [_content(turn["content"]) for turn in value]
        return "\n".join(content for content in contents if content)
    return value


def _content(value: Any) -> str:
    """The text of a message, which may come in parts."""
    if isinstance(value, list):
        return "\n".join(str(part.get("text") or "") for part in value if isinstance(part, Mapping))
    return "" if value is None else str(value)


def _key(cells: Cells, name: str, prompt: str) -> tuple[str, bool]:
    """The key, and whether the row has one."""
    value = cells.row.get(name)
    if value is None or value == "":
        return prompt_key(prompt), False
    return value if isinstance(value, str) else str(cells.read(COUNT, name)), True


def prompt_key(prompt: str) -> str:
    """The key of a problem without one: a hash of its prompt."""
    return hashlib.blake2b(prompt.encode("utf-8", "surrogatepass"), digest_size=8).hexdigest()


def _gold(cells: Cells, name: str) -> str | None:
    """The gold answer of a cell; a list means any of its entries."""
    value = cells.row.get(name)
    values = value if isinstance(value, list) else [value]
    golds = [gold for gold in (_one_gold(cells, name, each) for each in values) if gold]
    return any_of(golds) if golds else None


def _one_gold(cells: Cells, name: str, value: Any) -> str | None:
    if value is None:
        return None
    if isinstance(value, str):
        return gold_text(value)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return None if Cells({name: value}, cells.where).read(NUMBER, name) is None else number_text(value)
    if isinstance(value, Mapping):
        return json.dumps(value)
    cells.fail(name, "must be a text, a number, or a list of them")


def gold_text(text: str) -> str:
    """A gold answer without the worked solution around it."""
    if "####" in text:
        return text.rpartition("####")[2].strip()
    if "\\boxed{" in text:
        return boxed_content(text) or text.strip()
    return text.strip()


def number_text(value: int | float) -> str:
    """A number as an answer: 27.0 is 27."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _level(cells: Cells, name: str) -> int:
    value = cells.row.get(name)
    if isinstance(value, str):
        digits = re.fullmatch(r"(?:[Ll]evel )?([0-9]{1,3})", value)
        return int(digits[1]) if digits else 0
    return cells.read(COUNT, name) or 0
