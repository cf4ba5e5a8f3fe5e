"""What a TRL run leaves for `arrol view`: rollouts as they were sampled, judged and trained, and no number changed."""

import json
import logging
import re

import numpy as np
import pytest
import torch
import trl
from rows import Spy

import trl_host
from arrol.integrations.trl import prune_rewards, pruned_rollout
from arrol.integrations.trl.records import TrlRecords
from arrol.integrations.trl.trainer import SaveHead
from arrol.records.store import find_runs, read_run
from arrol.records.texts import read_texts, text_steps
from arrol.reports.page import write_report
from arrol.reports.viewer.feed import RunFeed
from trl_host import PRUNING, config, has_digit, history, is_short, text_of, trainer, weights

NEVER = {"rule": "never"}


def trained(folder, **changes):
    more = {name: changes.pop(name) for name in ("reward_funcs", "evaluate", "chat") if name in changes}
    host = trainer(config(folder, **changes), **more)
    host.train()
    return host


def run_of(folder):
    return read_run(folder / "arrol")


def texts_of(folder, step):
    return json.loads(read_texts(folder / "arrol", step))["groups"]


def rollout_texts(folder, step):
    """(group, index) -> its text and what stands beside it."""
    return {
        (group["group"], row["index"]): ("".join(group["tokens"][at] for at in row["tokens"]), row)
        for group in texts_of(folder, step)
        for row in group["rollouts"]
    }


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    """A run of four steps whose last batch is still there, and its folder."""
    folder = tmp_path_factory.mktemp("pruned")
    evaluation = {"eval_strategy": "steps", "eval_steps": 2, "num_generations_eval": 2, "eval_on_start": True}
    sizes = {"per_device_eval_batch_size": 4, "max_steps": 4, "run_name": "other", "hub_token": "mine"}
    return trained(folder, thinning=0, evaluate=True, **sizes, **evaluation), folder


def test_its_steps_are_the_batches_that_trl_logged(pruned):
    host, folder = pruned
    run = run_of(folder)
    assert [row.step for row in run.steps] == [1, 2, 3, 4]
    assert (run.end.outcome, run.end.step) == ("finished", 4)
    for key, logged in (
        ("tokens/generated", "arrol/tokens/generated"),
        ("pruning/kept_frac", "arrol/pruning/kept_frac"),
        ("reward/mean", "reward"),
        ("trl/loss", "loss"),
        ("trl/grad_norm", "grad_norm"),
    ):
        assert [row.metrics[key] for row in run.steps] == pytest.approx(history(host, logged), rel=1e-4), key
    parts = ("generate", "verify", "estimate", "learn")
    times = [[row.metrics[f"time/{part}_s"] for part in parts] for row in run.steps]
    assert np.array(times).min() > 0
    assert [sum(row) for row in times] == pytest.approx([row.metrics["time/step_s"] for row in run.steps])


def test_its_rows_are_the_rollouts_of_the_last_batch(pruned):
    host, folder = pruned
    run, texts = run_of(folder), rollout_texts(folder, 4)
    assert len(run.rollouts) == 4 * 16
    rows = {(row.group, row.index): row for row in run.rollouts if row.step == 4}
    stopped = 0
    for group in host.pruned.batch.groups:
        for rollout in group.rollouts:
            row = rows[rollout.rollout_id[1:]]
            text, told = texts[rollout.rollout_id[1:]]
            stopped += row.finish_reason == "pruned"
            assert row.finish_reason == rollout.completion.finish_reason
            assert (row.reward, row.success) == (rollout.reward, rollout.reward)
            assert (row.survival, row.reason) == (rollout.survival, rollout.decision.reason if rollout.decision else "")
            assert row.keep is rollout.survived
            assert text == host.processing_class.decode(list(rollout.completion.token_ids))
            assert told["logprobs"] == pytest.approx(rollout.completion.sampler_logprobs_T, abs=0.0051)
            assert len(told["probes"]) == (rollout.decision is not None)
            for probe in told["probes"]:
                assert (probe["at"], probe["survival"]) == (6, pytest.approx(rollout.survival, rel=1e-4))
    assert 0 < stopped < 16


