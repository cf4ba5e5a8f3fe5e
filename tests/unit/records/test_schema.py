"""Rows survive the trip through JSON, and nothing malformed gets in."""

import dataclasses
import doctest
import json
import math

import numpy as np
import pytest

import arrol.records.schema as schema
from arrol.errors import DataError
from arrol.records.schema import (
    BenchRecord,
    EndRecord,
    EvalRecord,
    MeritRecord,
    PoolRecord,
    RolloutRecord,
    RunRecord,
    ShadowRecord,
    StepRecord,
    VoteRecord,
    decode,
    encode,
    require_rollout,
)
from arrol.types import FinishReason, Reason

RUN = RunRecord(
    run_id="r1",
    name="demo",
    arm="balanced",
    seed=3,
    command="arrol train demo.toml",
    commit="abc",
    dirty=False,
    versions={"numpy": "2.0"},
    device="a CPU, 2 cores",
    config={"pruning": {"rule": "balanced", "probe_tokens": [16]}, "name": None},
    started_at="2026-01-01T00:00:00+00:00",
)
ROLLOUT = RolloutRecord(
    step=1,
    group=2,
    index=3,
    prompt_key="p",
    level=1,
    finish_reason="stop",
    completion_tokens=9,
    reward=1.0,
    score=-0.3,
    quality=0.4,
    survival=0.5,
    reason="draw",
    keep=True,
)
EVERY = [
    RUN,
    StepRecord(step=1, metrics={"tokens/generated": 10.0}),
    EvalRecord(step=0, accuracy=0.2, low=0.1, high=0.3, num_prompts=8, samples_per_prompt=2),
    ROLLOUT,
    ShadowRecord(
        step=1, group=0, index=2, completion_tokens=9, finish_reason="stop", reward=1.0, quality=0.25, success=None
    ),
    EndRecord(step=5, outcome="finished", totals={"tokens/generated": 50.0}),
    VoteRecord(
        vote="majority",
        k=4,
        accuracy=0.5,
        low=0.4,
        high=0.6,
        num_problems=9,
        tokens_per_problem=160.0,
        ahead=0.0,
        ahead_low=0.0,
        ahead_high=0.0,
        metrics={"ties": 0.25},
    ),
    PoolRecord(pool="a", policy="models/a", num_prompts=4, num_rollouts=8, metrics={"success": 0.5}),
    MeritRecord(
        pool="a",
        design="group of 8",
        cost_model="flops",
        merit=1.2,
        low=1.1,
        high=1.3,
        cost=10.0,
        error=2.0,
        group_size=8.0,
        kept=1.0,
        trained=0.5,
        bias=float("nan"),
        change={"training": {"group_size": 8}},
    ),
    BenchRecord(benchmark="generate", variant="arrol", unit="s", median=1.0, p20=0.9, p80=1.1, repeats=5, limit=0.5),
]


@pytest.mark.parametrize("record", EVERY, ids=lambda record: record.kind)
def test_trip_through_json(record):
    row = json.loads(json.dumps(encode(record), allow_nan=False))
    assert next(iter(row)) == "kind"
    again = decode(row)
    assert type(again) is type(record)
    assert encode(again) == row  # NaN fields are not equal to themselves, their rows are


def test_every_record_type_is_exercised():
    assert {record.kind for record in EVERY} == set(schema.RECORD_TYPES)


def test_docstring_example():
    outcome = doctest.testmod(schema)
    assert outcome.attempted == 3
    assert outcome.failed == 0


def test_numbers_that_are_not_finite_become_null_and_nan():
    step = StepRecord(step=1, metrics={"a": math.nan, "b": math.inf, "c": 1})
    row = encode(step)
    assert row["metrics"] == {"a": None, "b": None, "c": 1}
    metrics = decode(row).metrics
    assert math.isnan(metrics["a"])
    assert math.isnan(metrics["b"])
    assert metrics["c"] == 1.0
    assert isinstance(metrics["c"], float)


def test_absent_reward_stays_none_and_absent_score_is_nan():
    row = encode(dataclasses.replace(ROLLOUT, reward=None, score=math.nan))
    assert row["reward"] is None
    assert row["score"] is None
    again = decode(row)
    assert again.reward is None
    assert math.isnan(again.score)


def test_numpy_scalars_enums_and_tuples_are_written_plain():
    row = encode(
        dataclasses.replace(
            ROLLOUT,
            finish_reason=FinishReason.PRUNED,
            reason=Reason.DRAW,
            survival=np.float32(0.5),
            step=np.int64(7),
            keep=np.bool_(False),
        )
    )
    assert json.loads(json.dumps(row)) == {**encode(ROLLOUT), "finish_reason": "pruned", "step": 7, "keep": False}
    assert type(row["finish_reason"]) is str
    assert encode(dataclasses.replace(RUN, config={"a": (1, 2), "b": {"y", "x"}}))["config"] == {
        "a": [1, 2],
        "b": ["x", "y"],
    }


