"""Settings that a verl command needs when it prunes. Pure functions of verl's config.

The loss is exact for ``token-mean``; for ``seq-mean-*`` the rows of a mini-batch, synthetic ones included, are the
denominator. An allocation rule that skips prompts multiplies the batch of the data and the epochs by its candidates,
and a step trains what it did.
"""

from __future__ import annotations

from arrol.errors import ConfigError
from arrol.integrations.verl.batch import (
    DRAWN,
    EPOCHS,
    ROLLOUT,
    Batch,
    Config,
    at,
    longest_row,
    micro_batches,
    options_of,
)
from arrol.integrations.verl.options import NAME, VerlOptions
from arrol.integrations.verl.refusals import VLLM, refuse_unsound
from arrol.integrations.verl.rules import candidates

MANAGER = f"{ROLLOUT}.agent.agent_loop_manager_class"
MANAGER_CLASS = "arrol.integrations.verl.AgentLoopManager"
CALLBACK, CALLBACK_CLASS = "trainer.checkpoint_callback_class", "arrol.integrations.verl.HeadSaver"
SAMPLER = "trainer.v1.sampler.custom_sampler"
FILTERS = "trainer.v1.sampler.sampler_kwargs"
SAMPLER_PATH, SAMPLER_CLASS = "pkg://arrol.integrations.verl", "MetricsReplayBuffer"
SCHEDULER, CONFIDENCE_SCHEDULER = "arrol.engines.vllm.PruningScheduler", "arrol.engines.vllm.ConfidenceScheduler"
WORKER = "arrol.engines.vllm.PruningWorker"
OVERLONG = "reward.reward_kwargs.overlong_buffer_cfg"


def derived_overrides(config: Config) -> list[str]:
    """Lines to add to a command that was written for verl without pruning; ConfigError where no line can help."""
    options, lines = options_of(config), []
    if at(config, MANAGER) != MANAGER_CLASS:
        lines.append(f"+{MANAGER}={MANAGER_CLASS}")
    if not options.is_active:
        return lines
    refuse_unsound(config, options)
    batch = Batch.of(config, options, drawn=False)
    factor = candidates(options.host.allocation)
    if factor > 1:
        lines += [f"{path}={factor * int(at(config, path, 1))}" for path in (DRAWN, EPOCHS)]
    needed = {path: value for path, value, _ in _needed(config, options, batch)}
    for path, value in {**needed, **_tokens_of_rows(config, options, batch)}.items():
        lines.append(f"{'' if _is_known(config, path) else '+'}{path}={value}")
    if at(config, CALLBACK) is None:
        lines.append(f"{CALLBACK}={CALLBACK_CLASS}")
    return lines


def check(config: Config) -> VerlOptions:
    """The options, when the whole config is sound; ConfigError with one line otherwise. Run by the manager at start."""
    options = options_of(config)
    if not options.is_active:
        return options
    refuse_unsound(config, options)
    for path, value, reason in _needed(config, options, Batch.of(config, options)):
        raise ConfigError(f"{path} = {at(config, path)!r}: {reason}; set it to {value}")
    return options


def notes(config: Config) -> list[str]:
    """Warnings about a command that works."""
    options, found = options_of(config), []
    if at(config, CALLBACK) not in (None, CALLBACK_CLASS):
        found.append(f"{CALLBACK} is yours: call arrol.integrations.verl.HeadSaver.on_save from it to save the head")
    if at(config, f"{NAME}.barrier_timeout") is not None:
        unit = "seconds" if options.way == "two_calls" else "decode steps"
        found.append(f"{NAME}.barrier_timeout = {options.host.pruning.barrier_timeout:g} {unit}")
    if at(config, f"{OVERLONG}.enable") and (options.has_head or options.has_allocation):
        found.append(
            f"{OVERLONG} lowers rewards before they are compared with {NAME}.success_threshold: a right answer near "
            "the length limit may count as wrong"
        )
    return found


def _needed(config: Config, options: VerlOptions, batch: Batch) -> list[tuple[str, str, str]]:
    """Path, value and reason of settings that pruning needs and that differ in the config."""
    needed = []
    if _varies(options, batch):
        reason, longest = "static micro-batches need not divide the survivors", longest_row(config)
        needed += [(f"{micro.node}.{micro.switch}", "True", reason) for micro in micro_batches(config)]
        reason = "a row of prompt and response has to fit"
        short = [micro.tokens for micro in micro_batches(config) if 0 < int(at(config, micro.tokens, 0)) < longest]
        needed += [(path, str(longest), reason) for path in short]
    reason = "arrol sizes mini-batches, chooses rows and logs there"
    if at(config, f"{SAMPLER}.path") is None:
        needed.append((f"{SAMPLER}.path", SAMPLER_PATH, reason))
    needed.append((f"{SAMPLER}.name", SAMPLER_CLASS, reason))
    needed += [(f"{FILTERS}.{name}", value, "arrol's sampler reads it there") for name, value in _filters(config)]
    if options.way == "engine" and options.host.pruning.has_probes:
        reason = "way engine needs arrol's class"
        needed.append((f"{VLLM}.scheduler_cls", SCHEDULER if options.has_head else CONFIDENCE_SCHEDULER, reason))
        if options.has_head:
            needed.append((f"{VLLM}.worker_cls", WORKER, reason))
    unique = dict.fromkeys(needed)
    return [(path, value, reason) for path, value, reason in unique if str(at(config, path)) != value]


def _varies(options: VerlOptions, batch: Batch) -> bool:
    """Steps may train other numbers of rows than verl's own."""
    return options.host.pruning.rule != "never" or batch.train_size != batch.group_size


def _tokens_of_rows(config: Config, options: VerlOptions, batch: Batch) -> dict[str, int]:
    """Dynamic micro-batches that hold as many tokens as the static ones of the command did at most."""
    found = {}
    for micro in micro_batches(config) if _varies(options, batch) else []:
        rows = at(config, micro.rows)
        if rows and not at(config, f"{micro.node}.{micro.switch}", False):
            found[micro.tokens] = int(rows) * longest_row(config)
    return found


def _filters(config: Config) -> list[tuple[str, str]]:
    """What verl tells its own sampler about group filtering and refills, and a custom one not."""
    found = []
    if at(config, "algorithm.filter_groups.enable", False):
        node = "algorithm.filter_groups"
        found += [("filter_groups_metric", str(at(config, f"{node}.metric", "reward")))]
        found += [("max_inflight_gen_batches", str(at(config, f"{node}.max_inflight_gen_batches", 1)))]
    if at(config, "trainer.v1.sampler.sync_refill_failed_groups", False):
        found.append(("sync_refill_failed_groups", "True"))
    return [*found, ("train_batch_size", str(at(config, DRAWN, 1)))] if found else []


def _is_known(config: Config, path: str) -> bool:
    """The config has this key, perhaps with the value null."""
    parent, name = path.rsplit(".", 1)
    return name in at(config, parent, {})
