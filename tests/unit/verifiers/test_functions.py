"""Import paths, the calling convention of TRL, and one line for every mistake."""

import math
import sys

import numpy as np
import pytest

from arrol.errors import ConfigError, DataError
from arrol.verifiers.functions import Failure, RewardFunction, Submission, called, load_functions
from unit.verifiers import reward_module


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A folder with a module, which the process forgets afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    yield reward_module.write(tmp_path)
    for name in [name for name, module in sys.modules.items() if str(tmp_path) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]


def submission(text, key="k", **cells):
    return Submission(key, {"prompt": "2+2?", "gold": "4", **cells}, text, (5, 6, 7)[: len(text)])


def load(path, folder):
    return load_functions([path], folder=folder)[0]


def of(call):
    return RewardFunction("m:f", call, name="f")


def values(call, *completions):
    return called(of(call), [submission(one, key=str(n)) for n, one in enumerate(completions)], None)


def test_a_module_beside_the_config_is_found_and_its_function_called(folder):
    function = load("rewards_of_tests:right", folder)
    assert (function.path, function.name, function.weight) == ("rewards_of_tests:right", "right", 1.0)
    assert called(function, [submission("4"), submission("5")], None) == [1.0, 0.0]
    assert load("rewards_of_tests:judge", folder).call(completions=["a"]) == [0.5]


def test_a_module_in_the_working_directory_is_found_but_the_one_beside_the_config_goes_first(
    folder, tmp_path, monkeypatch
):
    other = tmp_path / "elsewhere"
    other.mkdir()
    monkeypatch.chdir(tmp_path)
    assert load("rewards_of_tests:right", None).call(completions=["4"], gold=["4"]) == [1.0]
    reward_module.write(other, text="def right(completions, **columns): return [7.0]")
    assert load("rewards_of_tests:right", str(other)).call(completions=["4"]) == [7.0]


def test_a_file_beside_the_config_takes_the_name_of_no_module_that_others_use(folder, tmp_path):
    """A module that was not loaded for a reward stays what it is, even where a file has its name."""
    reward_module.write(tmp_path, "difflib", "def right(completions, **columns): return [7.0]")
    with pytest.raises(ConfigError, match=r"difflib \(.*difflib.py\) has no 'right'"):
        load("difflib:right", folder)
    assert "get_close_matches" in vars(sys.modules["difflib"])


def test_an_installed_module_is_found_and_the_search_path_keeps_its_order(folder):
    before = list(sys.path)
    assert load("arrol.integrations.rewards:integer_reward", folder).call(completions=["#4"], answer=["4"]) == [1.0]
    assert sys.path[: len(before)] == before, "what a module beside the config is called shadows nothing afterwards"
    assert folder in sys.path, "but what a function imports later is found"


def test_a_module_may_import_its_neighbours_and_print(folder, tmp_path, capsys):
    (tmp_path / "helper_of_rewards.py").write_text("ONE = 1.0", "utf-8")
    text = "import helper_of_rewards\nprint('hello')\ndef f(completions, **c): return [helper_of_rewards.ONE]"
    reward_module.write(tmp_path, "with_neighbour", text)
    assert load("with_neighbour:f", folder).call(completions=["a"]) == [1.0]
    assert capsys.readouterr() == ("", "hello\n")


def test_two_functions_of_one_name_are_told_apart(folder, tmp_path):
    reward_module.write(tmp_path, "others")
    found = load_functions(["rewards_of_tests:right", "others:right", "others:length"], [1.0, 2.0, 0.5], folder)
    assert [function.name for function in found] == ["rewards_of_tests_right", "others_right", "length"]
    assert [function.weight for function in found] == [1.0, 2.0, 0.5]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing", r"= 'nothing': not module:function; write for example my_rewards:reward$"),
        ("rewards_of_tests.py:right", r"not module:function; write for example rewards_of_tests:right$"),
        ("a/b:right", r"not module:function"),
        (":right", r"not module:function"),
        ("rewards_of_tests:", r"write for example rewards_of_tests:reward"),
        (
            "absent_module:right",
            r"no module 'absent_module' in '.*', and none is installed; put absent_module.py beside",
        ),
        ("absent.deep:right", r"no module 'absent' in "),
        ("rewards_of_tests:rihgt", r"rewards_of_tests \(.*rewards_of_tests.py\) has no 'rihgt'; it has right"),
        ("rewards_of_tests:judge.missing", r"has no 'missing'; it has no function"),
        ("rewards_of_tests:Judge", r"is a class, no function; name a function, or an object that can be called"),
        ("rewards_of_tests:NUMBER", r"is 3, no function"),
        ("sys:path", r"task.reward = 'sys:path': is \[.*, no function"),
    ],
)
def test_a_wrong_path_is_one_line(folder, path, message):
    with pytest.raises(ConfigError, match=message) as caught:
        load(path, folder)
    assert str(caught.value).startswith(f"task.reward = {path!r}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import no_such_thing", r"importing broken failed \(ModuleNotFoundError: No module named 'no_such_thing', "),
        ("x = 1\n1 / 0", r"importing broken failed \(ZeroDivisionError: division by zero, broken.py line 2\); mend it"),
        ("def f(:", r"importing broken failed \(SyntaxError: "),
        ("raise SystemExit(3)", r"importing broken failed \(SystemExit: 3, broken.py line 1\)"),
    ],
)
def test_a_module_that_cannot_be_imported_says_why(folder, tmp_path, text, message):
    reward_module.write(tmp_path, "broken", text)
    with pytest.raises(ConfigError, match=message) as caught:
        load("broken:f", folder)
    assert "\n" not in str(caught.value)


