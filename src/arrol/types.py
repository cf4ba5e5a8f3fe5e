"""The data types: prompt, completion, rollout, group, and the decision about a rollout.

Worked example (executed by the tests)::

    >>> import numpy as np
    >>> prompt = Prompt(key="a", token_ids=(5, 6), text="1+1=", answer="2")
    >>> short = Completion((7, 2), np.float32([-0.1, -0.2]), FinishReason.STOP)
    >>> cut = Completion((8, 8, 8), np.float32([-2, -2, -2]), FinishReason.PRUNED)
    >>> group = RolloutGroup(prompt, [Rollout(RolloutId(0, 0, 0), short, reward=1.0), Rollout(RolloutId(0, 0, 1), cut)])
    >>> [rollout.survived for rollout in group.rollouts], group.num_survivors
    ([True, False], 1)
    >>> group.rewards_G
    array([ 1., nan])

Legend of shape suffixes: ``G`` rollouts of a group, ``C`` candidates, ``T`` completion tokens, ``F`` features.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

import numpy as np


class RolloutId(NamedTuple):
    """Address of a rollout in a run; also the key of its random streams, so no draw depends on order of arrival."""

    step: int
    """Training step that asked for it, from 1; evaluation uses 0."""
    group: int
    """Position of the prompt in the step's batch."""
    index: int  # type: ignore[assignment]  # hides tuple.index, which no id needs
    """Position of the rollout in its group, ``0 .. group_size - 1``."""


class FinishReason(StrEnum):
    """Why a rollout ended."""

    STOP = "stop"
    """It wrote a stop token."""
    LENGTH = "length"
    """It reached ``max_completion_tokens``."""
    PRUNED = "pruned"
    """The controller stopped it."""
    ERROR = "error"
    """The engine could not finish it (for example logits that are not finite)."""

    @property
    def survived(self) -> bool:
        """True when the rollout may be verified and trained on."""
        return self in (FinishReason.STOP, FinishReason.LENGTH)


class Reason(StrEnum):
    """Why a candidate was kept or stopped at a probe."""

    DRAW = "draw"
    """The lottery decided with probability ``survival``."""
    FLOOR = "floor"
    """Kept with certainty: one more loss would have left fewer than ``min_survivors``."""
    WARMUP = "warmup"
    """Kept: pruning has not begun."""
    RULE_NEVER = "rule_never"
    """Kept: the rule stops nothing there."""
    NO_SCORE = "no_score"
    """Kept: the score was absent or not a number."""
    DEADLINE = "deadline"
    """Drawn without its siblings because the barrier's deadline passed."""
    RESCUE = "rescue"
    """Kept: its wave may not be stopped."""
    THRESHOLD = "threshold"
    """Its quality was compared with a threshold: certain, no lottery (evaluation only)."""
    OUTCOME = "outcome"
    """Dropped or kept after verification (``oracle`` only); nothing was saved."""


@dataclass(frozen=True)
class Prompt:
    """A question as token ids, with the answer its verifier expects."""

    key: str
    """Stable name of the prompt across epochs and restarts."""
    token_ids: tuple[int, ...]
    """At least one id."""
    text: str
    answer: str
    """Gold answer; its meaning belongs to the verifier."""
    level: int = 0
    """Difficulty grade where the task knows one, else 0."""
    solution: str = ""
    """A worked solution where the task knows one, else empty."""
    columns: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """Cells of its row, where reward functions judge; ``prompt`` is the question as the data has it."""


@dataclass
class Completion:
    """What the policy wrote after a prompt."""

    token_ids: tuple[int, ...]
    """``T`` sampled ids, the stop token included."""
    sampler_logprobs_T: np.ndarray
    """float32 ``[T]``: log-probability of each sampled id after temperature, before top-k and top-p."""
    finish_reason: FinishReason
    features_at: dict[int, np.ndarray] = field(default_factory=dict)
    """Probe position (tokens) -> float32 ``[F]``; only probes that were reached."""
    end_score: float = math.nan
    """Logit of the quality head at the last token fed, for votes; NaN where not requested or without a head."""

    @property
    def num_tokens(self) -> int:
        return len(self.token_ids)


