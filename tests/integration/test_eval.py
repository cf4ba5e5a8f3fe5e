"""``arrol eval`` and ``arrol vote`` as a user calls them: a config, a run, files of other tools, and mistakes."""

import json
import os

import pytest

from arrol.cli.main import main
from arrol.evaluation.samples import SampleWriter, read_samples
from arrol.records.lock import Claim
from arrol.verifiers.pool import VerifierPool
from arrol.verifiers.symbolic import SymbolicVerifier


@pytest.fixture
def run(config, tmp_path, capsys):
    """A trained run whose estimator judges ends."""
    assert main(["train", str(config), "--training.steps", "4", "--quality.judge_ends", "true"]) == 0
    capsys.readouterr()
    return tmp_path / "runs" / "tiny"


def call(capsys, *argv):
    status = main([str(word) for word in argv])
    captured = capsys.readouterr()
    assert status == 0, captured.err
    return json.loads(captured.out, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))


def values(rows, *names):
    return {tuple(row[name] for name in names): row["value"] for row in rows}


def test_a_config_is_evaluated_and_its_samples_are_kept(config, tmp_path, capsys):
    found = call(capsys, "eval", config, "--json", "--evaluation.samples_per_prompt", "6", "--k", "1,3")
    metrics = {row["metric"]: row["value"] for row in found["metrics"]}
    assert metrics["pass@1"] == pytest.approx(metrics["avg@6"])
    assert metrics["avg@6"] <= metrics["pass@3"] + 1e-9
    problems = read_samples(tmp_path / "runs" / "tiny" / "samples.jsonl")
    assert found["facts"]["samples"] == sum(len(problem.samples) for problem in problems) == 24
    assert all(sample.score is None and sample.logprobs for problem in problems for sample in problem.samples)
    again = call(capsys, "eval", "--samples", tmp_path / "runs" / "tiny" / "samples.jsonl", "--json", "--k", "1,3")
    assert again == found


def test_metrics_are_printed_where_the_disk_refuses_the_samples(config, tmp_path, capsys, monkeypatch):
    def fail(self, problem):
        raise self._failed(OSError(28, "No space left on device"))

    monkeypatch.setattr(SampleWriter, "write", fail)
    path = tmp_path / "runs" / "tiny" / "samples.jsonl"
    assert main(["eval", str(config), "--json"]) == 2
    out, err = capsys.readouterr()
    assert json.loads(out)["facts"]["samples"] == 8
    assert err == (
        f"arrol: samples = {str(path)!r}: cannot be written (No space left on device); free space or choose another "
        "folder\n"
    )
    assert not path.parent.exists()


def test_two_processes_never_write_the_same_samples(config, tmp_path, capsys):
    path = tmp_path / "runs" / "tiny" / "samples.jsonl"
    with Claim() as claim:
        claim.take_file(path, "--out")
        assert main(["eval", str(config)]) == 2
        out, err = capsys.readouterr()
        assert (out, err.startswith(f"arrol: --out = {str(path)!r}: process {os.getpid()} on ")) == ("", True)
    assert not (tmp_path / "runs").exists()


