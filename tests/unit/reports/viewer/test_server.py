"""The server: its answers, and what it refuses."""

import http.client
import json
import socket
import threading

import pytest

from arrol.errors import ConfigError, DataError
from arrol.records.schema import encode
from arrol.records.texts import packed, step_file
from arrol.reports.viewer import server as module
from arrol.reports.viewer.server import FILES, Library, viewer_server
from viewer_runs import SmallRun, rollout_row, run_row


@pytest.fixture
def ask(small):
    small.step(1)
    with viewer_server(Library([small.folder.parent]), 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()

        def answer(path, method="GET", **headers):
            connection = http.client.HTTPConnection("127.0.0.1", server.server_address[1], timeout=10)
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            body = response.read()
            connection.close()
            return response, body

        yield answer
        server.shutdown()


def test_the_page_may_run_its_own_script_only(ask):
    for path, (_, kind) in FILES.items():
        response, body = ask(path)
        assert response.status == 200
        assert response.headers["Content-Type"] == f"{kind}; charset=utf-8"
        policy = response.headers["Content-Security-Policy"]
        assert "default-src 'none'; script-src 'self';" in policy
        assert "unsafe" not in policy
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert body
    page, script = ask("/")[1].decode(), ask("/viewer.js")[1].decode()
    assert "http" not in page
    assert not [
        word for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(") if word in script
    ]


def test_the_answers(ask):
    (run,) = json.loads(ask("/api/runs")[1])
    assert (run["name"], run["texts"]) == ("small", [[1, 1]])
    assert len(json.loads(ask("/api/runs/0?epoch=0&start=0")[1])["columns"]["step"]) == 6
    assert json.loads(ask("/api/runs/0/texts?step=1")[1])["groups"][0]["gold"] == "7"
    assert ask("/api/runs/0/texts?step=9")[1] == b"null"
    assert len(json.loads(ask("/api/runs/0/search?text=question%200")[1])["hits"]) == 3


@pytest.mark.parametrize(
    "path", ["/records.jsonl", "/../../etc/passwd", "/api/runs/1", "/api/runs/-1", "/api/runs/0/x"]
)
def test_nothing_else_is_served(ask, path):
    assert ask(path)[0].status == 404


def test_a_wrong_number_is_refused(ask):
    response, body = ask("/api/runs/0/texts?step=../1")
    assert (response.status, json.loads(body)) == (400, {"error": "step = '../1': not a number"})


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", ""])
def test_another_host_name_is_refused(ask, host):
    assert ask("/api/runs", Host=host)[0].status == 403
    assert ask("/api/runs", Host="localhost:1")[0].status == 200


def test_only_get_is_known(ask):
    assert ask("/api/runs", method="POST")[0].status == 501


def test_a_damaged_run_is_said_and_the_others_are_shown(small, ask):
    other = SmallRun(small.folder.parent / "damaged")
    other.records(run_row())
    with open(other.folder / "records.jsonl", "a") as file:
        file.write("no json\n")
    errors = {run["name"]: run.get("error", "") for run in json.loads(ask("/api/runs")[1])}
    assert errors["small"] == ""
    assert "a line is not JSON" in errors["damaged"]
    assert ask("/api/runs/1?epoch=0&start=0")[0].status == 400


def test_a_port_in_use(small, monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"^--port = {port}: in use or not allowed; choose another --port"):
            viewer_server(Library([small.folder]), port)
        monkeypatch.setattr(module, "PORT", port)
        with viewer_server(Library([small.folder]), None) as server:  # the next free one
            assert port < server.server_address[1] < port + module.TRIES
        monkeypatch.setattr(module, "TRIES", 1)
        with pytest.raises(ConfigError, match=rf"^--port = {port} to {port}: in use"):
            viewer_server(Library([small.folder]), None)


def test_a_path_without_a_run_is_refused(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        Library([tmp_path / "absent"])


def test_a_row_of_another_shape_is_said(small, ask):
    with open(small.folder / "rollouts.jsonl", "a") as file:
        file.write('{"kind": "rollout"}\n')
    response, body = ask("/api/runs/0?epoch=0&start=0")
    path = str(small.folder / "rollouts.jsonl")
    assert response.status == 400
    assert json.loads(body)["error"].startswith(f"records = {path!r}: rollout.step: missing field; the file was")


def test_numbers_that_are_not_finite_are_null_to_a_browser(small, ask):
    with open(small.folder / "rollouts.jsonl", "a") as file:
        file.write(json.dumps(encode(rollout_row()) | {"reward": float("nan"), "score": float("inf")}) + "\n")
    response, body = ask("/api/runs/0?epoch=0&start=0")
    assert response.status == 200
    columns = json.loads(body, parse_constant=pytest.fail)["columns"]
    assert (columns["reward"][-1], columns["score"][-1], columns["right"][-1]) == (None, None, None)


def test_texts_that_the_page_cannot_show_are_said(small, ask):
    small.step(1)
    step_file(small.folder, 1).write_bytes(packed(1, [{"group": 0}]))
    response, body = ask("/api/runs/0/texts?step=1")
    assert response.status == 400
    assert json.loads(body)["error"].endswith(
        ": groups.0.prompt: Field required; remove that file, the other steps are whole"
    )
