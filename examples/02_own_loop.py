"""Your own loop: online rollout pruning on one page, with the functions that `arrol train` uses.

    python examples/02_own_loop.py [STEPS]

About 2 s per step on one CPU core. Expected: after the two warm-up steps about half of the rollouts are stopped at
token 16, and the success rate rises from about .2 within 20 steps.
"""

import sys

import numpy as np
import torch

from arrol.algorithms.advantages import group_signal
from arrol.algorithms.losses import LossInputs, policy_loss
from arrol.configs.method import DrGrpoConfig, NeymanRule, QualityConfig
from arrol.configs.run import EngineConfig
from arrol.engines.embedded.engine import EmbeddedEngine
from arrol.pruning.controller import PruningController
from arrol.pruning.draws import joint_survival
from arrol.quality.estimator import QualityEstimator
from arrol.quality.features import FeatureLayout
from arrol.tasks.arithmetic import ArithmeticTask
from arrol.training.packing import batch_denominator, group_examples, pack
from arrol.training.policy import load_policy, load_tokenizer, stop_token_ids, token_logprobs
from arrol.types import GroupRequest, Rollout, RolloutGroup, SamplingParams

STEPS, PROMPTS, GROUP, LIMIT, SEED = int(sys.argv[1]) if len(sys.argv) > 1 else 20, 16, 16, 112, 0
torch.set_num_threads(1)
cpu = torch.device("cpu")
model, tokenizer = load_policy("models/arithmetic-base", cpu), load_tokenizer("models/arithmetic-base")
task = ArithmeticTask(tokenizer, min_ops=1, max_ops=5, seed=SEED)

# The three parts of pruning: features at a probe, the estimator that scores them, the controller that decides.
rule = NeymanRule(scope="batch", keep_ratio=0.5, probe_tokens=(16,), warmup_steps=2)
layout = FeatureLayout(("last_hidden", "mean_hidden", "logprobs"), model.config.hidden_size)
estimator = QualityEstimator(QualityConfig(), layout, rule.probe_tokens, seed=SEED)
controller = PruningController(rule, estimator, seed=SEED)

engine = EmbeddedEngine(model, EngineConfig(), layout)
sampling = SamplingParams(LIMIT, stop_token_ids=stop_token_ids(model, tokenizer))
algorithm = DrGrpoConfig()
optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

for step in range(1, STEPS + 1):
    # Sample: the engine asks the controller at token 16 and drops the rows it names.
    prompts = [task.train_prompt((step - 1) * PROMPTS + i) for i in range(PROMPTS)]
    requests = [GroupRequest(step, number, prompt, GROUP) for number, prompt in enumerate(prompts)]
    groups = []
    for request, completions in zip(
        requests, engine.generate(requests, sampling, seed=SEED, controller=controller), strict=True
    ):
        decisions = {d.rollout_id: d for d in controller.decisions(step, request.group)}
        rollouts = [
            Rollout(i, completion, decisions.get(i))
            for i, completion in zip(request.rollout_ids, completions, strict=True)
        ]
        groups.append(RolloutGroup(request.prompt, rollouts))

    # Verify survivors only, and let the estimator learn from them.
    for group in groups:
        for rollout in group.survivors:
            text = tokenizer.decode(rollout.completion.token_ids, skip_special_tokens=True)
            rollout.reward = task.verify(group.prompt, text).reward
    head = estimator.learn(groups)

    # Learn: advantages and weights account for the stopped rollouts; the loss sees only survivors.
    signals = []
    for group in groups:
        seen = group.rewards_G, group.survival_G, group.quality_G
        joint_GG = joint_survival(group.decisions_G)
        signals.append(group_signal(*seen, algorithm, normalize_by_std=False, joint_GG=joint_GG))
    examples = [
        example
        for group, signal in zip(groups, signals, strict=True)
        for example in group_examples(group, signal.advantage_G, signal.weight_G, keep_zero=False)
    ]
    denominator = batch_denominator(groups, signals, LIMIT)
    for batch in pack(examples, 4096, cpu):
        logprob_N, _ = token_logprobs(model, batch.ids_RT, batch.selected_RT)
        inputs = LossInputs(
            batch.unflatten(logprob_N),
            batch.sampler_logprobs_RC,
            batch.loss_mask_RC,
            batch.advantage_R,
            batch.weight_R,
        )
        policy_loss(inputs, algorithm, denominator)[0].backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()

    survivors = [rollout for group in groups for rollout in group.survivors]
    weights = [1 / rollout.survival for rollout in survivors]
    success = np.average([rollout.reward or 0.0 for rollout in survivors], weights=weights)
    print(
        f"step {step:3}  success {success:.3f}  survivors {len(survivors)}/{PROMPTS * GROUP}  "
        f"tokens {sum(r.completion.num_tokens for g in groups for r in g.rollouts)}  "
        f"AUROC within prompt {head['quality/auroc_within_prompt']:.2f}"
    )
