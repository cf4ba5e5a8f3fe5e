"""``AsyncLLM``, and the OpenAI server of docs/vllm.md: engine processes of their own, the head from the environment.

The commands are those of the page: ``api_server``, its client ``05_vllm_serve.py``, and ``curl`` with a new head.
"""

import asyncio
import json
import os
import shlex
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from arrol.engines.vllm.endpoint import PATH, TOKEN_VARIABLE
from arrol.engines.vllm.request import StopReport, pruning_args
from arrol.engines.vllm.scheduler import ESTIMATOR_VARIABLE
from document_table import CLIENT, EXPORT, PUSH, SERVE
from vllm_host import ARROL, TINY, is_pruned, params, serving, snapshot_of

PROBE, TOTAL, SIZE = 12, 60, 4
SERVED_PROBE, SERVED_HIDDEN, SERVED_VERSION = 16, 160, 2
"""Of the exported run: two steps of configs/arithmetic-vllm.toml."""
PROMPT = list(range(40, 45))
DRAWS = ("systematic", "bernoulli")
PROCESSES = {"VLLM_ENABLE_V1_MULTIPROCESSING": "1", "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn"}


def assert_group(draw, reports, lengths, probe=PROBE, version=6):
    """Exact counts where siblings are waited for (they may start at different steps), exact lengths where not."""
    stopped = [length for report, length in zip(reports, lengths, strict=True) if not report.keep]
    assert len(stopped) == SIZE // 2 if draw == "systematic" else len(stopped) <= SIZE // 2
    assert set(stopped) <= set(range(probe, TOTAL) if draw == "systematic" else [probe])
    assert {report.version for report in reports} == {version}
    assert {length for report, length in zip(reports, lengths, strict=True) if report.keep} == {TOTAL}
    return len(stopped)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Of processes that are to load a head."""
    path = tmp_path_factory.mktemp("estimator") / "head.safetensors"
    snapshot_of(PROBE, version=6).write(path)
    return {ESTIMATOR_VARIABLE: str(path)} | PROCESSES


async def read(engine, kind, draw):
    """Completion index -> number of tokens; completion index -> its last piece; number of pieces."""
    name = f"{kind.name}-{draw}"
    asked = params(TOTAL, n=SIZE, group=name, probe_tokens=PROBE, draw=draw, report=True)
    asked.output_kind = kind
    tokens, last, num_answers = Counter(), {}, 0
    async for answer in engine.generate({"prompt_token_ids": PROMPT}, asked, request_id=name):
        num_answers += 1
        for completion in answer.outputs:
            tokens[completion.index] += len(completion.token_ids)
            if completion.finish_reason is not None:
                assert completion.index not in last
                last[completion.index] = completion
    return tokens, last, num_answers


async def leave(engine, kind):
    """A client that goes after the first piece."""
    asked = params(TOTAL, n=SIZE, group="leaver", probe_tokens=PROBE)
    asked.output_kind = kind
    answers = engine.generate({"prompt_token_ids": PROMPT}, asked, request_id="leaver")
    await anext(answers)
    await answers.aclose()


async def serve(model):
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM

    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(model, **TINY, **ARROL))
    final, delta = RequestOutputKind.FINAL_ONLY, RequestOutputKind.DELTA
    try:
        await leave(engine, delta)
        return await asyncio.gather(*(read(engine, kind, draw) for kind in (final, delta) for draw in DRAWS))
    finally:
        engine.shutdown()


def test_async_answers_are_complete_whether_whole_or_in_pieces(model, environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    seen, num_stopped = asyncio.run(serve(model)), 0
    assert [pieces == 1 for _, _, pieces in seen] == [True, True, False, False]
    for (tokens, last, _), draw in zip(seen, [*DRAWS, *DRAWS], strict=True):
        assert set(last) == set(range(SIZE))
        reports = [StopReport.parse(last[index].stop_reason) for index in range(SIZE)]
        num_stopped += assert_group(draw, reports, [tokens[index] for index in range(SIZE)])
        assert sum(map(is_pruned, last.values())) == sum(not report.keep for report in reports)
    assert num_stopped > 2 * (SIZE // 2), "of those drawn alone some are stopped too"


@pytest.fixture(scope="module")
def server(documents, tmp_path_factory):
    """Address of the server of docs/vllm.md, on a free port, with metrics and a route for heads."""
    documents.run(EXPORT)
    with socket.create_server(("127.0.0.1", 0)) as found:
        port = str(found.getsockname()[1])
    *variables, _ = shlex.split(SERVE[: SERVE.index("-m ")])
    command = shlex.split(SERVE[SERVE.index("-m ") :].replace("8000", port))
    changes = dict(variable.split("=") for variable in variables) | PROCESSES
    changes |= {"PROMETHEUS_MULTIPROC_DIR": str(tmp_path_factory.mktemp("metrics")), TOKEN_VARIABLE: "secret"}
    command = [sys.executable, *command, "--middleware", "arrol.engines.vllm.HeadEndpoint"]
    with serving(command, {**os.environ, **changes}, documents.folder):
        yield f"http://127.0.0.1:{port}"


def asked(server, path, body=None, **headers):
    """The answer's text."""
    request = urllib.request.Request(server + path, body, headers)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return answer.read().decode()


