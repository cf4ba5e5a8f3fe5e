"""Allocation rules: what trains of a whole group, against TRL's own loss of each row alone.

The reference knows rewards, the rule's choice and the formulas; it knows nothing of compaction, factors or totals.
"""

import numpy as np
import pytest
import torch
import trl
from rows import Spy, gradient, rows_of

from arrol.algorithms.allocation.selection import SELECTION_STREAM, balanced, cppo, pods, rejected
from arrol.integrations.trl import prune_rewards, pruned_rollout
from arrol.integrations.trl.batch import row_key
from trl_host import SETTINGS, config, has_digit, history, trainer, trl_config, weights

NEVER = {"rule": "never"}
GROUPS, SIZE = 4, SETTINGS["num_generations"]
ROWS = {"per_device_train_batch_size": GROUPS * SIZE}


def sometimes(completions, answer, **kwargs):
    """Small answers are always right, so that some groups are uniform."""
    return [
        max(reward, float(digit < "3")) for reward, digit in zip(has_digit(completions, answer), answer, strict=True)
    ]


def spread_of(reward):
    return reward.std(ddof=1) + 1e-4


def by_pods(reward, key):
    chosen = pods(reward, 4, key).train_G
    kept = reward[chosen]
    return np.where(chosen, (reward - kept.mean()) / spread_of(kept), 0.0), chosen * 1.0, 4


def by_cppo(reward, key):
    chosen = cppo(reward, 4, key).train_G
    return np.where(chosen, (reward - reward.mean()) / spread_of(reward), 0.0), chosen * 1.0, 4


def by_dapo(reward, key):
    mixed = len(set(reward)) == 2
    return mixed * (reward - reward.mean()) / spread_of(reward), mixed * np.ones(SIZE), mixed * SIZE


def rejection(reward, key):
    """Weights of AERO's rejection of surplus failures: the kept ones stand for all wrong ones."""
    right = reward == 1
    if 2 * right.sum() >= SIZE:
        return np.ones(SIZE)
    chosen = rejected(right, ~right, int(right.sum()), "corrected", key).train_G
    return np.where(right, 1.0, chosen * (~right).sum() / right.sum())


def by_corrected(reward, key):
    mixed = len(set(reward)) == 2
    weight = rejection(reward, key) if mixed else np.zeros(SIZE)
    return weight * (reward - reward.mean()) / spread_of(reward), weight, SIZE


def by_posterior(reward, key):
    """Beta(1 + right, 1 + wrong): the first batch meets each prompt for the first time."""
    mean = (1 + reward.sum()) / (2 + SIZE)
    if len(set(reward)) == 2:
        weight = rejection(reward, key)
    else:
        chosen = rejected(np.zeros(SIZE, bool), np.ones(SIZE, bool), 4, "corrected", key).train_G
        weight = chosen * SIZE / 4
    advantage = (reward - mean) / (np.sqrt(mean * (1 - mean)) + 1e-6)
    if not reward.any():
        advantage = np.maximum(advantage, -0.25)
    return weight * advantage, weight, SIZE


def by_median(reward, key):
    center = np.median(reward)
    deviation = np.abs(reward - center)
    advantage = (reward - center) / (deviation.mean() + 1e-6) if deviation.any() else np.zeros(SIZE)
    return advantage, np.ones(SIZE), SIZE


def by_balance(reward, key):
    chosen = balanced(reward == 1, reward == 0, 4, key).train_G
    return np.where(chosen, (reward - reward.mean()) / spread_of(reward), 0.0), chosen * 1.0, 4


def by_size(reward, key):
    """Groups smaller than TRL's, whole."""
    spread = spread_of(reward)
    return (reward - reward.mean()) / spread, np.ones(len(reward)), len(reward)