def test_a_model_is_evaluated_without_a_config(model_folder, tmp_path, capsys):
    """Every row of the file; the flags are those of a config."""
    rows = [{"question": f"{number:04b}", "answer": str(number % 2)} for number in range(5)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    flags = ["--task.source", tmp_path / "rows.jsonl", "--sampling.max_completion_tokens", "10"]
    found = call(capsys, "eval", model_folder, "--json", *flags, "--out-dir", tmp_path)
    assert found["facts"]["problems"] == 5
    assert (tmp_path / model_folder.name / "samples.jsonl").is_file()


def test_a_run_brings_its_estimator_to_the_vote(run, capsys):
    call(capsys, "eval", run, "--json", "--evaluation.samples_per_prompt", "5", "--confidences")
    (problem, *_) = read_samples(run / "samples.jsonl")
    assert all(0 <= sample.quality <= 1 for sample in problem.samples)
    assert all(len(sample.confidences) == sample.num_tokens for sample in problem.samples)
    found = call(capsys, "vote", "--samples", run / "samples.jsonl", "--json", "--window", "4")
    names = {row["vote"] for row in found["votes"]}
    assert {"majority", "rank", "quality", "best_of_n", "confidence:tail", "oracle"} <= names
    at = values(found["votes"], "vote", "k")
    assert at["majority", 1] == pytest.approx(at["quality", 1]) == pytest.approx(at["oracle", 1])
    assert all(at["oracle", 5] >= at[name, 5] - 1e-12 for name in names)


def test_an_exported_estimator_is_one_flag(run, config, tmp_path, capsys):
    assert main(["export", str(run), "--to", str(tmp_path / "served")]) == 0
    capsys.readouterr()
    flags = ["--evaluation.samples_per_prompt", "4", "--model", tmp_path / "served" / "policy"]
    call(
        capsys, "eval", config, "--json", "--estimator", tmp_path / "served" / "estimator.safetensors",
        "--out", tmp_path / "one.jsonl", *flags,
    )  # fmt: skip
    call(capsys, "eval", run, "--json", "--out", tmp_path / "two.jsonl", *flags[:2])
    one, two = (read_samples(tmp_path / f"{name}.jsonl") for name in ("one", "two"))
    assert [s.score for p in one for s in p.samples] == pytest.approx([s.score for p in two for s in p.samples])


def test_samples_of_another_tool_are_scored(tmp_path, capsys):
    rows = [
        {"idx": 0, "question": "2 + 2?", "gt": "4", "code": ["\\boxed{4}", "\\boxed{5}", "\\boxed{4.0}"]},
        {"idx": 1, "question": "half?", "gt": "1/2", "code": ["\\boxed{0.5}", "\\boxed{\\frac12}", "?"]},
    ]
    path = tmp_path / "qwen.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    found = call(capsys, "eval", "--samples", path, "--json")
    metrics = {row["metric"]: row["value"] for row in found["metrics"]}
    assert metrics["avg@3"] == pytest.approx(2 / 3)
    assert metrics["maj@3"] == 1.0
    votes = call(capsys, "vote", "--samples", path, "--json", "--k", "3")["votes"]
    assert {row["vote"] for row in votes} == {"majority", "oracle"}


def test_a_problem_without_an_interval_has_null_there(tmp_path, capsys):
    row = {"key": "a", "prompt": "?", "answer": "4", "samples": [{"completion": f"#### {n}"} for n in (4, 5)]}
    path = tmp_path / "one.jsonl"
    path.write_text(json.dumps(row) + "\n", "utf-8")
    metrics = call(capsys, "eval", "--samples", path, "--json")["metrics"]
    assert (metrics[0]["value"], metrics[0]["low"], metrics[0]["high"]) == (0.5, None, None)
    votes = call(capsys, "vote", "--samples", path, "--json")["votes"]
    assert votes[0]["ahead_low"] is None


def test_verdicts_are_written_and_judged_once(tmp_path, capsys, monkeypatch):
    row = {"key": "a", "prompt": "?", "answer": "1/2", "samples": [{"completion": c} for c in (
        "so \\boxed{0.5}", "\\boxed{\\frac12}", "\\boxed{2}", "")]}  # fmt: skip
    path, out = tmp_path / "samples.jsonl", tmp_path / "verdicts.jsonl"
    path.write_text(json.dumps(row) + "\n", "utf-8")
    found = call(capsys, "eval", "--samples", path, "--out", out, "--json")
    (problem,) = read_samples(out)
    assert [(s.reward, s.answer_class) for s in problem.samples] == [(1.0, 0), (1.0, 0), (0.0, 1), (0.0, None)]
    assert all(sample.verifier for sample in problem.samples)
    monkeypatch.setattr(SymbolicVerifier, "verify", lambda *_: pytest.fail("judged twice"))
    monkeypatch.setattr(SymbolicVerifier, "same", lambda *_: pytest.fail("compared twice"))
    assert call(capsys, "eval", "--samples", out, "--json") == found
    assert call(capsys, "vote", "--samples", out, "--json")["facts"] == found["facts"]


def test_flags_judge_anew_and_the_table_says_who_judged(tmp_path, capsys):
    row = {"prompt": "?", "gold": "4", "completion": "Ergebnis: 4 Euro 20\nErgebnis: 4", "reward": 0.0, "pred": "5"}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row) + "\n", "utf-8")
    assert main(["eval", "--samples", str(path)]) == 0
    assert "Verdicts by: file 1." in capsys.readouterr().out
    found = call(capsys, "eval", "--samples", path, "--mark", "Ergebnis:", "--verifier", "symbolic", "--json")
    assert found["metrics"][0]["value"] == 1.0
    assert "file" not in found["facts"]["judged_by"]


