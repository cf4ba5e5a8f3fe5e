r"""Columns of other tools -> fields of a row of samples. ``docs/data.md`` has the table for readers.

The columns of a row tell the tool, in the order of ``DIALECTS``; rows with other columns are plain: each field is the
first of the names in ``PLAIN`` that exists. Columns that no field names are not read.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any

from arrol.evaluation.cells import TEXT, Cells

Names = Mapping[str, Sequence[str]]
Fields = dict[str, tuple[str, Any]]
"""Field -> the column it was read from, which an error names, and its value."""

PLAIN: Names = {
    "completion": (
        *("completions", "completion", "responses", "response"),
        *("outputs", "output", "generations", "generation"),
    ),
    "prompt": ("prompt", "question", "problem", "input", "query", "messages"),
    "answer": ("gold", "gt", "gts", "ground_truth", "expected_answer", "reference_answer", "answer", "target"),
    "key": ("key", "id", "idx", "problem_id", "unique_id", "question_id"),
    "extracted": (
        *("answers", "extracted_answers", "extracted_answer", "predicted_answer"),
        *("preds", "pred", "predictions", "prediction"),
    ),
    "reward": ("rewards", "reward", "correct", "is_correct", "symbolic_correct"),
    "score": ("scores", "score", "pred_score"),
    "quality": ("qualities", "quality"),
    "num_tokens": ("num_tokens", "completion_tokens", "num_generated_tokens"),
    "finish_reason": ("finish_reasons", "finish_reason"),
    "logprobs": ("logprobs",),
    "confidences": ("confidences",),
    "level": ("level",),
}
"""Field -> the columns that are read as it. ``answer`` is the gold answer, ``extracted`` the one found in the text."""
QWEN: Names = {
    "completion": ("code",),
    "prompt": ("question",),
    "answer": ("gt",),
    "key": ("idx",),
    "extracted": ("pred",),
    "reward": ("score",),
    "score": ("pred_score",),
    "level": ("level",),
}
VERL: Names = {
    "completion": ("output",),
    "prompt": ("input",),
    "answer": ("gts",),
    "extracted": ("pred",),
    "reward": ("score",),
    "step": ("step",),
}
NEMO: Names = {
    "completion": ("generation",),
    "prompt": ("problem", "question", "messages"),
    "answer": ("expected_answer",),
    "key": ("id",),
    "extracted": ("predicted_answer",),
    "reward": ("symbolic_correct", "is_correct"),
    "num_tokens": ("num_generated_tokens",),
    "finish_reason": ("finish_reason",),
    "level": ("level",),
}
TRL: Names = {
    "completion": ("completion",),
    "prompt": ("prompt",),
    "answer": (*PLAIN["answer"], "solution"),
    "step": ("step",),
}


def _named(names: Names) -> Callable[[Cells], Fields]:
    """Reader of rows whose columns have these names."""

    @lru_cache(maxsize=64)
    def columns(present: tuple[str, ...]) -> list[tuple[str, str]]:
        found = ((field, next((name for name in known if name in present), None)) for field, known in names.items())
        return [(field, name) for field, name in found if name is not None]

    def read(cells: Cells) -> Fields:
        return {field: (name, cells.row[name]) for field, name in columns(tuple(cells.row))}

    return read


_plain, _trl_plain = _named(PLAIN), _named(TRL)


def reward_columns(row: Mapping[str, Any]) -> list[str]:
    """The columns of TRL's reward functions."""
    return [name for name in row if "reward" in name.lower()]


def _trl(cells: Cells) -> Fields:
    """TRL's logged completions: a column per reward function."""
    fields = _trl_plain(cells)
    rewards = reward_columns(cells.row)
    if len(rewards) == 1:  # of several, --column reward=NAME tells which one says right
        fields["reward"] = (rewards[0], cells.row[rewards[0]])
    return fields


def _lm_eval(cells: Cells) -> Fields:
    """lm-evaluation-harness: one row per document and filter."""
    texts = cells.row["resps"]
    if isinstance(texts, list) and len(texts) == 1 and isinstance(texts[0], list):
        texts = texts[0]
    if not isinstance(texts, list) or not texts or not all(isinstance(text, str) for text in texts):
        cells.fail("resps", "must be one list of texts; log-likelihoods of choices are no completions")
    doc = cells.row.get("doc")
    doc = doc if isinstance(doc, Mapping) else {}
    fields: Fields = {"completion": ("resps", texts[0] if len(texts) == 1 else texts)}
    prompt = _asked(cells.row.get("arguments"))
    if prompt is not None:
        fields["prompt"] = ("arguments", prompt)
    elif name := next((name for name in PLAIN["prompt"] if name in doc), None):
        fields["prompt"] = (f"doc.{name}", doc[name])
    if "target" in cells.row:
        fields["answer"] = ("target", cells.row["target"])
    if "level" in doc:
        fields["level"] = ("doc.level", doc["level"])
    fields["index"] = ("doc_id", cells.row.get("doc_id", ""))
    fields["variant"] = ("filter", cells.row.get("filter"))
    return fields


