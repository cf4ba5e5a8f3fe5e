"""Mini-batches of a step and the ranks that share its rows."""

import math

import pytest

from arrol.integrations.verl.batch import Batch, MiniBatches, data_parallel_ranks
from integrations.verl.test_derive import CONFIG, changed


@pytest.mark.parametrize("ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("group_size", [4, 5, 8])
@pytest.mark.parametrize("updates", [(1,), (2,), (4,), (4, 1), (3, 2)])
def test_no_step_makes_more_updates_than_verl_alone(ranks, group_size, updates):
    """And few rows are synthetic: verl fills up to a multiple of the ranks and of each mini-batch."""
    sizes = MiniBatches(("actor", "critic")[: len(updates)], updates, group_size, ranks)
    for rows in range(1, 20 * group_size):
        rows_of = [size * group_size for size in sizes.sizes(rows)]
        assert all(mini % ranks == 0 for mini in rows_of)
        synthetic = -rows % math.lcm(ranks, *rows_of)
        assert synthetic < math.lcm(*updates) * math.lcm(ranks, group_size)
        made = [(rows + synthetic) // mini for mini in rows_of]
        assert all(count <= most for count, most in zip(made, updates, strict=True))
        assert sizes.metrics(rows) == {
            "batch/rows": rows, "batch/synthetic_rows": synthetic, "batch/mini_batches": made[0]
        }  # fmt: skip


def test_an_unpruned_step_has_the_mini_batches_of_the_command():
    sizes = MiniBatches.of(CONFIG, Batch(prompts=8, group_size=8, train_size=4))
    assert sizes == MiniBatches(("actor_rollout_ref.actor.ppo_mini_batch_size",), (2,), 8, 2)
    assert sizes.sizes(64) == (4,)
    assert sizes.sizes(32) == (2,)


def test_early_ends_add_rows_and_no_update():
    """A group in which more ended early than may be kept leaves more: verl alone would fill 18 rows up to 32."""
    sizes = MiniBatches(("actor",), (1,), 4, 1)
    assert sizes.metrics(18) == {"batch/rows": 18.0, "batch/synthetic_rows": 2.0, "batch/mini_batches": 1.0}


def test_a_critic_has_mini_batches_of_its_own():
    config = changed({"algorithm.adv_estimator": "gae", "critic.ppo_mini_batch_size": 8})
    sizes = MiniBatches.of(config, Batch(prompts=8, group_size=8, train_size=4))
    assert sizes.paths == ("actor_rollout_ref.actor.ppo_mini_batch_size", "critic.ppo_mini_batch_size")
    assert sizes.updates == (2, 1)
    assert sizes.sizes(32) == (2, 4)


@pytest.mark.parametrize(
    ("strategy", "settings", "ranks"),
    [
        ("fsdp", {}, 16),
        ("fsdp", {"ulysses_sequence_parallel_size": 2}, 8),
        ("fsdp2", {"fsdp_config.ulysses_sequence_parallel_size": 4}, 4),
        ("megatron", {"megatron.tensor_model_parallel_size": 2, "megatron.pipeline_model_parallel_size": 2}, 4),
        ("megatron", {"megatron.context_parallel_size": 2, "ulysses_sequence_parallel_size": 4}, 8),
        ("veomni", {"veomni.ulysses_parallel_size": 2}, 8),
        ("torchtitan", {"torchtitan.tensor_parallel_size": 2, "torchtitan.pipeline_parallel_size": 4}, 2),
        ("automodel", {"automodel.tp_size": 2, "automodel.cp_size": 2}, 4),
    ],
    ids=str,
)
def test_data_parallel_ranks_are_what_the_engine_leaves(strategy, settings, ranks):
    node = "actor_rollout_ref.actor"
    config = changed({f"{node}.strategy": strategy, **{f"{node}.{name}": size for name, size in settings.items()}})
    assert data_parallel_ranks({**config, "trainer": {"n_gpus_per_node": 8, "nnodes": 2}}) == ranks