def test_doubts_are_warnings_with_a_count(tmp_path, capsys):
    row = {"prompt": "?", "gold": "first we add 3 and 4 and then we know that the sum must be 7", "completion": ""}
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(row) + "\n", "utf-8")
    assert main(["eval", "--samples", str(path)]) == 0
    out = capsys.readouterr().out
    assert "warning: 1 of 1 gold answers look like worked solutions" in out
    assert "warning: 1 of 1 completions hold no readable answer" in out
    assert len(call(capsys, "vote", "--samples", path, "--json")["warnings"]) == 2


def test_tables_are_for_people(run, capsys):
    assert main(["eval", str(run), "--evaluation.samples_per_prompt", "4"]) == 0
    assert "pass@4" in capsys.readouterr().out
    assert main(["vote", "--samples", str(run / "samples.jsonl"), "--rules", "majority,rank"]) == 0
    out = capsys.readouterr().out
    assert "rank" in out
    assert "ahead of the majority" in out


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["eval"], "nothing to score"),
        (["eval", "nowhere.toml"], "no such file"),
        (["eval", "--samples", "nowhere.jsonl"], "cannot be read"),
        (["vote", "--samples", "{good}", "--k", "0"], "--k = '0'"),
        (["vote", "--samples", "{good}", "--k", "9"], "--k = 9: problem 'a' has 1 samples"),
        (["eval", "--samples", "{good}", "--k", "9"], "--k = 9: problem 'a' has 1 samples"),
        (["vote", "--samples", "{good}", "--window", "0"], "--window = 0"),
        (["eval", "{config}", "--group-by", "key"], "--group-by = 'key': only a samples file needs it"),
        (["eval", "{config}", "--column", "key=id"], "--column = ['key=id']: only a samples file needs it"),
        (["vote", "--samples", "nowhere", "--column", "gold=x"], "--column = 'gold=x': write FIELD=NAME"),
        (["eval", "--samples", "{good}", "--column", "answer=x"], "--column answer=x: no such column (columns: key,"),
        (["eval", "{config}", "--k", "9", "--evaluation.samples_per_prompt", "4"], "--k = 9: evaluation.samples_per"),
        (["vote", "--samples", "{good}", "--rules", "best"], "rules: 'best' is no vote"),
        (["vote", "--samples", "{good}", "--rules", "rank"], "'rank' reads score, which sample 1 of problem 'a'"),
        (["vote", "--samples", "{torn}"], "line 2"),
        (["eval", "--samples", "{torn}"], "line 2"),
        (["eval", "--samples", "{good}", "--confidences"], "--confidences"),
        (["eval", "--samples", "{good}", "--out", "{good}"], "exists; give the name of a new file for the verdicts"),
        (
            ["eval", "--samples", "{good}", "--out", "{good}/verdicts.jsonl"],
            "good.jsonl is a file; choose another folder",
        ),
        (["vote", "--samples", "nowhere", "--mark", ""], "--mark = '': give the text before an answer"),
        (["eval", "{config}", "--verifier", "symbolic"], "--verifier = 'symbolic': only a samples file needs it"),
        (["eval", "{empty}"], "holds no checkpoint"),
    ],
)
def test_a_mistake_is_one_line_with_a_remedy(tmp_path, config, capsys, monkeypatch, argv, words):
    monkeypatch.setattr(VerifierPool, "__init__", lambda *_, **__: pytest.fail("a verdict before the refusal"))
    row = json.dumps({"key": "a", "prompt": "?", "answer": "4", "samples": [{"completion": "#### 4"}]})
    (tmp_path / "good.jsonl").write_text(row + "\n", "utf-8")
    (tmp_path / "torn.jsonl").write_text(row + "\n" + row[:40] + "\n", "utf-8")
    (tmp_path / "empty").mkdir()
    places = {"good": tmp_path / "good.jsonl", "torn": tmp_path / "torn.jsonl", "empty": tmp_path / "empty"}
    places["config"] = config
    assert main([word.format(**places) for word in argv]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert words in line


@pytest.mark.parametrize("flags", [("--quality.judge_ends", "false"), ("--pruning.probe_tokens", "[2,4,6]")])
def test_the_estimator_of_a_run_is_read_as_it_was_trained(run, capsys, flags):
    assert main(["eval", str(run), *flags]) == 2
    assert f"{flags[0].partition('.')[0]}: arrol eval does not use it; leave it out" in capsys.readouterr().err


def test_samples_are_never_overwritten(config, capsys):
    call(capsys, "eval", config, "--json", "--evaluation.samples_per_prompt", "2")
    assert main(["eval", str(config)]) == 2
    assert "exists; score it with --samples" in capsys.readouterr().err
