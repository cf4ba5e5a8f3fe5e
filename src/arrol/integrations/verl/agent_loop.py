"""verl's single-turn agent loop, with pruning: a pruned rollout returns an empty list of outputs.

verl creates one object per rollout and one task around it, in which it also computes the reward and stores the
trajectory. An empty list writes no trajectory, and the group still ends as finished. What the service learns of a
rollout's end is reported when that task is done: the reward, or that it raised or was cancelled anywhere.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, cast

import numpy as np
import ray
from omegaconf import OmegaConf
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, register
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop
from verl.trainer.ppo.v1.agent_loop_tq import AgentLoopManagerTQ

from arrol.engines.vllm.request import pruning_args
from arrol.integrations.records import shown_answer
from arrol.integrations.verl.client import InsideEngine, Limits, Pruned, TwoCalls
from arrol.integrations.verl.options import NAME, parse_options
from arrol.integrations.verl.recorded import WrittenText
from arrol.integrations.verl.remote import ACTOR_NAME, RemoteService, Ticket

EMPTY = "Empty output for prompt "
"""Beginning of verl's warning; the name of the rollout follows."""
ANSWER = "pred"
"""What verl's reward functions call the answer that they read."""
EXPECTED: set[str] = set()
"""Rollouts of this worker that arrol stopped and of which verl has not warned yet."""


@register(NAME)
class PrunedAgentLoop(SingleTurnAgentLoop):
    """One rollout of one training prompt."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput | list[AgentLoopOutput]:
        ticket = cast(Ticket, dict(kwargs.pop(NAME)))
        rollout = (ticket["step"], ticket["group"], int(kwargs["session_id"]))
        limits = Limits(self.response_length, frozenset(ticket["stop_token_ids"]))
        outputs: list[AgentLoopOutput] = []
        _report_end(rollout, limits, outputs, keeps_texts=ticket["keeps_texts"])
        client = self._client(ticket, rollout, limits)
        self.server_manager, verls = client, self.server_manager
        try:
            outputs.append(await super().run(sampling_params, **kwargs))
        except Pruned as pruned:
            EXPECTED.add(f"{kwargs['uid']}_{kwargs['session_id']}")
            if ticket["keeps_texts"]:
                _report_text(rollout, pruned.prompt_ids, pruned.output.token_ids, pruned.output.log_probs)
            if isinstance(client, InsideEngine):  # in the other way the service decided it
                service_handle().pruned.remote(rollout, pruned.num_tokens)
            return []
        finally:
            self.server_manager = verls
        if client.is_awaited:
            service_handle().ended.remote(rollout)
        return outputs[0]

    def _client(self, ticket: Ticket, rollout: tuple[int, int, int], limits: Limits) -> TwoCalls | InsideEngine:
        given = cast(Mapping[str, object], OmegaConf.to_container(self.config[NAME], resolve=True))
        options = parse_options(given, self.response_length)
        rule, (step, group, index) = options.host.pruning, rollout
        if options.way == "engine":
            arguments = pruning_args(
                group=str(group), size=ticket["size"], step=step, index=index, seed=ticket["seed"],
                run=ticket["run"], success_rate=ticket["success_rate"], **rule.model_dump(mode="json"),
            )  # fmt: skip
            sticky_id = f"{NAME}-{step}-{group}"
            return InsideEngine(self.server_manager, arguments=arguments, limits=limits, sticky_id=sticky_id)

        async def ask(probe: int, logprobs: list[float]) -> bool:
            return bool(await service_handle().probed.remote(rollout, probe, logprobs))

        return TwoCalls(
            self.server_manager,
            probe_tokens=ticket["probe_tokens"],
            limits=limits,
            ask=ask,
            prioritized=self.rollout_config.get("scheduling_policy", "fcfs") == "priority",
            seed=int(self.rollout_config.seed) if self.rollout_config.get("full_determinism", False) else None,
        )


def _report_end(
    rollout: tuple[int, int, int], limits: Limits, outputs: list[AgentLoopOutput], *, keeps_texts: bool
) -> None:
    """Report the output's reward, which verl sets on it, when the task is done; or that the task did not end well."""

    def done(task: asyncio.Task[object]) -> None:
        for output in outputs if keeps_texts else ():
            answer = output.extra_fields.get("reward_extra_info", {}).get(ANSWER)
            _report_text(rollout, output.prompt_ids, output.response_ids, output.response_logprobs, answer)
        if task.cancelled() or task.exception() is not None:
            service_handle().failed.remote(rollout)
            return
        for output in outputs:
            token_ids, reward = output.response_ids, output.reward_score
            is_truncated = limits.is_truncated(token_ids)
            service_handle().outcome.remote(rollout, len(token_ids), reward, is_truncated=is_truncated)

    task = asyncio.current_task()
    assert task is not None
    task.add_done_callback(done)


def _report_text(
    rollout: tuple[int, int, int],
    prompt_ids: Sequence[int],
    token_ids: Sequence[int],
    logprobs: Sequence[float] | None,
    answer: object = None,
) -> None:
    """Send what a rollout wrote, for the record."""
    text = WrittenText(
        np.array(prompt_ids, np.int32),
        np.array(token_ids, np.int32),
        None if logprobs is None else np.array(logprobs, np.float32),
        None if answer is None else shown_answer(answer),
    )
    service_handle().wrote.remote(rollout, text)


@cache
def service_handle() -> RemoteService:
    """The actor's handle, looked up once per worker."""
    return cast(RemoteService, ray.get_actor(ACTOR_NAME))


class ExpectedEmpty(logging.Filter):
    """Drops verl's warning of an empty output for rollouts that arrol stopped, one line for each of them."""

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        stopped = message.removeprefix(EMPTY)
        if stopped == message or stopped not in EXPECTED:
            return True
        EXPECTED.discard(stopped)
        return False


def register_in_worker(worker: object) -> None:
    """Run in each agent-loop worker: importing this module has registered the loop there."""
    logging.getLogger(AgentLoopManagerTQ.__module__).addFilter(ExpectedEmpty())
