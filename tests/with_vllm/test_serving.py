"""``AsyncLLM`` and the OpenAI server, each with an engine process of its own; the head comes from the environment."""

import asyncio
import json
import os
import socket
import sys
import urllib.error
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from arrol.engines.vllm.request import StopReport, pruning_args
from arrol.engines.vllm.scheduler import ESTIMATOR_VARIABLE
from vllm_host import ARROL, TINY, is_pruned, params, serving, snapshot_of

PROBE, TOTAL, SIZE = 12, 60, 4
PROMPT = list(range(40, 45))
DRAWS = {"systematic": range(PROBE, TOTAL), "bernoulli": [PROBE]}
"""Draw -> possible lengths of the stopped: siblings are waited for, and they may start at different steps, or not."""


def assert_group(draw, reports, lengths):
    """Exact counts where siblings are waited for, exact lengths where they are not."""
    stopped = [length for report, length in zip(reports, lengths, strict=True) if not report.keep]
    assert len(stopped) == SIZE // 2 if draw == "systematic" else len(stopped) <= SIZE // 2
    assert set(stopped) <= set(DRAWS[draw])
    assert {report.version for report in reports} == {6}
    assert {length for report, length in zip(reports, lengths, strict=True) if report.keep} == {TOTAL}
    return len(stopped)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Of processes that are to load a head."""
    path = tmp_path_factory.mktemp("estimator") / "head.safetensors"
    snapshot_of(PROBE, version=6).write(path)
    changes = {ESTIMATOR_VARIABLE: str(path), "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn"}
    return changes | {"VLLM_ENABLE_V1_MULTIPROCESSING": "1"}


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


@pytest.fixture
def server(model, environment, tmp_path):
    """Address of an OpenAI server whose processes share the folder of their metrics."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    flags = {"host": "127.0.0.1", "port": port, "model": model, "served-model-name": "tiny"}
    flags["logits-processors"] = "arrol.engines.vllm:RequestCheck"
    flags |= {name.replace("_", "-"): value for name, value in {**TINY, **ARROL}.items() if not isinstance(value, bool)}
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--enforce-eager"]
    command += [word for name, value in flags.items() for word in (f"--{name}", str(value))]
    with serving(command, {**os.environ, **environment, "PROMETHEUS_MULTIPROC_DIR": str(tmp_path)}):
        yield f"http://127.0.0.1:{port}"


def choices(server, draw, **changes):
    """One HTTP request per group, since all its prompts share ``vllm_xargs``."""
    arguments = pruning_args(group=f"http-{draw}", size=SIZE, probe_tokens=PROBE, draw=draw, report=True)
    body = {
        "model": "tiny", "prompt": PROMPT, "n": SIZE, "max_tokens": TOTAL, "temperature": 1.0, "ignore_eos": True,
        "logprobs": 0, "return_token_ids": True, "vllm_xargs": {**arguments, **changes},
    }  # fmt: skip
    request = urllib.request.Request(
        f"{server}/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as answer:
        return sorted(json.load(answer)["choices"], key=lambda choice: choice["index"])


def metrics(server):
    """Name with labels -> value, of ours."""
    with urllib.request.urlopen(f"{server}/metrics", timeout=120) as answer:
        found = (line.rpartition(" ") for line in answer.read().decode().splitlines() if line.startswith("arrol:"))
        return {name: float(value) for name, _, value in found}


def test_the_server_prunes_by_the_arguments_of_the_request(server):
    with ThreadPoolExecutor() as pool:
        groups = dict(zip(DRAWS, pool.map(lambda draw: choices(server, draw), DRAWS), strict=True))
    for draw, group in groups.items():
        reports = [StopReport.parse(choice["stop_reason"]) for choice in group]
        assert_group(draw, reports, [len(choice["token_ids"]) for choice in group])
        for choice, report in zip(group, reports, strict=True):
            assert len(choice["token_ids"]) == len(choice["logprobs"]["token_logprobs"])
            assert choice["finish_reason"] == ("length" if report.keep else "stop")
    for changes, code, words in (
        ({"arrol_keep_ratio": 7}, 400, "arrol_keep_ratio = 7: "),
        ({"arrol_size": SIZE - 1}, 400, f"n = {SIZE}: above arrol_size = {SIZE - 1}; "),
        ({"arrol_group": "h", "arrol_probe_tokens": [9]}, 500, "Internal server error"),  # only the scheduler knows
    ):
        with pytest.raises(urllib.error.HTTPError) as refusal:
            choices(server, "systematic", **changes)
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
