"""Every allocation rule runs in the worker, including the rules that the synchronous door refuses."""

import async_host
import numpy as np
import pytest

import trl_host
from arrol.errors import ConfigError
from trl_host import text_of

pytestmark = pytest.mark.skipif(not trl_host.has_async(), reason="the worker protocol of TRL 1.16")
SMALL = {"num_generations": 4, "per_device_train_batch_size": 16, "max_completion_length": 12, "max_steps": 1}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return async_host.model_folder(tmp_path_factory.mktemp("model"))


def has_its_digit_early(completions, answer, **columns):
    """Right in about a fifth of the rollouts, so that groups without success are common."""
    return [float(digit in text_of(c)[:4]) for c, digit in zip(completions, answer, strict=True)]


def batches(folder, out, count=3, **options):
    args = async_host.config(out, **SMALL)
    options = {"rule": "never", **options}
    worker, _ = async_host.worker_of(folder, args, has_its_digit_early, **options)
    maker = worker.batch_maker()
    return maker, [maker.make(lambda: 1, lambda: None) for _ in range(count)]


def groups_of(batch):
    groups = {}
    for sample in batch.samples:
        groups.setdefault(sample.group_id, []).append(sample)
    return groups


def total(made, key):
    return sum(batch.metrics.get(key, 0.0) for batch in made)


def test_dapo_drops_uniform_groups_and_draws_other_prompts(folder, tmp_path):
    _, made = batches(folder, tmp_path, allocation="dapo")
    assert total(made, "allocation/prompts_drawn") > 3 * 4, "more than prompts_per_batch: refilled"
    assert total(made, "allocation/dropped/uniform") > 0
    for batch in made:
        groups = groups_of(batch)
        assert len(groups) == 4, "a full batch of mixed groups"
        assert all(len({s.metrics["reward"] for s in group}) == 2 for group in groups.values())


def test_aero_rescues_prompts_without_success(folder, tmp_path):
    rule = {"rule": "aero", "explore_size": 2, "rescue_step": 1}
    _, made = batches(folder, tmp_path, allocation=rule)
    assert max(batch.metrics["allocation/waves/mean"] for batch in made) > 1.0
    assert total(made, "allocation/stratum_before/rescue") > total(made, "allocation/stratum_after/rescue")


def test_reinforce_ada_samples_in_rounds(folder, tmp_path):
    rule = {"rule": "reinforce_ada", "round_size": 2, "max_rounds": 4, "keep_size": 4}
    _, made = batches(folder, tmp_path, allocation=rule)
    assert max(batch.metrics["allocation/waves/mean"] for batch in made) > 1.0
    assert max(len(group) for batch in made for group in groups_of(batch).values()) <= 4


def test_pilot_commit_commits_after_the_pilots_rewards(folder, tmp_path):
    rule = {"rule": "pilot_commit", "pilot_size": 4, "commit_size": 4}
    _, made = batches(folder, tmp_path, allocation=rule)
    sizes = [len(group) for batch in made for group in groups_of(batch).values()]
    assert sizes == [8] * len(sizes)
    assert sizes


def test_greso_skips_prompts_that_were_uniform_before(folder, tmp_path):
    maker, made = batches(folder, tmp_path, 8, allocation={"rule": "greso", "hard_repeat": 0.05, "easy_repeat": 0.05})
    assert total(made, "allocation/prompts_skipped") > 0
    assert maker.save()["position"] > total(made, "allocation/prompts_drawn"), "skipped prompts were read"


def test_mopps_looks_at_more_prompts_than_it_asks(folder, tmp_path):
    maker, made = batches(folder, tmp_path, allocation={"rule": "mopps", "candidates": 2})
    assert total(made, "allocation/prompts_drawn") == 3 * 4
    assert maker.save()["position"] == 3 * 4 * 2


def test_knapsack_spends_its_budget(folder, tmp_path):
    _, made = batches(folder, tmp_path, allocation={"rule": "knapsack", "rollout_budget": 14})
    assert [batch.metrics["allocation/rollouts_asked"] for batch in made] == [14.0] * 3


