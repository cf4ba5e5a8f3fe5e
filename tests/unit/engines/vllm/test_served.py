"""vLLM's HTTP answers as those of its ``LLM``; a server of the standard library stands in."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from arrol.engines.vllm.sampler import completion_of, rollout_fields
from arrol.engines.vllm.served import ServedLlm
from arrol.errors import ConfigError
from arrol.types import FinishReason, SamplingParams


class Handler(BaseHTTPRequestHandler):
    seen: list = []

    def do_GET(self):
        self.reply(200, {"data": [{"id": "tiny"}]})

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.seen.append((self.path, body))
        if self.path == "/collective_rpc":
            known = body["method"] == "known"
            self.reply(200 if known else 500, {"results": [{"got": body["args"]}]})
        elif body["prompt"] == [0]:
            self.reply(400, {"error": "too long"})
        elif body["prompt"] == [9]:
            self.reply(500, {"error": "Internal server error"})
        else:
            length = body["prompt"][0]
            choice = {
                "token_ids": list(range(length)),
                "logprobs": {"token_logprobs": [-0.5] * length},
                "finish_reason": "stop",
                "stop_reason": "pruned:score=1;quality=0.5;survival=0.5;probe=0;version=1;reason=draw",
            }
            self.reply(200, {"choices": [choice]})

    def reply(self, code, value):
        data = json.dumps(value).encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        pass


@pytest.fixture
def url():
    Handler.seen = []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


def test_answers_come_in_order_with_tokens_and_logprobs(url):
    llm = ServedLlm(url)
    fields = rollout_fields(SamplingParams(8, stop_token_ids=(3,)), 11, {"arrol_group": "g"})
    prompts = [{"prompt_token_ids": [length]} for length in (3, 1, 2)]
    answers = llm.generate(prompts, [llm.settings(fields)] * 3)
    assert [answer.outputs[0].token_ids for answer in answers] == [(0, 1, 2), (0,), (0, 1)]
    completion = completion_of(answers[0].outputs[0])
    assert completion.sampler_logprobs_T.tolist() == [-0.5] * 3
    assert completion.finish_reason is FinishReason.STOP
    body = Handler.seen[0][1]
    assert body["vllm_xargs"] == {"arrol_group": "g"}
    assert "extra_args" not in body
    assert (body["model"], body["logprobs"], body["seed"], body["return_token_ids"]) == ("tiny", 0, 11, True)


def test_nothing_of_ours_is_sent_when_nothing_is_asked(url):
    fields = ServedLlm.settings(rollout_fields(SamplingParams(8), 1, {}))
    assert "vllm_xargs" not in fields
    assert fields["temperature"] == 1.0


def test_rpc_and_what_it_answers(url):
    assert ServedLlm(url).collective_rpc("known", args=("text",)) == [{"got": ["text"]}]


def test_each_failure_is_one_line_with_a_remedy(url):
    llm = ServedLlm(url)
    with pytest.raises(ConfigError, match="VLLM_SERVER_DEV_MODE=1"):
        llm.collective_rpc("unknown")
    with pytest.raises(ConfigError, match=r"answers 400: .*too long"):
        llm.generate([{"prompt_token_ids": [0]}], [{}])
    with pytest.raises(ConfigError, match=r"answers 500: .*Internal server error.*; the server's log says more$"):
        llm.generate([{"prompt_token_ids": [9]}], [{}])
    with pytest.raises(ConfigError, match="does not answer"):
        ServedLlm("http://127.0.0.1:9")
