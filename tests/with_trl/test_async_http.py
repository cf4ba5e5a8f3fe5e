"""The worker over HTTP; a server on loopback stands in for ``vllm serve`` and stops every second rollout."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import async_host
import numpy as np
import pytest

import trl_host
from arrol.errors import ConfigError
from arrol.records.store import read_run
from arrol.records.texts import text_steps
from arrol.types import FinishReason

pytestmark = pytest.mark.skipif(not trl_host.has_async(), reason="the worker protocol of TRL 1.16")


class Handler(BaseHTTPRequestHandler):
    """Random tokens by the request's seed. With our arguments, the odd rollouts are stopped at the probe."""

    seen: list = []
    cards: list = [{"id": "tiny", "parent": None}]

    def do_GET(self):
        self.reply({"data": self.cards})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.path, body))
        if self.path == "/collective_rpc":
            features = {"features": base64.b64encode(b"").decode(), "index": [], "size": 0}
            self.reply({"results": [features]})
            return
        arguments = body.get("vllm_xargs") or {}
        length, reason, said = body["max_tokens"], "length", None
        if arguments:
            keep = arguments["arrol_index"] % 2 == 0
            length = length if keep else arguments["arrol_probe_tokens"][0]
            word, reason = ("kept", "length") if keep else ("pruned", "stop")
            said = f"{word}:score=0.5;quality=0.5;survival=0.5;probe=0;version=0;reason=draw"
        tokens = np.random.default_rng(body["seed"]).integers(3, 10, length).tolist()
        choice = {"token_ids": tokens, "finish_reason": reason, "stop_reason": said}
        self.reply({"choices": [{**choice, "logprobs": {"token_logprobs": [-1.0] * length}}]})

    def reply(self, value):
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return async_host.model_folder(tmp_path_factory.mktemp("model"))


class Server(ThreadingHTTPServer):
    request_queue_size = 64  # all rollouts connect at once, on a busy machine too


@pytest.fixture
def url():
    Handler.seen, Handler.cards = [], [{"id": "tiny", "parent": None}]
    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def worker_of(folder, url, out, **options):
    from arrol.integrations.trl import PrunedRolloutWorker

    args = async_host.config(out, vllm_server_base_url=url)
    options = {**async_host.PRUNING, "warmup_steps": 0, **options}
    tokenizer = async_host.tokenizer_of(folder)
    return PrunedRolloutWorker(folder, args, trl_host.dataset(), trl_host.has_digit, tokenizer, **options)


def test_decisions_of_the_server_come_back_as_weights(folder, url, tmp_path):
    made = worker_of(folder, url, tmp_path, correction="ipw", thinning=0.0).batch_maker().make(lambda: 3, lambda: None)
    assert len(made.samples) == 8, "of 16"
    assert made.metrics["pruning/kept_frac"] == 0.5
    assert {sample.model_version for sample in made.samples} == {3}
    requests = [body for path, body in Handler.seen if path == "/v1/completions"]
    assert len(requests) == 16
    assert {body["model"] for body in requests} == {"tiny"}
    assert len({body["seed"] for body in requests}) == 16
    assert requests[0]["vllm_xargs"]["arrol_rule"] == "uniform"
    assert requests[0]["vllm_xargs"]["arrol_step"] == 1


def test_refilled_prompts_are_sent_as_later_requests(folder, url, tmp_path):
    worker = worker_of(folder, url, tmp_path, allocation={"rule": "dapo", "max_draws": 8.0}, rule="never")
    made = worker.batch_maker().make(lambda: 1, lambda: None)
    assert made.metrics["allocation/prompts_drawn"] >= 2
    assert (
        len([path for path, _ in Handler.seen if path == "/v1/completions"])
        == 8 * made.metrics["allocation/prompts_drawn"]
    )


def test_two_calls_to_a_server_without_our_classes(folder, url, tmp_path):
    quality = {"features": ["logprobs"], "hidden_size": 8, "min_class_records": 4}
    worker = worker_of(folder, url, tmp_path, two_phase=True, quality=quality)
    made = worker.batch_maker().make(lambda: 1, lambda: None)
    assert made.metrics["pruning/kept_frac"] == 0.5
    assert not any(path == "/collective_rpc" or "vllm_xargs" in body for path, body in Handler.seen)
    assert made.metrics[f"rollout/finish/{FinishReason.PRUNED}"] == 8


def test_its_rollouts_are_recorded(folder, url, tmp_path):
    worker = worker_of(folder, url, tmp_path, correction="ipw", thinning=0.0)
    with pytest.warns(UserWarning, match="callbacks"):
        worker.start()
    worker.rollout_buffer.get(timeout=60)
    worker.stop()
    run = read_run(tmp_path / "arrol")
    assert run.end.outcome == "stopped"
    first = [row for row in run.rollouts if row.step == 1]
    assert sorted(row.finish_reason for row in first).count(FinishReason.PRUNED) == 8
    assert {row.survival for row in first if row.finish_reason == "pruned"} == {0.5}
    assert text_steps(tmp_path / "arrol")[0] == 1


def test_a_server_with_adapters_is_refused(folder, url, tmp_path):
    """TRL names an adapter anew with each transfer; requests for the base model would miss what was trained."""
    Handler.cards = [{"id": "tiny", "parent": None}, {"id": "trl-policy-v1", "parent": "tiny"}]
    with pytest.raises(ConfigError) as error:
        worker_of(folder, url, tmp_path).batch_maker()
    assert str(error.value) == (
        f"vllm server = {url!r}: serves the LoRA adapter 'trl-policy-v1', and rollouts would be written by the base "
        "model; start it without --enable-lora, so that TRL sends merged weights"
    )
