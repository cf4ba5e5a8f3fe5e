"""Does vLLM's scheduler with our classes stay clean? 100,000 requests with everything that clients do wrong.

vLLM's own scheduler and KV cache run without a model: tokens and scores are made up, so a step costs what the scheduler
costs, and preemption is frequent. Clients send groups of all rules, draws and sizes, with ``n`` wrong arguments, abort
requests, vanish with a whole group, send fewer rollouts than they announced, and use each other's group names. Checked:
every request is answered once, no KV block is lost, no group hangs, memory is flat over the last half, and groups that
never come to their end are forgotten.

    OMP_NUM_THREADS=1 .venv-vllm/bin/python benchmarks/vllm_soak.py [--requests 100000] [--smoke] [--out FILE]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
os.environ.setdefault("VLLM_CPU_OMP_THREADS_BIND", "nobind")
os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
os.environ.setdefault("VLLM_LOGGING_LEVEL", "CRITICAL")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import numpy as np

import vllm_host
from arrol.engines.vllm import groups
from arrol.engines.vllm.request import REFUSED, pruning_args
from arrol.records.schema import BenchRecord
from measure import write

RUNNING, BLOCKS = 64, 96
"""Requests in flight; KV blocks of 32 tokens, of which half of them would fit."""
PROBES = (8, 24)
NEVER_WHOLE = 10_000
"""Groups that never come to their end."""
LIMIT_MIB = 1.0
"""Slope of the resident memory per 10,000 requests."""
WRONG: tuple[dict[str, Any], ...] = (
    {"arrol_group": "g", "arrol_size": 0},
    {"arrol_group": "g", "arrol_size": 4, "arrol_rule": "best"},
    {"arrol_group": "g", "arrol_size": 4, "arrol_probe_tokens": [-3]},
    {"arrol_group": "g", "arrol_size": 4, "arrol_keep_ratio": float("nan")},
    {"arrol_group": "", "arrol_size": 4},
    {"arrol_group": "x" * 500, "arrol_size": 4},
    {"arrol_group": "g", "arrol_size": 4, "arrol_index": 4},
    {"arrol_group": "g", "arrol_size": "many"},
    {"arrol_group": "g", "arrol_size": 4, "arrol_sise": 4},
    {"arrol_group": ["g"], "arrol_size": [4]},
    {"arrol_group": "g", "arrol_size": 2**62},
)
"""Arguments that must be refused."""


class Clients:
    """Sends requests to a scheduler until a number of them is answered."""

    def __init__(self, loop: vllm_host.SchedulerLoop, count: int, seed: int = 0) -> None:
        self.loop, self.left, self.rng = loop, count, np.random.default_rng(seed)
        self.sent = 0
        self.outcomes: Counter[str] = Counter()
        """How requests ended."""
        self.preemptions = 0
        self.resident: list[tuple[int, float]] = []
        """(requests answered, resident MiB)."""
        self.names: list[str] = []
        """Recent groups, whose names other clients use."""

    def run(self) -> None:
        """Until every request is answered."""
        while self.left > 0 or self.loop.scheduler.has_requests() or self.loop.inflight:
            while self.left > 0 and len(self.loop.scheduler.requests) < RUNNING:
                self._send()
            self.loop.step()
            if self.rng.random() < 0.05:
                self._abort()
            self._count()

    def _send(self) -> None:
        """One group, or one wrong request."""
        rng, kind = self.rng, self.rng.random()
        name = f"g{self.sent}"
        if kind < 0.05:
            self._add(name, 8, dict(WRONG[int(rng.integers(len(WRONG)))]))
            return
        size = int(rng.integers(1, 9))
        came = size if kind > 0.12 else int(rng.integers(1, size + 1))
        if kind > 0.95 and self.names:
            name = str(rng.choice(self.names))
        self.names = [*self.names[-31:], name]
        rule = str(rng.choice(["uniform", "neyman", "balanced", "paper", "confidence", "never"]))
        fields: dict[str, Any] = {"rule": rule, "draw": str(rng.choice(["bernoulli", "systematic"]))}
        if rule == "confidence":
            fields["mix"] = 0.5
        probes = PROBES[: int(rng.integers(1, 3))]
        run = f"run{int(rng.integers(3))}"
        try:
            arguments = pruning_args(group=name, size=size, probe_tokens=probes, run=run, **fields)
        except groups.ConfigError as error:
            raise AssertionError(f"{fields}: {error}") from None
        for _ in range(came):
            self._add(f"{name}-{self.sent}", int(rng.integers(1, 60)), arguments)

    def _add(self, request_id: str, total: int, arguments: dict[str, Any]) -> None:
        self.loop.add(f"{request_id}.{self.sent}", total, prompt=int(self.rng.integers(1, 70)), pruning=arguments)
        self.sent, self.left = self.sent + 1, self.left - 1

    def _abort(self) -> None:
        """A request, or all of a client's."""
        running = sorted(self.loop.scheduler.requests)
        if running:
            victim = str(self.rng.choice(running))
            group = victim.split("-")[0]
            gone = [one for one in running if one.split("-")[0] == group] if self.rng.random() < 0.5 else [victim]
            self.loop.abort(*gone)

    def _count(self) -> None:
        """Forget what was answered, so that the script itself holds nothing."""
        answers, self.loop.answers = self.loop.answers, {}
        for request_id, output in answers.items():
            reason = "aborted" if output == "aborted" else str(output.finish_reason)
            stop = "" if output == "aborted" else str(output.stop_reason or "")
            self.outcomes[stop.split(":")[0] if stop else reason] += 1
            self.preemptions += self.loop.requests[request_id].num_preemptions
        planned = {request_id for plan, _ in self.loop.inflight for request_id in plan.num_scheduled_tokens}
        needed = planned | self.loop.scheduler.requests.keys()
        self.loop.requests = {key: request for key, request in self.loop.requests.items() if key in needed}
        self.loop.times_scored.clear()
        done = self.outcomes.total()
        if not self.resident or done >= self.resident[-1][0] + 250:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.resident.append((done, pages * os.sysconf("SC_PAGE_SIZE") / 2**20))

    def slope(self) -> float:
        """Resident MiB per 10,000 requests over the last half."""
        half = np.array([row for row in self.resident if row[0] >= self.outcomes.total() / 2])
        return float(np.polyfit(half[:, 0], half[:, 1], 1)[0] * 10_000)


