"""The worker's half: hidden states at probes are scored where they are, and the scores ride on the model's output.

vLLM calls ``execute_model`` and then ``sample_tokens``; in between lie the hidden states after the final norm, the same
that Hugging Face calls ``last_hidden_state``. Steps in which nobody is watched cost one attribute look-up. The head
runs in float32 on the host, on the rank whose output reaches the scheduler, once the step's tokens are known.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from arrol.engines.vllm import compat
from arrol.engines.vllm.groups import Scored
from arrol.engines.vllm.probing import Fed, Gathered, ProbeReader
from arrol.engines.vllm.scheduler import ESTIMATOR_VARIABLE, PLAN, SCORES, Watch
from arrol.errors import ModelError
from arrol.quality.snapshot import EstimatorSnapshot


@dataclass
class Scores:
    """What rides on the model's output."""

    scored: list[Scored] = field(default_factory=list)
    tables: Any = None
    """Calibration after an update of the estimator, once; it arrives before the first score that needs it."""


class ScoredOutput(compat.AsyncModelRunnerOutput):
    """An output that is not there yet; ours is added when it is."""

    def __init__(self, inner: Any, attach: Callable[[Any], Any]) -> None:
        self._inner, self._attach = inner, attach

    def get_output(self) -> Any:
        return self._attach(self._inner.get_output())

    def get_kv_connector_output(self) -> Any:
        """Asked for from 0.33 on."""
        return self._inner.get_kv_connector_output()


class PruningWorker(compat.PlatformWorker):
    """The platform's worker, with a :class:`ProbeReader` between forward pass and sampling."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        path = os.environ.get(ESTIMATOR_VARIABLE)
        self._reader = ProbeReader(self._fitting(EstimatorSnapshot.read(path)) if path else None)
        self._tables: Any = None
        self._plan: Any = None

    def load_model(self, *args: Any, **kwargs: Any) -> Any:
        loaded = super().load_model(*args, **kwargs)
        compat.require_worker(self)
        return loaded

    def execute_model(self, plan: Any) -> Any:
        self._plan = plan
        self._reader.forget(plan.finished_req_ids)  # here, since a step that only says who has left samples nothing
        return super().execute_model(plan)

    @torch.inference_mode()
    def sample_tokens(self, grammar_output: Any) -> Any:
        plan, self._plan = self._plan, None
        watched: dict[str, Watch] = getattr(plan, PLAN, {})
        if self._reader.snapshot is None or not (watched or self._tables) or not compat.is_output_rank(self):
            return super().sample_tokens(grammar_output)
        rows = compat.step_rows(self, list(watched))
        if rows is None:
            return super().sample_tokens(grammar_output)
        if plan.scheduled_spec_decode_tokens:
            return self._after_verification(plan, watched, rows, grammar_output)
        fed = [_fed(plan, rows, request_id, watch, 0) for request_id, watch in watched.items()]
        gathered = self._reader.gather(fed, rows.hidden_ND)
        output = super().sample_tokens(grammar_output)
        return self._attached(output, fed, gathered)

    def _after_verification(self, plan: Any, watched: dict[str, Watch], rows: Any, grammar_output: Any) -> Any:
        """With drafts, what was fed is certain only after sampling, which is synchronous here."""
        rows = compat.StepRows(rows.hidden_ND.clone(), rows.first_row)  # the drafter reuses the buffer
        output = super().sample_tokens(grammar_output)
        assert not isinstance(output, compat.AsyncModelRunnerOutput), "refused by the scheduler"
        fed = []
        for request_id, watch in watched.items():
            drafts = len(plan.scheduled_spec_decode_tokens.get(request_id, ()))
            sampled = output.sampled_token_ids[output.req_id_to_index[request_id]]
            fed.append(_fed(plan, rows, request_id, watch, drafts - max(len(sampled) - 1, 0) if drafts else 0))
        return self._attached(output, fed, self._reader.gather(fed, rows.hidden_ND))

    def _attached(self, output: Any, fed: list[Fed], gathered: Gathered | None) -> Any:
        (tables, self._tables), reader = (self._tables, None), self._reader

        def attach(resolved: Any) -> Any:
            scores = Scores(reader.finish(fed, _sampled_logprobs(resolved, fed), gathered), tables)
            setattr(resolved, SCORES, scores)
            return resolved

        return ScoredOutput(output, attach) if isinstance(output, compat.AsyncModelRunnerOutput) else attach(output)

    def arrol_set_estimator(self, blob: bytes | str) -> int:
        """By ``collective_rpc``: judge by this estimator from the next step on; returns its version. Text is base64."""
        blob = base64.b64decode(blob) if isinstance(blob, str) else blob
        snapshot, known = self._fitting(EstimatorSnapshot.from_bytes(blob)), self._reader.snapshot
        if known is not None and known.layout != snapshot.layout:
            self._reader = ProbeReader()  # what was gathered for other features is of no use: those under way are kept
        self._reader.snapshot, self._tables = snapshot, snapshot.tables()
        return snapshot.version

    def _fitting(self, snapshot: EstimatorSnapshot) -> EstimatorSnapshot:
        """ModelError for the head of another model."""
        size = int(self.model_config.get_hidden_size())
        if snapshot.layout.hidden_size != size:
            raise ModelError(
                f"estimator: reads hidden states of {snapshot.layout.hidden_size}, the model's have {size}; "
                "load the estimator that was trained with this model"
            )
        return snapshot

    def arrol_take_features(self) -> dict[str, Any]:
        """By ``collective_rpc``: features of the requests that asked for a report, as base64 of one float32 array
        with its index, so that the answer may cross HTTP."""
        if not compat.is_output_rank(self):
            return {"index": [], "features": "", "size": 0}
        kept = [(tag, length, row) for tag, rows in self._reader.take_kept().items() for length, row in rows.items()]
        rows = np.stack([row for _, _, row in kept]) if kept else np.zeros((0, 0), np.float32)
        return {
            "index": [[*tag, length] for tag, length, _ in kept],
            "features": base64.b64encode(rows.tobytes()).decode(),
            "size": int(rows.shape[1]),
        }


def _fed(plan: Any, rows: compat.StepRows, request_id: str, watch: Watch, rejected: int) -> Fed:
    count = plan.num_scheduled_tokens[request_id] - rejected
    return Fed(request_id, watch.start, count, rows.first_row[request_id], watch.probes, watch.tag, watch.score_end)


def _sampled_logprobs(output: Any, fed: list[Fed]) -> dict[str, np.ndarray | None]:
    """Per request, log-probabilities of the tokens sampled in this step."""
    if output.logprobs is None:
        return {}
    values: dict[str, np.ndarray | None] = {}
    for one in fed:
        row = output.req_id_to_index[one.request_id]
        count = len(output.sampled_token_ids[row])
        values[one.request_id] = output.logprobs.slice_request(row, count).logprobs[:, 0]
    return values
