"""Every loss of TRL: TRL's own while no rollout is stopped, with the stated denominators otherwise.

The reference takes TRL's own loss of one row at a time and adds the rows up under the rule in
``arrol.integrations.trl.signal``; it knows nothing of compaction or factors.
"""

from functools import cache

import numpy as np
import pytest
import torch
import trl
from rows import Spy, gradient, rows_of

import trl_host
from arrol.algorithms.thinning import training_probability
from arrol.integrations.trl import GRPOTrainer, prune_rewards
from arrol.integrations.trl.rollout import PrunedRollout
from arrol.integrations.trl.signal import BY_LOCAL_TOKENS, BY_ROWS, LOSS_TYPES
from arrol.types import FinishReason
from trl_host import config, has_digit, trainer, weights

CORRECTIONS = ("plain", "ipw", "doubly_robust")


@pytest.fixture(scope="module")
def pruned_hosts(tmp_path_factory):
    """Trainers by loss type and correction, each trained once; tests only ask for their loss."""
    return cache(lambda *names: pruned_host(tmp_path_factory.mktemp("pruned"), *names))


def pruned_host(folder, loss_type, correction, **changes):
    """A trainer whose last batch was pruned, at rest."""
    level = "sequence" if loss_type == "luspo" else "token"
    args = config(
        folder, loss_type=loss_type, correction=correction, max_steps=2, importance_sampling_level=level, **changes
    )
    host = trainer(args, Spy)
    host.train()
    host.current_gradient_accumulation_steps = 1
    host.model.train()
    return host


