"""What the asynchronous trainer's worker leaves for `arrol view`."""

import json

import pytest

import trl_host

if not trl_host.has_async():
    pytest.skip("needs TRL 1.16", allow_module_level=True)

import async_host

from arrol.records.store import find_runs, read_run
from arrol.records.texts import read_texts, text_steps
from arrol.reports.viewer.feed import RunFeed


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return async_host.model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def pruned(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("out")
    host, worker = async_host.trained(folder, out, settings={"save_strategy": "steps", "save_steps": 2})
    return host, worker, out


def groups_of(out, step):
    return json.loads(read_texts(out / "arrol", step))["groups"]


def test_each_batch_of_the_worker_is_a_step(pruned):
    _, _, out = pruned
    (path,) = find_runs([out])
    run = read_run(path)
    assert run.end.outcome == "finished"
    assert len(run.steps) >= 3
    for row in run.steps:
        lengths = [rollout.completion_tokens for rollout in run.rollouts if rollout.step == row.step]
        assert (len(lengths), sum(lengths)) == (16, row.metrics["tokens/generated"])
    assert any("trl/loss" in row.metrics for row in run.steps)
    assert all(row.metrics["time/step_s"] >= row.metrics["time/generate_s"] > 0 for row in run.steps)
    assert run.run.config["sampling"]["max_completion_tokens"] == 24
    assert run.run.config["task"] == {"reward": ["has_digit"]}
    assert text_steps(path)[0] == 1


def test_its_rollouts_are_shown_with_prompt_gold_and_probe(pruned):
    _, _, out = pruned
    rows = {row["prompt"][0]["content"] + "=": row["answer"] for row in trl_host.dataset()}
    run = read_run(out / "arrol")
    page = RunFeed(out / "arrol").page(0, 0)["columns"]
    assert {0, 1, None} == set(page["right"])
    stopped = [row for row in run.rollouts if row.finish_reason == "pruned"]
    assert stopped
    assert {(row.completion_tokens, row.reward, row.keep) for row in stopped} == {(6, None, False)}
    for group in groups_of(out, 2):
        assert rows[group["prompt"]] == group["gold"]
        for told in group["rollouts"]:
            assert len(told["tokens"]) == len(told["logprobs"])
            assert all(probe["at"] == 6 for probe in told["probes"])
    weights = [told["weight"] for group in groups_of(out, 2) for told in group["rollouts"]]
    assert max(weights) == pytest.approx(2.0, rel=0.05)  # half survive


def test_a_resumed_run_goes_on_behind_its_checkpoint(folder, pruned):
    _, _, out = pruned
    steps_before = read_run(out / "arrol").steps
    args = async_host.config(out, save_strategy="steps", save_steps=2, max_steps=4)
    worker, policy = async_host.worker_of(folder, args)
    host = async_host.trainer_of(folder, args, worker, policy)
    host.train(resume_from_checkpoint=str(out / "checkpoint-2"))
    run = read_run(out / "arrol")
    assert (run.run.segment, run.end.outcome) == (1, "finished")
    kept = run.run.resume_step
    assert 0 < kept <= len(steps_before)
    assert [row.segment for row in run.steps][: kept + 1] == [0] * kept + [1]
    assert [row.step for row in run.steps] == list(range(1, len(run.steps) + 1))


def test_refilled_groups_and_dropped_ones_are_told_apart(folder, tmp_path):
    def mostly(completions, answer, **columns):
        values = trl_host.has_digit(completions, answer)
        return [1.0 if digit in "02468" else value for digit, value in zip(answer, values, strict=True)]

    async_host.trained(
        folder, tmp_path, rule="never", allocation={"rule": "dapo", "max_draws": 4.0}, reward_funcs=mostly,
        settings={"max_steps": 1},
    )  # fmt: skip
    run = read_run(tmp_path / "arrol")
    first = [row for row in run.rollouts if row.step == 1]
    assert {row.dropped for row in first if not row.keep} == {"uniform"}
    assert any(row.keep for row in first)
    assert len({row.group for row in first}) > 2
    assert {group["group"] for group in groups_of(tmp_path, 1)} == {row.group for row in first}


def test_a_failing_reward_is_the_end_of_the_record(folder, tmp_path):
    def broken(completions, **columns):
        raise ValueError("no judge")

    with pytest.raises(ValueError, match="no judge"):
        async_host.trained(folder, tmp_path, reward_funcs=broken)
    end = read_run(tmp_path / "arrol").end
    assert (end.outcome, end.message) == ("failed", "no judge")


def test_a_look_at_batches_without_training_writes_nothing(folder, tmp_path):
    worker, _ = async_host.worker_of(folder, async_host.config(tmp_path))
    maker = worker.batch_maker()
    maker.make(lambda: 0, lambda: None)
    assert not (tmp_path / "arrol").exists()
    other, _ = async_host.worker_of(folder, async_host.config(tmp_path), keep_records=False)
    other.batch_maker().make(lambda: 0, lambda: None)
    assert not (tmp_path / "arrol").exists()
