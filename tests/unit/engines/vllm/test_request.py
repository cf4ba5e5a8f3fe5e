"""Arguments of a request, there and back; every refusal; reports that survive hostile text."""

import doctest
import json
import math
import subprocess
import sys
from typing import get_args

import numpy as np
import pytest

import arrol.engines.vllm.request as module
from arrol.configs import method
from arrol.engines.vllm.request import StopReport, parse_args, pruning_args
from arrol.errors import ConfigError
from arrol.types import PruningDecision, Reason, RolloutId

RULES = {
    "never": {"observe": True},
    "uniform": {"draw": "bernoulli"},
    "confidence": {"mix": 0.25},
    "extremes": {"keep_ratio": 0.75},
    "paper": {"balance_strength": -0.5, "target_positive_ratio": 0.25},
    "balanced": {"scope": "buffer", "shrinkage": 2.0},
    "neyman": {"probe_tokens": (8, 16), "probe_keep_ratios": (0.75, 0.5)},
}
OWN = {"step": 3, "index": 1, "seed": 7, "success_rate": 0.25, "report": True}
LATER = {**OWN, "batch_groups": 2, "group": "8", "first": 16, "later": True}
NAN = float("nan")


def args(**changes):
    return pruning_args(**{"group": "q", "size": 4, **changes})


BATCH = {"rule": "neyman", "scope": "batch", "step": 1, "group": "0", "batch_groups": 3}


@pytest.mark.parametrize(
    ("changes", "number"), [({}, 4), (BATCH, 12), ({"draw": "bernoulli"}, 1), ({"rule": "never", "observe": True}, 1)]
)
def test_how_many_wait_for_each_other(changes, number):
    assert parse_args(args(**changes)).rollouts_drawn_together == number


def test_docstring_examples():
    result = doctest.testmod(module)
    assert result.attempted >= 4
    assert result.failed == 0


@pytest.mark.parametrize("module", ["request", "groups"])
def test_requests_and_groups_load_neither_torch_nor_vllm(module):
    code = f"import sys, arrol.engines.vllm.{module}; print(*{{'torch', 'vllm', 'transformers'}} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    "own", [{}, OWN, {**OWN, "batch_groups": 9, "group": "8"}, LATER], ids=["bare", "full", "batch", "later"]
)
@pytest.mark.parametrize("rule", RULES)
def test_arguments_of_every_rule_come_back(rule, own):
    fields = RULES[rule]
    parsed = parse_args(json.loads(json.dumps({"other_key": [1], **args(rule=rule, **fields, **own)})))
    assert parsed.rule.rule == rule
    assert {name: getattr(parsed.rule, name) for name in fields} == fields
    assert {name: getattr(parsed, name) for name in own} == own
    assert (parsed.size, parsed.group) == (4, own.get("group", "q"))
    assert parsed.rule == type(parsed.rule)(**fields)


def test_every_rule_that_an_engine_can_follow_is_tried_here():
    known = {rule.model_fields["rule"].default for rule in get_args(get_args(method.PruningConfig)[0])}
    assert known - set(RULES) == {"oracle", "auto"}


@pytest.mark.parametrize("rule", RULES)
def test_arguments_are_flat(rule):
    for value in args(rule=rule, **OWN, **RULES[rule]).values():
        for leaf in value if type(value) is list else [value]:
            assert type(leaf) in (str, int, float)


@pytest.mark.parametrize("given", [20, [20], (20,), 20.0, range(20, 21), {20}])
def test_one_probe_needs_no_list(given):
    arguments = args(probe_tokens=given)
    assert type(arguments["arrol_probe_tokens"]) in (list, float)
    assert parse_args(arguments).rule.probe_tokens == (20,)


def test_batch_scope_is_allowed_where_the_batch_is_known():
    parsed = parse_args(args(rule="neyman", scope="batch", step=1, batch_groups=3, group=2))
    assert (parsed.batch_groups, parsed.group, parsed.number) == (3, "2", 2)


