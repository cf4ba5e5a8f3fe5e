"""Test-time strategies on the embedded engine stop the same rollouts as a replay of the whole traces."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from rich.console import Console

from arrol import assembly
from arrol.cli.main import main
from arrol.cli.sampling import sample, snapshot_of
from arrol.configs.run import load_run
from arrol.evaluation.runner import EVALUATION_SEED
from arrol.test_time.live import Ballot, LiveSessions
from arrol.test_time.replay import Traces, probe_evidence, replay
from arrol.test_time.strategies import early_consensus, fixed_traces, head_stop
from arrol.test_time.voting import Ballots
from arrol.training.checkpoint import load_state, newest_checkpoint
from arrol.training.policy import load_policy, load_tokenizer, stop_token_ids

PROMPTS, TRACES = 4, 12
ENDS = ("--quality.judge_ends", "true")


class Host:
    """A trained policy on an engine, and whole traces of it: those of a prompt are the same in any run."""

    def __init__(self, config, checkpoint):
        self.policy = str(checkpoint / "policy")
        self.config = load_run(config, [*ENDS, "--evaluation.samples_per_prompt", str(TRACES)])
        self.estimator = snapshot_of(None, self.config, self.policy, load_state(checkpoint))
        self.problems = sample(self.config, self.policy, self.estimator, confidences=False, console=Console(quiet=True))
        self.answers = sorted({one.answer for problem in self.problems for one in problem.samples if one.answer})

    def traces(self, number):
        samples = self.problems[number].samples
        quality_N = np.array([one.quality for one in samples])
        evidence = [probe_evidence(dict(one.probe_qualities)) for one in samples]
        answer_N = np.array([self.choice(one.answer) for one in samples])
        return Traces(Ballots(answer_N, quality_N=quality_N), np.array([one.num_tokens for one in samples]), evidence)

    def choice(self, answer):
        return self.answers.index(answer) if answer else -1

    def run(self, strategy, rows):
        tokenizer, model = load_tokenizer(self.policy), load_policy(self.policy, torch.device("cpu"))
        task = assembly.build_task(self.config.task, tokenizer, seed=self.config.seed)
        few_rows = self.config.engine.model_copy(update={"max_rows": rows})
        engine = assembly.build_engine(self.config.model_copy(update={"engine": few_rows}), model)
        params = assembly.build_sampling(self.config, stop_token_ids(model, tokenizer), temperature=1.0)
        prompts = task.eval_prompts(PROMPTS)

        def read(i, completion):
            text = tokenizer.decode(completion.token_ids, skip_special_tokens=True)
            answer = task.verify(prompts[i.group], text).answer
            return Ballot(self.choice(answer), quality=self.problems[i.group].samples[i.index].quality)

        probes = self.config.pruning.probe_tokens
        live = LiveSessions(strategy, prompts, read, estimator=self.estimator, probe_tokens=probes, min_kept=0)
        seed = self.config.seed + EVALUATION_SEED
        groups = engine.generate(live.first(), params, seed=seed, controller=live, more=live)
        return live.outcomes(), [completion for group in groups for completion in group]


@pytest.fixture
def host(config, tmp_path):
    assert main(["train", str(config), "--training.steps", "4", *ENDS]) == 0
    return Host(config, newest_checkpoint(tmp_path / "runs" / "tiny" / "checkpoints"))


def test_live_on_the_engine_is_the_replay(host):
    qualities = np.concatenate([[value for _, value in s.probe_qualities] for p in host.problems for s in p.samples])
    strategies = {
        "all": fixed_traces(TRACES, "quality"),
        "absolute": head_stop(TRACES, stop_quality=float(np.median(qualities))),
        "percentile": head_stop(TRACES, keep_top_percent=50, warmup_traces=4),
        "strict": replace(head_stop(TRACES, keep_top_percent=50, warmup_traces=4), lenient=False),
    }
    stopped = {}
    for name, strategy in strategies.items():
        for rows in (64, 5):
            outcomes, completions = host.run(strategy, rows)
            wanted = [replace(replay(strategy, host.traces(number)), steps=0) for number in range(PROMPTS)]
            assert outcomes == wanted, (name, rows)
            assert sum(completion.num_tokens for completion in completions) == sum(o.tokens.total for o in outcomes)
        stopped[name] = sum(outcome.num_stopped for outcome in outcomes)
    assert stopped["all"] == 0
    assert min(stopped["absolute"], stopped["percentile"]) > 0


def test_a_consensus_leaves_traces_unasked(host):
    outcomes, completions = host.run(early_consensus(TRACES, min_traces=3, consensus=0.4), rows=64)
    assert min(outcome.num_started for outcome in outcomes) >= 3
    assert len(completions) == sum(outcome.num_started for outcome in outcomes) < PROMPTS * TRACES
    assert sum(completion.num_tokens for completion in completions) == sum(o.tokens.total for o in outcomes)
