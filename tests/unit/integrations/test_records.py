"""What a host leaves behind for `arrol view` and `arrol report`, and that no disk or text ends its training."""

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest

from arrol.configs.host import parse_host
from arrol.errors import DataError
from arrol.integrations.records import HostRecords, HostRun, run_config
from arrol.records.groups import RecordedGroup
from arrol.records.schema import EvalRecord, RunRecord
from arrol.records.store import read_records, read_run
from arrol.records.texts import read_texts, text_steps
from arrol.reports.page import write_report
from arrol.reports.viewer.feed import RunFeed
from arrol.reports.viewer.search import search_texts
from integrations.groups import ByteTexts, group_of

HOST = {"rule": "uniform", "probe_tokens": [4]}
HOSTILE = "<script>\x00\x1b[2J\u202e\ud800"


def host_run(host, **changes):
    config = run_config(host, steps=3, group_size=3, sampling={"max_completion_tokens": 9}, rewards=["right"])
    config |= {"folder": Path("/x/y/z"), "hub_token": "mine"}
    return HostRun("mine", 7, config, {"trl": "1.0"}, ["/a/b/train.py", "--x", "--token", "t"], **changes)


def recorded(step, number=0, **changes):
    group = group_of(
        [1, 0, 1], [0.5, 0.5, 1.0], [1.5, 0.0, -1.0], lengths=[6, 4, 3], quality=0.7, step=step, number=number
    )
    for rollout, success in zip(group.rollouts, (1.0, None, 0.0), strict=True):
        rollout.success = success
        rollout.completion.token_ids = tuple(ord("a") + i for i in rollout.completion.token_ids)
    return RecordedGroup(group, np.array([1.0, 0, -1]), np.array([2.0, 0, 1]), ["", "", changes.get("why", "")])


def records_of(folder, tokenizer=ByteTexts(), begin=0, **options):
    host = parse_host({**HOST, **options})
    records = HostRecords(folder, host, tokenizer, prefix="arrol.")
    records.begin(host_run(host), begin)
    return records


def write(records, steps, **changes):
    for step in steps:
        records.write_groups([recorded(step, number, **changes) for number in range(2)], [4])
        records.write_step(step, {"tokens/generated": 26.0, "reward/mean": 0.25})


@pytest.fixture
def said(caplog):
    caplog.set_level(logging.WARNING)
    return lambda: [record.getMessage() for record in caplog.records]


def test_the_viewer_and_the_report_open_what_a_host_wrote(tmp_path):
    records = records_of(tmp_path / "arrol")
    write(records, (1, 2), why="pods")
    records.write_eval(EvalRecord(step=2, accuracy=0.5, low=0.1, high=0.9, num_prompts=4, samples_per_prompt=1))
    running = RunFeed(tmp_path / "arrol").page(0, 0)
    assert (running["run"]["outcome"], running["run"]["step"]) == ("", 2)
    records.end("finished", totals={"tokens/generated": 52})
    run = read_run(tmp_path / "arrol")
    assert (run.run.name, run.run.arm, run.run.seed, run.run.segment) == ("mine", "mine", 7, 0)
    assert run.run.command == "python b/train.py --x --token '***'"
    assert (run.run.config["folder"], run.run.config["hub_token"]) == ("y/z", "***")
    assert run.run.versions["trl"] == "1.0"
    assert run.run.config["pruning"]["rule"] == "uniform"
    assert [row.metrics["reward/mean"] for row in run.steps] == [0.25, 0.25]
    assert (run.evals[0].accuracy, run.end.outcome, run.end.step) == (0.5, "finished", 2)
    assert run.end.totals == {"tokens/generated": 52.0}
    rows = [row for row in run.rollouts if (row.step, row.group) == (2, 1)]
    assert [(row.reward, row.success, row.keep, row.dropped) for row in rows] == [
        (1.5, 1.0, True, ""), (None, None, False, ""), (-1.0, 0.0, False, "pods"),
    ]  # fmt: skip
    page = RunFeed(tmp_path / "arrol").page(0, 0)
    assert page["columns"]["right"] == [1, None, 0] * 4
    about = page["run"]
    assert (about["steps"], about["rule"], about["probes"], about["limit"]) == (3, "uniform", [4], 9)
    assert about["texts"] == [[1, 2]]
    group = json.loads(read_texts(tmp_path / "arrol", 2))["groups"][1]
    assert [["".join(group["tokens"][at] for at in row["tokens"])] for row in group["rollouts"]] == [
        ["abcdef"], ["abcd"], ["abc"],
    ]  # fmt: skip
    assert [(row["advantage"], row["weight"], row["lesson"]) for row in group["rollouts"]] == [
        (1.0, 2.0, ""), (0.0, 0.0, ""), (-1.0, 1.0, "pods"),
    ]  # fmt: skip
    assert [probe["at"] for probe in group["rollouts"][1]["probes"]] == [4]
    report = write_report([tmp_path / "arrol"], tmp_path / "report")
    assert "mine" in report.markdown.read_text("utf-8")


