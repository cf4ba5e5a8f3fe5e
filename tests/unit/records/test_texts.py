"""Texts of a run on disk: whole files, a size limit, no step twice."""

import gzip
import json
import random

import pytest

from arrol.errors import DataError
from arrol.records.manifest import file_sum
from arrol.records.texts import (
    TextWriter,
    forget_texts,
    packed,
    read_groups,
    read_texts,
    shown_texts,
    step_file,
    text_steps,
    texts_damage,
)
from viewer_runs import texts as run_texts

HOSTILE = "<script>alert(1)</script>\u202e\x00\ud800"


def group(number=0, text="a"):
    return {"group": number, "prompt": "?", "gold": "1", "tokens": [text], "rollouts": []}


def noise(size, seed=0):
    return random.Random(seed).randbytes(size).hex()


def test_what_was_written_is_read_again(tmp_path):
    TextWriter(tmp_path, 2**20).write(3, [group(text=HOSTILE)])
    read = json.loads(read_texts(tmp_path, 3))
    assert read == {"version": 1, "step": 3, "groups": [group(text=HOSTILE)]}
    assert text_steps(tmp_path) == [3]
    assert read_texts(tmp_path, 2) is None


def test_the_bytes_depend_on_the_step_alone():
    assert packed(1, [group()]) == packed(1, [group()])
    assert packed(1, [group()]) != packed(2, [group()])


def test_the_oldest_steps_go_when_the_limit_is_reached(tmp_path):
    writer = TextWriter(tmp_path, 3500)
    for step in range(1, 6):
        writer.write(step, [group(text=noise(900, step))])
    assert text_steps(tmp_path) == [3, 4, 5]
    again = TextWriter(tmp_path, 2500, step=5)  # a resumed run counts what is there
    again.write(6, [group(text=noise(900))])
    assert text_steps(tmp_path) == [5, 6]


def test_of_a_step_over_the_limit_the_first_groups_are_kept(tmp_path):
    groups = [group(number, noise(900, number)) for number in range(8)]
    writer = TextWriter(tmp_path, 3500)
    writer.write(1, groups)
    kept = json.loads(read_texts(tmp_path, 1))["groups"]
    assert kept == groups[: len(kept)]
    assert 1 <= len(kept) < 8
    assert step_file(tmp_path, 1).stat().st_size <= 3500
    TextWriter(tmp_path, 100, step=1).write(2, groups)  # not even one fits
    assert text_steps(tmp_path) == [1]


def test_no_limit_keeps_nothing_and_makes_no_folder(tmp_path):
    TextWriter(tmp_path, 0).write(1, [group()])
    assert list(tmp_path.iterdir()) == []


def test_a_resumed_run_forgets_the_steps_after_its_checkpoint(tmp_path):
    writer = TextWriter(tmp_path, 2**20)
    for step in (1, 2, 3):
        writer.write(step, [group()])
    TextWriter(tmp_path, 0, step=2)
    assert text_steps(tmp_path) == [1, 2]


def test_sums_are_those_of_the_files_and_of_what_was_written(tmp_path):
    writer = TextWriter(tmp_path, 2**20)
    for step in (1, 2):
        writer.write(step, [group(text=noise(99, step))])
    names = ["texts/00000001.json.gz", "texts/00000002.json.gz"]
    sums = writer.sync()
    assert sums == {name: file_sum(tmp_path / name) for name in names}
    assert TextWriter(tmp_path, 2**20, step=2).sync() == sums
    step_file(tmp_path, 1).write_bytes(b"damaged")
    assert TextWriter(tmp_path, 2**20, step=2, sums=sums).sync() == sums  # as noted, so it is named again
    assert list(TextWriter(tmp_path, 2**20, step=1, sums=sums).sync()) == names[:1]


def test_damage_is_told_from_what_the_limit_has_removed(tmp_path):
    writer = TextWriter(tmp_path, 2**20)
    for step in range(1, 6):
        writer.write(step, [group()])
    sums = writer.sync()
    assert texts_damage(tmp_path, sums) == []
    step_file(tmp_path, 1).unlink()
    assert texts_damage(tmp_path, sums) == []
    step_file(tmp_path, 3).unlink()
    step_file(tmp_path, 4).write_bytes(b"")
    step_file(tmp_path, 5).write_bytes(step_file(tmp_path, 5).read_bytes() + b"x")
    assert [line.split(":")[0] for line in texts_damage(tmp_path, sums)] == [
        "texts/00000003.json.gz is absent",
        f"texts/00000004.json.gz has 0 of its {sums['texts/00000004.json.gz'].size} bytes",
        "texts/00000005.json.gz is not what was written",
    ]


