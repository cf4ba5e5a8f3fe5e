"""vLLM schedulers that prune: which requests are scored in a step, which are stopped, how the client learns of it.

``PruningScheduler`` reads the scores that ``PruningWorker`` attached to the model's output; ``ConfidenceScheduler``
needs no worker and reads the sampled tokens' log-probabilities. Both take their decisions from ``groups.GroupBook``.

A request stopped at probe L returns exactly its first L tokens (more if it waited for siblings), finish reason ``stop``
(some trainers resume ``abort``) and a ``stop_reason`` that begins with ``pruned:`` and holds the score. A request that
contradicts its group or the head ends with finish reason ``error`` (HTTP 500), on which no trainer trains. Positions
are counted, not sampled tokens: right under asynchronous scheduling, chunked prefill, recomputation after preemption.
"""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import numpy as np

from arrol.configs.base import shown
from arrol.configs.method import NeverRule, UniformRule
from arrol.engines.vllm import compat
from arrol.engines.vllm.groups import GroupBook, ProbeScore
from arrol.engines.vllm.metrics import process_metrics
from arrol.engines.vllm.probing import Tag, Watch
from arrol.engines.vllm.request import REFUSED, PruningRequest, StopReport, parse_args
from arrol.errors import ConfigError
from arrol.protocols import Estimator
from arrol.quality.calibration import ConfidenceEstimator, ScoredEstimator
from arrol.quality.features import logprob_statistics
from arrol.types import State

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import SchedulerOutput
    from vllm.v1.outputs import ModelRunnerOutput
    from vllm.v1.request import Request

    from arrol.engines.vllm.worker import StepScores

    Outputs = dict[int, compat.EngineCoreOutputs]

ESTIMATOR_VARIABLE = "ARROL_ESTIMATOR"
"""Environment variable: file of the estimator that scheduler and worker load at start."""
HEADLESS = f"only rule 'uniform' prunes until one is set by {ESTIMATOR_VARIABLE} or arrol_set_estimator"

WARNING_S = 30.0
"""Between two warnings of one kind."""


@runtime_checkable
class WatchingPlan(Protocol):
    """vLLM's ``SchedulerOutput`` with our attribute, which is pickled along to the worker."""

    arrol_watched: dict[str, Watch]


@runtime_checkable
class ScoredResult(Protocol):
    """vLLM's ``ModelRunnerOutput`` with our attribute, on the way back."""

    arrol_scores: StepScores


class RareWarning:
    """Logs at most one line in ``WARNING_S``; a line counts the ones left out before it."""

    def __init__(self) -> None:
        self._due, self._left_out = -math.inf, 0

    def __call__(self, text: str) -> None:
        now = time.monotonic()
        if now < self._due:
            self._left_out += 1
            return
        more = f" ({self._left_out} more since the last warning)" if self._left_out else ""
        compat.logger.warning("arrol: %s%s", text, more)
        self._due, self._left_out = now + WARNING_S, 0


