"""Seeded, resumable sources of prompts.

A prompt is a pure function of (seed, stream, position), so the data position of a run is one integer. A finite pool
comes in an order keyed by (seed, epoch). A hash of the problem, the same for every seed, assigns it to training or to
evaluation. Warm-start demonstrations come from the training side.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property
from itertools import islice
from typing import ClassVar, Generic, TypeVar

import numpy as np

from arrol.errors import ConfigError, ModelError
from arrol.protocols import PendingVerdict, Tokenizer, Verifier
from arrol.types import Prompt, Verdict

HELD_OUT_ONE_IN = 16
"""One problem in 16 is kept for evaluation."""
MAX_DRAWS = 2_000
"""Draws before a source of problems counts as exhausted."""
FEW_LEFT = 20
"""Repeated problems in a row, after which all problems that exist are counted."""

BOXED_INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."

TEMPLATES = {
    "plain": "{question}",
    "qa": "Question: {question}\nAnswer:",
    "qwen-boxed": "{question}\n" + BOXED_INSTRUCTION,
    "chat": "{question}",
    "chat-boxed": "{question}\n" + BOXED_INSTRUCTION,
}
"""Named prompts; a name that begins with ``chat`` makes one user message for the tokenizer's chat template."""


class Stream(IntEnum):
    """Independent sequences of random numbers under one seed."""

    TRAIN = 0
    EVAL = 1
    DEMONSTRATION = 2
    SHUFFLE = 3
    EXAMPLES = 4


def rng_at(seed: int, stream: Stream, position: int) -> np.random.Generator:
    """The generator of one position."""
    return np.random.default_rng((seed, int(stream), position))


class EpochOrder:
    """Every index below ``count`` once per epoch, in an order keyed by (seed, epoch)."""

    def __init__(self, seed: int, count: int) -> None:
        self.seed = seed
        self.count = count
        self._order: tuple[int, np.ndarray] = (-1, np.empty(0, int))

    def index_at(self, position: int) -> int:
        """The index at a data position."""
        epoch, place = divmod(position, self.count)
        if self._order[0] != epoch:
            self._order = (epoch, rng_at(self.seed, Stream.SHUFFLE, epoch).permutation(self.count))
        return int(self._order[1][place])


def is_held_out(key: str) -> bool:
    """True for problems of evaluation; depends on the problem alone, not on a seed."""
    digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % HELD_OUT_ONE_IN == 0


def require_seed(seed: int) -> int:
    """Seeds are integers from 0."""
    if seed < 0:
        raise ConfigError(f"seed: {seed} is negative; choose an integer from 0")
    return seed


def levels_within(fields: str, low: int, high: int, smallest: int, largest: int) -> range:
    """The levels ``low .. high``; refuses bounds that are not ordered or not within ``smallest .. largest``."""
    if not smallest <= low <= high <= largest:
        raise ConfigError(f"{fields}: {low}, {high} must be ordered and within {smallest} .. {largest}")
    return range(low, high + 1)


@dataclass(frozen=True)
class Problem:
    """A question before it is tokenized."""

    key: str
    """Equal for equal questions; assigns the problem to training or evaluation."""
    text: str
    answer: str
    level: int


P = TypeVar("P", bound=Problem)


