"""What only a GPU can show, in under nine minutes and one file: ``make gpu-check`` on a machine with one.

Each part is a process of its own with a time limit. A part that fails, hangs or lacks something says so in the record,
and the next one runs. Send the record, ``results/bench-gpu.jsonl``: it holds the device's name, versions and numbers,
and no path of the machine. Parts: ``gpu_embedded.py``, ``gpu_vllm.py``, ``gpu_trl.py``; at most 40 GiB of memory.

    python benchmarks/gpu_check.py [--gpu-python PYTHON] [--parts NAME,NAME] [--out FILE]
    python benchmarks/gpu_check.py --smoke     # without a GPU: tiny shapes, what a CPU can run

``--gpu-python`` is the Python of an environment with vLLM and TRL for GPUs, as ``make gpu-env`` installs it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from arrol.records.schema import BenchRecord, Record
from arrol.records.store import RecordWriter, provenance, read_records

HERE = Path(__file__).parent
TOTAL_S = 535.0
"""Of all parts together."""
NOT_HERE = 3
"""As in ``gpu_rows.py``, which needs torch."""
SMOKE_S = 300.0
"""Limit of a part of ``--smoke``: a busy CPU loads vLLM slowly."""
NO_GPU = (
    "no CUDA device for the torch of this environment; give make a build for it, as in TORCH='torch==2.13.0', or run "
    "python benchmarks/gpu_check.py --smoke, which a CPU can"
)
SHOWN = 400
"""Characters of an error in the record."""
SCORES = 0.5
"""Largest difference of a score with and without CUDA graphs, in bfloat16."""


class Part(NamedTuple):
    """One process."""

    name: str
    script: str
    needs_vllm: bool
    limit_s: float


PARTS = (
    Part("embedded", "gpu_embedded.py", False, 45),
    Part("vllm", "gpu_vllm.py", True, 40),
    Part("vllm graphs", "gpu_vllm.py", True, 55),
    Part("vllm sleep", "gpu_vllm.py", True, 50),
    Part("trl colocated", "gpu_trl.py", True, 45),
    Part("vllm large graphs", "gpu_vllm.py", True, 90),
    Part("embedded large", "gpu_embedded.py", False, 110),
    Part("vllm large", "gpu_vllm.py", True, 65),
    Part("vllm invariant", "gpu_vllm.py", True, 35),
)
"""In the order in which they run; the limits add up to ``TOTAL_S``."""


class Outcome(NamedTuple):
    """How a part ended."""

    name: str
    said: str
    """``passed``, ``checks failed``, ``failed``, ``out of time``, ``missing`` or ``not here``."""
    seconds: float
    error: str
    rows: list[BenchRecord]


def main(arguments: Sequence[str] | None = None, parts: Sequence[Part] = PARTS) -> list[Outcome]:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--gpu-python", default=".venv-gpu/bin/python", help="Python with vLLM and TRL (default %(default)s)"
    )
    parser.add_argument("--parts", help="names, by commas; default all")
    parser.add_argument("--smoke", action="store_true", help="tiny shapes, on a CPU too; its numbers mean nothing")
    parser.add_argument("--look", action="store_true", help="tell whether there is a GPU, and run nothing")
    parser.add_argument("--out", default="results/bench-gpu.jsonl", help="record; replaced")
    flags = parser.parse_args(arguments)
    chosen = [part for part in parts if not flags.parts or part.name in flags.parts.split(",")]
    if not (flags.smoke or has_gpu()):
        sys.exit(NO_GPU)
    if flags.look:
        return []
    outcomes: list[Outcome] = []
    with tempfile.TemporaryDirectory() as folder:
        ends = time.monotonic() + (len(chosen) * SMOKE_S if flags.smoke else TOTAL_S)
        try:
            for part in chosen:
                limit_s = min(SMOKE_S if flags.smoke else part.limit_s, ends - time.monotonic())
                outcomes.append(run_part(part, limit_s, Path(folder), flags))
            compared = compare(Path(folder))
        finally:
            write(flags, outcomes, compared if len(outcomes) == len(chosen) else [])
    return outcomes


def has_gpu() -> bool:
    """Asked in another process, since a context of CUDA takes memory."""
    code = "import sys, torch; sys.exit(not torch.cuda.is_available())"
    return subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def run_part(part: Part, limit_s: float, folder: Path, flags: argparse.Namespace) -> Outcome:
    """Run one part to its end or its limit; every row that it wrote is kept."""
    python = flags.gpu_python if part.needs_vllm else sys.executable
    if not Path(python).is_file():
        print(f"== {part.name}: no environment with vLLM; make gpu-env", flush=True)
        return Outcome(part.name, "missing", 0.0, "no environment with vLLM; make gpu-env", [])
    file, log = folder / f"{part.name}.jsonl", folder / f"{part.name}.log"
    command = [python, str(HERE / part.script), part.name, "--out", str(file), "--shared", str(folder)]
    print(f"== {part.name}, at most {limit_s:.0f} s", flush=True)
    start = time.monotonic()
    with log.open("wb") as sink:
        process = subprocess.Popen(
            command + ["--smoke"] * flags.smoke, stdout=None, stderr=sink, start_new_session=True, env=environment()
        )
        try:
            status = process.wait(timeout=max(1.0, limit_s))
        except subprocess.TimeoutExpired:
            status = None
        finally:
            end(process)
    taken = time.monotonic() - start
    rows = [row for row in read_records(file) if isinstance(row, BenchRecord)] if file.is_file() else []
    has_failed = any(row.config.get("check") == "failed" for row in rows)
    said = {None: "out of time", 0: "checks failed" if has_failed else "passed", NOT_HERE: "not here"}.get(
        status, "failed"
    )
    error = "" if said in ("passed", "checks failed") else last_words(log.read_text("utf-8", "replace"), status)
    print(f"== {part.name}: {said} after {taken:.0f} s {error}", flush=True)
    return Outcome(part.name, said, taken, error, rows)


def environment() -> dict[str, str]:
    """Of a part: modules of this folder are beside it; no hub."""
    return {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}


def end(process: subprocess.Popen[bytes]) -> None:
    """End a part with everything that it started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def last_words(text: str, status: int | None) -> str:
    """The end of an error, without paths of the machine."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if status == NOT_HERE:
        return lines[-1]
    said = [line for line in dict.fromkeys(lines) if re.search(r"\w(Error|Exception): ", line)]
    said = said or lines or [f"exit status {status}"]
    words = [word if "/" not in word else word.rsplit("/", 1)[-1] for word in " | ".join(said[-2:]).split(" ")]
    return " ".join(words)[-SHOWN:]


def compare(folder: Path) -> list[BenchRecord]:
    """CUDA graphs on and off, where both parts have left their answers."""
    files = [folder / f"{name}.json" for name in ("vllm", "vllm graphs")]
    if not all(file.is_file() for file in files):
        return []
    off, on = (json.loads(file.read_text("utf-8")) for file in files)
    (tokens_off, stopped_off, scores_off), (tokens_on, stopped_on, scores_on) = off["half"], on["half"]
    differ = len(set(stopped_off) ^ set(stopped_on))
    probe = min(len(tokens_off[number]) for number in stopped_off)
    alike = [n for n, (a, b) in enumerate(zip(tokens_off, tokens_on, strict=True)) if a[:probe] == b[:probe]]
    gaps = [abs(scores_off[number] - scores_on[number]) for number in alike]
    whole = [a == b for a, b in zip(off["all"][0], on["all"][0], strict=True)]
    return [
        row("rollouts stopped with graphs or without alone", "rollouts", differ, most=0),
        row(
            "scores with graphs and without",
            "difference",
            max(gaps, default=math.nan),
            most=SCORES,
            rollouts=len(alike),
        ),
        row("rollouts equal with graphs and without", "share", float(np.mean(whole))),
    ]


def row(what: str, unit: str, value: float, *, most: float = math.nan, **config: Any) -> BenchRecord:
    """A comparison of two parts; a check where it has a bound."""
    check = {} if math.isnan(most) else {"check": "passed" if value <= most else "failed"}
    return single(f"graphs: {what}", unit, value, limit=most, config=check | config)


def single(variant: str, unit: str, value: float, *, limit: float = math.nan, config: dict[str, Any]) -> BenchRecord:
    return BenchRecord(
        benchmark="gpu",
        variant=variant,
        unit=unit,
        median=float(value),
        p20=float(value),
        p80=float(value),
        repeats=1,
        limit=float(limit),
        config=config,
    )


def write(flags: argparse.Namespace, outcomes: Sequence[Outcome], compared: Sequence[BenchRecord]) -> None:
    """A fresh record: who measured, how each part ended, and the rows."""
    measured = [each for outcome in outcomes for each in outcome.rows]
    gpus = [each.config["gpu"] for each in measured if "gpu" in each.config]
    ends = [
        single(f"part {each.name}", "s", each.seconds, config={"outcome": each.said, "error": each.error})
        for each in outcomes
    ]
    rows: list[Record] = [*ends, *compared, *measured]
    Path(flags.out).unlink(missing_ok=True)
    with RecordWriter(flags.out) as writer:
        here = provenance(sys.argv, (0,), gpu=gpus[0] if gpus else "")
        writer.write(here.run_record(name="bench-gpu", arm="", seed=0, config={"smoke": flags.smoke}))
        for each in rows:
            writer.write(each)
    failed = [each.variant for each in (*compared, *measured) if each.config.get("check") == "failed"]
    print("\n".join(f"{each.name:20} {each.said:14} {each.seconds:5.0f} s  {each.error[:80]}" for each in outcomes))
    print(f"checks that failed: {', '.join(failed) or 'none'}\nsend this file: {flags.out}")


if __name__ == "__main__":
    main()
