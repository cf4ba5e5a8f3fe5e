"""The parity table through the rollout function of TRL's own trainer: its prompts, its model, its settings."""

import copy

import pytest

from arrol.integrations.trl import engines
from parity import LENGTH, SCENARIOS, SEED, assert_same, engine_of, recorded, small_model
from trl_host import config, trainer
from trl_parity import played_by_trl, right


@pytest.mark.parametrize("name", SCENARIOS)
def test_the_rollout_function_decides_counts_and_teaches_as_the_reference(name, monkeypatch, tmp_path):
    scenario = SCENARIOS[name]
    size = max(scenario.sizes)
    monkeypatch.setattr(engines, "EmbeddedEngine", lambda model, *rest: engine_of(scenario, model))
    args = config(
        tmp_path,
        pruning={"rule": "uniform", "probe_tokens": [4]},
        num_generations=size,
        per_device_train_batch_size=size * len(scenario.sizes),
        max_completion_length=LENGTH,
        scale_rewards="none",
        seed=SEED,
    )
    host = trainer(args, reward_funcs=right, model=copy.deepcopy(small_model()), chat=False)
    host.eos_token_ids = [2, 3]
    host.model.train()
    found = played_by_trl(name, host, monkeypatch, tmp_path, prompt_of=host.processing_class.decode)
    assert_same("trl", name, found, recorded(name)[1])