def _asked(arguments: Any) -> Any:
    """The prompt of the first request; chat messages come as the text of their JSON."""
    for _ in range(2):  # {"gen_args_0": {"arg_0": prompt}}, or [[prompt, settings]]
        if isinstance(arguments, Mapping):
            arguments = next(iter(arguments.values()), None)
        elif isinstance(arguments, list):
            arguments = next(iter(arguments), None)
    if isinstance(arguments, list) and len(arguments) == 1:
        (arguments,) = arguments
    if isinstance(arguments, str) and arguments.startswith("[{"):
        try:
            return json.loads(arguments)
        except (ValueError, RecursionError):
            return arguments
    return arguments


def _opencompass(cells: Cells) -> Fields:
    """OpenCompass: predictions by index."""
    prediction = cells.row["prediction"]
    if isinstance(prediction, Mapping):
        prediction = prediction.get("prediction")
    fields = _named({"answer": ("gold",), "num_tokens": ("res_length",), "index": ("idx",)})(cells)
    prompt = cells.row["origin_prompt"]
    if isinstance(prompt, list):
        prompt = [
            {**turn, "content": turn["prompt"]} if isinstance(turn, Mapping) and "prompt" in turn else turn
            for turn in prompt
        ]
    return {**fields, "completion": ("prediction", prediction), "prompt": ("origin_prompt", prompt)}


def _lighteval(asked: str, answered: str) -> Callable[[Cells], Fields]:
    """Reader of lighteval's details with these names of its two columns."""

    def read(cells: Cells) -> Fields:
        for name in (asked, answered):
            if not isinstance(cells.row[name], Mapping):
                cells.fail(name, "must be an object")
        doc = Cells(cells.row[asked], f"{cells.where}, {asked}")
        response = Cells(cells.row[answered], f"{cells.where}, {answered}")
        golds, texts = _chosen(doc), response.row.get("text")
        if not isinstance(texts, list) or not texts:
            response.fail("text", "must be a list of at least one completion")
        return {
            "completion": (f"{answered}.text", texts),
            "prompt": (f"{asked}.query", doc.read(TEXT, "query")),
            "answer": (f"{asked}.choices", golds),
            "key": (f"{asked}.id", doc.row.get("id")),
            "num_tokens": (f"{answered}.output_tokens", _lengths(response.row.get("output_tokens"), len(texts))),
        }

    return read


def _old_lighteval(cells: Cells) -> Fields:
    """lighteval's details before version 0.11: one flat row per problem."""
    texts = cells.row["predictions"]
    if not isinstance(texts, list) or not texts:
        cells.fail("predictions", "must be a list of at least one completion")
    golds = cells.row.get("gold")
    if golds in (None, "", []) and cells.row.get("choices"):
        golds = _chosen(cells)
    fields: Fields = {
        "completion": ("predictions", texts),
        "prompt": ("full_prompt", cells.row["full_prompt"]),
        "num_tokens": ("cont_tokens", _lengths(cells.row.get("cont_tokens"), len(texts))),
    }
    return fields if golds is None else {**fields, "answer": ("gold", golds)}


def _chosen(cells: Cells) -> list[Any]:
    """The choices at ``gold_index``, one index or several."""
    choices, indices = cells.row.get("choices"), cells.row.get("gold_index")
    indices = indices if isinstance(indices, list) else [indices]
    if not isinstance(choices, list) or not all(type(i) is int and 0 <= i < len(choices) for i in indices):
        cells.fail("gold_index", "must be the index of a choice")
    return [choices[i] for i in indices]


def _lengths(tokens: Any, count: int) -> list[int] | None:
    """Lengths of ``count`` lists of token ids; None for anything else."""
    if isinstance(tokens, list) and len(tokens) == count and all(isinstance(ids, list) for ids in tokens):
        return [len(ids) for ids in tokens]
    return None


DIALECTS: Sequence[tuple[Sequence[str], Callable[[Cells], Fields]]] = (
    (("doc", "model_response"), _lighteval("doc", "model_response")),
    (("__doc__", "__model_response__"), _lighteval("__doc__", "__model_response__")),
    (("full_prompt", "predictions"), _old_lighteval),
    (("doc", "resps"), _lm_eval),
    (("arguments", "resps"), _lm_eval),
    (("origin_prompt", "prediction"), _opencompass),
    (("generation", "expected_answer"), _named(NEMO)),
    (("code", "gt"), _named(QWEN)),
    (("input", "output", "score"), _named(VERL)),
    (("step", "prompt", "completion", "advantage"), _trl),
)
"""Columns that tell a tool -> reader of its rows; the first that fits."""


def fields_of(cells: Cells) -> Fields:
    """The fields of a row of any tool."""
    read = next((read for needs, read in DIALECTS if all(map(cells.row.__contains__, needs))), _plain)
    return read(cells)
