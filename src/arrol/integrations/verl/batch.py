"""Sizes of a step of verl, from its config. Pure functions.

A pruned batch is smaller. verl 0.9 fills it up with synthetic rows of 128 tokens to a multiple of lcm(data-parallel
ranks, mini-batch), so the mini-batch must shrink with the batch:

    survivors per prompt  k = keep_ratio n                      n = rollout.n, a whole number, at least 2
    ppo_mini_batch_size'  = ppo_mini_batch_size k / n           as many updates per step as before
    rows of a step        = train_batch_size k                  a multiple of lcm(ranks, ppo_mini_batch_size' n)

Warm-up steps keep all, so train_batch_size n must be a multiple of it as well. With ``pods`` k is ``train_size``, in
warm-up too. A rule that skips prompts draws ``candidates`` times as many from the data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from arrol.errors import ConfigError
from arrol.integrations.verl.options import NAME, VerlOptions
from arrol.integrations.verl.rules import candidates, train_size

ACTOR, ROLLOUT, REFERENCE = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.ref"
DRAWN, EPOCHS = "data.train_batch_size", "trainer.total_epochs"

Config = Mapping[str, Any]


def at(config: Config, path: str, default: Any = None) -> Any:
    """The value at a dotted path; ``default`` where a part of it is absent or null."""
    node: Any = config
    for part in path.split("."):
        node = node.get(part) if isinstance(node, Mapping) else None
    return default if node is None else node


@dataclass(frozen=True)
class Batch:
    """Sizes of a step."""

    prompts: int
    """Asked per step."""
    group_size: int
    train_size: int
    """Rollouts of a prompt that train."""
    ranks: int
    """Data-parallel ranks of the actor."""
    warmup_train_size: int
    """Rollouts of a prompt that train in a warm-up step."""

    @classmethod
    def of(cls, config: Config, options: VerlOptions, *, drawn: bool = True) -> Batch:
        """ConfigError where the number of survivors is not whole, or below 2.

        ``drawn``: the batch size counts candidates already.
        """
        size, allocation = int(at(config, f"{ROLLOUT}.n", 1)), options.host.allocation
        prompts, factor = int(at(config, DRAWN, 1)), candidates(allocation) if drawn else 1
        if prompts % factor:
            raise ConfigError(
                f"{DRAWN} = {prompts}: {NAME}.allocation.rule = {allocation.rule!r} draws {factor} candidates per "
                f"prompt; use a multiple of {factor}"
            )
        survivors = _survivors(options, size)
        trained = train_size(allocation, survivors)
        if trained > survivors:
            raise ConfigError(
                f"{NAME}.allocation.train_size = {trained}: more than the {survivors} survivors of a prompt; lower it"
            )
        return cls(prompts // factor, size, trained, data_parallel_ranks(config), train_size(allocation, size))

    def padding(self, mini_batch_size: int, train_size: int) -> int:
        """Synthetic rows that verl would add to a batch with so many rows per prompt."""
        return -(self.prompts * train_size) % math.lcm(self.ranks, mini_batch_size * self.group_size)

    def shrunk(self, mini_batch_size: int) -> Fraction:
        """The mini-batch that leaves the number of updates as it is."""
        return Fraction(mini_batch_size * self.train_size, self.group_size)

    def refuse_padding(self, path: str, mini_batch_size: int, warmup_steps: int) -> None:
        """ConfigError where verl would fill a batch up, in a pruned step or in warm-up."""
        rows = self.padding(mini_batch_size, self.train_size)
        if rows:
            raise ConfigError(
                f"{path} = {mini_batch_size}: verl would add {rows} synthetic rows to the "
                f"{self.prompts * self.train_size} survivors of a step on {self.ranks} ranks; use "
                f"{float(self.shrunk(self.prompts)):g} or a divisor of it, and survivors that divide evenly over ranks"
            )
        rows = self.padding(mini_batch_size, self.warmup_train_size) if warmup_steps else 0
        if rows:
            raise ConfigError(
                f"{NAME}.warmup_steps = {warmup_steps}: verl would add {rows} synthetic rows to the unpruned "
                f"{self.prompts * self.warmup_train_size}; set warmup_steps=0, or a keep_ratio like 0.5 or 0.25"
            )


def _survivors(options: VerlOptions, size: int) -> int:
    """Rollouts of a group after its last probe."""
    rule, survivors = options.host.pruning, Fraction(size)
    if not rule.has_probes or rule.rule == "never":
        return size
    for ratio in rule.cumulative_keep:
        survivors = Fraction(ratio).limit_denominator(1000) * size
        if survivors.denominator != 1 or survivors < 2:
            raise ConfigError(
                f"{NAME}.keep_ratio = {rule.keep_ratio:g}: leaves {float(survivors):g} of the {size} rollouts of a "
                f"prompt ({ROLLOUT}.n); every probe must leave a whole number, at least 2"
            )
    if rule.min_survivors > survivors:
        raise ConfigError(
            f"{NAME}.min_survivors = {rule.min_survivors}: more than the {survivors} of a prompt that keep_ratio "
            f"leaves; lower it to {survivors}"
        )
    return int(survivors)


def data_parallel_ranks(config: Config) -> int:
    """Ranks of the actor that each see a part of the batch."""
    world = int(at(config, "trainer.n_gpus_per_node", 1)) * int(at(config, "trainer.nnodes", 1))
    if at(config, f"{ACTOR}.strategy") == "megatron":
        names = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size")
        shared = math.prod(int(at(config, f"{ACTOR}.megatron.{name}", 1)) for name in names)
    else:
        shared = int(at(config, f"{ACTOR}.ulysses_sequence_parallel_size", 1))
    return max(world // shared, 1)


def trained_nodes(config: Config) -> list[str]:
    """Paths of what is trained; verl runs a critic by the same rule."""
    has_critic = at(config, "critic.enable", at(config, "algorithm.adv_estimator") == "gae")
    return [ACTOR, "critic"] if has_critic else [ACTOR]


def mini_batches(config: Config) -> list[str]:
    """Paths of the mini-batch sizes, in prompts."""
    return [f"{node}.ppo_mini_batch_size" for node in trained_nodes(config)]


def dynamic_switches(config: Config, batch: Batch) -> list[str]:
    """Paths of the switches to dynamic micro-batches; a static one need not divide a batch smaller than verl's own."""
    if batch.train_size == batch.group_size:
        return []
    switches = [f"{node}.use_dynamic_bsz" for node in trained_nodes(config)] + [f"{ROLLOUT}.log_prob_use_dynamic_bsz"]
    if at(config, f"{ACTOR}.use_kl_loss", False) or at(config, "algorithm.use_kl_in_reward", False):
        switches.append(f"{REFERENCE}.log_prob_use_dynamic_bsz")
    return switches
