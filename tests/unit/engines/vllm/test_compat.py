"""What is refused, by name, and where rows lie on either generation of vLLM's runner."""

import types

import numpy as np
import pytest
import torch

import vllm_host

if not vllm_host.has_vllm():
    pytest.skip("needs vLLM: make test-vllm", allow_module_level=True)

from arrol.engines.vllm import compat
from arrol.errors import ConfigError
from vllm_host import DRAFTS, engine_config, save_model


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return engine_config(save_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def fresh(config):
    """``fresh("parallel_config", world_size=2)``: the config with some other values, as a plain object."""

    def make(section="model_config", **values):
        parts = {name: vars(getattr(config, name)).copy() for name in ("model_config", "parallel_config")}
        parts["scheduler_config"] = vars(config.scheduler_config).copy()
        parts[section] |= values
        spaces = {name: types.SimpleNamespace(**part) for name, part in parts.items()}
        return types.SimpleNamespace(speculative_config=None, **spaces)

    return make


def test_the_installed_release_is_supported(fresh):
    compat.require_supported()
    compat.require_scheduler(fresh(), reads_hidden_states=True)


@pytest.mark.parametrize("version", ["0.21.9", "0.34.0", "0.34.1rc1+cu128", "1.0", "0"])
def test_a_release_we_have_not_read_is_refused_unless_it_is_asked_for(monkeypatch, version):
    monkeypatch.setattr(compat.vllm, "__version__", version)
    with pytest.raises(
        ConfigError, match=f"vllm = {version[:4]}.*install vllm>=0.22,<0.34, or set {compat.ANY_VERSION}=1"
    ):
        compat.require_supported()
    monkeypatch.setenv(compat.ANY_VERSION, "1")
    compat.require_supported()


@pytest.mark.parametrize("version", ["0.22.0", "0.33.0", "0.33.1.dev3+g1a2b"])
def test_releases_within_the_bounds_are_taken(monkeypatch, version):
    monkeypatch.setattr(compat.vllm, "__version__", version)
    compat.require_supported()


def test_a_seam_that_is_gone_is_named_even_when_the_version_is_waived(monkeypatch):
    monkeypatch.setenv(compat.ANY_VERSION, "1")
    monkeypatch.setattr(compat, "PlatformWorker", type("Worker", (), {"execute_model": len}))
    with pytest.raises(ConfigError, match="Worker has no sample_tokens"):
        compat.require_supported()


@pytest.mark.parametrize(
    ("section", "values", "words"),
    [
        (
            "parallel_config",
            {"distributed_executor_backend": "external_launcher", "world_size": 2},
            "external_launcher",
        ),
        ("parallel_config", {"prefill_context_parallel_size": 2}, "prefill_context_parallel_size = 2"),
        ("model_config", {"runner_type": "pooling"}, "runner = 'pooling'"),
        ("model_config", {"logprobs_mode": "raw_logits"}, "logprobs_mode = 'raw_logits': logits would be read as"),
        ("model_config", {"logprobs_mode": "processed_logits"}, "set raw_logprobs or processed_logprobs"),
    ],
)
@pytest.mark.parametrize("reads_hidden_states", [True, False])
def test_settings_that_would_be_wrong_in_silence_are_refused(fresh, section, values, words, reads_hidden_states):
    with pytest.raises(ConfigError, match=words):
        compat.require_scheduler(fresh(section, **values), reads_hidden_states=reads_hidden_states)


def test_the_rank_is_that_among_all_engines_also_where_they_are_independent(fresh):
    """vLLM sets the rank of dense models back to 0; their draws would be correlated."""
    assert compat.data_parallel_rank(fresh()) == 0
    independent = fresh("parallel_config", data_parallel_rank=0, data_parallel_index=3)
    assert compat.data_parallel_rank(independent) == 3


def test_one_rank_under_an_external_launcher_is_fine(fresh):
    alone = fresh("parallel_config", distributed_executor_backend="external_launcher", world_size=1)
    compat.require_scheduler(alone, reads_hidden_states=True)


@pytest.mark.parametrize(
    ("is_async", "reads", "refused"), [(True, True, True), (False, True, False), (True, False, False)]
)
def test_drafts_are_refused_only_with_asynchronous_scheduling_and_hidden_states(fresh, is_async, reads, refused):
    config = fresh("scheduler_config", async_scheduling=is_async)
    config.speculative_config = DRAFTS
    if not refused:
        compat.require_scheduler(config, reads_hidden_states=reads)
        return
    with pytest.raises(ConfigError, match=r"async_scheduling = True.*set async_scheduling=False"):
        compat.require_scheduler(config, reads_hidden_states=reads)


def test_a_runner_without_the_state_between_the_calls_is_refused():
    runner = type("FutureRunner", (), {})()
    with pytest.raises(ConfigError, match="FutureRunner has no execute_model_state"):
        compat.require_worker(types.SimpleNamespace(model_runner=runner))


def first_runner(hidden):
    state = None if hidden is None else types.SimpleNamespace(hidden_states=hidden)
    return types.SimpleNamespace(
        execute_model_state=state,
        query_start_loc=types.SimpleNamespace(np=np.array([0, 3, 4, 9])),
        input_batch=types.SimpleNamespace(req_id_to_index={"a": 2, "b": 0, "c": 1}),
    )


def second_runner(hidden):
    batch = types.SimpleNamespace(req_ids=["b", "c", "a"], query_start_loc_np=np.array([0, 3, 4, 9]))
    state = None if hidden is None else types.SimpleNamespace(hidden_states=hidden, input_batch=batch)
    return types.SimpleNamespace(execute_model_state=state)


@pytest.mark.parametrize("runner", [first_runner, second_runner])
def test_a_request_begins_at_the_row_that_the_runner_gave_it(runner):
    hidden = torch.zeros(9, 2)
    rows = compat.step_rows(types.SimpleNamespace(model_runner=runner(hidden)), ["a", "b"])
    assert rows.hidden_ND is hidden
    assert dict(rows.first_row) == {"a": 4, "b": 0}


@pytest.mark.parametrize("runner", [first_runner, second_runner])
def test_a_step_without_a_forward_pass_has_no_rows(runner):
    assert compat.step_rows(types.SimpleNamespace(model_runner=runner(None)), []) is None


def test_the_worker_derives_from_the_one_of_this_platform():
    from vllm.platforms import current_platform

    assert current_platform.is_cpu() == (compat.PlatformWorker.__name__ == "CPUWorker")