def reference(host, loss_type, correction):
    """Row by row: TRL's loss of each survivor alone, under the rule's advantage and denominator."""
    inputs = host.before
    live = (inputs["completion_mask"] * inputs["tool_mask"]).any(1).nonzero().flatten().tolist()
    tokens = {i: int(inputs["completion_mask"][i].sum()) for i in live}
    signal = {i: host.pruned.signal.find(inputs, i, host) for i in live}
    weight = {i: 1.0 if correction == "plain" else signal[i][1] for i in live}
    if loss_type in BY_ROWS:
        denominator = len(live) if correction == "plain" else len(inputs["completion_mask"])
    else:
        denominator = sum(weight[i] * tokens[i] for i in live)
    parts = []
    for i in live:
        row = rows_of(inputs, [i]) | {"num_items_in_batch": torch.tensor(1.0)}
        scale = (tokens[i] if loss_type in BY_LOCAL_TOKENS else 1.0) / denominator
        advantage = row["advantages"] if correction == "plain" else torch.tensor([signal[i][0]])
        row["advantages"] = advantage * scale
        parts.append(row)
    return gradient(host, lambda *given: trl.GRPOTrainer.compute_loss(host, *given), parts)


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_a_pruned_batch_has_the_stated_loss_and_gradient(pruned_hosts, loss_type, correction):
    host = pruned_hosts(loss_type, correction)
    assert host.pruned.signal.differs
    ours, loss = gradient(host, host.compute_loss, [host.before])
    wanted, wanted_loss = reference(host, loss_type, correction)
    assert wanted.abs().max() > 1e-3
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-6)
    assert loss == pytest.approx(wanted_loss, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("loss_type", [name for name in LOSS_TYPES if name not in BY_LOCAL_TOKENS])
def test_the_split_into_microbatches_changes_nothing(pruned_hosts, loss_type, correction):
    """Uneven survivors per microbatch: the window's denominator, not each microbatch's own."""
    whole = pruned_hosts(loss_type, correction)
    halves = [rows_of(whole.before, list(range(5))), rows_of(whole.before, list(range(5, 16)))]
    one, _ = gradient(whole, whole.compute_loss, [whole.before])
    if loss_type in BY_ROWS:  # TRL divides each microbatch by its own rows: give them as TRL would weigh them
        pieces = [gradient(whole, whole.compute_loss, [half])[0] * len(half["completion_mask"]) / 16 for half in halves]
    else:
        pieces = [gradient(whole, whole.compute_loss, [half])[0] for half in halves]
    torch.testing.assert_close(sum(pieces), one, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_without_a_stopped_rollout_it_is_trl_bit_for_bit(tmp_path, loss_type, correction):
    """The same rollouts through TRL's own trainer and through ours: equal weights after two steps."""
    level = "sequence" if loss_type == "luspo" else "token"
    changes = {"loss_type": loss_type, "max_steps": 2, "importance_sampling_level": level}
    args = config(tmp_path / "a", correction=correction, pruning_warmup_steps=9, **changes)
    ours = trainer(args)
    ours.train()
    theirs = trainer(
        trl_host.trl_config(tmp_path / "b", **changes),
        trl.GRPOTrainer,
        reward_funcs=prune_rewards(has_digit),
        rollout_func=PrunedRollout(args.host_config()),
    )
    theirs.train()
    assert torch.equal(weights(ours), weights(theirs))


@pytest.mark.parametrize("scale", ["group", "batch", "none"])
def test_without_a_lottery_our_advantages_are_trls(tmp_path, scale):
    """keep_ratio 1: every candidate is drawn with probability one, and the formula meets TRL's."""
    args = config(tmp_path, scale_rewards=scale, max_steps=2, rule="uniform", keep_ratio=1.0)
    host = trainer(args, Spy)
    host.train()
    signal = host.pruned.signal
    found = [signal.find(host.before, i, host)[0] for i in range(16)]
    torch.testing.assert_close(torch.tensor(found), host.before["advantages"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("correction", CORRECTIONS)
@pytest.mark.parametrize("loss_type", ["grpo", "dapo"])
def test_truncated_survivors_have_no_loss_and_count_as_trl_counts_them(tmp_path, loss_type, correction):
    """By rows they are rows, as without pruning; by tokens they have none."""
    host = pruned_host(tmp_path, loss_type, correction, mask_truncated_completions=True)
    truncated = [r for r in host.pruned.batch.rollouts if r.completion.finish_reason is FinishReason.LENGTH]
    assert truncated
    totals = host.pruned.signal.totals
    survivors = [r for r in host.pruned.batch.rollouts if r.survived]
    assert totals.effective_rollouts == (len(survivors) if correction == "plain" else totals.rows)
    assert totals.tokens == sum(r.completion.num_tokens for r in survivors if r not in truncated)
    ours, _ = gradient(host, host.compute_loss, [host.before])
    inputs, signal = host.before, host.pruned.signal
    live = (inputs["completion_mask"] * inputs["tool_mask"]).any(1).nonzero().flatten().tolist()
    assert len(live) == len(survivors) - len(truncated)
    if loss_type == "grpo":
        by = totals.effective_rollouts
    else:  # TRL 1.6 counts their tokens here all the same
        weighted = 1.0 if correction == "plain" else totals.weighted_tokens / totals.tokens
        by = float(inputs["num_items_in_batch"]) * weighted
    parts = []
    for i in live:
        row = rows_of(inputs, [i]) | {"num_items_in_batch": torch.tensor(1.0)}
        if correction != "plain":
            row["advantages"] = torch.tensor([signal.find(inputs, i, host)[0]])
        row["advantages"] = row["advantages"] / by
        parts.append(row)
    wanted, _ = gradient(host, lambda *given: trl.GRPOTrainer.compute_loss(host, *given), parts)
    torch.testing.assert_close(ours, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_thinned_rows_leave_the_forward_pass_and_stay_in_every_denominator(tmp_path, loss_type):
    """One batch with and without the lottery: equal weights and totals; advantages of the rows drawn are raised."""
    every = pruned_host(tmp_path / "every", loss_type, "doubly_robust", thinning=0)
    some = pruned_host(tmp_path / "some", loss_type, "doubly_robust", thinning=1)
    assert some.pruned.signal.totals == every.pruned.signal.totals
    live = (some.before["completion_mask"] * some.before["tool_mask"]).any(1).nonzero().flatten().tolist()
    before, after = ([host.pruned.signal.find(some.before, i, host) for i in live] for host in (every, some))
    contribution = np.array([row.advantage for row in before])
    probability = training_probability(contribution, 1.0)
    assert [row.weight for row in after] == [row.weight for row in before]
    assert [row.trains for row in after] == [row.advantage != 0 for row in after]
    assert 0 < sum(row.trains for row in after) < len(live)
    trained = [n for n, row in enumerate(after) if row.trains]
    np.testing.assert_allclose([after[n].advantage for n in trained], (contribution / probability)[trained])
    passed = some.pruned.loss_inputs(some.before, some)
    assert len(passed["completion_mask"]) == len(trained)


@pytest.mark.parametrize("changes", [{"beta": 0.1}, {"top_entropy_quantile": 0.5}, {"correction": "plain"}])
def test_nothing_is_thinned_where_the_loss_reads_the_rows_at_hand(tmp_path, changes):
    model, tokenizer = trl_host.model_and_tokenizer()
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "model")
    args = config(tmp_path / "run", max_steps=2, thinning=1, **changes)
    host = Spy(model=str(tmp_path / "model"), reward_funcs=has_digit, args=args, train_dataset=trl_host.dataset())
    host.train()
    live = (host.before["completion_mask"] * host.before["tool_mask"]).any(1)
    assert len(host.pruned.loss_inputs(host.before, host)["completion_mask"]) == live.sum() < 16


def test_equal_rows_of_two_groups_keep_their_sum(tmp_path):
    """One prompt twice in a batch, and completions so short that many are alike."""
    args = config(tmp_path, max_completion_length=2, probe_tokens=[1], max_steps=3, temperature=0.05)
    host = trainer(args, Spy, reward_funcs=has_digit)
    host.train_dataset = host.train_dataset.select([0] * 32)
    host.train()
    signal, rollouts = host.pruned.signal, host.pruned.batch.rollouts
    survivors = [r for r in rollouts if r.survived]
    assert len({r.completion.token_ids for r in survivors}) < len(survivors)
    live = (host.before["completion_mask"] * host.before["tool_mask"]).any(1).nonzero().flatten().tolist()
    weight = sum(signal.find(host.before, i, host)[1] for i in live)
    assert weight == pytest.approx(sum(1 / r.survival for r in survivors))


def test_a_kl_term_keeps_its_mean_over_survivors(tmp_path):
    """beta > 0: the reference pass works on one-token rows too, and the loss stays finite."""
    model, _ = trl_host.model_and_tokenizer()
    model.save_pretrained(tmp_path / "model")
    _, tokenizer = trl_host.model_and_tokenizer()
    tokenizer.save_pretrained(tmp_path / "model")
    args = config(tmp_path / "run", beta=0.1, max_steps=3)
    host = GRPOTrainer(
        model=str(tmp_path / "model"), reward_funcs=has_digit, args=args, train_dataset=trl_host.dataset()
    )
    host.train()
    assert all(value >= 0 for value in trl_host.history(host, "kl"))