def test_a_resumed_run_goes_on_after_its_checkpoint(tmp_path):
    first = records_of(tmp_path)
    write(first, (1, 2, 3))
    first.sync()  # killed here
    second = records_of(tmp_path, begin=2)
    assert text_steps(tmp_path) == [1, 2]
    write(second, (3,), why="pods")
    second.write_eval(EvalRecord(step=3, accuracy=0.5, low=0, high=1, num_prompts=4, samples_per_prompt=1))
    second.end("finished")
    run = read_run(tmp_path)
    assert [row.segment for row in run.evals] == [1]
    assert (run.run.segment, run.run.resume_step) == (1, 2)
    assert [(row.step, row.segment) for row in run.steps] == [(1, 0), (2, 0), (3, 1)]
    assert {row.segment for row in run.rollouts if row.step == 3} == {1}
    assert len(run.rollouts) == 18
    assert len({row.run_id for row in read_records(tmp_path / "records.jsonl") if isinstance(row, RunRecord)}) == 1
    first.end("killed")


def test_a_new_start_moves_another_run_aside(tmp_path, said):
    write(records_of(tmp_path / "arrol"), (1,))
    again = records_of(tmp_path / "arrol")
    write(again, (1, 2))
    assert len(read_run(tmp_path / "arrol").steps) == 2
    assert len(read_run(tmp_path / "arrol-1").steps) == 1
    assert text_steps(tmp_path / "arrol-1") == [1]
    assert said() == [f"arrol: {tmp_path / 'arrol'} has an earlier run; it is {tmp_path / 'arrol-1'} now"]


def test_a_start_that_learned_nothing_leaves_no_trace(tmp_path, said):
    records_of(tmp_path / "arrol").write_groups([recorded(1)], [4])
    write(records_of(tmp_path / "arrol"), (1,))
    assert [path.name for path in tmp_path.iterdir()] == ["arrol"]
    assert len(read_run(tmp_path / "arrol").rollouts) == 6
    assert said() == []


def test_groups_that_come_later_in_a_step_get_numbers_of_their_own(tmp_path):
    records = records_of(tmp_path)
    for numbers in ((0, 1), (0, 1), (4,)):
        records.write_groups([recorded(1, number) for number in numbers], [4])
    records.write_groups([recorded(2, 0)], [4])
    run = read_run(tmp_path)
    assert sorted({(row.step, row.group) for row in run.rollouts}) == [(1, 0), (1, 1), (1, 2), (1, 3), (1, 4), (2, 0)]
    assert [group["group"] for group in json.loads(read_texts(tmp_path, 1))["groups"]] == [0, 1, 2, 3, 4]
    assert [group["group"] for group in json.loads(read_texts(tmp_path, 2))["groups"]] == [0]


def test_probes_that_were_chosen_on_the_way_stand_in_the_run(tmp_path):
    records = records_of(tmp_path)
    write(records, (1,))
    records.write_groups([recorded(2)], [3])
    assert read_run(tmp_path).run.config["pruning"]["probe_tokens"] == [3]
    assert RunFeed(tmp_path).summary()["probes"] == [3]
    probes = [json.loads(read_texts(tmp_path, step))["groups"][0]["rollouts"][1]["probes"][0]["at"] for step in (1, 2)]
    assert probes == [4, 3]


def test_the_last_row_of_a_step_counts(tmp_path):
    records = records_of(tmp_path)
    records.write_step(1, {"reward/mean": 0.0})
    records.write_step(1, {"reward/mean": 1.0, "tokens/generated": float("nan")})
    (row,) = read_run(tmp_path).steps
    assert row.metrics["reward/mean"] == 1.0
    assert np.isnan(row.metrics["tokens/generated"])


def test_what_a_model_wrote_breaks_nothing(tmp_path):
    class Hostile(ByteTexts):
        def decode(self, ids, *, skip_special_tokens):
            return HOSTILE * len(ids)

    records = records_of(tmp_path, Hostile())
    each = recorded(1)
    each.group.rollouts[0].answer = HOSTILE
    object.__setattr__(each.group.prompt, "text", HOSTILE)
    each.group.rollouts[0].completion.sampler_logprobs_T = np.array([-np.inf, np.nan, 0, 0, 0, 0], np.float32)
    records.write_groups([each], [4])
    group = json.loads(read_texts(tmp_path, 1))["groups"][0]
    assert (group["prompt"], group["tokens"], group["rollouts"][0]["answer"]) == (HOSTILE, [HOSTILE], HOSTILE)
    assert group["rollouts"][0]["logprobs"] == [None, None, 0, 0, 0, 0]
    assert search_texts(tmp_path, "<script>")["hits"] == [[1, 0, 0], [1, 0, 1], [1, 0, 2]]


def texts_in_the_way(folder):
    (folder / "texts").write_text("")
    return folder


def file_in_the_way(folder):
    (folder / "file").write_text("")
    return folder / "file" / "arrol"