class _PruningSchedulerBase(compat.AsyncScheduler):
    """Admission, stopping and reports."""

    reads_hidden_states = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        compat.require_scheduler(self.vllm_config, reads_hidden_states=self.reads_hidden_states)
        self.book = GroupBook(self._estimator_for, rank=compat.data_parallel_rank(self.vllm_config))
        self._metrics = process_metrics()
        self.kv_usage: deque[tuple[float, float]] = deque(maxlen=4096)
        """Share of the KV cache in use before and after each stop."""
        self._end_scores: dict[str, float] = {}
        """Newest score of each request with ``score_end``."""
        self._notices: list[tuple[int, compat.EngineCoreOutput]] = []
        """(client, output) for the next step."""
        self._warn_refused, self._warn_slots, self._num_late = RareWarning(), RareWarning(), 0

    def add_request(self, request: Request) -> None:
        known = request.request_id in self.requests
        super().add_request(request)
        if known or request.sampling_params is None:  # the next piece of a streamed prompt; a pooling request
            return
        try:
            pruning = parse_args(request.sampling_params.extra_args)
            if pruning is not None and pruning.is_watched:
                self._check(request, pruning)
                self.book.add(request.request_id, pruning)
                self._metrics.open_groups.set(self.book.num_groups)
                self._warn_if_siblings_cannot_meet(pruning)
        except ConfigError as error:  # an exception would end the engine and all its requests
            self._metrics.refused()
            self._warn_refused(f"request refused: {error}")
            self._end(request, f"{REFUSED}:{error}", compat.RequestStatus.FINISHED_ERROR)

    def update_from_output(self, plan: SchedulerOutput, result: ModelRunnerOutput) -> Outputs:
        scored = self._scored_before(result)
        if not len(self.book) and not self._notices:
            return super().update_from_output(plan, result)
        self.book.probed(scored)
        late = self._stop(self.book.take_stops())
        outputs = super().update_from_output(plan, result)
        self._note_ends(outputs)
        self.book.probed(self._scored_after(outputs))
        self.book.tick()  # last, as in the embedded engine: an end may complete a barrier before its deadline
        self._warn_if_late()
        self._stop([*late, *self.book.take_stops()], is_late=True)
        for client, output in self._notices:
            answer = outputs.setdefault(client, compat.EngineCoreOutputs())
            answer.outputs = [*answer.outputs, output]
        self._notices.clear()
        return outputs

    def finish_requests(self, request_ids: str | Iterable[str] | None, finished_status: compat.RequestStatus) -> Any:
        finished = super().finish_requests(request_ids, finished_status)
        named = [request_ids] if isinstance(request_ids, str) else request_ids
        watched = [i for i in (list(self.book.request_ids) if named is None else named) if i in self.book]
        self._forget(watched, lost=True)  # an abort; the controller already counts stopped requests as gone
        return finished

    def _estimator_for(self, pruning: PruningRequest) -> Estimator:
        raise NotImplementedError

    def _check(self, request: Request, pruning: PruningRequest) -> None:
        """ConfigError for a request that cannot be judged."""
        if compat.is_streamed(request):
            raise ConfigError("arrol_group: a prompt that is streamed in pieces cannot be pruned; send it whole")

    def _warn_if_siblings_cannot_meet(self, pruning: PruningRequest) -> None:
        slots = self.vllm_config.scheduler_config.max_num_seqs
        if pruning.rollouts_drawn_together > slots:
            self._warn_slots(
                f"max_num_seqs = {slots}: below the {pruning.rollouts_drawn_together} rollouts that are drawn together "
                f"(arrol_size = {pruning.size}), so candidates are drawn at barrier_timeout without the others; "
                f"raise max_num_seqs, or set arrol_draw = 'bernoulli'"
            )

    def _warn_if_late(self) -> None:
        """Draws at a deadline have no exact count and may stop fewer."""
        before, self._num_late = self._num_late, self.book.num_late
        if self._num_late > before:
            slots = self.vllm_config.scheduler_config.max_num_seqs
            self._warn_slots(
                f"{self._num_late - before} candidates were drawn at barrier_timeout without their siblings "
                f"(groups of up to {self.book.largest_group}, max_num_seqs = {slots}); raise max_num_seqs to the "
                f"rollouts in flight, raise arrol_barrier_timeout, or set arrol_draw = 'bernoulli'"
            )

    def _scored_before(self, result: ModelRunnerOutput) -> list[ProbeScore]:
        """Scores known before vLLM appends the step's tokens."""
        return []

    def _scored_after(self, outputs: Outputs) -> list[ProbeScore]:
        """Scores known after it."""
        return []

    def _forget(self, request_ids: Iterable[str], *, lost: bool = False) -> None:
        gone = [i for i in request_ids if i not in self.requests or self.requests[i].is_finished()]
        for request_id in gone:
            self._end_scores.pop(request_id, None)
            self._metrics.ended(self.book.decision(request_id))
        self.book.ended(gone, lost=lost)
        self._metrics.open_groups.set(self.book.num_groups)

    def _stop(self, request_ids: list[str], *, is_late: bool = False) -> list[str]:
        """Stop these requests; returns those whose probed token is appended only in this step, which keep it."""
        later = []
        for request_id in request_ids:
            request, decision = self.requests.get(request_id), self.book.decision(request_id)
            if request is None or request.is_finished() or decision is None:
                continue
            if request.num_output_tokens < self.book.pruning(request_id).probe_tokens[decision.probe]:
                later.append(request_id)
                if not is_late:
                    continue
            before = self.kv_cache_manager.usage
            self._end(request, str(StopReport.of(decision)), compat.RequestStatus.FINISHED_STOPPED)
            self.kv_usage.append((before, self.kv_cache_manager.usage))
        return later

    def _end(self, request: Request, stop_reason: str, status: compat.RequestStatus) -> None:
        """End a request and tell its client, which ``finish_requests`` does not."""
        self.finish_requests(request.request_id, status)
        output = compat.EngineCoreOutput(
            request_id=request.request_id,
            new_token_ids=[],
            finish_reason=compat.RequestStatus.get_finished_reason(status),
            stop_reason=stop_reason,
            events=request.take_events(),
            trace_headers=request.trace_headers,
        )
        self._notices.append((request.client_index, output))

    def _note_ends(self, outputs: Outputs) -> None:
        """Requests that ended by themselves: report the judgement where it was asked for, then forget them.

        A request that ended in the step in which it was to be stopped counts as stopped: its draw has been made.
        """
        healthy: list[str] = []
        failed: list[str] = []
        for output in (output for answer in outputs.values() for output in answer.outputs):
            if output.finish_reason is None or output.request_id not in self.book:
                continue
            pruning, decision = self.book.pruning(output.request_id), self.book.decision(output.request_id)
            is_stopped = decision is not None and not decision.keep
            if pruning.score_end or is_stopped or (decision is not None and pruning.report):
                output.stop_reason = str(StopReport.of(decision, self._end_scores.get(output.request_id, math.nan)))
            if is_stopped:
                output.finish_reason = compat.FinishReason.STOP
            is_failed = output.finish_reason in (compat.FinishReason.ABORT, compat.FinishReason.ERROR)
            (failed if is_failed else healthy).append(output.request_id)
        self._forget(healthy)
        self._forget(failed, lost=True)


