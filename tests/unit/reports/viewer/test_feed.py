"""Rollouts as columns: pages, running runs, resumed ones."""

import json

import pytest

from arrol.errors import DataError
from arrol.records.schema import encode
from arrol.reports.viewer import feed as module
from arrol.reports.viewer.feed import RunFeed
from viewer_runs import rollout_row, run_row, shadow_row


def column(page, name):
    found = page["columns"][name]
    return [found["of"][at] for at in found["at"]] if isinstance(found, dict) else found


def test_a_page_has_every_rollout_and_the_run(small):
    small.step(1)
    page = RunFeed(small.folder).page(0, 0)
    assert column(page, "index") == [0, 1, 2, 0, 1, 2]
    assert column(page, "right") == [1, 0, None, 1, 1, 1]
    assert column(page, "finish_reason") == ["stop", "stop", "pruned", "stop", "stop", "stop"]
    assert column(page, "prompt_key") == ["p0"] * 3 + ["p1"] * 3
    assert page["run"] == {
        "name": "small", "arm": "a", "outcome": "", "step": 1, "steps": 2, "rule": "neyman", "probes": [2], "limit": 0,
        "texts": [[1, 1]],
    }  # fmt: skip
    assert not page["more"]


def test_a_running_run_is_followed(small):
    feed = RunFeed(small.folder)
    assert column(feed.page(0, 0), "step") == []
    small.step(1)
    assert len(column(feed.page(0, 0), "step")) == 6
    small.step(2)
    small.end()
    page = feed.page(0, 6)
    assert column(page, "step") == [2] * 6
    assert (page["epoch"], page["start"], page["run"]["outcome"]) == (0, 6, "finished")
    line = (json.dumps(encode(rollout_row(step=3))) + "\n").encode()
    for half, steps in ((line[:40], []), (line[40:], [3])):  # half a line is not there yet
        with open(small.folder / "rollouts.jsonl", "ab") as file:
            file.write(half)
        assert column(feed.page(0, 12), "step") == steps


def test_steps_that_were_computed_again_are_shown_once(small):
    feed = RunFeed(small.folder)
    small.step(1)
    small.step(2)
    assert len(column(feed.page(0, 0), "step")) == 12
    small.records(run_row(segment=1, resume_step=1))
    page = feed.page(0, 12)  # the page that knew step 2 starts over
    assert (page["epoch"], page["start"], column(page, "step")) == (1, 0, [1] * 6)
    small.step(2, rewards=((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)), segment=1)
    page = feed.page(1, 6)
    assert (page["epoch"], column(page, "right")) == (1, [0] * 6)


def test_a_long_run_comes_in_pages(small, monkeypatch):
    monkeypatch.setattr(module, "PAGE", 4)
    monkeypatch.setattr(module, "CHUNK", 600)
    small.rollouts(*(rollout_row(index=index) for index in range(11)))
    feed, found = RunFeed(small.folder), []
    for _ in range(99):
        page = feed.page(0, len(found))
        found += column(page, "index")
        assert len(column(page, "index")) <= 4
        if not page["more"]:
            break
    assert found == list(range(11))


def test_a_run_that_was_replaced_starts_over(small):
    small.step(1)
    small.step(2)
    feed = RunFeed(small.folder)
    feed.page(0, 0)
    for name in ("records.jsonl", "rollouts.jsonl"):
        (small.folder / name).unlink()
    small.records(run_row())
    small.step(1, rewards=((0.0, 0.0, 0.0),))
    page = feed.page(0, 12)
    assert (page["epoch"], page["start"], column(page, "right")) == (1, 0, [0, 0, 0])


def test_a_run_that_was_cut_and_has_grown_again_starts_over(small):
    """A resumed run cuts its rows at the checkpoint; when it has written more than there was, only their text tells."""
    small.step(1)
    size = (small.folder / "rollouts.jsonl").stat().st_size
    small.step(2)
    feed = RunFeed(small.folder)
    feed.page(0, 0)
    for name in ("records.jsonl", "rollouts.jsonl"):
        with open(small.folder / name, "r+b") as file:
            file.truncate(size if name == "rollouts.jsonl" else 0)
    small.records(run_row(), run_row(segment=1, resume_step=1))
    for step in (2, 3):
        small.step(step, rewards=((0.0, 0.0, 0.0), (0.0, 0.0, 0.0)), segment=1)
    page = feed.page(0, 12)
    assert (page["epoch"], page["start"]) == (1, 0)
    assert column(page, "step") == [1] * 6 + [2] * 6 + [3] * 6
    assert column(page, "right") == [1, 0, None, 1, 1, 1] + [0] * 12
    assert (feed.page(1, 18)["epoch"], column(feed.page(1, 18), "step")) == (1, [])
    (small.folder / "rollouts.jsonl").write_bytes(b"")
    assert column(feed.page(1, 18), "step") == []
    assert column(feed.page(1, 18), "step") == []
    small.step(1, segment=1)
    assert column(feed.page(2, 0), "step") == [1] * 6


