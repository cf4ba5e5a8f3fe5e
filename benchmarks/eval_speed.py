"""How long does ``arrol eval --samples`` take on 20,000 rows? Seconds of processor and of wall, beside another commit.

Two files of made-up completions, as many of a prompt as ``--per-prompt`` says: integer golds, and golds as in MATH
(fractions, roots, intervals, tuples, polynomials, matrices, sets, equations). About half of a prompt's completions are
right, in up to four spellings; the others repeat a few wrong answers, as real ones do.

``--before SRC`` is the ``src`` folder of another checkout: its command runs in turn with ours. Metrics, warnings, and
every answer, mark, reward and class of both must be equal; only what decided, and why, may differ. Processor seconds
are those of the command and all its workers.

    python benchmarks/eval_speed.py --before ../before/src
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import hostile
from arrol.records.schema import BenchRecord
from arrol.records.store import RecordWriter, provenance

SHAPES = (
    # a gold, spellings that equal it, and a wrong answer, of integers a, b, c
    (r"\frac{{{p}}}{{{q}}}", (r"\dfrac{{{p}}}{{{q}}}", "{p}/{q}", r"\frac{{{p2}}}{{{q2}}}"), r"\frac{{{q}}}{{{p}}}"),
    (
        r"\frac{{{a}\sqrt{{{b}}}}}{{{c}}}",
        (r"\dfrac{{{a}\sqrt{{{b}}}}}{{{c}}}", r"\frac{{{a}}}{{{c}}}\sqrt{{{b}}}", r"{a}\sqrt{{{b}}}/{c}"),
        r"\frac{{{a}\sqrt{{{c}}}}}{{{b}}}",
    ),
    ("{a}x^2+{b}x-{c}", ("-{c}+{b}x+{a}x^2", "{a}x^2 + {b}x - {c}"), "{a}x^2-{b}x+{c}"),
    (
        r"(-\infty, {a}) \cup [{a}{b}, \infty)",
        (r"(-\infty,{a})\cup[{a}{b},\infty)", r"\left(-\infty,{a}\right) \cup \left[{a}{b}, \infty\right)"),
        r"(-\infty, {a}] \cup [{a}{b}, \infty)",
    ),
    (r"\left({a}, \frac{{{b}}}{{{c}}}\right)", ("({a},{b}/{c})", r"({a}, \dfrac{{{b}}}{{{c}}})"), "({b}, {a})"),
    (r"{a}\pi + {b}", (r"{b} + {a}\pi", r"{a} \pi+{b}"), r"{b}\pi + {a}"),
    ("{a} + {b}i", ("{b}i+{a}", "{a}+{b}i"), "{b} + {a}i"),
    ("{a}, {b}, {c}", ("{c}, {a}, {b}", r"{a}, {b} \text{{ and }} {c}"), "{a}, {b}"),
    (
        r"\begin{{pmatrix}} {a} & {b} \\ {c} & 1 \end{{pmatrix}}",
        (r"\begin{{pmatrix}}{a}&{b}\\{c}&1\end{{pmatrix}}", r"\begin{{bmatrix}} {a} & {b} \\ {c} & 1 \end{{bmatrix}}"),
        r"\begin{{pmatrix}} {b} & {a} \\ {c} & 1 \end{{pmatrix}}",
    ),
    ("y = {a}x + {b}", ("y={b}+{a}x", "{a}x - y + {b} = 0"), "y = {b}x + {a}"),
    (r"x \le {a}", (r"(-\infty, {a}]", r"x\leq {a}"), r"x < {a}"),
    (r"\log_{{{a}}} {b}", (r"\frac{{\ln {b}}}{{\ln {a}}}", r"\log_{{{a}}}{{{b}}}"), r"\log_{{{b}}} {a}"),
    (r"{a}\text{{ cm}}^2", ("{a}", r"{a}\,\mathrm{{cm}}^2"), "{b}"),
    (r"\text{{{word}}}", ("{word}", r"\textbf{{{word}}}"), "{other}"),
)
WORDS = ("even", "odd", "Tuesday", "ellipse", "circle", "parabola", "never", "always")


def main() -> None:
    args = parse_args()
    arms = {"ours": Path(__file__).resolve().parents[1] / "src"}
    if args.before:
        arms["before"] = args.before.resolve()
    records = []
    with tempfile.TemporaryDirectory() as folder:
        for kind in ("integer", "symbolic"):
            file = Path(folder) / f"{kind}.jsonl"
            write_rows(file, kind, args)
            cpu: dict[str, list[float]] = {arm: [] for arm in arms}
            wall: dict[str, list[float]] = {arm: [] for arm in arms}
            for repeat in range(args.repeats):
                outputs = {}
                for arm in list(arms) if repeat % 2 else list(arms)[::-1]:
                    seconds, passed, outputs[arm] = timed(arms[arm], file)
                    cpu[arm].append(seconds)
                    wall[arm].append(passed)
                    print(f"{kind} {arm}: {seconds:.1f} s of processor, {passed:.1f} s", flush=True)
                if len(set(outputs.values())) > 1:
                    raise SystemExit(f"{kind}: the commits give different verdicts")
            for unit, values in (("s of processor", cpu), ("s", wall)):
                records += rows(f"{kind}, {args.prompts * args.per_prompt} rows", unit, values)
    args.out.unlink(missing_ok=True)
    config = {k: getattr(args, k) for k in ("prompts", "per_prompt", "repeats")} | {"before": commit_of(args.before)}
    run = provenance(sys.argv, (args.seed,)).run_record(name="eval-speed", arm="", seed=args.seed, config=config)
    with RecordWriter(args.out) as writer:
        for record in (run, *records):
            writer.write(record)


def parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, default=None, metavar="SRC", help="src folder of another commit")
    parser.add_argument("--prompts", type=int, default=1250)
    parser.add_argument("--per-prompt", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=3, help="runs of each arm")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("results/bench-eval.jsonl"))
    parser.add_argument("--smoke", action="store_true", help="a tiny run that proves that the script works")
    args = parser.parse_args()
    if args.smoke:
        args.prompts, args.per_prompt, args.repeats = 14, 4, 1
    return args


def write_rows(file: Path, kind: str, args: argparse.Namespace) -> None:
    """A samples file: one row per completion."""
    draw = random.Random(args.seed)
    words = [hostile.prose(draw, 100) for _ in range(100)]
    lines = []
    for number in range(args.prompts):
        gold, right, wrong = prompt_of(draw, kind, number)
        for _ in range(args.per_prompt):
            found = draw.choice(right) if draw.random() < 0.5 else draw.choices(wrong, [4, 2, 1, 1])[0]
            text = f"{draw.choice(words)} \\boxed{{{found}}}" if draw.random() < 0.97 else draw.choice(words)
            lines.append(json.dumps({"prompt": f"problem {number}", "completion": text, "answer": gold}))
    file.write_text("\n".join(lines) + "\n")


def prompt_of(draw: random.Random, kind: str, number: int) -> tuple[str, list[str], list[str]]:
    """A gold answer, spellings of it, and wrong answers, the most frequent first."""
    if kind == "integer":
        value = draw.randint(0, 2_000)
        return str(value), [str(value), f"{value}.0", f"{value:,}"], [str(draw.randint(0, 2_000)) for _ in range(4)]
    gold, right, wrong = SHAPES[number % len(SHAPES)]
    mine, near, far = (fields(draw) for _ in range(3))
    wrongs = [wrong.format(**mine), gold.format(**near), right[0].format(**near), gold.format(**far)]
    return gold.format(**mine), [form.format(**mine) for form in (gold, gold, *right)], wrongs


def fields(draw: random.Random) -> dict[str, object]:
    a, b, c = draw.sample(range(2, 20), 3)
    p, q = draw.sample((2, 3, 5, 7, 11, 13, 17, 19, 23), 2)
    word, other = draw.sample(WORDS, 2)
    return {"a": a, "b": b, "c": c, "p": p, "q": q, "p2": 2 * p, "q2": 2 * q, "word": word, "other": other}


def timed(src: Path, file: Path) -> tuple[float, float, str]:
    """Processor seconds and wall seconds of one command, and what it printed and wrote, without who decided and why."""
    verdicts = file.with_suffix(".out.jsonl")
    verdicts.unlink(missing_ok=True)
    command = [sys.executable, "-m", "arrol.cli.main", "eval", "--samples", str(file), "--out", str(verdicts), "--json"]
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    ended = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(src)}, capture_output=True)
    after, passed = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - started
    if ended.returncode:
        raise SystemExit(ended.stderr.decode())
    told, lines = json.loads(ended.stdout), [json.loads(line) for line in verdicts.read_text().splitlines()]
    del told["facts"]["judged_by"]
    for sample in (sample for line in lines for sample in line["samples"]):
        sample.pop("verifier")
        sample.pop("reason", None)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, passed, json.dumps([told, lines])


def rows(variant: str, unit: str, values: dict[str, list[float]]) -> list[BenchRecord]:
    medians = {arm: statistics.median(seconds) for arm, seconds in values.items()}
    return [
        BenchRecord(
            benchmark="eval-speed",
            variant=f"{variant}, {arm}",
            unit=unit,
            median=medians[arm],
            p20=sorted(seconds)[int(0.2 * (len(seconds) - 1))],
            p80=sorted(seconds)[-1 - int(0.2 * (len(seconds) - 1))],
            repeats=len(seconds),
            ratio_to="before" if arm == "ours" and "before" in medians else "",
            ratio=medians["ours"] / medians["before"] if arm == "ours" and "before" in medians else float("nan"),
        )
        for arm, seconds in values.items()
    ]


def commit_of(src: Path | None) -> str:
    if src is None:
        return ""
    told = subprocess.run(["git", "-C", str(src), "rev-parse", "HEAD"], capture_output=True, text=True)
    return told.stdout.strip()


if __name__ == "__main__":
    main()
