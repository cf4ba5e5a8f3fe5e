"""What a verl run leaves behind for `arrol view` and `arrol report`, and that no disk or text ends its training."""

import asyncio
import json
import logging
import math

import pytest
from transformers import AutoTokenizer

import verl_host
from arrol.algorithms.allocation.rule import StepShape
from arrol.integrations.verl import recording
from arrol.records.store import read_run
from arrol.records.texts import read_texts, text_steps
from arrol.reports.page import write_report
from arrol.reports.viewer.feed import RunFeed
from verl_records import LONG, PROMPT, PlayedRun, use_bytes


@pytest.fixture(autouse=True)
def _bytes(monkeypatch):
    use_bytes(monkeypatch)


def played(folder, *steps, **options):
    """A run with these steps, and all of it on disk; returns it."""

    async def main():
        run = PlayedRun(folder, **options)
        for step in steps:
            await run.step(step)
        await run.close()
        return run

    return asyncio.run(main())


def texts_of(folder, step):
    """Per group: prompt, gold, and the text of each rollout."""
    groups = json.loads(read_texts(folder, step))["groups"]
    return [
        (
            group["prompt"],
            group["gold"],
            ["".join(group["tokens"][at] for at in row["tokens"]) for row in group["rollouts"]],
        )
        for group in groups
    ]


def test_every_rollout_is_a_row_with_its_text_and_its_part_of_the_update(tmp_path):
    played(tmp_path / "arrol", 1, 2)
    run = read_run(tmp_path / "arrol")
    assert [(row.step, row.group, row.index) for row in run.rollouts] == [
        (step, group, index) for step in (1, 2) for group in (0, 1) for index in range(4)
    ]
    for row in run.rollouts:
        stopped = row.finish_reason == "pruned"
        assert row.completion_tokens == (4 if stopped else len(LONG))
        assert (row.reward, row.keep) == ((None, False) if stopped else (row.index % 2, True))
        assert row.success == (None if stopped else row.index % 2)
        assert (row.survival, row.reason) == (0.5, "draw")
        assert row.finish_reason in (("pruned", "length") if row.index == 0 else ("pruned", "stop"))
    texts = texts_of(tmp_path / "arrol", 2)
    assert [(prompt, gold) for prompt, gold, _ in texts] == [(PROMPT, "0"), (PROMPT, "1")]
    stopped = [row.finish_reason == "pruned" for row in run.rollouts if row.step == 2]
    assert [text for *_, rows in texts for text in rows] == [LONG[:4] if stop else LONG for stop in stopped]
    assert stopped.count(True) == 4
    groups = json.loads(read_texts(tmp_path / "arrol", 2))["groups"]
    for row, rollout in zip([row for group in groups for row in group["rollouts"]], run.rollouts[8:], strict=True):
        assert row["logprobs"][:3] == [0, -0.25, -0.5]
        assert row["weight"] == float(rollout.keep)
        assert row["answer"] == ("2" if rollout.keep else None)
        assert [(probe["at"], probe["keep"]) for probe in row["probes"]] == [(4, rollout.keep)]
    for group, rewards in zip(
        groups, ([row.reward for row in run.rollouts[at : at + 4]] for at in (8, 12)), strict=True
    ):
        spread = math.sqrt(0.5) + 1e-6 if {0.0, 1.0} <= set(rewards) else None
        wanted = [0 if reward is None or not spread else (reward - 0.5) / spread for reward in rewards]
        assert [row["advantage"] for row in group["rollouts"]] == pytest.approx(wanted, abs=1e-5)


def test_metrics_and_times_of_a_step_are_one_row(tmp_path):
    async def main():
        run = PlayedRun(tmp_path)
        await run.step(1)
        await run.step(2)
        await run.validate(2)
        await run.close()

    asyncio.run(main())
    run = read_run(tmp_path)
    assert [row.step for row in run.steps] == [1, 2]
    for row in run.steps:
        metrics = row.metrics
        assert metrics["tokens/generated"] == 4 * 4 + 4 * len(LONG)
        assert metrics["tokens/trained"] == 4 * len(LONG)
        assert metrics["batch/rows"] == 4
        rewards = [rollout.reward for rollout in run.rollouts if rollout.step == row.step and rollout.keep]
        assert metrics["reward/mean"] == sum(rewards) / 4
        phases = [metrics[f"time/{phase}_s"] for phase in ("generate", "estimate", "learn")]
        assert metrics["time/step_s"] == pytest.approx(sum(phases))
        assert min(*phases, metrics["time/record_s"]) >= 0
        assert not [name for name in metrics if name.startswith("total/")]


