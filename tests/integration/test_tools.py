"""Files as other tools write them, after the schemas of their own code, read by ``arrol eval`` and ``arrol vote``.

Every writer stores the same two problems with two completions each: the first problem is solved once, the second twice.
"""

import json

import pytest

from arrol.cli.main import main
from arrol.evaluation.samples import read_samples

PROBLEMS = [
    ("2 + 2?", "4", [r"so \boxed{4}", r"so \boxed{5}"]),
    ("3 * 7?", "21", [r"it is \boxed{21}", r"\boxed{21}"]),
]


def lm_eval(folder, chat=False):
    """lm-evaluation-harness, ``--log_samples``: a row per document and filter, and a summary beside the file."""
    rows = []
    for name in ("strict-match", "flexible-extract"):
        for number, (question, gold, texts) in enumerate(PROBLEMS):
            prompt = f"Question: {question}\nAnswer:"
            if chat:
                prompt = [json.dumps([{"role": "user", "content": prompt}])]
            rows.append(
                {
                    "doc_id": number,
                    "doc": {"question": question, "answer": f"because\n#### {gold}"},
                    "target": f"because\n#### {gold}",
                    "arguments": {"gen_args_0": {"arg_0": prompt, "arg_1": {"until": ["Question:"], "temperature": 1}}},
                    "resps": [texts],
                    "filtered_resps": ["[invalid]"],
                    "filter": name,
                    "metrics": ["exact_match"],
                    "doc_hash": "0a",
                    "prompt_hash": "0b",
                    "target_hash": "0c",
                    "exact_match": 0.0,
                }
            )
    lines(folder / "samples_gsm8k_2026-01-01T00-00-00.000000.jsonl", rows)
    (folder / "results_2026-01-01T00-00-00.000000.json").write_text(json.dumps({"results": {}}, indent=2), "utf-8")
    return folder


def lm_eval_chat(folder):
    return lm_eval(folder, chat=True)


def nemo_skills(folder):
    """NeMo-Skills, math evaluation: a file per seed, and metrics.json beside them."""
    for seed in range(2):
        rows = [
            {
                "generation": texts[seed],
                "num_generated_tokens": 7 + seed,
                "finish_reason": "stop",
                "problem": question,
                "expected_answer": gold,
                "predicted_answer": texts[seed].partition("{")[2].strip("}"),
                "symbolic_correct": f"{{{gold}}}" in texts[seed],
            }
            for question, gold, texts in PROBLEMS
        ]
        lines(folder / f"output-rs{seed}.jsonl", rows)
    (folder / "metrics.json").write_text(json.dumps({"math": {"pass@1": {}}}, indent=4), "utf-8")
    return folder


def trl(folder, chat=False):
    """TRL, ``log_completions``: a Parquet file per logged step, texts before 1.16 and chat messages since."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [
        {
            "step": 10,
            "prompt": [{"role": "user", "content": question}] if chat else question,
            "completion": [{"role": "assistant", "content": text}] if chat else text,
            "accuracy_reward": float(f"{{{gold}}}" in text),
            "advantage": 0.0,
        }
        for question, gold, texts in PROBLEMS
        for text in texts
    ]
    path = folder / "completions" / "completions_00010.parquet"
    path.parent.mkdir()
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path.parent


def trl_chat(folder):
    return trl(folder, chat=True)


def opencompass(folder, turns=True):
    """OpenCompass, predictions: an indented object by index; several completions where it samples several."""
    rows = {
        str(number): {
            "origin_prompt": [{"role": "HUMAN", "prompt": question}] if turns else question,
            "prediction": texts,
            "gold": gold,
        }
        for number, (question, gold, texts) in enumerate(PROBLEMS)
    }
    path = folder / "gsm8k.json"
    path.write_text(json.dumps(rows, indent=4, ensure_ascii=False), "utf-8")
    return path


def opencompass_text(folder):
    return opencompass(folder, turns=False)


def old_lighteval(folder):
    """lighteval before 0.11, ``--save-details``: a Parquet file with a flat row per problem."""
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    rows = [
        {
            "example": question,
            "instruction": "",
            "full_prompt": f"Solve: {question}",
            "num_effective_few_shots": 0,
            "num_asked_few_shots": 0,
            "predictions": texts,
            "prediction_logits": [],
            "input_tokens": [[1, 2]],
            "cont_tokens": [[3, 4, 5], [6]],
            "truncated": [0],
            "padded": [0],
            "gold": [gold],
            "pred_logits": [],
            "choices": [],
            "gold_index": [],
            "metrics": {"extractive_match": 0.0},
            "specifics": None,
        }
        for question, gold, texts in PROBLEMS
    ]
    path = folder / "details_math_500_2025-01-01T00-00-00.parquet"
    parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


def spreadsheet(folder):
    """A CSV of one completion per row, whose columns only flags can tell."""
    rows = ["Frage,Ausgabe,Loesung,ok"]
    rows += [f'"{q}","{text}",{gold},{f"{{{gold}}}" in text}' for q, gold, texts in PROBLEMS for text in texts]
    (folder / "a.csv").write_text("\n".join(rows) + "\n", "utf-8")
    return folder / "a.csv"


def lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


TOOLS = (lm_eval, lm_eval_chat, nemo_skills, trl, trl_chat, opencompass, opencompass_text, old_lighteval)
FLAGS = ("--column", "prompt=Frage", "--column", "completion=Ausgabe", "--column", "answer=Loesung")


@pytest.mark.parametrize("write", TOOLS, ids=lambda write: write.__name__)
def test_problems_completions_and_gold_answers_are_found(tmp_path, write):
    problems = read_samples(write(tmp_path))
    assert len(problems) == len(PROBLEMS)
    for problem, (question, gold, texts) in zip(problems, PROBLEMS, strict=True):
        assert question in problem.prompt
        assert [sample.completion for sample in problem.samples] == texts
        assert problem.answer == (None if write in (trl, trl_chat) else gold)


@pytest.mark.parametrize("write", [*TOOLS, spreadsheet], ids=lambda write: write.__name__)
def test_eval_and_vote_read_it(tmp_path, capsys, write):
    path, flags = str(write(tmp_path)), FLAGS if write is spreadsheet else ()
    assert main(["eval", "--samples", path, "--json", *flags]) == 0
    metrics = {row["metric"]: row["value"] for row in json.loads(capsys.readouterr().out)["metrics"]}
    assert metrics["avg@2"] == pytest.approx(0.75)
    assert main(["vote", "--samples", path, "--json", *flags]) == 0
    votes = json.loads(capsys.readouterr().out)["votes"]
    assert {row["vote"] for row in votes} == {"majority", "oracle"}


def test_what_a_tool_counted_is_kept(tmp_path):
    for name in ("nemo", "lighteval", "trl"):
        (tmp_path / name).mkdir()
    (first, second) = read_samples(nemo_skills(tmp_path / "nemo"))
    assert [(s.answer, s.reward, s.num_tokens, s.finish_reason) for s in first.samples] == [
        ("4", 1.0, 7, "stop"),
        ("5", 0.0, 8, "stop"),
    ]
    assert [s.num_tokens for s in read_samples(old_lighteval(tmp_path / "lighteval"))[0].samples] == [3, 1]
    (first, second) = read_samples(trl(tmp_path / "trl"))
    assert [s.reward for s in (*first.samples, *second.samples)] == [1.0, 0.0, 1.0, 1.0]
    assert first.key.endswith("@10")
