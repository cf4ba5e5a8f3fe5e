"""Finding a text in a run."""

import gzip

from arrol.records.texts import packed, step_file
from arrol.reports.viewer import search as module
from arrol.reports.viewer.search import search_texts


def test_prompts_and_completions_are_searched_newest_step_first(small):
    small.step(1, words=("x", "Yz"))
    small.step(2, words=("x", "other"))
    assert search_texts(small.folder, "XYZX") == {
        "hits": [[1, 0, 0], [1, 0, 1], [1, 1, 0], [1, 1, 1], [1, 1, 2]],
        "steps": 2,
        "of": 2,
    }
    assert [hit[:2] for hit in search_texts(small.folder, "Question 1")["hits"]] == [[2, 1]] * 3 + [[1, 1]] * 3
    assert search_texts(small.folder, "absent")["hits"] == []
    assert search_texts(small.folder, "") == {"hits": [], "steps": 0, "of": 0}


def test_a_search_ends_in_time(small, monkeypatch):
    small.step(1)
    small.step(2)
    assert search_texts(small.folder, "a", seconds=-1) == {"hits": [], "steps": 0, "of": 2}
    monkeypatch.setattr(module, "HITS", 2)
    found = search_texts(small.folder, "a")
    assert (found["hits"], found["steps"]) == ([[2, 0, 0], [2, 0, 1]], 1)


def test_a_damaged_step_is_passed_over(small):
    small.step(1)
    small.step(2)
    step_file(small.folder, 2).write_bytes(b"no gzip")
    assert {hit[0] for hit in search_texts(small.folder, "a")["hits"]} == {1}


def test_a_step_of_another_shape_is_passed_over(small):
    for step in (1, 2, 3):
        small.step(step)
    step_file(small.folder, 2).write_bytes(packed(2, [{"group": 0, "prompt": "a", "rollouts": "x"}]))
    step_file(small.folder, 3).write_bytes(gzip.compress(b"[" * 100_000))
    assert {hit[0] for hit in search_texts(small.folder, "a")["hits"]} == {1}
