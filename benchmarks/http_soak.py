"""Does a server that prunes stay whole under hostile clients? Thousands of HTTP requests, most of them wrong.

vLLM's OpenAI server with our classes and a random model. Clients send wrong types, sizes and encodings in one argument
of ours, in one field of vLLM's, and in the bytes of the request; others leave before or during the answer. Between them
goes the same request again and again, with groups that are pruned and without any. Checked:

* every request is answered, with an HTTP status below 500 unless only the scheduler can know that it is wrong;
* a refusal of ours is one printable line that names the argument;
* the request that comes again has the tokens that it had on the idle server, or their beginning where it is pruned;
* at the end nothing runs, no KV block is held, and memory grew as it does in a server without our classes, which gets
  the same requests.

    OMP_NUM_THREADS=1 .venv-vllm/bin/python benchmarks/http_soak.py [--requests 5000] [--smoke] [--out FILE]
"""

from __future__ import annotations

import argparse
import functools
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
import vllm_host
from accidents import finding
from arrol.engines.vllm.request import StopReport, pruning_args
from arrol.engines.vllm.scheduler import ESTIMATOR_VARIABLE
from measure import write

ROOT = Path(__file__).resolve().parents[1]
CLIENTS = 8
TIMEOUT_S = 120
"""Longest wait for an answer."""
TOTAL, SIZE, PROBE = 40, 4, 8
"""Tokens of a completion, completions of a group, and where it is judged."""
PROMPT = list(range(40, 52))
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "1",
    "VLLM_WORKER_MULTIPROCESSING_METHOD": "spawn",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "OMP_NUM_THREADS": "1",
}
WRONG: tuple[Any, ...] = (
    *(None, True, -1, 0, 3, 2**31, 2**63, -(2**63), 10**30, 0.5, -0.5, 1e308, float("nan"), float("inf")),
    *("", "7", "x", "é\u202e\u0000", "\ud800", "line\nbreak\x1b[31m", "a" * 200, "b" * 100_000),
    *([], [[]], [1, "x"], [-1], [2**62], [1.5, 2.5], [None], list(range(500)), {}, {"a": 1}, {"$": ["x"] * 99}),
    *("neyman", "never", "oracle", "auto", "confidence", "batch"),
)
"""Put in place of a value; some are right in some places."""
FIELDS = (
    *("model", "prompt", "n", "max_tokens", "temperature", "ignore_eos", "logprobs", "vllm_xargs", "seed", "stream"),
    *("stop", "top_p", "priority", "echo", "best_of", "logit_bias", "stop_token_ids", "min_tokens", "suffix", "user"),
)
"""Of a request."""
OURS = (
    *("group", "size", "rule", "step", "index", "batch_groups", "run", "seed", "first", "later", "success_rate"),
    *("report", "score_end", "keep_ratio", "probe_tokens", "draw", "scope", "min_survival", "warmup_steps"),
    *("min_survivors", "mix", "unknown", "", "probe\ntokens", "ключ"),
)
"""Of ours, behind ``arrol_``; some exist in no rule."""


def body_of(seed: int, group: str | None = None, **changes: Any) -> dict[str, Any]:
    """A request that the server can serve; of a group where one is named."""
    arguments = pruning_args(group=group, size=SIZE, probe_tokens=PROBE, report=True) if group else {}
    return {
        "model": "tiny", "prompt": PROMPT, "n": SIZE, "max_tokens": TOTAL, "temperature": 1.0, "ignore_eos": True,
        "seed": seed, "logprobs": 0, "return_token_ids": True, "vllm_xargs": arguments, **changes,
    }  # fmt: skip


@dataclass
class Findings:
    """What clients saw."""

    answers: Counter[str] = field(default_factory=Counter)
    """(kind of request, status) as a text -> how often."""
    failures: list[str] = field(default_factory=list)
    """Answers that are not as they should be."""


