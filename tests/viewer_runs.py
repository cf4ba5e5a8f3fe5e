"""A small run on disk, with texts, for tests of the viewer."""

from arrol.records.schema import EndRecord, RolloutRecord, RunRecord, ShadowRecord, StepRecord
from arrol.records.store import RecordWriter
from arrol.records.texts import TextWriter


def run_row(segment=0, resume_step=None, **config):
    return RunRecord(
        run_id="r", name="small", arm="a", seed=0, command="arrol train", commit="c", dirty=False, versions={},
        device="", config={"training": {"steps": 2}, "pruning": {"rule": "neyman", "probe_tokens": [2]}, **config},
        started_at="", segment=segment, resume_step=resume_step,
    )  # fmt: skip


def rollout_row(step=1, group=0, index=0, *, reward=1.0, segment=0, **changes):
    stopped = reward is None
    values = {
        "finish_reason": "pruned" if stopped else "stop", "completion_tokens": 2 if stopped else 3, "score": 0.25,
        "quality": 0.5, "survival": 0.5, "reason": "draw", "keep": not stopped, "prompt_key": f"p{group}",
    }  # fmt: skip
    return RolloutRecord(
        step=step, group=group, index=index, level=1, reward=reward, segment=segment, **{**values, **changes}
    )  # fmt: skip


def shadow_row(step=1, group=0, index=2, *, reward=1.0, segment=0):
    return ShadowRecord(
        step=step, group=group, index=index, segment=segment, completion_tokens=5, finish_reason="stop", reward=reward,
        quality=0.5,
    )  # fmt: skip


def texts(group, words, rewards):
    logprobs = [-0.05, -2.0, None]
    rollouts = [
        {
            "index": index, "tokens": [0, 1] if reward is None else [0, 1, 0],
            "logprobs": logprobs[:2] if reward is None else logprobs,
            "answer": None if reward is None else words[1], "advantage": 0.5, "weight": 2.0, "lesson": "",
            "probes": [
                {"at": 2, "score": 0.25, "quality": 0.5, "survival": 0.5, "keep": reward is not None, "reason": "draw"}
            ],
        }
        for index, reward in enumerate(rewards)
    ]  # fmt: skip
    for rollout, reward in zip(rollouts, rewards, strict=True):
        if reward is None:
            rollout["shadow"] = {"tokens": [1, 1, 0], "logprobs": [-0.2, -0.3, -4.0], "answer": "7", "reward": 1.0}
    return {
        "group": group,
        "prompt": f"question {group} {words[0]}",
        "gold": "7",
        "tokens": words,
        "rollouts": rollouts,
    }


class SmallRun:
    """Writes a run row by row."""

    def __init__(self, folder):
        self.folder = folder

    def records(self, *rows):
        with RecordWriter(self.folder / "records.jsonl") as writer:
            for row in rows:
                writer.write(row)

    def rollouts(self, *rows):
        with RecordWriter(self.folder / "rollouts.jsonl") as writer:
            for row in rows:
                writer.write(row)

    def step(self, step, words=("a", "b"), rewards=((1.0, 0.0, None), (1.0, 1.0, 1.0)), segment=0):
        self.rollouts(
            *(
                rollout_row(step, group, index, reward=reward, segment=segment)
                for group, row in enumerate(rewards)
                for index, reward in enumerate(row)
            )
        )
        writer = TextWriter(self.folder, 2**20, step=step)
        writer.write(step, [texts(group, list(words), row) for group, row in enumerate(rewards)])
        self.records(StepRecord(step=step, segment=segment, metrics={"reward/mean": 0.5}))

    def end(self, step=2, segment=0):
        self.records(EndRecord(step=step, segment=segment, outcome="finished"))