RULES = {
    "knapsack": ({"allocation": "knapsack", "allocation_options": {"rollout_budget": 18}}, by_size),
    "pods": ({"allocation": "pods", "allocation_options": {"train_size": 4}}, by_pods),
    "cppo": ({"allocation": "cppo", "allocation_options": '{"train_size": 4}'}, by_cppo),
    "dapo": ({"allocation": "dapo"}, by_dapo),
    "balanced": ({"allocation": "reinforce_ada", "allocation_options": {"keep_size": 4}}, by_balance),
    "corrected": (
        {"allocation": "aero", "allocation_options": {"posterior": {"used_for": "nothing"}}},
        by_corrected,
    ),
    "posterior": ({"allocation": "aero"}, by_posterior),
    "mc_grpo": ({"algorithm": "mc_grpo"}, by_median),
}


def reference(host, loss_type, formula):
    """TRL's loss of each row that trains, alone, times what the formula says."""
    inputs, pad = host.before, host.processing_class.pad_token_id
    signal, counted, trained = {}, 0.0, 0
    for number, group in enumerate(host.pruned.batch.groups):
        reward = group.rewards_G
        key = [SETTINGS["seed"], SELECTION_STREAM, host.pruned.memory.step, number]
        advantage, weight, effective_rollouts = formula(reward, key)
        counted += effective_rollouts
        trained += int((weight > 0).sum())
        for rollout, *each in zip(group.rollouts, advantage, weight, strict=True):
            signal.setdefault(row_key(group.prompt.token_ids, rollout.completion.token_ids, pad), []).append(each)
    rows, tokens = [], []
    for i in range(len(inputs["completion_mask"])):
        prompt = inputs["prompt_ids"][i][inputs["prompt_mask"][i].bool()].tolist()
        key = row_key(prompt, inputs["completion_ids"][i].tolist(), pad)
        rows.append(np.mean(signal.get(key, [(0.0, 0.0)]), axis=0))
        tokens.append(int(inputs["completion_mask"][i].sum()))
    by_tokens = sum(weight * length for (_, weight), length in zip(rows, tokens, strict=True))
    denominator = counted if loss_type == "grpo" else by_tokens
    parts = []
    for i, (advantage, weight) in enumerate(rows):
        if weight == 0:
            continue
        row = rows_of(inputs, [i]) | {"num_items_in_batch": torch.tensor(1.0)}
        scale = (tokens[i] if loss_type == "bnpo" else 1.0) / denominator
        row["advantages"] = torch.tensor([advantage * scale], dtype=torch.float32)
        parts.append(row)
    assert len(parts) == trained
    return gradient(host, lambda *given: trl.GRPOTrainer.compute_loss(host, *given), parts)


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("loss_type", ["grpo", "dapo", "bnpo"])
def test_what_trains_has_the_stated_loss_and_gradient(tmp_path, name, loss_type):
    options, formula = RULES[name]
    args = config(
        tmp_path, pruning=NEVER, loss_type=loss_type, max_steps=1, **ROWS, **{"correction": "plain", **options}
    )
    host = trainer(args, Spy, reward_funcs=sometimes)
    host.train()
    uniform = [len(set(group.rewards_G)) == 1 for group in host.pruned.batch.groups]
    assert True in uniform
    assert False in uniform
    host.current_gradient_accumulation_steps = 1
    host.model.train()
    ours, loss = gradient(host, host.compute_loss, [host.before])
    wanted, wanted_loss = reference(host, loss_type, formula)
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-6)
    assert loss == pytest.approx(wanted_loss, rel=1e-4, abs=1e-6)


def test_a_selection_that_leaves_no_row_out_trains_what_trl_trains(tmp_path):
    alike = {"pruning": {**NEVER, "rule_options": {"observe": True}}, "correction": "plain"}
    plain = trainer(config(tmp_path / "a", **alike))
    plain.train()
    whole = trainer(config(tmp_path / "b", allocation="pods", allocation_options={"train_size": SIZE}, **alike))
    whole.train()
    torch.testing.assert_close(weights(plain), weights(whole), rtol=0, atol=1e-5)


