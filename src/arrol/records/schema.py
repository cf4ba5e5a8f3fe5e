"""Rows of a run's records: flat, one JSON object per line, tagged by ``kind``.

Conventions:

* Training steps count from 1; step 0 is the state before training (an ``EvalRecord`` may stand there).
* ``segment`` counts the processes that wrote a run: 0 for the first, one more after each resume.
* A ``float`` that is not finite is written as ``null`` and read as NaN; ``None`` is for fields that may be absent.
* Metric keys are paths with the unit last (``docs/metrics.md``). ``time/step_s`` is a training step without evaluation,
  ``time/eval_s`` is recorded apart.

Decoding is strict: an unknown kind, a missing field, an unknown field or a wrong type is a ``DataError`` naming it.

Worked example (executed by the tests)::

    >>> record = EvalRecord(step=0, accuracy=0.25, low=0.1, high=0.5, num_prompts=8, samples_per_prompt=1)
    >>> row = encode(record)
    >>> row["kind"], row["accuracy"], decode(row) == record
    ('eval', 0.25, True)
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cache
from typing import Annotated, Any, ClassVar, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from pydantic_core import ErrorDetails

from arrol.errors import DataError


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """Provenance of the rows that follow: command, commit, versions, device, config."""

    kind: ClassVar[str] = "run"
    run_id: str
    """The same in every segment of a run."""
    name: str
    arm: str
    """Name in a comparison: runs of one arm differ only in their seed."""
    seed: int
    command: str
    """``arrol ...``, without paths of the machine."""
    commit: str
    """Commit of the code that ran; ``unknown`` outside a checkout."""
    dirty: bool
    """Tracked files differed from the commit, or the commit is unknown."""
    versions: dict[str, str]
    device: str
    """CPU model, cores, memory and GPU, in words."""
    config: dict[str, Any]
    """Resolved: every field, defaults included."""
    started_at: str
    """UTC, ISO 8601."""
    segment: int = 0
    resume_step: int | None = None
    """Step of the checkpoint this segment continues from; None: found from its first row."""

    def section(self, name: str) -> Mapping[str, Any]:
        """A table of the config; empty where it has none of that name."""
        found = self.config.get(name)
        return found if isinstance(found, Mapping) else {}


@dataclass(frozen=True, kw_only=True)
class StepRecord:
    """Metrics of one training step."""

    kind: ClassVar[str] = "step"
    step: int
    segment: int = 0
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class EvalRecord:
    """Accuracy on held-out prompts after ``step`` training steps."""

    kind: ClassVar[str] = "eval"
    step: int
    segment: int = 0
    accuracy: float
    """Right among all samples, in [0, 1]: mean reward of a verifier, share of successes of reward functions."""
    low: float
    """Lower end of its 95% interval."""
    high: float
    num_prompts: int
    samples_per_prompt: int
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class RolloutRecord:
    """One rollout: how it ended and what was decided about it."""

    kind: ClassVar[str] = "rollout"
    step: int
    segment: int = 0
    group: int
    index: int
    prompt_key: str
    level: int
    """Difficulty grade of the prompt, 0 where unknown."""
    finish_reason: str
    completion_tokens: int
    reward: float | None
    """None when it was not verified."""
    score: float
    """NaN when it was not scored; so is ``quality``."""
    quality: float
    survival: float
    """In (0, 1]; 1 for a rollout that was never a candidate."""
    reason: str
    """Reason of the last decision; empty for a rollout that was never a candidate."""
    keep: bool
    """It was trained on, unless its advantage was 0."""
    dropped: str = ""
    """Why it was left out of training although it survived; empty when it was not."""
    success: float | None = None
    """1 right, 0 wrong, NaN unknown, where a reward function judged; None: the reward says."""


@dataclass(frozen=True, kw_only=True)
class ShadowRecord:
    """What a stopped rollout would have been: finished aside, for the record alone; it stands before its rollout."""

    kind: ClassVar[str] = "shadow"
    step: int
    segment: int = 0
    group: int
    index: int
    completion_tokens: int
    """Of the whole completion, those before the stop included."""
    finish_reason: str
    reward: float | None
    """None where the verifier gave none."""
    success: float | None = None
    """As in :class:`RolloutRecord`."""
    quality: float
    """At the probe that stopped it; NaN when it was not scored."""


@dataclass(frozen=True, kw_only=True)
class EndRecord:
    """How a segment ended; a segment without one was killed or still runs."""

    kind: ClassVar[str] = "end"
    step: int
    """Last step that was completed."""
    segment: int = 0
    outcome: str
    """``finished``, ``stopped`` (by a signal) or ``failed``."""
    message: str = ""
    """One line, when it failed."""
    totals: dict[str, float] = field(default_factory=dict)
    """Sums over the run, under the metric keys."""


@dataclass(frozen=True, kw_only=True)
class VoteRecord:
    """Accuracy of one vote or strategy; the ``RunRecord`` of the file says where and when."""

    kind: ClassVar[str] = "vote"
    vote: str
    """Name of a vote, or of an online strategy."""
    k: int
    """Samples of a problem that vote; 0 for an online strategy, which chooses their number."""
    accuracy: float
    low: float
    """Lower end of its 95% interval over problems."""
    high: float
    num_problems: int
    tokens_per_problem: float
    ahead: float
    """Accuracy minus that of the majority of the same samples, or, for k = 0, of as many tokens."""
    ahead_low: float
    ahead_high: float
    metrics: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class BenchRecord:
    """One speed measurement with its rival and limit; the ``RunRecord`` of the file says where and when."""

    kind: ClassVar[str] = "bench"
    benchmark: str
    variant: str
    unit: str
    median: float
    p20: float
    p80: float
    repeats: int
    ratio_to: str = ""
    """Variant that ``ratio`` divides by; empty when none."""
    ratio: float = math.nan
    limit: float = math.nan
    """Bound by arithmetic, bytes or token counts, in ``unit``."""
    gap: float = math.nan
    """``median`` over ``limit``."""
    config: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PoolRecord:
    """What a pool of ``arrol lab`` says of a workload; the ``RunRecord`` of the file says where and when."""

    kind: ClassVar[str] = "pool"
    pool: str
    """Name of the pool."""
    policy: str
    num_prompts: int
    num_rollouts: int
    """Rollouts of each prompt."""
    metrics: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class MeritRecord:
    """Merit of one design under one cost model on a pool, beside the pool's first design."""

    kind: ClassVar[str] = "merit"
    pool: str
    design: str
    cost_model: str
    merit: float
    low: float
    """Lower end of its 95% interval over prompts."""
    high: float
    cost: float
    """Cost of a prompt, in the model's unit."""
    error: float
    """Mean squared error of a prompt's gradient estimate."""
    group_size: float
    """Mean rollouts per prompt."""
    kept: float
    trained: float
    """Share of the generated tokens that train."""
    bias: float
    """As a share of the gradient; NaN where it is not above the noise of the replay."""
    change: dict[str, Any] = field(default_factory=dict)
    """What the design changes in the pool's config."""


