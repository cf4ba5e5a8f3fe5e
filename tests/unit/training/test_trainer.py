"""The loop without a model: a scripted engine, a learner that counts, and what ends up in the records."""

import json
import os
import signal
from types import SimpleNamespace

import numpy as np
import pytest

from arrol.algorithms.allocation.selection import SELECTION_STREAM, pods
from arrol.assembly import build_allocator, build_controller
from arrol.configs.run import RunConfig
from arrol.engines.scripted import ScriptedEngine
from arrol.errors import CheckpointError, DataError, NonFiniteError
from arrol.records.schema import EvalRecord
from arrol.records.store import read_records, read_run
from arrol.records.texts import read_texts, text_steps
from arrol.training import trainer as module
from arrol.training.trainer import Parts, Trainer
from arrol.types import Prompt, SamplingParams, Verdict


class Task:
    """The answer is the last digit of a completion; 7 is right."""

    name = "digits"

    def train_prompt(self, position):
        return Prompt(f"p{position % 3}", (5,), "?", "7")

    def eval_prompts(self, count):
        return []

    def verify(self, prompt, text):
        return Verdict(float(text.endswith("7")), text[-1:])

    def submit(self, prompt, text, token_ids=()):
        return lambda: self.verify(prompt, text)


class Estimator:
    """Quality is the feature."""

    version = 0

    def __init__(self):
        self.learnt = 0

    def scores(self, features_CF, probe):
        return features_CF[:, 0]

    def quality(self, score_C, probe):
        return score_C

    def learn(self, groups):
        self.learnt += 1
        return {"quality/steps": float(self.learnt)}

    def save(self):
        return {"learnt": self.learnt}

    def load(self, state):
        self.learnt = state["learnt"]


class Learner:
    """Writes down what it is given."""

    def __init__(self):
        optimizer = SimpleNamespace(param_groups=[{"lr": 0.5}])
        self.guard = SimpleNamespace(optimizer=optimizer, num_skipped=0, bad_in_a_row=0)
        self.batches, self.lessons, self.thinnings, self.on_update = [], [], [], lambda step: None

    def update(self, groups, step, lessons, *, thinning):
        self.thinnings.append(thinning)
        self.batches.append(groups)
        self.lessons.append(lessons)
        self.on_update(step)
        return {"tokens/scored": 0.0, "tokens/trained": 10.0}


class Sink:
    def __init__(self):
        self.rows, self.closed = [], 0

    def write(self, row):
        self.rows.append(row)

    def close(self):
        self.closed += 1


@pytest.fixture
def saved(monkeypatch):
    """Steps that were saved, with their state; nothing is written."""
    states = {}
    monkeypatch.setattr(module, "save_checkpoint", lambda *args: states.update({args[1]: args[-1].state}))
    monkeypatch.setattr(module, "forget_checkpoints", lambda folder, keep, newest: None)
    return states


def build(folder, *, segment=0, **changes):
    values = {
        "model": "none",
        "task": {"name": "arithmetic"},
        "sampling": {"max_completion_tokens": 8},
        "pruning": {"rule": "uniform", "probe_tokens": [2], "warmup_steps": 1, "min_survivors": 1},
        "training": {"steps": 4, "prompts_per_step": 2, "group_size": 4},
        "evaluation": {"every": 0},
    }
    config = RunConfig.model_validate({**values, **changes})
    estimator = Estimator()
    engine = ScriptedEngine(
        lambda i: [1] * (2 + i.index) + [7 if i.index % 2 else 3], lambda i, length: np.float32([0.5])
    )
    parts = Parts(
        model=SimpleNamespace(parameters=lambda: [SimpleNamespace(numel=lambda: 5, requires_grad=True)]),
        tokenizer=SimpleNamespace(decode=lambda ids, skip_special_tokens: "".join(map(str, ids))),
        task=Task(),
        engine=engine,
        estimator=estimator,
        controller=build_controller(config, estimator),
        allocator=build_allocator(config),
        learner=Learner(),
        sampling=SamplingParams(8),
        evaluate=lambda step, segment: EvalRecord(
            step=step, segment=segment, accuracy=0.5, low=0.4, high=0.6, num_prompts=2, samples_per_prompt=1
        ),
        sinks=[Sink()],
    )
    folder.mkdir(parents=True, exist_ok=True)
    return Trainer(config, parts, folder, segment=segment)