@dataclass(frozen=True)
class ProbeEvent:
    """A rollout has reached a probe: the one message from an engine to a controller.

    Either ``features_F`` (the controller's estimator scores it) or ``score`` (the host has scored already).
    """

    rollout_id: RolloutId
    probe: int
    """Index of the probe, 0-based."""
    features_F: np.ndarray | None = None
    score: float | None = None
    confidence: float = 0.0
    """Mean log-probability of the sampled tokens so far, at most 0."""


LEAST_SURVIVAL = 1e-9
"""Recorded for a rollout that is stopped with certainty, since survival is above 0."""


@dataclass(frozen=True)
class PruningDecision:
    """One decision about one candidate at one probe."""

    rollout_id: RolloutId
    probe: int
    keep: bool
    survival: float
    """Probability, in (0, 1], of having been kept through this probe: the product over probes so far."""
    reason: Reason
    score: float = float("nan")
    """Raw output (logit) of the quality head."""
    quality: float = float("nan")
    """Calibrated probability of ending right, in [0, 1]."""
    version: int = 0
    """Version of the estimator that scored it."""
    previous: PruningDecision | None = field(default=None, compare=False, repr=False)
    """The decision at an earlier probe; None at the first."""
    pool: int | None = None
    """Least index of the rollouts of its group that shared its exact-count draw; None: it was drawn alone, or not."""


@dataclass
class Rollout:
    """A completion with its address, its reward and what was decided about it."""

    rollout_id: RolloutId
    completion: Completion
    decision: PruningDecision | None = None
    """The last decision; None for a rollout that ended before the first probe."""
    reward: float | None = None
    """The verifier's number, written once; None for a rollout that was stopped or could not be judged."""
    answer: str | None = None
    """What the verifier extracted."""
    dropped: bool = False
    """Generated in full and then left out of training (``oracle``, dynamic sampling)."""
    success: float | None = None
    """1 right, 0 wrong, NaN unknown, where the task tells it apart from the reward; None: the reward tells."""

    @property
    def label(self) -> float | None:
        """1 right, 0 wrong, None unknown; a reward above 0.5 is right unless ``success`` says otherwise."""
        if self.reward is None or (self.success is not None and math.isnan(self.success)):
            return None
        return float(self.reward > 0.5) if self.success is None else self.success

    @property
    def outcome(self) -> float | None:
        """The label where the task tells it apart from the reward, else the reward itself."""
        return self.reward if self.success is None else self.label

    @property
    def survived(self) -> bool:
        """Kept, verified and trained on."""
        return self.completion.finish_reason.survived and not self.dropped

    @property
    def is_candidate(self) -> bool:
        """It reached a probe and was decided there."""
        return self.decision is not None

    @property
    def survival(self) -> float:
        """Probability of having been kept; exactly 1 for a rollout that was never a candidate."""
        return 1.0 if self.decision is None else self.decision.survival

    @property
    def is_truncated(self) -> bool:
        """The length limit cut it off."""
        return self.completion.finish_reason is FinishReason.LENGTH

    def quality_or(self, default: float) -> float:
        """Predicted quality; ``default`` where nothing was predicted."""
        known = self.decision is not None and not math.isnan(self.decision.quality)
        return self.decision.quality if known and self.decision is not None else default


