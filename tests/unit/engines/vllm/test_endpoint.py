"""The route that takes a head; ``tests/with_vllm/test_serving.py`` pushes one to a real server."""

import base64

import pytest

import vllm_host

if not vllm_host.has_vllm():
    pytest.skip("needs vLLM: make test-vllm", allow_module_level=True)

from fastapi import FastAPI
from fastapi.testclient import TestClient

from arrol.engines.vllm import HeadEndpoint, endpoint
from arrol.engines.vllm.endpoint import PATH, TOKEN_VARIABLE


class FakeEngine:
    def __init__(self, answer):
        self.answer, self.taken = answer, []

    async def collective_rpc(self, method, args=()):
        assert method == "arrol_set_estimator"
        self.taken.append(base64.b64decode(args[0]))
        return [self.answer, self.answer]


def served(answer):
    """Client and engine of an application as vLLM builds it; ``answer`` is that of each worker."""
    app = FastAPI()
    app.add_api_route("/health", lambda: "well")
    app.state.engine_client = FakeEngine(answer)
    app.add_middleware(HeadEndpoint)
    return TestClient(app), app.state.engine_client


@pytest.fixture(autouse=True)
def secret(monkeypatch):
    monkeypatch.setenv(TOKEN_VARIABLE, "secret")


def push(client, body=b"a head"):
    answer = client.post(PATH, content=body, headers={"Authorization": "Bearer secret"})
    return answer.status_code, answer.json()


def test_a_head_goes_to_the_workers_whose_answer_comes_back():
    client, engine = served({"version": 7})
    assert push(client) == (200, {"version": 7})
    assert engine.taken == [b"a head"]
    refusal = {"refused": "estimator.model = a: the model's is b"}
    assert push(served(refusal)[0]) == (400, refusal)


def test_other_requests_are_passed_on():
    client, engine = served({"version": 7})
    assert client.get("/health").json() == "well"
    assert client.get(PATH).status_code == 404
    assert engine.taken == []


@pytest.mark.parametrize("sent", [None, b"secret", b"Bearer ", b"Bearer secre", b"Bearer s\xe9cret"])
def test_without_the_token_no_head_is_taken(sent):
    client, engine = served({"version": 7})
    answer = client.post(PATH, content=b"a head", headers={} if sent is None else {"Authorization": sent})
    assert (answer.status_code, answer.json()) == (401, {"refused": "authorization: not Bearer ARROL_PUSH_TOKEN"})
    assert engine.taken == []


def test_a_body_that_is_too_long_is_refused(monkeypatch):
    monkeypatch.setattr(endpoint, "MAX_BYTES", 10)
    client, engine = served({"version": 7})
    assert push(client, bytes(11)) == (413, {"refused": "body: longer than 10 bytes"})
    assert push(client, bytes(10)) == (200, {"version": 7})
    assert engine.taken == [bytes(10)]


def test_there_is_no_route_without_a_secret(monkeypatch, said):
    monkeypatch.delenv(TOKEN_VARIABLE)
    assert served({"version": 7})[0].post(PATH, content=b"a head").status_code == 404
    assert said == ["arrol: no route /arrol/estimator; set ARROL_PUSH_TOKEN to a secret"]