def test_numbers_may_come_as_a_server_passes_them_on():
    """vLLM's ``vllm_xargs`` turns true into 1, and some clients write every number as a float or a string."""
    sent = {"arrol_group": 7, "arrol_size": 4.0, "arrol_step": "3", "arrol_keep_ratio": "0.25", "arrol_report": 1.0}
    parsed = parse_args({**sent, "arrol_probe_tokens": [8.0, "16"], "arrol_seed": 2.0})
    assert (parsed.group, parsed.size, parsed.step, parsed.seed, parsed.report) == ("7", 4, 3, 2, True)
    assert (parsed.rule.rule, parsed.rule.keep_ratio, parsed.rule.probe_tokens) == ("uniform", 0.25, (8, 16))


@pytest.mark.parametrize("other", [None, {}, {"top": 1, "xarrol_size": 4, "arrol": 3, "arroll": "x"}])
def test_a_request_that_says_nothing_of_ours_is_not_ours(other):
    assert parse_args(other) is None


@pytest.mark.parametrize(
    ("changes", "field", "value", "remedy"),
    [
        ({"group": ""}, "group", "''", "Name of the group"),
        ({"group": ["a"]}, "group", "['a']", "a text"),
        ({"size": 0}, "size", "0", "must be at least 1"),
        ({"size": 4.5}, "size", "4.5", "whole number"),
        ({"rule": "oracle"}, "rule", "'oracle'", "use another rule"),
        ({"rule": "auto"}, "rule", "'auto'", "needs outcomes, which no engine has; use another rule"),
        ({"rule": "nayman"}, "rule", "'nayman'", "'neyman'"),
        ({"rule": "neyman", "scope": "batch"}, "scope", "'batch'", "use scope 'group', or give step and batch_groups"),
        ({"rule": "balanced", "scope": "grp"}, "scope", "'grp'", "'group' or 'buffer'"),
        ({"step": 0}, "step", "0", "must be at least 1"),
        ({"index": -1}, "index", "-1", "must be at least 0"),
        ({"index": 4}, "index", "4", "must be less than arrol_size = 4"),
        ({"seed": -1}, "seed", "-1", "must be at least 0"),
        ({"success_rate": 1.5}, "success_rate", "1.5", "must be at most 1"),
        ({"success_rate": NAN}, "success_rate", "nan", "finite"),
        ({"report": "perhaps"}, "report", "'perhaps'", "true or false"),
        ({"keep_ratio": 0}, "keep_ratio", "0", "must be above 0"),
        ({"keep_ratio": "half"}, "keep_ratio", "'half'", "number"),
        ({"keep_ratio": NAN}, "keep_ratio", "nan", "finite"),
        ({"barrier_timeout": math.inf}, "barrier_timeout", "inf", "finite"),
        ({"probe_tokens": 0}, "probe_tokens", "[0]", "ascending lengths of at least 1"),
        ({"probe_tokens": [16, 8]}, "probe_tokens", "[16, 8]", "ascending"),
        ({"probe_tokens": []}, "probe_tokens", "[]", "one or more"),
        ({"probe_tokens": "20"}, "probe_tokens", "'20'", "Completion lengths"),
        ({"probe_tokens": 20.5}, "probe_tokens", "20.5", "whole number"),
        ({"probe_keep_ratios": (0.75,)}, "probe_keep_ratios", "[0.75]", "last equal to keep_ratio 0.5"),
        ({"draw": "lots"}, "draw", "'lots'", "'systematic' or 'bernoulli'"),
        ({"mix": 0.5}, "mix", "0.5", "unknown key"),
        ({"stepp": 3}, "stepp", "3", "nearest known one is 'arrol_step'"),
        ({"keep_ration": 0.5}, "keep_ration", "0.5", "nearest known one is 'arrol_keep_ratio'"),
        ({"batch_groups": 3}, "group", "'q'", "give step and a group in 0 ... 2"),
        ({"batch_groups": 3, "group": "0"}, "group", "'0'", "give step"),
        ({"batch_groups": 0, "group": "0", "step": 1}, "batch_groups", "0", "must be at least 1"),
        ({"batch_groups": 10**9, "group": "0", "step": 1}, "batch_groups", "1000000000", "must be at most"),
    ],
)
def test_a_mistake_is_named_with_its_value_and_what_to_do(changes, field, value, remedy):
    with pytest.raises(ConfigError) as caught:
        args(**changes)
    message = str(caught.value)
    assert message.startswith(f"arrol_{field} = {value}: ")
    assert remedy in message
    assert "\n" not in message