def rows(folder):
    """The records, behind a row that opens the run."""
    kinds = {"step": [], "eval": [], "end": []}
    for record in read_records(folder / "records.jsonl"):
        kinds[record.kind].append(record)
    return kinds


def test_a_run_samples_verifies_learns_and_records(tmp_path, saved):
    trainer = build(tmp_path)
    end = trainer.run()
    found = rows(tmp_path)
    assert (end.outcome, end.step, end.message) == ("finished", 4, "")
    assert [row.step for row in found["step"]] == [1, 2, 3, 4]
    assert [row.step for row in found["eval"]] == [0, 4]
    assert found["step"][-1].metrics["eval/accuracy"] == 0.5
    assert "eval/accuracy" not in found["step"][0].metrics
    assert list(saved) == [4]
    assert end.totals["tokens/trained"] == 40
    (sink,) = trainer.parts.sinks
    assert [row["step"] for row in sink.rows] == [1, 2, 3, 4]
    assert sink.closed == 1


def test_warm_up_keeps_all_then_half_of_each_group_is_stopped_and_never_verified(tmp_path, saved):
    trainer = build(tmp_path)
    trainer.run()
    first, second, *_ = trainer.parts.learner.batches
    assert [group.num_survivors for group in first] == [4, 4]
    assert [group.num_survivors for group in second] == [2, 2]
    for group in second:
        assert all((rollout.reward is None) == (not rollout.survived) for rollout in group.rollouts)
        assert {rollout.survival for rollout in group.rollouts} == {0.5}
    metrics = rows(tmp_path)["step"][1].metrics
    assert metrics["rollout/survivors_frac"] == 0.5
    assert metrics["rollout/smallest_group"] == 2
    assert metrics["pruning/kept_frac"] == 0.5
    assert metrics["rollout/finish/pruned"] == 4
    assert metrics["tokens/wasted"] == 8


def test_phases_add_up_to_the_step(tmp_path, saved):
    build(tmp_path).run()
    for row in rows(tmp_path)["step"]:
        phases = [row.metrics[f"time/{name}_s"] for name in ("generate", "verify", "estimate", "learn")]
        assert sum(phases) == pytest.approx(row.metrics["time/step_s"])


def test_rollouts_are_written_one_row_each(tmp_path, saved):
    build(tmp_path, segment=3).run()
    written = read_records(tmp_path / "rollouts.jsonl")
    assert len(written) == 4 * 2 * 4
    assert {row.segment for row in written} == {3}
    assert {row.reason for row in written if row.step == 1} == {"warmup"}
    stopped = [row for row in written if row.finish_reason == "pruned"]
    assert all(row.reward is None and not row.keep and row.reason == "draw" for row in stopped)


def read_run_rollouts(folder, *, step, group):
    return [row for row in read_records(folder / "rollouts.jsonl") if (row.step, row.group) == (step, group)]