def test_its_prompts_and_golds_are_those_of_the_data(pruned):
    _, folder = pruned
    rows = {row["prompt"][0]["content"] + "=": row["answer"] for row in trl_host.dataset()}
    groups = [group for step in range(1, 5) for group in texts_of(folder, step)]
    assert len(groups) == 8
    assert all(rows[group["prompt"]] == group["gold"] for group in groups)


def test_its_evaluations_are_trls(pruned):
    host, folder = pruned
    evals = run_of(folder).evals
    assert [row.step for row in evals] == [0, 2, 4]
    assert [row.accuracy for row in evals] == pytest.approx(history(host, "eval_reward"))
    assert {(row.num_prompts, row.samples_per_prompt) for row in evals} == {(4, 2)}


def test_viewer_and_report_find_it_below_the_output_folder(pruned, tmp_path):
    _, folder = pruned
    assert find_runs([folder]) == [folder / "arrol"]
    page = RunFeed(folder / "arrol").page(0, 0)
    assert page["run"] == {
        "name": folder.name, "arm": folder.name, "outcome": "finished", "step": 4, "steps": 4, "rule": "neyman",
        "probes": [6], "limit": 24, "texts": [[1, 4]],
    }  # fmt: skip
    assert set(page["columns"]["right"]) == {0, 1, None}
    report = write_report([folder / "arrol"], tmp_path)
    assert "final accuracy" in report.markdown.read_text("utf-8")


def test_a_run_says_where_it_comes_from(pruned):
    run = run_of(pruned[1]).run
    assert run.versions["trl"] == trl.__version__
    assert (run.config["trl"]["per_device_train_batch_size"], run.config["training"]["steps"]) == (16, 4)
    assert run.config["task"] == {"reward": ["has_digit"]}
    assert run.config["algorithm"]["correction"] == "ipw"
    assert run.config["trl"]["hub_token"] == "***"


def test_records_change_no_number(tmp_path):
    runs = [trained(tmp_path / str(keep), keep_records=keep) for keep in (True, False)]
    assert torch.equal(*map(weights, runs))
    assert [path.name for path in tmp_path.glob("*/arrol")] == ["arrol"]


@pytest.mark.parametrize("correction", ["plain", "doubly_robust"])
def test_advantage_times_weight_is_what_enters_the_loss(tmp_path, correction):
    changes = {"correction": correction, "thinning": 0, "loss_type": "dapo", "max_steps": 3}
    host = trainer(config(tmp_path, **changes), Spy)
    host.train()
    inputs = host.pruned.loss_inputs(host.before, host)
    told = rollout_texts(tmp_path, 3)
    weight = {key: row["weight"] for key, (_, row) in told.items()}
    part = {key: row["advantage"] * row["weight"] for key, (_, row) in told.items()}
    tokens = {key: len(row["tokens"]) for key, (_, row) in told.items()}
    live = [key for key in part if weight[key]]
    factor = sum(tokens[key] for key in live) / sum(tokens[key] * weight[key] for key in live)
    mine = sorted(value * factor for key, value in part.items() if weight[key])
    np.testing.assert_allclose(sorted(inputs["advantages"].tolist()), mine, rtol=1e-3, atol=1e-4)


def test_a_resumed_run_writes_what_an_uninterrupted_one_writes(tmp_path):
    whole = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2}
    trained(tmp_path / "a", **whole)
    trained(tmp_path / "b", **whole)
    host = trainer(config(tmp_path / "b", **whole))
    host.train(resume_from_checkpoint=str(tmp_path / "b" / "checkpoint-2"))
    one, two = run_of(tmp_path / "a"), run_of(tmp_path / "b")
    assert (two.run.segment, two.run.resume_step, two.run.run_id != one.run.run_id) == (1, 2, True)
    assert [(row.step, row.segment) for row in two.steps] == [(1, 0), (2, 0), (3, 1), (4, 1)]
    assert len(one.rollouts) == 64
    for mine, other in zip(one.rollouts, two.rollouts, strict=True):
        assert repr({**vars(mine), "segment": 0}) == repr({**vars(other), "segment": 0})
    assert texts_of(tmp_path / "a", 4) == texts_of(tmp_path / "b", 4)


