r"""Rows of other tools, each as the tool writes it, and what is wrong with broken ones."""

import pytest

from arrol.errors import ConfigError, DataError
from arrol.evaluation.parts import gold_text, number_text, parsed_columns, part_of
from arrol.evaluation.problems import Sample


def part(row):
    return part_of(row, "'f' line 1")


def test_verl():
    row = {"input": "user\nq", "output": "a #### 4", "gts": "4", "score": 1.0, "step": 7, "acc": True, "pred": "4"}
    read = part(row)
    assert read.samples == [Sample("a #### 4", answer="4", reward=1.0)]
    assert (read.prompt, read.gold, read.is_whole, read.has_key) == ("user\nq", "4", False, False)
    assert read.key != part({**row, "step": 8}).key  # another step is another policy
    assert part({**row, "gts": None}).gold is None
    assert part({**row, "gts": ["4", "four"]}).gold == '{"any_of": ["4", "four"]}'
    assert part({**row, "gts": {"target": 3}}).gold == '{"target": 3}'
    del row["step"], row["gts"], row["pred"]
    assert part(row).samples == [Sample("a #### 4", reward=1.0)]


def test_qwen_math():
    row = {
        "idx": 12,
        "question": "q",
        "gt_cot": "so 3",
        "gt": "3",
        "level": "Level 4",
        "answer": "not read",
        "code": ["a", "b"],
        "pred": ["3", "4"],
        "report": [None, None],
        "score": [True, False],
        "pred_score": [[1.5], -2],
    }
    read = part(row)
    assert (read.key, read.prompt, read.gold, read.level, read.is_whole) == ("12", "q", "3", 4, True)
    assert read.samples == [
        Sample("a", answer="3", reward=1.0, score=1.5),
        Sample("b", answer="4", reward=0.0, score=-2.0),
    ]


@pytest.mark.parametrize("names", [("doc", "model_response"), ("__doc__", "__model_response__")])
def test_lighteval(names):
    doc = {"query": "q", "choices": ["#### 3", "4", "no"], "gold_index": [0, 1], "id": "5", "task_name": "gsm8k|0"}
    response = {"text": ["a", "b"], "output_tokens": [[1, 2, 3], []], "logprobs": []}
    read = part({names[0]: doc, names[1]: response, "metric": {"acc": 0.5}})
    assert (read.key, read.prompt, read.gold, read.has_key) == ("5", "q", '{"any_of": ["3", "4"]}', True)
    assert read.samples == [Sample("a", num_tokens=3), Sample("b", num_tokens=0)]
    single = part({names[0]: {**doc, "gold_index": 1, "id": ""}, names[1]: {"text": ["a"]}})
    assert (single.gold, single.has_key, single.samples) == ("4", False, [Sample("a")])


def test_plain_rows_of_lists():
    row = {
        "problem_id": "x",
        "problem": "q",
        "ground_truth": 27.0,
        "responses": ["a", "b"],
        "predictions": [27.0, None],
        "correct": [True, False],
        "scores": [0.5, None],
        "qualities": [0.9, 0.1],
        "completion_tokens": [3, 4],
        "finish_reasons": ["eos", "max_tokens"],
        "logprobs": [[-1, -2], None],
    }
    read = part(row)
    assert (read.key, read.gold) == ("x", "27")
    assert read.samples == [
        Sample("a", "27", 1.0, 0.5, 0.9, 3, "stop", (-1.0, -2.0)),
        Sample("b", None, 0.0, None, 0.1, 4, "length"),
    ]


