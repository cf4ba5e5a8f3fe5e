"""A rollout that may be stopped: verl's single-turn agent loop with another client in its hands.

verl keeps one object per rollout. What verl does around it stays: an empty list of outputs writes no trajectory, and
the group still ends as finished. The reward is computed after ``run`` returns and stored through the output's
``as_dict``; the output reports it there on its way.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, cast

import ray
from omegaconf import OmegaConf
from pydantic import PrivateAttr
from verl.experimental.agent_loop.agent_loop import AgentLoopOutput, register
from verl.experimental.agent_loop.single_turn_agent_loop import SingleTurnAgentLoop

from arrol.engines.vllm.request import pruning_args
from arrol.integrations.verl.client import InsideEngine, Limits, Stopped, TwoCalls
from arrol.integrations.verl.options import PATH, VerlOptions, parse_options
from arrol.integrations.verl.service import ACTOR_NAME

AGENT_NAME = "arrol"
TICKET = "arrol"
"""Field of a row that carries the address of its group; small, since verl stores it with each trajectory."""


class ReportedOutput(AgentLoopOutput):
    """An output that tells the service its reward when verl stores it."""

    _report: Callable[[float], None] | None = PrivateAttr(None)

    @classmethod
    def of(cls, output: AgentLoopOutput, report: Callable[[float], None]) -> ReportedOutput:
        """The same fields, set and unset alike, without copying tensors or images."""
        own = cls.model_construct(
            output.model_fields_set, **{name: getattr(output, name) for name in type(output).model_fields}
        )
        own._report = report
        return own

    def as_dict(self) -> dict[str, Any]:
        if self._report is not None and self.reward_score is not None:
            self._report(float(self.reward_score))
        return super().as_dict()


@register(AGENT_NAME)
class PrunedAgentLoop(SingleTurnAgentLoop):
    """One rollout of one prompt; the manager gives this loop to training prompts only."""

    async def run(self, sampling_params: dict[str, Any], **kwargs: Any) -> AgentLoopOutput | list[AgentLoopOutput]:
        ticket, index = dict(kwargs.pop(TICKET)), int(kwargs["session_id"])
        rollout = (int(ticket["step"]), int(ticket["group"]), index)
        options = parse_options(_plain(self.config[PATH]))
        service = service_handle()
        limits = Limits(self.response_length, frozenset(ticket["stop_token_ids"]))
        client = self._client(options, ticket, rollout, service, limits)
        self.server_manager, verls = client, self.server_manager
        try:
            output = cast(AgentLoopOutput, await super().run(sampling_params, **kwargs))
        except Stopped as stopped:
            if options.way == "engine":  # otherwise it was the service that said so
                service.stopped.remote(rollout, stopped.num_tokens)
            return []
        except BaseException:  # a cancelled task, too: its siblings must not wait for it
            service.failed.remote(rollout)
            raise
        finally:
            self.server_manager = verls
        if client.is_awaited:
            service.ended.remote(rollout)
        size = len(output.response_ids)
        full = size >= limits.response_length

        def report(reward: float) -> None:
            service.outcome.remote(rollout, size, reward, full=full)

        return ReportedOutput.of(output, report)

    def _client(
        self, options: VerlOptions, ticket: dict[str, Any], rollout: tuple[int, int, int], service: Any, limits: Limits
    ) -> TwoCalls | InsideEngine:
        step, group, index = rollout
        rule = options.host.pruning
        if options.way == "engine":
            arguments = pruning_args(
                group=str(group), size=ticket["size"], step=step, index=index, seed=ticket["seed"],
                success_rate=ticket["success_rate"], **rule.model_dump(mode="json"),
            )  # fmt: skip
            sticky_id = f"{PATH}-{step}-{group}"
            return InsideEngine(self.server_manager, arguments=arguments, limits=limits, sticky_id=sticky_id)

        async def ask(probe: int, logprobs: list[float]) -> bool:
            return await service.probed.remote(rollout, probe, logprobs)

        return TwoCalls(
            self.server_manager,
            probe_tokens=rule.probe_tokens if options.looks else (),
            limits=limits,
            ask=ask,
            prioritized=self.rollout_config.get("scheduling_policy", "fcfs") == "priority",
        )


@cache
def service_handle() -> Any:
    """The actor's handle, looked up once per worker."""
    return ray.get_actor(ACTOR_NAME)


def register_in_worker(worker: Any) -> None:
    """Run in each agent-loop worker: importing this module has registered the loop there."""


def _plain(config: Any) -> dict[str, Any]:
    return cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
