"""Files in, prompts out: columns, formats, order, the split, and one line for every mistake."""

import json
import os
from pathlib import Path

import pytest

from arrol.errors import ConfigError, DataError, ModelError
from arrol.tasks import dataset
from arrol.tasks.dataset import DatasetTask
from arrol.verifiers.functions import RewardFunction
from arrol.verifiers.integer import IntegerVerifier
from arrol.verifiers.judge import RewardJudge
from arrol.verifiers.symbolic import SymbolicVerifier


def write(path, records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return str(path)


def sums(count, start=0):
    return [{"question": f"{n}+{n}?", "answer": f"{n} and {n}\n#### {2 * n:,}"} for n in range(start, start + count)]


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "train.jsonl", sums(40))
    write(tmp_path / "test.jsonl", sums(10, start=1_000))
    return str(tmp_path)


def make(tokenizer, source, **fields):
    return DatasetTask(tokenizer, source=source, **{"answer_format": "gsm8k", **fields})


def test_a_row_becomes_a_prompt(tokenizer, folder):
    task = make(tokenizer, folder)
    prompt = task.eval_prompts(1)[0]
    assert (prompt.text, prompt.answer, prompt.solution) == ("1000+1000?", "2,000", "1000 and 1000\n#### 2,000")
    assert prompt.token_ids == tuple(tokenizer.encode(prompt.text))
    assert task.verify(prompt, "it is\n#### 2000").reward == 1.0
    assert task.verify(prompt, "it is \\boxed{2001}").reward == 0.0
    assert isinstance(task.verifier, SymbolicVerifier)


