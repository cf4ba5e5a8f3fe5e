r"""Files of sampled completions, with their rewards and what else is known of them.

Our own format is JSONL, one problem per line. The worked example is one such line::

    {"key": "sums-7", "prompt": "2 + 2?", "answer": "4", "level": 1, "samples": [
      {"completion": "It is 4.\n#### 4", "answer": "4", "reward": 1.0, "score": 1.5, "quality": 0.8, "num_tokens": 9,
       "finish_reason": "stop", "logprobs": [-0.1, "-inf"], "confidences": [14.2, 13.9]},
      {"completion": "It is"}]}

The fields are those of :class:`SampledProblem` and :class:`Sample`. Only ``key``, ``prompt``, ``samples`` and each
``completion`` are required; unknown fields are refused.

Rows of other tools and plain rows are read too (``dialects.py`` lists their columns), from every form of a table
(``records/tables.py``), one row per problem or one per completion. A folder is read file by file. The first row that
cannot be read is an error that names file, line, field and remedy.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Literal

from arrol.errors import ConfigError, DataError
from arrol.evaluation.parts import Part, part_of, prompt_key
from arrol.evaluation.problems import Sample, SampledProblem, problem_of, row_of
from arrol.records.lines import LineWriter
from arrol.records.tables import SUFFIXES, table_rows, table_suffix

__all__ = ["Sample", "SampleWriter", "SampledProblem", "read_samples", "write_samples"]

SUMMARIES = re.compile(r"(results_.*|metrics)\.json")
"""Files of lm-evaluation-harness and NeMo-Skills beside those with the samples."""
GroupBy = Literal["key", "prompt"]


class SampleWriter(LineWriter):
    """Appends problems to a samples file; a line that a crash left incomplete is removed first."""

    def __init__(self, path: str | Path, named: str | Path | None = None) -> None:
        """``named`` is the path that an error names, where the file has another name until it is whole."""
        super().__init__(path, _is_row, field="samples", shown=str(named or path))

    def write(self, problem: SampledProblem) -> None:
        """Append one problem, as one whole line."""
        self.write_line(json.dumps(row_of(problem), allow_nan=False).encode())


def write_samples(path: str | Path, problems: Iterable[SampledProblem], *, named: str | Path | None = None) -> None:
    """Append problems to a file; ``named`` as in :class:`SampleWriter`."""
    with SampleWriter(path, named) as writer:
        for problem in problems:
            writer.write(problem)


def read_samples(
    path: str | Path,
    *,
    group_by: GroupBy | None = None,
    columns: Mapping[str, str] | None = None,
    notes: list[str] | None = None,
) -> list[SampledProblem]:
    """The problems of a file or folder, in order of their first row.

    Rows of one completion are grouped by ``key``, by ``prompt``, or (None) by key where a row has one, else by prompt.
    ``columns`` maps fields to columns, see ``parts.py``. What was left out is appended to ``notes``.
    """
    if group_by not in (None, "key", "prompt"):
        raise ConfigError(f"group_by: {group_by!r} is unknown; choose key or prompt")
    gathered: dict[str, tuple[Part, str]] = {}
    num_unscored = 0
    for file in _files(Path(path)):
        for part, where in _parts(file, columns or {}):
            if not part.samples:
                num_unscored += 1
                continue
            first, place = gathered.setdefault(_group_name(part, group_by, where), (part, where))
            if first is not part:
                _require_one_problem(first, place, part, where)
                first.samples.extend(part.samples)
    if num_unscored and notes is not None:
        notes.append(f"{num_unscored} completions without a reward, such as stopped rollouts, are left out")
    if not gathered:
        raise DataError(f"samples: {_shown(path)!r} is empty; give a file with at least one row")
    parts = {name: part for name, (part, _) in gathered.items()}
    return [SampledProblem(key, p.prompt, p.gold, tuple(p.samples), p.level) for key, p in parts.items()]


def _parts(file: Path, columns: Mapping[str, str]) -> Iterator[tuple[Part, str]]:
    """The rows of a file with their places; of rows in several variants, those of the first variant."""
    variant = None
    for where, row in table_rows(file, field="samples"):
        if "samples" in row and not columns:
            problem = problem_of(row, where)
            part = Part(problem.key, True, problem.prompt, problem.answer, problem.level, [*problem.samples], True)
        else:
            part = part_of(row, where, columns)
        variant = variant or part.variant
        if part.variant == variant:
            yield part, where


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


def _files(path: Path) -> list[Path]:
    """The file, or the files of a folder by number; summaries that tools write beside their samples are left out."""
    if not path.is_dir():
        return [path]
    files = [file for file in path.iterdir() if file.is_file() and table_suffix(file) in SUFFIXES]
    files = [file for file in files if not SUMMARIES.fullmatch(file.name)]
    if not files:
        raise DataError(f"samples: {_shown(path)!r} holds no {', '.join(SUFFIXES)} file; give a file of samples")
    return sorted(files, key=lambda file: [int(p) if p.isdecimal() else p for p in re.split(r"([0-9]+)", file.name)])


def _shown(path: str | Path) -> str:
    return str(path)


def _is_row(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False
