"""Where rows come from; splits, folders and the hub are looked at in test_dataset.py."""

import json

import pytest

from arrol.errors import DataError
from arrol.tasks.sources import SplitMissing, has_splits, records


def test_splits_are_where_there_can_be_two(tmp_path):
    (tmp_path / "a.jsonl").write_text("{}\n")
    assert has_splits(str(tmp_path))
    assert has_splits("gsm8k")
    assert has_splits("owner/name")
    assert not has_splits(str(tmp_path / "a.jsonl"))
    assert not has_splits("MATH-500")


def test_the_line_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"a": 1}) + "\n\n{\n")
    with pytest.raises(DataError, match=r"source: '.*a\.jsonl' line 3 is not JSON \(Expecting"):
        list(records(str(path), "train"))
    path.write_text("[" * 100_000)
    with pytest.raises(DataError, match="line 1 is not JSON"):
        list(records(str(path), "train"))


def test_a_row_of_many_files_is_known_by_its_file_and_line(tmp_path):
    for name in ("test-0", "test-1"):
        (tmp_path / f"{name}.jsonl").write_text('{"a": 1}\n{"a": 2}\n')
    places = [place.rpartition("/")[2] for place, _ in records(str(tmp_path), "test")]
    assert places == ["test-0.jsonl' line 1", "test-0.jsonl' line 2", "test-1.jsonl' line 1", "test-1.jsonl' line 2"]


def test_files_of_a_split_are_read_in_order(tmp_path):
    for name in ("test-1.jsonl", "test-0.jsonl", "train.jsonl", "testing.jsonl"):
        (tmp_path / name).write_text(json.dumps({"name": name}) + "\n")
    assert [row["name"] for _, row in records(str(tmp_path), "test")] == ["test-0.jsonl", "test-1.jsonl"]
    with pytest.raises(SplitMissing, match="split: 'dev' is not in"):
        records(str(tmp_path), "dev")


def test_a_preset_with_one_split_is_asked_for_that(monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets, "load_dataset", lambda *words, **fields: [{"words": words, **fields}])
    assert list(records("olympiad_bench", "test")) == [
        (
            "Hothan/OlympiadBench:OE_TO_maths_en_COMP row 1",
            {"words": ("Hothan/OlympiadBench", "OE_TO_maths_en_COMP"), "split": "train"},
        )
    ]
    assert list(records("SVAMP", "test")) == [
        ("ChilleD/SVAMP row 1", {"words": ("ChilleD/SVAMP", None), "split": "test"})
    ]


def test_a_hub_that_cannot_be_reached_is_one_line_at_once(silent_hub, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    with pytest.raises(DataError) as caught:
        records("svamp", "test")
    assert str(caught.value) == (
        f"source: 'ChilleD/SVAMP' cannot be loaded: {silent_hub} does not answer, and no copy is cached; give a local "
        "file or folder, with the task's preset for its columns"
    )
    assert datasets.config.HF_HUB_OFFLINE is False


def test_a_cached_copy_is_read_where_the_hub_does_not_answer(silent_hub, monkeypatch, tmp_path):
    import datasets

    seen = []
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: seen.append(datasets.config.HF_HUB_OFFLINE) or [])
    (tmp_path / "datasets/ChilleD___svamp/default/0.0.0/abc").mkdir(parents=True)
    assert list(records("svamp", "test")) == []
    assert seen == [True]
    assert datasets.config.HF_HUB_OFFLINE is False
