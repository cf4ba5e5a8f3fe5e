"""In whatever order requests come, are scored and leave, the book keeps its promises and forgets them in the end."""

from collections import Counter
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arrol.engines.vllm.groups import GroupBook, ProbeScore
from arrol.engines.vllm.request import parse_args, pruning_args
from lottery import GivenQuality

PROBES, SCORES = (8, 16), (0.2, 0.5, 0.9, float("nan"))
RULES = {
    "uniform": {"rule": "uniform"},
    "alone": {"rule": "uniform", "draw": "bernoulli"},
    "batch": {"rule": "neyman", "scope": "batch"},
    "never": {"rule": "never", "observe": True},
}


@cache
def request(**said):
    return parse_args(pruning_args(**said, keep_ratio=0.4, probe_tokens=PROBES, warmup_steps=1))


def planned(rng, rule):
    """Requests of several groups and steps: (name, real group, arguments); names are used again, sizes differ."""
    has_steps, plan = "scope" in rule or rng.random() < 0.5, []
    said = {"min_survivors": int(rng.integers(3)), "barrier_timeout": int(rng.choice([1, 4, 12])), **rule}
    for step in range(1, 4):
        said |= {"seed": int(rng.integers(2)), "step": step if has_steps else None}
        said |= {"batch_groups": 2} if "scope" in rule else {}
        coming = []
        for group in range(2):
            size, is_indexed = int(rng.integers(1, 5)), bool(rng.integers(2))
            for index in range(size):
                one = request(**said, group=str(group), size=size, index=index if is_indexed else None)
                coming.append((f"{step}/{group}/{index}", (step, group), one))
        plan += [coming[i] for i in rng.permutation(len(coming))]
        if rng.random() < 0.5:  # a later wave of the last group
            for index in range(2):
                wave = request(**said, group="1", size=2, index=index, first=size, later=True)
                plan.append((f"{step}/wave/{index}", (step, 1), wave))
    return plan


class Host:
    """An engine of random pace. It checks every answer of the book against what it knows itself."""

    def __init__(self, rng, plan):
        self.rng, self.plan = rng, plan
        self.book = GroupBook(lambda pruning: GivenQuality())
        self.live, self.gone, self.stopped, self.group_of = {}, [], [], {}
        self.decisions = {}

    def add(self):
        if self.plan:
            name, group, pruning = self.plan.pop(0)
            self.book.add(name, pruning)
            self.live[name], self.group_of[name] = 0, (group, pruning)

    def some(self, names, share=0.5):
        return [name for name in names if self.rng.random() < share]

    def probed(self):
        """Some reach their next probe; some scores come twice, or too late."""
        scored = []
        for name in self.some(self.live):
            self.live[name] = min(self.live[name] + 1, len(PROBES))
            scored.append(ProbeScore(name, PROBES[self.live[name] - 1], SCORES[self.rng.integers(4)]))
        again = [ProbeScore(name, PROBES[0], 0.7) for name in self.some([*self.live, *self.gone, "unknown"], 0.2)]
        self.book.probed([*scored, *self.some(scored, 0.2), *again])

    def end(self, share=0.3):
        ended = self.some(self.live, share)
        self.leave([*ended, *ended[:1], *self.gone[:1]])

    def leave(self, names):
        self.book.ended(names)
        self.gone += [name for name in names if self.live.pop(name, None) is not None]

    def tick(self):
        self.book.tick()

    def check(self):
        book, stops = self.book, self.book.take_stops()
        assert set(stops) <= set(self.live)
        assert not set(stops) & set(self.stopped)
        assert len(set(stops)) == len(stops)
        assert set(book.request_ids) == set(self.live)
        self.stopped += stops
        for name in self.live:
            decision = book.decision(name)
            if decision is None:
                assert not {(name, 0), (name, 1)} & self.decisions.keys()
                continue
            assert self.decisions.setdefault((name, decision.probe), decision) is decision
            assert decision.keep == (name not in self.stopped)
            assert 0 < decision.survival <= 1
            (step, number, index), (_, pruning) = book.rollout_id(name), self.group_of[name]
            if pruning.first and pruning.number is not None:  # reported under the number that the trainer gave
                assert (number, decision.rollout_id[::2]) == (pruning.number, (step, index))
            else:
                assert decision.rollout_id == (step, number, index)
        for group, count in Counter(self.group_of[name][0] for name in self.stopped).items():
            waves = {p.first: p for g, p in self.group_of.values() if g == group}
            assert sum(p.size for p in waves.values()) - count >= waves[0].rule.min_survivors
        if stops and self.rng.random() < 0.8:
            self.leave(stops)


@pytest.mark.parametrize("name", RULES)
@settings(max_examples=200, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**20))
def test_any_order_of_events_keeps_the_promises(name, seed):
    rng = np.random.default_rng(seed)
    host = Host(rng, planned(rng, RULES[name]))
    events = [host.add] * 4 + [host.probed] * 2 + [host.end, host.tick]
    while host.plan or host.live:
        events[rng.integers(len(events))]()
        host.check()
    book = host.book
    assert (len(book), book.num_groups, book.take_stops()) == (0, 0, [])
    for key, known in book._owners.items():
        assert {len(known.keys), len(known.request_of), len(known.groups), len(known.idle)} == {0}
        assert key.seed is not None or known.controller._groups == {}
        assert all(group.is_over for group in known.controller._groups.values())
