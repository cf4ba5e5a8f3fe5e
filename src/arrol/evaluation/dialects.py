r"""Rows of other tools, read as ours.

A row holds one problem with lists (one entry per completion) or one completion. Its columns tell the tool:

1. **lighteval** details (Parquet): ``doc`` or ``__doc__`` with ``query``, ``choices``, ``gold_index``, ``id``;
   ``model_response`` or ``__model_response__`` with ``text`` and ``output_tokens``, whose lengths are the numbers of
   tokens. Several gold indices mean any of them. ``metric`` is not read: it is per problem, not per completion.
2. **verl** rollout and validation dumps (JSONL, one row per completion): ``input``, ``output``, ``gts``, ``score``,
   ``step``, and ``pred`` where the reward function returns it. The score is the reward. Completions of one input at one
   step form a problem.
3. **Qwen2.5-Math** evaluation (JSONL): ``code`` (the completions), ``pred``, ``gt``, ``score`` (right or wrong, the
   reward), ``pred_score`` (of a reward model, a number or a list of one), ``idx``, ``question``, ``level``.
4. **Plain** rows, by the first of these names that exists:

   ==============  ====================================================================================
   completion(s)   completions, completion, responses, response, outputs, output, generations, generation
   prompt          prompt, question, problem, input, query
   gold answer     gold, gt, gts, ground_truth, reference_answer, answer, target
   key             key, id, idx, problem_id, unique_id, question_id
   answer          answers, extracted_answers, extracted_answer, preds, pred, predictions, prediction
   reward          rewards, reward, correct, is_correct
   score           scores, score, pred_score
   quality         qualities, quality
   number of tokens  num_tokens, completion_tokens
   finish reason   finish_reasons, finish_reason
   log-probs       logprobs
   confidences     confidences
   level           level (``3`` or ``Level 3``)
   ==============  ====================================================================================

Of a gold answer that is a worked solution, only the text after ``####`` or the content of the last ``\boxed{}`` is
read. A list of gold answers means any of them. The key of a row without one is a hash of its prompt. Other columns are
not read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
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
    "answer": (
        *("answers", "extracted_answers", "extracted_answer"),
        *("preds", "pred", "predictions", "prediction"),
    ),
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


def dialect_of(row: Mapping[str, Any]) -> Callable[[Mapping[str, Any], str], Part] | None:
    """The reader of rows with these columns; None without a column of completions."""
    if any(all(column in row for column in pair) for pair in _LIGHTEVAL):
        return read_lighteval
    if {"code", "gt"} <= row.keys():
        return lambda row, where: read_named(row, where, QWEN)
    if {"input", "output", "score"} <= row.keys():
        return lambda row, where: read_named(row, where, VERL)
    if any(name in row for name in PLAIN["completion"]):
        return lambda row, where: read_named(row, where, PLAIN)
    return None


def read_named(row: Mapping[str, Any], where: str, names: Names) -> Part:
    """A row whose columns have the given names."""
    column = {field: next((name for name in known if name in row), known[0]) for field, known in names.items()}
    cells = Cells(row, where)
    prompt = cells.read(TEXT, column["prompt"])
    written = row.get(column["completion"])
    if not isinstance(written, list | str) or (isinstance(written, list) and not written):
        cells.fail(column["completion"], "must be a text, or a list of at least one")
    is_whole = isinstance(written, list)
    if is_whole:
        renamed = _per_sample(cells, column, len(written))
        samples = [sample_of(each, f"{where}, completion {number}") for number, each in enumerate(renamed, 1)]
    else:
        samples = [sample_of(_renamed(row, column), where)]
    key = _key(cells, column.get("key", "key"), prompt)
    step = row.get(column["step"]) if "step" in column else None
    return Part(
        key=key if step is None else f"{key}@{cells.read(COUNT, column['step'])}",
        has_key=row.get(column.get("key", "key")) not in (None, ""),
        prompt=prompt,
        gold=_gold(cells, column["gold"]),
        level=_level(cells, column["level"]) if "level" in column else 0,
        samples=samples,
        is_whole=is_whole,
    )


def _renamed(row: Mapping[str, Any], column: Mapping[str, str]) -> dict[str, Any]:
    """The cells of one completion under our names."""
    cells = {field: row[column[field]] for field in _PER_SAMPLE if column.get(field) in row}
    return {"completion": row[column["completion"]], **_spelled(cells)}


def _per_sample(cells: Cells, column: Mapping[str, str], count: int) -> list[dict[str, Any]]:
    """The cells of each completion under our names, from columns that hold lists of one length."""
    present = {field: column[field] for field in _PER_SAMPLE if column.get(field) in cells.row}
    present = {field: name for field, name in present.items() if cells.row[name] is not None}
    for name in present.values():
        values = cells.row[name]
        if not isinstance(values, list):
            cells.fail(name, f"must be a list of {count}, one entry per completion")
        if len(values) != count:
            cells.fail(name, f"has {len(values)} entries for the {count} completions of {column['completion']}")
    texts = cells.row[column["completion"]]
    return [
        {"completion": texts[i], **_spelled({f: cells.row[name][i] for f, name in present.items()})}
        for i in range(count)
    ]


def _spelled(cells: dict[str, Any]) -> dict[str, Any]:
    """Numbers as texts in the extracted answer; a score that is a list of one number as that number."""
    if isinstance(cells.get("answer"), int | float) and not isinstance(cells["answer"], bool):
        cells["answer"] = number_text(cells["answer"])
    if isinstance(cells.get("score"), list) and len(cells["score"]) == 1:
        cells["score"] = cells["score"][0]
    return cells


_LIGHTEVAL = (("doc", "model_response"), ("__doc__", "__model_response__"))


def read_lighteval(row: Mapping[str, Any], where: str) -> Part:
    """A row of lighteval's details."""
    names = next(pair for pair in _LIGHTEVAL if pair[0] in row)
    doc, response = (_nested(row, name, where) for name in names)
    cells = Cells(doc, f"{where}, {names[0]}")
    prompt = cells.read(TEXT, "query")
    choices = doc.get("choices")
    indices = doc.get("gold_index")
    indices = indices if isinstance(indices, list) else [indices]
    if not isinstance(choices, list) or not all(_is_index(i, len(choices)) for i in indices):
        cells.fail("gold_index", "must be the index of a choice")
    texts, tokens = response.get("text"), response.get("output_tokens")
    answered = Cells(response, f"{where}, {names[1]}")
    if not isinstance(texts, list) or not texts:
        answered.fail("text", "must be a list of at least one completion")
    counts: list[Any] = [None] * len(texts)
    if isinstance(tokens, list) and len(tokens) == len(texts) and all(isinstance(ids, list) for ids in tokens):
        counts = [len(ids) for ids in tokens]
    samples = [
        sample_of({"completion": text, "num_tokens": count}, f"{answered.where}, completion {number}")
        for number, (text, count) in enumerate(zip(texts, counts, strict=True), 1)
    ]
    gold = _gold(Cells({"choices": [choices[i] for i in indices]}, cells.where), "choices")
    has_key = doc.get("id") not in (None, "")
    return Part(_key(cells, "id", prompt), has_key, prompt, gold, 0, samples, is_whole=True)


def _is_index(value: Any, size: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < size


def _nested(row: Mapping[str, Any], name: str, where: str) -> Mapping[str, Any]:
    value = row.get(name)
    if not isinstance(value, Mapping):
        Cells(row, where).fail(name, "must be an object")
    return value


def _key(cells: Cells, name: str, prompt: str) -> str:
    value = cells.row.get(name)
    if value is None or value == "":
        return prompt_key(prompt)
    if isinstance(value, str):
        return value
    return str(cells.read(COUNT, name))


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


def unreadable(row: Mapping[str, Any], where: str) -> DataError:
    """The error for a row without a column of completions."""
    columns = ", ".join(map(str, row))[:120]
    return DataError(
        f"samples: {where}: no column holds completions (columns: {columns}); name it completion, or completions"
    )
