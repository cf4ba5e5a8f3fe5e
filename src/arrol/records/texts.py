"""Completions of a run as text: one compressed JSON file per step, the newest steps within a size limit. No pickle.

Layout::

    RUN/texts/00000012.json.gz

A file is written whole and moved into place, so a crash leaves no half of one. A resumed run first removes the steps
after its checkpoint, then writes them again. Its checkpoints hold the sums of all files. Numbers that ``RolloutRecord``
has are not repeated here.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Generic, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from arrol.errors import DataError
from arrol.records.manifest import Sum, damage_below, file_sum

Group = TypeVar("Group")
Read = TypeVar("Read", bound=BaseModel)
TEXTS_FOLDER = "texts"
LEVEL = 4
"""Of gzip: higher ones take longer and save little."""
MAX_FILE = 2**28
"""Bytes of a decompressed step that a reader accepts."""

Index = Annotated[int, Field(ge=0, lt=2**53)]
Real = Annotated[float, Field(allow_inf_nan=False)] | None

GroupTexts = Mapping[str, Any]
"""JSON values: ``group``, ``prompt``, ``gold``, ``tokens`` (distinct texts of tokens) and ``rollouts``. Each of these
has ``index``, ``tokens`` (positions in the group's), ``logprobs``, ``answer``, ``advantage``, ``weight``, ``lesson``
and ``probes``."""


class _Read(BaseModel):
    """A part of a file as a reader checks it; fields that a reader does not use are not made."""

    model_config = ConfigDict(strict=True, frozen=True)


class RolloutRead(_Read):
    """Tokens of a rollout, for a search."""

    index: Index
    tokens: list[Index]

    def last_token(self) -> int:
        """The largest position in the group's table; -1 without a token."""
        return max(self.tokens, default=-1)


class GroupRead(_Read):
    """A group, for a search."""

    group: Annotated[int, Field(ge=-1, lt=2**53)]
    prompt: str
    tokens: list[str]
    rollouts: Sequence[RolloutRead]

    @model_validator(mode="after")
    def _within(self) -> Self:
        if any(rollout.last_token() >= len(self.tokens) for rollout in self.rollouts):
            raise ValueError("a token is not in the table of its group")
        return self


class _ProbeShown(_Read):
    at: Index | None
    score: Real
    quality: Real
    survival: Real
    keep: bool
    reason: str


class _ShadowShown(_Read):
    tokens: list[Index]
    logprobs: list[Real]
    reward: Real


class _RolloutShown(RolloutRead):
    logprobs: list[Real]
    answer: str | None
    advantage: Real
    weight: Real
    lesson: str
    probes: list[_ProbeShown]
    shadow: _ShadowShown | None = None

    def last_token(self) -> int:
        return max(super().last_token(), max(self.shadow.tokens if self.shadow else (), default=-1))


class _GroupShown(GroupRead):
    gold: str | None
    rollouts: list[_RolloutShown]


class _Step(_Read, Generic[Group]):
    groups: list[Group]


class TextWriter:
    """Keeps the texts of the newest steps of a run."""

    def __init__(
        self,
        run: Path,
        limit: int,
        *,
        step: int = 0,
        sums: Mapping[str, Sum] = MappingProxyType({}),
        option: str = "records.keep_texts_mib",
    ) -> None:
        """``limit`` is in bytes, 0 keeps nothing more. ``step`` is the last one done; files of later steps go. ``sums``
        are those of the checkpoint that is resumed. ``option`` is the name of the limit in an error."""
        self.folder, self._limit, self._option = run / TEXTS_FOLDER, limit, option
        for known in text_steps(run):
            if known > step:
                self._failing(step_file(run, known).unlink)
        self._sums: dict[int, Sum] = {}
        """Ascending in step."""
        self._size = 0
        """Bytes of all of them."""
        for known in text_steps(run):
            self._failing(lambda known=known: self._add(known, sums.get(_relative(known))))
        self._unsynced: list[int] = []

    def sync(self) -> dict[str, Sum]:
        """Wait until all files are on disk; their sums, as they were written, by path in the run's folder."""
        for step in self._unsynced:
            self._failing(partial(_sync, self.folder / step_name(step)))
        self._unsynced = []
        return {_relative(step): found for step, found in self._sums.items()}

    def _add(self, step: int, noted: Sum | None) -> None:
        found = noted or file_sum(self.folder / step_name(step))
        self._drop(step)
        self._sums[step] = found
        self._size += found.size

    def _drop(self, step: int) -> None:
        known = self._sums.pop(step, None)
        self._size -= known.size if known else 0

    def write(self, step: int, groups: Sequence[GroupTexts]) -> None:
        """Keep a step and forget the oldest ones over the limit; of a step over the limit, its first groups.

        DataError when the disk refuses.
        """
        if not self._limit:
            return
        kept, data = len(groups), packed(step, groups)
        while len(data) > self._limit:
            kept = min(kept - 1, kept * self._limit // len(data))
            if kept < 1:
                return
            data = packed(step, groups[:kept])
        path = self.folder / step_name(step)
        part = path.with_name(path.name + ".part")

        def place() -> None:
            self.folder.mkdir(parents=True, exist_ok=True)
            part.write_bytes(data)
            os.replace(part, path)

        self._failing(place)
        self._add(step, Sum(len(data), hashlib.sha256(data).hexdigest()))
        self._unsynced.append(step)
        while self._size > self._limit:
            oldest = next(iter(self._sums))
            self._failing(partial((self.folder / step_name(oldest)).unlink, missing_ok=True))
            self._drop(oldest)
            self._unsynced = [step for step in self._unsynced if step != oldest]

    def _failing(self, act: Any) -> None:
        shown = str(self.folder)
        try:
            act()
        except OSError as error:
            raise DataError(
                f"texts = {shown!r}: cannot be written ({error.strerror}); free space, or {self._option} 0"
            ) from None


def packed(step: int, groups: Sequence[GroupTexts]) -> bytes:
    """The content of a step's file; the same for the same step, whenever it is written."""
    text = json.dumps({"version": 1, "step": step, "groups": groups}, ensure_ascii=False, separators=(",", ":"))
    return gzip.compress(text.encode("utf-8", "backslashreplace"), LEVEL, mtime=0)


def text_steps(run: Path) -> list[int]:
    """Steps whose texts a run keeps, ascending."""
    names = [path.name for path in (run / TEXTS_FOLDER).glob("*.json.gz")]
    return sorted(int(name[:-8]) for name in names if re.fullmatch(r"\d{8,}\.json\.gz", name))


def step_name(step: int) -> str:
    """Name of a step's file; names sort as steps do."""
    return f"{step:08d}.json.gz"


def _sync(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _relative(step: int) -> str:
    return f"{TEXTS_FOLDER}/{step_name(step)}"


def step_file(run: Path, step: int) -> Path:
    """Where the texts of a step are."""
    return run / TEXTS_FOLDER / step_name(step)


def texts_damage(run: Path, sums: Mapping[str, Sum]) -> list[str]:
    """What is wrong with the files of texts, a sentence each. Steps that are absent in front of all others are those
    that the size limit has removed."""
    names = sorted(name for name in sums if name.startswith(TEXTS_FOLDER))
    while names and not (run / names[0]).exists():
        names.pop(0)
    found = damage_below(run, {name: sums[name] for name in names})
    return [f"{line}: the viewer lacks the completions of that step, training does not need them" for line in found]


def read_texts(run: Path, step: int) -> bytes | None:
    """The texts of a step as JSON, None where they were not kept; DataError for a damaged file."""
    path = step_file(run, step)
    shown = str(path)
    try:
        with gzip.open(path) as file:
            data = file.read(MAX_FILE + 1)
    except FileNotFoundError:
        return None
    except (OSError, EOFError, zlib.error):
        raise DataError(f"texts = {shown!r}: cannot be read; remove that file, the other steps are whole") from None
    if len(data) > MAX_FILE:
        raise DataError(f"texts = {shown!r}: more than {MAX_FILE // 2**20} MiB of text; remove that file")
    return data


def read_groups(run: Path, step: int) -> list[GroupRead]:
    """Prompts and tokens of a step, none where it was not kept; DataError as of :func:`read_texts`, and for another
    content."""
    data = read_texts(run, step)
    return [] if data is None else _checked(_Step[GroupRead], data, run, step).groups


def shown_texts(run: Path, step: int) -> bytes | None:
    """As :func:`read_texts`, with DataError also for a content that the viewer's page cannot show."""
    data = read_texts(run, step)
    if data is not None:
        _checked(_Step[_GroupShown], data, run, step)
    return data


def _checked(kind: type[Read], data: bytes, run: Path, step: int) -> Read:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":  # half of a character, which Python's own reader takes, or damage
        with suppress(ValueError, RecursionError):
            return kind.model_validate(json.loads(data))
    place, shown = ".".join(map(str, first["loc"])) or "content", str(step_file(run, step))
    raise DataError(f"texts = {shown!r}: {place}: {first['msg'][:100]}; remove that file, the other steps are whole")


def forget_texts(run: Path) -> None:
    """Remove the texts of a run, and their folder where nothing else lies in it."""
    for step in text_steps(run):
        step_file(run, step).unlink(missing_ok=True)
    for part in (run / TEXTS_FOLDER).glob("*.json.gz.part"):
        part.unlink(missing_ok=True)
    with suppress(OSError):  # absent, or holds something else
        (run / TEXTS_FOLDER).rmdir()