def soak(folder: str, count: int) -> list[BenchRecord]:
    """The scheduler with clients of all kinds."""
    from arrol.engines.vllm import PruningScheduler

    config = vllm_host.engine_config(folder, max_num_seqs=RUNNING, max_num_batched_tokens=512)
    score = np.random.default_rng(1).random
    snapshot = vllm_host.snapshot_of(*PROBES)
    loop = vllm_host.SchedulerLoop(
        config, PruningScheduler, blocks=BLOCKS, snapshot=snapshot, score=lambda request_id, length: float(score())
    )
    clients = Clients(loop, count)
    clients.run()
    hung = len(loop.scheduler.book)
    open_groups = loop.scheduler.book.num_groups
    assert loop.scheduler.reset_prefix_cache()
    facts = {"outcomes": dict(clients.outcomes), "sent": clients.sent, "incomplete_groups": open_groups}
    return [
        _row("requests that were not answered once", clients.sent - clients.outcomes.total(), 0, facts),
        _row("KV blocks lost", loop.free - loop.num_free, 0),
        _row("requests still under observation", hung, 0),
        _row("requests refused", clients.outcomes[REFUSED], None),
        _row("preemptions", clients.preemptions, None),
        _row("memory, slope over the last half", clients.slope(), LIMIT_MIB, {"resident_mib": clients.resident[::20]}),
        *forgotten(loop, min(count, NEVER_WHOLE)),
    ]


def forgotten(loop: vllm_host.SchedulerLoop, count: int) -> list[BenchRecord]:
    """Groups of which one rollout never comes: how many are known while they come, and after their time."""
    book, most = loop.scheduler.book, 0
    for number in range(count):
        arguments = pruning_args(group=f"half{number}", size=2, probe_tokens=PROBES[:1], run="half")
        loop.add(f"half{number}", 2, prompt=3, pruning=arguments)
        if number % RUNNING == RUNNING - 1:
            loop.run()
            loop.answers.clear()
            loop.requests.clear()
            most = max(most, book.num_groups)
    loop.run()
    clock = book._clock
    book._clock = lambda: clock() + groups.IDLE_S
    for run in ("half", "run0", "run1", "run2"):  # a request of each makes its controllers look
        for rule in ("uniform", "neyman", "balanced", "paper", "confidence", "never"):
            fields = {"mix": 0.5} if rule == "confidence" else {}
            arguments = pruning_args(group="last", size=1, probe_tokens=PROBES[:1], run=run, rule=rule, **fields)
            loop.add(f"last-{run}-{rule}", 2, prompt=3, pruning=arguments)
    loop.run()
    return [
        _row("groups that never end: known at once, at most", most, groups.MAX_IDLE_GROUPS + RUNNING, {"sent": count}),
        _row("groups that never end: known of that run after their time", _of_run(book, "half"), 0),
    ]


def _of_run(book: groups.GroupBook, run: str) -> int:
    return sum(len(owner.groups) for key, owner in book._owners.items() if key.run == run)


def _row(name: str, value: float, limit: float | None, facts: dict[str, Any] | None = None) -> BenchRecord:
    return BenchRecord(
        benchmark="vllm-soak",
        variant=name,
        unit="MiB/10k" if name.startswith("memory") else "",
        median=float(value),
        p20=float(value),
        p80=float(value),
        repeats=1,
        limit=float("nan") if limit is None else float(limit),
        gap=float("nan"),
        config=facts or {},
    )


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--requests", type=int, default=100_000, help="of the clients (default 100000)")
    parser.add_argument("--smoke", action="store_true", help="few requests")
    parser.add_argument("--out", default="results/bench-vllm-soak.jsonl", help="records; replaced")
    flags = parser.parse_args(arguments)
    count = 2_000 if flags.smoke else flags.requests
    with tempfile.TemporaryDirectory() as folder:
        rows = soak(vllm_host.save_model(folder), count)
    write(flags.out, "bench-vllm-soak", {"requests": count, "blocks": BLOCKS, "running": RUNNING}, rows, seed=0)


if __name__ == "__main__":
    main()
