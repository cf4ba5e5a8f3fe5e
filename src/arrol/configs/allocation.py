"""How many rollouts a prompt gets, and which of them train. Naming a rule gives its vetted defaults.

Sizes are those of the papers scaled to groups of 16; ``docs/algorithms/allocation.md`` says which figure is whose.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, get_args

from pydantic import Field, model_validator

from arrol.configs.base import StrictModel


class PosteriorConfig(StrictModel):
    """Beta posterior of a prompt's success rate, across its visits."""

    used_for: Literal["nothing", "allocation", "advantage", "both"] = "nothing"
    """allocation: says which prompts come first; advantage: baseline and spread, so uniform groups teach; or both."""
    prior_right: float = Field(1.0, gt=0)
    """Right rollouts assumed before the first, above 0."""
    prior_wrong: float = Field(1.0, gt=0)
    """Wrong rollouts assumed before the first, above 0."""
    discount: float = Field(0.5, ge=0, le=1)
    """What an earlier visit's counts are worth at the next, in [0, 1]; 0 forgets them."""
    spread: Literal["mean", "expected"] = "mean"
    """Variance behind the advantage: mean (1 - mean) of the posterior mean, or its expectation over the posterior."""
    max_dead_zone_advantage: float = Field(0.25, ge=0)
    """Limit of the magnitude of advantages in all-wrong groups, 0 or more: they push every sampled token down."""


class AeroPosterior(PosteriorConfig):
    """The posterior of AERO."""

    used_for: Literal["nothing", "allocation", "advantage", "both"] = "both"
    """allocation: says which prompts come first; advantage: baseline and spread, so uniform groups teach; or both."""


class AllocationBase(StrictModel):
    """What all rules share."""

    posterior: PosteriorConfig = PosteriorConfig()
    """What is known of a prompt's success rate, and what that is used for."""
    token_budget: int = Field(0, ge=0)
    """Completion tokens that a step may cost at most; a wave starts only if it fits at full length. 0 sets no limit."""
    pruned_counts: Literal["weighted", "quality"] = "weighted"
    """How stopped rollouts enter a prompt's counts: weighted, survivors stand for them; quality, by their calibrated
    probability too."""
    count_truncated: bool = True
    """Whether rollouts that were cut at the length limit are judged; false leaves them out of counts and training."""


class UniformAllocation(AllocationBase):
    """GRPO: group_size rollouts for every prompt, all of them train."""

    rule: Literal["uniform"] = "uniform"


class RejectionConfig(StrictModel):
    """Which verified rollouts of AERO train."""

    wrong_ratio: float = Field(1.0, gt=0)
    """Wrong rollouts kept per right one where wrong ones prevail, above 0."""
    baseline: Literal["kept", "all", "corrected"] = "corrected"
    """Mean and spread from the kept rollouts, from all, or from all with the kept ones standing for the rejected."""
    mirror: bool = False
    """Reject surplus successes in the same way where right ones prevail."""


class AeroAllocation(AllocationBase):
    """AERO, arXiv 2602.14338: explore, rescue prompts without success, reject surplus failures."""

    rule: Literal["aero"] = "aero"
    posterior: AeroPosterior = AeroPosterior()
    """What is known of a prompt's success rate, and what that is used for."""
    rollout_budget: int = Field(0, ge=0, le=2**20)
    """Rollouts per step, at most 1048576; 0 is group_size times prompts_per_step."""
    explore_size: int = Field(4, ge=2)
    """Rollouts per prompt before anything is decided, at least 2."""
    rescue_step: int = Field(2, ge=1)
    """Rollouts added at a time to a prompt without success, at least 1."""
    max_group: int = Field(0, ge=0, le=65536)
    """Most rollouts of one prompt, at most 65536; 0 is group_size. More rescues harder and leaves less for prompts with
    a signal."""
    top_up_easy: bool = False
    """Fill groups with at least half right too, from what the budget leaves; else they train on what was explored."""
    rejection: RejectionConfig = RejectionConfig()
    """Which verified rollouts train."""
    prune_rescue: bool = False
    """Whether rescue rollouts may be pruned; one success is what they are for."""


class DapoAllocation(AllocationBase):
    """DAPO's dynamic sampling, arXiv 2503.14476: uniform groups are dropped, other prompts take their place."""

    rule: Literal["dapo"] = "dapo"
    max_draws: float = Field(4.0, ge=1, le=1000)
    """Prompts drawn per step at most, as a multiple of prompts_per_step, 1 to 1000."""
    at_cap: Literal["train", "error"] = "train"
    """When the cap is reached: train on the mixed groups found so far, or end the run with an error."""


