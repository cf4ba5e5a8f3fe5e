"""TRL's loss on what the worker delivers is the weighted sum, row by row, of what was sampled."""

import async_host
import pytest
import torch
from transformers import AutoModelForCausalLM

import trl_host

pytestmark = pytest.mark.skipif(not trl_host.has_async(), reason="the worker protocol of TRL 1.16")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return async_host.model_folder(tmp_path_factory.mktemp("model"))


class Recorder:
    """Keeps the groups that a batch learns from, and each row's advantage times weight, weight and factor."""

    def __init__(self, monkeypatch):
        from arrol.integrations.trl import async_signal

        self.groups, self.advantages, self.factors = [], [], []
        own, thinning = async_signal.own_advantages, async_signal.thinning_factors

        def own_advantages(groups, *rest):
            self.groups, self.advantages = list(groups), own(groups, *rest)
            return self.advantages

        def thinning_factors(*rest, **named):
            self.factors = thinning(*rest, **named)
            return self.factors

        monkeypatch.setattr(async_signal, "own_advantages", own_advantages)
        monkeypatch.setattr(async_signal, "thinning_factors", thinning_factors)

    @property
    def rows(self):
        """Prompt, rollout, advantage times weight times factor, and weight of every row."""
        for each, found, factor_G in zip(self.groups, self.advantages, self.factors, strict=True):
            for row, rollout in enumerate(each.group.rollouts):
                yield (
                    each.group.prompt.token_ids,
                    rollout,
                    found.advantage_G[row] * factor_G[row],
                    found.weight_G[row],
                )


def row_loss(model, prompt, completion):
    """Sum over a completion's tokens of TRL's clipped term under advantage 1."""
    ids = torch.tensor([[*prompt, *completion.token_ids]])
    logprobs = model(input_ids=ids).logits[0, len(prompt) - 1 : -1].log_softmax(-1)
    now = logprobs.gather(1, ids[0, len(prompt) :, None])[:, 0]
    ratio = (now - torch.tensor(completion.sampler_logprobs_T)).exp()
    return -ratio  # |ratio - 1| is far below epsilon: the clip has no effect


@pytest.mark.parametrize(
    "options",
    [
        {"correction": "plain"},
        {"correction": "ipw"},
        {"correction": "doubly_robust"},
        {"correction": "doubly_robust", "thinning": 0.0},
        {"correction": "doubly_robust", "allocation": {"rule": "pods", "train_size": 4}},
        {"correction": "plain", "allocation": "dapo"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_trls_loss_is_the_weighted_sum_row_by_row(folder, tmp_path, monkeypatch, options):
    args = async_host.config(tmp_path, max_steps=1)
    worker, policy = async_host.worker_of(folder, args, warmup_steps=0, prompts_per_batch=4, **options)
    recorder, maker = Recorder(monkeypatch), worker.batch_maker()
    samples = maker.make(lambda: 1, lambda: None).samples
    host = async_host.trainer_of(folder, args, worker, policy)
    inputs = collated(host, samples)
    host.current_gradient_accumulation_steps = 1
    loss = host.compute_loss(host.model, inputs)
    loss.backward()
    found = torch.cat([p.grad.flatten() for p in host.model.parameters()])

    model = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="sdpa")
    numerator, weighted_tokens = torch.zeros(()), 0.0
    for prompt, rollout, advantage, weight in recorder.rows:
        weighted_tokens += weight * rollout.completion.num_tokens
        if advantage:
            numerator = numerator + float(advantage) * row_loss(model, prompt, rollout.completion).sum()
    expected = numerator / weighted_tokens
    expected.backward()
    wanted = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert any(rollout.survival < 1 for _, rollout, *_ in recorder.rows)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-4, abs=1e-6)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6)


def collated(host, samples):
    """One microbatch of TRL's own packing."""
    from trl.experimental.async_grpo.async_grpo_trainer import DataCollatorForRollout
    from trl.experimental.async_grpo.packing import TreeRow

    row = TreeRow()
    for sample in samples:
        names = ("input_ids", "completion_mask", "old_log_probs", "advantage", "group_id", "metrics")
        row.add({name: getattr(sample, name) for name in names})
    return DataCollatorForRollout(host.processing_class.pad_token_id).torch_call([[row]])