def test_the_times_of_a_step_add_up(monkeypatch):
    """From 10 to 14 it samples and learns from rewards, 1 s of that the head; it ends at 20."""
    times = iter([10.0, 14.0, 20.0])
    monkeypatch.setattr(recording.time, "monotonic", lambda: next(times))
    clock = recording.StepClock()
    clock.verified(1.0)
    assert clock.metrics() == {"time/generate_s": 3, "time/estimate_s": 1, "time/learn_s": 6, "time/step_s": 10}


def test_a_validation_in_batches_is_one_row_and_the_last_one_ends_the_run(tmp_path):
    async def main():
        run = PlayedRun(tmp_path)
        await run.validate(0, [0.0, 0.0])
        await run.step(1)
        await run.validate(1)
        assert read_run(tmp_path).end is None
        await run.step(2)
        run.service.log_end()
        run.service.evaluating(2)
        await run.service.evaluated(2, [("a", 1.0, 3), ("b", 0.0, 5)])
        run.service.evaluating(2)
        await run.service.evaluated(2, [("c", 0.5, 7), ("d", 0.6, 9)])

    asyncio.run(main())
    run = read_run(tmp_path)
    assert [(row.step, row.accuracy, row.num_prompts) for row in run.evals] == [
        (0, 0, 2), (1, 0.5, 2), (2, 0.5, 4),
    ]  # fmt: skip
    last = run.evals[-1]
    assert last.low < last.accuracy < last.high
    assert last.metrics["eval/reward/mean"] == pytest.approx(2.1 / 4)
    assert last.metrics["eval/completion_tokens/mean"] == 6
    assert last.metrics["time/eval_s"] >= 0
    assert (run.end.outcome, run.end.step) == ("finished", 2)
    assert run.end.totals["tokens/generated"] == 2 * (4 * 4 + 4 * len(LONG))


def test_a_run_without_validation_ends_with_its_last_checkpoint(tmp_path):
    async def main():
        run = PlayedRun(tmp_path, plan={"validates": False})
        await run.step(1)
        await run.service.recorded(is_saved=True)
        assert read_run(tmp_path).end is None
        await run.step(2)
        run.service.log_end()
        await run.service.recorded()
        assert read_run(tmp_path).end is None
        await run.service.recorded(is_saved=True)

    asyncio.run(main())
    assert read_run(tmp_path).end.step == 2
    assert "time/learn_s" in read_run(tmp_path).steps[-1].metrics


def test_a_resumed_run_goes_on_after_its_checkpoint(tmp_path):
    played(tmp_path, 1, 2, 3)
    played(tmp_path, 3, step=2)
    run = read_run(tmp_path)
    assert (run.run.segment, run.run.resume_step) == (1, 2)
    assert [(row.step, row.segment) for row in run.steps] == [(1, 0), (2, 0), (3, 1)]
    assert {row.segment for row in run.rollouts if row.step == 3} == {1}
    assert len(run.rollouts) == 24
    assert text_steps(tmp_path) == [1, 2, 3]


def test_a_run_that_is_resumed_behind_its_last_step_has_finished(tmp_path):
    """verl saves its last step before we record the end: a run killed in between trains nothing when resumed."""
    played(tmp_path, 1, 2)
    assert read_run(tmp_path).end is None

    async def main():
        run = PlayedRun(tmp_path, step=2)
        await run.service.nothing_left()

    asyncio.run(main())
    run = read_run(tmp_path)
    assert [row.step for row in run.steps] == text_steps(tmp_path) == [1, 2]
    assert (run.end.outcome, run.end.step) == ("finished", 2)


def test_pods_and_verls_own_filter_say_why_a_survivor_does_not_train(tmp_path):
    async def main():
        pods = {"rule": "never", "observe": True, "allocation": {"rule": "pods", "train_size": 2}}
        run = PlayedRun(tmp_path, options=pods, shape=StepShape(2, 4))
        await run.step(1, left_out=[(1, 0), (1, 1), (1, 2), (1, 3)])
        await run.step(2, reward=lambda group, index: math.nan if index == 1 else float(index))
        await run.close()

    asyncio.run(main())
    rows = {(row.step, row.group, row.index): row for row in read_run(tmp_path).rollouts}
    reasons = [rows[1, 0, index].dropped for index in range(4)]
    assert sorted(reasons) == ["", "", "surplus", "surplus"]
    assert sorted(rows[1, 1, index].dropped for index in range(4)) == ["filtered", "filtered", "surplus", "surplus"]
    assert (rows[2, 0, 1].dropped, rows[2, 0, 1].reward, rows[2, 0, 1].finish_reason) == ("unrewarded", None, "stop")
    assert RunFeed(tmp_path).page(0, 0)["columns"]["right"][9] is None
    kept = [row["weight"] for row in json.loads(read_texts(tmp_path, 1))["groups"][0]["rollouts"]]
    assert [weight == 1 for weight in kept] == [reason == "" for reason in reasons]


