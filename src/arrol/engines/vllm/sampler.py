"""Groups of rollouts through anything that answers like vLLM's ``LLM``: in this process, or a server (``served.py``).

Every rollout is a request of its own, with a seed of its own (a hash of the run's seed and the rollout's id), so its
tokens do not depend on its siblings; the prefix cache makes the shared prompt cheap. The estimator goes in by RPC,
judgements come back in ``stop_reason``, features by RPC.

With ``more``, vLLM's ``LLM`` is stepped from here (``enqueue`` and ``llm_engine.step``), so that new requests join the
running ones. A server, or an ``LLM`` without ``enqueue``, gets them when all rollouts have ended. Legend: ``F``
features, ``T`` tokens.
"""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np

from arrol.configs.base import shown
from arrol.engines.asked import Asked
from arrol.engines.stops import stops_of
from arrol.engines.vllm.remote import RemoteController
from arrol.engines.vllm.request import PREFIX, REFUSED, StopReport, pruning_args
from arrol.errors import ConfigError
from arrol.protocols import More
from arrol.quality.estimator import QualityEstimator
from arrol.quality.features import END
from arrol.quality.snapshot import EstimatorSnapshot
from arrol.types import Completion, FinishReason, GroupRequest, RolloutId, SamplingParams

REASONS = {"stop": FinishReason.STOP, "length": FinishReason.LENGTH, "repetition": FinishReason.LENGTH}
"""vLLM's ``finish_reason`` -> ours. A completion cut at a repetition is truncated, as TRL and verl take it."""


class LlmLike(Protocol):
    """The part of vLLM's ``LLM`` that a sampler needs. Its settings are vLLM's SamplingParams."""

    def generate(self, prompts: Any, settings: Any, /, *, use_tqdm: bool) -> Sequence[Any]: ...
    def collective_rpc(self, method: str, *, args: tuple[Any, ...] = ()) -> Sequence[Any]: ...


@runtime_checkable
class SteppedLlm(LlmLike, Protocol):
    """An ``LLM`` that takes requests between two steps; ``llm_engine`` has vLLM's ``step`` and ``abort_request``."""

    llm_engine: Any

    def enqueue(self, prompts: Any, settings: Any, /, *, use_tqdm: bool) -> Sequence[str]: ...


@runtime_checkable
class TranslatingLlm(Protocol):
    """An ``LLM`` with settings of its own."""

    def settings(self, fields: Mapping[str, Any], /) -> Any:
        """From fields of vLLM's SamplingParams."""


class LlmSampler:
    """Groups in, completions out; the controller's decisions are made inside vLLM."""

    def __init__(self, llm: LlmLike, estimator: QualityEstimator | None = None) -> None:
        self._llm, self._estimator = llm, estimator
        self._pushed: int | None = None

    def push_estimator(self) -> None:
        """Send head and calibration when they have changed."""
        if self._estimator is not None and self._estimator.version != self._pushed:
            self._pushed = push_estimator(self._llm, self._estimator.snapshot())

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
        """See :class:`arrol.protocols.Engine`; features come last, so ``more`` sees completions without them.

        ``score_ends``: every completion carries the head's score at its last fed token, for votes.
        """
        stops_of(params, None)  # vLLM runs without a tokenizer here
        has_probes = controller is not None and bool(controller.probe_tokens)
        learns_ends = self._estimator is not None and END in self._estimator.probe_tokens
        score_ends |= has_probes and learns_ends
        if score_ends or has_probes:
            self.push_estimator()
        asked = Asked(requests, controller=controller, more=more)
        call = _Call(self._llm, asked, params, seed, controller, score_ends, len(requests))
        if more is not None and isinstance(self._llm, SteppedLlm):
            call.flow(self._llm)
        else:
            call.rounds()
        held = self._features(controller.run) if controller is not None and has_probes else {}
        for rollout_id, features_at in held.items():
            if rollout_id in asked.done:
                asked.done[rollout_id].features_at.update(features_at)
        return asked.completions()

    def _features(self, run: str) -> dict[RolloutId, dict[int, np.ndarray]]:
        """Rollout id -> probe length -> float32 ``[F]``."""
        found: dict[RolloutId, dict[int, np.ndarray]] = {}
        for answer in self._llm.collective_rpc("arrol_take_features", args=(run,)):
            rows = np.frombuffer(base64.b64decode(answer["features"]), np.float32)
            rows = rows.reshape(len(answer["index"]), answer["size"])
            for (step, group, index, length), row in zip(answer["index"], rows, strict=True):
                found.setdefault(RolloutId(step, group, index), {})[length] = row.copy()
        return found


