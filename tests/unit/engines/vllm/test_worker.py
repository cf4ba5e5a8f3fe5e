"""The worker's own half, with a runner of three lines below it; real runners are in ``tests/with_vllm``."""

import base64
import types

import numpy as np
import pytest
import torch

import vllm_host

if not vllm_host.has_vllm():
    pytest.skip("needs vLLM: make test-vllm", allow_module_level=True)

from arrol.engines.vllm import compat
from arrol.engines.vllm.probing import ProbeReader, Tag, Watch
from arrol.engines.vllm.scheduler import ScoredResult
from arrol.engines.vllm.worker import PruningWorker, ScoringOutput
from arrol.quality.snapshot import ModelFingerprint
from arrol.types import RolloutId
from vllm_host import HIDDEN, snapshot_of

PROBE = 3
MODEL = types.SimpleNamespace(model_type="qwen3", hidden_size=HIDDEN, num_hidden_layers=2, vocab_size=264)


class Promise(compat.AsyncModelRunnerOutput):
    """An answer that comes later."""

    def __init__(self, output):
        self.output, self.is_resolved = output, False

    def get_output(self):
        self.is_resolved = True
        return self.output

    def get_kv_connector_output(self):
        return "the transfer's"


@pytest.fixture
def worker(monkeypatch):
    """A worker on the output rank without device or model; ``worker.answer`` is what sampling gives."""
    one = object.__new__(PruningWorker)
    one._reader, one._tables, one._plan, one.answer = ProbeReader(snapshot_of(PROBE)), None, None, None
    one.model_runner = types.SimpleNamespace(execute_model_state=None)
    one.model_config = types.SimpleNamespace(hf_text_config=MODEL)
    monkeypatch.setattr(compat.PlatformWorker, "execute_model", lambda self, plan: None)
    monkeypatch.setattr(compat.PlatformWorker, "sample_tokens", lambda self, grammar_output: self.answer)
    monkeypatch.setattr(compat, "is_output_rank", lambda worker: True)
    return one


def answer_of(*requests, tokens=1):
    logprobs = types.SimpleNamespace(
        slice_request=lambda row, count: types.SimpleNamespace(logprobs=np.full((count, 1), -0.5))
    )
    index = {request_id: row for row, request_id in enumerate(requests)}
    return types.SimpleNamespace(
        req_id_to_index=index, sampled_token_ids=[[1] * tokens for _ in requests], logprobs=logprobs
    )


def plan_of(counts, watched=None, finished=()):
    plan = types.SimpleNamespace(
        num_scheduled_tokens=counts, finished_req_ids=set(finished), scheduled_spec_decode_tokens={}
    )
    if watched:
        plan.arrol_watched = watched
    return plan


def feed(worker, start, answer, *, count=1, request="r", finished=()):
    """One step of one request, whose rows are the numbers of their positions."""
    batch = types.SimpleNamespace(req_ids=[request], query_start_loc_np=np.array([0, count]))
    hidden = torch.arange(start, start + count, dtype=torch.float32)[:, None].expand(count, HIDDEN).clone()
    state = types.SimpleNamespace(hidden_states=hidden, input_batch=batch)
    worker.model_runner.execute_model_state = state
    worker.answer = answer
    worker.execute_model(
        plan_of({request: count}, {request: Watch(start, (PROBE,), Tag("", RolloutId(1, 0, 0)))}, finished)
    )
    return worker.sample_tokens(None)


def scores_of(output):
    return [(one.request_id, one.probe_tokens) for one in output.arrol_scores.scored]


def test_scores_ride_on_the_answer_of_the_step_that_feeds_the_probed_token(worker):
    feed(worker, -2, answer_of("r"), count=2)
    seen = [scores_of(feed(worker, position, answer_of("r"))) for position in range(4)]
    assert seen == [[], [], [("r", PROBE)], []]
    taken = worker.arrol_take_features()
    features = np.frombuffer(base64.b64decode(taken["features"]), np.float32).reshape(-1, taken["size"])
    assert taken["index"] == [[1, 0, 0, PROBE]]
    np.testing.assert_allclose(features[0, [0, HIDDEN]], [2.0, 1.0])
    np.testing.assert_allclose(features[0, -3:], [-1.5, -0.5, -0.5])
    assert worker.arrol_take_features()["index"] == []


def test_an_answer_that_comes_later_gets_its_scores_when_it_comes(worker):
    feed(worker, -2, answer_of("r"), count=2)
    promises = [feed(worker, position, Promise(answer_of("r"))) for position in range(3)]
    assert not any(promise._inner.is_resolved for promise in promises)
    assert all(isinstance(promise, ScoringOutput) for promise in promises)
    assert [scores_of(promise.get_output()) for promise in promises] == [[], [], [("r", PROBE)]]
    assert promises[0].get_kv_connector_output() == "the transfer's"


