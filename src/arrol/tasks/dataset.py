r"""Prompts and gold answers from a file, a folder or a hub name.

Sample: the GSM8K row ``{"question": "Natalia sold clips ...", "answer": "Natalia sold 48/2 ...\n#### 72"}`` becomes a
prompt with the answer ``72`` and the worked solution beside it.

A source is a path that exists, else a data set by its usual name (``presets.py``), else a hub name (``owner/name`` or
``owner/name:subset``). ``columns.py`` reads its rows; ``preset`` names the data set that a path is a copy of.

Evaluation rows come from ``eval_source``, else from ``eval_split`` of the training source, else from the rows that
:func:`~arrol.tasks.base.is_held_out` sets aside; they are never trained on. With an empty ``split`` nothing is trained
on, and every row of ``eval_split`` (or of the only split) is evaluated.

Training visits every row once per epoch in an order drawn from (seed, epoch), so a position is enough to resume.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

from arrol.errors import ConfigError, DataError
from arrol.protocols import PendingVerdict, Tokenizer, Verifier
from arrol.tasks.base import EpochOrder, is_held_out, require_seed
from arrol.tasks.columns import Columns, Row
from arrol.tasks.presets import preset_named, preset_of
from arrol.tasks.prompting import PromptWriter
from arrol.tasks.sources import SplitMissing, has_splits
from arrol.types import Prompt, Verdict
from arrol.verifiers.functions import Submission
from arrol.verifiers.integer import IntegerVerifier, parse_integer
from arrol.verifiers.judge import RewardJudge
from arrol.verifiers.pool import VerifierPool, usable_cores
from arrol.verifiers.symbolic import SymbolicVerifier

MAX_WORKERS = 8
"""Processes of a symbolic verifier; each holds about 150 MB."""


class DatasetTask:
    """A data set with a verifier; None means the preset's value, or the usual one."""

    name: ClassVar[str] = "dataset"

    def __init__(
        self,
        tokenizer: Tokenizer,
        *,
        source: str,
        preset: str | None = None,
        split: str = "train",
        eval_source: str | None = None,
        eval_split: str = "test",
        prompt_column: str | None = None,
        answer_column: str | None = None,
        answer_format: str | None = None,
        template: str | None = None,
        system_prompt: str | None = None,
        template_arguments: Mapping[str, Any] | None = None,
        examples: int | Sequence[Mapping[str, str]] = 0,
        verifier: str | None = None,
        time_limit_s: float = 5.0,
        deduplicate: bool = False,
        reward: RewardJudge | None = None,
        seed: int = 0,
    ) -> None:
        """``reward`` judges in place of a verifier; its functions get every column of a row. ``prompting.py`` has the
        meaning of ``template``, ``system_prompt``, ``template_arguments`` and ``examples``."""
        self.tokenizer, self._prompt_column = tokenizer, prompt_column
        self._writer = PromptWriter(
            tokenizer, template=template, system_prompt=system_prompt, template_arguments=template_arguments
        )
        self.seed = require_seed(seed)
        given = None if preset is None else preset_named(preset)
        known = given or preset_of(source)
        columns = Columns(prompt_column, answer_column, answer_format, given, for_rewards=reward is not None)
        if split:
            rows = columns.read(source, split, deduplicate=deduplicate or (known is not None and known.deduplicate))
            self.train_rows, self.eval_rows = _divide(rows, columns, source, eval_source, eval_split)
        else:
            self.train_rows, self.eval_rows = [], _eval_rows(columns, eval_source or source, source, eval_split)
        self._reward = reward
        if reward is not None:
            names = dict.fromkeys(name for row in (*self.train_rows, *self.eval_rows) for name in row.cells)
            reward.require_columns(names)
            self.train_rows = [_with_cells(row, names) for row in self.train_rows]
            self.eval_rows = [_with_cells(row, names) for row in self.eval_rows]
        answers = [] if reward else [*self.train_rows, *self.eval_rows]
        self.verifier = _verifier(verifier, answers, time_limit_s)
        self._pool = VerifierPool(self.verifier, num_workers=min(usable_cores(), MAX_WORKERS))
        self._writer.require_rows([*self.train_rows, *self.eval_rows])
        self._writer.show(examples, self.train_rows, self.seed)
        self.order = EpochOrder(self.seed, len(self.train_rows))

    def train_prompt(self, position: int) -> Prompt:
        if not self.train_rows:
            raise DataError("split: '' leaves nothing to train on; name the split to train on, such as 'train'")
        return self._prompt(self.train_rows[self.order.index_at(position)])

    def eval_prompts(self, count: int) -> list[Prompt]:
        """The first ``count`` rows in file order; all of them when there are fewer."""
        if not self.eval_rows:
            raise DataError(f"eval_source: no row is set aside from {len(self.train_rows)} rows; name an eval_source")
        return [self._prompt(row) for row in self.eval_rows[:count]]

    def demonstrations(self, source: str | None = None) -> list[tuple[tuple[int, ...], str]]:
        """Prompts as of :meth:`train_prompt` with what to write behind them: the column ``solution``, else the worked
        solution in the answer, the assistant's last message, or the answer. Of the training rows, or of another source.

        Behind a text template the solution begins with a blank, as in the examples. DataError for a row without one.
        """
        rows, shown = self.train_rows, []
        if source is not None:
            rows = Columns(self._prompt_column, None, None, None, for_rewards=True).read(source, "train")
            self._writer.require_rows(rows)
        for number, row in enumerate(rows, 1):
            solution = str(row.cells.get("solution") or row.solution or row.answer)
            if not solution.strip():
                raise DataError(
                    f"demonstrations: row {number} ({row.question[:40]!r}) has no solution; add the column, or remove "
                    "that row"
                )
            prompt = self._prompt(row)
            is_apart = prompt.text[-1:].isspace() or solution[:1].isspace() or not self._writer.has_text_template
            shown.append((prompt.token_ids, solution if is_apart else f" {solution}"))
        if not shown:
            raise DataError("split: '' leaves nothing to learn; name the split to learn, such as 'train'")
        return shown

    def verify(self, prompt: Prompt, completion_text: str) -> Verdict:
        if self._reward is None:
            return self.verifier.verify(completion_text, prompt.answer)
        return self.submit(prompt, completion_text)()

    def submit(self, prompt: Prompt, completion_text: str, token_ids: Sequence[int] = ()) -> PendingVerdict:
        if self._reward is None:
            return self._pool.submit(completion_text, prompt.answer)
        token_ids = token_ids or self.tokenizer.encode(completion_text, add_special_tokens=False)
        is_text = isinstance(prompt.columns["prompt"], str)
        completion = completion_text if is_text else [{"role": "assistant", "content": completion_text}]
        return self._reward.submit(Submission(prompt.key, prompt.columns, completion, tuple(token_ids)))

    def close(self) -> None:
        """End the worker processes of the verifier or of the reward functions, if there are any."""
        self._pool.close()
        if self._reward is not None:
            self._reward.close()

    def _prompt(self, row: Row) -> Prompt:
        text, is_chat = self._writer.written(row)
        token_ids = self.tokenizer.encode(text, add_special_tokens=not is_chat)
        if not token_ids:
            raise DataError(f"prompt: {text[:80]!r} has no tokens; use the tokenizer of the model")
        return Prompt(row.key, tuple(token_ids), text, row.answer, row.level, row.solution, row.cells)


