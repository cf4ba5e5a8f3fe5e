"""What a cache must do in the trial, and which errors mean that it cannot."""

import pytest
import torch

from arrol.engines.embedded.steps import ModelSteps
from arrol.engines.embedded.trial import FAILURES, tried


@pytest.fixture
def steps(any_model):
    return ModelSteps(any_model)


def test_the_rows_of_this_engine_pass(steps, any_model):
    assert tried(any_model, steps._step_twice)


@pytest.mark.parametrize("wrong", ["order", "token", "size"])
def test_another_result_fails(steps, any_model, wrong):
    def step_twice(prompts, first_3, moved):
        if wrong == "token":
            prompts = [prompts[0], [9, *prompts[1][1:]]]
        found = steps._step_twice(prompts, first_3, moved)
        return {"order": found.flip(0), "token": found, "size": found * 1.2}[wrong]

    assert not tried(any_model, step_twice)


@pytest.mark.parametrize("failure", FAILURES)
def test_an_error_of_the_models_code_fails(any_model, failure):
    def step_twice(*_):
        raise failure("another cache")

    assert not tried(any_model, step_twice)


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), KeyboardInterrupt()])
def test_memory_that_runs_out_says_nothing_about_the_model(any_model, error):
    def step_twice(*_):
        raise error

    with pytest.raises(type(error)):
        tried(any_model, step_twice)


def test_the_model_is_left_as_it_was_found(steps, any_model):
    any_model.train()
    assert tried(any_model, steps._step_twice)
    assert any_model.training