Record = (
    RunRecord
    | StepRecord
    | EvalRecord
    | RolloutRecord
    | ShadowRecord
    | EndRecord
    | VoteRecord
    | BenchRecord
    | PoolRecord
    | MeritRecord
)

RECORD_TYPES: dict[str, type[Record]] = {
    record_type.kind: record_type
    for record_type in (
        RunRecord,
        StepRecord,
        EvalRecord,
        RolloutRecord,
        ShadowRecord,
        EndRecord,
        VoteRecord,
        BenchRecord,
        PoolRecord,
        MeritRecord,
    )
}


_ADDED: dict[str, dict[str, Any]] = {"rollout": {"dropped": "", "success": None}}
"""Fields that rows of the first version lack, and what they read as."""


def encode(record: Record) -> dict[str, Any]:
    """The row of a record: JSON values only, ``kind`` first, numbers that are not finite as None."""
    return {"kind": record.kind, **{name: _plain(value) for name, value in vars(record).items()}}


def decode(row: Mapping[str, Any]) -> Record:
    """The record of a row; DataError naming the first thing that is wrong with it."""
    if not isinstance(row, Mapping):
        raise DataError(f"record = {_shown(row)}: not a JSON object; every line holds one object")
    kind = row.get("kind")
    record_type = RECORD_TYPES.get(kind) if isinstance(kind, str) else None
    if record_type is None:
        raise DataError(f"kind = {_shown(kind)}: unknown record; known are {', '.join(RECORD_TYPES)}")
    adapter, floats, tables = _reader(record_type.kind)
    try:
        values = vars(adapter.validate_python(row))
    except ValidationError as error:
        raise DataError(_explained(row, record_type.kind, error.errors(include_url=False)[0])) from None
    del values["kind"]
    for name in floats:
        if values[name] is None:
            values[name] = math.nan
    for name in tables:
        table = values[name]
        if None in table.values():
            values[name] = {key: math.nan if value is None else value for key, value in table.items()}
    return record_type(**values)