def test_texts_are_kept_unless_they_are_left_out(tmp_path, saved):
    probes = {"rule": "uniform", "probe_tokens": [2, 3], "keep_ratio": 0.25, "warmup_steps": 1, "min_survivors": 1}
    build(tmp_path / "kept", pruning=probes).run()
    assert text_steps(tmp_path / "kept") == [1, 2, 3, 4]
    groups = json.loads(read_texts(tmp_path / "kept", 3))["groups"]
    assert [group["prompt"] for group in groups] == ["?", "?"]
    texts = ["".join(groups[0]["tokens"][i] for i in rollout["tokens"]) for rollout in groups[0]["rollouts"]]
    records = read_run_rollouts(tmp_path / "kept", step=3, group=0)
    for rollout, record, text in zip(groups[0]["rollouts"], records, texts, strict=True):
        assert len(text) == len(rollout["logprobs"]) == record.completion_tokens
        last = rollout["probes"][-1]
        assert (last["survival"], last["quality"]) == (pytest.approx(record.survival), record.quality)
        assert last["keep"] == (record.finish_reason != "pruned")
        assert [probe["at"] for probe in rollout["probes"]] == [2, 3][: len(rollout["probes"])]
    assert {len(rollout["probes"]) for rollout in groups[0]["rollouts"]} == {1, 2}
    build(tmp_path / "none", records={"keep_texts_mib": 0}).run()
    assert not (tmp_path / "none" / "texts").exists()


def test_finishing_stopped_rollouts_aside_changes_nothing_else(tmp_path, saved):
    alone, beside = build(tmp_path / "a"), build(tmp_path / "b", records={"shadow_share": 1.0})
    ends = alone.run(), beside.run()
    assert ends[0].totals == ends[1].totals
    kinds = [(row.kind, row) for row in read_records(tmp_path / "b" / "rollouts.jsonl")]
    assert [row for kind, row in kinds if kind == "rollout"] == read_records(tmp_path / "a" / "rollouts.jsonl")
    shadows = [row for kind, row in kinds if kind == "shadow"]
    stopped = [row for kind, row in kinds if kind == "rollout" and row.finish_reason == "pruned"]
    address = [(row.step, row.group, row.index) for row in stopped]
    assert [(row.step, row.group, row.index) for row in shadows] == address
    assert all(row.reward is not None and row.quality == 0.5 for row in shadows)
    for one, other in zip(rows(tmp_path / "a")["step"], rows(tmp_path / "b")["step"], strict=True):
        apart = {key for key in other.metrics if key.startswith(("shadow/", "time/"))}
        assert {key: other.metrics[key] for key in other.metrics.keys() - apart} == {
            key: value for key, value in one.metrics.items() if not key.startswith("time/")
        }
        assert ("shadow/rollouts" in other.metrics) == ("time/shadow_s" in other.metrics) == (one.step > 1)
        assert "time/shadow_s" not in one.metrics
    texts = json.loads(read_texts(tmp_path / "b", 2))["groups"]
    held = [rollout for group in texts for rollout in group["rollouts"] if "shadow" in rollout]
    assert len(held) == 4
    assert all(len(rollout["shadow"]["tokens"]) == len(rollout["shadow"]["logprobs"]) > 0 for rollout in held)


def test_the_outcome_decides_under_the_oracle(tmp_path, saved):
    pruning = {"rule": "oracle", "probe_tokens": [2], "warmup_steps": 1, "min_survivors": 1}
    trainer = build(tmp_path, pruning=pruning)
    trainer.run()
    first, second, *_ = trainer.parts.learner.batches
    assert [group.num_survivors for group in first] == [4, 4]
    for group in second:
        kept = [rollout.reward for rollout in group.survivors]
        assert sorted(kept) == [0.0, 1.0]  # half of the group, half of it right
        assert all(rollout.reward is not None for rollout in group.rollouts)
        assert all(rollout.decision.reason == "outcome" for rollout in group.rollouts)
        assert (group.quality_G == 0.5).all()  # the head's own judgement stays, or doubly_robust would be ipw
    second_step = [row for row in read_records(tmp_path / "rollouts.jsonl") if row.step == 2]
    assert {(row.score, row.quality, row.survival) for row in second_step} == {(0.5, 0.5, 0.5)}
    assert rows(tmp_path)["step"][1].metrics["tokens/saved"] == 0


