"""Samples files: what is written is read, rows find together, and every kind of damage is one line with a remedy."""

import json
import math
import re

import pytest

from arrol.errors import ConfigError, DataError
from arrol.evaluation import samples
from arrol.evaluation.samples import Sample, SampledProblem, SampleWriter, read_samples, write_samples
from arrol.types import FinishReason

FULL = Sample(
    completion="It is 4.\n#### 4 \ud800 \u2028 \x00",
    answer="4",
    reward=1.0,
    score=-0.1 + 0.2,
    quality=1 / 3,
    num_tokens=9,
    finish_reason=FinishReason.STOP,
    logprobs=(-0.1, -math.inf, -1e-300),
    confidences=(14.25, 0.0),
)
PROBLEMS = [
    SampledProblem("a", "2 + 2?", "4", (FULL, Sample("It is"), Sample("")), level=3),
    SampledProblem("b", "x\n?", None, (Sample("y", reward=0.0, finish_reason=FinishReason.PRUNED),)),
    SampledProblem("c", "roots?", '{"all_of": ["1", "2"]}', (Sample("1, 2", num_tokens=0),)),
]


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def own(key="a", **fields):
    return {"key": key, "prompt": "p", "answer": "4", "samples": [{"completion": "4"}], **fields}


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "new" / "samples.jsonl"
    write_samples(path, PROBLEMS[:2])
    write_samples(path, PROBLEMS[2:])
    assert read_samples(path) == PROBLEMS
    assert path.read_text("ascii").count("\n") == 3


def test_the_documented_line_is_read(tmp_path):
    line = re.search(r"one such line::\n\n(.*?)\n\n", samples.__doc__, re.DOTALL)[1].replace("\n", " ")
    (problem,) = read_samples(write(tmp_path / "a.jsonl", line))
    assert (problem.key, problem.prompt, problem.answer, problem.level) == ("sums-7", "2 + 2?", "4", 1)
    first, second = problem.samples
    assert first == Sample(
        "It is 4.\n#### 4", "4", 1.0, 1.5, 0.8, 9, FinishReason.STOP, (-0.1, -math.inf), (14.2, 13.9)
    )
    assert second == Sample("It is")


def test_unknown_numbers_are_none_never_nan(tmp_path):
    sample = Sample("x", reward=math.nan, score=math.nan, quality=math.nan)
    assert sample == Sample("x")
    path = write(tmp_path / "a.jsonl", '{"prompt": "p", "gold": "1", "completion": "x", "score": NaN}')
    assert read_samples(path)[0].samples == (Sample("x"),)


def test_numbers_of_numpy_are_written_as_numbers(tmp_path):
    numpy = pytest.importorskip("numpy")
    sample = Sample("x", reward=numpy.float32(0.5), logprobs=numpy.float32([-0.5, -1]))
    write_samples(tmp_path / "a.jsonl", [SampledProblem("a", "p", "1", (sample,))])
    assert read_samples(tmp_path / "a.jsonl")[0].samples == (Sample("x", reward=0.5, logprobs=(-0.5, -1.0)),)


@pytest.mark.parametrize(
    "problem", [SampledProblem("a", "p", "1", ()), SampledProblem("a", "p", "1", (Sample("x", reward=math.inf),))]
)
def test_what_could_not_be_read_is_not_written(tmp_path, problem):
    path = tmp_path / "a.jsonl"
    write_samples(path, PROBLEMS[:1])
    with pytest.raises(DataError, match=r"samples: problem 'a'"):
        write_samples(path, [problem])
    assert read_samples(path) == PROBLEMS[:1]


def test_a_run_that_was_killed_continues(tmp_path):
    path = tmp_path / "a.jsonl"
    write_samples(path, PROBLEMS[:2])
    whole = path.read_bytes()
    path.write_bytes(whole[:-20])
    with pytest.raises(DataError, match=r"line 2 is not JSON .*ends in the middle.*let the run that wrote it resume"):
        read_samples(path)
    with SampleWriter(path) as writer:
        writer.write(PROBLEMS[1])
    assert path.read_bytes() == whole
    path.write_bytes(whole[:-1])  # a whole row whose newline is missing is kept
    assert read_samples(path) == PROBLEMS[:2]
    write_samples(path, PROBLEMS[2:])
    assert read_samples(path) == PROBLEMS


def test_rows_of_one_completion_find_together(tmp_path):
    rows = [
        {"id": n % 3, "prompt": f"p{n % 3}", "answer": n % 3, "completion": f"c{n}", "reward": n % 2 == 0}
        for n in range(7)
    ]
    problems = read_samples(write(tmp_path / "a.jsonl", *rows))
    assert [problem.key for problem in problems] == ["0", "1", "2"]
    assert [sample.completion for sample in problems[0].samples] == ["c0", "c3", "c6"]
    assert [sample.reward for sample in problems[0].samples] == [1.0, 0.0, 1.0]
    assert [problem.answer for problem in problems] == ["0", "1", "2"]