@dataclass
class _Call:
    """One call of ``generate``."""

    llm: LlmLike
    asked: Asked
    params: SamplingParams
    seed: int
    controller: RemoteController | None
    score_ends: bool
    num_groups: int
    has_begun: bool = False

    def rounds(self) -> None:
        """All requests to the end, then the requests that ``more`` adds."""
        new = self.asked.requests
        while new:
            rollout_ids, prompts, settings = self._translated(new)
            answers = self.llm.generate(prompts, settings, use_tqdm=False)
            for rollout_id, answer in zip(rollout_ids, answers, strict=True):
                self._end(rollout_id, answer)
            new = self.asked.ask()

    def flow(self, llm: SteppedLlm) -> None:
        """Step by step; requests that ``more`` adds join the running ones."""
        running = self._enqueue(llm, self.asked.requests)
        try:
            while running:
                for answer in llm.llm_engine.step():
                    if answer.finished and answer.request_id in running:
                        self._end(running.pop(answer.request_id), answer)
                running |= self._enqueue(llm, self.asked.ask())
        except BaseException:  # a refusal, or the caller's own error: the next call must find an idle engine
            llm.llm_engine.abort_request(list(running))
            raise

    def _enqueue(self, llm: SteppedLlm, new: Sequence[GroupRequest]) -> dict[str, RolloutId]:
        """Request id, as in vLLM's answers -> rollout id."""
        if not new:
            return {}
        rollout_ids, prompts, settings = self._translated(new)
        names = llm.enqueue(prompts, settings, use_tqdm=False)
        # It returns internal ids: the id in the answers, a dash, random characters.
        return {name.partition("-")[0]: rollout_id for name, rollout_id in zip(names, rollout_ids, strict=True)}

    def _translated(self, new: Sequence[GroupRequest]) -> tuple[list[RolloutId], list[dict[str, Any]], list[Any]]:
        """Rollout ids, vLLM's prompts and settings."""
        pairs = [(request, rollout_id) for request in new for rollout_id in request.rollout_ids]
        prompts = [{"prompt_token_ids": list(request.prompt.token_ids)} for request, _ in pairs]
        settings = []
        for request, rollout_id in pairs:
            seed, arguments = rollout_seed(self.seed, rollout_id), self._arguments(request, rollout_id)
            settings.append(settings_of(self.llm, rollout_fields(self.params, seed, arguments)))
        self.has_begun = True
        return [rollout_id for _, rollout_id in pairs], prompts, settings

    def _arguments(self, request: GroupRequest, rollout_id: RolloutId) -> dict[str, Any]:
        arguments: dict[str, Any] = {}
        if self.controller is not None:
            arguments = self.controller.arguments(
                request, rollout_id.index, num_groups=self.num_groups, later=self.has_begun
            )
        if self.score_ends and not arguments:
            index, first = rollout_id.index - request.first, request.first or None
            arguments = pruning_args(group=request.group, size=request.size, index=index, first=first, rule="never")
        return {**arguments, f"{PREFIX}score_end": 1} if self.score_ends else arguments

    def _end(self, rollout_id: RolloutId, answer: Any) -> None:
        report = StopReport.parse(answer.outputs[0].stop_reason)
        decision = None if report is None else report.decision(rollout_id)
        if self.controller is not None and decision is not None:
            self.controller.decided(decision)
        self.asked.end(rollout_id, completion_of(answer.outputs[0], report))


def push_estimator(llm: LlmLike, snapshot: EstimatorSnapshot) -> int:
    """Set head and calibration of every worker; returns their version. ConfigError when a worker refuses them."""
    blob = base64.b64encode(snapshot.to_bytes()).decode()  # the call may cross HTTP
    for answer in llm.collective_rpc("arrol_set_estimator", args=(blob,)):
        if "refused" in answer:
            raise ConfigError(answer["refused"])
    return snapshot.version


def rollout_seed(seed: int, rollout_id: RolloutId) -> int:
    """A seed of 63 bits per rollout, from the run's seed and the rollout's id alone."""
    text = ",".join(map(str, (seed, *rollout_id)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def rollout_fields(params: SamplingParams, seed: int, arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of vLLM's SamplingParams for one rollout; only our stop tokens end it."""
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


def settings_of(llm: LlmLike, fields: Mapping[str, Any]) -> Any:
    """Settings of one request, as ``llm`` takes them."""
    if isinstance(llm, TranslatingLlm):
        return llm.settings(fields)
    from vllm import SamplingParams as VllmSamplingParams
    from vllm.sampling_params import RepetitionDetectionParams, StructuredOutputsParams

    classes = {"structured_outputs": StructuredOutputsParams, "repetition_detection": RepetitionDetectionParams}
    given = {name: fields[name] for name in classes if isinstance(fields.get(name), Mapping)}
    built = {name: _built(name, mapping, classes[name]) for name, mapping in given.items()}
    return VllmSamplingParams(**{**fields, **built}, detokenize=False)


def _built(name: str, mapping: Mapping[str, Any], wanted: type[Any]) -> Any:
    """vLLM's dataclass from a mapping; ConfigError for an unknown field, which some of them ignore, or a bad value."""
    known = [one.name for one in dataclasses.fields(wanted) if one.init]
    for key in mapping.keys() - known:
        raise ConfigError(f"{name}: {shown(key)} is no field of vLLM's {wanted.__name__}; use some of {known}")
    try:
        return wanted(**mapping)
    except Exception as error:  # vLLM has a class of its own for bad values
        problem = " ".join(str(error).split())[:300]
        raise ConfigError(f"{name} = {shown(dict(mapping))}: vLLM refuses it: {problem}") from None


def completion_of(output: Any, report: StopReport | None = None) -> Completion:
    """From vLLM's CompletionOutput; ConfigError for a refused request."""
    if str(output.stop_reason).startswith(f"{REFUSED}:"):
        raise ConfigError(str(output.stop_reason).partition(":")[2])
    tokens = tuple(output.token_ids)
    steps = zip(tokens, output.logprobs or (), strict=True)
    logprob_T = np.array([step[token].logprob for token, step in steps], np.float32)
    reason = REASONS.get(output.finish_reason, FinishReason.ERROR)
    if report is not None and not report.keep:
        reason = FinishReason.PRUNED
    if not np.isfinite(logprob_T).all():
        reason = FinishReason.ERROR
    return Completion(tokens, logprob_T, reason, end_score=math.nan if report is None else report.end_score)