def test_a_damaged_file_is_named(tmp_path):
    TextWriter(tmp_path, 2**20).write(1, [group(text=noise(99))])
    path = step_file(tmp_path, 1)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"texts = .*00000001.json.gz.*: cannot be read; remove that file"):
        read_texts(tmp_path, 1)
    path.write_bytes(b"no gzip")
    with pytest.raises(DataError, match="cannot be read"):
        read_texts(tmp_path, 1)


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("arrol.records.texts.MAX_FILE", 1000)
    TextWriter(tmp_path, 2**20).write(1, [group(text="a" * 5000)])
    with pytest.raises(DataError, match=r"texts = .*more than 0 MiB of text"):
        read_texts(tmp_path, 1)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "texts").write_text("in the way")
    with pytest.raises(DataError, match=r"texts = .*cannot be written .*records.keep_texts_mib 0"):
        TextWriter(tmp_path, 2**20).write(1, [group()])
    with pytest.raises(DataError, match=r"cannot be written .*; free space, or arrol.keep_texts_mib 0"):
        TextWriter(tmp_path, 2**20, option="arrol.keep_texts_mib").write(1, [group()])


def test_forgetting_leaves_other_files(tmp_path):
    TextWriter(tmp_path, 2**20).write(1, [group()])
    (tmp_path / "texts" / "00000002.json.gz.part").write_bytes(gzip.compress(b""))
    (tmp_path / "texts" / "mine.txt").write_text("keep")
    forget_texts(tmp_path)
    assert [path.name for path in (tmp_path / "texts").iterdir()] == ["mine.txt"]
    (tmp_path / "texts" / "mine.txt").unlink()
    forget_texts(tmp_path)
    assert not (tmp_path / "texts").exists()


@pytest.mark.parametrize("read", [read_groups, shown_texts])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{}", "groups: Field required"),
        (b'{"groups": [3]}', r"groups\.0: Input should be"),
        (
            b'{"groups": [{"group": 0, "prompt": "p", "tokens": ["a", 3], "rollouts": []}]}',
            r"tokens\.1: Input should be",
        ),
        (
            b'{"groups": [{"group": 0, "prompt": "p", "tokens": [], "rollouts": [{"index": 0}]}]}',
            "tokens: Field required",
        ),
        (b'{"groups": ' + b"[" * 100_000, "content: Invalid JSON: recursion limit"),
        (b'{"groups": [{"group": 0, "prom', "content: Invalid JSON: EOF"),
        (b"\xff", "content: Invalid JSON"),
    ],
)
def test_a_content_of_another_shape_is_one_line(tmp_path, read, content, said):
    TextWriter(tmp_path, 2**20).write(1, [group()])
    step_file(tmp_path, 1).write_bytes(gzip.compress(content))
    with pytest.raises(DataError, match=rf"^texts = .*00000001.json.gz'.*{said}.*; remove that file") as caught:
        read(tmp_path, 1)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("place", ["tokens", "shadow"])
def test_a_token_outside_of_its_table_is_one_line(tmp_path, place):
    one = run_texts(0, ["a", "b"], [1.0, None])
    assert [len(each.rollouts) for each in groups_of(tmp_path, one)] == [2]
    shown_texts(tmp_path, 1)
    rollout = one["rollouts"][1]
    (rollout if place == "tokens" else rollout["shadow"])["tokens"].append(2)
    if place == "shadow":
        groups_of(tmp_path, one)  # a search reads no shadow
    else:
        with pytest.raises(DataError, match="a token is not in the table"):
            groups_of(tmp_path, one)
    with pytest.raises(DataError, match=r"groups.0: Value error, a token is not in the table of its group"):
        shown_texts(tmp_path, 1)


def groups_of(folder, one):
    """What a search reads of a step with that group."""
    TextWriter(folder, 2**20).write(1, [one])
    return read_groups(folder, 1)


def test_half_a_character_is_read_and_shown(tmp_path):
    """A tokenizer in Python may write it."""
    one = run_texts(0, ["a\ud800", "b"], [1.0, None])
    (found,) = groups_of(tmp_path, one)
    assert found.tokens == ["a\ud800", "b"]
    assert json.loads(shown_texts(tmp_path, 1))["groups"] == [one]
    step_file(tmp_path, 1).write_bytes(gzip.compress(b'{"a": "\\ud800", '))
    with pytest.raises(DataError, match=r"^texts = "):
        read_groups(tmp_path, 1)
