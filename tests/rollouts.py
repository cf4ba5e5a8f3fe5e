"""Rollouts without an engine: outcomes by given rates, handed to an allocator in rounds or one by one as they end."""

import heapq
import itertools
from dataclasses import dataclass, field

import numpy as np

from arrol.algorithms.allocation.allocator import Allocator
from arrol.algorithms.allocation.rule import StepShape, Tally
from arrol.types import Completion, FinishReason, Prompt, PruningDecision, Reason, Rollout, RolloutGroup, RolloutId

LONGEST = 16


def rollout(index, reward, *, tokens=3, reason="stop", survival=None, quality=float("nan"), group=0, step=1):
    """One by hand; ``reward`` None where nothing was verified."""
    rollout_id, finish = RolloutId(step, group, index), FinishReason(reason)
    decision = None
    if survival is not None:
        keep = finish is not FinishReason.PRUNED
        decision = PruningDecision(rollout_id, 0, keep, survival, Reason.DRAW, 0.0, quality)
    return Rollout(rollout_id, Completion((1,) * tokens, np.zeros(tokens, np.float32), finish), decision, reward)


def group_of(rewards, **options):
    """A group by its rewards."""
    return RolloutGroup(Prompt("p", (5,), "", ""), [rollout(i, r, **options) for i, r in enumerate(rewards)])


def groups_of(names):
    """Groups of these prompts without rollouts."""
    return [RolloutGroup(Prompt(name, (1,), name, ""), []) for name in names]


def tally_of(right, verified, *, asked=None, ended=None, waves=None, mean=None):
    """Counts by prompt; everything has ended and was verified unless said otherwise."""
    right_P, verified_P = np.array(right, int), np.array(verified, int)
    ended_P = verified_P if ended is None else np.array(ended, int)
    asked_P = ended_P if asked is None else np.array(asked, int)
    waves_P = np.ones(len(right_P), int) if waves is None else np.array(waves, int)
    mean_P = (right_P + 1) / (verified_P + 2) if mean is None else np.array(mean, float)
    return Tally(asked_P, ended_P, verified_P, right_P, waves_P, mean_P)


def prompts_from(names):
    """A source that gives these prompts again and again."""
    stream = itertools.cycle(names)
    return lambda: Prompt(name := next(stream), (5,), name, "7")


def allocator_for(config, num_prompts=4, group_size=8, *, seed=0):
    return Allocator(config, StepShape(num_prompts, group_size), seed=seed, max_completion_tokens=LONGEST)


@dataclass
class World:
    """Outcomes by (seed, rollout id) alone, so they do not depend on who asks when."""

    rate: object
    """Key of a prompt -> success rate."""
    seed: int = 0
    survival: object = lambda right: 1.0
    """Whether it would end right -> probability of being kept, where pruning is allowed."""
    error: float = 0.0
    """Share that fails."""
    reward: object = float
    """Whether it is right -> the verifier's number."""
    requests: list = field(default_factory=list)
    """In the order in which they were made."""
    num_late: int = 0
    """Ends after which nothing was observed."""

    def rollout(self, request, rollout_id):
        right, length, kept, failed = np.random.default_rng([self.seed, 9, *rollout_id]).random(4)
        right = bool(right < self.rate(request.prompt.key))
        tokens = 1 + int(length * LONGEST)
        survival = self.survival(right) if request.prune else 1.0
        reason, reward = "length" if tokens == LONGEST else "stop", self.reward(right)
        if failed < self.error:
            reason, reward = "error", None
        elif kept >= survival:
            reason, reward = "pruned", None
        step, group, index = rollout_id
        options = {"group": group, "step": step, "survival": survival if survival < 1 else None}
        return rollout(index, reward, tokens=tokens, reason=reason, **options)

    def rounds(self, allocator, source, step=1, *, shuffle=None):
        """Everything that was asked ends before anything is asked again; groups of the step."""
        new = self._note(allocator.begin(step, source))
        while new:
            ended = [self.rollout(request, i) for request in new for i in request.rollout_ids]
            if shuffle is not None:
                ended = [ended[i] for i in shuffle.permutation(len(ended))]
            new = self._note(allocator.observe(ended))
        return allocator.groups()

    def events(self, allocator, source, step=1, *, clock, rows=12, late=False):
        """Rollouts end one by one at random times, free rows are taken at once; groups of the step.

        With ``late`` the allocator observes them only when it says that their outcomes are due.
        """
        running, waiting, unseen = [], [], []
        new, now = self._note(allocator.begin(step, source)), 0.0
        while True:
            waiting += [(request, i) for request in new for i in request.rollout_ids]
            while waiting and len(running) < rows:
                request, rollout_id = waiting.pop(0)
                heapq.heappush(running, (now + clock.exponential(), rollout_id, request))
            if not running:
                assert not allocator.observe(unseen)
                return allocator.groups()
            now, rollout_id, request = heapq.heappop(running)
            unseen.append(self.rollout(request, rollout_id))
            if late and not allocator.is_due([one.rollout_id for one in unseen]):
                self.num_late += 1
                new = []
                continue
            ended, unseen = unseen, []
            new = self._note(allocator.observe(ended), running=[i for _, i, _ in running] + [i for _, i in waiting])

    def _note(self, requests, running=()):
        """Waves continue their group, and no prompt is asked again while its rollouts run."""
        busy = {rollout_id.group for rollout_id in running}
        for request in requests:
            asked = sum(r.size for r in self.requests if (r.step, r.group) == (request.step, request.group))
            assert request.size > 0, request
            assert request.first == asked, request
            assert request.group not in busy, request
            busy.add(request.group)
        self.requests += requests
        return list(requests)
