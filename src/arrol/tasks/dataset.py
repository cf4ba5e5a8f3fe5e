r"""Prompts and gold answers from JSONL, JSON, Parquet, a folder or a hub name.

Sample: the GSM8K row ``{"question": "Natalia sold clips ...", "answer": "Natalia sold 48/2 ...\n#### 72"}`` becomes a
prompt with the answer ``72`` and the worked solution beside it.

Where rows come from: a path that exists, else a preset (:data:`PRESETS`), else a hub name (``owner/name`` or
``owner/name:subset``). A column may be dotted (``reward_model.ground_truth``), a prompt may be a list of chat messages.

What is evaluated: ``eval_source``, else ``eval_split`` of the training source, else, where there is no such split, the
rows that :func:`~arrol.tasks.base.is_held_out` sets aside. Rows that are evaluated are never trained on.

Training visits every row once per epoch in an order drawn from (seed, epoch), so a position is enough to resume.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

from arrol.errors import ConfigError, DataError, MissingExtraError, ModelError
from arrol.protocols import Tokenizer, Verifier
from arrol.tasks.base import TEMPLATES, EpochOrder, is_held_out, require_seed
from arrol.types import Prompt, Verdict
from arrol.verifiers.integer import IntegerVerifier, parse_integer
from arrol.verifiers.symbolic import SymbolicVerifier, boxed_content

MARKS = ("####", "\\boxed{", "Answer:")
"""What may announce a final integer in a completion."""
SUFFIXES = (".jsonl", ".json", ".parquet")
USUAL_PROMPT_COLUMNS = ("prompt", "question", "problem")
USUAL_ANSWER_COLUMNS = ("answer", "solution")


class Preset(NamedTuple):
    """A data set known by its usual name."""

    hub: str
    """``owner/name`` or ``owner/name:subset``."""
    prompt_column: str
    answer_column: str = "answer"
    answer_format: str = "plain"
    only_split: str | None = None
    """The split that is read whatever split is asked for; None when it has train and test."""
    deduplicate: bool = False


PRESETS = {
    "gsm8k": Preset("openai/gsm8k:main", "question", answer_format="gsm8k"),
    "math500": Preset("HuggingFaceH4/MATH-500", "problem", only_split="test"),
    "amc23": Preset("math-ai/amc23", "question", only_split="test"),
    "aime24": Preset("HuggingFaceH4/aime_2024", "problem", only_split="train"),
    # Its rows repeat each problem many times.
    "dapo-math-17k": Preset(
        "BytedTsinghua-SIA/DAPO-Math-17k", "prompt", "reward_model.ground_truth", only_split="train", deduplicate=True
    ),
}


@dataclass(frozen=True)
class Row:
    """One question, read and checked."""

    key: str
    question: str
    messages: tuple[Mapping[str, str], ...]
    """The question as chat messages, where it came as such."""
    answer: str
    solution: str
    level: int


class SplitMissing(DataError):
    """The source was found, the split was not."""


class DatasetTask:
    """A data set with a verifier; every argument that is None takes the preset's value, or the usual one."""

    name: ClassVar[str] = "dataset"

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        source: str,
        split: str = "train",
        eval_source: str | None = None,
        eval_split: str = "test",
        prompt_column: str | None = None,
        answer_column: str | None = None,
        answer_format: str | None = None,
        template: str = "plain",
        verifier: str | None = None,
        time_limit_s: float = 5.0,
        deduplicate: bool = False,
        seed: int = 0,
    ) -> None:
        if template not in TEMPLATES:
            raise ConfigError(f"template: {template!r} is unknown; choose from {', '.join(TEMPLATES)}")
        self.tokenizer = tokenizer
        self.template = template
        self.seed = require_seed(seed)
        preset = _preset(source)
        columns = Columns(prompt_column, answer_column, answer_format)
        rows = columns.read(source, split, deduplicate=deduplicate or (preset is not None and preset.deduplicate))
        self.train_rows, self.eval_rows = _divide(rows, columns, source, eval_source, eval_split)
        self.verifier = _verifier(verifier, [*self.train_rows, *self.eval_rows], time_limit_s)
        self.order = EpochOrder(self.seed, len(self.train_rows))

    def train_prompt(self, position: int) -> Prompt:
        return self._prompt(self.train_rows[self.order.index_at(position)])

    def eval_prompts(self, count: int) -> list[Prompt]:
        """The first ``count`` rows in file order; all of them when there are fewer."""
        if not self.eval_rows:
            raise DataError(f"eval_source: no row is set aside from {len(self.train_rows)} rows; name an eval_source")
        return [self._prompt(row) for row in self.eval_rows[:count]]

    def verify(self, prompt: Prompt, completion_text: str) -> Verdict:
        return self.verifier.verify(completion_text, prompt.answer)

    def close(self) -> None:
        """End the verifier's worker process, if it has one."""
        if isinstance(self.verifier, SymbolicVerifier):
            self.verifier.close()

    def _prompt(self, row: Row) -> Prompt:
        if self.template.startswith("chat"):
            text = self._chat_text(row)
            token_ids = self.tokenizer.encode(text, add_special_tokens=False)  # the template has written them
        else:
            text = TEMPLATES[self.template].replace("{question}", row.question)
            token_ids = self.tokenizer.encode(text)
        if not token_ids:
            raise DataError(f"prompt: {text[:80]!r} has no tokens; use the tokenizer of the model")
        return Prompt(row.key, tuple(token_ids), text, row.answer, row.level, row.solution)

    def _chat_text(self, row: Row) -> str:
        messages = [dict(message) for message in row.messages] or [{"role": "user", "content": row.question}]
        messages[-1]["content"] = TEMPLATES[self.template].replace("{question}", messages[-1]["content"])
        apply: Callable[..., str] | None = getattr(self.tokenizer, "apply_chat_template", None)
        if apply is None or not getattr(self.tokenizer, "chat_template", None):
            raise ModelError(f"tokenizer: it has no chat template for template {self.template!r}; use template 'plain'")
        return apply(messages, tokenize=False, add_generation_prompt=True)