def test_rows_without_a_key_are_grouped_by_prompt(tmp_path):
    rows = [{"prompt": f"p{n % 2}", "gold": "1", "completion": f"c{n}"} for n in range(4)]
    path = write(tmp_path / "a.jsonl", *rows)
    assert [len(problem.samples) for problem in read_samples(path)] == [2, 2]
    assert read_samples(path, group_by="prompt") == read_samples(path)
    with pytest.raises(DataError, match=r"line 1: key = \(missing\): cannot group by it; group by prompt"):
        read_samples(path, group_by="key")


def test_keys_of_completions_can_be_overruled(tmp_path):
    path = write(tmp_path / "a.jsonl", *({"id": n, "prompt": "p", "gold": "1", "completion": "c"} for n in range(4)))
    assert len(read_samples(path)) == 4
    assert [len(problem.samples) for problem in read_samples(path, group_by="prompt")] == [4]
    with pytest.raises(ConfigError, match="group_by: 'row' is unknown; choose key or prompt"):
        read_samples(path, group_by="row")


def test_completions_of_a_training_step_without_a_reward_are_left_out_and_counted(tmp_path):
    rows = [
        {"step": 1, "prompt": "p", "completion": f"c{n}", "len_reward": reward, "advantage": 0.0}
        for n, reward in enumerate([1.0, None, 0.0, None])
    ]
    notes = []
    (problem,) = read_samples(write(tmp_path / "a.jsonl", *rows), notes=notes)
    assert [sample.completion for sample in problem.samples] == ["c0", "c2"]
    assert notes == ["2 completions without a reward, such as stopped rollouts, are left out"]


def test_rows_in_several_variants_are_read_once(tmp_path):
    rows = [
        {"doc_id": 0, "doc": {"question": "q"}, "target": "1", "resps": [["a"]], "filter": name} for name in ("x", "y")
    ]
    write(tmp_path / "samples_a.jsonl", *rows)
    write(tmp_path / "samples_b.jsonl", *rows[1:])
    (problem,) = read_samples(tmp_path)
    assert len(problem.samples) == 2  # one from each file


def test_summaries_beside_the_samples_are_not_read(tmp_path):
    for name in ("results_2026.json", "metrics.json"):
        write(tmp_path / name, {"results": {}})
    with pytest.raises(DataError, match="holds no"):
        read_samples(tmp_path)
    write(tmp_path / "a.jsonl", own())
    assert len(read_samples(tmp_path)) == 1


def test_json_parquet_and_jsonl_read_alike(tmp_path):
    import pyarrow
    from pyarrow import parquet

    rows = [
        {"key": "a", "prompt": "p", "gold": "1", "completions": ["x", "y"], "rewards": [1.0, None], "level": 2},
        {"key": "b", "prompt": "q", "gold": "2", "completions": ["z"], "rewards": None, "level": None},
    ]
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text(json.dumps(rows, indent=1))
    expected = [
        SampledProblem("a", "p", "1", (Sample("x", reward=1.0), Sample("y")), 2),
        SampledProblem("b", "q", "2", (Sample("z"),)),
    ]
    for path in (write(tmp_path / "a.jsonl", *rows), tmp_path / "a.json", tmp_path / "a.parquet"):
        assert read_samples(path) == expected


