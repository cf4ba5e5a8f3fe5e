r"""Rows of other tools, read as ours.

A row holds one problem with lists (one entry per completion) or one completion. Its columns tell the tool:

* **lighteval** details: ``doc`` or ``__doc__`` with ``query``, ``choices``, ``gold_index`` (several mean any of them),
  ``id``; ``model_response`` or ``__model_response__`` with ``text`` and ``output_tokens``, read for their lengths.
* **verl** dumps: ``VERL`` below; completions of one input at one step form a problem.
* **Qwen2.5-Math**: ``QWEN`` below; ``score`` is right or wrong, ``pred_score`` a number or a list of one.
* **Plain** rows: the first of the names in ``PLAIN`` that exists; ``level`` is ``3`` or ``Level 3``.

Of a gold answer that is a worked solution, only the text after ``####`` or the content of the last ``\boxed{}`` is
read. A list of gold answers means any of them. The key of a row without one is a hash of its prompt. Other columns are
not read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from arrol.errors import DataError
from arrol.evaluation.cells import COUNT, NUMBER, TEXT, Cells
from arrol.evaluation.problems import Sample, sample_of
from arrol.verifiers.gold import any_of
from arrol.verifiers.symbolic import boxed_content

Names = Mapping[str, Sequence[str]]

PLAIN: Names = {
    "completion": (
        *("completions", "completion", "responses", "response"),
        *("outputs", "output", "generations", "generation"),
    ),
    "prompt": ("prompt", "question", "problem", "input", "query"),
    "gold": ("gold", "gt", "gts", "ground_truth", "reference_answer", "answer", "target"),
    "key": ("key", "id", "idx", "problem_id", "unique_id", "question_id"),
    "answer": ("answers", "extracted_answers", "extracted_answer", "preds", "pred", "predictions", "prediction"),
    "reward": ("rewards", "reward", "correct", "is_correct"),
    "score": ("scores", "score", "pred_score"),
    "quality": ("qualities", "quality"),
    "num_tokens": ("num_tokens", "completion_tokens"),
    "finish_reason": ("finish_reasons", "finish_reason"),
    "logprobs": ("logprobs",),
    "confidences": ("confidences",),
    "level": ("level",),
}
QWEN: Names = {
    "completion": ("code",),
    "prompt": ("question",),
    "gold": ("gt",),
    "key": ("idx",),
    "answer": ("pred",),
    "reward": ("score",),
    "score": ("pred_score",),
    "level": ("level",),
}
VERL: Names = {
    "completion": ("output",),
    "prompt": ("input",),
    "gold": ("gts",),
    "answer": ("pred",),
    "reward": ("score",),
    "step": ("step",),
}
_PER_SAMPLE = ("answer", "reward", "score", "quality", "num_tokens", "finish_reason", "logprobs", "confidences")
_LIGHTEVAL = (("doc", "model_response"), ("__doc__", "__model_response__"))


class Part(NamedTuple):
    """One row: a whole problem, or one completion of a problem."""

    key: str
    has_key: bool
    """False when the key is the hash of the prompt."""
    prompt: str
    gold: str | None
    level: int
    samples: list[Sample]
    is_whole: bool


def part_of(row: Mapping[str, Any], where: str) -> Part:
    """The row as ours; ``where`` is the file and line that an error names."""
    for pair in _LIGHTEVAL:
        if all(column in row for column in pair):
            return _read_lighteval(row, where, *pair)
    if {"code", "gt"} <= row.keys():
        return _read_named(row, where, QWEN)
    if {"input", "output", "score"} <= row.keys():
        return _read_named(row, where, VERL)
    if any(name in row for name in PLAIN["completion"]):
        return _read_named(row, where, PLAIN)
    columns = ", ".join(map(str, row))[:120]
    raise DataError(
        f"samples: {where}: no column holds completions (columns: {columns}); name it completion, or completions"
    )


def _read_named(row: Mapping[str, Any], where: str, names: Names) -> Part:
    """A row whose columns have the given names."""
    column = {field: next((name for name in known if name in row), known[0]) for field, known in names.items()}
    cells, texts = Cells(row, where), row.get(column["completion"])
    prompt = cells.read(TEXT, column["prompt"])
    is_whole = isinstance(texts, list)
    if (not texts and (is_whole or not isinstance(texts, str))) or not isinstance(texts, list | str):
        cells.fail(column["completion"], "must be a text, or a list of at least one")
    key, has_key = _key(cells, column.get("key", "key"), prompt)
    if row.get(column.get("step", "")) is not None:
        key = f"{key}@{cells.read(COUNT, column['step'])}"
    return Part(
        key=key,
        has_key=has_key,
        prompt=prompt,
        gold=_gold(cells, column["gold"]),
        level=_level(cells, column["level"]) if "level" in column else 0,
        samples=[
            sample_of(each, f"{where}, completion {number}" if is_whole else where)
            for number, each in enumerate(_sample_rows(cells, column, is_whole), 1)
        ],
        is_whole=is_whole,
    )


def _sample_rows(cells: Cells, column: Mapping[str, str], is_whole: bool) -> list[dict[str, Any]]:
    """The cells of each completion under our names; of a whole problem, from lists of one length."""
    present = [field for field in _PER_SAMPLE if cells.row.get(column.get(field, "")) is not None]
    values = {field: cells.row[column[field]] for field in ("completion", *present)}
    if not is_whole:
        return [_spelled(values)]
    count = len(values["completion"])
    for field in present:
        if not isinstance(values[field], list):
            cells.fail(column[field], f"must be a list of {count}, one entry per completion")
        if len(values[field]) != count:
            have, completions = len(values[field]), column["completion"]
            cells.fail(column[field], f"has {have} entries for the {count} completions of {completions}")
    return [_spelled({field: entries[i] for field, entries in values.items()}) for i in range(count)]


def _spelled(cells: dict[str, Any]) -> dict[str, Any]:
    """Numbers as texts in the extracted answer; a score that is a list of one number as that number."""
    if isinstance(cells.get("answer"), int | float) and not isinstance(cells["answer"], bool):
        cells["answer"] = number_text(cells["answer"])
    if isinstance(cells.get("score"), list) and len(cells["score"]) == 1:
        cells["score"] = cells["score"][0]
    return cells


def _read_lighteval(row: Mapping[str, Any], where: str, asked: str, answered: str) -> Part:
    """A row of lighteval's details, with the names of its two columns."""
    for name in (asked, answered):
        if not isinstance(row[name], Mapping):
            Cells(row, where).fail(name, "must be an object")
    doc, response = Cells(row[asked], f"{where}, {asked}"), Cells(row[answered], f"{where}, {answered}")
    prompt = doc.read(TEXT, "query")
    choices, indices = doc.row.get("choices"), doc.row.get("gold_index")
    indices = indices if isinstance(indices, list) else [indices]
    if not isinstance(choices, list) or not all(type(i) is int and 0 <= i < len(choices) for i in indices):
        doc.fail("gold_index", "must be the index of a choice")
    texts, tokens = response.row.get("text"), response.row.get("output_tokens")
    if not isinstance(texts, list) or not texts:
        response.fail("text", "must be a list of at least one completion")
    counts: list[Any] = [None] * len(texts)
    if isinstance(tokens, list) and len(tokens) == len(texts) and all(isinstance(ids, list) for ids in tokens):
        counts = [len(ids) for ids in tokens]
    samples = [
        sample_of({"completion": text, "num_tokens": count}, f"{response.where}, completion {number}")
        for number, (text, count) in enumerate(zip(texts, counts, strict=True), 1)
    ]
    gold = _gold(Cells({"choices": [choices[i] for i in indices]}, doc.where), "choices")
    return Part(*_key(doc, "id", prompt), prompt, gold, 0, samples, is_whole=True)


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