@dataclass(frozen=True)
class Columns:
    """Which columns to read and how the answer is written; None means the preset's or the usual one."""

    prompt: str | None
    answer: str | None
    answer_format: str | None

    def read(self, source: str, split: str, *, deduplicate: bool = False) -> list[Row]:
        """The rows of a split in file order; of equal questions only the first where that is asked for."""
        rows: dict[object, Row] = {}
        columns = None
        for number, record in enumerate(_records(source, split), 1):
            columns = columns or self._resolved(source, record)
            row = columns.row(record, f"{source} row {number}")
            rows.setdefault(row.key if deduplicate else number, row)
        if not rows:
            raise DataError(f"source: {source!r} split {split!r} is empty; give a file with at least one row")
        return list(rows.values())

    def row(self, record: Mapping[str, Any], where: str) -> Row:
        """One record, checked; the columns are settled."""
        assert self.prompt is not None
        assert self.answer is not None
        assert self.answer_format is not None
        question, messages = _question(_value(record, self.prompt, "prompt_column", where), where)
        written = _text(_value(record, self.answer, "answer_column", where), where)
        gold = ANSWER_FORMATS[self.answer_format](written)
        if not gold:
            raise DataError(f"answer_column: {where} holds {written[-60:]!r}, not format {self.answer_format!r}")
        key = hashlib.blake2b(question.encode("utf-8", "replace"), digest_size=8).hexdigest()
        level = record.get("level")
        solution = written if self.answer_format != "plain" else ""
        return Row(key, question, messages, gold, solution, level if isinstance(level, int) else 0)

    def _resolved(self, source: str, first: Mapping[str, Any]) -> Columns:
        preset = _preset(source)
        prompt = self.prompt or (preset.prompt_column if preset else _usual(first, USUAL_PROMPT_COLUMNS, "prompt"))
        answer = self.answer or (preset.answer_column if preset else _usual(first, USUAL_ANSWER_COLUMNS, "answer"))
        answer_format = self.answer_format or (preset.answer_format if preset else "plain")
        if answer_format not in ANSWER_FORMATS:
            raise ConfigError(f"answer_format: {answer_format!r} is unknown; choose from {', '.join(ANSWER_FORMATS)}")
        return Columns(prompt, answer, answer_format)


def _gsm8k(text: str) -> str:
    _, mark, gold = text.rpartition("####")
    return gold.strip() if mark else ""


ANSWER_FORMATS: dict[str, Callable[[str], str]] = {
    "gsm8k": _gsm8k,
    "boxed": lambda text: boxed_content(text) or "",
    "plain": str.strip,
}
"""How a gold answer is read from its column; empty when it is not written that way."""