def test_a_buffer_that_is_used_again_before_the_answer_comes_does_no_harm(worker):
    feed(worker, -2, answer_of("r"), count=2)
    promises = []
    for position in range(3):
        promises.append(feed(worker, position, Promise(answer_of("r"))))
        worker.model_runner.execute_model_state.hidden_states.fill_(1e9)
    for promise in promises:
        promise.get_output()
    features = np.frombuffer(base64.b64decode(worker.arrol_take_features()["features"]), np.float32)
    np.testing.assert_allclose(features[[0, HIDDEN]], [2.0, 1.0])


def test_a_step_without_watched_requests_is_left_alone(worker):
    worker.answer = Promise(answer_of("r"))
    worker.execute_model(plan_of({"r": 1}))
    assert worker.sample_tokens(None) is worker.answer


def test_without_a_head_and_off_the_output_rank_nothing_is_done(worker, monkeypatch):
    answer = answer_of("r")
    worker._reader = ProbeReader()
    assert not isinstance(feed(worker, 0, answer), ScoredResult)
    worker._reader = ProbeReader(snapshot_of(PROBE))
    monkeypatch.setattr(compat, "is_output_rank", lambda worker: False)
    assert not isinstance(feed(worker, 0, answer), ScoredResult)
    assert worker.arrol_take_features() == {"index": [], "features": "", "size": 0}


def test_a_new_head_sends_its_tables_once_with_the_next_answer(worker):
    worker._reader = ProbeReader()
    assert worker.arrol_set_estimator(snapshot_of(PROBE, version=4).to_bytes()) == {"version": 4}
    assert feed(worker, 0, answer_of("r")).arrol_scores.tables["version"] == 4
    assert feed(worker, 1, answer_of("r")).arrol_scores.tables is None


def test_a_head_with_a_nan_is_named_in_the_log(worker, said):
    snapshot = snapshot_of(PROBE, version=5)
    snapshot._heads[0].first.weight.data[0, 0] = np.nan
    assert worker.arrol_set_estimator(snapshot.to_bytes()) == {"version": 5}
    assert said == ["arrol: head version 5 has weights that are not finite; no request is pruned until another is set"]


def test_a_head_that_reads_something_else_starts_anew_and_answers_under_way_keep_the_old(worker):
    feed(worker, -2, answer_of("r"), count=2)
    for position in range(2):
        feed(worker, position, answer_of("r"))
    under_way = feed(worker, 2, Promise(answer_of("r")))
    worker.arrol_set_estimator(snapshot_of(PROBE, features=("last_hidden",)).to_bytes())
    assert scores_of(under_way.get_output()) == [("r", PROBE)]
    (late,) = feed(worker, 2, answer_of("q"), request="q").arrol_scores.scored
    assert np.isnan(late.score), "its first tokens were not seen by this head, so it is not judged"
    worker.arrol_set_estimator(snapshot_of(PROBE).to_bytes())
    feed(worker, 3, answer_of("q"), request="q")


def test_requests_that_left_are_forgotten_even_by_a_step_that_samples_nothing(worker):
    feed(worker, -2, answer_of("r"), count=2)
    assert worker._reader._records
    worker.execute_model(plan_of({}, finished={"r"}))
    assert not worker._reader._records


def blob_of(**changes):
    """A head whose file names the worker's model, but for ``changes``."""
    snapshot = snapshot_of(PROBE)
    snapshot.model = ModelFingerprint.of(MODEL)._replace(**changes)
    return snapshot.to_bytes()


REFUSALS = {
    "no estimator": (
        b"no",
        "estimator = 'bytes': damaged or not an estimator (ValueError); give a file that arrol export wrote",
    ),
    "no base64": ("a", "Invalid base64-encoded string"),
    "another width": (
        snapshot_of(PROBE, hidden=5).to_bytes(),
        "estimator.hidden_size = 5: the model's is 128; load the estimator that was trained with this model",
    ),
    "another model": (
        blob_of(model_type="llama", num_hidden_layers=30),
        "estimator.model = llama (hidden_size 128, num_hidden_layers 30, vocab_size 264): "
        "the model's is qwen3 (hidden_size 128, num_hidden_layers 2, vocab_size 264); "
        "load the estimator that was trained with this model",
    ),
}


@pytest.mark.parametrize(("blob", "message"), REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_is_returned_and_logged_and_the_old_head_stays(worker, said, blob, message):
    """Raised, it would leave the answers of the other ranks to the next call."""
    old = worker._reader.snapshot
    answer = worker.arrol_set_estimator(blob)
    assert list(answer) == ["refused"]
    assert answer["refused"].startswith(message)
    assert said == [f"arrol: the head is refused: {answer['refused']}"]
    assert worker._reader.snapshot is old
    assert worker._tables is None


def test_a_head_that_names_the_model_is_taken(worker):
    assert worker.arrol_set_estimator(blob_of()) == {"version": 0}
