r"""Files of sampled completions, with their rewards and what else is known of them.

Our own format is JSONL, one problem per line. The worked example is one such line::

    {"key": "sums-7", "prompt": "2 + 2?", "answer": "4", "level": 1, "samples": [
      {"completion": "It is 4.\n#### 4", "answer": "4", "reward": 1.0, "score": 1.5, "quality": 0.8, "num_tokens": 9,
       "finish_reason": "stop", "logprobs": [-0.1, "-inf"], "confidences": [14.2, 13.9]},
      {"completion": "It is"}]}

The fields are those of :class:`SampledProblem` and :class:`Sample`. Only ``key``, ``prompt``, ``samples`` and each
``completion`` are required; unknown fields are refused.

Rows of lighteval, verl, Qwen2.5-Math and plain rows are read too (``dialects.py`` lists their columns), from JSONL, a
JSON list or Parquet, one row per problem or one per completion. A folder is read file by file. The first row that
cannot be read is an error that names file, line, field and remedy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from arrol.errors import ConfigError, DataError
from arrol.evaluation.dialects import Part, part_of, prompt_key
from arrol.evaluation.problems import Sample, SampledProblem, problem_of, row_of
from arrol.records.lines import LineWriter
from arrol.records.store import portable_path

__all__ = ["Sample", "SampleWriter", "SampledProblem", "read_samples", "write_samples"]

SUFFIXES = (".jsonl", ".json", ".parquet")
GroupBy = Literal["key", "prompt"]


class SampleWriter(LineWriter):
    """Appends problems to a samples file; a line that a crash left incomplete is removed first."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(path, _is_row, field="samples", shown=portable_path(str(path)))

    def write(self, problem: SampledProblem) -> None:
        """Append one problem, as one whole line."""
        self.write_line(json.dumps(row_of(problem), allow_nan=False).encode())


def write_samples(path: str | Path, problems: Iterable[SampledProblem]) -> None:
    """Append problems to a file."""
    with SampleWriter(path) as writer:
        for problem in problems:
            writer.write(problem)


def read_samples(path: str | Path, *, group_by: GroupBy | None = None) -> list[SampledProblem]:
    """The problems of a file or folder, in order of their first row.

    Rows of one completion are grouped by ``key``, by ``prompt``, or (None) by key where a row has one, else by prompt.
    """
    if group_by not in (None, "key", "prompt"):
        raise ConfigError(f"group_by: {group_by!r} is unknown; choose key or prompt")
    gathered: dict[str, tuple[Part, str]] = {}
    for where, row in _rows(Path(path)):
        if "samples" in row:
            problem = problem_of(row, where)
            part = Part(problem.key, True, problem.prompt, problem.answer, problem.level, [*problem.samples], True)
        else:
            part = part_of(row, where)
        first, place = gathered.setdefault(_group_name(part, group_by, where), (part, where))
        if first is not part:
            _require_one_problem(first, place, part, where)
            first.samples.extend(part.samples)
    if not gathered:
        raise DataError(f"samples: {_shown(path)!r} is empty; give a file with at least one row")
    parts = {name: part for name, (part, _) in gathered.items()}
    return [SampledProblem(key, p.prompt, p.gold, tuple(p.samples), p.level) for key, p in parts.items()]


def _require_one_problem(first: Part, place: str, part: Part, where: str) -> None:
    key = ascii(part.key)[:60]
    if part.is_whole or first.is_whole:
        raise DataError(f"samples: {where}: key = {key}: also on {place}; give each problem one row and one key")
    for name, old, new in (("prompt", first.prompt, part.prompt), ("gold answer", first.gold, part.gold)):
        if old != new:
            raise DataError(
                f"samples: {where}: {name} = {ascii(new)[:60]} differs from {place} with the same key {key};"
                " give different problems different keys, or group by prompt"
            )


def _group_name(part: Part, group_by: GroupBy | None, where: str) -> str:
    if group_by == "key" and not part.has_key:
        raise DataError(f"samples: {where}: key = (missing): cannot group by it; group by prompt, or add a column key")
    if group_by == "prompt" and not part.is_whole:
        return prompt_key(part.prompt)
    return part.key


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Every row, with the file and line that an error names."""
    for file in _files(path):
        unit = "row" if file.suffix in (".json", ".parquet") else "line"
        read = {".parquet": _parquet_rows, ".json": _json_rows}.get(file.suffix, _lines)
        shown = repr(_shown(file))
        try:
            for number, row in read(file, shown):
                where = f"{shown} {unit} {number}"
                if not isinstance(row, dict):
                    raise DataError(
                        f"samples: {where} is {_kind(row)}; every {unit} must be an object with named columns"
                    )
                yield where, row
        except OSError as error:
            reason = error.strerror or str(error).splitlines()[0][:100]
            raise DataError(
                f"samples: {shown} cannot be read ({reason}); give a file of samples, or a folder of them"
            ) from None


def _files(path: Path) -> list[Path]:
    if not path.is_dir():
        return [path]
    files = [file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file()]
    if not files:
        raise DataError(f"samples: {_shown(path)!r} holds no {', '.join(SUFFIXES)} file; give a file of samples")
    return sorted(files, key=lambda file: [int(p) if p.isdecimal() else p for p in re.split(r"([0-9]+)", file.name)])


def _lines(file: Path, shown: str) -> Iterator[tuple[int, Any]]:
    with open(file, "rb") as lines:
        for number, line in enumerate(lines, 1):
            if line.strip():
                yield number, _parsed(line, f"{shown} line {number}", is_torn=not line.endswith(b"\n"))


def _json_rows(file: Path, shown: str) -> Iterator[tuple[int, Any]]:
    content = file.read_bytes()
    rows = _parsed(content, shown, is_torn=False) if content.strip() else []
    if not isinstance(rows, list):
        raise DataError(f"samples: {shown} is {_kind(rows)}; give a list of rows, or one row per line as .jsonl")
    yield from enumerate(rows, 1)


def _parquet_rows(file: Path, shown: str) -> Iterator[tuple[int, Any]]:
    from pyarrow import ArrowException, parquet

    try:
        batches = parquet.ParquetFile(file).iter_batches(batch_size=256)
        yield from enumerate((row for batch in batches for row in batch.to_pylist()), 1)
    except ArrowException as error:
        reason = (str(error).splitlines() or ["damaged"])[0][:100]
        raise DataError(f"samples: {shown} cannot be read ({reason}); write the Parquet file again") from None


def _parsed(line: bytes, where: str, *, is_torn: bool) -> Any:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        reason, remedy = f"byte {error.start + 1} is not UTF-8", "convert the file to UTF-8"
    except RecursionError:
        reason, remedy = "it is nested too deep", "remove that line"
    except ValueError as error:
        reason, remedy = str(error).splitlines()[0][:100], "mend or remove that line"
        if is_torn:
            remedy = "the file ends in the middle of it: remove that line, or let the run that wrote it resume"
    raise DataError(f"samples: {where} is not JSON ({reason}); {remedy}")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", type(None): "null", bool: "true or false"}
    return names.get(type(value), "a number")


def _shown(path: str | Path) -> str:
    return portable_path(str(path))


def _is_row(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
