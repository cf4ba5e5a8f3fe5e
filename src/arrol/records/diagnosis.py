"""Sentences about training steps that teach nothing: what holds in every one of them, likely causes, next step.

Pure functions over the metrics of steps. A finding is one line. Where one finding causes another, the cause alone is
said: without a readable answer every reward is 0, and with one reward for all every group is dead.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

Metrics = Mapping[str, float]
"""Metrics of one step; keys that its host does not write are absent."""

IN_A_ROW = 5
"""Steps in a row that all show the same before it is said during training."""
MOST = 0.5
"""Share of steps without a gradient from which the end of a run says so."""


class Finding(NamedTuple):
    """One line, and the kind that it is said once for."""

    kind: str
    text: str


def findings(steps: Sequence[Metrics], advice: Mapping[str, str] | None = None) -> list[Finding]:
    """What is wrong in every one of these steps; empty without steps. ``advice``: instead of :data:`ADVICE`."""
    advice = ADVICE if advice is None else advice
    if not steps:
        return []
    found = [
        Finding(kind, f"{what} in {_times(len(steps))}: {advice[kind]}")
        for kind, said in KINDS.items()
        if (what := said(steps))
    ]
    kinds = {finding.kind for finding in found}
    silent = {result for cause, result in FOLLOWS if cause in kinds}
    return [finding for finding in found if finding.kind not in silent]


def final_findings(steps: Sequence[Metrics], advice: Mapping[str, str] | None = None) -> list[Finding]:
    """What is wrong with a whole run: that half of its steps or more taught nothing, and what holds in these; else what
    holds in all steps."""
    idle = [step for step in steps if not has_gradient(step)]
    if not idle or len(idle) < MOST * len(steps):
        return findings(steps, advice)
    if len(idle) == len(steps):
        text = f"nothing was learned: no rollout trained in any of {len(steps)} steps"
    else:
        text = f"little was learned: no rollout trained in {len(idle)} of {len(steps)} steps"
    return [Finding("nothing_learned", text), *findings(idle, advice)]


def has_gradient(step: Metrics) -> bool:
    """Whether rewards moved the policy in the step; True where its metrics do not say."""
    if "loss/kl" in step:  # the pull to the reference trains rollouts without an advantage
        return step.get("rollout/dead_group_frac", 0.0) < 1
    return step.get("tokens/trained", math.nan) != 0


class FindingWatch:
    """Says each kind of finding once, when the last ``IN_A_ROW`` steps all show it."""

    def __init__(self, advice: Mapping[str, str] | None = None) -> None:
        self._advice = advice
        self._recent: deque[Metrics] = deque(maxlen=IN_A_ROW)
        self._said: set[str] = set()

    def look(self, step: Metrics) -> list[str]:
        """The lines to say after this step."""
        self._recent.append(step)
        if len(self._recent) < IN_A_ROW:
            return []
        new = [finding for finding in findings(tuple(self._recent), self._advice) if finding.kind not in self._said]
        self._said |= {finding.kind for finding in new}
        return [finding.text for finding in new]


def _no_rewards(steps: Sequence[Metrics]) -> str:
    silent = all(step.get("rollout/survivors_frac") == 0 for step in steps)
    return "no rollout got a reward" if silent else ""


def _no_labels(steps: Sequence[Metrics]) -> str:
    unknown = all(math.isnan(step.get("rollout/success_frac_before", 0.0)) for step in steps)
    return "no rollout was known to be right or wrong, so the quality head learned nothing," if unknown else ""


def _truncated(steps: Sequence[Metrics]) -> str:
    ends = all(step.get("rollout/finish/length", 0) > 0 and step.get("rollout/finish/stop") == 0 for step in steps)
    return "every completion that was not stopped met the length limit" if ends else ""


def _no_answers(steps: Sequence[Metrics]) -> str:
    unread = all(step.get("rollout/answered_frac") == 0 for step in steps)
    return "no completion had a readable answer, so every reward was 0," if unread else ""


def _one_reward(steps: Sequence[Metrics]) -> str:
    means = [step.get("reward/mean", step.get("rollout/success_frac_after", math.nan)) for step in steps]
    is_one = all(step.get("rollout/reward_std") == 0 for step in steps) and max(means) - min(means) < 1e-9
    return f"every rollout got the reward {means[0]:.3g}" if is_one else ""


def _dead_groups(steps: Sequence[Metrics]) -> str:
    is_dead = all(step.get("rollout/dead_group_frac") == 1 for step in steps)
    return "the rollouts of every prompt got equal rewards, so all groups were dead" if is_dead else ""


def _one_label(steps: Sequence[Metrics]) -> str:
    shares = [step.get("rollout/success_frac_before", math.nan) for step in steps]
    if not all("quality/head_loss" in step for step in steps):
        return ""
    for label, kind in ((0, "wrong"), (1, "right")):
        if all(abs(share - label) < 1e-9 for share in shares):
            return f"the quality head saw {kind} rollouts only"
    return ""


KINDS: dict[str, Callable[[Sequence[Metrics]], str]] = {
    "no_rewards": _no_rewards,
    "truncated": _truncated,
    "no_answers": _no_answers,
    "one_reward": _one_reward,
    "dead_groups": _dead_groups,
    "one_label": _one_label,
    "no_labels": _no_labels,
}
"""Kind -> what is said where it holds in all of the steps, else an empty text."""
ADVICE: dict[str, str] = {
    "no_rewards": (
        "every call of the reward functions failed or gave None; call them with the rows of the data by hand, "
        "then mend them"
    ),
    "truncated": (
        "the limit is short for this task, or the model never writes the end token; raise "
        "--sampling.max_completion_tokens, name the text that ends an answer with --sampling.stop, or start from "
        "a model that ends its answers"
    ),
    "no_answers": (
        "the prompt does not ask for the form that the verifier reads, the model does not know that form, or the "
        "limit cuts the answer off; read some completions (arrol eval writes samples.jsonl), then change the "
        "template, add examples, or raise the limit"
    ),
    "one_reward": (
        "the prompts are far too hard or far too easy for this model, or what judges does not read the "
        "completion; check the verdicts of a few completions (arrol eval writes samples.jsonl), then choose other "
        "prompts or another model"
    ),
    "dead_groups": (
        "each prompt is too hard or too easy for this model; choose prompts that it gets right now and then, or "
        "raise --training.group_size or --sampling.temperature"
    ),
    "one_label": (
        "it cannot learn which rollouts end right, so its scores are no better than chance; choose prompts that "
        "the model gets right now and then, or train with --pruning never until it does"
    ),
    "no_labels": "the reward function that says what is right gave no number; name another in --task.success_reward",
}
"""Kind -> likely causes and next step, with the flags of ``arrol train``; a host has its own."""
FOLLOWS = (
    *(("no_rewards", kind) for kind in ("one_reward", "dead_groups", "no_labels", "no_answers")),
    ("no_answers", "no_labels"),
    ("no_answers", "one_reward"),
    ("no_answers", "dead_groups"),
    ("one_reward", "dead_groups"),
)
"""(cause, what it always brings with it)."""


def _times(count: int) -> str:
    return "the only step" if count == 1 else f"each of {count} steps"