def test_a_rule_that_reads_the_size_of_a_reward_reads_the_one_that_trains(tmp_path, saved):
    trainer = build(
        tmp_path,
        pruning={"rule": "never"},
        algorithm={"name": "dapo", "overlong_buffer_tokens": 8, "overlong_penalty": 1.0},
        allocation={"rule": "pods", "train_size": 2},
    )
    trainer.run()
    for number, lesson in enumerate(trainer.parts.learner.lessons[0]):
        shaped = np.array([0.0, 1.0, 0.0, 1.0]) - np.array([3, 4, 5, 6]) / 8
        wanted = pods(shaped, 2, [trainer.config.seed, SELECTION_STREAM, 1, number]).train_G
        assert lesson.selection.train_G.tolist() == wanted.tolist() == [False, True, True, False]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_and_saves(tmp_path, saved, number):
    trainer, before = build(tmp_path), signal.getsignal(number)
    trainer.parts.learner.on_update = lambda step: os.kill(os.getpid(), number) if step == 2 else None
    end = trainer.run()
    assert (end.outcome, end.step) == ("stopped", 2)
    assert trainer.stop_requested
    assert list(saved) == [2]
    assert signal.getsignal(number) is before


def test_a_second_interrupt_ends_at_once(tmp_path, saved):
    trainer = build(tmp_path)

    def twice(step):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)

    trainer.parts.learner.on_update = twice
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    assert saved == {}
    assert trainer.parts.sinks[0].closed == 1


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_gives_up_the_step_that_is_sampled_and_leaves_no_trace_of_it(tmp_path, saved, number):
    """What is saved is what the whole run has after the step before: controller, allocator, ledger and position too."""
    changes = {"pruning": {"rule": "neyman", "probe_tokens": [2], "warmup_steps": 1, "min_survivors": 1}}
    whole = build(tmp_path / "whole", training={"steps": 2, "prompts_per_step": 2, "group_size": 4}, **changes)
    whole.run()
    (expected,) = saved.values()
    saved.clear()
    trainer = build(tmp_path, training={"steps": 4, "prompts_per_step": 2, "group_size": 4}, **changes)
    probed, learner = trainer.parts.controller.probed, trainer.parts.learner

    def signalled(events):
        stops = probed(events)
        if len(learner.batches) == 2:
            os.kill(os.getpid(), number)
        return stops

    trainer.parts.controller.probed = signalled
    end = trainer.run()
    assert (end.outcome, end.step, len(learner.batches)) == ("stopped", 2, 2)
    assert list(saved) == [2]
    for part in ("controller", "allocator", "ledger", "position", "estimator", "step"):
        np.testing.assert_equal(saved[2][part], expected[part])
    assert {row.step for row in read_records(tmp_path / "rollouts.jsonl")} == {1, 2}


def test_a_step_that_is_given_up_behind_a_checkpoint_is_saved_no_second_time(tmp_path, saved):
    trainer = build(tmp_path, training={"steps": 4, "prompts_per_step": 2, "group_size": 4, "checkpoint_every": 1})
    saves, generate = [], trainer.parts.engine.generate
    trainer.save, save = lambda: (saves.append(trainer.step), save()), trainer.save

    def signalled(*given, **more):
        if trainer.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return generate(*given, **more)

    trainer.parts.engine.generate = signalled
    assert trainer.run().step == 2
    assert saves == [1, 2]


def test_a_run_that_is_stopped_before_its_first_step_saves_nothing(tmp_path, saved):
    trainer = build(tmp_path)
    trainer.parts.evaluate = lambda step, segment: os.kill(os.getpid(), signal.SIGTERM)
    end = trainer.run()
    assert (end.outcome, end.step, trainer.parts.learner.batches) == ("stopped", 0, [])
    assert saved == {}
    assert rows(tmp_path)["eval"] == []


