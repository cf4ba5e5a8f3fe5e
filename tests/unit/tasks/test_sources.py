"""Where rows come from; splits, folders and the hub are looked at in test_dataset.py."""

import json
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from arrol.errors import DataError
from arrol.tasks import sources
from arrol.tasks.sources import SplitMissing, has_splits, hub_answers, records


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


@pytest.fixture
def hub(monkeypatch):
    """Points at a hub with this address; its answers are not remembered between tests."""
    import datasets

    def at(port):
        monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{port}")
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)

    hub_answers.cache_clear()
    yield at
    hub_answers.cache_clear()


def test_a_hub_that_cannot_be_reached_is_one_line_at_once(hub, monkeypatch):
    import datasets

    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    hub(port)
    start = time.monotonic()
    with pytest.raises(DataError) as caught:
        records("svamp", "test")
    assert time.monotonic() - start < 5
    assert str(caught.value) == (
        f"source: 'ChilleD/SVAMP' split 'test' cannot be loaded (http://127.0.0.1:{port} does not answer, and no copy "
        "is cached); give a local file or folder, with the task's preset for its columns"
    )
    assert datasets.config.HF_HUB_OFFLINE is False


def test_a_hub_that_never_answers_is_given_up_and_a_cached_copy_is_read(hub, monkeypatch):
    import datasets

    seen = []
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, **__: seen.append(datasets.config.HF_HUB_OFFLINE) or [])
    with socket.create_server(("127.0.0.1", 0)) as silent:
        hub(silent.getsockname()[1])
        assert not hub_answers(f"http://127.0.0.1:{silent.getsockname()[1]}", 0.2)
        monkeypatch.setattr(sources, "hub_answers", lambda endpoint: False)
        assert list(records("svamp", "test")) == []
    assert seen == [True]
    assert datasets.config.HF_HUB_OFFLINE is False


def test_a_hub_that_answers_with_an_error_is_reached():
    class Refuses(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(503)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert hub_answers(f"http://127.0.0.1:{server.server_port}")
    hub_answers.cache_clear()
