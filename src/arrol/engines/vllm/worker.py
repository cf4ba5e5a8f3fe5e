"""vLLM worker that scores hidden states at probes; the scores are attached to the model's output.

vLLM calls ``execute_model`` and then ``sample_tokens``; in between the runner holds the hidden states after the final
norm (Hugging Face's ``last_hidden_state``). A step without watched requests costs one attribute look-up. The head runs
in float32 on the host, on the rank whose output reaches the scheduler, once the step's tokens are known.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias, TypedDict

import numpy as np
import torch

from arrol.engines.vllm import compat
from arrol.engines.vllm.groups import ProbeScore
from arrol.engines.vllm.metrics import process_metrics
from arrol.engines.vllm.probing import Fed, Gathered, ProbeReader, Watch
from arrol.engines.vllm.scheduler import ESTIMATOR_VARIABLE, WatchingPlan
from arrol.quality.snapshot import EstimatorSnapshot
from arrol.types import State

if TYPE_CHECKING:
    from vllm.v1.core.sched.output import GrammarOutput, SchedulerOutput
    from vllm.v1.outputs import ModelRunnerOutput

    Output: TypeAlias = ModelRunnerOutput | compat.AsyncModelRunnerOutput | None


@dataclass
class StepScores:
    """Our attribute of the model's output."""

    scored: list[ProbeScore]
    tables: State | None = None
    """Calibration after an update of the estimator, once; it arrives before the first score that needs it."""


class SetAnswer(TypedDict, total=False):
    """Answer of ``arrol_set_estimator``, one of the two."""

    version: int
    refused: str
    """Why; the estimator before stays."""


class TakenFeatures(TypedDict):
    """Answer of ``arrol_take_features``; JSON, since it may cross HTTP."""

    index: list[list[int]]
    """(step, group, rollout index, probe length) per row."""
    features: str
    """Base64 of float32 ``[rows, size]``."""
    size: int


class ScoringOutput(compat.AsyncModelRunnerOutput):
    """An output under way; the scores are attached when it arrives."""

    def __init__(self, inner: compat.AsyncModelRunnerOutput, attach: Callable[[Any], Any]) -> None:
        self._inner, self._attach = inner, attach

    def get_output(self) -> ModelRunnerOutput:
        return self._attach(self._inner.get_output())

    def get_kv_connector_output(self) -> Any:
        """Abstract from vLLM 0.33 on."""
        return self._inner.get_kv_connector_output()


