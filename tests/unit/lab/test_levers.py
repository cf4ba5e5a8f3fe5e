"""The decision and its three answers, the levers of a small pool, the lines to paste."""

import tomllib

import numpy as np
import pytest

from arrol.configs.base import validate
from arrol.configs.host import parse_host
from arrol.configs.run import RunConfig
from arrol.lab.costs import Counts, cost_model
from arrol.lab.levers import Decision, Lever, decide, levers, lines, replayed_designs
from arrol.lab.merit import Design, Judgement, Merit


def lever(name, own, best, *, is_whole=False, is_biased=False):
    """``own`` and ``best``: lower end of the interval beside each; the merit is 0.1 above it."""
    judgement = Judgement(name, 4.0, np.ones(1), Counts(1, 1, 0, 1), is_biased=is_biased)
    first, second = (Merit(name, low + 0.1, low, low + 0.2, 1.0, 1.0) for low in (own, best))
    return Lever(Design(name), judgement, first, second, 1.0, is_whole)


OWN = lever("group of 16", 0.9, 0.6, is_whole=True)
BEST = lever("group of 4", 1.2, 0.9, is_whole=True)


def test_an_unbiased_lever_above_the_best_group_size_is_recommended():
    rows = [OWN, BEST, lever("small", 1.3, 1.03), lever("large", 1.2, 1.04), lever("not quite", 2.0, 1.02)]
    assert decide(rows, 1) == Decision(3, "1.14 times (1.04 to 1.24) the merit of the best group size alone")


def test_else_the_best_group_size_is():
    rows = [OWN, BEST, lever("biased", 3.0, 2.0, is_biased=True), lever("noise", 1.2, 0.9)]
    text = "1.30 times (1.20 to 1.40) the merit of your group size; no other lever adds to it"
    assert decide(rows, 1) == Decision(1, text)


def test_else_nothing_pays():
    rows = [OWN, lever("group of 8", 1.01, 0.9, is_whole=True), lever("noise", 1.2, 1.0)]
    assert decide(rows, 1) == Decision(None, "Nothing here pays: keep what you have.")
    assert decide([OWN], 0).lever is None


def test_levers_of_a_pool(pool, base):
    rows, best, _ = levers(pool, base, cost_model("flops", pool), visits=4, designs=[Design("mine", {})])
    assert rows[0].design.change == {"training": {"group_size": 4}}
    assert (rows[0].beside_own.merit, rows[best].beside_best.merit) == (1.0, 1.0)
    assert all(row.beside_best.merit <= 1 for row in rows if row.is_whole)
    assert rows[-1].design.name == "mine"
    names = " ".join(row.design.name for row in rows if not row.is_whole)
    assert all(word in names for word in ("pruning at random at", "lottery", "allocation"))
    ratio = [row.beside_own.merit / row.beside_best.merit for row in rows]
    np.testing.assert_allclose(ratio, ratio[0])
    per_prompt = rows[0].beside_own.cost
    assert rows[0].step_cost == pytest.approx(per_prompt * base.training.prompts_per_step)


def test_without_a_probe_there_is_no_pruning():
    assert not any("pruning" in design.change for design in replayed_designs(None, 8, 4))
    assert [d.name for d in replayed_designs(5, 4, 4)].count("pruning at random at 5, group of 4") == 1


@pytest.mark.parametrize("design", replayed_designs(16, 16, 4), ids=lambda design: design.name)
def test_lines_are_what_each_host_reads(design, base):
    """24 prompts x 4 rollouts stay 96 rollouts."""
    found = lines(design, base)
    values = tomllib.loads("\n".join(found["arrol"]))
    size = design.change["training"]["group_size"]
    assert values["training"] == {"group_size": size, "prompts_per_step": 96 // size}
    validate(RunConfig, {"model": "m", "task": {"name": "arithmetic"}, **values})
    assert found["trl"][1] == f"# a generation batch of {96 // size} x {size} = 96 completions"
    words = dict(word.split("=") for word in found["verl"][0].split())
    assert words.pop("actor_rollout_ref.rollout.n") == str(size)
    assert words.pop("data.train_batch_size") == str(96 // size)
    algorithm = set(design.change.get("algorithm", {}))
    missing = ["[allocation]"] * ("allocation" in design.change) + ["[algorithm]"] * bool(
        algorithm - {"name", "correction"}
    )
    for host in ("trl", "verl"):
        last = f"# without {' and '.join(missing)}, which arrol train has"
        assert (found[host][-1] == last) == bool(missing)
    call = f"GRPOConfig(num_generations={size}"
    if "pruning" in design.change:
        rule = design.change["pruning"]["rule"]
        call += f", rule='{rule}', keep_ratio=0.5, probe_tokens=[16], correction='ipw'"
        options = {word.removeprefix("+arrol."): value for word, value in words.items()}
        assert options == {"rule": rule, "keep_ratio": "0.5", "probe_tokens": "[16]"}
        assert parse_host({**options, "keep_ratio": 0.5, "probe_tokens": [16]}).pruning.rule == rule
        assert "# verl computes the advantages: correction plain" in found["verl"]
    assert found["trl"][0] == call + ")"
