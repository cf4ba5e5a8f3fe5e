"""What else a verl command needs when it prunes, and what would go wrong in silence. Pure functions of verl's config.

A pruned batch is smaller. verl 0.9 fills it up with synthetic rows of 128 tokens to a multiple of lcm(data-parallel
ranks, mini-batch), so the mini-batch must shrink with the batch:

    survivors per prompt  k = keep_ratio n                      n = rollout.n, a whole number, at least 2
    ppo_mini_batch_size'  = ppo_mini_batch_size k / n           as many updates per step as before
    rows of a step        = train_batch_size k                  a multiple of lcm(ranks, ppo_mini_batch_size' n)

Warm-up steps keep everybody, so train_batch_size n rows must be a multiple of it as well; they are 1/keep_ratio times
as many updates. The loss is exact for ``token-mean``; for ``seq-mean-*`` the smaller mini-batch is the denominator.

Allocation: with ``pods`` k is ``train_size``, in warm-up too. A rule that passes prompts over needs candidates: a batch
of the data is that many times as large, there are that many times as many epochs, and a step trains what it did.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from arrol.configs.allocation import KnapsackAllocation, PodsAllocation
from arrol.errors import ConfigError
from arrol.integrations.verl.options import PATH, VerlOptions, parse_options
from arrol.integrations.verl.plugin import trl_conflict
from arrol.integrations.verl.rules import candidates, train_size

ACTOR, ROLLOUT, REFERENCE = "actor_rollout_ref.actor", "actor_rollout_ref.rollout", "actor_rollout_ref.ref"
DRAWN, EPOCHS = "data.train_batch_size", "trainer.total_epochs"
MANAGER = f"{ROLLOUT}.agent.agent_loop_manager_class"
MANAGER_CLASS = "arrol.integrations.verl.AgentLoopManager"
CALLBACK, CALLBACK_CLASS = "trainer.checkpoint_callback_class", "arrol.integrations.verl.HeadSaver"
SAMPLER = "trainer.v1.sampler.custom_sampler"
SAMPLER_PATH, SAMPLER_CLASS = "pkg://arrol.integrations.verl", "MetricsReplayBuffer"
AGENT_LOOP = "single_turn_agent"
"""The only agent loop of verl that can be cut."""
SCHEDULER, CONFIDENCE_SCHEDULER = "arrol.engines.vllm.PruningScheduler", "arrol.engines.vllm.ConfidenceScheduler"
SERVED_HEAD = "ARROL_ESTIMATOR"
"""Environment variable that names a finished head to vLLM's workers."""
WORKER = "arrol.engines.vllm.PruningWorker"

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
    survivors: int
    """Per prompt; those that train, where an allocation rule leaves some out."""
    ranks: int
    """Data-parallel ranks of the actor."""
    warm: int
    """The same in warm-up."""

    @classmethod
    def of(cls, config: Config, options: VerlOptions, *, drawn: bool = True) -> Batch:
        """ConfigError where the number of survivors is not whole, or below 2.

        ``drawn``: the batch size counts candidates already.
        """
        size, rule, allocation = int(at(config, f"{ROLLOUT}.n", 1)), options.host.pruning, options.host.allocation
        prompts, factor = int(at(config, DRAWN, 1)), candidates(allocation) if drawn else 1
        if prompts % factor:
            raise ConfigError(
                f"{DRAWN} = {prompts}: with {factor} candidates per prompt of {PATH}.allocation.rule = "
                f"{allocation.rule!r} it must be a multiple of {factor}"
            )
        survivors = size
        if options.looks and rule.rule != "never":
            survivors = _survivors(options, size)
        trained = train_size(allocation, survivors)
        if trained > survivors:
            raise ConfigError(
                f"{PATH}.allocation.train_size = {trained}: more than the {survivors} rollouts of a prompt that there "
                f"are; lower it"
            )
        warm = train_size(allocation, size)
        return cls(prompts // factor, size, trained, data_parallel_ranks(config), warm)

    def padding(self, mini_batch_size: int, survivors: int) -> int:
        """Synthetic rows that verl would add to a batch of so many survivors per prompt."""
        multiple = math.lcm(self.ranks, mini_batch_size * self.group_size)
        return -(self.prompts * survivors) % multiple

    def shrunk(self, mini_batch_size: int) -> Fraction:
        """The mini-batch that leaves the number of updates as it is."""
        return Fraction(mini_batch_size * self.survivors, self.group_size)


def _survivors(options: VerlOptions, size: int) -> int:
    """Of a group, after its last probe."""
    rule = options.host.pruning
    for ratio in rule.cumulative_keep:
        survivors = Fraction(ratio).limit_denominator(1000) * size
        if survivors.denominator != 1 or survivors < 2:
            raise ConfigError(
                f"{PATH}.keep_ratio = {rule.keep_ratio:g} of {ROLLOUT}.n = {size}: leaves {float(survivors):g} "
                "rollouts of a prompt; choose them so that every probe leaves a whole number of at least 2"
            )
    if rule.min_survivors > survivors:
        raise ConfigError(
            f"{PATH}.min_survivors = {rule.min_survivors}: more than the {survivors} that keep_ratio leaves of a "
            f"prompt; lower it to {survivors}"
        )
    return int(survivors)


def data_parallel_ranks(config: Config) -> int:
    """Of the actor, from the sizes that verl divides the GPUs by."""
    world = int(at(config, "trainer.n_gpus_per_node", 1)) * int(at(config, "trainer.nnodes", 1))
    if at(config, f"{ACTOR}.strategy") == "megatron":
        names = ("tensor_model_parallel_size", "pipeline_model_parallel_size", "context_parallel_size")
        shared = math.prod(int(at(config, f"{ACTOR}.megatron.{name}", 1)) for name in names)
    else:
        shared = int(at(config, f"{ACTOR}.ulysses_sequence_parallel_size", 1))
    return max(world // shared, 1)


def derived_overrides(config: Config) -> list[str]:
    """Lines to add to a command that was written for verl without pruning; refuses what no line can mend."""
    options, lines = parse_options(at(config, PATH, {})), []
    if at(config, MANAGER) != MANAGER_CLASS:
        lines.append(f"+{MANAGER}={MANAGER_CLASS}")
    if not options.acts:
        return lines
    refuse_unsound(config, options)
    batch, warmup_steps = Batch.of(config, options, drawn=False), options.host.pruning.warmup_steps
    for path in mini_batches(config):
        given = int(at(config, path, 1))
        shrunk = batch.shrunk(given)
        if shrunk.denominator != 1:
            raise ConfigError(
                f"{path} = {given}: times {batch.survivors}/{batch.group_size} it is {float(shrunk):g}; "
                f"choose a multiple of {batch.shrunk(1).denominator}"
            )
        refuse_padding(batch, path, int(shrunk), warmup_steps)
        if shrunk != given:
            lines.append(f"{path}={shrunk}")
    factor = candidates(options.host.allocation)
    if factor > 1:
        lines += [f"{path}={factor * int(at(config, path, 1))}" for path in (DRAWN, EPOCHS)]
    lines += [f"{path}=True" for path in dynamic_switches(config, batch) if not at(config, path, False)]
    lines += _hooks(config) + _engine_lines(config, options)
    return lines


def check(config: Config) -> VerlOptions:
    """The options, when the whole config is sound; ConfigError with one line otherwise. Run by the manager at start."""
    options = parse_options(at(config, PATH, {}))
    if at(config, f"{SAMPLER}.name") == SAMPLER_CLASS and _is_sampler_taken(config):
        raise ConfigError(
            f"{SAMPLER}.name = {SAMPLER_CLASS!r}: with a custom sampler verl neither filters groups nor refills failed "
            "ones; leave out the two custom_sampler lines, or filter_groups and sync_refill_failed_groups"
        )
    if not options.acts:
        return options
    refuse_unsound(config, options)
    batch = Batch.of(config, options)
    for path in mini_batches(config):
        refuse_padding(batch, path, int(at(config, path, 1)), options.host.pruning.warmup_steps)
    if isinstance(options.host.allocation, PodsAllocation) and at(config, f"{SAMPLER}.name") != SAMPLER_CLASS:
        raise ConfigError(
            f"{SAMPLER}.name = {at(config, f'{SAMPLER}.name')!r}: {PATH}.allocation.rule = 'pods' chooses rows there; "
            f"set it to {SAMPLER_CLASS}, and its path to {SAMPLER_PATH}"
        )
    for path in dynamic_switches(config, batch):
        if not at(config, path, False):
            raise ConfigError(f"{path} = False: static micro-batches need not divide the survivors; set it to True")
    for key, value in _engine_settings(options):
        if at(config, f"{ROLLOUT}.engine_kwargs.vllm.{key}") != value:
            raise ConfigError(f"{ROLLOUT}.engine_kwargs.vllm.{key}: way engine needs {value}; set it")
    return options


def refuse_padding(batch: Batch, path: str, mini_batch_size: int, warmup_steps: int) -> None:
    """ConfigError where verl would fill a batch up, in a pruned step or in warm-up."""
    rows = batch.padding(mini_batch_size, batch.survivors)
    if rows:
        raise ConfigError(
            f"{path} = {mini_batch_size}: verl would add {rows} synthetic rows to the "
            f"{batch.prompts * batch.survivors} survivors of a step on {batch.ranks} ranks; use "
            f"{float(batch.shrunk(batch.prompts)):g} or a divisor of it, and a number of survivors that the ranks share"
        )
    rows = batch.padding(mini_batch_size, batch.warm) if warmup_steps else 0
    if rows:
        raise ConfigError(
            f"{PATH}.warmup_steps = {warmup_steps}: verl would add {rows} synthetic rows to the unpruned "
            f"{batch.prompts * batch.warm}; set warmup_steps=0, or a keep_ratio like 0.5 or 0.25"
        )


def trained_nodes(config: Config) -> list[str]:
    """Where verl's config holds the settings of what is trained."""
    return [ACTOR, "critic"] if has_critic(config) else [ACTOR]


def mini_batches(config: Config) -> list[str]:
    """Paths of the mini-batch sizes, in prompts."""
    return [f"{node}.ppo_mini_batch_size" for node in trained_nodes(config)]


def dynamic_switches(config: Config, batch: Batch) -> list[str]:
    """Everything that splits a batch into micro-batches, where it is smaller than verl's own."""
    if batch.survivors == batch.group_size:
        return []
    switches = [f"{node}.use_dynamic_bsz" for node in trained_nodes(config)] + [f"{ROLLOUT}.log_prob_use_dynamic_bsz"]
    if at(config, f"{ACTOR}.use_kl_loss", False) or at(config, "algorithm.use_kl_in_reward", False):
        switches.append(f"{REFERENCE}.log_prob_use_dynamic_bsz")
    return switches


def has_critic(config: Config) -> bool:
    """verl's own rule."""
    return bool(at(config, "critic.enable", at(config, "algorithm.adv_estimator") == "gae"))


def refuse_unsound(config: Config, options: VerlOptions) -> None:
    """ConfigError for the first setting that would go wrong in silence, or late, in a pruned run."""
    for path, is_wrong, advice in _refusals(config, options):
        if is_wrong:
            raise ConfigError(f"{path} = {at(config, path)!r}: {advice}")
    conflict = trl_conflict()
    if conflict:
        raise ConfigError(conflict)


def _refusals(config: Config, options: VerlOptions) -> list[tuple[str, bool, str]]:
    """(path, whether it is wrong, reason and next step)."""

    def on(path: str, default: bool = False) -> bool:
        return bool(at(config, path, default))

    last_probe, limit = options.host.pruning.probe_tokens[-1], at(config, f"{ROLLOUT}.response_length", 0)
    engine, vllm = options.way == "engine", f"{ROLLOUT}.engine_kwargs.vllm"
    stop_words = {"stop", "stop_token_ids"} & set(at(config, f"{vllm}.override_generation_config", {}))
    learns_blind = (options.learns or options.allocates) and on("reward.reward_model.enable") and not on(
        "reward.reward_model.enable_resource_pool"
    )  # fmt: skip
    passes_over = candidates(options.host.allocation) > 1
    refills = "verl cannot refill a batch of which prompts are passed over; set it to False, or use another allocation"
    return [
        ("trainer.use_v1", not on("trainer.use_v1", True),
         "the old trainer cannot leave out a rollout; set it to True"),
        ("trainer.v1.trainer_mode", at(config, "trainer.v1.trainer_mode", "sync") != "sync",
         "only sync is supported; set it to sync"),
        ("algorithm.adv_estimator", at(config, "algorithm.adv_estimator", "grpo") == "remax",
         "remax pairs rollouts by place; use grpo or another one that groups by prompt"),
        (f"{ROLLOUT}.n", int(at(config, f"{ROLLOUT}.n", 1)) < 2,
         "pruning chooses among the rollouts of a prompt; use 4 or more"),
        ("algorithm.filter_groups.enable", passes_over and on("algorithm.filter_groups.enable"), refills),
        ("trainer.v1.sampler.sync_refill_failed_groups",
         passes_over and on("trainer.v1.sampler.sync_refill_failed_groups"), refills),
        *_refused_sizes(config, options),
        (f"{PATH}.probe_tokens", options.looks and limit and last_probe >= limit,
         f"not before the end of a response ({ROLLOUT}.response_length = {limit}); look earlier"),
        (f"{ROLLOUT}.calculate_log_probs", options.looks and not on(f"{ROLLOUT}.calculate_log_probs", True),
         "the head reads log-probabilities; set it to True"),
        (f"{ROLLOUT}.agent.default_agent_loop",
         at(config, f"{ROLLOUT}.agent.default_agent_loop", AGENT_LOOP) != AGENT_LOOP,
         f"only {AGENT_LOOP} can be pruned; leave it out"),
        (f"{ROLLOUT}.multi_turn.enable", on(f"{ROLLOUT}.multi_turn.enable"),
         "rollouts of several turns are not pruned; set it to False"),
        ("reward.reward_model.enable", learns_blind,
         "its rewards come after the rollouts and teach nothing here; give it a resource pool, or use rule uniform and "
         "no allocation rule"),
        (f"{vllm}.override_generation_config", bool(stop_words),
         "stop words look like pruning to arrol; leave them out"),
        (f"{ROLLOUT}.name", engine and at(config, f"{ROLLOUT}.name") != "vllm",
         "way engine needs vllm; set it, or leave out arrol.way"),
        (f"{PATH}.rule", engine and options.learns and not _has_served_head(config),
         f"way engine learns no head; name a finished one in {SERVED_HEAD}, or use rule uniform or confidence"),
        (f"{ROLLOUT}.full_determinism", engine and on(f"{ROLLOUT}.full_determinism"),
         "way engine shares one request id among siblings; set it to False, or leave out arrol.way"),
    ]  # fmt: skip


def _refused_sizes(config: Config, options: VerlOptions) -> list[tuple[str, bool, str]]:
    """Knapsack: the budget of verl's batch must fit between the smallest and the largest groups."""
    allocation, size = options.host.allocation, int(at(config, f"{ROLLOUT}.n", 1))
    if not isinstance(allocation, KnapsackAllocation):
        return []
    node = f"{PATH}.allocation"
    return [
        (f"{node}.least", allocation.least > size, f"more than {ROLLOUT}.n = {size}; lower it"),
        (f"{node}.max_group", 0 < allocation.max_group < size, f"less than {ROLLOUT}.n = {size}; raise it"),
    ]


def _has_served_head(config: Config) -> bool:
    """Servers inherit the driver's environment on one node, and Ray's runtime environment on all."""
    runtime = at(config, f"ray_kwargs.ray_init.runtime_env.env_vars.{SERVED_HEAD}")
    return bool(os.environ.get(SERVED_HEAD) or runtime)


def _hooks(config: Config) -> list[str]:
    """verl's own hooks, where the user has not taken them: the head's checkpoint, the metrics."""
    lines = []
    if at(config, CALLBACK) is None:
        lines.append(f"{CALLBACK}={CALLBACK_CLASS}")
    if at(config, f"{SAMPLER}.path") is None and not _is_sampler_taken(config):
        lines += [f"{SAMPLER}.path={SAMPLER_PATH}", f"{SAMPLER}.name={SAMPLER_CLASS}"]
    return lines


def _is_sampler_taken(config: Config) -> bool:
    """What verl's own sampler does and a custom one would have to do itself."""
    refills = at(config, "trainer.v1.sampler.sync_refill_failed_groups", False)
    return bool(refills or at(config, "algorithm.filter_groups.enable", False))


def notes(config: Config) -> list[str]:
    """What a user should know about hooks that are taken."""
    taken = []
    if at(config, CALLBACK) not in (None, CALLBACK_CLASS):
        taken.append(f"{CALLBACK} is yours: call arrol.integrations.verl.HeadSaver.on_save from it to keep the head")
    if _is_sampler_taken(config) or at(config, f"{SAMPLER}.name") not in (None, SAMPLER_CLASS):
        taken.append("verl's sampler is taken (yours, filter_groups, or a refill): arrol/* metrics are not logged")
    return taken


def _engine_settings(options: VerlOptions) -> list[tuple[str, str]]:
    """Way B: vLLM's classes. Rules that read a head need the worker that scores."""
    if options.way != "engine" or not options.looks:
        return []
    if not options.learns:
        return [("scheduler_cls", CONFIDENCE_SCHEDULER)]
    return [("scheduler_cls", SCHEDULER), ("worker_cls", WORKER)]


def _engine_lines(config: Config, options: VerlOptions) -> list[str]:
    path = f"{ROLLOUT}.engine_kwargs.vllm"
    return [
        f"+{path}.{key}={value}" for key, value in _engine_settings(options) if at(config, f"{path}.{key}") != value
    ]
