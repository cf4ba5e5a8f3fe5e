"""verl's single-turn agent loop, with pruning: a pruned rollout returns an empty list of outputs.

verl creates one object per rollout and one task around it. An empty list writes no trajectory, and the group still ends
as finished. verl computes the reward after ``run`` and stores it through the output's ``as_dict``, where
:class:`ReportedOutput` reports it to the service. A task that ends in an exception or is cancelled, at whatever place,
reports the rollout as failed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, cast

import ray
from omegaconf import OmegaConf
from pydantic import PrivateAttr
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, register
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop

from arrol.engines.vllm.request import pruning_args
from arrol.integrations.verl.client import InsideEngine, Limits, Pruned, TwoCalls
from arrol.integrations.verl.options import NAME, VerlOptions, parse_options
from arrol.integrations.verl.service import ACTOR_NAME, RemoteService, Ticket


class ReportedOutput(AgentLoopOutput):
    """An output that reports its reward when verl stores it."""

    _report: Callable[[float], None] | None = PrivateAttr(None)

    @classmethod
    def of(cls, output: AgentLoopOutput, report: Callable[[float], None]) -> ReportedOutput:
        """The same fields, set and unset alike, without copying tensors or images."""
        fields = {name: getattr(output, name) for name in type(output).model_fields}
        own = cls.model_construct(output.model_fields_set, **fields)
        own._report = report
        return own

    def as_dict(self) -> dict[str, Any]:
        if self._report is not None and self.reward_score is not None:
            self._report(float(self.reward_score))
        return super().as_dict()


@register(NAME)
class PrunedAgentLoop(SingleTurnAgentLoop):
    """One rollout of one training prompt."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput | list[AgentLoopOutput]:
        ticket = cast(Ticket, dict(kwargs.pop(NAME)))
        rollout = (ticket["step"], ticket["group"], int(kwargs["session_id"]))
        options = parse_options(cast(Mapping[str, object], OmegaConf.to_container(self.config[NAME], resolve=True)))
        service, limits = service_handle(), Limits(self.response_length, frozenset(ticket["stop_token_ids"]))
        _report_failure(service, rollout)
        client = self._client(options, ticket, rollout, service, limits)
        self.server_manager, verls = client, self.server_manager
        try:
            output = cast(AgentLoopOutput, await super().run(sampling_params, **kwargs))
        except Pruned as pruned:
            if options.way == "engine":  # in the other way the service decided it
                service.pruned.remote(rollout, pruned.num_tokens)
            return []
        finally:
            self.server_manager = verls
        if client.is_awaited:
            service.ended.remote(rollout)
        size, is_truncated = len(output.response_ids), limits.is_truncated(output.response_ids)

        def report(reward: float) -> None:
            service.outcome.remote(rollout, size, reward, is_truncated=is_truncated)

        return ReportedOutput.of(output, report)

    def _client(
        self,
        options: VerlOptions,
        ticket: Ticket,
        rollout: tuple[int, int, int],
        service: RemoteService,
        limits: Limits,
    ) -> TwoCalls | InsideEngine:
        step, group, index = rollout
        rule = options.host.pruning
        if options.way == "engine":
            arguments = pruning_args(
                group=str(group), size=ticket["size"], step=step, index=index, seed=ticket["seed"],
                success_rate=ticket["success_rate"], **rule.model_dump(mode="json"),
            )  # fmt: skip
            sticky_id = f"{NAME}-{step}-{group}"
            return InsideEngine(self.server_manager, arguments=arguments, limits=limits, sticky_id=sticky_id)

        async def ask(probe: int, logprobs: list[float]) -> bool:
            return bool(await service.probed.remote(rollout, probe, logprobs))

        return TwoCalls(
            self.server_manager,
            probe_tokens=rule.probe_tokens if rule.has_probes else (),
            limits=limits,
            ask=ask,
            prioritized=self.rollout_config.get("scheduling_policy", "fcfs") == "priority",
        )


def _report_failure(service: RemoteService, rollout: tuple[int, int, int]) -> None:
    """Report the rollout as failed if the task that verl runs it in does not end well, reward included."""

    def done(task: asyncio.Task[Any]) -> None:
        if task.cancelled() or task.exception() is not None:
            service.failed.remote(rollout)

    task = asyncio.current_task()
    assert task is not None
    task.add_done_callback(done)


@cache
def service_handle() -> RemoteService:
    """The actor's handle, looked up once per worker."""
    return cast(RemoteService, ray.get_actor(ACTOR_NAME))


def register_in_worker(worker: object) -> None:
    """Run in each agent-loop worker: importing this module has registered the loop there."""