class Server:
    """The server of docs/vllm.md with a random model, on a free port of the loopback."""

    def __init__(self, folder: Path, *, is_plain: bool = False) -> None:
        """``is_plain``: without our classes."""
        folder.mkdir()
        model, head = vllm_host.save_model(folder / "model"), folder / "head.safetensors"
        vllm_host.snapshot_of(PROBE, version=6).write(head)
        with socket.create_server(("127.0.0.1", 0)) as found:
            self.port = int(found.getsockname()[1])
        classes = [f"--{key.replace('_', '-')}={value}" for key, value in vllm_host.ARROL.items()]
        classes.append("--logits-processors=arrol.engines.vllm:RequestCheck")
        words = ["-m", "vllm.entrypoints.openai.api_server", "--model", model, "--served-model-name", "tiny"]
        words += [] if is_plain else classes
        words += ["--host", "127.0.0.1", "--port", str(self.port), "--dtype", "float32", "--max-model-len", "256"]
        words += ["--max-num-seqs", "32", "--enforce-eager", "--no-enable-log-requests"]
        path = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
        metrics = folder / "metrics"
        metrics.mkdir()
        environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": path, ESTIMATOR_VARIABLE: str(head)}
        environment["PROMETHEUS_MULTIPROC_DIR"] = str(metrics)
        self.log = folder / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, *words], env=environment, stdout=log, stderr=subprocess.STDOUT, cwd=folder
            )
        self._wait()

    def _wait(self) -> None:
        for _ in range(1200):
            with suppress(OSError, http.client.HTTPException):
                if self.ask("GET", "/health")[0] == 200:
                    return
            assert self.process.poll() is None, self.log.read_text("utf-8", "replace")[-3000:]
            time.sleep(0.5)
        raise AssertionError("the server did not start")

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(60)

    def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> tuple[int, bytes]:
        """Status and answer of one request, on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        try:
            connection.request(method, path, body, {"Content-Type": "application/json", **headers})
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def leave(self, body: dict[str, Any], wait_s: float) -> None:
        """Send a request and go away after a while."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=TIMEOUT_S)
        connection.request("POST", "/v1/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
        time.sleep(wait_s)
        connection.close()

    def resident_mib(self) -> float:
        """Of the server and its engine."""
        family = [psutil.Process(self.process.pid), *psutil.Process(self.process.pid).children(recursive=True)]
        return sum(each.memory_info().rss for each in family) / 2**20

    def metrics(self) -> dict[str, float]:
        """Sums by name."""
        found: Counter[str] = Counter()
        for line in self.ask("GET", "/metrics")[1].decode().splitlines():
            if not line.startswith("#"):
                name, _, value = line.rpartition(" ")
                found[name.partition("{")[0]] += float(value)
        return dict(found)


def tokens_of(answer: bytes) -> list[list[int]]:
    choices = sorted(json.loads(answer)["choices"], key=lambda choice: choice["index"])
    return [choice["token_ids"] for choice in choices]


class Clients:
    """Send requests of all kinds, many at once."""

    def __init__(self, server: Server, seed: int, *, is_plain: bool) -> None:
        """``is_plain``: nothing is pruned."""
        self.server, self.seed, self.is_plain, self.found = server, seed, is_plain, Findings()
        self.idle = {number: tokens_of(self._served(body_of(number))) for number in range(4)}
        """Seed -> the tokens of the request that comes again, on the idle server."""

    def _served(self, body: dict[str, Any]) -> bytes:
        status, answer = self.server.ask("POST", "/v1/completions", json.dumps(body).encode())
        assert status == 200, answer
        return answer

    def send(self, number: int) -> None:
        """Request ``number``; the same in every run with this seed."""
        draw = random.Random(f"{self.seed}-{number}")
        kind = draw.choices(("again", "group", "ours", "field", "bytes", "vanished"), (2, 2, 4, 3, 3, 1))[0]
        try:
            status = getattr(self, f"_{kind}")(number, draw)
        except (OSError, http.client.HTTPException, ValueError, KeyError, AssertionError) as error:
            self.found.failures.append(f"{kind} {number}: {type(error).__name__}: {str(error)[:200]}")
            status = "failed"
        self.found.answers[f"{kind}: {status}"] += 1

    def _again(self, number: int, draw: random.Random) -> str:
        seed = draw.randrange(4)
        assert tokens_of(self._served(body_of(seed))) == self.idle[seed], "other tokens"
        return "200"

    def _group(self, number: int, draw: random.Random) -> str:
        seed = draw.randrange(4)
        answer = self._served(body_of(seed, f"group-{number}"))
        for tokens, whole in zip(tokens_of(answer), self.idle[seed], strict=True):
            assert tokens == whole[: len(tokens)], "other tokens"
        choices = json.loads(answer)["choices"]
        reports = [StopReport.parse(choice["stop_reason"]) for choice in choices]
        stopped = sum(report is not None and not report.keep for report in reports)
        assert stopped == (0 if self.is_plain else SIZE // 2), "another half"
        return "200"

    def _ours(self, number: int, draw: random.Random) -> str:
        body = body_of(draw.randrange(4), f"wrong-{number}")
        for _ in range(draw.choice((1, 1, 2))):
            body["vllm_xargs"][f"arrol_{draw.choice(OURS)}"] = draw.choice(WRONG)
        return self._refused_or_served(json.dumps(body).encode("utf-8", "surrogatepass"), needs_ours=True)

    def _field(self, number: int, draw: random.Random) -> str:
        body = body_of(draw.randrange(4), f"field-{number}")
        name, value = draw.choice(FIELDS), draw.choice(WRONG)
        if name == "stream" and value is True:
            value = "true"  # an answer in pieces is another protocol
        if name in ("max_tokens", "n") and isinstance(value, int) and value > 64:
            value = 10**30  # one that vLLM serves would only be slow
        body[name] = value
        return self._refused_or_served(json.dumps(body).encode("utf-8", "surrogatepass"))

    def _bytes(self, number: int, draw: random.Random) -> str:
        body = json.dumps(body_of(draw.randrange(4), f"bytes-{number}")).encode()
        at = draw.randrange(len(body))
        how = draw.randrange(7)
        if how == 0:
            body = body[:at]
        elif how == 1:
            body = body[:at] + bytes([draw.randrange(256)]) + body[at + 1 :]
        elif how == 2:
            body = body.decode().encode(draw.choice(("utf-16", "utf-32", "utf-8-sig")))
        elif how == 3:
            body = b"[" * 20_000 + b"]" * 20_000
        elif how == 4:
            body = b'{"vllm_xargs": ' * 2_000 + b"1" + b"}" * 2_000
        elif how == 5:
            body = bytes(draw.randrange(256) for _ in range(200))
        else:
            return self._refused_or_served(
                body, **{"Content-Type": draw.choice(("text/plain", "", "application/xml; charset=é"))}
            )
        return self._refused_or_served(body)

    def _vanished(self, number: int, draw: random.Random) -> str:
        body = body_of(draw.randrange(4), f"gone-{number}", stream=draw.random() < 0.5, max_tokens=200)
        self.server.leave(body, draw.choice((0.0, 0.01, 0.1, 0.5)))
        return "left"

    def _refused_or_served(self, body: bytes, *, needs_ours: bool = False, **headers: str) -> str:
        status, answer = self.server.ask("POST", "/v1/completions", body, **headers)
        if status == 200 or not 400 <= status < 500:
            assert status in (200, 500), answer
            return str(status)
        told = json.loads(answer)
        message = str(told["error"]["message"]) if "error" in told else str(told["detail"])
        if needs_ours and message.startswith("arrol_"):
            assert message.isprintable(), f"not one line: {message!r}"
            return f"{status} of ours"
        return str(status)


class Soak(NamedTuple):
    """What a server and its clients were after all requests."""

    found: Findings
    end: dict[str, float]
    """Metrics when nothing ran any more."""
    growth_mib: float
    """Resident MiB per 10,000 requests over the last half."""
    tracebacks: int
    """In the server's log."""


def soak(folder: Path, count: int, seed: int, *, is_plain: bool) -> Soak:
    """Start a server, send it the requests, stop it."""
    memory: list[tuple[int, float]] = []
    server = Server(folder, is_plain=is_plain)
    try:
        clients, batch = Clients(server, seed, is_plain=is_plain), max(1, count // 50)
        with ThreadPoolExecutor(CLIENTS) as pool:
            for first in range(0, count, batch):
                list(pool.map(clients.send, range(first, min(first + batch, count))))
                memory.append((min(first + batch, count), server.resident_mib()))
        print(f"{memory[0][1]:.0f} MiB, at the end {memory[-1][1]:.0f}", flush=True)
        end = at_rest(server)
        clients._again(0, random.Random(0))
        tracebacks = server.log.read_text("utf-8", "replace").count("Traceback")
    finally:
        server.close()
    half = np.array(memory[len(memory) // 2 :])
    return Soak(clients.found, end, float(np.polyfit(half[:, 0], half[:, 1], 1)[0] * 10_000), tracebacks)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=5000, help="default 5,000")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--smoke", action="store_true", help="300 requests, to test that the script works")
    parser.add_argument("--out", default="results/bench-http-soak.jsonl", help="records; replaced")
    flags = parser.parse_args(arguments)
    count = 300 if flags.smoke else flags.requests
    with tempfile.TemporaryDirectory() as name:
        plain, ours = (
            soak(Path(name) / kind, count, flags.seed, is_plain=kind == "plain") for kind in ("plain", "ours")
        )
    found, end = ours.found, ours.end
    unanswered = end["vllm:num_requests_running"] + end["vllm:num_requests_waiting"]
    row = functools.partial(finding, "http-soak")
    rows = [
        row("requests", count),
        row("answers that are not as they should be", len(found.failures), limit=0),
        row("requests that still run", unanswered, limit=0),
        row("share of the KV cache that is held", end["vllm:kv_cache_usage_perc"], limit=0),
        row("growth of memory per 10,000 requests, last half", ours.growth_mib, "MiB"),
        row("the same without our classes", plain.growth_mib, "MiB"),
    ]
    config = {
        "answers": dict(sorted(found.answers.items())),
        "failures": found.failures[:20],
        "open_groups": end.get("arrol:open_groups", float("nan")),
        "tracebacks_in_the_log": ours.tracebacks,
        "clients": CLIENTS,
        "without_our_classes": dict(sorted(plain.found.answers.items())),
    }
    write(flags.out, "bench-http-soak", config, rows, seed=flags.seed)
    print(json.dumps(config, indent=1))
    return 1 if any(each.median > each.limit for each in rows) else 0


def at_rest(server: Server) -> dict[str, float]:
    """Metrics when nothing runs any more, at most a minute later."""
    for _ in range(120):
        found = server.metrics()
        if not found["vllm:num_requests_running"] + found["vllm:num_requests_waiting"]:
            break
        time.sleep(0.5)
    return found


if __name__ == "__main__":
    sys.exit(main())