class SyntheticTask(ABC, Generic[P]):
    """Generated problems, with worked solutions by solvers of different reliability.

    A subclass draws a problem of a level and writes a solver's solution. With ``num_problems`` above 0 training repeats
    the first problems of the endless stream; a problem that the stream repeats is in the pool twice.
    """

    name: ClassVar[str]
    alphabet: ClassVar[str]
    """Every character of prompts and solutions, for a character-level tokenizer."""
    solvers: ClassVar[tuple[str, ...]]
    """Names a mixture may use; the first is exact."""
    default_mixture: ClassVar[Mapping[str, float]]

    def __init__(
        self, tokenizer: Tokenizer, verifier: Verifier, *, levels: Sequence[int], seed: int, num_problems: int = 0
    ) -> None:
        if num_problems < 0:
            raise ConfigError(f"num_problems: {num_problems} is negative; choose an integer from 0, where 0 is endless")
        self.tokenizer = tokenizer
        self.verifier = verifier
        self.levels = tuple(levels)
        self.seed = require_seed(seed)
        self.pool = EpochOrder(self.seed, num_problems) if num_problems else None
        self._held_out: dict[str, Prompt] = {}
        """Held-out prompts drawn so far."""
        self._eval_draws = self._repeats = 0
        self._require_spelling()

    @abstractmethod
    def draw(self, rng: np.random.Generator, level: int) -> P:
        """A random problem of a level."""

    @abstractmethod
    def solution(self, problem: P, solver: str, rng: np.random.Generator) -> str:
        """The text of one solver, with the final answer, without end-of-text."""

    @cached_property
    def num_held_out(self) -> int | None:
        """Different held-out problems of all levels together; None where nothing counts them."""
        return None

    def train_prompt(self, position: int) -> Prompt:
        number = position if self.pool is None else self.pool.index_at(position)
        rng = rng_at(self.seed, Stream.TRAIN, number)
        return self._prompt(self._problem(rng, self._random_level(rng), held_out=False))

    def eval_prompts(self, count: int) -> list[Prompt]:
        """``count`` different held-out prompts, all levels alike; a smaller count is a prefix of a larger one."""
        found = self._held_out
        while len(found) < count:
            most = self.num_held_out if self._repeats >= FEW_LEFT else None
            if self._repeats > MAX_DRAWS or (most is not None and most < count):
                raise ConfigError(
                    f"eval prompts: {count} asked, {self.name} has {len(found) if most is None else most} different "
                    "held-out problems; ask for fewer or widen the levels"
                )
            rng = rng_at(self.seed, Stream.EVAL, self._eval_draws)
            problem = self._problem(rng, self.levels[self._eval_draws % len(self.levels)], held_out=True)
            self._eval_draws += 1
            self._repeats = self._repeats + 1 if problem.key in found else 0
            if not self._repeats:
                found[problem.key] = self._prompt(problem)
        return list(islice(found.values(), count))

    def demonstration(self, position: int, solver_mixture: Mapping[str, float] | None = None) -> tuple[str, str]:
        """(prompt text, solution text) by one solver, drawn from the mixture; None means ``default_mixture``."""
        names, weights = self._mixture(self.default_mixture if solver_mixture is None else solver_mixture)
        rng = rng_at(self.seed, Stream.DEMONSTRATION, position)
        problem = self._problem(rng, self._random_level(rng), held_out=False)
        return problem.text, self.solution(problem, names[int(rng.choice(len(names), p=weights))], rng)

    def verify(self, prompt: Prompt, completion_text: str) -> Verdict:
        return self.verifier.verify(completion_text, prompt.answer)

    def submit(self, prompt: Prompt, completion_text: str, token_ids: Sequence[int] = ()) -> PendingVerdict:
        verdict = self.verify(prompt, completion_text)
        return lambda: verdict

    def close(self) -> None:
        """Nothing to release: its verifier runs in this process."""

    def _random_level(self, rng: np.random.Generator) -> int:
        return self.levels[int(rng.integers(len(self.levels)))]

    def _problem(self, rng: np.random.Generator, level: int, *, held_out: bool) -> P:
        for _ in range(MAX_DRAWS):
            problem = self.draw(rng, level)
            if is_held_out(problem.key) == held_out:
                return problem
        raise ConfigError(f"level: {level} of task {self.name} has too few problems; choose another level")

    def _prompt(self, problem: P) -> Prompt:
        exact = self.solution(problem, self.solvers[0], np.random.default_rng(0))
        token_ids = tuple(self.tokenizer.encode(problem.text))
        return Prompt(problem.key, token_ids, problem.text, problem.answer, problem.level, exact)

    def _mixture(self, mixture: Mapping[str, float]) -> tuple[list[str], np.ndarray]:
        for name, weight in mixture.items():
            if name not in self.solvers:
                raise ConfigError(f"solver_mixture: {name!r} is no solver of {self.name}; choose from {self.solvers}")
            if not 0 <= weight < float("inf"):
                raise ConfigError(f"solver_mixture: weight {weight} of {name!r} must be a finite number from 0")
        total = sum(mixture.values())
        if total <= 0:
            raise ConfigError(f"solver_mixture: {dict(mixture)} has no weight above 0; give one solver a weight")
        return list(mixture), np.array([weight / total for weight in mixture.values()])

    def _require_spelling(self) -> None:
        """Refuse a tokenizer without one of the task's characters."""
        spelled = self.tokenizer.decode(self.tokenizer.encode(self.alphabet, add_special_tokens=False))
        missing = sorted(set(self.alphabet) - set(spelled) - {" "})
        if missing:
            raise ModelError(
                f"tokenizer: cannot spell {''.join(missing)!r} of task {self.name}; set model to one whose tokenizer "
                "can, or take another task"
            )