def choices(server, draw="systematic", **changes):
    """One HTTP request per group, since all its prompts share ``vllm_xargs``."""
    arguments = pruning_args(group=f"http-{draw}", size=SIZE, probe_tokens=SERVED_PROBE, draw=draw, report=True)
    body = {
        "model": "served/policy", "prompt": [4, 5, 6, 7, 8], "n": SIZE, "max_tokens": TOTAL, "temperature": 1.0,
        "ignore_eos": True, "logprobs": 0, "return_token_ids": True, "vllm_xargs": {**arguments, **changes},
    }  # fmt: skip
    answer = asked(server, "/v1/completions", json.dumps(body).encode(), **{"Content-Type": "application/json"})
    return sorted(json.loads(answer)["choices"], key=lambda choice: choice["index"])


def metrics(server):
    """Name with labels -> value, of ours."""
    found = (line.rpartition(" ") for line in asked(server, "/metrics").splitlines() if line.startswith("arrol:"))
    return {name: float(value) for name, _, value in found}


def test_the_server_prunes_by_the_arguments_of_the_request(server):
    with ThreadPoolExecutor() as pool:
        groups = dict(zip(DRAWS, pool.map(lambda draw: choices(server, draw), DRAWS), strict=True))
    for draw, group in groups.items():
        reports = [StopReport.parse(choice["stop_reason"]) for choice in group]
        assert_group(draw, reports, [len(choice["token_ids"]) for choice in group], SERVED_PROBE, SERVED_VERSION)
        for choice, report in zip(group, reports, strict=True):
            assert len(choice["token_ids"]) == len(choice["logprobs"]["token_logprobs"])
            assert choice["finish_reason"] == ("length" if report.keep else "stop")
    for changes, code, words in (
        ({"arrol_keep_ratio": 7}, 400, "arrol_keep_ratio = 7: "),
        ({"arrol_size": SIZE - 1}, 400, f"n = {SIZE}: above arrol_size = {SIZE - 1}; "),
        ({"arrol_group": "h", "arrol_probe_tokens": [9]}, 500, "Internal server error"),  # only the scheduler knows
    ):
        with pytest.raises(urllib.error.HTTPError) as refusal:
            choices(server, **changes)
        with refusal.value as answer:
            assert (answer.code, json.load(answer)["error"]["message"][: len(words)]) == (code, words)
    seen = metrics(server)
    outcomes = Counter()
    for name, value in seen.items():
        if name.startswith("arrol:requests_total{"):
            outcomes[name.partition('outcome="')[2].partition('"')[0]] += value
    stopped = sum(not StopReport.parse(choice["stop_reason"]).keep for group in groups.values() for choice in group)
    assert (outcomes["pruned"], outcomes["kept"]) == (stopped, 2 * SIZE - stopped)
    assert outcomes["refused"] >= 1
    assert sum(value for name, value in seen.items() if name.startswith("arrol:scoring_seconds_sum")) > 0


def test_the_client_of_the_examples(server, documents):
    script, url = CLIENT.split()
    command = [sys.executable, script, url.replace("http://127.0.0.1:8000", server)]
    answer = subprocess.run(command, cwd=documents.folder, capture_output=True, text=True, check=True)
    assert answer.stdout.count("pruned, score") >= 2, answer.stdout


def test_a_head_comes_by_http_without_development_mode(server, documents):
    def push(snapshot, token="secret"):
        return json.loads(asked(server, PATH, snapshot.to_bytes(), Authorization=f"Bearer {token}"))

    def versions(group):
        return {StopReport.parse(choice["stop_reason"]).version for choice in choices(server, arrol_group=group)}

    head = snapshot_of(SERVED_PROBE, hidden=SERVED_HIDDEN, version=9)
    with pytest.raises(urllib.error.HTTPError, match="401"):
        push(head, "guess")
    with pytest.raises(urllib.error.HTTPError, match="400") as refusal:
        push(snapshot_of(SERVED_PROBE, version=9))
    with refusal.value as answer:
        assert json.load(answer)["refused"].startswith(f"estimator.hidden_size = 128: the model's is {SERVED_HIDDEN};")
    assert versions("old") == {SERVED_VERSION}
    assert push(head) == {"version": 9}
    choices(server, arrol_group="between")  # the tables reach the scheduler with the first step
    assert versions("new") == {9}
    command = PUSH.replace("http://127.0.0.1:8000", server).replace("curl", "curl --silent --show-error")
    answer = subprocess.run(
        ["bash", "-c", command], cwd=documents.folder, env={**os.environ, TOKEN_VARIABLE: "secret"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert json.loads(answer.stdout) == {"version": SERVED_VERSION}
    with pytest.raises(urllib.error.HTTPError, match="404"):
        asked(server, "/collective_rpc", b"{}")