class PruningScheduler(_PruningSchedulerBase):
    """Stops requests by the quality that :class:`arrol.engines.vllm.PruningWorker` reads from hidden states."""

    reads_hidden_states = True

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._estimator = ScoredEstimator()
        self._features: tuple[str, ...] = ()
        self._has_warned = False
        super().__init__(*args, **kwargs)
        path = os.environ.get(ESTIMATOR_VARIABLE)
        if path:
            from arrol.quality.snapshot import EstimatorSnapshot

            self._learn(EstimatorSnapshot.read(path).tables())
            version, probes = self._estimator.version, list(self._estimator.probe_tokens)
            compat.logger.info("arrol: head version %d, probes %s", version, probes)
        else:
            compat.logger.info("arrol: no head; %s", HEADLESS)

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        plan = super().schedule(*args, **kwargs)
        watched = self._watched(plan) if len(self.book) else {}
        if watched:
            plan.arrol_watched = watched
        return plan

    def update_from_output(self, plan: SchedulerOutput, result: ModelRunnerOutput) -> Outputs:
        if isinstance(plan, WatchingPlan) and not isinstance(result, ScoredResult):
            self._warn_without_head(plan.arrol_watched)
        return super().update_from_output(plan, result)

    def _warn_without_head(self, request_ids: Iterable[str]) -> None:
        """Once per scheduler. A worker with a head attaches scores to every step of watched requests."""
        needless = (NeverRule, UniformRule)
        pruned = [i for i in request_ids if i in self.book and not isinstance(self.book.pruning(i).rule, needless)]
        if pruned and not self._has_warned:
            self._has_warned = True
            group = self.book.pruning(pruned[0]).group
            compat.logger.warning("arrol: group %r met no head; %s", group, HEADLESS)

    def _watched(self, plan: SchedulerOutput) -> dict[str, Watch]:
        """Requests from the sampling of their first token to the feeding of the one at their last probe."""
        watched, book = {}, self.book
        for request_id, count in plan.num_scheduled_tokens.items():
            if request_id not in book:
                continue
            request, pruning = self.requests[request_id], book.pruning(request_id)
            start = request.num_computed_tokens - count - request.num_prompt_tokens
            if start + count >= 0 and (pruning.score_end or start < pruning.probe_tokens[-1]):
                tag = Tag(pruning.run, book.rollout_id(request_id)) if pruning.report else None
                watched[request_id] = Watch(start, pruning.probe_tokens, tag, pruning.score_end)
        return watched

    def _scored_before(self, result: ModelRunnerOutput) -> list[ProbeScore]:
        if not isinstance(result, ScoredResult):
            return []
        scores = result.arrol_scores
        if scores.tables is not None:
            self._learn(scores.tables)
        for one in scores.scored:
            if one.request_id in self.book and self.book.pruning(one.request_id).score_end:
                self._end_scores[one.request_id] = one.score
        return scores.scored

    def _scored_after(self, outputs: Outputs) -> list[ProbeScore]:
        """Before the first head: candidates of ``uniform``, with the score and quality of an untrained head."""
        scored: list[ProbeScore] = []
        for output in (output for answer in outputs.values() for output in answer.outputs):
            if self._estimator.probe_tokens or output.request_id not in self.book:
                continue
            pruning = self.book.pruning(output.request_id)
            if isinstance(pruning.rule, UniformRule):
                now = self.requests[output.request_id].num_output_tokens
                reached = (n for n in pruning.probe_tokens if now - len(output.new_token_ids) < n <= now)
                scored += [ProbeScore(output.request_id, length, 0.0) for length in reached]
        return scored

    def _learn(self, tables: State) -> None:
        self._estimator.load(tables)
        self._features = tuple(cast(list[str], tables["features"]))

    def _estimator_for(self, pruning: PruningRequest) -> Estimator:
        headless = 0.5 if isinstance(pruning.rule, UniformRule) else math.nan
        return self._estimator.at(pruning.probe_tokens, headless=headless)

    def _check(self, request: Request, pruning: PruningRequest) -> None:
        super()._check(request, pruning)
        if "logprobs" in self._features and request.sampling_params.logprobs is None:
            raise ConfigError("logprobs = None: the loaded head reads log-probabilities; set logprobs=0")
        known = self._estimator.probe_tokens
        if known and not set(pruning.probe_tokens) <= set(known):
            raise ConfigError(
                f"arrol_probe_tokens = {shown(list(pruning.probe_tokens))}: the loaded head was trained at "
                f"{[length for length in known if length]}; choose from these"
            )