def test_a_killed_run_keeps_the_step_of_its_checkpoint(tmp_path):
    class Killed(Exception):
        pass

    def dies(completions, answer, **kwargs):
        if has_digit.calls == 2:
            raise Killed("out of patience")
        has_digit.calls += 1
        return has_digit(completions, answer)

    has_digit.calls = 0
    host = trainer(config(tmp_path, max_steps=4, save_strategy="steps", save_steps=2), reward_funcs=dies)
    with pytest.raises(Killed):
        host.train()
    run = run_of(tmp_path)
    assert [row.step for row in run.steps] == [1, 2]
    assert (run.end.outcome, run.end.message, run.end.step) == ("failed", "out of patience", 2)


@pytest.mark.parametrize(("pruning", "whole"), [(PRUNING, [0, 1]), (NEVER, [1, 2])])
def test_a_checkpoint_comes_with_the_rows_of_its_steps(tmp_path, monkeypatch, pruning, whole):
    """Saved before transformers writes its last file, where the head is; else behind it."""
    saved = []
    files = "checkpoint-*/trainer_state.json"
    monkeypatch.setattr(TrlRecords, "save", lambda self: saved.append(len(list(tmp_path.glob(files)))))
    trained(tmp_path, pruning=pruning, max_steps=4, save_strategy="steps", save_steps=2)
    assert saved == whole


def test_a_new_start_in_the_same_folder_moves_the_earlier_run_aside(tmp_path, caplog):
    trained(tmp_path, max_steps=2)
    trained(tmp_path, max_steps=1)
    assert (len(run_of(tmp_path).steps), len(read_run(tmp_path / "arrol-1").steps)) == (1, 2)
    assert "has an earlier run; it is" in caplog.text


@pytest.mark.parametrize(
    ("allocation", "options", "reason"),
    [("pods", {"train_size": 4}, "surplus"), ("dapo", {}, "uniform"), ("cppo", {"train_size": 2}, "surplus")],
)
def test_a_rollout_that_a_rule_leaves_out_says_so(tmp_path, allocation, options, reason):
    def mostly(completions, answer, **kwargs):
        return [1.0] * 8 + has_digit(completions[8:], answer[8:])

    trained(
        tmp_path, pruning=NEVER, allocation=allocation, allocation_options=options, max_steps=1, reward_funcs=mostly
    )
    rows = run_of(tmp_path).rollouts
    left_out = [row for row in rows if row.dropped]
    assert {row.dropped for row in left_out} == {reason}
    assert not any(row.keep for row in left_out)
    assert {row.survival for row in rows} == {1.0}  # no probe
    lessons = {key: row["lesson"] for key, (_, row) in rollout_texts(tmp_path, 1).items()}
    assert lessons == {(row.group, row.index): row.dropped for row in rows}
    assert not any(row["probes"] for _, row in rollout_texts(tmp_path, 1).values())


def test_rows_that_were_never_requested_are_no_rollouts(tmp_path):
    trained(tmp_path, pruning=NEVER, allocation="knapsack", allocation_options={"rollout_budget": 10}, max_steps=1)
    assert len(run_of(tmp_path).rollouts) == 10


def test_several_reward_functions_tell_totals_success_and_answers(tmp_path):
    def extracting(completions, answer, log_extra=None, **kwargs):
        log_extra("extracted_answer", [text_of(c)[:1] for c in completions])
        return [value if i % 5 else None for i, value in enumerate(has_digit(completions, answer))]

    functions = [extracting, is_short]
    host = trained(tmp_path, reward_funcs=functions, success_reward="extracting", reward_weights=[1.0, 2.0])
    run, texts = run_of(tmp_path), rollout_texts(tmp_path, 3)
    assert run.run.config["task"] == {"reward": ["extracting", "is_short"]}
    page = RunFeed(tmp_path / "arrol").page(0, 0)["columns"]
    kept = [row for row in run.rollouts if row.step == 3 and row.finish_reason != "pruned"]
    assert {round(row.reward, 1) for row in kept} <= {0.0, 0.2, 1.0, 1.2}
    assert None in {row.success for row in kept}  # the function that says what is right gave none
    assert set(page["right"]) == {0, 1, None}
    for row in kept:
        text, told = texts[row.group, row.index]
        assert told["answer"] == re.sub("<[a-z]+>", "", text)[:1]  # what the function saw had no special tokens
    stopped = [texts[row.group, row.index][1] for row in run.rollouts if row.step == 3 and row not in kept]
    assert {told["answer"] for told in stopped} == {None}
    assert history(host, "reward")[-1] == pytest.approx(run.steps[-1].metrics["reward/mean"], rel=1e-4)


