"""The record that unmodified ``python -m verl.trainer.main_ppo`` leaves behind, beside what verl itself says."""

import json
import threading
from collections import Counter

import numpy as np
import pytest

from arrol.integrations.verl.recorded import verl_advantages
from arrol.records.store import read_run
from arrol.records.texts import read_texts, text_steps
from arrol.reports.viewer.server import Library, viewer_server
from browser import Browser, find_browser
from verl_host import PROMPTS, SIZE, STEPS

END = "<eos>"


def folder_of(run):
    return run.folder / "checkpoints" / "arrol"


def texts_of(run, step):
    """(group, index) -> the text and its row, of a step."""
    found = {}
    for group in json.loads(read_texts(folder_of(run), step))["groups"]:
        for row in group["rollouts"]:
            text = "".join(group["tokens"][at] for at in row["tokens"])
            found[group["group"], row["index"]] = (text.removesuffix(END), row)
    return found


def test_rows_that_train_are_those_of_verl(pruned):
    record = read_run(folder_of(pruned))
    for step in range(1, STEPS + 1):
        rows, texts = [row for row in record.rollouts if row.step == step], texts_of(pruned, step)
        assert sorted((row.group, row.index) for row in rows) == [
            (group, index) for group in range(PROMPTS) for index in range(SIZE)
        ]
        kept = Counter((texts[row.group, row.index][0], row.reward) for row in rows if row.keep)
        assert kept == Counter((row["output"], row["score"]) for row in pruned.rows("rollouts", step))
        stopped = [row for row in rows if row.finish_reason == "pruned"]
        assert len(stopped) == PROMPTS * SIZE // 2
        assert {row.completion_tokens for row in stopped} == {12}
        assert all(len(texts[row.group, row.index][1]["tokens"]) == row.completion_tokens for row in rows)
        assert all(len(texts[row.group, row.index][1]["logprobs"]) == row.completion_tokens for row in rows)
        assert {row.quality >= 0 for row in rows if row.reason} == {True}


def test_advantages_are_those_of_verl(pruned):
    for step, metrics in enumerate(pruned.metrics, 1):
        advantages = [row["advantage"] for _, row in texts_of(pruned, step).values() if row["weight"]]
        assert max(advantages) == pytest.approx(metrics["critic/advantages/max"], abs=1e-4)
        assert min(advantages) == pytest.approx(metrics["critic/advantages/min"], abs=1e-4)


@pytest.mark.parametrize("normalizes", [True, False])
def test_advantages_by_verls_own_function(normalizes):
    import torch
    from verl.trainer.ppo.core_algos import compute_grpo_outcome_advantage

    reward_G = np.random.default_rng(0).random(9)
    groups = [[0], [1, 2], [3, 4, 5, 6, 7, 8]]
    uids = np.array([str(number) for number, rows in enumerate(groups) for _ in rows], dtype=object)
    theirs, _ = compute_grpo_outcome_advantage(
        torch.tensor(reward_G)[:, None], torch.ones(9, 1), uids, norm_adv_by_std_in_grpo=normalizes
    )
    scale = "std" if normalizes else "none"
    ours = [verl_advantages(reward_G[rows], np.ones(len(rows), bool), scale) for rows in groups]
    np.testing.assert_allclose(np.concatenate(ours), theirs[:, 0].numpy(), atol=1e-6)


def test_steps_and_validation_are_those_of_verl(pruned):
    record = read_run(folder_of(pruned))
    assert [row.step for row in record.steps] == list(range(1, STEPS + 1))
    for row, metrics in zip(record.steps, pruned.metrics, strict=True):
        ours = {key.removeprefix("arrol/"): value for key, value in metrics.items() if key.startswith("arrol/")}
        assert {key: row.metrics[key] for key in ours if not key.startswith("total/")} == {
            key: value for key, value in ours.items() if not key.startswith("total/")
        }
        assert row.metrics["reward/mean"] == pytest.approx(metrics["critic/score/mean"])
        assert row.metrics["time/step_s"] == pytest.approx(metrics["perf/time_per_step"], rel=0.3)
    (evaluation,) = record.evals
    scores = [row["score"] for row in pruned.rows("validation", STEPS)]
    assert evaluation.accuracy == pytest.approx(np.mean(scores))
    assert (evaluation.step, evaluation.num_prompts, evaluation.samples_per_prompt) == (STEPS, 8, 2)
    assert (record.end.outcome, record.end.step) == ("finished", STEPS)
    assert record.run.versions["verl"].startswith("0.9.")
    assert record.run.config["training"] == {"steps": STEPS, "group_size": SIZE}


def test_a_resumed_run_begins_a_segment_after_its_checkpoint(again):
    record = read_run(folder_of(again))
    assert (record.run.segment, record.run.resume_step) == (1, STEPS)
    assert [(row.step, row.segment) for row in record.steps] == [(1, 0), (2, 0), (3, 1)]
    assert text_steps(folder_of(again)) == [1, 2, 3]
    assert (record.end.outcome, record.end.step) == ("finished", STEPS + 1)


def test_pods_leaves_a_survivor_of_each_group_out(halved):
    record = read_run(folder_of(halved))
    assert Counter(row.dropped for row in record.rollouts if row.finish_reason != "pruned") == {
        "": 2 * PROMPTS, "surplus": PROMPTS,
    }  # fmt: skip
    assert sum(row.keep for row in record.rollouts) == 2 * PROMPTS


def test_smollm2_chooses_its_probe_on_the_way(smollm2):
    """Neither validation nor checkpoint: no row says how it ended."""
    record = read_run(folder_of(smollm2))
    assert [row.step for row in record.steps] == [1, 2, 3, 4, 5, 6]
    assert len(record.rollouts) == 6 * 2 * SIZE
    (probe,) = record.run.config["pruning"]["probe_tokens"]
    assert {row.completion_tokens for row in record.rollouts if row.finish_reason == "pruned"} == {probe}
    assert record.end is None


def test_without_pruning_nothing_is_written(off):
    assert not folder_of(off).exists()


@pytest.mark.skipif(find_browser() is None, reason="no Chromium found; install one, or set ARROL_CHROMIUM")
def test_the_viewer_shows_a_stopped_rollout_of_verl(pruned, tmp_path):
    stopped = next(row for row in read_run(folder_of(pruned)).rollouts if row.finish_reason == "pruned")
    text, _ = texts_of(pruned, stopped.step)[stopped.group, stopped.index]
    browser = Browser(find_browser(), tmp_path)
    try:
        with viewer_server(Library([folder_of(pruned)]), 0) as server:
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
            address = f"http://127.0.0.1:{server.server_address[1]}/"
            browser.open(f"{address}#group={stopped.step}/{stopped.group}/{stopped.index}")
            shown = browser.run("document.querySelector('article.chosen').textContent")
            status = browser.run("document.querySelector('#status').textContent")
            server.shutdown()
        assert f"step {STEPS} of {STEPS}, finished, rule neyman, {STEPS * PROMPTS * SIZE} rollouts" in status
        assert f"Rollout {stopped.index}: stopped at 12 tokens" in shown
        assert text[:8] in shown
        assert "Probe at 12: stopped, by the draw" in shown
        assert browser.complaints() == []
    finally:
        browser.close()
