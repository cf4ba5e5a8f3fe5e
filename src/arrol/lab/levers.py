"""The levers of a workload, compared with its own and its best group size; one recommendation and its lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from arrol.configs.run import RunConfig
from arrol.lab.advice import best_probe
from arrol.lab.costs import CostModel
from arrol.lab.designs import group_sizes, possible
from arrol.lab.merit import Design, Judgement, Merit, judge, merits
from arrol.lab.moments import Moments
from arrol.lab.pool import Pool
from arrol.lab.stops import WEIGHTED, Stop, late_stops

LEAST_GAIN = 1.02
"""A merit's lower end must be above it before anything is recommended."""
KEEP = 0.5
"""Share of the candidates that the pruning levers keep."""
ARROL_ONLY = ("allocation", "algorithm")
"""Sections of a lever's change that only ``arrol train`` has so far."""


@dataclass(frozen=True)
class Lever:
    """A design under one cost model, relative to the run's own group size and to the best one."""

    design: Design
    judgement: Judgement
    beside_own: Merit
    beside_best: Merit
    step_cost: float
    """Cost of a step with as many rollouts as the run's; seconds where the model counts seconds."""
    is_whole: bool
    """A group size, nothing else."""


@dataclass(frozen=True)
class Decision:
    """What to do."""

    lever: int | None
    """Place of the recommended lever; None: keep what you have."""
    reason: str


class Levers(NamedTuple):
    """What a workload has."""

    rows: list[Lever]
    """The run's own group size first."""
    best: int
    """Place of the best group size."""
    stops: list[Stop]
    """Best stop at each late probe in groups of the best size, estimated; replayed only where it may pay."""


def levers(pool: Pool, base: RunConfig, model: CostModel, *, visits: int, designs: Sequence[Design] = ()) -> Levers:
    """Levers of a pool.

    ``designs`` are judged in addition. ``visits`` of each prompt are for groups of 8, other sizes in proportion.
    """
    own = base.training.group_size
    sizes = [design for design in group_sizes() if design.change["training"]["group_size"] != own]
    whole = possible([Design(f"group of {own}", {"training": {"group_size": own}}), *sizes], base)
    moments = Moments.of(pool)
    found = [judge(pool, design, base) for design in whole]
    best = best_size(found, moments, model)
    best_group, rows = int(found[best].group_size), own * base.training.prompts_per_step
    probe = best_probe(pool, moments, model, best_group, KEEP) if pool.has_features else None
    stops = {size: late_stops(pool, moments, model, size, rows / size) for size in (best_group, own)}
    others = [*possible([*replayed_designs(probe, own, best_group), *paying_stops(stops)], base), *designs]
    for design in others:
        group = design.change.get("training", {}).get("group_size", own)
        found.append(judge(pool, design, base, visits=max(2, round(visits * 8 / group))))
    beside_own = merits(found, moments, model)
    beside_best = merits(found, moments, model, reference=best)
    made = zip([*whole, *others], found, beside_own, beside_best, strict=True)
    found_levers = [
        Lever(design, one, first, second, first.cost * rows / one.group_size, number < len(whole))
        for number, (design, one, first, second) in enumerate(made)
    ]
    return Levers(found_levers, best, stops[best_group])


def best_size(found: Sequence[Judgement], moments: Moments, model: CostModel) -> int:
    """Place of the whole group with the largest merit."""
    rows = merits(found, moments, model)
    return max(range(len(rows)), key=lambda number: rows[number].merit)


def replayed_designs(probe: int | None, own: int, best: int) -> list[Design]:
    """Pruning at the probe, with correction ``ipw``, which was the better one on the pools of the laboratory's page; at
    the best size the other unbiased levers."""
    designs = []
    at_best: dict[str, Any] = {"training": {"group_size": best}}
    lottery = {"name": "dr_grpo", "thinning": 1.0, "thins": "always"}
    sizes = {"rule": "neyman"}
    if probe is not None:
        rules = {"at random": {"rule": "uniform"}, "by neyman": {"rule": "neyman"}}
        for size, name in dict.fromkeys(((best, "at random"), (best, "by neyman"), (own, "at random"))):
            pruning = {**rules[name], "keep_ratio": KEEP, "probe_tokens": [probe]}
            change = {"training": {"group_size": size}, "pruning": pruning, "algorithm": dict(WEIGHTED)}
            designs.append(Design(f"pruning {name} at {probe}, group of {size}", change))
    designs.append(Design(f"lottery, group of {best}", {**at_best, "algorithm": lottery}))
    designs.append(Design(f"allocation, group of {best}", {**at_best, "allocation": sizes}))
    both = {**at_best, "allocation": sizes, "algorithm": lottery}
    designs.append(Design(f"allocation and lottery, group of {best}", both))
    return designs