class PruningWorker(compat.PlatformWorker):
    """The platform's worker with a :class:`ProbeReader` between forward pass and sampling."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        path = os.environ.get(ESTIMATOR_VARIABLE)
        self._reader = ProbeReader(self._fitting(EstimatorSnapshot.read(path)) if path else None)
        self._tables: State | None = None
        self._plan: SchedulerOutput | None = None

    def load_model(self, *args: Any, **kwargs: Any) -> Any:
        loaded = super().load_model(*args, **kwargs)
        compat.require_worker(self)
        return loaded

    def execute_model(self, plan: SchedulerOutput) -> Output:
        self._plan = plan
        self._reader.forget(plan.finished_req_ids)  # a step that only tells which requests ended samples nothing
        return super().execute_model(plan)

    @torch.inference_mode()
    def sample_tokens(self, grammar_output: GrammarOutput | None) -> Output:
        plan, self._plan = self._plan, None
        watched = plan.arrol_watched if isinstance(plan, WatchingPlan) else {}
        is_idle = plan is None or self._reader.snapshot is None or not (watched or self._tables)
        rows = None if is_idle or not compat.is_output_rank(self) else compat.step_rows(self, list(watched))
        if plan is None or rows is None:
            return super().sample_tokens(grammar_output)
        if plan.scheduled_spec_decode_tokens:
            return self._after_verification(plan, watched, rows, grammar_output)
        fed = [_fed(plan, rows, request_id, watch) for request_id, watch in watched.items()]
        gathered = self._gather(fed, rows)
        output = super().sample_tokens(grammar_output)
        return self._with_scores(output, fed, gathered)

    def _after_verification(
        self,
        plan: SchedulerOutput,
        watched: dict[str, Watch],
        rows: compat.StepRows,
        grammar_output: GrammarOutput | None,
    ) -> Output:
        """With drafts, the accepted tokens are known only after sampling, which is synchronous here."""
        rows = compat.StepRows(rows.hidden_ND.clone(), rows.first_row)  # the drafter reuses the buffer
        output = super().sample_tokens(grammar_output)
        assert not isinstance(output, compat.AsyncModelRunnerOutput), "refused by the scheduler"
        fed = []
        for request_id, watch in watched.items():
            drafts = len(plan.scheduled_spec_decode_tokens.get(request_id, ()))
            accepted = max(len(output.sampled_token_ids[output.req_id_to_index[request_id]]) - 1, 0)
            fed.append(_fed(plan, rows, request_id, watch, drafts - accepted if drafts else 0))
        return self._with_scores(output, fed, self._gather(fed, rows))

    def _gather(self, fed: list[Fed], rows: compat.StepRows) -> Gathered | None:
        with process_metrics().scoring_seconds.time():
            return self._reader.gather(fed, rows.hidden_ND)

    def _with_scores(self, output: Any, fed: list[Fed], gathered: Gathered | None) -> Output:
        (tables, self._tables), reader = (self._tables, None), self._reader

        def attach(resolved: Any) -> Any:
            with process_metrics().scoring_seconds.time():
                scored = reader.finish(fed, _sampled_logprobs(resolved, fed), gathered)
            resolved.arrol_scores = StepScores(scored, tables)
            return resolved

        return ScoringOutput(output, attach) if isinstance(output, compat.AsyncModelRunnerOutput) else attach(output)

    def arrol_set_estimator(self, blob: bytes | str) -> SetAnswer:
        """By ``collective_rpc``: score by this estimator from the next step on. Text is base64.

        A refusal is returned: an error of one rank leaves the others' answers to the next call (vLLM #58242).
        """
        try:
            blob = base64.b64decode(blob) if isinstance(blob, str) else blob
            snapshot = self._fitting(EstimatorSnapshot.from_bytes(blob))
        except ValueError as error:  # ModelError, or text that is not base64
            compat.logger.error("arrol: the head is refused: %s", error)
            return {"refused": str(error)}
        known = self._reader.snapshot
        if known is not None and known.layout != snapshot.layout:
            self._reader = ProbeReader()  # sums for other features are of no use: running requests get no score
        self._reader.snapshot, self._tables = snapshot, snapshot.tables()
        return {"version": snapshot.version}

    def _fitting(self, snapshot: EstimatorSnapshot) -> EstimatorSnapshot:
        """ModelError for the head of another model; a warning for one whose scores are NaN."""
        snapshot.require_model(self.model_config.hf_text_config)
        if not snapshot.is_finite:
            compat.logger.warning(
                "arrol: head version %d has weights that are not finite; no request is pruned until another is set",
                snapshot.version,
            )
        return snapshot

    def arrol_take_features(self, run: str = "") -> TakenFeatures:
        """By ``collective_rpc``: features held since the last call, of requests of ``run`` with ``report``."""
        if not compat.is_output_rank(self):
            return {"index": [], "features": "", "size": 0}
        held = self._reader.take_kept(run)
        kept = [(rollout_id, length, row) for rollout_id, rows in held.items() for length, row in rows.items()]
        rows = np.stack([row for _, _, row in kept]) if kept else np.zeros((0, 0), np.float32)
        return {
            "index": [[*rollout_id, length] for rollout_id, length, _ in kept],
            "features": base64.b64encode(rows.tobytes()).decode(),
            "size": int(rows.shape[1]),
        }


def _fed(plan: SchedulerOutput, rows: compat.StepRows, request_id: str, watch: Watch, rejected: int = 0) -> Fed:
    return Fed(request_id, watch, plan.num_scheduled_tokens[request_id] - rejected, rows.first_row[request_id])


def _sampled_logprobs(output: ModelRunnerOutput, fed: list[Fed]) -> dict[str, np.ndarray]:
    """Request -> log-probabilities of its tokens sampled in this step; empty where not requested."""
    if output.logprobs is None:
        return {}
    row_of, tokens = output.req_id_to_index, output.sampled_token_ids
    rows = {one.request_id: row_of[one.request_id] for one in fed}
    return {i: output.logprobs.slice_request(row, len(tokens[row])).logprobs[:, 0] for i, row in rows.items()}
