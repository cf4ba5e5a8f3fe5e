"""The designs that a pool is judged on by default, and designs from a file.

A file names each design and what it changes::

    [[designs]]
    name = "half of 16"
    [designs.change.training]
    group_size = 16
    [designs.change.pruning]
    rule = "uniform"
    probe_tokens = [16]
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from arrol.configs.base import StrictModel, validate
from arrol.configs.files import read_toml
from arrol.configs.run import RunConfig
from arrol.errors import ConfigError
from arrol.lab.costs import CostModel
from arrol.lab.merit import Design, design_config
from arrol.lab.moments import Moments
from arrol.lab.pool import Pool
from arrol.lab.stops import late_stops

SIZES = (2, 3, 4, 6, 8, 12, 16, 24, 32)
ALLOCATIONS = ("aero", "dapo", "knapsack", "neyman", "pods")


class DesignConfig(StrictModel):
    """One design."""

    name: str = Field(min_length=1)
    """Shown in the table."""
    change: dict[str, Any] = {}
    """Fields of the run's config."""


class DesignsConfig(StrictModel):
    """A file of designs."""

    designs: tuple[DesignConfig, ...] = Field(min_length=1)
    """At least one."""


def read_designs(path: str | Path) -> list[Design]:
    """The designs of a TOML file; ConfigError on the first mistake."""
    config = validate(DesignsConfig, read_toml(path))
    return [Design(one.name, one.change) for one in config.designs]


def group_sizes(most: int | None = None) -> list[Design]:
    """Whole groups of usual sizes."""
    sizes = [size for size in SIZES if most is None or size <= most]
    return [Design(f"group of {size}", {"training": {"group_size": size}}) for size in sizes]


def pruning_designs(pool: Pool, size: int) -> list[Design]:
    """Rules that stop half of the candidates of groups of ``size``, at a probe near half of the median length."""
    if not pool.has_features:
        return []
    probe = middle_probe(pool)
    rules: dict[str, dict[str, Any]] = {
        "uniform": {"rule": "uniform"},
        "neyman": {"rule": "neyman", "scope": "batch"},
        "paper": {"rule": "paper"},
    }
    designs = []
    for name, fields in rules.items():
        change: dict[str, Any] = {
            "training": {"group_size": size},
            "pruning": {**fields, "keep_ratio": 0.5, "probe_tokens": [probe]},
        }
        if name == "paper":
            change["algorithm"] = {"correction": "plain"}
        designs.append(Design(f"{name} at {probe}, group of {size}", change))
    return designs


def allocation_designs(
    size: int, rules: Sequence[str] = ALLOCATIONS, *, has_binary_rewards: bool = True
) -> list[Design]:
    """Rules that choose prompts, group sizes or what trains, at a mean group size.

    With other rewards than 0 and 1 the baseline of AERO is the rewards' mean: its posterior is of a success rate.
    """
    designs = []
    for rule in rules:
        fields: dict[str, Any] = {"rule": rule, **({"train_size": max(2, size // 2)} if rule == "pods" else {})}
        if rule == "aero" and not has_binary_rewards:
            fields["posterior"] = {"used_for": "allocation"}
        designs.append(Design(f"{rule}, group of {size}", {"training": {"group_size": size}, "allocation": fields}))
    return designs


def lottery_designs(size: int) -> list[Design]:
    """Whole groups of ``size`` whose small contributions rarely train: the lottery after the reward."""
    return [
        Design(
            f"lottery {share:g}, group of {size}",
            {"training": {"group_size": size}, "algorithm": {"thinning": share, "thins": "always"}},
        )
        for share in (0.5, 1.0)
    ]


def stop_designs(pool: Pool, model: CostModel, size: int, prompts_per_step: float) -> list[Design]:
    """Stops of the longest fifth and tenth of groups of ``size``, each with its best kept share under the model."""
    stops = late_stops(pool, Moments.of(pool), model, size, prompts_per_step)
    return [stop.design(size) for stop in stops]


def possible(designs: Sequence[Design], base: RunConfig) -> list[Design]:
    """The designs whose config is valid: a rule may need larger groups than the run has."""
    found = []
    for design in designs:
        with suppress(ConfigError):
            design_config(base, design)
            found.append(design)
    return found


def middle_probe(pool: Pool) -> int:
    """The probe length nearest to half of the median length."""
    half = float(np.median(pool.length_PN[pool.is_known_PN])) / 2
    return min(pool.probe_tokens, key=lambda tokens: abs(tokens - half))
