"""The files that arrol reads, and who reads them: healthy examples of each format, and calls of the project's readers.

A reader does with a file what the command would, up to the point where it computes or writes something of its own. Its
result is a text that is equal for equal contents.
"""

from __future__ import annotations

import csv
import fcntl
import gzip
import hashlib
import json
import shutil
import sys
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))
from arrol.errors import ArrolError, CheckpointError
from arrol.records.lock import Claim
from arrol.records.manifest import MANIFEST
from arrol.records.state import SUMS
from arrol.records.store import RECORDS_FILE, ROLLOUTS_FILE

RUN = Path("runs") / "tiny"
CONFIGS = ("arithmetic", "gsm8k", "study-allocation", "countdown-sft")
"""Files of ``configs/``; the last one is of a warm start, the one before of a comparison."""
DESIGNS = """[[designs]]
name = "half of 16"
[designs.change.training]
group_size = 16
[designs.change.pruning]
rule = "uniform"
probe_tokens = [16]
"""


class Format(NamedTuple):
    """A kind of file."""

    name: str
    files: tuple[str, ...]
    """Patterns of the files that are damaged, below the folder of the examples."""
    read: Callable[[Path, Path], str]
    """(folder of the examples, damaged file) -> what was read."""
    is_sealed: bool = False
    """A sum tells of every changed byte."""


def make_examples(root: Path) -> None:
    """Write a healthy file of every format below ``root``."""
    from unit.lab.conftest import make_pool

    _make_run(root)
    for name in (RECORDS_FILE, ROLLOUTS_FILE):
        (root / "open").mkdir(exist_ok=True)
        shutil.copy(root / RUN / name, root / "open")
    shutil.copytree(root / RUN / "texts", root / "open" / "texts")
    old = root / "old" / "checkpoints" / "step-000002"
    shutil.copytree(root / RUN / "checkpoints" / "step-000002", old)
    (old / MANIFEST).unlink()
    state = json.loads((old / "state.json").read_text())
    (old / "state.json").write_text(json.dumps({key: value for key, value in state.items() if key != SUMS}))
    make_pool().save(root / "pool.safetensors")
    _make_samples(root / "samples")
    _make_problems(root / "problems")
    (root / "configs").mkdir()
    for name in CONFIGS:
        shutil.copy(Path(__file__).parents[1] / "configs" / f"{name}.toml", root / "configs")
    (root / "designs.toml").write_text(DESIGNS)
    (root / "held").mkdir()
    (root / "held" / ".lock").write_text('{"pid": 4711, "host": "node7", "since": "2026-11-30 07:18:57 UTC"}')


def _make_run(root: Path) -> None:
    """A run of two steps and its export, as the commands write them."""
    from arrol.cli import train
    from arrol.cli.main import main
    from integration import tiny

    model, prompts = tiny.save_model(root / "model"), tiny.save_prompts(root / "prompts")
    text = tiny.CONFIG.replace("steps = 8", "steps = 2")
    config = tiny.save_config(root / "tiny.toml", model, prompts, root / "runs", text)
    train.report_after = lambda *_: None  # no command reads its files
    assert main(["train", str(config)]) == 0
    assert main(["export", str(root / RUN), "--to", str(root / "export")]) == 0