@pytest.mark.parametrize("kind", ["stopped", "survivors"])
def test_texts_that_come_after_the_rewards_are_waited_for(tmp_path, kind):
    async def main():
        run = PlayedRun(tmp_path)
        await run.step(1, late=lambda group, index, kept: kept == (kind == "survivors"))
        await asyncio.sleep(0.2)
        assert not (tmp_path / "rollouts.jsonl").exists()
        run.tell_late()
        await asyncio.wait_for(run.close(), 0.5 * recording.LATE_S)

    asyncio.run(main())
    assert all(text in (LONG, LONG[:4]) for *_, rows in texts_of(tmp_path, 1) for text in rows)


def test_texts_that_never_come_are_empty(tmp_path, monkeypatch):
    monkeypatch.setattr(recording, "LATE_S", 0.2)

    async def main():
        run = PlayedRun(tmp_path)
        await run.step(1, late=lambda group, index, kept: True)
        await run.step(2)
        run.tell_late()
        await run.close()
        return run

    run = asyncio.run(main())
    assert {text for *_, rows in texts_of(tmp_path, 1) for text in rows} == {""}
    assert [prompt for prompt, *_ in texts_of(tmp_path, 1)] == ["question 0", "question 1"]
    assert {row.completion_tokens for row in read_run(tmp_path).rollouts if row.step == 1} == {4, len(LONG)}
    assert {rollout_id.step for rollout_id in run.service._recording._written} == {2}, "too late for step 1"


def test_the_viewer_and_the_report_open_it_while_it_runs(tmp_path):
    played(tmp_path / "arrol", 1, 2)
    page = RunFeed(tmp_path / "arrol").page(0, 0)
    about = page["run"]
    assert (about["name"], about["outcome"], about["step"], about["steps"]) == ("mine", "", 2, 2)
    assert (about["rule"], about["probes"], about["limit"], about["texts"]) == ("uniform", [4], 12, [[1, 2]])
    assert page["columns"]["right"] == [None if not keep else i % 2 for i, keep in enumerate(page["columns"]["keep"])]
    pytest.importorskip("matplotlib")  # verl's environment has none
    assert "mine" in write_report([tmp_path / "arrol"], tmp_path / "report").markdown.read_text("utf-8")


def test_a_step_whose_rows_the_sampler_did_not_choose_is_written_with_the_next(tmp_path):
    async def main():
        run = PlayedRun(tmp_path)
        run.service.sampled = lambda *arguments: None
        await run.step(1)
        await run.step(2)
        await run.close()

    asyncio.run(main())
    run = read_run(tmp_path)
    assert {row.step for row in run.rollouts} == {1}
    assert all(row.keep == (row.finish_reason != "pruned") for row in run.rollouts)


def test_a_disk_that_refuses_ends_recording_with_one_warning(tmp_path, caplog):
    (tmp_path / "file").write_text("")

    async def main():
        run = PlayedRun(tmp_path / "file" / "arrol")
        first = await run.step(1)
        second = await run.step(2)
        await run.validate(2)
        await run.close()
        return first[0]["keeps_texts"], second[0]["keeps_texts"]

    with caplog.at_level(logging.WARNING):
        assert asyncio.run(main()) == (True, False)
    (line,) = [message for message in caplog.messages if "record" in message]
    assert line.startswith("arrol: recording has stopped, training goes on: arrol.records_dir = ")
    assert "Not a directory" in line


def test_a_mistake_of_our_own_ends_recording_with_one_warning(tmp_path, caplog, monkeypatch):
    def broken(*arguments, **named):
        raise KeyError("mine")

    monkeypatch.setattr(recording, "recorded_group", broken)
    with caplog.at_level(logging.WARNING):
        run = played(tmp_path, 1, 2)
    assert caplog.messages == [
        "arrol: recording has stopped, training goes on: 'mine'; arrol.keep_records False records nothing"
    ]
    assert not run.service._recording.wants_texts


def test_without_texts_the_numbers_stay(tmp_path):
    run = played(tmp_path / "arrol", 1, options={"keep_texts_mib": 0})
    assert not run.service._recording.wants_texts
    assert text_steps(tmp_path / "arrol") == []
    rows = read_run(tmp_path / "arrol").rollouts
    assert {row.completion_tokens for row in rows} == {4, len(LONG)}


def test_a_tokenizer_is_loaded_at_its_first_use(monkeypatch):
    monkeypatch.undo()
    tokenizer = recording.FolderTokenizer(str(verl_host.MODEL), trusts_code=False)
    assert tokenizer.decode([-1, 5]) == ""
    assert tokenizer._loaded is None
    ids = AutoTokenizer.from_pretrained(verl_host.MODEL).encode("1+1=")
    assert "1+1=" in tokenizer.decode(ids)