def require_rollout(row: Any) -> None:
    """DataError naming the first thing that is wrong with a row of rollouts, as :func:`decode`, at a third of its time:
    no record is made."""
    kind = row.get("kind") if isinstance(row, dict) else None
    if kind not in (RolloutRecord.kind, ShadowRecord.kind):
        decode(row)
        raise DataError(f"kind = {_shown(kind)}: a row of records.jsonl; mend or remove that row")
    try:
        _reader(kind)[0].validator.validate_python(row)
    except ValidationError as error:
        raise DataError(_explained(row, kind, error.errors(include_url=False)[0])) from None


def _explained(row: Mapping[str, Any], kind: str, error: ErrorDetails) -> str:
    name = error["loc"][0]
    if error["type"] == "missing":
        return f"{kind}.{name}: missing field; the file was written by another version or damaged"
    if error["type"] in ("extra_forbidden", "invalid_key"):
        nearest = difflib.get_close_matches(str(name), [item.name for item in fields(RECORD_TYPES[kind])], 1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else "; the file was written by another version"
        return f"{kind}.{_shown(name)}: unknown field{hint}"
    wanted = RECORD_TYPES[kind].__annotations__[str(name)]
    return f"{kind}.{name} = {_shown(row[str(name)])}: not of type {wanted}; mend that row"


def _plain(value: Any) -> Any:
    """JSON value of a field: numpy scalars become plain numbers, tuples lists."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # a lone surrogate is no text to a reader of JSON
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item) for item in (sorted(value) if isinstance(value, (set, frozenset)) else value)]
    if isinstance(value, int):
        return int(value)
    if hasattr(value, "item"):  # a numpy scalar
        return _plain(value.item())
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    raise DataError(f"record value = {_shown(value)}: not JSON; write numbers, strings, lists and dicts")


Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
READ_AS: dict[Any, Any] = {
    int: Whole,
    int | None: Whole | None,
    float: float | None,
    dict[str, float]: dict[str, float | None],
}
"""Type of a field -> type that a reader accepts: larger whole numbers are damage, and no array holds them."""


@cache
def _reader(kind: str) -> tuple[TypeAdapter[BaseModel], tuple[str, ...], tuple[str, ...]]:
    """Adapter for the rows of a kind, and the fields of type float and ``dict[str, float]``, where null means NaN."""
    hints, shape = get_type_hints(RECORD_TYPES[kind]), dict[str, Any]()
    names = [item.name for item in fields(RECORD_TYPES[kind])]
    for name in names:
        read = hints[name] if name == "seed" else READ_AS.get(hints[name], hints[name])
        shape[name] = (read, _ADDED.get(kind, {}).get(name, ...))
    model = create_model(kind, __config__=ConfigDict(strict=True, extra="forbid"), kind=(str, ...), **shape)
    floats, tables = ([name for name in names if hints[name] == of] for of in (float, dict[str, float]))
    return TypeAdapter(model), tuple(floats), tuple(tables)


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else text[:57] + "..."