def test_neyman_spends_the_batch_and_starves_none(folder, tmp_path):
    _, made = batches(folder, tmp_path, allocation="neyman")
    asked = [batch.metrics["allocation/rollouts_asked"] for batch in made]
    assert len(set(asked)) == 1
    assert min(len(group) for batch in made for group in groups_of(batch).values()) >= 2


def test_a_later_wave_is_pruned_too(folder, tmp_path):
    """Dynamic sampling and pruning in one batch: refilled prompts lose rollouts as the first ones do."""
    _, made = batches(
        folder, tmp_path, rule="uniform", probe_tokens=[3], warmup_steps=0, min_survivors=1, allocation="dapo"
    )
    assert total(made, "rollout/finish/pruned") > 0
    assert total(made, "allocation/prompts_drawn") > 3 * 4
    assert all(np.isfinite(sample.advantage) for batch in made for sample in batch.samples)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"allocation": {"rule": "aero", "explore_size": 6}},
            "allocation.explore_size = 6: more than num_generations = 4; lower it",
        ),
        (
            {"allocation": {"rule": "knapsack", "rollout_budget": 4}},
            "allocation.rollout_budget = 4: allocation.least times prompts_per_batch is 8 already; raise it or lower "
            "one of them",
        ),
        (
            {"rule": "uniform", "probe_tokens": [12]},
            "probe_tokens = [12]: no rollout runs beyond max_completion_length = 12; probe earlier",
        ),
        (
            {"prompts_per_batch": -1},
            "prompts_per_batch = -1: must be at least 0; expected: Prompts that a batch of "
            "the worker begins with; 0: as many whole groups as an optimizer step has samples.",
        ),
        ({"keep_ration": 0.5}, "keep_ration = 0.5: unknown key; the nearest known one is 'keep_ratio'"),
        (
            {"rule": "oracle"},
            "rule = 'oracle': decides after verification, which only arrol train can; use another",
        ),
        (
            {"two_phase": True},
            "quality.features = ['last_hidden', 'mean_hidden', 'logprobs']: several calls can read only "
            "log-probabilities; set it to ['logprobs']",
        ),
        (
            {"algorithm": "mc_grpo", "correction": "plain", "allocation": "aero"},
            "algorithm = 'mc_grpo': the posterior is a baseline already; set 'grpo', or "
            "allocation.posterior.used_for = 'nothing'",
        ),
    ],
)
def test_what_cannot_be_is_refused_at_once(folder, tmp_path, options, message):
    args = async_host.config(tmp_path, **SMALL)
    with pytest.raises(ConfigError) as error:
        async_host.worker_of(folder, args, **{"rule": "never", **options})
    assert str(error.value) == message


def test_settings_of_trl_without_effect_are_refused(folder, tmp_path):
    args = async_host.config(tmp_path, repetition_penalty=1.2)
    with pytest.raises(ConfigError) as error:
        async_host.worker_of(folder, args)
    assert str(error.value) == (
        "repetition_penalty = 1.2: a rollout is one turn, sampled by temperature, top_p and top_k only; leave it out"
    )


def test_auto_learns_from_the_batches_of_the_worker(folder, tmp_path):
    options = {"rule": "auto", "allocation": "uniform", "noise_ratio": 2.0, "warmup_steps": None}
    maker, made = batches(folder, tmp_path, 18, **options)
    found = [batch.metrics["pruning/auto/groups"] for batch in made]
    assert found == [4.0 * min(number, 16) for number in range(1, 19)]
    assert np.isfinite(made[-1].metrics["pruning/auto/merit"])
    again, _ = batches(folder, tmp_path, 0, **options)
    again.load(maker.save())
    (more,), (same,) = ([one.make(lambda: 1, lambda: None)] for one in (maker, again))
    assert same.metrics["pruning/auto/merit"] == more.metrics["pruning/auto/merit"]
