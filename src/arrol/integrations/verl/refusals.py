"""Settings of a verl command that would go wrong late or in silence when it prunes. Pure functions, but for one file.

The model's ``config.json`` is read where ``actor_rollout_ref.model.path`` is a folder of this machine.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from arrol.configs.allocation import KnapsackAllocation
from arrol.errors import ConfigError
from arrol.integrations.verl.batch import ROLLOUT, Config, at
from arrol.integrations.verl.options import NAME, VerlOptions
from arrol.integrations.verl.plugin import trl_conflict
from arrol.integrations.verl.rules import Refusal, candidates, refuse

AGENT_LOOP = "single_turn_agent"
"""The only agent loop of verl that can be pruned."""
VLLM = f"{ROLLOUT}.engine_kwargs.vllm"
SERVED_HEAD = "ARROL_ESTIMATOR"
"""Environment variable with the path of a trained head for vLLM's workers."""
MODEL = "actor_rollout_ref.model"


def refuse_unsound(config: Config, options: VerlOptions) -> None:
    """ConfigError for the first setting that would go wrong in a pruned run."""
    refuse((path, at(config, path), is_wrong, advice) for path, is_wrong, advice in _of_verl(config, options))
    refuse(_of_options(config, options))
    conflict = trl_conflict()
    if conflict:
        raise ConfigError(conflict)


def _of_verl(config: Config, options: VerlOptions) -> list[tuple[str, object, str]]:
    """Settings of verl: path, whether its value is wrong, reason and next step."""
    agent, mode = f"{ROLLOUT}.agent.default_agent_loop", "trainer.v1.trainer_mode"
    stop_words = {"stop", "stop_token_ids"} & set(at(config, f"{VLLM}.override_generation_config", {}))
    reads_rewards = options.has_head or options.has_allocation
    skips = candidates(options.host.allocation) > 1
    refills = "verl cannot refill a batch with skipped prompts; set it to False, or use another allocation rule"
    prompt, positions = at(config, f"{ROLLOUT}.prompt_length", 0), max_positions(config)
    response = at(config, f"{ROLLOUT}.response_length", 0)
    return [
        ("trainer.use_v1", not at(config, "trainer.use_v1", True),
         "the old trainer cannot leave out a rollout; set it to True"),
        (mode, at(config, mode, "sync") != "sync", "only sync is supported; set it to sync"),
        ("algorithm.adv_estimator", at(config, "algorithm.adv_estimator", "grpo") == "remax",
         "remax pairs rollouts by place; use grpo or another one that groups by prompt"),
        (f"{ROLLOUT}.n", int(at(config, f"{ROLLOUT}.n", 1)) < 2,
         "pruning chooses among the rollouts of a prompt; use 4 or more"),
        ("algorithm.filter_groups.enable", skips and at(config, "algorithm.filter_groups.enable"), refills),
        ("trainer.v1.sampler.sync_refill_failed_groups",
         skips and at(config, "trainer.v1.sampler.sync_refill_failed_groups"), refills),
        (f"{ROLLOUT}.response_length", 0 < positions < prompt + response,
         f"with prompt_length = {prompt} beyond the model's max_position_embeddings = {positions}; lower one of them"),
        (f"{ROLLOUT}.calculate_log_probs",
         options.host.pruning.has_probes and not at(config, f"{ROLLOUT}.calculate_log_probs", True),
         "probes read log-probabilities; set it to True"),
        (agent, at(config, agent, AGENT_LOOP) != AGENT_LOOP, f"only {AGENT_LOOP} can be pruned; leave it out"),
        (f"{ROLLOUT}.multi_turn.enable", at(config, f"{ROLLOUT}.multi_turn.enable"),
         "rollouts of several turns are not pruned; set it to False"),
        ("reward.reward_model.enable", reads_rewards and at(config, "reward.reward_model.enable")
         and not at(config, "reward.reward_model.enable_resource_pool"),
         "its rewards come after the rollouts, too late for the head; set enable_resource_pool, or use rule uniform "
         "without an allocation rule"),
        (f"{VLLM}.override_generation_config", bool(stop_words),
         "a rollout that ends at a stop word would count as pruned; leave them out"),
    ]  # fmt: skip


def _of_options(config: Config, options: VerlOptions) -> list[Refusal]:
    """Options that do not fit verl's settings."""
    pruning, allocation, engine = options.host.pruning, options.host.allocation, options.way == "engine"
    limit, size = at(config, f"{ROLLOUT}.response_length", 0), int(at(config, f"{ROLLOUT}.n", 1))
    served = os.environ.get(SERVED_HEAD) or at(config, f"ray_kwargs.ray_init.runtime_env.env_vars.{SERVED_HEAD}")
    server, is_determined = at(config, f"{ROLLOUT}.name"), at(config, f"{ROLLOUT}.full_determinism", False)
    refused: list[Refusal] = [
        (f"{NAME}.probe_tokens", pruning.probe_tokens[-1], pruning.has_probes and 0 < limit <= pruning.probe_tokens[-1],
         f"must be below {ROLLOUT}.response_length = {limit}; lower it"),
        (f"{ROLLOUT}.name", server, pruning.has_probes and server == "trtllm",
         "it ignores max_tokens, so no rollout can pause at a probe; use vllm or sglang"),
        (f"{ROLLOUT}.name", server, engine and server != "vllm",
         f"way engine needs vllm; set it, or leave out {NAME}.way"),
        (f"{NAME}.rule", pruning.rule, engine and options.has_head and not served,
         f"way engine trains no head; set {SERVED_HEAD} to a trained one, or use rule uniform or confidence"),
        (f"{ROLLOUT}.full_determinism", is_determined, engine and is_determined,
         f"in way engine siblings share one request id; set it to False, or leave out {NAME}.way"),
    ]  # fmt: skip
    if isinstance(allocation, KnapsackAllocation):
        node, least, most = f"{NAME}.allocation", allocation.least, allocation.max_group
        refused += [
            (f"{node}.least", least, least > size, f"more than {ROLLOUT}.n = {size}; lower it"),
            (f"{node}.max_group", most, 0 < most < size, f"less than {ROLLOUT}.n = {size}; raise it"),
        ]
    return refused


def max_positions(config: Config) -> int:
    """Positions that the model was made for, rope scaling included; 0 where its ``config.json`` is not at hand."""
    folder = at(config, f"{MODEL}.hf_config_path") or at(config, f"{MODEL}.path", "")
    file = Path(str(folder)).expanduser() / "config.json"
    if not file.is_file():
        return 0
    model = json.loads(file.read_text("utf-8")) | at(config, f"{MODEL}.override_config", {})
    text = model.get("text_config") or model
    longest = text.get("max_position_embeddings", 0)
    scaling = text.get("rope_scaling") or text.get("rope_parameters") or {}
    original = scaling.get("original_max_position_embeddings", longest)
    return max(longest, int(original * (scaling.get("factor") or 1)))
