"""What we write to vLLM's log, and loops around a scheduler."""

import pytest

import vllm_host

PROBE = 20


@pytest.fixture
def said(monkeypatch):
    """Lines in order, of any level."""
    from arrol.engines.vllm import compat

    lines = []
    for level in ("info", "warning", "error"):
        monkeypatch.setattr(compat.logger, level, lambda text, *values: lines.append(text % values))
    return lines


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return vllm_host.save_model(tmp_path_factory.mktemp("model"))


@pytest.fixture
def config(model):
    return vllm_host.engine_config(model)


@pytest.fixture
def make_loop(config):
    """``make_loop(scheduler_class, ...)``; the score of request ``name.3`` is 3, and the head has been told of."""
    from arrol.engines.vllm.scheduler import PruningScheduler

    def make(scheduler_class=PruningScheduler, **settings):
        settings = {
            "snapshot": vllm_host.snapshot_of(PROBE),
            "score": lambda request_id, length: float(request_id[-1]),
            **settings,
        }
        return vllm_host.SchedulerLoop(config, scheduler_class, **settings)

    return make