def paying_stops(stops: Mapping[int, Sequence[Stop]]) -> list[Design]:
    """Per group size the stop along the length of largest estimated merit, where that is above 1: a replay takes
    seconds, the estimate none."""
    best = [(size, max(found, key=lambda stop: stop.gain)) for size, found in stops.items() if found]
    return [stop.design(size) for size, stop in best if stop.gain > 1]


def decide(rows: Sequence[Lever], best: int) -> Decision:
    """One answer of three: a lever beyond group sizes, the best group size, or nothing.

    A lever must be unbiased and better than the best group size, a group size better than the run's own, which is the
    first row: the lower end of the interval must be above ``LEAST_GAIN``. Of several levers the largest lower end wins.
    """
    beyond = [
        number
        for number, row in enumerate(rows)
        if not row.is_whole and not row.judgement.is_biased and row.beside_best.low > LEAST_GAIN
    ]
    if beyond:
        chosen = max(beyond, key=lambda number: rows[number].beside_best.low)
        gain = rows[chosen].beside_best
        return Decision(chosen, f"{_ratio(gain)} the merit of the best group size alone")
    if rows[best].beside_own.low > LEAST_GAIN:
        return Decision(
            best, f"{_ratio(rows[best].beside_own)} the merit of your group size; no other lever adds to it"
        )
    return Decision(None, "Nothing here pays: keep what you have.")


def _ratio(merit: Merit) -> str:
    return f"{merit.merit:.2f} times ({merit.low:.2f} to {merit.high:.2f})"


def lines(design: Design, base: RunConfig) -> dict[str, list[str]]:
    """What to paste to set a lever: a TOML of arrol, arguments of TRL's GRPOConfig, words of verl's command.

    A step keeps the number of its rollouts. TRL's batch size counts rows, so nothing else changes there.
    """
    size = int(design.change.get("training", {}).get("group_size", base.training.group_size))
    prompts = max(1, round(base.training.prompts_per_step * base.training.group_size / size))
    change = {**design.change, "training": {"group_size": size, "prompts_per_step": prompts}}
    pruning = dict(design.change.get("pruning", {}))
    flat = {name: pruning.pop(name) for name in ("rule", "keep_ratio", "probe_tokens") if name in pruning}
    algorithm = dict(design.change.get("algorithm", {}))
    weights = {name: algorithm.pop(name) for name in ("correction",) if name in algorithm}
    named = {"num_generations": size, **flat, **weights} | ({"rule_options": pruning} if pruning else {})
    words = [f"actor_rollout_ref.rollout.n={size}", f"data.train_batch_size={prompts}"]
    words += [f"+arrol.{name}={_word(value)}" for name, value in {**flat, **pruning}.items()]
    trl = [
        "GRPOConfig(" + ", ".join(f"{name}={value!r}" for name, value in named.items()) + ")",
        f"# a generation batch of {prompts} x {size} = {prompts * size} completions",
    ]
    verl = [" ".join(words)]
    if weights:
        verl.append("# verl computes the advantages: correction plain")
    others = {**design.change, "algorithm": algorithm.keys() - {"name"}}
    missing = [f"[{name}]" for name in ARROL_ONLY if others.get(name)]
    if missing:
        only = f"# without {' and '.join(missing)}, which arrol train has"
        trl, verl = [*trl, only], [*verl, only]
    return {"arrol": list(_toml(change)), "trl": trl, "verl": verl}


def _toml(change: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    for section, fields in change.items():
        yield f"[{section}]"
        for name, value in fields.items():
            yield f"{name} = {json.dumps(value)}"


def _word(value: Any) -> str:
    return json.dumps(value, separators=(",", ":")) if isinstance(value, list) else str(value)