@dataclass
class RolloutGroup:
    """All rollouts of one prompt in one step."""

    prompt: Prompt
    rollouts: list[Rollout]

    @classmethod
    def of(
        cls, request: GroupRequest, completions: Sequence[Completion], decisions: Iterable[PruningDecision]
    ) -> RolloutGroup:
        """Completions of a request, in its order, joined with the decisions about them."""
        decided = {decision.rollout_id: decision for decision in decisions}
        pairs = zip(request.rollout_ids, completions, strict=True)
        return cls(request.prompt, [Rollout(i, completion, decided.get(i)) for i, completion in pairs])

    @property
    def survivors(self) -> list[Rollout]:
        return [rollout for rollout in self.rollouts if rollout.survived]

    @property
    def num_survivors(self) -> int:
        return len(self.survivors)

    @property
    def rewards_G(self) -> np.ndarray:
        """float64 ``[G]``; NaN where the rollout did not survive."""
        return np.array([r.reward if r.survived and r.reward is not None else np.nan for r in self.rollouts], float)

    @property
    def outcomes_G(self) -> np.ndarray:
        """float64 ``[G]``: what rules read that count right answers; NaN where it is unknown."""
        found = [rollout.outcome if rollout.survived else None for rollout in self.rollouts]
        return np.array([np.nan if outcome is None else outcome for outcome in found], float)

    @property
    def labels_G(self) -> np.ndarray:
        """float64 ``[G]``: 1 right, 0 wrong; NaN where it is unknown or the rollout did not survive."""
        found = [rollout.label if rollout.survived else None for rollout in self.rollouts]
        return np.array([np.nan if label is None else label for label in found], float)

    @property
    def unrewarded_G(self) -> np.ndarray:
        """bool ``[G]``: survived and has no reward, such as one whose reward function raised an error."""
        return np.array([rollout.survived and rollout.reward is None for rollout in self.rollouts], bool)

    @property
    def decisions_G(self) -> list[PruningDecision | None]:
        """The last decision about each rollout; None where there is none."""
        return [rollout.decision for rollout in self.rollouts]

    @property
    def survival_G(self) -> np.ndarray:
        """float64 ``[G]``, in (0, 1]."""
        return np.array([r.survival for r in self.rollouts], float)

    @property
    def quality_G(self) -> np.ndarray:
        """float64 ``[G]``; NaN where no quality was predicted."""
        return np.array([np.nan if r.decision is None else r.decision.quality for r in self.rollouts], float)


class Contribution(NamedTuple):
    """What the rollouts of a group contributed to an update."""

    advantage_G: np.ndarray
    """float64 ``[G]``: of each survivor; 0 for the others."""
    size_G: np.ndarray
    """float64 ``[G]``: a stand-in for the squared size of the gradient of its log-probability."""


@dataclass(frozen=True)
class Verdict:
    """A verifier's answer about one completion."""

    reward: float
    """1 right, 0 wrong; tasks may grade in between. NaN: there is none."""
    answer: str | None
    """What was extracted from the text, None when nothing was found."""
    timed_out: bool = False
    """Algebra came to no end, in its time or in two processes; ``reason`` says which. The reward is 0."""
    mark: str = ""
    """What pointed at the answer, such as ``box`` or ``####``; ``tail`` when nothing did."""
    verifier: str = ""
    """What decided: ``rules`` (spelling and numbers) or ``math-verify``; empty where a task does not say."""
    reason: str = ""
    """Why, in a few words."""
    success: float | None = None
    """1 right, 0 wrong, NaN unknown, where that is not read from the reward."""
    failed: bool = False
    """A reward function failed; the reward is NaN and ``reason`` names function, row and error."""
    parts: tuple[tuple[str, float], ...] = ()
    """(name, value) of each reward function, NaN where it gave none; empty where a verifier judged."""

    @property
    def is_right(self) -> bool:
        """By ``success``, else a reward above 0.5."""
        return (self.reward > 0.5) if self.success is None else self.success == 1.0


@dataclass(frozen=True)
class SamplingParams:
    """How an engine samples."""

    max_completion_tokens: int
    temperature: float = 1.0
    """0 means the most likely token."""
    top_p: float = 1.0
    top_k: int = 0
    """0 means off."""
    stop_token_ids: tuple[int, ...] = ()
    stop: tuple[str, ...] = ()
    """Texts that end a completion; an engine without a tokenizer refuses them."""


@dataclass(frozen=True)
class GroupRequest:
    """One prompt to complete ``size`` times: a whole group, or a later wave of one."""

    step: int
    group: int
    prompt: Prompt
    size: int
    success_rate: float | None = None
    """Success rate of this prompt in earlier steps, in [0, 1]; None for a new prompt."""
    first: int = 0
    """Index of the first rollout: the number of rollouts of this group in earlier requests."""
    prune: bool = True
    """Whether the controller may stop these rollouts; if not, it still scores them."""

    @property
    def rollout_ids(self) -> list[RolloutId]:
        return [RolloutId(self.step, self.group, self.first + index) for index in range(self.size)]


State = Mapping[str, object]
"""What ``save`` returns and ``load`` takes: JSON values and numpy arrays, nested by string keys."""