def test_chat_messages_are_the_text_of_their_contents():
    turns = [{"role": "system", "content": "be brief"}, {"role": "user", "content": [{"type": "text", "text": "q"}]}]
    answer = [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": None, "tool_calls": []}]
    read = part({"messages": turns, "completion": answer, "answer": "1"})
    assert (read.prompt, read.samples, read.is_whole) == ("be brief\nq", [Sample("a")], False)
    read = part({"prompt": turns, "completions": [answer, answer], "answer": "1"})
    assert (read.samples, read.is_whole) == ([Sample("a"), Sample("a")], True)


def test_texts_of_csv_are_numbers_where_numbers_are_due():
    row = {"prompt": "p", "completion": "42", "answer": "4", "reward": "True", "score": "-1.5", "num_tokens": "7"}
    assert part(row).samples == [Sample("42", reward=1.0, score=-1.5, num_tokens=7)]
    assert part({**row, "step": "3", "level": "2"}).level == 2


def test_lm_eval_is_known_by_document_and_prompt():
    row = {"doc_id": 7, "doc": {"problem": "q", "level": "Level 2"}, "target": r"\boxed{3}", "filter": "none"}
    one = part({**row, "resps": [["a"]], "arguments": [["q", {"until": []}]], "filtered_resps": ["a"]})
    assert (one.prompt, one.gold, one.level, one.samples, one.is_whole) == ("q", "3", 2, [Sample("a")], False)
    assert one.key.startswith("7-")
    assert part({**row, "resps": [["a", "b"]]}).key == one.key, "the prompt comes from doc where arguments lack"
    assert part({**row, "resps": [["b"]], "arguments": [["other", {}]]}).key != one.key


def test_of_several_rewards_a_flag_tells_which_says_right():
    row = {"step": 1, "prompt": "p", "completion": "a", "format_reward": 1.0, "accuracy_reward": 0.0, "advantage": 0.1}
    with pytest.raises(DataError) as caught:
        part_of(row, "'a.parquet' row 1")
    assert str(caught.value) == (
        "samples: 'a.parquet' row 1: several columns hold rewards (format_reward, accuracy_reward); "
        "name the one that says right: --column reward=NAME"
    )
    assert part_of(row, "f", {"reward": "accuracy_reward"}).samples == [Sample("a", reward=0.0)]


@pytest.mark.parametrize("gold", [0, 0.0, "0", ["0"], [0]])
@pytest.mark.parametrize("row", [{"full_prompt": "q", "predictions": ["a"]}, {"origin_prompt": "q", "prediction": "a"}])
def test_a_gold_answer_may_be_zero(row, gold):
    assert part({**row, "gold": gold}).gold == "0"


def test_flags_name_columns_in_rows_of_any_tool():
    row = {"Frage": "q", "out": {"choices": [{"text": "a"}, {"text": "b"}]}, "meta": {"gold": 3}, "a.b": "key 1"}
    words = ["prompt=Frage", "completion=out.choices.1.text", "answer=meta.gold", "key=a.b"]
    read = part_of(row, "f", parsed_columns(words))
    assert (read.key, read.prompt, read.gold, read.samples) == ("key 1", "q", "3", [Sample("b")])
    lm_eval = {"doc": {"question": "q", "num": 5}, "resps": [["a"]], "target": "x", "exact_match": 1.0}
    read = part_of(lm_eval, "f", parsed_columns(["answer=doc.num", "reward=exact_match"]))
    assert (read.gold, read.samples) == ("5", [Sample("a", reward=1.0)])
    with pytest.raises(DataError, match=r"samples: f: --column answer=doc\.no: no such column \(columns: doc, resps,"):
        part_of(lm_eval, "f", {"answer": "doc.no"})


@pytest.mark.parametrize("words", [["answer"], ["gold=x"], ["answer="], ["key=a", "key=b"]])
def test_a_column_flag_has_a_known_field_and_a_name(words):
    with pytest.raises(ConfigError, match=r"--column = '.*': write FIELD=NAME, each field once; the fields are comple"):
        parsed_columns(words)


def test_gold_stands_in_front_of_answer():
    read = part({"question": "q", "answer": "raw", "gold": "1", "response": "a"})
    assert (read.gold, read.samples) == ("1", [Sample("a")])
    assert part({"question": "q", "answer": r"so \boxed{\frac{1}{2}}.", "response": "a"}).gold == r"\frac{1}{2}"


@pytest.mark.parametrize(
    ("text", "gold"),
    [("a\n#### 1,012 ", "1,012"), (r"x \boxed{1} \boxed{2}", "2"), (" 3 ", "3"), (r"\boxed{2", r"\boxed{2"), ("", "")],
)
def test_gold_answers_without_their_solutions(text, gold):
    assert gold_text(text) == gold


def test_numbers_as_answers():
    assert [number_text(n) for n in (27.0, 27, 0.5, -0.0, 10**30)] == ["27", "27", "0.5", "0", str(10**30)]


def test_a_row_without_completions_is_refused():
    with pytest.raises(DataError, match=r"line 1: no column holds completions \(columns: prompt, text\); name it"):
        part({"prompt": "p", "text": "t"})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "completions": []}, r"completions = \[\] must be a text, or a list of at least one"),
        ({"prompt": "p", "completion": None}, "completion = None must be a text"),
        ({"prompt": "p", "completions": ["a", 3]}, r"completion 2: completion = 3 must be a text"),
        ({"completion": "a"}, r"no column holds prompts \(columns: completion\); name it: --column prompt=NAME"),
        ({"completion": "a", "prompt": "p"}, r"gold answers or rewards \(columns: completion, prompt\); name it: --"),
        ({"completion": "a", "prompt": [{"role": "user"}]}, "prompt = .* must be a text that is not empty, or a list"),
        ({"doc": {}, "resps": [[["-1.5", "True"]]]}, "resps = .* must be one list of texts; log-likelihoods of"),
        ({"full_prompt": "p", "predictions": "x"}, "predictions = 'x' must be a list of at least one"),
        ({"full_prompt": "p", "predictions": [[-1.5]], "gold": ["1"]}, "completion 1: completion = .* must be a text"),
        ({"prompt": "", "completion": "a"}, "prompt = '' must be a text that is not empty"),
        (
            {"prompt": "p", "completions": ["a", "b"], "rewards": [1]},
            r"rewards = \[1\] has 1 entries for the 2 completions of completions",
        ),
        ({"prompt": "p", "completions": ["a"], "rewards": 1}, "rewards = 1 must be a list of 1, one entry per"),
        ({"prompt": "p", "completions": ["a"], "rewards": ["x"]}, "completion 1: reward = 'x' must be a finite number"),
        ({"prompt": "p", "completion": "a", "gold": True}, "gold = True must be a text, a number, or a list of them"),
        ({"prompt": "p", "completion": "a", "gold": 10**400}, "gold = .* must be a finite number"),
        ({"prompt": "p", "completion": "a", "id": 1.5}, "id = 1.5 must be a whole number from 0"),
        ({"prompt": "p", "completion": "a", "id": [1]}, r"id = \[1\] must"),
        ({"prompt": "p", "completion": "a", "pred": {}}, "answer = {} must be a text"),
        ({"code": ["a"], "gt": "1", "question": "q", "pred": ["1", "2"]}, "pred = .* has 2 entries for the 1"),
        ({"doc": 3, "model_response": {}}, "doc = 3 must be an object"),
        ({"doc": {"query": "q", "choices": ["1"], "gold_index": 1}, "model_response": {}}, "gold_index = 1 must be"),
        ({"doc": {"query": "q", "choices": None, "gold_index": 0}, "model_response": {}}, "gold_index = 0 must be"),
        (
            {"doc": {"query": "q", "choices": ["1"], "gold_index": 0}, "model_response": {"text": []}},
            r"model_response: text = \[\] must be a list of at least one",
        ),
    ],
)  # fmt: skip
def test_broken_rows_are_one_line(row, message):
    with pytest.raises(DataError, match=message) as caught:
        part(row)
    assert str(caught.value).startswith("samples: 'f' line 1")
    assert "\n" not in str(caught.value)
