"""The parity table's driver for TRL: requests, rewards and losses as TRL's trainer asks for them.

tests/unit/integrations/trl runs it with the double of a trainer, tests/with_trl with TRL's own.
"""

import math
from dataclasses import replace
from types import SimpleNamespace

import torch

from arrol.configs.method import QualityConfig
from arrol.integrations.memory import HostMemory
from arrol.integrations.trl import engines, rollout
from arrol.integrations.trl.rewards import TAG_COLUMN, prune_rewards
from parity import LENGTH, SCENARIOS, SEED, Judge, Outcome, engine_of, recorded, requests_of, small_model


class JudgedMemory(HostMemory):
    """With the table's judge as its head."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.estimator = Judge()


class TableRollout(rollout.PrunedRollout):
    """Sizes and success rates from the table; notes the advantages of each batch."""

    def _requests(self, *arguments):
        made = super()._requests(*arguments)
        return [
            replace(request, size=wanted.size, success_rate=wanted.success_rate)
            for request, wanted in zip(made, self.table, strict=True)
        ]

    def _advantages(self, everyone, lessons, trainer):
        self.noted = list(zip(everyone, super()._advantages(everyone, lessons, trainer), strict=True))
        return [advantages for _, advantages in self.noted]


def right(completions, completion_ids, **columns):
    """The table's reward: the last id is even."""
    return [float(ids[-1] % 2 == 0) for ids in completion_ids]


def double(scenario):
    """What the rollout function reads of a trainer, without TRL: prompts are lists of token ids."""
    size = max(scenario.sizes)
    args = {"seed": SEED, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": None, "repetition_penalty": 1.0}
    args |= {
        "beta": 0.0,
        "top_entropy_quantile": 1.0,
        "generation_kwargs": None,
        "output_dir": "",
        "generation_batch_size": size * len(scenario.sizes),
    }
    model = small_model()
    return SimpleNamespace(
        args=SimpleNamespace(**args),
        accelerator=SimpleNamespace(
            num_processes=1, process_index=0, unwrap_model=lambda model: model, is_main_process=False
        ),
        model=SimpleNamespace(training=True, config=model.config),
        processing_class=SimpleNamespace(pad_token_id=0),
        eos_token_ids=[2, 3],
        num_generations=size,
        max_completion_length=LENGTH,
        reward_func_names=["right"],
        reward_weights=torch.ones(1),
        scale_rewards="none",
        mask_truncated_completions=False,
        use_vllm=False,
    )


def without_trl(monkeypatch, scenario):
    """The embedded engine on the table's model, and no tokenizer."""
    monkeypatch.setattr(engines, "PolicyEngine", lambda *arguments: engine_of(scenario))
    monkeypatch.setattr(rollout, "tokenized_prompts", lambda prompts, trainer: prompts)


def played_by_trl(name, trainer, monkeypatch, folder, prompt_of=list):
    """A scenario through the rollout function; ``prompt_of`` turns token ids into a prompt of the trainer."""
    scenario, found = SCENARIOS[name], Outcome()
    monkeypatch.setattr(rollout, "HostMemory", JudgedMemory)
    config = scenario.host.model_copy(update={"quality": QualityConfig(features=("logprobs",))})
    function, reward = TableRollout(config), prune_rewards(right)
    trainer.reward_funcs = [reward]
    for step, wanted in enumerate(recorded(name)[1].metrics, 1):
        if step > 1 and scenario.resumed:
            function.save(folder)
            function = TableRollout(config)
            assert function.load(folder)
        function.table = requests_of(scenario, step)
        rows = [request.prompt.token_ids for request in function.table for _ in range(trainer.num_generations)]
        output = function([prompt_of(ids) for ids in rows], trainer)
        written = {"completions": output["completion_ids"], "completion_ids": output["completion_ids"]}
        reward(**written, **{TAG_COLUMN: output[TAG_COLUMN]})
        function.settle()
        logged = function.take_metrics()
        found.metrics.append({key: logged.get(f"arrol/{key}", math.nan) for key in wanted})
        found.lessons.append(_lessons(function.noted))
        found.decisions |= {r.rollout_id: r.decision for r in function.batch.rollouts if r.decision}
    return found


def _lessons(noted):
    """Advantage times weight of each rollout that trains."""
    return {
        row.rollout_id: float(advantage)
        for rewarded, found in noted
        for row, advantage, weight in zip(rewarded.group.rollouts, found.advantage_G, found.weight_G, strict=True)
        if row.survived and weight > 0
    }
