"""A hub that answers, refuses and keeps silent, and what lies in its cache."""

import socket
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from arrol.errors import DataError, ModelError
from arrol.hub import cached_only, endpoint, hub_answers, is_model_name


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


def test_a_hub_that_keeps_silent_is_given_up():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        assert not hub_answers(f"http://127.0.0.1:{silent.getsockname()[1]}", 0.2)
    hub_answers.cache_clear()


@pytest.mark.parametrize(("kind", "error"), [("models", ModelError), ("datasets", DataError)])
def test_a_name_without_a_copy_is_one_line(silent_hub, kind, error):
    with pytest.raises(error) as caught:
        cached_only(kind, "owner/name", "field = 'owner/name'")
    assert str(caught.value).startswith(
        f"field = 'owner/name': {silent_hub} does not answer, and no copy is cached; give a "
    )
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "file"),
    [
        ("models", "hub/models--owner--Name/snapshots/abc/config.json"),
        ("datasets", "hub/datasets--owner--Name/snapshots/abc/train.jsonl"),
        ("datasets", "datasets/owner___name/default/0.0.0/abc"),
    ],
)
def test_a_cached_copy_is_read_alone(silent_hub, tmp_path, kind, file):
    (tmp_path / file).mkdir(parents=True)
    assert cached_only(kind, "owner/Name", "field")


def test_an_offline_switch_leaves_the_cache_to_the_libraries(silent_hub, monkeypatch):
    monkeypatch.setenv("TRANSFORMERS_OFFLINE", "true")
    assert not cached_only("datasets", "owner/name", "field")
    with pytest.raises(ModelError, match=r"^field: HF_HUB_OFFLINE is set, and no copy is cached; unset it, or give a"):
        cached_only("models", "owner/name", "field")


def test_the_usual_hub_is_asked_unless_another_is_named(monkeypatch):
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    assert endpoint() == "https://huggingface.co"


def test_paths_are_no_names_of_models(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    assert is_model_name("owner/name")
    assert not any(map(is_model_name, ("./name", "~/name", "/a/b", "name", "a/b/c", "models/absent")))