def test_every_epoch_visits_every_row_once_in_another_order_and_positions_resume(tokenizer, folder):
    task = make(tokenizer, folder, seed=3)
    epochs = [[task.train_prompt(epoch * 40 + index).key for index in range(40)] for epoch in range(3)]
    assert all(set(epoch) == set(epochs[0]) and len(set(epoch)) == 40 for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    resumed = make(tokenizer, folder, seed=3)
    assert [resumed.train_prompt(position).key for position in (79, 5, 119, 40)] == [
        epochs[1][39],
        epochs[0][5],
        epochs[2][39],
        epochs[1][0],
    ]
    assert [make(tokenizer, folder, seed=4).train_prompt(index).key for index in range(40)] != epochs[0]


def test_a_single_file_sets_rows_aside_and_never_trains_on_them(tokenizer, tmp_path):
    path = write(tmp_path / "all.jsonl", sums(300))
    task = make(tokenizer, path)
    asked = {prompt.key for prompt in task.eval_prompts(1_000)}
    trained = {task.train_prompt(position).key for position in range(300)}
    assert not asked & trained
    assert len(asked) + len(trained) == 300
    assert 5 < len(asked) < 40
    assert make(tokenizer, path, seed=9).eval_prompts(3) == task.eval_prompts(3)


def test_a_folder_without_the_eval_split_sets_rows_aside(tokenizer, tmp_path):
    write(tmp_path / "train-00000-of-00002.jsonl", sums(100))
    write(tmp_path / "train-00001-of-00002.jsonl", sums(100, start=100))
    task = make(tokenizer, str(tmp_path))
    assert len(task.train_rows) + len(task.eval_rows) == 200


def test_questions_that_are_evaluated_are_not_trained_on(tokenizer, tmp_path):
    train, test = write(tmp_path / "a.jsonl", sums(20)), write(tmp_path / "b.jsonl", sums(20, start=15))
    assert len(make(tokenizer, train, eval_source=test).train_rows) == 15
    with pytest.raises(DataError, match=r"source: every row of .* is also evaluated"):
        make(tokenizer, train, eval_source=train)


def test_an_empty_split_trains_on_nothing_and_evaluates_everything(tokenizer, tmp_path, folder):
    task = make(tokenizer, folder, split="")
    assert [prompt.answer for prompt in task.eval_prompts(100)] == [f"{2 * n:,}" for n in range(1_000, 1_010)]
    with pytest.raises(DataError, match="split: '' leaves nothing to train on; name the split to train on"):
        task.train_prompt(0)
    single = make(tokenizer, write(tmp_path / "all.jsonl", sums(30)), split="")
    assert len(single.eval_prompts(100)) == 30


def test_nothing_set_aside_is_said_when_it_is_asked_for(tokenizer, tmp_path):
    task = make(tokenizer, write(tmp_path / "few.jsonl", sums(2)))
    with pytest.raises(DataError, match=r"eval_source: no row is set aside from 2 rows"):
        task.eval_prompts(1)


def test_parquet_json_and_jsonl_read_alike(tokenizer, tmp_path):
    import pyarrow
    from pyarrow import parquet

    records = sums(30)
    (tmp_path / "a.json").write_text(json.dumps(records), encoding="utf-8")
    parquet.write_table(pyarrow.Table.from_pylist(records), tmp_path / "a.parquet")
    paths = [write(tmp_path / "a.jsonl", records), str(tmp_path / "a.json"), str(tmp_path / "a.parquet")]
    tasks = [make(tokenizer, path) for path in paths]
    assert tasks[0].train_rows == tasks[1].train_rows == tasks[2].train_rows


def test_dotted_columns_message_lists_and_duplicates_as_in_dapo_math(tokenizer, tmp_path):
    def row(n):
        return {"prompt": [{"role": "user", "content": f"what is {n}?"}], "reward_model": {"ground_truth": str(n)}}

    path = write(tmp_path / "dapo.jsonl", [row(n) for n in range(20)] * 3)
    fields = {"prompt_column": "prompt", "answer_column": "reward_model.ground_truth", "answer_format": "plain"}
    assert len(make(tokenizer, path, **fields).train_rows) % 3 == 0
    task = make(tokenizer, path, deduplicate=True, **fields)
    assert len(task.train_rows) + len(task.eval_rows) == 20
    assert [row.question for row in task.train_rows] == sorted(
        (row.question for row in task.train_rows), key=lambda q: int(q[8:-1])
    )
    prompt = task.train_prompt(0)
    assert prompt.text.startswith("what is ")
    assert prompt.key == make(tokenizer, path, deduplicate=True, **fields).train_prompt(0).key


def test_templates(tokenizer, tmp_path):
    path = write(
        tmp_path / "a.jsonl", [{"question": "2{x}?", "answer": 4.0}] * 1 + [{"question": "b", "answer": 5}] * 40
    )
    with_chat = type(tokenizer)(chat_template="...")

    def text(kind, template):
        task = DatasetTask(kind, source=path, template=template, eval_source=write(tmp_path / "e.jsonl", sums(1)))
        return next(task._prompt(row) for row in task.train_rows if row.question == "2{x}?")

    assert text(tokenizer, "plain").text == "2{x}?"
    assert text(tokenizer, "plain").answer == "4"
    assert text(tokenizer, "qa").text == "Question: 2{x}?\nAnswer:"
    assert text(tokenizer, "qwen-boxed").text.startswith("2{x}?\nPlease reason step by step, and put")
    assert text(tokenizer, "qwen-boxed").text.endswith("\\boxed{}.")
    chat = text(with_chat, "chat")
    assert chat.text == "<user>2{x}?</><assistant>"
    assert chat.token_ids == tuple(tokenizer.encode(chat.text, add_special_tokens=False))
    assert "\\boxed{}.</><assistant>" in text(with_chat, "chat-boxed").text
    with pytest.raises(ModelError, match=r"no chat template for template 'chat'; use template 'plain'"):
        text(tokenizer, "chat")
    with pytest.raises(ConfigError, match="template: 'other' is unknown"):
        text(tokenizer, "other")


def test_boxed_answers_choose_the_symbolic_verifier(tokenizer, tmp_path):
    path = write(
        tmp_path / "m.jsonl",
        [{"problem": f"p{n}", "solution": f"so \\boxed{{\\frac{{{n}}}{{7}}}}."} for n in range(40)],
    )
    task = DatasetTask(tokenizer, source=path, answer_format="boxed")
    assert isinstance(task.verifier, SymbolicVerifier)
    prompt = task.train_prompt(0)
    assert prompt.answer.startswith("\\frac{")
    assert task.verify(prompt, prompt.solution).reward == 1.0
    task.close()
    with pytest.raises(DataError, match=r"verifier: gold answer .* is not an integer; choose verifier 'symbolic'"):
        DatasetTask(tokenizer, source=path, answer_format="boxed", verifier="integer")


def test_presets_read_their_hub_name_split_and_columns(tokenizer, monkeypatch):
    asked = []

    def load_dataset(name, subset, *, split):
        asked.append((name, subset, split))
        if "DAPO" in name:
            row = {"prompt": [{"role": "user", "content": "q"}], "reward_model": {"ground_truth": "34"}}
            return [row] * 5 + [{**row, "prompt": [{"role": "user", "content": "r"}]}]
        return [{"problem": "p", "answer": "033", "level": 4}]

    import datasets

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = DatasetTask(tokenizer, source="dapo-math-17k", eval_source="aime24")
    assert asked == [("BytedTsinghua-SIA/DAPO-Math-17k", None, "train"), ("HuggingFaceH4/aime_2024", None, "train")]
    assert [row.question for row in task.train_rows] == ["q", "r"]
    prompt = task.eval_prompts(30)[0]
    assert (prompt.answer, prompt.level) == ("033", 4)
    assert task.verify(prompt, "Answer: $33$").reward == 1.0


def test_problems_with_several_answers_are_verified(tokenizer, tmp_path):
    rows = [
        {"question": f"roots {n}?", "final_answer": [f"${n}$, $-{n}$"], "is_multiple_answer": True, "context": None}
        for n in range(1, 4)
    ]
    task = DatasetTask(tokenizer, source=write(tmp_path / "o.jsonl", rows), split="")
    prompt = task.eval_prompts(3)[2]
    assert prompt.text == "roots 3?"
    assert task.verify(prompt, "so \\boxed{-3, 3}").reward == 1.0
    assert task.verify(prompt, "so \\boxed{3}").reward == 0.0
    task.close()


def test_the_gsm8k_preset_has_a_subset_and_two_splits(tokenizer, monkeypatch):
    asked = []

    def load_dataset(name, subset, *, split):
        asked.append((name, subset, split))
        return sums(5, start=0 if split == "train" else 100)

    import datasets

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    task = DatasetTask(tokenizer, source="gsm8k")
    assert asked == [("openai/gsm8k", "main", "train"), ("openai/gsm8k", "main", "test")]
    assert len(task.train_rows) == len(task.eval_rows) == 5


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            FileNotFoundError("Dataset 'a/b' doesn't exist\nmore"),
            r"source: 'a/b' split 'train' cannot be loaded \(Dataset",
        ),
        (ValueError('Unknown split "train"'), "give a local file or folder"),
        (ConnectionError("offline"), "offline"),
        (OSError(""), r"cannot be loaded \(OSError\)"),
    ],
)
def test_a_hub_that_fails_is_one_line(tokenizer, monkeypatch, error, message):
    def load_dataset(name, subset, *, split):
        raise error

    import datasets

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    with pytest.raises(DataError, match=message) as caught:
        DatasetTask(tokenizer, source="a/b")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("records", "fields", "message"),
    [
        ([], {}, r"source: .* is empty; give a file with at least one row"),
        (
            [{"a": 1, "b": 2}],
            {},
            r"prompt_column: not given and none of prompt, question, problem, .* exists; available: a, b",
        ),
        ([{"question": "q", "b": 2}], {}, r"answer_column: not given .* available: question, b"),
        (
            sums(1),
            {"prompt_column": "text"},
            r"prompt_column: 'text' is not in .*a.jsonl' line 1; available: question, answer",
        ),
        (
            sums(1),
            {"answer_column": "a.b"},
            r"answer_column: 'a.b' is not in .*a.jsonl' line 1; available: question, answer",
        ),
        ([{"question": "q", "answer": "12"}], {}, r"answer_column: .*a.jsonl' line 1 holds '12', not format 'gsm8k'"),
        (
            [{"question": "q", "answer": None}],
            {},
            r"answer_column: .*a.jsonl' line 1 holds 'None'; it must be a text or a number, or a list",
        ),
        ([{"question": " ", "answer": "1"}], {}, r"prompt_column: .*a.jsonl' line 1 holds ' '; it must be text"),
        ([{"question": [], "answer": "1"}], {}, r"prompt_column: .*a.jsonl' line 1 holds '\[\]'"),
        (sums(1), {"answer_format": "other"}, r"answer_format: 'other' is unknown; choose from gsm8k, boxed, plain"),
        (sums(40), {"verifier": "other"}, r"verifier: 'other' is unknown; choose integer or symbolic"),
    ],
)
def test_mistakes_are_one_line(tokenizer, tmp_path, records, fields, message):
    with pytest.raises((DataError, ConfigError), match=message) as caught:
        make(tokenizer, write(tmp_path / "a.jsonl", records), **fields)
    assert "\n" not in str(caught.value)