def test_rows_that_are_left_out_cost_no_forward_and_are_counted(tmp_path):
    seen = []

    class Watched(Spy):
        def log(self, logs, *rest):
            seen.append(len(self.before["completion_mask"]))
            super().log(logs, *rest)

    args = config(tmp_path, pruning=NEVER, allocation="pods", allocation_options={"train_size": 2})
    host = trainer(args, Watched)
    host.train()
    assert seen[0] == 16  # TRL hands all rows to the loss
    assert history(host, "arrol/allocation/dropped/surplus") == [12.0] * 3
    assert history(host, "arrol/allocation/prompts_trained") == [2.0] * 3
    assert history(host, "arrol/tokens/wasted") == [0.0] * 3


@pytest.mark.parametrize("correction", ["plain", "doubly_robust"])
def test_pruning_and_a_selection_work_together(tmp_path, correction):
    args = config(tmp_path, correction=correction, allocation="aero", max_steps=4, **ROWS)
    host = trainer(args, reward_funcs=sometimes)
    host.train()
    assert min(history(host, "arrol/pruning/kept_frac")) < 1
    assert sum(history(host, "arrol/allocation/tokens_dropped")) > 0
    assert np.isfinite(history(host, "loss")).all()
    assert all(norm > 0 for norm in history(host, "grad_norm"))


def test_sizes_follow_the_history_within_the_budget(tmp_path):
    """Rows that are never asked for cost no token, reach no reward function and leave no trace in the loss."""
    asked, seen = [], []

    def counted(completions, answer, **kwargs):
        asked.append(len(completions))
        return sometimes(completions, answer)

    class Watched(Spy):
        def log(self, logs, *rest):
            seen.append([len(group.rollouts) for group in self.pruned.batch.groups])
            super().log(logs, *rest)

    options = {"allocation": "knapsack", "allocation_options": {"rollout_budget": 16, "posterior": {"discount": 1.0}}}
    host = trainer(config(tmp_path, pruning=NEVER, max_steps=6, **options, **ROWS), Watched, reward_funcs=counted)
    host.train()
    sizes = seen[:6]
    assert sizes[0] == [4] * GROUPS
    assert all(sum(each) == 16 and min(each) >= 2 and max(each) <= SIZE for each in sizes)
    assert max(map(max, sizes)) > 4
    assert asked == [16] * 6
    assert history(host, "arrol/allocation/rollouts_asked") == [16.0] * 6
    assert history(host, "arrol/tokens/wasted") == [0.0] * 6
    assert np.isfinite(history(host, "loss")).all()


def test_microbatches_add_up_to_the_batch(tmp_path):
    options = {"pruning": NEVER, "allocation": "aero", "learning_rate": 1e-2, "loss_type": "grpo"}
    whole = trainer(config(tmp_path / "a", **options))
    whole.train()
    split = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 4}
    parts = trainer(config(tmp_path / "b", **options, **split))
    parts.train()
    torch.testing.assert_close(weights(whole), weights(parts), rtol=0, atol=2e-4)


def test_a_shaped_reward_has_no_posterior(tmp_path):
    def graded(completions, answer, **kwargs):
        return [0.5 * reward for reward in has_digit(completions, answer)]

    args = config(tmp_path, pruning=NEVER, allocation="aero", success_threshold=0.2)
    with pytest.raises(ValueError, match=r"a rollout got reward 0.5, and the posterior is of a success rate") as error:
        trainer(args, reward_funcs=graded).train()
    assert "\n" not in str(error.value)


def test_the_parts_alone_take_the_rule_too(tmp_path):
    rollout = pruned_rollout(rule="never", allocation={"rule": "cppo", "train_size": 4})

    class Own(trl.GRPOTrainer):
        def compute_loss(self, model, inputs, *rest, **named):
            return super().compute_loss(model, rollout.loss_inputs(inputs, self), *rest, **named)

    given = {"reward_funcs": prune_rewards(has_digit), "rollout_func": rollout}
    own = trainer(trl_config(tmp_path / "a"), Own, **given)
    own.train()
    options = {"allocation": "cppo", "allocation_options": {"train_size": 4}}
    ours = trainer(config(tmp_path / "b", pruning=NEVER, **options))
    ours.train()
    assert torch.equal(weights(own), weights(ours))
    with pytest.raises(ValueError, match="rule = 'mopps'"):
        pruned_rollout(allocation="mopps")