@pytest.mark.parametrize("name", ["3", "-1", "01", "1.0", "+1", " 1", "\u0661", "1\n", "9" * 128])
def test_groups_of_a_batch_have_one_name_each(name):
    with pytest.raises(ConfigError, match=r"a group in 0 \.\.\. 2"):
        args(batch_groups=3, step=1, group=name)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 10**12}, "arrol_size = 1000000000000: must be at most 1024; expected: "),
        ({"group": "x" * 10**6}, f"arrol_group = '{'x' * 76}...: 1000000 characters; give at most 128"),
        ({"keep_ratio": "1" * 10**6}, f"arrol_keep_ratio = '{'1' * 76}...: 1000000 characters; give at most 128"),
        ({"probe_tokens": list(range(1, 300_001))}, "300000 values; give at most 64"),
        ({"probe_tokens": [8, "9" * 129]}, "129 characters; give at most 128"),
        ({"probe_tokens": [8, 2**60]}, "arrol_probe_tokens = (8, 1152921504606846976): above 9007199254740992; give a"),
        ({"probe_keep_ratios": [0.25] * 64}, f"arrol_probe_keep_ratios = [{'0.25, ' * 12}0.25...: give one per probe"),
        ({"group": [["a"]]}, "arrol_group = ['a']: nested; give text, a number, or a list of them"),
        ({"rule": {"rule": "uniform"}}, "arrol_rule = {'rule': 'uniform'}: nested"),
        ({"first": 10**6}, "arrol_first = 1000000: must be at most 65536"),
        ({"step": "9" * 100}, f"arrol_step = '{'9' * 76}...: must be at most 9007199254740992"),
        ({"seed": 10**5000}, "arrol_seed = 2**16609...: needs more than 63 bits; give a smaller number"),
        ({"seed": 2**63}, "arrol_seed = 9223372036854775808: needs more than 63 bits"),
        ({"warmup_steps": "9" * 30}, f"arrol_warmup_steps = {'9' * 30}: above 9007199254740992; give a smaller number"),
        ({"min_survivors": 2**60}, "arrol_min_survivors = 1152921504606846976: above 9007199254740992"),
        ({"k" * 10**6: 1}, "...: key of 1000006 characters; a key of ours is at most 128 long"),
        ({"q" * 100: "v" * 100}, f"arrol_{'q' * 100} = '{'v' * 76}...: unknown key; the nearest known one is"),
    ],
)  # fmt: skip
def test_every_field_has_a_bound_and_a_wrong_value_is_echoed_to_eighty_characters(changes, message):
    with pytest.raises(ConfigError) as caught:
        args(**changes)
    assert message in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("missing", ["group", "size"])
def test_what_must_be_said_is_asked_for(missing):
    sent = {"arrol_group": "q", "arrol_size": 4}
    del sent[f"arrol_{missing}"]
    with pytest.raises(ConfigError, match=f"^arrol_{missing}: missing; expected: "):
        parse_args(sent)


@pytest.mark.parametrize("rule", [{"rule": "uniform"}, ["uniform"], 3])
def test_a_rule_is_a_word(rule):
    with pytest.raises(ConfigError, match=r"^arrol_rule = "):
        parse_args({"arrol_group": "q", "arrol_size": 4, "arrol_rule": rule})


@pytest.mark.parametrize(
    ("changes", "is_watched"), [({}, True), ({"rule": "never"}, False), ({"rule": "never", "observe": True}, True)]
)
def test_only_a_rule_that_does_something_is_looked_after(changes, is_watched):
    assert parse_args(args(**changes)).is_watched is is_watched