def test_a_local_copy_has_the_columns_of_its_preset(tokenizer, tmp_path):
    row = {"prompt": "raw", "Body": "Ann has 3 eggs", "Question": "How many?", "answer": "raw", "Answer": 3.0}
    path = write(tmp_path / "test.jsonl", [row])
    assert make(tokenizer, path, split="", answer_format=None).eval_rows[0].question == "raw"
    task = make(tokenizer, path, split="", answer_format=None, preset="SVAMP")
    assert (task.eval_rows[0].question, task.eval_rows[0].answer) == ("Ann has 3 eggs. How many?", "3")
    named = make(tokenizer, path, split="", answer_format=None, preset="SVAMP", answer_column="answer")
    assert named.eval_rows[0].answer == "raw"
    rows = [{"prompt": f"q{n % 20}", "reward_model": {"ground_truth": "1"}} for n in range(60)]
    task = make(tokenizer, write(tmp_path / "dapo.jsonl", rows), answer_format=None, preset="dapo-math-17k")
    assert len(task.train_rows) + len(task.eval_rows) == 20


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe{}", b"[1, 2]\n", b"3\n"])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".parquet"])
def test_damaged_files_are_one_line(tokenizer, tmp_path, content, suffix):
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match="source: ") as caught:
        make(tokenizer, str(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["missing.jsonl", "./missing", "missing", "a/b/c", "/no/where"])
def test_a_source_that_is_nowhere_is_not_looked_for_on_the_hub(tokenizer, source):
    with pytest.raises(
        DataError, match=r"source: '.*' is no file or folder; give a path, owner/name on the hub, or one of"
    ):
        make(tokenizer, source)


def test_a_missing_training_split_names_what_is_there(tokenizer, folder):
    with pytest.raises(DataError, match=r"split: 'dev' is not in .*; the folder holds test.jsonl, train.jsonl"):
        make(tokenizer, folder, split="dev")


def shared_data(name):
    """A folder of the shared data, or a skip that says where it was looked for."""
    root = Path(os.environ.get("ARROL_DATA") or Path(__file__).parents[3].parent / "shared" / "data")
    if not (root / name).is_dir():
        pytest.skip(f"{name}: no such folder in {root}; set ARROL_DATA to the folder that holds it")
    return str(root / name)


def test_all_8792_gold_answers_of_gsm8k_verify_against_themselves(tokenizer):
    task = DatasetTask(tokenizer, source=shared_data("gsm8k"), answer_format="gsm8k", verifier="integer")
    assert (len(task.train_rows), len(task.eval_rows)) == (7_473, 1_319)
    verifier = IntegerVerifier()
    for row in [*task.train_rows, *task.eval_rows]:
        assert task.verifier.verify(row.solution, row.answer).reward == 1.0
        assert verifier.verify(row.answer, row.answer).reward == 1.0
        assert verifier.verify(row.solution + "1", row.answer).reward == 0.0
    assert task.train_prompt(7_473 * 3 + 5).solution.endswith(task.train_prompt(7_473 * 3 + 5).answer)


def test_a_sample_of_gsm8k_verifies_symbolically(tokenizer):
    task = DatasetTask(tokenizer, source=shared_data("gsm8k"), answer_format="gsm8k", verifier="symbolic")
    for row in task.eval_rows[::20]:
        assert task.verifier.verify(row.solution, row.answer).reward == 1.0
        assert task.verifier.verify(f"\\boxed{{{row.answer}.0}}", row.answer).reward == 1.0
        assert task.verifier.verify(f"\\boxed{{{row.answer}1}}", row.answer).reward == 0.0
    task.close()


def test_amc23_answers_are_integers(tokenizer, tmp_path):
    source = str(Path(shared_data("amc23")) / "test.jsonl")
    task = DatasetTask(
        tokenizer,
        source=write(tmp_path / "a.jsonl", sums(20)),
        eval_source=source,
        answer_format="plain",
        verifier=None,
    )
    assert len(task.eval_prompts(100)) == 40
    assert task.eval_prompts(1)[0].answer == "27"


def test_the_module_needs_no_hub_package_to_load():
    assert "datasets" not in vars(dataset)


def test_verdicts_may_run_beside_generation(tokenizer, folder):
    task = make(tokenizer, folder)
    prompt = task.eval_prompts(1)[0]
    assert task.submit(prompt, "it is\n#### 2000")() == task.verify(prompt, "it is\n#### 2000")
    symbolic = make(tokenizer, folder, verifier="symbolic")
    assert symbolic.submit(prompt, "it is \\boxed{2000}")().reward == 1.0
    assert symbolic._pool.num_workers >= 1
    symbolic.close()


def exact(completions, prompts, gold, completion_ids, **columns):
    ASKED.append((prompts, completions, completion_ids, columns))
    return [float(text == answer) for text, answer in zip(completions, gold, strict=True)]


ASKED = []


def rewarded(tokenizer, source, call=exact, **fields):
    return DatasetTask(tokenizer, source=source, reward=RewardJudge([RewardFunction("m:f", call)]), **fields)


def test_a_reward_function_needs_no_answer_column_and_gets_every_column(tokenizer, tmp_path):
    rows = [{"question": f"{n}?", "gold": str(n), "tags": [n], **({"extra": n} if n % 2 else {})} for n in range(40)]
    task = rewarded(tokenizer, write(tmp_path / "a.jsonl", rows))
    ASKED.clear()
    prompt = next(p for p in map(task.train_prompt, range(40)) if p.text == "4?")
    assert prompt.answer == ""
    pending = [task.submit(prompt, "4", (7, 8)), task.submit(prompt, "5")]
    assert [wait().reward for wait in pending] == [1.0, 0.0]
    assert task.verify(prompt, "4").success == 1.0
    prompts, completions, ids, columns = ASKED[0]
    assert (prompts, completions) == (["4?"] * 2, ["4", "5"])
    assert ids == [[7, 8], tokenizer.encode("5", add_special_tokens=False)]
    assert columns == {"question": ["4?"] * 2, "tags": [[4]] * 2, "extra": [None] * 2}
    task.close()


def test_an_answer_is_kept_as_it_stands_where_a_function_judges(tokenizer, tmp_path):
    rows = [{"question": "a", "answer": "no number #### at all"}, {"question": "b", "answer": 3}]
    rows += [{"question": "c", "answer": [1, 2]}, {"question": "d"}]
    task = rewarded(tokenizer, write(tmp_path / "a.jsonl", rows), lambda completions: [1.0], split="")
    assert [prompt.answer for prompt in task.eval_prompts(4)] == ["no number #### at all", "3", "", ""]
    dotted = [{"question": "a", "info": {"solution": "7"}}]
    task = rewarded(
        tokenizer, write(tmp_path / "b.jsonl", dotted), lambda completions: [1.0], split="",
        answer_column="info.solution",
    )  # fmt: skip
    assert task.eval_prompts(1)[0].answer == "7"


def test_chat_data_reach_a_function_as_messages(tokenizer, tmp_path):
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    path = write(tmp_path / "a.jsonl", [{"prompt": messages, "gold": "x"}])
    task = rewarded(type(tokenizer)(chat_template="..."), path, split="")
    ASKED.clear()
    task.verify(task.eval_prompts(1)[0], "yes")
    prompts, completions, *_ = ASKED[0]
    assert prompts == [messages]
    assert completions == [[{"role": "assistant", "content": "yes"}]]


def test_a_function_that_needs_another_column_is_refused(tokenizer, tmp_path):
    path = write(tmp_path / "a.jsonl", [{"question": "q", "answer": "1"}] * 3)
    with pytest.raises(ConfigError, match=r"task.reward = 'm:f': needs 'gold', which is no column of the data"):
        rewarded(tokenizer, path, split="")


def test_another_preset_to_evaluate_on_has_its_columns_for_a_reward_too(tokenizer, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets, "load_dataset", lambda *args, split: [{"problem": "p", "answer": "033"}])
    path = write(tmp_path / "a.jsonl", [{"question": "q", "answer": "1"}])
    task = rewarded(tokenizer, path, lambda prompts, completions, answer, **c: [len(answer[0])], eval_source="aime24")
    (prompt,) = task.eval_prompts(1)
    assert (prompt.text, prompt.answer) == ("p", "033")
    assert task.verify(prompt, "x").reward == 3.0