class ConfidenceScheduler(_PruningSchedulerBase):
    """Stops requests by their mean log-probability: no worker, no head, any model. Send ``logprobs=0`` or more."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._logprobs: dict[str, list[float]] = {}
        """Request -> log-probabilities of its sampled tokens up to its last probe."""

    def _estimator_for(self, pruning: PruningRequest) -> Estimator:
        return ConfidenceEstimator()

    def _check(self, request: Request, pruning: PruningRequest) -> None:
        super()._check(request, pruning)
        if pruning.score_end:
            raise ConfigError("arrol_score_end = 1: there is no head here; use PruningScheduler with PruningWorker")
        if pruning.rule.rule not in ("confidence", "uniform"):
            raise ConfigError(
                f"arrol_rule = {pruning.rule.rule!r}: needs a trained head; use confidence or uniform, "
                "or PruningScheduler with PruningWorker"
            )
        if request.sampling_params.logprobs is None:
            raise ConfigError("logprobs = None: confidence is read from log-probabilities; set logprobs=0 or more")

    def _forget(self, request_ids: Iterable[str], *, lost: bool = False) -> None:
        request_ids = list(request_ids)
        super()._forget(request_ids, lost=lost)
        for request_id in request_ids:
            self._logprobs.pop(request_id, None)

    def _scored_after(self, outputs: Outputs) -> list[ProbeScore]:
        scored = []
        for output in (output for answer in outputs.values() for output in answer.outputs):
            request_id = output.request_id
            if output.new_logprobs is None or request_id not in self.book:
                continue
            seen, probes = self._logprobs.setdefault(request_id, []), self.book.pruning(request_id).probe_tokens
            before = len(seen)
            if before >= probes[-1]:
                continue
            seen += output.new_logprobs.logprobs[:, 0].tolist()  # column 0 is the sampled token
            for length in (length for length in probes if before < length <= len(seen)):
                mean = float(logprob_statistics(np.array([seen[:length]]))[0, 2])
                scored.append(ProbeScore(request_id, length, mean, mean))
        return scored