def test_without_any_reward_a_rollout_is_marked(tmp_path):
    def silent(completions, answer, **kwargs):
        return [None if i == 0 else value for i, value in enumerate(has_digit(completions, answer))]

    trained(tmp_path, reward_funcs=silent, max_steps=1)
    rows = run_of(tmp_path).rollouts
    assert [(row.dropped, row.reward, row.keep) for row in rows if row.dropped] == [("unrewarded", None, False)]


def test_chosen_probes_stand_in_the_record(tmp_path):
    host = trained(tmp_path, pruning={**PRUNING, "probe_tokens": None, "pruning_warmup_steps": 4}, max_steps=4)
    (probe,) = host.pruned.memory.probe_tokens
    assert run_of(tmp_path).run.config["pruning"]["probe_tokens"] == [probe]
    found = {at["at"] for _, row in rollout_texts(tmp_path, 4).values() for at in row["probes"]}
    assert found == {probe}
    assert not any(row["probes"] for _, row in rollout_texts(tmp_path, 1).values())


def test_a_disk_that_refuses_ends_recording_and_not_the_training(tmp_path, caplog):
    (tmp_path / "b" / "arrol").mkdir(parents=True)
    (tmp_path / "b" / "arrol" / "texts").write_text("in the way")
    whole, refused = trained(tmp_path / "a"), trained(tmp_path / "b")
    assert torch.equal(weights(whole), weights(refused))
    (line,) = [row.getMessage() for row in caplog.records if "recording has stopped" in row.getMessage()]
    assert "free space, or keep_texts_mib 0; keep_records False records nothing" in line


def test_texts_can_be_left_out_and_the_folder_chosen(tmp_path):
    trained(tmp_path / "out", keep_texts_mib=0, records_dir=str(tmp_path / "mine"), max_steps=1)
    assert not (tmp_path / "out" / "arrol").exists()
    assert len(read_run(tmp_path / "mine").rollouts) == 16
    assert text_steps(tmp_path / "mine") == []


def test_a_trainer_of_your_own_records_too(tmp_path):
    options = {"probe_tokens": [6], "warmup_steps": 1, "quality": {"hidden_size": 8, "min_class_records": 4}}
    rollout = pruned_rollout(correction="plain", **options)
    args = trl_host.trl_config(tmp_path)
    given = {"rollout_func": rollout, "callbacks": [SaveHead(rollout)]}
    host = trainer(args, trl.GRPOTrainer, reward_funcs=prune_rewards(has_digit), **given)
    host.train()
    run = run_of(tmp_path)
    assert [row.step for row in run.steps] == [1, 2, 3]
    assert run.end.outcome == "finished"
    assert [row.metrics["trl/loss"] for row in run.steps] == pytest.approx(history(host, "loss"), rel=1e-4)


def test_several_data_sets_are_one_row_of_the_curve(tmp_path):
    sets = {name: trl_host.dataset(4) for name in ("a", "b")}
    host = trainer(config(tmp_path, max_steps=1, per_device_eval_batch_size=8))
    host.eval_dataset = sets
    host.train()
    host.evaluate()
    (row,) = run_of(tmp_path).evals
    assert row.metrics["eval/reward/mean"] == pytest.approx(np.mean(history(host, "eval_reward")), abs=1e-4)
    assert (row.num_prompts, row.samples_per_prompt) == (8, 8)


def test_wrong_values_are_named(tmp_path):
    for changes, words in (
        ({"keep_texts_mib": -1}, "keep_texts_mib = -1"),
        ({"keep_records": "maybe"}, "keep_records = 'maybe'"),
        ({"records_dir": 3}, "records_dir = 3"),
    ):
        with pytest.raises(ValueError, match=words):
            config(tmp_path, **changes)


@pytest.fixture(autouse=True)
def logged(caplog):
    caplog.set_level(logging.WARNING)


