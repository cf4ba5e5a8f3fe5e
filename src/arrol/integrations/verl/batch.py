"""Sizes of a step of verl, from its config. Pure functions.

A pruned batch is smaller, and its number of rows varies. verl 0.9 makes as many updates as the batch has mini-batches,
and fills it up with synthetic rows of 128 tokens to a multiple of lcm(data-parallel ranks, mini-batch). It reads the
size of a mini-batch anew in every step, so each step gets the size that leaves the number of updates as it is:

    updates U             = train_batch_size / ppo_mini_batch_size           of the command
    ppo_mini_batch_size'  = the smallest number of prompts with  U ppo_mini_batch_size' n >= rows  and whole ranks
    synthetic rows        < U lcm(ranks, n)                                  n = rollout.n

With ``pods`` a prompt trains ``train_size`` rows, in warm-up too. A rule that skips prompts draws ``candidates`` times
as many from the data.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from arrol.errors import ConfigError
from arrol.integrations.verl.options import NAME, VerlOptions, parse_options
from arrol.integrations.verl.rules import candidates, train_size

ACTOR, ROLLOUT, REFERENCE = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.ref"
DRAWN, EPOCHS = "data.train_batch_size", "trainer.total_epochs"

SYNTHETIC_TOKENS = 128
"""Length of a row that verl adds to fill a batch."""

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

    @classmethod
    def of(cls, config: Config, options: VerlOptions, *, drawn: bool = True) -> Batch:
        """ConfigError where a prompt would keep fewer than 2 rollouts.

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
        return cls(prompts // factor, size, trained)


def _survivors(options: VerlOptions, size: int) -> int:
    """Rollouts of a group after its last probe; with independent draws, their expected number."""
    rule, survivors = options.host.pruning, size
    if not rule.has_probes or rule.rule == "never":
        return size
    for ratio in rule.cumulative_keep:
        survivors = round(ratio * size)
        if survivors < 2:
            values = ", ".join(f"{kept / size:.3g}" for kept in range(2, size))
            raise ConfigError(
                f"{NAME}.keep_ratio = {rule.keep_ratio:g}: leaves {survivors} of the {size} rollouts of a prompt "
                f"({ROLLOUT}.n); every probe must leave at least 2, so use one of {values} or more rollouts"
            )
    if rule.min_survivors > survivors:
        raise ConfigError(
            f"{NAME}.min_survivors = {rule.min_survivors}: more than the {survivors} of a prompt that keep_ratio "
            f"leaves; lower it to {survivors}"
        )
    return survivors


@dataclass(frozen=True)
class MiniBatches:
    """Size of the mini-batches of each step."""

    paths: tuple[str, ...]
    """Settings of verl that hold it, in prompts: the actor's, and the critic's where there is one."""
    updates: tuple[int, ...]
    """Mini-batches of an unpruned step, for each path."""
    group_size: int
    ranks: int

    @classmethod
    def of(cls, config: Config, batch: Batch) -> MiniBatches:
        paths = tuple(f"{node}.ppo_mini_batch_size" for node in trained_nodes(config))
        updates = tuple(-(-batch.prompts // int(at(config, path, 1))) for path in paths)
        return cls(paths, updates, batch.group_size, data_parallel_ranks(config))

    def sizes(self, rows: int) -> tuple[int, ...]:
        """``ppo_mini_batch_size`` of each path for a step with so many rows."""
        whole = self.ranks // math.gcd(self.ranks, self.group_size)  # prompts whose rows divide evenly over the ranks
        most = math.lcm(*self.updates)
        smallest = whole * max(-(-rows // (most * whole * self.group_size)), 1)
        return tuple(smallest * most // updates for updates in self.updates)

    def metrics(self, rows: int) -> dict[str, float]:
        """Rows of a step, synthetic rows that verl adds to them, and mini-batches of the actor."""
        sizes = [size * self.group_size for size in self.sizes(rows)]
        synthetic = -rows % math.lcm(self.ranks, *sizes)
        return {
            "batch/rows": float(rows),
            "batch/synthetic_rows": float(synthetic),
            "batch/mini_batches": float((rows + synthetic) // sizes[0]),
        }


SHARED = {
    "megatron": ("megatron.tensor_model_parallel_size", "megatron.pipeline_model_parallel_size",
                 "megatron.context_parallel_size"),
    "veomni": ("veomni.ulysses_parallel_size",),
    "torchtitan": ("torchtitan.tensor_parallel_size", "torchtitan.pipeline_parallel_size",
                   "torchtitan.context_parallel_size"),
    "automodel": ("automodel.tp_size", "automodel.pp_size", "automodel.cp_size"),
}  # fmt: skip
"""Engine of verl -> its settings, below the actor, whose product is the number of ranks that share a row."""
ULYSSES = ("ulysses_sequence_parallel_size", "fsdp_config.ulysses_sequence_parallel_size")
"""Names of one setting of FSDP; verl takes the first where it is above 1."""


def data_parallel_ranks(config: Config) -> int:
    """Ranks of the actor that each see a part of the batch."""
    world = int(at(config, "trainer.n_gpus_per_node", 1)) * int(at(config, "trainer.nnodes", 1))
    names = SHARED.get(at(config, f"{ACTOR}.strategy"))
    if names is None:
        shared = max(int(at(config, f"{ACTOR}.{name}", 1)) for name in ULYSSES)
    else:
        shared = math.prod(int(at(config, f"{ACTOR}.{name}", 1)) for name in names)
    return max(world // shared, 1)


def trained_nodes(config: Config) -> list[str]:
    """Paths of what is trained; verl runs a critic by the same rule."""
    has_critic = at(config, "critic.enable", at(config, "algorithm.adv_estimator") == "gae")
    return [ACTOR, "critic"] if has_critic else [ACTOR]


class Micro(NamedTuple):
    """How one forward pass of verl is cut into micro-batches."""

    node: str
    prefix: str
    """Prefix of its settings: ``ppo`` trains, ``log_prob`` and ``forward`` do not."""
    switch: str
    """Setting that makes micro-batches of tokens instead of rows."""

    @property
    def tokens(self) -> str:
        """Setting with the tokens of a dynamic micro-batch."""
        return f"{self.node}.{self.prefix}_max_token_len_per_gpu"

    @property
    def rows(self) -> str:
        """Setting with the rows of a static micro-batch."""
        return f"{self.node}.{self.prefix}_micro_batch_size_per_gpu"


def micro_batches(config: Config) -> list[Micro]:
    """Forward passes of a step: a static micro-batch need not divide a batch smaller than verl's own."""
    found = [Micro(ACTOR, "ppo", "use_dynamic_bsz"), Micro(ROLLOUT, "log_prob", "log_prob_use_dynamic_bsz")]
    if "critic" in trained_nodes(config):
        found += [Micro("critic", prefix, "use_dynamic_bsz") for prefix in ("ppo", "forward")]
    if at(config, f"{ACTOR}.use_kl_loss", False) or at(config, "algorithm.use_kl_in_reward", False):
        found.append(Micro(REFERENCE, "log_prob", "log_prob_use_dynamic_bsz"))
    return found


def options_of(config: Config) -> VerlOptions:
    """The options under ``arrol`` in verl's config."""
    return parse_options(at(config, NAME, {}), int(at(config, f"{ROLLOUT}.response_length", 0)))


def longest_row(config: Config) -> int:
    """Tokens of the longest row of a batch, synthetic rows included."""
    lengths = [int(at(config, f"{ROLLOUT}.{name}_length", 0)) for name in ("prompt", "response")]
    return max(sum(lengths), SYNTHETIC_TOKENS)


def total_steps(config: Config) -> int:
    """Training steps of the whole run, 0 where verl's config does not say; its trainer writes them there at start."""
    total = at(config, "trainer.total_training_steps")
    if total is None:  # the updates of the whole run
        updates = at(config, f"{ACTOR}.optim.total_training_steps", -1)
        total = updates // at(config, f"trainer.v1.{at(config, 'trainer.v1.trainer_mode')}.parameter_sync_step", 1)
    return max(int(total), 0)