class GresoAllocation(DapoAllocation):
    """GRESO, arXiv 2506.02177: prompts that were uniform on their last visits are skipped before they cost anything."""

    rule: Literal["greso"] = "greso"  # type: ignore[assignment]
    easy_repeat: float = Field(0.5, gt=0, lt=1)
    """First probability of asking a prompt again after an all-right visit, in (0, 1); adapts."""
    hard_repeat: float = Field(0.5, gt=0, lt=1)
    """The same after an all-wrong visit."""
    repeat_step: float = Field(0.01, ge=0)
    """How far both move per training step, 0 or more."""
    target_uniform: float = Field(0.25, ge=0, le=1)
    """Wanted share of uniform groups among those sampled, one third of it all-right, in [0, 1]."""


class ReinforceAdaAllocation(AllocationBase):
    """Reinforce-Ada, arXiv 2510.04996: rounds until a prompt has shown enough; a group of fixed size trains."""

    rule: Literal["reinforce_ada"] = "reinforce_ada"
    exit: Literal["balanced", "positive"] = "balanced"
    """A prompt leaves with half of keep_size right and half wrong (balanced), or with one right (positive)."""
    round_size: int = Field(4, ge=1, le=65536)
    """Rollouts per prompt and round, 1 to 65536."""
    max_rounds: int = Field(4, ge=1, le=65536)
    """Rounds at most, 1 to 65536."""
    keep_size: int = Field(8, ge=2)
    """Rollouts of a prompt that train at most, half of each kind where there are as many; at least 2."""


class PilotCommitAllocation(DapoAllocation):
    """Pilot-Commit, arXiv 2605.26606: a pilot for every prompt, the rest for those neither too easy nor too hard."""

    rule: Literal["pilot_commit"] = "pilot_commit"  # type: ignore[assignment]
    pilot_size: int = Field(4, ge=2, le=65536)
    """Rollouts that judge a prompt, 2 to 65536; they train too."""
    commit_size: int = Field(12, ge=1, le=65536)
    """Rollouts added to a prompt that is committed to, 1 to 65536."""
    lowest: float = Field(0.125, ge=0, le=1)
    """Least success rate of the pilot to commit, in [0, 1]; below, the prompt waits for a later epoch."""
    highest: float = Field(0.75, ge=0, le=1)
    """Largest success rate of the pilot to commit, in [0, 1]."""
    evict: bool = True
    """Never ask again a prompt whose pilot had no stopped rollout and was all right."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.highest < self.lowest:
            raise ValueError(f"allocation.highest = {self.highest}: at least lowest = {self.lowest}")
        return self


class KnapsackAllocation(AllocationBase):
    """Knapsack RL, arXiv 2509.25849: the budget goes where a rollout is worth most, by the prompt's history."""

    rule: Literal["knapsack"] = "knapsack"
    rollout_budget: int = Field(0, ge=0, le=2**20)
    """Rollouts per step, at most 1048576; 0 is group_size times prompts_per_step."""
    least: int = Field(2, ge=1)
    """Rollouts of every prompt, at least 1."""
    max_group: int = Field(0, ge=0, le=65536)
    """Most rollouts of one prompt, at most 65536; 0 is four times group_size."""


class SizedAllocation(AllocationBase):
    """What rules share that choose group sizes before a step, every prompt with the same weight in the gradient."""

    least: int = Field(2, ge=2)
    """Rollouts of every prompt, at least 2: one alone has no baseline."""
    max_group: int = Field(0, ge=0, le=65536)
    """Most rollouts of one prompt, at most 65536; 0 is four times group_size."""


class NeymanAllocation(SizedAllocation):
    """Rollouts where the outcome is most uncertain."""

    rule: Literal["neyman"] = "neyman"


class DuetAllocation(SizedAllocation):
    """DUET's sizes, arXiv 2605.08441: rollouts by the spread of a prompt's gradient estimate and its length."""

    rule: Literal["duet"] = "duet"


class SaraAllocation(AllocationBase):
    """SARA, arXiv 2607.26253: after a few rollouts a sequential test commits to a prompt or abandons it."""

    rule: Literal["sara"] = "sara"
    explore_size: int = Field(4, ge=2)
    """Rollouts of every prompt before the first test, at least 2."""
    round_size: int = Field(4, ge=1)
    """Rollouts added while the test is undecided, at least 1; a prompt that is committed to gets the rest at once."""
    lowest: float = Field(0.1, gt=0, lt=0.5)
    """A prompt is informative where its success rate lies in [lowest, 1 - lowest], in (0, 0.5)."""
    error: float = Field(0.25, gt=0, lt=0.5)
    """Share of wrong decisions of either kind that sets the bounds of the test, in (0, 0.5)."""


