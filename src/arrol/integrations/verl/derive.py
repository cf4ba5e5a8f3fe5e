"""Settings that a verl command needs when it prunes. Pure functions of verl's config.

The loss is exact for ``token-mean``; for ``seq-mean-*`` the smaller mini-batch is the denominator. Warm-up steps make
1/keep_ratio times as many updates. An allocation rule that skips prompts multiplies the batch of the data and the
epochs by its candidates, and a step trains what it did.
"""

from __future__ import annotations

from arrol.configs.allocation import PodsAllocation
from arrol.errors import ConfigError
from arrol.integrations.verl.batch import DRAWN, EPOCHS, ROLLOUT, Batch, Config, at, dynamic_switches, mini_batches
from arrol.integrations.verl.options import NAME, VerlOptions, parse_options
from arrol.integrations.verl.refusals import VLLM, refuse_unsound
from arrol.integrations.verl.rules import candidates

MANAGER = f"{ROLLOUT}.agent.agent_loop_manager_class"
MANAGER_CLASS = "arrol.integrations.verl.AgentLoopManager"
CALLBACK, CALLBACK_CLASS = "trainer.checkpoint_callback_class", "arrol.integrations.verl.HeadSaver"
SAMPLER = "trainer.v1.sampler.custom_sampler"
SAMPLER_PATH, SAMPLER_CLASS = "pkg://arrol.integrations.verl", "MetricsReplayBuffer"
SCHEDULER, CONFIDENCE_SCHEDULER = "arrol.engines.vllm.PruningScheduler", "arrol.engines.vllm.ConfidenceScheduler"
WORKER = "arrol.engines.vllm.PruningWorker"
OVERLONG = "reward.reward_kwargs.overlong_buffer_cfg"


def derived_overrides(config: Config) -> list[str]:
    """Lines to add to a command that was written for verl without pruning; ConfigError where no line can help."""
    options, lines = parse_options(at(config, NAME, {})), []
    if at(config, MANAGER) != MANAGER_CLASS:
        lines.append(f"+{MANAGER}={MANAGER_CLASS}")
    if not options.is_active:
        return lines
    refuse_unsound(config, options)
    batch = Batch.of(config, options, drawn=False)
    for path in mini_batches(config):
        given = int(at(config, path, 1))
        shrunk = batch.shrunk(given)
        if shrunk.denominator != 1:
            raise ConfigError(
                f"{path} = {given}: times {batch.train_size}/{batch.group_size} it is {float(shrunk):g}; "
                f"use a multiple of {batch.shrunk(1).denominator}"
            )
        batch.refuse_padding(path, int(shrunk), options.host.pruning.warmup_steps)
        if shrunk != given:
            lines.append(f"{path}={shrunk}")
    factor = candidates(options.host.allocation)
    if factor > 1:
        lines += [f"{path}={factor * int(at(config, path, 1))}" for path in (DRAWN, EPOCHS)]
    for path, value, _ in _needed(config, options, batch):
        lines.append(f"{'+' if at(config, path) is None else ''}{path}={value}")
    if at(config, CALLBACK) is None:
        lines.append(f"{CALLBACK}={CALLBACK_CLASS}")
    if at(config, f"{SAMPLER}.path") is None and not _is_sampler_taken(config):
        lines += [f"{SAMPLER}.path={SAMPLER_PATH}", f"{SAMPLER}.name={SAMPLER_CLASS}"]
    return lines


def check(config: Config) -> VerlOptions:
    """The options, when the whole config is sound; ConfigError with one line otherwise. Run by the manager at start."""
    options, sampler = parse_options(at(config, NAME, {})), at(config, f"{SAMPLER}.name")
    if sampler == SAMPLER_CLASS and _is_sampler_taken(config):
        raise ConfigError(
            f"{SAMPLER}.name = {SAMPLER_CLASS!r}: a custom sampler neither filters groups nor refills failed ones; "
            "leave out the two custom_sampler lines, or filter_groups and sync_refill_failed_groups"
        )
    if not options.is_active:
        return options
    refuse_unsound(config, options)
    batch = Batch.of(config, options)
    for path in mini_batches(config):
        batch.refuse_padding(path, int(at(config, path, 1)), options.host.pruning.warmup_steps)
    if isinstance(options.host.allocation, PodsAllocation) and sampler != SAMPLER_CLASS:
        raise ConfigError(
            f"{SAMPLER}.name = {sampler!r}: {NAME}.allocation.rule = 'pods' chooses rows there; set it to "
            f"{SAMPLER_CLASS}, and its path to {SAMPLER_PATH}"
        )
    for path, value, reason in _needed(config, options, batch):
        raise ConfigError(f"{path} = {at(config, path)!r}: {reason}; set it to {value}")
    return options


def notes(config: Config) -> list[str]:
    """Warnings about a command that works."""
    options, found = parse_options(at(config, NAME, {})), []
    if at(config, CALLBACK) not in (None, CALLBACK_CLASS):
        found.append(f"{CALLBACK} is yours: call arrol.integrations.verl.HeadSaver.on_save from it to save the head")
    if _is_sampler_taken(config) or at(config, f"{SAMPLER}.name") not in (None, SAMPLER_CLASS):
        found.append("verl's sampler is taken (yours, filter_groups, or a refill): arrol/* metrics are not logged")
    if at(config, f"{OVERLONG}.enable") and (options.has_head or options.has_allocation):
        found.append(
            f"{OVERLONG} lowers rewards before they are compared with {NAME}.success_threshold: a right answer near "
            "the length limit may count as wrong"
        )
    return found


def _is_sampler_taken(config: Config) -> bool:
    """Group filtering or refills are on, which a custom sampler would replace."""
    refills = at(config, "trainer.v1.sampler.sync_refill_failed_groups", False)
    return bool(refills or at(config, "algorithm.filter_groups.enable", False))


def _needed(config: Config, options: VerlOptions, batch: Batch) -> list[tuple[str, str, str]]:
    """Path, value and reason of settings that pruning needs and that differ in the config."""
    reason = "static micro-batches need not divide the survivors"
    needed = [(path, "True", reason) for path in dynamic_switches(config, batch)]
    if options.way == "engine" and options.host.pruning.has_probes:
        reason = "way engine needs arrol's class"
        needed.append((f"{VLLM}.scheduler_cls", SCHEDULER if options.has_head else CONFIDENCE_SCHEDULER, reason))
        if options.has_head:
            needed.append((f"{VLLM}.worker_cls", WORKER, reason))
    return [(path, value, reason) for path, value, reason in needed if str(at(config, path)) != value]
