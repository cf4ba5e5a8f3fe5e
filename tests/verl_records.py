"""A run of verl's service that keeps a record, played without verl: workers, sampler and driver are this file.

Tokens of a completion are bytes of its text; tests of the service and of the viewer read what it leaves behind.
"""

import asyncio

import numpy as np

from arrol.integrations.records import HostRun, run_config
from arrol.integrations.verl import recording
from arrol.integrations.verl.options import parse_options
from arrol.integrations.verl.plan import RecordPlan
from arrol.integrations.verl.recorded import AskedPrompt, WrittenText
from arrol.integrations.verl.service import PruningService

OPTIONS = {"rule": "uniform", "probe_tokens": 4, "warmup_steps": 0}
PROMPT, LONG = "1+1=", "2 and more"


def plan_of(folder, options, *, step=0, **changes):
    config = run_config(
        options.host, steps=2, group_size=4, sampling={"max_completion_tokens": 12}, rewards=["compute_score"]
    )
    run = HostRun("mine", 7, config, {"verl": "0.9.1"}, ["verl/trainer/main_ppo.py"])
    known = {"tokenizer": "", "trusts_code": False, "scale": "std", "validates": True, **changes}
    return RecordPlan(folder=folder, run=run, step=step, **known)


def use_bytes(monkeypatch):
    """Let every recording read tokens as bytes."""

    class Bytes:
        def __init__(self, path, *, trusts_code):
            pass

        def decode(self, ids, *, skip_special_tokens=False):
            return "".join(chr(token) for token in ids if token >= 0)

    monkeypatch.setattr(recording, "FolderTokenizer", Bytes)


def tokens_of(text):
    return np.frombuffer(text.encode(), np.uint8).astype(np.int32)


def written(text, answer=None):
    token_ids = tokens_of(text)
    return WrittenText(tokens_of(PROMPT), token_ids, -0.25 * np.arange(len(token_ids), dtype=np.float32), answer)


class PlayedRun:
    """Begins and plays steps of one service."""

    def __init__(self, folder, *, step=0, options=None, plan=None, shape=None):
        self.options, self.late = parse_options({**OPTIONS, **(options or {})}), []
        self.service = PruningService(
            self.options, seed=7, shape=shape, plan=plan_of(folder, self.options, step=step, **(plan or {}))
        )

    async def step(
        self, step, *, prompts=2, size=4, reward=lambda g, i: float(i % 2), late=lambda g, i, kept: False, left_out=()
    ):
        """One training step; returns the tickets.

        ``late`` takes group, rollout and whether it was kept: their texts wait in ``self.late`` until the test tells
        them. ``left_out`` rows do not train.
        """
        asked = [AskedPrompt(f"uid{number}", f"question {number}", str(number)) for number in range(prompts)]
        tickets = await self.service.begin(step, [(f"p{number}", size) for number in range(prompts)], asked)
        rows = []

        def tell(rollout, text, answer=None):
            if not any(ticket["keeps_texts"] for ticket in tickets):
                return
            if late(*rollout[1:], answer is not None):
                self.late.append((rollout, written(text, answer)))
            else:
                self.service.wrote(rollout, written(text, answer))

        async def run(group, index):
            rollout = (step, group, index)
            if not await self.service.probed(rollout, 0, [-4.0 - index, -2.0, -1.0 - index]):
                tell(rollout, LONG[:4])
                return
            tell(rollout, LONG, "2")
            value = reward(group, index)
            self.service.outcome(rollout, len(LONG), value, is_truncated=index == 0)
            if value is not None and np.isfinite(value) and (group, index) not in left_out:
                rows.append((f"uid{group}", index))

        async with asyncio.TaskGroup() as tasks:
            for ticket in tickets:
                for index in range(ticket["size"]):
                    tasks.create_task(run(ticket["group"], index))
        metrics = await self.service.settle()
        found = self._chosen(step, rows)
        self.service.sampled(found, metrics | {"batch/rows": float(len(found))})
        return tickets

    def tell_late(self):
        """Texts that were held back arrive."""
        for rollout, text in self.late:
            self.service.wrote(rollout, text)

    def _chosen(self, step, rows):
        """What our sampler lets train."""
        if not self.service.has_selection():
            return rows
        trains = self.service.kept(step, [(int(uid[3:]), index) for uid, index in rows])
        return [row for row, train in zip(rows, trains, strict=True) if train]

    async def validate(self, step, scores=(1.0, 0.0)):
        self.service.evaluating(step)
        await self.service.evaluated(step, [(f"v{i}", score, 5) for i, score in enumerate(scores)])

    async def close(self):
        await self.service.recorded()