class PodsAllocation(AllocationBase):
    """PODS, arXiv 2504.13818: of a full group, the rollouts of largest reward variance train."""

    rule: Literal["pods"] = "pods"
    train_size: int = Field(8, ge=2)
    """Rollouts of a group that train, at least 2."""


class CppoAllocation(AllocationBase):
    """CPPO, arXiv 2503.22342: of a full group, the rollouts of largest advantage train."""

    rule: Literal["cppo"] = "cppo"
    train_size: int = Field(8, ge=1)
    """Rollouts of a group that train, at least 1."""


class MoppsAllocation(AllocationBase):
    """MoPPS, arXiv 2507.04632: of many candidates, the prompts whose sampled success rate is nearest to the target."""

    rule: Literal["mopps"] = "mopps"
    candidates: int = Field(8, ge=1, le=1024)
    """Prompts looked at per prompt asked, 1 to 1024; the others wait for the next epoch."""
    target_rate: float = Field(0.5, ge=0, le=1)
    """Wanted success rate, in [0, 1]."""


AllocationConfig = Annotated[
    UniformAllocation
    | AeroAllocation
    | DapoAllocation
    | GresoAllocation
    | ReinforceAdaAllocation
    | PilotCommitAllocation
    | KnapsackAllocation
    | NeymanAllocation
    | DuetAllocation
    | SaraAllocation
    | PodsAllocation
    | CppoAllocation
    | MoppsAllocation,
    Field(discriminator="rule"),
]
ALLOCATIONS = {model.model_fields["rule"].default: model for model in get_args(get_args(AllocationConfig)[0])}
"""Variants by their tag."""


def first_wave(config: AllocationBase, group_size: int) -> tuple[int, str]:
    """Rollouts of the smallest first wave, and the field that says so."""
    for name in ("explore_size", "pilot_size", "round_size", "least"):
        if name in type(config).model_fields:
            return int(getattr(config, name)), f"allocation.{name}"
    return group_size, "training.group_size"


def require_possible(config: AllocationConfig, group_size: int, num_prompts: int, max_completion_tokens: int) -> None:
    """ValueError for sizes that contradict each other or the budgets."""
    first, field = first_wave(config, group_size)
    started = first * num_prompts
    if isinstance(config, SizedAllocation) and 0 < config.max_group < group_size:
        raise ValueError(
            f"allocation.max_group = {config.max_group}: less than training.group_size = {group_size}; raise it"
        )
    if isinstance(config, SizedAllocation) and config.least > group_size:
        raise ValueError(f"allocation.least = {config.least}: more than training.group_size = {group_size}; lower it")
    if isinstance(config, SaraAllocation) and first > group_size:
        raise ValueError(f"{field} = {first}: more than training.group_size = {group_size}; lower it")
    if isinstance(config, (AeroAllocation, KnapsackAllocation)):
        budget, limit = config.rollout_budget, config.max_group
        if 0 < budget < started:
            raise ValueError(
                f"allocation.rollout_budget = {budget}: {field} times training.prompts_per_step is {started} already; "
                "raise it or lower one of them"
            )
        if 0 < limit < first:
            raise ValueError(f"allocation.max_group = {limit}: fewer than {field} = {first}; raise it")
        if first > group_size and (isinstance(config, AeroAllocation) or not budget):
            raise ValueError(f"{field} = {first}: more than training.group_size = {group_size}; lower it")
        if not isinstance(config, AeroAllocation):
            started = budget or group_size * num_prompts
    if isinstance(config, (PodsAllocation, CppoAllocation)) and config.train_size > group_size:
        raise ValueError(
            f"allocation.train_size = {config.train_size}: more than training.group_size = {group_size}; lower it"
        )
    if isinstance(config, ReinforceAdaAllocation) and config.keep_size > config.round_size * config.max_rounds:
        raise ValueError(
            f"allocation.keep_size = {config.keep_size}: more than round_size times max_rounds = "
            f"{config.round_size * config.max_rounds}; lower it"
        )
    if 0 < config.token_budget < started * max_completion_tokens:
        raise ValueError(
            f"allocation.token_budget = {config.token_budget}: the first wave may need "
            f"{started * max_completion_tokens} tokens ({started} rollouts of sampling.max_completion_tokens = "
            f"{max_completion_tokens}); raise it"
        )
