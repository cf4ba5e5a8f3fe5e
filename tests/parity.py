"""One table of scenarios for every host: the same events in, the same decisions, counts and lessons out.

The embedded engine plays each scenario on a small random model while a tape notes every event that its controller was
told, and the answer. A host's driver plays the tape through the host's own calls and returns an :class:`Outcome`;
:func:`assert_same` compares it with the embedded engine's. Where a host differs on purpose, ``DIFFERENCES`` names the
scenario and the reason, and the test asserts that it does differ.

Used by tests/integration/test_parity.py, tests/with_trl, tests/with_vllm and tests/with_verl.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
import torch

from arrol.algorithms.allocation.allocator import Allocator
from arrol.algorithms.allocation.rule import StepShape
from arrol.algorithms.lesson import Observed, lesson_signal
from arrol.configs.host import HostConfig, parse_host
from arrol.configs.method import GrpoConfig
from arrol.configs.run import EngineConfig
from arrol.configs.sft import ModelShape
from arrol.engines.embedded.engine import EmbeddedEngine
from arrol.pruning.controller import PruningController
from arrol.pruning.draws import joint_survival
from arrol.pruning.ledger import Ledger, sampling_metrics, survivor_metrics
from arrol.quality.features import FeatureLayout
from arrol.types import (
    Completion,
    FinishReason,
    GroupRequest,
    ProbeEvent,
    Prompt,
    PruningDecision,
    RolloutGroup,
    RolloutId,
    SamplingParams,
)

SEED = 3
ALPHABET = "0123456789+= "
SHAPE = ModelShape(hidden_size=32, intermediate_size=64, num_layers=2, num_heads=4, num_kv_heads=2, max_positions=64)
LENGTH = 16
LAYOUT = FeatureLayout(("logprobs",), SHAPE.hidden_size)


@dataclass(frozen=True)
class Scenario:
    """What is asked, under which rule."""

    rule: dict[str, Any]
    """Fields of the pruning rule."""
    sizes: tuple[int, ...] = (8, 8)
    """Rollouts of each group of a step."""
    allocation: str | dict[str, Any] = "uniform"
    steps: int = 1
    """With 2, the second step runs on what the first one left, after a save and a load where ``resumed``."""
    resumed: bool = False
    rows: int = 64
    """Decode rows; fewer than rollouts let siblings start late."""
    failing_token: int | None = None
    """A rollout that writes it ends as an error."""
    wave: int = 0
    """Rollouts of a later wave of each group, asked when the first has ended."""

    @property
    def host(self) -> HostConfig:
        options = {"warmup_steps": 0, "probe_tokens": [4], **self.rule, "allocation": self.allocation}
        return parse_host(options)


NEYMAN = {"rule": "neyman", "keep_ratio": 0.5}
SCENARIOS = {
    "one_probe": Scenario({"rule": "uniform", "keep_ratio": 0.5}),
    "two_probes": Scenario({"rule": "uniform", "keep_ratio": 0.5, "probe_tokens": [2, 4], "min_survivors": 1}),
    "early_siblings": Scenario({**NEYMAN, "probe_tokens": [8]}, sizes=(8, 8, 8)),
    "an_error": Scenario({"rule": "uniform", "keep_ratio": 0.5, "min_survivors": 2}, sizes=(4, 4, 4), failing_token=10),
    "a_deadline": Scenario({**NEYMAN, "barrier_timeout": 2}, rows=5),
    "a_late_wave": Scenario({**NEYMAN, "min_survivors": 3}, sizes=(4, 4), wave=4),
    "a_floor": Scenario({"rule": "uniform", "keep_ratio": 0.25, "min_survivors": 5}),
    "a_resumed_run": Scenario({**NEYMAN, "draw": "bernoulli"}, sizes=(24, 24), steps=2, resumed=True),
    "batch_scope": Scenario({**NEYMAN, "scope": "batch"}, sizes=(4, 8, 6)),
    "warm_up": Scenario({**NEYMAN, "warmup_steps": 1}),
    "never": Scenario({"rule": "never"}, steps=2),
    "truncated_rows_do_not_count": Scenario(
        {"rule": "uniform", "keep_ratio": 0.5, "correction": "plain"},  # with weights, equal survivors train too
        sizes=(4, 4, 4),
        allocation={"rule": "dapo", "count_truncated": False},
    ),
    "equal_survivors_train": Scenario({"rule": "uniform", "keep_ratio": 0.5}, sizes=(4, 4, 4), allocation="dapo"),
}

SAME_NUMBER = "verl keeps the same number of rollouts of every prompt, those that ended before the probe included"
DIFFERENCES: dict[tuple[str, str], str] = {
    ("trl", "a_late_wave"): "TRL asks for rewards when the rollout function has returned, so no wave can follow",
    ("verl", "a_late_wave"): "verl asks for all rollouts of a prompt at once",
    ("verl", "one_probe"): SAME_NUMBER,
    ("verl", "two_probes"): SAME_NUMBER,
    ("verl", "early_siblings"): SAME_NUMBER,
    ("verl", "an_error"): SAME_NUMBER,
    ("verl", "a_deadline"): SAME_NUMBER,
    ("verl", "a_floor"): SAME_NUMBER,
    ("verl", "truncated_rows_do_not_count"): SAME_NUMBER,
    ("verl", "equal_survivors_train"): SAME_NUMBER,
    ("vllm", "a_resumed_run"): "the population behind draws without siblings lives in the scheduler and starts empty",
}
"""(host, scenario) -> why its decisions are others."""


class Judge:
    """An estimator whose score is the mean log-probability, so every host can compute it."""

    version = 1
    probe_tokens = ()

    def scores(self, features_CF: np.ndarray, probe: int) -> np.ndarray:
        return features_CF[:, 2].astype(float)

    def quality(self, score_C: np.ndarray, probe: int) -> np.ndarray:
        return 1 / (1 + np.exp(-2.0 * (np.asarray(score_C, float) + 1.8)))

    def learn(self, groups: Any) -> dict[str, float]:
        return {}

    def save(self) -> dict[str, Any]:
        return {}

    def load(self, state: Any) -> None:
        pass


@dataclass
class Told:
    """One event that the controller was told, and the ids that it stopped."""

    name: str
    values: tuple[Any, ...]
    stops: tuple[RolloutId, ...] = ()


class Tape:
    """A controller that passes every call on and notes it."""

    def __init__(self, controller: PruningController) -> None:
        self.controller, self.events = controller, list[Told]()

    @property
    def probe_tokens(self) -> tuple[int, ...]:
        return self.controller.probe_tokens

    def open(self, step: int, group: int, size: int, success_rate: float | None = None, *, prune: bool = True) -> None:
        self.controller.open(step, group, size, success_rate, prune=prune)
        self.events.append(Told("open", (step, group, size, success_rate, prune)))

    def probed(self, events: list[ProbeEvent]) -> list[RolloutId]:
        return self._note("probed", tuple(events), self.controller.probed(events))

    def finished(self, ids: list[RolloutId]) -> list[RolloutId]:
        return self._note("finished", tuple(ids), self.controller.finished(ids))

    def lost(self, ids: list[RolloutId]) -> list[RolloutId]:
        return self._note("lost", tuple(ids), self.controller.lost(ids))

    def tick(self, now: float) -> list[RolloutId]:
        return self._note("tick", (now,), self.controller.tick(now))

    def decision(self, rollout_id: RolloutId) -> PruningDecision | None:
        return self.controller.decision(rollout_id)

    def decisions(self, step: int, group: int) -> list[PruningDecision]:
        return self.controller.decisions(step, group)

    def _note(self, name: str, values: tuple[Any, ...], stops: list[RolloutId]) -> list[RolloutId]:
        if values:
            self.events.append(Told(name, values, tuple(stops)))
        return stops


@dataclass
class Step:
    """One step as the embedded engine played it."""

    requests: list[GroupRequest]
    """Later waves included, as requests of their own."""
    events: list[Told]
    groups: list[RolloutGroup]
    """With rewards; a later wave stands in its group."""
    held: int
    """Groups that the controller knows at the end."""


@dataclass
class Outcome:
    """What a host made of a scenario."""

    decisions: dict[RolloutId, PruningDecision] = field(default_factory=dict)
    """The last one about each candidate."""
    metrics: list[dict[str, float]] = field(default_factory=list)
    """Per step: ``pruning/``, ``tokens/`` and ``rollout/``."""
    lessons: list[dict[RolloutId, float]] = field(default_factory=list)
    """Per step: advantage times weight of what trains."""

    def add(self, groups: list[RolloutGroup], ledger: Ledger) -> None:
        """Decisions and counts of a step."""
        known = [r for group in groups for r in group.rollouts if r.decision is not None]
        self.decisions |= {r.rollout_id: r.decision for r in known if r.decision is not None}
        self.metrics.append(step_metrics(groups, ledger))


def step_metrics(groups: list[RolloutGroup], ledger: Ledger) -> dict[str, float]:
    return {**sampling_metrics(groups), **ledger.generated(groups), **survivor_metrics(groups)}


@cache
def small_model() -> Any:
    """Weights large enough that log-probabilities differ."""
    from arrol.training.policy import character_tokenizer
    from arrol.training.sft import new_model

    tokenizer = character_tokenizer(ALPHABET)
    model = new_model(SHAPE, tokenizer, 0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(4.0)
    return model.eval()


def params() -> SamplingParams:
    return SamplingParams(LENGTH, stop_token_ids=(2, 3))


def reward_of(completion: Completion) -> float:
    """Right when the last id is even."""
    return float(completion.token_ids[-1] % 2 == 0)


def requests_of(scenario: Scenario, step: int) -> list[GroupRequest]:
    prompts = [Prompt(f"p{g}", tuple(range(3 + g, 8 + g)), "", "") for g in range(len(scenario.sizes))]
    return [
        GroupRequest(step, g, prompt, size, 0.25 + 0.25 * g if step > 1 else None)
        for g, (prompt, size) in enumerate(zip(prompts, scenario.sizes, strict=True))
    ]


def engine_of(scenario: Scenario, model: Any = None) -> EmbeddedEngine:
    """The embedded engine of a scenario, with its rows and its failing token."""
    engine = EmbeddedEngine(model or small_model(), EngineConfig(max_rows=scenario.rows), LAYOUT)
    if scenario.failing_token is not None:
        feed = engine.step

        def step_with_errors(token_S: torch.Tensor, *rest: Any) -> torch.Tensor:
            hidden_SD = feed(token_S, *rest)
            return torch.where((token_S == scenario.failing_token)[:, None], torch.nan, hidden_SD)

        engine.step = step_with_errors  # type: ignore[method-assign]
    return engine


def played(scenario: Scenario, *, whole_group: bool = False, interrupted: bool | None = None) -> list[Step]:
    """The steps of a scenario on the embedded engine."""
    engine, pruning, steps = engine_of(scenario), scenario.host.pruning, list[Step]()
    controller = PruningController(pruning, Judge(), seed=SEED, whole_group=whole_group)
    for step in range(1, scenario.steps + 1):
        if step > 1 and (scenario.resumed if interrupted is None else interrupted):
            state = controller.save()
            controller = PruningController(pruning, Judge(), seed=SEED, whole_group=whole_group)
            controller.load(state)
        tape, requests = Tape(controller), requests_of(scenario, step)
        waiting = dict(enumerate(scenario.sizes)) if scenario.wave else {}
        waves: list[GroupRequest] = []

        def more(ended: Any, waiting: Any = waiting, waves: Any = waves, requests: Any = requests) -> Any:
            asked = []
            for rollout_id, _ in ended:
                if rollout_id.index < scenario.sizes[rollout_id.group]:
                    waiting[rollout_id.group] -= 1
                    if not waiting[rollout_id.group]:
                        first = requests[rollout_id.group]
                        asked.append(replace(first, size=scenario.wave, first=first.size))
            waves.extend(asked)
            return asked

        written = engine.generate(requests, params(), seed=SEED, controller=tape, more=more if scenario.wave else None)
        groups = [
            RolloutGroup.of(request, completions, controller.decisions(step, request.group))
            for request, completions in zip([*requests, *waves], written, strict=True)
        ]
        for late in groups[len(requests) :]:
            groups[late.rollouts[0].rollout_id.group].rollouts.extend(late.rollouts)
        groups = groups[: len(requests)]
        for group in groups:
            for rollout in group.survivors:
                rollout.reward = reward_of(rollout.completion)
        steps.append(Step([*requests, *waves], tape.events, groups, len(controller._groups)))
    return steps


@cache
def recorded(name: str, *, whole_group: bool = False) -> tuple[list[Step], Outcome]:
    """A scenario as the embedded engine played it, and what came of it."""
    scenario = SCENARIOS[name]
    steps = played(scenario, whole_group=whole_group)
    outcome, ledger = Outcome(), Ledger()
    for step in steps:
        outcome.add(step.groups, ledger)
        outcome.lessons.append(lessons_of(scenario, step.groups))
    return steps, outcome


def lessons_of(scenario: Scenario, groups: list[RolloutGroup]) -> dict[RolloutId, float]:
    """Advantage times weight of the rollouts that train, as our own trainer computes them, without a spread."""
    host = scenario.host
    shape = StepShape(len(groups), max(len(group.rollouts) for group in groups))
    allocator = Allocator(host.allocation, shape, seed=SEED, max_completion_tokens=LENGTH, correction=host.correction)
    step = groups[0].rollouts[0].rollout_id.step
    found: dict[RolloutId, float] = {}
    for group, lesson in zip(groups, allocator.lessons(groups, step=step), strict=True):
        signal = lesson_signal(
            Observed(
                group.rewards_G,
                group.survival_G,
                group.quality_G,
                joint_survival(group.decisions_G),
            ),
            lesson,
            GrpoConfig(correction=host.correction, normalize_by_std=False),
            posterior=host.allocation.posterior,
        )
        for rollout, advantage, weight in zip(group.rollouts, signal.advantage_G, signal.weight_G, strict=True):
            if rollout.survived and weight > 0:
                found[rollout.rollout_id] = float(advantage * weight)
    return found


def assert_same(host: str, name: str, found: Outcome, wanted: Outcome, *, decisions: bool = True) -> None:
    """Equal, or different for the reason that ``DIFFERENCES`` gives; absent parts of ``found`` are not compared."""
    if (host, name) in DIFFERENCES:
        assert found.decisions != wanted.decisions, f"{host} no longer differs in {name}: take it off the list"
        return
    if decisions:
        assert found.decisions.keys() == wanted.decisions.keys()
        for rollout_id, decision in wanted.decisions.items():
            for mine, theirs in zip(_chain(found.decisions[rollout_id]), _chain(decision), strict=True):
                assert _facts(mine) == _facts(theirs), rollout_id
                assert _numbers(mine) == _approximately(_numbers(theirs)), rollout_id
    for mine, theirs in zip(found.metrics, wanted.metrics, strict=bool(found.metrics)):
        assert mine == _approximately(theirs)
    for mine, theirs in zip(found.lessons, wanted.lessons, strict=bool(found.lessons)):
        assert mine == _approximately(theirs)


def _chain(decision: PruningDecision | None) -> list[PruningDecision]:
    """It and those at earlier probes."""
    return [] if decision is None else [decision, *_chain(decision.previous)]


def _facts(decision: PruningDecision) -> tuple[Any, ...]:
    return decision.probe, decision.keep, decision.reason, decision.pool


def _numbers(decision: PruningDecision) -> dict[str, float]:
    return {"survival": decision.survival, "score": decision.score, "quality": decision.quality}


def _approximately(values: dict[Any, float]) -> Any:
    import pytest

    return pytest.approx(values, rel=1e-6, abs=1e-9, nan_ok=True)


def ended(step: Step) -> dict[RolloutId, Completion]:
    """How each rollout of a step ended in the reference."""
    return {rollout.rollout_id: rollout.completion for group in step.groups for rollout in group.rollouts}


def stopped(step: Step) -> set[RolloutId]:
    return {i for i, completion in ended(step).items() if completion.finish_reason is FinishReason.PRUNED}


Driver = Callable[[str], Outcome]