def test_a_reward_function_that_knows_no_success_leaves_the_outcome_open(small):
    small.records(run_row(segment=1, resume_step=0, task={"reward": ["m:f"]}))
    small.rollouts(rollout_row(segment=1), rollout_row(index=1, segment=1, success=0.0))
    assert column(RunFeed(small.folder).page(0, 0), "right") == [None, 0]


def test_a_damaged_line_is_named(small):
    (small.folder / "rollouts.jsonl").write_text("{half\n{}\n")
    with pytest.raises(DataError, match=r"records = .*rollouts.jsonl.*: a line is not JSON; mend or remove"):
        RunFeed(small.folder).page(0, 0)


def test_the_summary_reads_no_rollout(small):
    (small.folder / "rollouts.jsonl").write_text("{half\n{}\n")
    assert RunFeed(small.folder).summary()["name"] == "small"


def test_a_stopped_rollout_shows_what_it_would_have_been(small, monkeypatch):
    monkeypatch.setattr(module, "CHUNK", 1)  # a shadow and its rollout come in two looks
    small.rollouts(shadow_row(), shadow_row(index=3, reward=0.0), rollout_row(), rollout_row(index=2, reward=None))
    small.rollouts(rollout_row(index=3, reward=None))
    feed, found = RunFeed(small.folder), []
    for _ in range(9):
        found += column(feed.page(0, len(found)), "would")
    assert found == [None, 1, 0]
    small.records(run_row(segment=1, resume_step=0))
    small.rollouts(rollout_row(index=2, reward=None, segment=1))
    for _ in range(3):
        page = feed.page(0, 0)
    assert column(page, "would") == [None]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"reward": [1.0]}, "rollout.reward = [1.0]: not of type float | None"),
        ({"reward": {"a": 1}}, "rollout.reward = {'a': 1}: not of type"),
        ({"success": "x"}, "rollout.success = 'x': not of type"),
        ({"reason": {"a": 1}}, "rollout.reason = {'a': 1}: not of type str"),
        ({"keep": "x"}, "rollout.keep = 'x': not of type bool"),
        ({"step": None}, "rollout.step = None: not of type int"),
        ({"extra": 1}, "rollout.'extra': unknown field"),
        ({"kind": ["rollout"]}, "kind = ['rollout']: unknown record"),
        ({"kind": "bench"}, "bench.benchmark: missing field"),
    ],
)
def test_a_row_with_a_wrong_value_is_one_line_with_file_and_field(small, change, said):
    with open(small.folder / "rollouts.jsonl", "a") as file:
        file.write(json.dumps(encode(rollout_row()) | change) + "\n")
    with pytest.raises(DataError) as caught:
        RunFeed(small.folder).page(0, 0)
    assert str(caught.value).startswith(f"records = {str(small.folder / 'rollouts.jsonl')!r}: {said}")


@pytest.mark.parametrize("row", [3, "x", None, [], [{"kind": "rollout"}]])
def test_a_row_that_is_no_object_is_one_line(small, row):
    for name in ("rollouts.jsonl", "records.jsonl"):
        folder = small.folder.with_name(name)
        folder.mkdir()
        (folder / name).write_text(json.dumps(row) + "\n")
        with pytest.raises(DataError, match=rf"^records = '.*{name}': record = .*: not a JSON object"):
            RunFeed(folder).page(0, 0)


@pytest.mark.parametrize("section", [None, [], "x", 3, {"rule": [], "probe_tokens": "x", "steps": {}, "reward": None}])
def test_a_config_of_any_shape_is_shown(small, section):
    small.records(run_row(task=section, pruning=section, training=section, sampling=section))
    small.step(1)
    about = RunFeed(small.folder).page(0, 0)["run"]
    assert (about["steps"], about["rule"], about["probes"], about["limit"]) == (0, "", [], 0)