@pytest.mark.parametrize("at", [2, 4])
def test_an_evaluation_that_is_given_up_is_the_first_that_a_resumed_run_does(tmp_path, saved, at, monkeypatch):
    """``at`` 4 is the last step, whose run is not finished without it."""
    trainer = build(tmp_path, evaluation={"every": 2})
    evaluate = trainer.parts.evaluate

    def signalled(step, segment):
        if step == at:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(step, segment)

    trainer.parts.evaluate = signalled
    end = trainer.run()
    assert (end.outcome, end.step) == ("stopped", at)
    assert [row.step for row in rows(tmp_path)["step"]] == list(range(1, at))
    state = saved[at]
    monkeypatch.setattr(module, "load_state", lambda checkpoint: state)
    monkeypatch.setattr(module, "load_optimizer", lambda *given: None)
    monkeypatch.setattr(module, "manifest_of", lambda checkpoint: SimpleNamespace(run={}))
    resumed = build(tmp_path, evaluation={"every": 2}, segment=1)
    resumed.resume(tmp_path)
    assert resumed.run().outcome == "finished"
    assert [row.step for row in rows(tmp_path)["step"]] == [1, 2, 3, 4]
    assert [row.step for row in rows(tmp_path)["eval"]] == [0, 2, 4]
    assert [row.metrics.get("eval/accuracy") for row in rows(tmp_path)["step"]] == [None, 0.5, None, 0.5]
    assert len(resumed.parts.learner.batches) == 4 - at
    assert saved[4]["unjudged"] == {}


def test_a_failure_is_recorded_and_raised(tmp_path, saved):
    trainer = build(tmp_path)

    def fail(step):
        raise NonFiniteError("training.max_bad_steps = 5: enough")

    trainer.parts.learner.on_update = fail
    with pytest.raises(NonFiniteError):
        trainer.run()
    (end,) = rows(tmp_path)["end"]
    assert (end.outcome, end.message) == ("failed", "training.max_bad_steps = 5: enough")
    assert trainer.parts.sinks[0].closed == 1


def test_checkpoints_come_when_asked_for(tmp_path, saved):
    training = {"steps": 5, "prompts_per_step": 1, "group_size": 4, "checkpoint_every": 2}
    build(tmp_path, training=training, evaluation={"every": 2}).run()
    assert list(saved) == [2, 4, 5]
    assert [row.step for row in rows(tmp_path)["eval"]] == [0, 2, 4, 5]


def test_a_resumed_trainer_goes_on_where_the_state_says(tmp_path, saved, monkeypatch):
    training = {"steps": 4, "prompts_per_step": 2, "group_size": 4, "checkpoint_every": 2}
    straight = build(tmp_path / "a", training=training)
    straight.run()
    rates = []
    monkeypatch.setattr(module, "load_state", lambda path: saved[2])
    monkeypatch.setattr(module, "load_optimizer", lambda path, optimizer, rate: rates.append(rate))
    resumed = build(tmp_path / "b", training=training, segment=1)
    resumed.resume(tmp_path)
    assert (resumed.step, rates) == (2, [0.5])
    end = resumed.run()
    assert end.totals == straight.ledger.totals
    assert resumed.parts.estimator.learnt == 4
    assert resumed.parts.allocator.save() == straight.parts.allocator.save()
    assert [row.step for row in rows(tmp_path / "b")["step"]] == [3, 4]
    assert rows(tmp_path / "b")["eval"][0].step == 4

    for step in (3, 4):  # the same bytes, and no step that it computes again stays
        assert read_texts(tmp_path / "b", step) == read_texts(tmp_path / "a", step)
    resumed = build(tmp_path / "a", training={**training, "steps": 3}, segment=1)
    resumed.resume(tmp_path)
    resumed.run()
    assert text_steps(tmp_path / "a") == [1, 2, 3]

    other = build(tmp_path / "c", training={**training, "group_size": 6})
    with pytest.raises(CheckpointError, match=r"^training.group_size = 6: the checkpoint was made with 4"):
        other.resume(tmp_path)
    assert list((tmp_path / "c").iterdir()) == []  # nothing is written before run