def _make_samples(folder: Path) -> None:
    """Every form of a table, and rows as several tools write them."""
    from arrol.evaluation.problems import Sample, SampledProblem
    from arrol.evaluation.samples import write_samples

    lengths, texts = (3, 4, 2, 5), ("It is 4.\n#### 4", "#### 5", "4", "so \\boxed{4}")
    samples = [
        Sample(text, None, None, 0.5, 0.25, n, "stop", (-0.1,) * n, (9.0,) * n, ((2, 0.5),))
        for n, text in zip(lengths, texts, strict=True)
    ]
    write_samples(folder / "own.jsonl", [SampledProblem(f"sum-{n}", f"2 + {n}?", "4", (*samples,), n) for n in (1, 2)])
    plain = [
        {"key": f"k{n // 2}", "prompt": f"2 + {n // 2}?", "answer": "4", "completion": texts[n], "reward": n % 2 == 0}
        | {"num_tokens": lengths[n], "finish_reason": "stop", "score": 0.5, "level": "Level 2"}
        for n in range(4)
    ]
    _tables(folder, "plain", plain)
    doc = {"query": "2 + 2?", "choices": ["4"], "gold_index": 0, "id": "a"}
    tools: dict[str, dict[str, Any]] = {
        "lighteval": {"doc": doc, "model_response": {"text": [*texts], "output_tokens": [[1, 2]] * 4}},
        "lm-eval": {
            "doc_id": 1,
            "doc": {"question": "2 + 2?", "level": 3},
            "target": "4",
            "filter": "none",
            "arguments": {"gen_args_0": {"arg_0": "2 + 2?"}},
            "resps": [["#### 4"]],
        },
        "nemo": {"problem": "2 + 2?", "generation": "#### 4", "expected_answer": "4", "symbolic_correct": True},
        "qwen": {"idx": 3, "question": "2 + 2?", "gt": "4", "code": [*texts], "pred": ["4"] * 4, "score": [True] * 4},
        "verl": {"input": "2 + 2?", "output": "#### 4", "score": 1.0, "gts": "4", "step": 2},
        "trl": {"step": 1, "prompt": [{"role": "user", "content": "2 + 2?"}], "completion": "4", "advantage": 0.5},
    }
    tools["trl"] |= {"rewards/right": 1.0, "solution": "4"}
    for name, row in tools.items():
        _jsonl(folder / f"{name}.jsonl", [row, row | {"extra": 1}] if name in ("nemo", "verl", "trl") else [row])
    chat = [{"role": "HUMAN", "prompt": "2 + 2?"}]
    rows = {str(n): {"origin_prompt": chat, "prediction": texts[n], "gold": "4", "res_length": 3} for n in range(3)}
    (folder / "opencompass.json").write_text(json.dumps(rows, indent=1))


def _make_problems(folder: Path) -> None:
    rows = [{"question": f"{n} + 2?", "answer": f"2 + {n}\n#### {n + 2}", "level": n} for n in range(4)]
    _tables(folder, "gsm", rows)
    chat = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": "\\boxed{4}"}]
    _jsonl(folder / "chat.jsonl", [{"messages": chat}] * 2)
    several = {"context": "Let x be 2.", "question": "x?", "final_answer": ["2", "3"], "is_multiple_answer": True}
    _jsonl(folder / "several.jsonl", [{**several, "error": "1e-3", "reward_model": {"ground_truth": "2"}}] * 2)


def _tables(folder: Path, name: str, rows: list[dict[str, Any]]) -> None:
    import pyarrow as pa
    from pyarrow import parquet

    _jsonl(folder / f"{name}.jsonl", rows)
    (folder / f"{name}.json").write_text(json.dumps(rows, indent=1))
    for suffix, dialect in ((".csv", "excel"), (".tsv", "excel-tab")):
        with (folder / f"{name}{suffix}").open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), dialect=dialect)
            writer.writeheader()
            writer.writerows(rows)
    parquet.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
    for suffix in (".jsonl", ".json", ".csv"):
        (folder / f"{name}-packed{suffix}.gz").write_bytes(
            gzip.compress((folder / f"{name}{suffix}").read_bytes(), 1, mtime=0)
        )