def on_a_full_disk(folder):
    (folder / "rollouts.jsonl").symlink_to("/dev/full")
    return folder


@pytest.mark.parametrize(
    ("blocked", "words"),
    [
        (texts_in_the_way, r"texts = .*cannot be written \(.*\); free space, or arrol.keep_texts_mib 0;"),
        (file_in_the_way, r"arrol.records_dir = '.*arrol.*': cannot be written \(Not a directory\); free"),
        (on_a_full_disk, r"arrol.records_dir = '.*rollouts.jsonl': cannot be written \(No space left on device\)"),
    ],
)
def test_a_disk_that_refuses_ends_recording_with_one_warning(tmp_path, said, blocked, words):
    records = records_of(blocked(tmp_path))
    write(records, (1, 2))
    records.begin(host_run(parse_host(HOST)), 0)
    records.write_eval(EvalRecord(step=2, accuracy=0.5, low=0, high=1, num_prompts=4, samples_per_prompt=1))
    records.sync()
    records.end("finished")
    assert not records.is_on
    (line,) = said()
    assert line.startswith("arrol: recording has stopped, training goes on: ")
    assert line.endswith("; arrol.keep_records False records nothing")
    assert re.search(words, line)


def test_a_tokenizer_that_fails_ends_recording_alone(tmp_path, said):
    class Broken:
        def decode(self, ids, *, skip_special_tokens):
            raise IndexError("piece id is out of range")

    write(records_of(tmp_path, Broken()), (1, 2))
    assert said() == [
        "arrol: recording has stopped, training goes on: piece id is out of range; "
        "arrol.keep_records False records nothing"
    ]


def test_texts_and_records_can_be_left_out(tmp_path):
    write(records_of(tmp_path / "no texts", keep_texts_mib=0), (1,))
    assert text_steps(tmp_path / "no texts") == []
    assert len(read_run(tmp_path / "no texts").rollouts) == 6
    write(records_of(tmp_path / "no tokenizer", None), (1,))
    assert text_steps(tmp_path / "no tokenizer") == []
    write(records_of(tmp_path / "none", keep_records=False), (1,))
    other = HostRecords(tmp_path / "none", parse_host(HOST), ByteTexts(), is_on=False)
    other.begin(host_run(parse_host(HOST)), 0)
    write(other, (1,))
    assert not (tmp_path / "none").exists()


def test_a_run_that_ended_can_begin_again(tmp_path):
    records = records_of(tmp_path)
    write(records, (1,))
    records.end("failed", "one\nline hf_" + "a" * 33)
    write(records, (2,))
    assert (read_run(tmp_path).end.message, len(read_run(tmp_path).steps)) == ("one line ***", 1)
    records.begin(host_run(parse_host(HOST)), 1)
    write(records, (2,))
    assert [(row.step, row.segment) for row in read_run(tmp_path).steps] == [(1, 0), (2, 1)]
    assert read_run(tmp_path).end is None


def evaluated(step):
    return EvalRecord(step=step, accuracy=0.5, low=0, high=1, num_prompts=4, samples_per_prompt=1)


@pytest.mark.parametrize(
    ("name", "value", "is_late"),
    [
        ("records.jsonl", '"reward/mean": 0.25', False),
        ("rollouts.jsonl", '"survival": 0.5', False),
        ("records.jsonl", '"accuracy": 0.5', True),
    ],
)
def test_a_changed_digit_in_the_rows_of_a_run_that_ended_is_named(tmp_path, said, name, value, is_late):
    records = records_of(tmp_path / "arrol")
    write(records, (1,))
    records.end("finished")
    if is_late:
        records.write_eval(evaluated(1))
    assert read_run(tmp_path / "arrol").end.outcome == "finished"
    path = tmp_path / "arrol" / name
    content = path.read_text("utf-8")
    assert value in content
    path.write_text(content.replace(value, f"{value[:-1]}9"), "utf-8")
    with pytest.raises(DataError, match=rf"{name} is not what was written.*as its manifest.json says; copy"):
        read_run(tmp_path / "arrol")
    write(records_of(tmp_path / "arrol", begin=1), (2,))
    assert [row.step for row in read_run(tmp_path / "arrol").steps] == [2]
    (line,) = said()
    assert re.search(rf"{name} is not what was written.*; it is .*arrol-1 now", line)


def test_a_run_that_goes_on_after_its_end_is_whole(tmp_path, said):
    records = records_of(tmp_path)
    write(records, (1, 2))
    records.end("finished")
    resumed = records_of(tmp_path, begin=1)
    write(resumed, (2,), why="pods")
    resumed.sync()
    assert read_run(tmp_path).end is None
    resumed.end("finished")
    assert [(row.step, row.segment) for row in read_run(tmp_path).steps] == [(1, 0), (2, 1)]
    assert said() == []


def test_the_time_that_it_takes_is_told_once(tmp_path):
    records = records_of(tmp_path)
    assert records.take_seconds() > 0
    assert records.take_seconds() == 0