def test_the_step_of_a_run_is_what_its_folder_says(tmp_path, saved):
    build(tmp_path).run()
    with pytest.raises(ValueError, match="holds no run row"):
        read_run(tmp_path)  # the command line writes that row


def test_rollouts_are_rescued_rejected_and_written_with_their_reason(tmp_path, saved):
    """One prompt has its first success at the fourth rollout, the other has none; the budget is 8."""
    allocation = {"rule": "aero", "explore_size": 2, "rescue_step": 2}
    trainer = build(
        tmp_path,
        pruning={"rule": "never"},
        allocation=allocation,
        training={"steps": 1, "prompts_per_step": 2, "group_size": 4},
    )
    trainer.parts.engine = ScriptedEngine(lambda i: [1, 7 if (i.group, i.index) == (0, 3) else 3])
    trainer.run()
    (groups,), (lessons,) = trainer.parts.learner.batches, trainer.parts.learner.lessons
    assert [[r.reward for r in group.rollouts] for group in groups] == [[0, 0, 0, 1], [0] * 4]
    assert [int(lesson.selection.train_G.sum()) for lesson in lessons] == [2, 2]
    assert lessons[0].belief == (2, 4)
    written = {(row.group, row.index): row for row in read_records(tmp_path / "rollouts.jsonl")}
    assert written[0, 3].keep
    assert sorted(row.dropped for row in written.values()) == [""] * 4 + ["rejected"] * 4
    assert all(row.keep == (row.dropped == "") for row in written.values())
    metrics = rows(tmp_path)["step"][0].metrics
    assert metrics["allocation/waves/mean"] == 2
    assert (metrics["allocation/stratum_before/rescue"], metrics["allocation/stratum_after/rescue"]) == (2, 1)
    assert metrics["compute/flops"] == 5 * (2 * 16 + 6 * 10)


def test_what_was_drawn_moves_the_position_in_the_data(tmp_path, saved):
    """Nothing is ever right: twice as many prompts are drawn, and the next step goes on behind them."""
    training = {"steps": 2, "prompts_per_step": 2, "group_size": 4}
    trainer = build(tmp_path, pruning={"rule": "never"}, allocation={"rule": "dapo", "max_draws": 2}, training=training)
    trainer.parts.engine = ScriptedEngine(lambda i: [1, 3])
    trainer.run()
    keys = [[group.prompt.key for group in batch] for batch in trainer.parts.learner.batches]
    assert keys == [["p0", "p1", "p2", "p0"], ["p1", "p2", "p0", "p1"]]
    assert saved[2]["position"] == 8


def test_rule_auto_learns_from_what_each_step_contributed(tmp_path, saved):
    """Rollouts of 3 to 6 tokens, two of four right: advantages of 1/2 or -1/2, sizes of as many tokens."""
    pruning = {"rule": "auto", "probe_tokens": [2], "warmup_steps": 1, "min_survivors": 1}
    algorithm = {"name": "dr_grpo", "correction": "ipw", "leave_one_out": False}
    trainer = build(tmp_path, pruning=pruning, algorithm=algorithm)
    trainer.run()
    memory = trainer.parts.controller.save()["auto"]["memory"]
    assert set(memory[:, 0]) == {1, 2, 3, 4}
    assert len(memory) == 4 * 2 * 4
    np.testing.assert_array_equal(memory[:, 2], 1)
    np.testing.assert_allclose(np.abs(memory[:, 3]), 0.5)
    assert set(memory[:, 5]) <= {3, 4, 5, 6}
    written = [rollout.completion for group in trainer.parts.learner.batches[0] for rollout in group.rollouts]
    assert memory[: len(written), 4].tolist() == [completion.num_tokens for completion in written]
    assert np.isfinite(memory[:, 6]).all()
    assert saved[4]["controller"]["auto"]["memory"].shape == memory.shape
    assert rows(tmp_path)["step"][-1].metrics["pruning/auto/groups"] == 8
    assert trainer.parts.learner.thinnings == [0.0] * 4  # auto chooses it, and knows too little


