"""Groups through anything that answers like vLLM's ``LLM``: in this process, or a server (``served.py``).

Every rollout is a request of its own, with a seed of its own (a hash of the run's seed and the rollout's id), so its
tokens do not depend on its siblings; the prefix cache makes the shared prompt cheap. The estimator goes in by RPC,
judgements come back in ``stop_reason``, features by RPC. Legend: ``F`` features, ``T`` tokens.
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from arrol.engines.vllm.remote import RemoteController
from arrol.engines.vllm.request import PREFIX, REFUSED, StopReport, pruning_args
from arrol.errors import ConfigError
from arrol.quality.estimator import QualityEstimator
from arrol.types import Completion, FinishReason, GroupRequest, PruningDecision, RolloutId, SamplingParams


class LlmSampler:
    """``llm`` has ``generate`` and ``collective_rpc`` as vLLM's ``LLM`` has."""

    def __init__(self, llm: Any, estimator: QualityEstimator | None = None) -> None:
        self._llm, self._estimator = llm, estimator
        self._settings = getattr(llm, "settings", local_settings)
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
        score_ends: bool = False,
    ) -> list[list[Completion]]:
        """See :class:`arrol.protocols.Engine`.

        With ``score_ends`` every completion carries the head's score at its last fed token, for votes.
        """
        asked = [(request, rollout_id) for request in requests for rollout_id in request.rollout_ids]
        if score_ends or (controller is not None and controller.probe_tokens):
            self.push_estimator()
        answers = self._llm.generate(
            [{"prompt_token_ids": list(request.prompt.token_ids)} for request, _ in asked],
            [
                self._settings(
                    rollout_fields(
                        params,
                        rollout_seed(seed, rollout_id),
                        _arguments(controller, request, rollout_id, len(requests), score_ends),
                    )
                )
                for request, rollout_id in asked
            ],
            use_tqdm=False,
        )
        features = self._features() if controller is not None and controller.probe_tokens else {}
        decisions: list[PruningDecision] = []
        done: dict[RolloutId, Completion] = {}
        for (_, rollout_id), answer in zip(asked, answers, strict=True):
            report = StopReport.parse(answer.outputs[0].stop_reason)
            done[rollout_id] = completion_of(answer.outputs[0], report, features.get(tuple(rollout_id), {}))
            decision = None if report is None else report.decision(rollout_id)
            decisions += [] if decision is None else [decision]
        if controller is not None:
            controller.settle(requests, decisions)
        return [[done[rollout_id] for rollout_id in request.rollout_ids] for request in requests]

    def _features(self) -> dict[tuple[int, ...], dict[int, np.ndarray]]:
        """Rollout id -> probe length -> float32 ``[F]``."""
        found: dict[tuple[int, ...], dict[int, np.ndarray]] = {}
        for answer in self._llm.collective_rpc("arrol_take_features"):
            rows = np.frombuffer(base64.b64decode(answer["features"]), np.float32).reshape(
                len(answer["index"]), answer["size"]
            )
            for (step, group, index, length), row in zip(answer["index"], rows, strict=True):
                found.setdefault((step, group, index), {})[length] = row.copy()
        return found


def as_text(blob: bytes) -> str:
    """Bytes for an RPC that may cross HTTP, where arguments are text."""
    return base64.b64encode(blob).decode()


def rollout_seed(seed: int, rollout_id: RolloutId) -> int:
    """A seed of 63 bits per rollout, from the run's seed and the rollout's id alone."""
    text = ",".join(map(str, (seed, *rollout_id)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def _arguments(
    controller: RemoteController | None, request: GroupRequest, rollout_id: RolloutId, num_groups: int, score_end: bool
) -> dict[str, Any]:
    asked = {} if controller is None else controller.arguments(request, rollout_id.index, num_groups=num_groups)
    if score_end and not asked:
        asked = pruning_args(group=request.group, size=request.size, index=rollout_id.index, rule="never")
    return {**asked, f"{PREFIX}score_end": 1} if score_end else asked


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