def _jsonl(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _estimator(root: Path, path: Path) -> str:
    from arrol.quality.snapshot import EstimatorSnapshot

    made = EstimatorSnapshot.read(path)
    features_CF = np.random.default_rng(0).normal(size=(3, made.layout.num_features)).astype(np.float32)
    scores = [made.scores(features_CF, number) for number in range(len(made.probe_tokens))]
    qualities = [made.quality(score_C, number) for number, score_C in enumerate(scores)]
    assert made.is_finite or np.isnan(scores).any()
    return text_of([scores, qualities, made.tables(), made.model])


def _pool(root: Path, path: Path) -> str:
    from arrol.configs.base import validate
    from arrol.configs.run import RunConfig
    from arrol.lab.merit import Design, base_config, judge
    from arrol.lab.moments import Moments
    from arrol.lab.pool import Pool

    pool = Pool.load(path)
    base = base_config(validate(RunConfig, pool.config))
    judged = [judge(pool, Design("x", {"training": {"group_size": 4}}), base), Moments.of(pool.part([0, 1]))]
    parts = [pool.tokens(0, 0), pool.logprobs(0, 1), pool.mean_logprobs(), pool.label_PN, pool.num_parameters]
    return text_of([vars(pool), judged, parts])


def _resumed(root: Path, run: Path) -> str:
    """The trainer as ``arrol train --resume`` has it before its next step."""
    from rich.console import Console

    from arrol.cli.train import _trainer
    from arrol.configs.run import load_run
    from arrol.training.checkpoint import sound_checkpoint

    said: list[str] = []
    checkpoint = sound_checkpoint(run / "checkpoints", said.append)
    if said := [line for line in said if f"no {MANIFEST}" not in line]:
        raise CheckpointError("; ".join(said))
    previous = types.SimpleNamespace(segment=0)
    trainer = _trainer(load_run(root / "tiny.toml"), run, previous, checkpoint, Console(quiet=True), None)  # type: ignore[arg-type]
    try:
        weights = [weight.detach().numpy() for weight in trainer.parts.model.parameters()]
        moments = trainer.parts.learner.guard.optimizer.state_dict()["state"]
        made = {number: {key: value.numpy() for key, value in one.items()} for number, one in moments.items()}
        return text_of([weights, made, trainer._state()])
    finally:
        trainer.parts.task.close()
        trainer.parts.engine.close()


def _old_checkpoint(root: Path, path: Path) -> str:
    return _resumed(root, root / "old")


def _sealed_run(root: Path, path: Path) -> str:
    """A run with sums: its records, then its checkpoint."""
    from arrol.records.store import read_run
    from arrol.records.texts import read_texts

    run = read_run(root / RUN)
    said = text_of([vars(run), read_texts(root / RUN, 1)])
    return said + _resumed(root, root / RUN)


def _records(root: Path, path: Path) -> str:
    """What ``arrol report`` and ``arrol advise`` read of a run; plots are not drawn."""
    from arrol.lab.sources import pool_of_run, usual_step
    from arrol.records.live import History
    from arrol.records.store import read_run
    from arrol.reports import page
    from arrol.reports.lengths import reward_by_length
    from arrol.reports.live import Progress, live_page
    from arrol.reports.tables import comparison_rows

    run, history = read_run(path.parent), History()
    for step in run.steps:
        history.add(step.step, step.metrics)
    live = live_page(run.run.name, history.curves(), [], Progress(1, 2, "", False, ""), 5)
    rows, warnings = comparison_rows([run]), page.report_warnings([run])
    title = page.report_title([run])
    texts = [make(title, [run], rows, [], warnings) for make in (page.markdown_report, page.html_report)]
    found: list[Any] = [vars(run), live, texts, reward_by_length([run])]
    if run.rollouts:
        found += [vars(pool_of_run(run, [])), usual_step(run)]
    return text_of(found)


def _viewer(root: Path, path: Path) -> str:
    """What ``arrol view`` sends to its page."""
    from arrol.records.texts import shown_texts
    from arrol.reports.viewer.feed import RunFeed
    from arrol.reports.viewer.search import search_texts
    from arrol.reports.viewer.server import as_json

    feed = RunFeed(root / "open")
    pages = [feed.summary(), feed.page(0, 0), feed.page(0, 5)]
    sent = [as_json(page) for page in pages]
    hits = search_texts(feed.folder, "1", seconds=60)
    sent += [as_json(hits), shown_texts(feed.folder, 1) or b"null"]  # the last one says what the search passes over
    for each in sent:
        json.loads(each, parse_constant=_refused)
    return text_of(sent)


def _refused(name: str) -> None:
    raise AssertionError(f"a browser cannot read {name}")


def _samples(root: Path, path: Path) -> str:
    """What ``arrol eval`` and ``arrol vote`` read and compute."""
    from arrol.evaluation.cautions import cautions_of
    from arrol.evaluation.judging import judged
    from arrol.evaluation.online import online_rows
    from arrol.evaluation.problems import row_of
    from arrol.evaluation.samples import read_samples
    from arrol.evaluation.summary import facts, level_rows, metric_rows, possible_votes, usual_ks, vote_rows
    from arrol.lab.sources import pool_of_samples
    from arrol.verifiers.integer import IntegerVerifier
    from arrol.verifiers.pool import VerifierPool

    problems = read_samples(path)
    with VerifierPool(IntegerVerifier()) as pool:
        found = judged(problems, pool)
    ks = usual_ks(problems)
    rows = [*metric_rows(found, ks), *level_rows(found), facts(found), cautions_of(found)]
    votes = vote_rows(found, possible_votes(problems), ks, subsets=20)
    written = [json.dumps(row_of(one.problem), allow_nan=False) for one in found]
    if max(len(one.samples) for one in found) > 1:
        pool_of_samples([one.problem for one in found], [])
    return text_of([problems, rows, votes, online_rows(found), written])


def _problems(root: Path, path: Path) -> str:
    from arrol.tasks.columns import Columns

    return text_of([Columns().read(str(path), "train"), Columns(for_rewards=True).read(str(path), "train")])


def _config(root: Path, path: Path) -> str:
    from arrol.configs.run import load_compare, load_run, planned_runs
    from arrol.configs.sft import load_sft
    from arrol.lab.designs import read_designs

    if path.name == "designs.toml":
        return text_of(read_designs(str(path)))
    if path.stem == CONFIGS[-1]:
        return text_of(load_sft(path).model_dump(mode="json"))
    if path.stem == CONFIGS[-2]:
        return text_of([config.model_dump(mode="json") for _, config in planned_runs(load_compare(path))])
    return text_of(load_run(path).model_dump(mode="json"))


def _model(root: Path, path: Path) -> str:
    import torch

    from arrol.training.policy import load_policy, load_tokenizer, stop_token_ids

    policy, tokenizer = load_policy(str(path.parent), torch.device("cpu")), load_tokenizer(str(path.parent))
    weights = [weight.detach().numpy() for weight in policy.parameters()]
    ids = tokenizer.encode("01 10")
    return text_of([weights, policy.config.to_dict(), ids, tokenizer.decode(ids), stop_token_ids(policy, tokenizer)])


def _lock(root: Path, path: Path) -> str:
    """A folder that another process holds: its owner is named."""
    with path.open("rb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        try:
            with Claim() as claim:
                claim.take(path.parent)
        except ArrolError as error:
            if not str(error).isprintable() or "held" not in str(error):
                raise
            return "held"
    raise AssertionError("the lock was given twice")


FORMATS = (
    Format("estimator (`arrol export`)", ("export/estimator.safetensors",), _estimator, is_sealed=True),
    Format("model folder", ("export/policy/*",), _model),
    Format(
        "run with sums: records, texts, manifests, checkpoint",
        (f"{RUN}/*.json*", f"{RUN}/texts/*", f"{RUN}/checkpoints/*/*.*", f"{RUN}/checkpoints/*/policy/*"),
        _sealed_run,
        is_sealed=True,
    ),
    Format("checkpoint of a release without sums", ("old/checkpoints/*/*.*",), _old_checkpoint),
    Format("records.jsonl, rollouts.jsonl: report, advise", ("open/*.jsonl",), _records),
    Format("records, rollouts and texts: viewer", ("open/*.jsonl", "open/texts/00000001.json.gz"), _viewer),
    Format("samples: JSONL, JSON, CSV, TSV, Parquet, .gz", ("samples/*",), _samples),
    Format("problems: JSONL, JSON, CSV, TSV, Parquet, .gz", ("problems/*",), _problems),
    Format("pool (`arrol lab`)", ("pool.safetensors",), _pool, is_sealed=True),
    Format("TOML of runs, comparisons, warm starts, designs", ("configs/*.toml", "designs.toml"), _config),
    Format("lock file", ("held/.lock",), _lock),
)


def text_of(value: Any) -> str:
    """A digest that is equal for equal values: arrays by their bytes, objects by what they hold."""
    return hashlib.sha256(_spelled(value).encode("utf-8", "surrogatepass")).hexdigest()


def _spelled(value: Any) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}{hashlib.sha256(np.ascontiguousarray(value).tobytes()).hexdigest()}"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key!r}:{_spelled(each)}" for key, each in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(_spelled, value)) + "]"
    if isinstance(value, int) and abs(value) > 10**60:
        return hex(value)
    return repr(value)
