"""The seams on one page: engine, controller, estimator, verifier, task, sink. Neither side of a seam knows the other.

Objects that learn during a run are :class:`Stateful`, so that a restart loses nothing.
Legend: ``C`` candidates, ``F`` features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from arrol.types import (
    Completion,
    Contribution,
    GroupRequest,
    ProbeEvent,
    Prompt,
    PruningDecision,
    RolloutGroup,
    RolloutId,
    SamplingParams,
    State,
    Verdict,
)


class Saved(Protocol):
    """An object whose state a checkpoint holds."""

    def save(self) -> State: ...
    def load(self, state: State) -> None: ...


class Stateful(Saved, Protocol):
    """An object that learns during a run."""

    def metrics(self) -> dict[str, float]: ...


class Estimator(Protocol):
    """Features or scores in, calibrated probability of ending right out."""

    @property
    def version(self) -> int:
        """Grows by one with every refit."""

    def scores(self, features_CF: np.ndarray, probe: int) -> np.ndarray:
        """float64 ``[C]``: raw logits of the head at a probe."""

    def quality(self, score_C: np.ndarray, probe: int) -> np.ndarray:
        """float64 ``[C]`` in [0, 1]; the prior for all while too little has been seen."""


class Controller(Protocol):
    """Decides which rollouts keep running; all that an engine knows about pruning.

    An engine reports every rollout once at its end, also where there are no probes: by ``finished``, or by ``lost``
    where it failed. Each event returns the ids to stop now. ``tick`` passes any number that grows. A subclass inherits
    the events at which it stops nothing.
    """

    @property
    def probe_tokens(self) -> tuple[int, ...]:
        """Completion lengths of the probes, ascending; empty where the rule has none."""

    def open(self, step: int, group: int, size: int, success_rate: float | None = None, *, prune: bool = True) -> None:
        """Announce a group before its first rollout starts, or ``size`` more rollouts of a group that is open."""

    def probed(self, events: Sequence[ProbeEvent]) -> list[RolloutId]:
        return []

    def finished(self, rollout_ids: Sequence[RolloutId]) -> list[RolloutId]:
        return []

    def lost(self, rollout_ids: Sequence[RolloutId]) -> list[RolloutId]:
        return []

    def tick(self, now: float) -> list[RolloutId]:
        return []

    def decisions(self, step: int, group: int) -> list[PruningDecision]:
        """The last decision about each candidate of a group, by rollout index."""

    def decision(self, rollout_id: RolloutId) -> PruningDecision | None:
        """The last decision about a rollout; None for one that reached no probe."""


class TrainingController(Controller, Stateful, Protocol):
    """A controller that a run checkpoints and tells of outcomes."""

    def learn(self, groups: Sequence[RolloutGroup], contributions: Sequence[Contribution]) -> None:
        """The verified groups of a step, and what became of each, in the same order."""


More = Callable[[Sequence[tuple[RolloutId, Completion]]], Sequence[GroupRequest]]
"""Callback: rollouts that ended since the last call in, new requests out (new groups, or later waves of old ones)."""


class Engine(Protocol):
    """Generates completions and lets a controller stop some. Subclass it to inherit the methods with a body."""

    decode_steps: int = 0
    """Forward passes of the last call that wrote one token of each live row; 0 where the engine does not count them."""

    def generate(
        self,
        requests: Sequence[GroupRequest],
        params: SamplingParams,
        *,
        seed: int,
        controller: Controller | None = None,
        more: More | None = None,
    ) -> list[list[Completion]]:
        """One list of ``size`` completions per request, in order; requests that ``more`` makes follow in theirs.

        ``more`` is called whenever rollouts have ended, stopped ones included, and its requests take free rows at once.
        The call ends when ``more`` returns nothing and no rollout runs. An engine that cannot take requests in between
        calls it when all rollouts have ended. A rollout's tokens depend on ``(seed, rollout id)`` and the weights,
        never on its siblings.
        """

    def sync_weights(self) -> None:
        """Take over the learner's weights before a step."""
        return None

    def close(self) -> None:
        """Release what the engine holds outside this process."""
        return None


class Tokenizer(Protocol):
    """The part of a Hugging Face tokenizer that tasks need."""

    eos_token_id: int | None

    def encode(self, text: str, /, *, add_special_tokens: bool = True) -> list[int]: ...
    def decode(self, token_ids: Sequence[int], /, *, skip_special_tokens: bool = False) -> str: ...


class Verifier(Protocol):
    """Compares the answer in a text with the gold answer, within a time limit; the text is hostile input."""

    def verify(self, text: str, answer: str) -> Verdict: ...


PendingVerdict = Callable[[], Verdict]
"""Waits for a verdict that was submitted."""


class Task(Protocol):
    """A seeded source of prompts with a verifier.

    ``prompt(i)`` is a pure function of the task's seed and ``i``, so the data position of a run is one integer.
    """

    @property
    def name(self) -> str: ...

    def train_prompt(self, position: int) -> Prompt: ...
    def eval_prompts(self, count: int) -> list[Prompt]: ...
    def verify(self, prompt: Prompt, completion_text: str) -> Verdict: ...

    def submit(self, prompt: Prompt, completion_text: str, token_ids: Sequence[int] = ()) -> PendingVerdict:
        """Start a verdict, so that it runs during generation; a cheap one may be given at once.

        ``token_ids`` are those of the completion, for rewards that count tokens.
        """

    def close(self) -> None:
        """End the worker processes of its verifier."""


class Sink(Protocol):
    """A destination of metrics."""

    def write(self, row: dict[str, object]) -> None: ...
    def close(self) -> None: ...