class TestNever:
    """TRL alone: the record sees what its reward functions see."""

    def test_its_rollouts_are_those_that_trl_rewarded(self, tmp_path):
        evaluation = {"eval_strategy": "steps", "eval_steps": 2, "num_generations_eval": 2}
        sizes = {"per_device_eval_batch_size": 4, "max_steps": 4}
        host = trained(tmp_path, pruning=NEVER, evaluate=True, **sizes, **evaluation)
        assert host.pruned is None
        run = run_of(tmp_path)
        assert (run.run.config["pruning"]["rule"], run.end.outcome) == ("never", "finished")
        assert [row.step for row in run.steps] == [1, 2, 3, 4]
        for key, logged in (("reward/mean", "reward"), ("trl/loss", "loss")):
            assert [row.metrics[key] for row in run.steps] == pytest.approx(history(host, logged), rel=1e-4), key
        assert [row.accuracy for row in run.evals] == pytest.approx(history(host, "eval_reward"))
        tokens = [row.metrics["tokens/generated"] for row in run.steps]
        assert np.cumsum(tokens) + 64 * np.arange(1, 5) == pytest.approx(history(host, "num_tokens"))
        assert {row.finish_reason for row in run.rollouts} == {"stop", "length"}
        assert {row.completion_tokens for row in run.rollouts if row.finish_reason == "length"} == {24}
        rows = {f"user: {row['prompt'][0]['content']}": row["answer"] for row in trl_host.dataset()}
        for group in texts_of(tmp_path, 4):
            assert rows[group["prompt"]] == group["gold"]
            rewards = np.array([r.reward for r in run.rollouts if (r.step, r.group) == (4, group["group"])])
            wanted = (rewards - rewards.mean()) / (rewards.std(ddof=1) + 1e-4)
            told = [row["advantage"] for row in group["rollouts"]]
            assert told == pytest.approx(wanted.tolist(), abs=1e-3)
            assert all(set(row["logprobs"]) == {None} and not row["probes"] for row in group["rollouts"])
        for row in run.steps:
            generate, verify, learn = (row.metrics[f"time/{part}_s"] for part in ("generate", "verify", "learn"))
            assert min(generate, learn) > verify > 0

    def test_several_batches_in_a_step_and_several_steps_of_a_batch(self, tmp_path):
        sizes = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2}
        many = trained(tmp_path / "many", pruning=NEVER, steps_per_generation=1, max_steps=2, **sizes)
        assert [row.step for row in run_of(tmp_path / "many").steps] == [1, 2, 3, 4]
        assert run_of(tmp_path / "many").run.config["training"]["steps"] == 4
        few = trained(tmp_path / "few", pruning=NEVER, num_iterations=2, max_steps=4)
        run = run_of(tmp_path / "few")
        assert [row.step for row in run.steps] == [1, 2]
        losses = history(few, "loss")
        assert [row.metrics["trl/loss"] for row in run.steps] == pytest.approx(
            [np.mean(losses[:2]), np.mean(losses[2:])], abs=1e-3
        )
        assert len(history(many, "loss")) == 2

    def test_async_functions_several_of_them_and_no_reward(self, tmp_path):
        async def late(completions, answer, **kwargs):
            return [None if i == 3 else value for i, value in enumerate(has_digit(completions, answer))]

        def also(completions, **kwargs):
            return [None if i == 3 else value for i, value in enumerate(is_short(completions))]

        host = trained(tmp_path, pruning=NEVER, reward_funcs=[late, also], success_reward="late", max_steps=1)
        run = run_of(tmp_path)
        assert [row.index for row in run.rollouts if row.reward is None] == [3]
        assert [row.dropped for row in run.rollouts if row.dropped] == ["unrewarded"]
        assert {row.success for row in run.rollouts} == {0.0, 1.0, None}
        assert run.steps[0].metrics["reward/mean"] == pytest.approx(history(host, "reward")[0], rel=1e-4)

    def test_a_resumed_run_goes_on(self, tmp_path):
        whole = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "pruning": NEVER}
        trained(tmp_path, **whole)
        trainer(config(tmp_path, **whole)).train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
        assert [(row.step, row.segment) for row in run_of(tmp_path).steps] == [(1, 0), (2, 0), (3, 1), (4, 1)]

    def test_a_reward_model_is_left_alone(self, tmp_path):
        folder = trl_host.reward_model(tmp_path / "model")
        host = trainer(config(tmp_path / "out", pruning=NEVER, max_steps=1), reward_funcs=[has_digit, folder])
        host.train()
        assert not (tmp_path / "out" / "arrol").exists()
        assert host.reward_funcs[0] is has_digit