def positional(completions, /, **columns): ...


def needs_more(completions, rubric, state=None): ...


def no_completions(prompts): ...


def only_columns(gold, **columns): ...


@pytest.mark.parametrize(
    ("call", "columns", "message"),
    [
        (positional, None, r"takes 'completions' by position only; define it as f\(completions, \*\*columns\)"),
        (no_completions, None, r"takes no 'completions'; define it as f\(completions, \*\*columns\), as for TRL"),
        (needs_more, {"gold", "prompt"}, r"needs 'rubric', which is no column of the data; it gets completion_ids, "),
        (only_columns, {"prompt"}, r"needs 'gold', which is no column of the data; it gets .*completions, prompts$"),
    ],
)
def test_a_function_that_cannot_be_called_is_refused(call, columns, message):
    with pytest.raises(ConfigError, match=message):
        of(call).require_columns(columns)


def test_a_function_that_can_be_called_is_not_refused():
    of(needs_more).require_columns({"rubric"})
    of(needs_more).require_columns(None)
    of(only_columns).require_columns({"gold"})
    of(dict).require_columns({"gold"})


def test_it_gets_what_trl_gives_and_no_more_than_it_takes():
    seen = []

    def everything(**columns):
        seen.append(columns)
        return [0.0, 0.0]

    def some(completions, gold, weight=3):
        return [weight, len(gold)]

    rows = [submission("a", completion="old"), submission("b", extra=1, gold="5")]
    assert called(of(everything), rows, None) == [0.0, 0.0]
    assert seen == [
        {
            "prompts": ["2+2?", "2+2?"],
            "completions": ["a", "b"],
            "completion_ids": [[5], [5]],
            "gold": ["4", "5"],
            "extra": [None, 1],
        }
    ]
    assert called(of(some), rows, None) == [3.0, 2.0]


def test_numbers_of_every_kind_count_and_none_means_no_reward():
    assert values(lambda completions: [1, True, None, np.float32(0.5)], *"abcd") == [1.0, 1.0, None, 0.5]
    assert values(lambda completions: np.array([1.5, 2.5]), *"ab") == [1.5, 2.5]
    assert values(lambda completions: (x for x in (1, 2)), *"ab") == [1.0, 2.0]


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (math.nan, "returned nan; return a finite number, or None"),
        (-math.inf, "returned -inf; return a finite number, or None"),
        ("0.5", "returned '0.5', no number; return a finite number, or None"),
        ([1.0], "returned [1.0], no number; return a finite number, or None"),
        (np.ones(2), "returned array([1., 1.]), no number; return a finite number, or None"),
    ],
)
def test_a_value_that_is_no_finite_number_fails_that_completion(value, reason):
    assert values(lambda completions: [1.0, value], *"ab") == [1.0, Failure(reason)]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.0, r"task.reward = 'm:f': returned 1.0, no list; return a list with one number or None per completion"),
        (None, r"returned None, no list"),
        ("ab", r"returned 'ab', no list"),
        ({"a": 1, "b": 2}, r"returned {'a': 1, 'b': 2}, no list"),
        ([1.0], r"returned 1 rewards for 2 completions; return one each, None where there is none"),
        ([1.0] * 3, r"returned 3 rewards for 2 completions"),
    ],
)
def test_what_is_no_list_of_that_length_ends_the_run(value, message):
    with pytest.raises(DataError, match=message):
        values(lambda completions: value, *"ab")


def test_an_error_costs_the_completions_that_cause_it(folder):
    function, calls = load("rewards_of_tests:picky", folder), []

    def counted(completions, **columns):
        calls.append(len(completions))
        return function.call(completions=completions, **columns)

    found = called(of(counted), [submission(text) for text in ("a", "", "x", "b", "c", "d", "e", "f")], None)
    assert [value for place, value in enumerate(found) if place != 2] == [1.0, None, 1.0, 1.0, 1.0, 1.0, 1.0]
    assert isinstance(found[2], Failure)
    assert found[2].reason.startswith("ValueError: an x in the text, rewards_of_tests.py line ")
    assert calls == [8, 4, 2, 2, 1, 1, 4], "in halves, so that one error costs few calls"


def test_an_exit_is_an_error_and_an_interrupt_is_not(folder):
    (value,) = called(load("rewards_of_tests:moody", folder), [submission("exit")], None)
    assert value.reason.startswith("SystemExit: bye")

    def interrupted(completions):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        values(interrupted, "a")


def test_what_a_function_prints_goes_to_stderr(capsys):
    def loud(completions):
        sys.stdout.write("loud\n")
        return [1.0]

    assert values(loud, "a") == [1.0]
    assert capsys.readouterr() == ("", "loud\n")


def test_an_async_function_is_resolved(folder):
    waited = []

    def run(awaitable):
        waited.append(awaitable)
        awaitable.close()
        return [3]

    assert called(load("rewards_of_tests:later", folder), [submission("abc")], run) == [3.0]
    assert len(waited) == 1


def test_a_row_is_named_by_its_key_and_question():
    assert submission("a", key="f00").row == "'f00' ('2+2?')"
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "q" * 80}]
    assert Submission("k", {"prompt": messages}, "", ()).row == f"'k' ('{'q' * 56}...)"