@pytest.mark.parametrize("algorithm", [{"thins": "always"}, {"thinning": 0.0}])
def test_a_lottery_that_is_set_is_not_autos_to_choose(tmp_path, saved, algorithm):
    pruning = {"rule": "auto", "probe_tokens": [2], "warmup_steps": 1, "min_survivors": 1}
    trainer = build(tmp_path, pruning=pruning, algorithm={"name": "dr_grpo", "correction": "ipw", **algorithm})
    trainer.run()
    assert set(trainer.parts.learner.thinnings) == {None}


def test_without_auto_the_config_says_the_lottery(tmp_path, saved):
    trainer = build(tmp_path)
    trainer.run()
    assert set(trainer.parts.learner.thinnings) == {None}


class RewardTask(Task):
    """A reward function that fails for completions of even length, or for all."""

    def __init__(self, fails):
        self.fails, self.asked = fails, []

    def submit(self, prompt, text, token_ids=()):
        self.asked.append((text, token_ids))
        if self.fails(len(text)):
            return lambda: Verdict(np.nan, None, success=np.nan, failed=True, reason="task.reward = 'm:f': E")
        reward = float(len(text))
        return lambda: Verdict(reward, None, success=float(reward > 4), parts=(("f", reward),))


def test_a_completion_without_a_reward_teaches_nothing_and_is_counted(tmp_path, saved):
    trainer = build(tmp_path, pruning={"rule": "never"})
    trainer.parts.task = RewardTask(lambda length: length % 2 == 0)
    trainer.run()
    lesson = trainer.parts.learner.lessons[0][0]
    assert lesson.left_out_G == ["", "unrewarded", "", "unrewarded"], "lengths 3, 4, 5, 6"
    assert lesson.excluded_G.tolist() == [False, True, False, True]
    assert ("1117"[-4:], (1, 1, 1, 7)) in trainer.parts.task.asked, "with its token ids"
    metrics = rows(tmp_path)["step"][0].metrics
    assert (metrics["reward/mean"], metrics["reward/f/mean"], metrics["reward/failed"]) == (4.0, 4.0, 4.0)
    assert metrics["rollout/success_frac_after"] == 0.5
    assert metrics["rollout/survivors_frac"] == 0.5
    written = [row for row in read_records(tmp_path / "rollouts.jsonl") if row.step == 1 and row.group == 0]
    assert [(row.reward, row.keep, row.dropped) for row in written] == [
        (3.0, True, ""), (None, False, "unrewarded"), (5.0, True, ""), (None, False, "unrewarded")
    ]  # fmt: skip
    assert [row.success for row in written][::2] == [0.0, 1.0]


def test_a_step_in_which_every_reward_failed_ends_the_run_with_one_line(tmp_path, saved):
    trainer = build(tmp_path)
    trainer.parts.task = RewardTask(lambda length: True)
    with pytest.raises(DataError, match=r"task.reward = 'm:f': E; all 8 rewards of step 1 failed, the first like this"):
        trainer.run()
    (end,) = rows(tmp_path)["end"]
    assert end.outcome == "failed"
    assert end.message.startswith("task.reward")


def test_the_oracle_goes_by_success_and_leaves_rollouts_without_one_alone(tmp_path, saved):
    pruning = {"rule": "oracle", "probe_tokens": [2], "warmup_steps": 0, "min_survivors": 1}
    trainer = build(tmp_path, pruning=pruning)
    trainer.parts.task = RewardTask(lambda length: length % 2 == 0)
    trainer.run()
    group = trainer.parts.learner.batches[0][0]
    assert [r.label for r in group.rollouts] == [0.0, None, 1.0, None]
    assert [r.dropped for r in group.rollouts] == [False, False, True, False], "one of the two with an outcome is kept"