def test_requests_share_a_controller_when_run_and_rule_agree():
    """And the seed, where they name a step."""

    def key(**changes):
        return parse_args(args(**changes)).controller_key

    assert key() == key(group="other", size=9, index=2, report=True, keep_ratio=0.5)
    assert key(step=1) == key(step=2)
    assert key() == key(seed=1)
    distinct = [key(), key(step=1), key(step=1, seed=1), key(keep_ratio=0.25), key(rule="neyman"), key(run="other")]
    assert len(set(distinct)) == len(distinct)


def decisions():
    for keep in (True, False):
        for reason in Reason:
            first = PruningDecision(RolloutId(2, 5, 1), 0, True, 0.6, Reason.DRAW, 0.5, 0.25, 4, pool=0)
            yield PruningDecision(RolloutId(2, 5, 1), 1, keep, 0.3, reason, -1.25, 0.333333333, 4, first, pool=1)
    for number in (NAN, math.inf, -math.inf, -0.0, 5e-324, 1e308):
        yield PruningDecision(RolloutId(2, 5, 1), 0, True, 1e-9, Reason.NO_SCORE, number, number)


@pytest.mark.parametrize("decision", list(decisions()), ids=lambda d: f"{d.reason}-{d.keep}-{d.score}")
def test_a_decision_comes_back_from_its_report(decision):
    text = str(StopReport.of(decision))
    assert text.startswith("kept:" if decision.keep else "pruned:")
    back = StopReport.parse(text).decision(decision.rollout_id)
    assert repr(back) == repr(decision)  # equal even where numbers are not
    assert back.previous == decision.previous
    assert type(back.reason) is Reason


def test_a_report_is_exact_to_nine_digits():
    decision = PruningDecision(RolloutId(2, 5, 1), 0, False, 0.1 + 0.2, Reason.DRAW, -1e9 / 7, 1 / 3)
    back = StopReport.parse(str(StopReport.of(decision))).decision(decision.rollout_id)
    assert (back.survival, back.score, back.quality) == pytest.approx((0.3, -1e9 / 7, 1 / 3), rel=5e-9)


def test_a_report_of_what_a_controller_decides_is_short_and_plain():
    """No type names of numpy, no line breaks: it stands in a log line."""
    decision = PruningDecision(
        RolloutId(2, 5, 1), 0, False, np.float64(0.5), Reason.DRAW, np.float64(0.1), np.float32(2)
    )
    assert str(StopReport.of(decision)) == "pruned:score=0.1;quality=2;survival=0.5;probe=0;version=0;reason=draw"


GOOD = "pruned:score=-1.25;quality=0.2;survival=0.5;probe=0;version=3;reason=draw"


@pytest.mark.parametrize(
    "other",
    [
        None,
        0,
        151643,
        -1.5,
        b"pruned:",
        ["pruned:"],
        "",
        "pruned",
        "kept",
        "pruned:",
        "kept:;;;",
        "pruned:=",
        "pruned:===",
        "refused:arrol_size = 0: no",
        "Pruned:" + GOOD[7:],
        " " + GOOD,
        "</answer>",
        GOOD.replace("score=-1.25;", ""),
        GOOD.replace("-1.25", "high"),
        GOOD.replace("probe=0", "probe=0.5"),
        GOOD.replace("probe=0", "probe=" + "9" * 5000),
        GOOD.replace("version=3", "version="),
        GOOD.replace("reason=draw", "reason=whim"),
        GOOD.replace(";", ","),
        GOOD + ";",
        GOOD + ";pool=none",
        GOOD + " < ",
        GOOD + " < refused:no",
        " < ".join([GOOD] * 100_000),
        "pruned:" + "x" * 1_000_000,
        "pruned:" + "score=1;" * 100_000,
        "\x00\ud800",
    ],
    ids=lambda other: repr(other)[:40],
)
def test_what_is_not_ours_is_no_report(other):
    assert StopReport.parse(GOOD) is not None
    assert StopReport.parse(other) is None