def _with_cells(row: Row, names: Mapping[str, None]) -> Row:
    """The row with a cell in every column, None where it had none."""
    if row.cells.keys() == names.keys():
        return row
    return replace(row, cells={name: row.cells.get(name) for name in names})


def _divide(
    rows: list[Row], columns: Columns, source: str, eval_source: str | None, eval_split: str
) -> tuple[list[Row], list[Row]]:
    """Rows to train on and rows to evaluate, with no question in both."""
    if eval_source is None:
        try:
            eval_rows = columns.read(source, eval_split) if has_splits(source) else []
        except SplitMissing:
            eval_rows = []
        eval_rows = eval_rows or [row for row in rows if is_held_out(row.key)]
    else:
        eval_rows = _eval_rows(columns, eval_source, source, eval_split)
    asked = {row.key for row in eval_rows}
    train_rows = [row for row in rows if row.key not in asked]
    if not train_rows:
        raise DataError(f"source: every row of {source!r} is also evaluated; choose another eval_split or eval_source")
    return train_rows, eval_rows


def _eval_rows(columns: Columns, eval_source: str, source: str, eval_split: str) -> list[Row]:
    """Rows of a source to evaluate on; another preset than the source has columns of its own."""
    is_other = eval_source != source and preset_of(eval_source) is not None
    return (Columns(for_rewards=columns.for_rewards) if is_other else columns).read(eval_source, eval_split)


def _verifier(choice: str | None, rows: Sequence[Row], time_limit_s: float) -> Verifier:
    """The verifier of the config; ``integer`` asks for integers alone and never starts a worker process."""
    if choice not in (None, "integer", "symbolic"):
        raise ConfigError(f"verifier: {choice!r} is unknown; choose integer or symbolic")
    if choice != "integer":
        return SymbolicVerifier(time_limit_s=time_limit_s)
    other = next((row.answer for row in rows if parse_integer(row.answer) is None), None)
    if other is not None:
        raise DataError(f"verifier: gold answer {other[:60]!r} is not an integer; choose verifier 'symbolic'")
    return IntegerVerifier()
