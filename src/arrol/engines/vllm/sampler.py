"""Groups through anything that answers like vLLM's ``LLM``: in this process, or a server (``served.py``).

Every rollout is a request of its own, with a seed of its own (a hash of the run's seed and the rollout's id), so its
tokens do not depend on its siblings; the prefix cache makes the shared prompt cheap. The estimator goes in by RPC,
judgements come back in ``stop_reason``, features by RPC.

Where the caller may want more, vLLM's ``LLM`` is stepped from here (``enqueue`` and ``llm_engine.step``), so that new
requests join those that still run. A server, or an ``LLM`` without ``enqueue``, is asked in rounds: again when all have
ended. Legend: ``F`` features, ``T`` tokens.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from arrol.engines.asked import Asked
from arrol.engines.vllm.remote import RemoteController
from arrol.engines.vllm.request import PREFIX, REFUSED, StopReport, pruning_args
from arrol.errors import ConfigError
from arrol.protocols import More
from arrol.quality.estimator import QualityEstimator
from arrol.quality.features import END
from arrol.types import Completion, FinishReason, GroupRequest, RolloutId, SamplingParams


class LlmSampler:
    """``llm`` has ``generate`` and ``collective_rpc`` as vLLM's ``LLM`` has."""

    def __init__(self, llm: Any, estimator: QualityEstimator | None = None) -> None:
        self._llm, self._estimator = llm, estimator
        self._pushed: int | None = None

    def push_estimator(self) -> None:
        """Head and calibration, when they have changed."""
        if self._estimator is not None and self._estimator.version != self._pushed:
            self._llm.collective_rpc("arrol_set_estimator", args=(as_text(self._estimator.snapshot().to_bytes()),))
            self._pushed = self._estimator.version

    def generate(
        self,
        requests: Sequence[GroupRequest],
        params: SamplingParams,
        *,
        seed: int,
        controller: RemoteController | None = None,
        more: More | None = None,
        score_ends: bool = False,
    ) -> list[list[Completion]]:
        """See :class:`arrol.protocols.Engine`; features come last, ``more`` sees completions without them.

        With ``score_ends`` every completion carries the head's score at its last fed token, for votes.
        """
        looks = controller is not None and bool(controller.probe_tokens)
        score_ends |= looks and self._estimator is not None and END in self._estimator.probe_tokens  # it learns them
        if score_ends or looks:
            self.push_estimator()
        asked = Asked(requests, controller=controller, more=more)
        call = _Call(self._llm, asked, params, seed, controller, score_ends)
        if more is not None and hasattr(self._llm, "enqueue"):
            call.flow()
        else:
            call.rounds()
        for rollout_id, features_at in self._features().items() if looks else ():
            if rollout_id in asked.done:
                asked.done[rollout_id].features_at.update(features_at)
        return asked.completions()

    def _features(self) -> dict[RolloutId, dict[int, np.ndarray]]:
        """Rollout id -> probe length -> float32 ``[F]``."""
        found: dict[RolloutId, dict[int, np.ndarray]] = {}
        for answer in self._llm.collective_rpc("arrol_take_features"):
            rows = np.frombuffer(base64.b64decode(answer["features"]), np.float32).reshape(
                len(answer["index"]), answer["size"]
            )
            for (step, group, index, length), row in zip(answer["index"], rows, strict=True):
                found.setdefault(RolloutId(step, group, index), {})[length] = row.copy()
        return found