def _divide(
    rows: list[Row], columns: Columns, source: str, eval_source: str | None, eval_split: str
) -> tuple[list[Row], list[Row]]:
    """Rows to train on and rows to evaluate, with no question in both."""
    if eval_source is None:
        try:
            eval_rows = columns.read(source, eval_split) if _has_splits(source) else []
        except SplitMissing:
            eval_rows = []
        eval_rows = eval_rows or [row for row in rows if is_held_out(row.key)]
    else:
        eval_rows = (columns if _preset(eval_source) is None else Columns(None, None, None)).read(
            eval_source, eval_split
        )
    asked = {row.key for row in eval_rows}
    train_rows = [row for row in rows if row.key not in asked]
    if not train_rows:
        raise DataError(f"source: every row of {source!r} is also evaluated; choose another eval_split or eval_source")
    return train_rows, eval_rows


def _verifier(choice: str | None, rows: Sequence[Row], time_limit_s: float) -> Verifier:
    """The verifier asked for; when none is, integer if every gold answer is one."""
    if choice not in (None, "integer", "symbolic"):
        raise ConfigError(f"verifier: {choice!r} is unknown; choose integer or symbolic")
    other = next((row.answer for row in rows if parse_integer(row.answer) is None), None)
    if choice == "integer" and other is not None:
        raise DataError(f"verifier: gold answer {other[:60]!r} is not an integer; choose verifier 'symbolic'")
    if choice == "symbolic" or other is not None:
        return SymbolicVerifier(time_limit_s=time_limit_s)
    return IntegerVerifier(MARKS)


def _preset(source: str) -> Preset | None:
    """The preset of that name; a path of the same name goes first."""
    return None if Path(source).exists() else PRESETS.get(source)


def _has_splits(source: str) -> bool:
    preset = _preset(source)
    return not Path(source).is_file() and not (preset and preset.only_split)


def _records(source: str, split: str) -> Iterable[dict[str, Any]]:
    path = Path(source)
    if path.is_file():
        return _file_records(path)
    if path.is_dir():
        return (record for file in _split_files(path, split) for record in _file_records(file))
    preset = _preset(source)
    if preset is None and (path.suffix in SUFFIXES or source.count("/") != 1 or source.startswith((".", "~", "/"))):
        raise DataError(
            f"source: {source!r} is no file or folder; give a path, owner/name on the hub,"
            f" or one of {', '.join(PRESETS)}"
        )
    return _hub_records(preset.hub if preset else source, (preset and preset.only_split) or split)


def _split_files(folder: Path, split: str) -> list[Path]:
    """``train.jsonl``, ``train-00000-of-00002.parquet`` and the like, at any depth."""
    files = sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)
    chosen = [path for path in files if path.stem == split or path.stem.startswith((f"{split}-", f"{split}_"))]
    if not chosen:
        names = ", ".join(path.name for path in files[:8]) or "nothing readable"
        raise SplitMissing(f"split: {split!r} is not in {str(folder)!r}; the folder holds {names}")
    return chosen


def _file_records(path: Path) -> list[dict[str, Any]]:
    try:
        if path.suffix == ".parquet":
            from pyarrow import parquet

            records = parquet.read_table(path).to_pylist()
        elif path.suffix == ".json":
            records = json.loads(path.read_text(encoding="utf-8"))
        else:
            lines = path.read_text(encoding="utf-8").split("\n")
            records = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:  # pyarrow's and json's errors are ValueErrors, as is bad UTF-8
        reason = _reason(error)
        raise DataError(f"source: {str(path)!r} cannot be read ({reason}); give JSONL, JSON or Parquet") from error
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise DataError(f"source: {str(path)!r} is no table; every line must be an object with named columns")
    return records


def _hub_records(hub: str, split: str) -> Iterable[dict[str, Any]]:
    try:
        import datasets
    except ImportError as error:
        raise MissingExtraError("datasets: not installed; pip install datasets, or give a local file") from error
    name, _, subset = hub.partition(":")
    try:
        return datasets.load_dataset(name, subset or None, split=split)
    except (OSError, ValueError) as error:
        reason = _reason(error)
        kind = SplitMissing if "split" in reason.lower() else DataError
        raise kind(
            f"source: {hub!r} split {split!r} cannot be loaded ({reason}); give a local file or folder"
        ) from error


def _reason(error: Exception) -> str:
    """The first line of a foreign error, short."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def _usual(record: Mapping[str, Any], names: Sequence[str], what: str) -> str:
    for name in names:
        if name in record:
            return name
    raise DataError(f"{what}_column: not given and none of {', '.join(names)} exists; available: {', '.join(record)}")


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
    if value is None or isinstance(value, bool | list | Mapping) or not str(value).strip():
        raise DataError(f"answer_column: {where} holds {str(value)[:60]!r}; it must be a text or a number")
    return str(value)