def test_what_is_not_json_is_refused():
    with pytest.raises(DataError, match="not JSON"):
        encode(dataclasses.replace(RUN, config={"a": object()}))


@pytest.mark.parametrize("row", [{}, {"kind": "stop"}, {"kind": None}, {"kind": ["run"]}])
def test_unknown_kind_is_named(row):
    with pytest.raises(DataError, match=r"kind = .*unknown record; known are run, step, eval"):
        decode(row)


def test_a_row_is_an_object():
    with pytest.raises(DataError, match="not a JSON object"):
        decode([1, 2])


@pytest.mark.parametrize("record", EVERY, ids=lambda record: record.kind)
def test_every_missing_field_is_named(record):
    for field in dataclasses.fields(record):
        if (record.kind, field.name) in (("rollout", "dropped"), ("rollout", "success")):
            continue  # which rows of the first version lack
        row = encode(record)
        del row[field.name]
        with pytest.raises(DataError, match=rf"{record.kind}\.{field.name}: missing field"):
            decode(row)


def test_rows_of_the_first_version_say_nothing_of_what_was_left_out():
    row = encode(dataclasses.replace(ROLLOUT, dropped="surplus"))
    assert decode(row).dropped == "surplus"
    del row["dropped"]
    assert decode(row).dropped == ""


def test_unknown_field_names_the_nearest():
    with pytest.raises(DataError, match=r"eval\.'accuracies': unknown field; did you mean 'accuracy'\?"):
        decode({**encode(EVERY[2]), "accuracies": 1})


def test_swapped_field_is_reported_as_missing():
    row = encode(EVERY[2])
    row["precision"] = row.pop("accuracy")
    with pytest.raises(DataError, match=r"eval\.accuracy: missing"):
        decode(row)


@pytest.mark.parametrize(
    ("record", "field", "value"),
    [
        (ROLLOUT, "step", 1.5),
        (ROLLOUT, "step", True),
        (ROLLOUT, "step", None),
        (ROLLOUT, "keep", 1),
        (ROLLOUT, "survival", "0.5"),
        (ROLLOUT, "reward", False),
        (ROLLOUT, "reason", None),
        (RUN, "config", []),
        (RUN, "versions", {"numpy": 2}),
        (RUN, "resume_step", "x"),
        (EVERY[1], "metrics", {"a": "x"}),
        (EVERY[1], "metrics", None),
    ],
)
def test_wrong_type_names_field_and_value(record, field, value):
    with pytest.raises(DataError, match=rf"{record.kind}\.{field} = .*: not of type "):
        decode({**encode(record), field: value})


def test_long_values_are_cut_in_messages():
    with pytest.raises(DataError) as caught:
        decode({**encode(ROLLOUT), "step": "x" * 5000})
    assert len(str(caught.value)) < 200


def test_a_lone_surrogate_is_no_text_to_a_reader():
    row = EndRecord(step=1, outcome="failed", message="\ud800 x \u00e9")
    assert decode(encode(row)) == EndRecord(step=1, outcome="failed", message="? x \u00e9")


@pytest.mark.parametrize("value", [2**63, 10**400, -(2**63) - 1])
def test_a_whole_number_that_no_array_holds_is_damage(value):
    row = encode(next(record for record in EVERY if isinstance(record, RolloutRecord)))
    for name in ("step", "completion_tokens", "level"):
        with pytest.raises(DataError, match=f"^rollout.{name} = .*: not of type int; mend that row$"):
            decode({**row, name: value})
        with pytest.raises(DataError, match=f"^rollout.{name} = .*: not of type int; mend that row$"):
            require_rollout({**row, name: value})
    run = encode(next(record for record in EVERY if isinstance(record, RunRecord)))
    assert decode({**run, "seed": 2**64}).seed == 2**64
    with pytest.raises(DataError, match=r"^run.resume_step = "):
        decode({**run, "resume_step": value})


@pytest.mark.parametrize("row", [None, [], "x", {}, {"kind": []}, {"kind": "step"}, {"kind": "rollout"}])
def test_what_is_no_rollout_is_named(row):
    with pytest.raises(DataError):
        require_rollout(row)


def test_a_row_of_records_is_no_rollout():
    for record in EVERY:
        if isinstance(record, (RolloutRecord, ShadowRecord)):
            require_rollout(encode(record))
        else:
            with pytest.raises(DataError, match=f"^kind = '{record.kind}': a row of records.jsonl"):
                require_rollout(encode(record))