class _Call:
    """One call of ``generate``: what goes out and comes back."""

    def __init__(
        self,
        llm: Any,
        asked: Asked,
        params: SamplingParams,
        seed: int,
        controller: RemoteController | None,
        score_ends: bool,
    ) -> None:
        self._llm, self._asked, self._params, self._seed = llm, asked, params, seed
        self._controller, self._score_ends = controller, score_ends
        self._settings = getattr(llm, "settings", local_settings)
        self._num_groups = len(asked.requests)
        self._has_begun = False

    def rounds(self) -> None:
        """Everybody to the end, then those who are asked for besides."""
        new = self._asked.requests
        while new:
            out = self._outgoing(new)
            answers = self._llm.generate(out.prompts, out.settings, use_tqdm=False)
            for rollout_id, answer in zip(out.rollout_ids, answers, strict=True):
                self._end(rollout_id, answer)
            new = self._asked.ask()

    def flow(self) -> None:
        """Step by step; who is asked for besides joins those that run."""
        engine, running = self._llm.llm_engine, self._enqueue(self._asked.requests)
        try:
            while running:
                for answer in engine.step():
                    if answer.finished and answer.request_id in running:
                        self._end(running.pop(answer.request_id), answer)
                running |= self._enqueue(self._asked.ask())
        except BaseException:  # a refusal, or the caller's own error: the next call must find an idle engine
            engine.abort_request(list(running))
            raise

    def _enqueue(self, new: Sequence[GroupRequest]) -> dict[str, RolloutId]:
        """vLLM's names of the rollouts, as they will stand in the answers."""
        if not new:
            return {}
        out = self._outgoing(new)
        names = self._llm.enqueue(out.prompts, out.settings, use_tqdm=False)
        # It hands out names of its own inside: that of the answers, a dash, random characters.
        return {name.partition("-")[0]: rollout_id for name, rollout_id in zip(names, out.rollout_ids, strict=True)}

    def _outgoing(self, new: Sequence[GroupRequest]) -> _Outgoing:
        out = _Outgoing([], [], [])
        for request in new:
            for rollout_id in request.rollout_ids:
                out.rollout_ids.append(rollout_id)
                out.prompts.append({"prompt_token_ids": list(request.prompt.token_ids)})
                seed, arguments = rollout_seed(self._seed, rollout_id), self._arguments(request, rollout_id)
                out.settings.append(self._settings(rollout_fields(self._params, seed, arguments)))
        self._has_begun = True
        return out

    def _arguments(self, request: GroupRequest, rollout_id: RolloutId) -> dict[str, Any]:
        asked: dict[str, Any] = {}
        if self._controller is not None:
            asked = self._controller.arguments(
                request, rollout_id.index, num_groups=self._num_groups, later=self._has_begun
            )
        if self._score_ends and not asked:
            index = rollout_id.index - request.first
            asked = pruning_args(
                group=request.group, size=request.size, index=index, first=request.first or None, rule="never"
            )
        return {**asked, f"{PREFIX}score_end": 1} if self._score_ends else asked

    def _end(self, rollout_id: RolloutId, answer: Any) -> None:
        report = StopReport.parse(answer.outputs[0].stop_reason)
        decision = None if report is None else report.decision(rollout_id)
        if self._controller is not None and decision is not None:
            self._controller.decided(decision)
        self._asked.end(rollout_id, completion_of(answer.outputs[0], report))


@dataclass
class _Outgoing:
    """Rollouts in vLLM's words."""

    rollout_ids: list[RolloutId]
    prompts: list[dict[str, Any]]
    settings: list[Any]


def as_text(blob: bytes) -> str:
    """Bytes for an RPC that may cross HTTP, where arguments are text."""
    return base64.b64encode(blob).decode()


def rollout_seed(seed: int, rollout_id: RolloutId) -> int:
    """A seed of 63 bits per rollout, from the run's seed and the rollout's id alone."""
    text = ",".join(map(str, (seed, *rollout_id)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def rollout_fields(params: SamplingParams, seed: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of vLLM's SamplingParams for one rollout: our stop tokens and no others."""
    return {
        "max_tokens": params.max_completion_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "top_k": params.top_k,
        "seed": seed,
        "stop_token_ids": list(params.stop_token_ids),
        "ignore_eos": True,
        "logprobs": 0,
        "extra_args": dict(arguments) or None,
    }


def local_settings(fields: Mapping[str, Any]) -> Any:
    """For vLLM in this process."""
    from vllm import SamplingParams as VllmSamplingParams

    return VllmSamplingParams(**fields, detokenize=False)


def completion_of(
    output: Any, report: StopReport | None = None, features_at: dict[int, np.ndarray] | None = None
) -> Completion:
    """One of vLLM's completions in our words; ConfigError for a refused request."""
    if str(output.stop_reason).startswith(f"{REFUSED}:"):
        raise ConfigError(str(output.stop_reason).partition(":")[2])
    tokens = tuple(output.token_ids)
    steps = zip(tokens, output.logprobs or (), strict=True)
    logprob_T = np.array([step[token].logprob for token, step in steps], np.float32)
    if report is not None and not report.keep:
        reason = FinishReason.PRUNED
    else:
        reason = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH}.get(
            output.finish_reason, FinishReason.ERROR
        )
    if not np.isfinite(logprob_T).all():
        reason = FinishReason.ERROR
    return Completion(tokens, logprob_T, reason, features_at or {}, math.nan if report is None else report.end_score)