def test_a_folder_is_read_in_the_order_of_its_numbers(tmp_path):
    for number in (10, 9, 1):
        write(tmp_path / f"{number}.jsonl", own(str(number)))
    write(tmp_path / "notes.txt", "not samples")
    assert [problem.key for problem in read_samples(tmp_path)] == ["1", "9", "10"]
    write(tmp_path / "11.jsonl", own("9"))
    with pytest.raises(DataError, match=r"11.jsonl' line 1: key = '9': also on '.*9.jsonl' line 1; give"):
        read_samples(tmp_path)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "is empty; give a file with at least one row"),
        (["", " "], "is empty"),
        (["{"], r"is not JSON \(Expecting.*; mend or remove that line"),
        ([own(), '{"key": "b", "pro'], "line 2 is not JSON"),
        (["[" * 100_000], r"line 1 is not JSON \(it is nested too deep\); remove that line"),
        (['{"key": "a", "level": ' + "9" * 5_000 + "}"], r"line 1 is not JSON \(Exceeds the limit"),
        (["3"], "line 1 is a number; every line must be an object with named columns"),
        (["null"], "line 1 is null"),
        (["[]"], "is empty"),
        ([own(), "[]"], "line 2 is a list"),
        ([{"prompt": "p"}], r"line 1: no column holds completions \(columns: prompt\); name it: --column"),
        ([{}], "no column holds completions"),
        ([own(), own()], r"line 2: key = 'a': also on '.*' line 1; give each problem one row and one key"),
        ([own(key=None)], r"line 1: key = None must be a text that is not empty; mend or remove that row"),
        ([own(key="")], "key = '' must be a text that is not empty"),
        ([own(prompt=3)], "prompt = 3 must be a text"),
        ([own(answer=4)], "answer = 4 must be a text"),
        ([own(level=-1)], "level = -1 must be a whole number from 0"),
        ([own(level=2**53)], "level = 9007199254740992 must be a whole number from 0"),
        ([own(level=10**30)], "level = .* must be a whole number from 0"),
        ([own(level=10**400)], "level = an integer of more than 60 digits must be a whole number from 0"),
        ([own(level="3")], "level = '3' must be a whole number from 0"),
        ([own(samples=[])], r"samples = \[\] must be a list of one object or more, each with a completion"),
        ([own(samples="x")], "samples = 'x' must be a list"),
        ([own(samples=["x"])], r"samples = \['x'\] must be a list of one object or more"),
        ([own(prompts=1)], "line 1: 'prompts': unknown field; rename it to one of key, prompt"),
        ([own(samples=[{"completion": "x", "rewrad": 1}])], "line 1, sample 1: 'rewrad': unknown field"),
        ([own(samples=[{"reward": 1.0}])], r"sample 1: completion = \(missing\) must be given"),
        ([own(samples=[{"completion": "x", "reward": "1"}])], "reward = '1' must be a finite number"),
        (['{"key":"a","prompt":"p","samples":[{"completion":"x","reward":1e999}]}'], "reward = inf must be a finite"),
        ([own(samples=[{"completion": "x", "quality": 1.5}])], r"quality = 1.5 must be a number in \[0, 1\]"),
        ([own(samples=[{"completion": "x", "num_tokens": 1.5}])], "num_tokens = 1.5 must be a whole number from 0"),
        ([own(samples=[{"completion": "x", "num_tokens": True}])], "num_tokens = True must be a whole number"),
        ([own(samples=[{"completion": "x", "finish_reason": "tired"}])], "finish_reason = 'tired' must be one of stop"),
        ([own(samples=[{"completion": "x", "logprobs": "no"}])], "logprobs = 'no' must be a list of numbers"),
        ([own(samples=[{"completion": "x", "logprobs": [1, "x"]}])], "logprobs = .* must be a list of numbers"),
        ([own(samples=[{"completion": "x", "probe_qualities": [[4, 2]]}])], "must be a list of pairs"),
        (
            [{"id": 1, "prompt": prompt, "gold": "1", "completion": "x"} for prompt in "pq"],
            "line 2: prompt = 'q' differs from .* line 1 with the same key '1'; give different problems different keys",
        ),
        (
            [{"prompt": "p", "gold": "1", "completion": "x"}, {"prompt": "p", "gold": "2", "completion": "x"}],
            "line 2: gold answer = '2' differs from",
        ),
    ],
)  # fmt: skip
def test_damage_is_one_line_that_names_file_line_and_remedy(tmp_path, rows, message):
    path = write(tmp_path / "damaged.jsonl", *rows)
    before = path.read_bytes()
    with pytest.raises(DataError, match=message) as caught:
        read_samples(path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("samples: ")
    assert "damaged.jsonl" in str(caught.value)
    assert len(str(caught.value)) < 400
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"a": "\xff"}\n', r"line 1 is not JSON \(byte 8 is not UTF-8\); convert the file to UTF-8"),
        ("a.json", b"{}", r"line 1: no column holds completions \(columns: \)"),
        ("a.json", b"[{}", "is not JSON"),
        ("a.json", b"[3]", "row 1 is a number"),
        ("a.json", b"", "is empty"),
        ("a.parquet", b"PAR1 not really", r"cannot be read \(.*\); write the Parquet file again"),
        ("a.parquet", b"", "cannot be read"),
    ],
)
def test_damaged_files_of_other_kinds(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_samples(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_byte_order_mark_is_no_damage(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + json.dumps(own()).encode() + b"\r\n")
    assert read_samples(tmp_path / "a.jsonl")[0].key == "a"


def test_files_that_are_not_there(tmp_path):
    for name in ("no.jsonl", "no.json", "no.parquet", "no"):
        with pytest.raises(DataError, match=rf"{name}' cannot be read \(.*\); give a file, or a folder of files"):
            read_samples(tmp_path / name)
    with pytest.raises(DataError, match=r"holds no \.jsonl, \.json, \.csv, \.tsv, \.parquet file"):
        read_samples(tmp_path)
