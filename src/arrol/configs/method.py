"""What the method does: the quality head, the survival rule, the algorithm. Naming a variant gives its vetted defaults.

The preset ``paper`` (``configs/paper-*.toml``) spells out arXiv 2603.24840 literally: rule ``paper``, draw
``bernoulli``, correction ``plain``, labels unweighted.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal, Self, get_args

from pydantic import Field, model_validator

from arrol.configs.base import StrictModel, shown


class QualityConfig(StrictModel):
    """How likely is this rollout to end right? The head, its buffer and its calibration."""

    features: tuple[Literal["last_hidden", "mean_hidden", "logprobs"], ...] = ("last_hidden", "mean_hidden", "logprobs")
    """What the head reads at a probe: any of last_hidden, mean_hidden, logprobs; at least one."""
    hidden_size: int = Field(128, ge=1, le=65536)
    """Width of the head's hidden layer, 1 to 65536 (the method notes give 128 to 512)."""
    learning_rate: float = Field(1e-3, gt=0, le=0.1)
    """Learning rate of the head's own AdamW, in (0, 0.1]."""
    weight_decay: float = Field(1e-2, ge=0)
    """Weight decay of the head's own AdamW, 0 or more."""
    passes: int = Field(2, ge=1, le=1000)
    """Passes over the buffer per refit, 1 to 1000."""
    batch_size: int = Field(256, ge=1)
    """Records per step of a refit, at least 1."""
    buffer_size: int = Field(4096, ge=1, le=10**7)
    """Finished rollouts remembered, oldest forgotten first, 1 to 10000000."""
    weight_labels: bool = True
    """Weight each record by 1/survival; false reproduces the paper."""
    calibration: Literal["binned", "shrunk"] = "shrunk"
    """binned: Laplace counts per class as in the paper; shrunk: bin rates pulled to the prior."""
    num_bins: int = Field(20, ge=1, le=10**6)
    """Bins over the head's sigmoid, 1 to 1000000."""
    pseudo_count: float = Field(1.0, ge=0)
    """Counts added per bin, 0 or more."""
    min_class_records: int = Field(32, ge=1)
    """Right and wrong records needed, each, before quality may differ from the prior; at least 1."""

    judge_ends: bool = False
    """Learn to judge whole completions too, for votes at test time."""

    @model_validator(mode="after")
    def _some_feature(self) -> Self:
        if not self.features or len(set(self.features)) != len(self.features):
            raise ValueError("quality.features = " + repr(self.features) + ": name each of them once, and at least one")
        return self


class PruningBase(StrictModel):
    """What all rules share."""

    keep_ratio: float = Field(0.5, gt=0, le=1)
    """Share of the candidates that survive, in (0, 1]."""
    probe_tokens: tuple[int, ...] = (512,)
    """Completion lengths at which rollouts are judged, ascending, each at least 1."""
    probe_keep_ratios: tuple[float, ...] = ()
    """Share still running after each probe, falling to keep_ratio; empty spreads it evenly over the probes."""
    draw: Literal["systematic", "bernoulli"] = "systematic"
    """systematic: exact count among siblings, waits for them; bernoulli: independent, decides at once."""
    min_survival: float = Field(0.1, gt=0, le=1)
    """Least probability of surviving all probes, in (0, 1]; the largest weight is its inverse."""
    min_survivors: int = Field(2, ge=0)
    """Rollouts of a group that are left in any case, 0 or more."""
    warmup_steps: int = Field(20, ge=0)
    """Steps in which all are kept while the head learns, 0 or more."""
    barrier_timeout: float = Field(64, gt=0)
    """How many decode steps a candidate waits for its siblings before it is drawn alone, above 0."""

    has_floor: ClassVar[bool] = True
    """Every candidate survives with at least min_survival."""

    @property
    def max_keep(self) -> float:
        """Largest survival that the rule gives to all candidates."""
        return 1.0

    @model_validator(mode="after")
    def _reachable(self) -> Self:
        if self.has_floor and not self.min_survival <= self.keep_ratio <= self.max_keep:
            raise ValueError(
                f"pruning.keep_ratio = {self.keep_ratio:g}: outside [min_survival, max_survival] = "
                f"[{self.min_survival:g}, {self.max_keep:g}], so it cannot be met; move it inside, or move the bound"
            )
        return self

    @model_validator(mode="after")
    def _probes(self) -> Self:
        probes, ratios = self.probe_tokens, self.probe_keep_ratios
        if not probes or any(p < 1 for p in probes) or list(probes) != sorted(set(probes)):
            raise ValueError(
                f"pruning.probe_tokens = {shown(list(probes))}: give one or more ascending lengths of at least 1"
            )
        if ratios and (len(ratios) != len(probes) or ratios[-1] != self.keep_ratio):
            raise ValueError(
                f"pruning.probe_keep_ratios = {shown(list(ratios))}: give one per probe, "
                f"the last equal to keep_ratio {self.keep_ratio}"
            )
        if any(not 0 < b <= a for a, b in zip((1.0, *ratios), ratios, strict=False)):
            raise ValueError(f"pruning.probe_keep_ratios = {shown(list(ratios))}: let them fall, each in (0, 1]")
        return self

    @property
    def has_probes(self) -> bool:
        """The rule uses probes: it stops candidates there, or observes them."""
        return True

    @property
    def cumulative_keep(self) -> tuple[float, ...]:
        """Share still running after each probe; equal factors when none were named."""
        count = len(self.probe_tokens)
        return self.probe_keep_ratios or tuple(self.keep_ratio ** ((j + 1) / count) for j in range(count))


class NeverRule(PruningBase):
    """Control: all rollouts are kept, and by default none is scored."""

    has_floor: ClassVar[bool] = False
    rule: Literal["never"] = "never"
    observe: bool = False
    """Score the candidates all the same, to judge the head on an unpruned run."""

    @property
    def has_probes(self) -> bool:
        return self.observe


class UniformRule(PruningBase):
    """Control: every candidate survives with the same probability."""

    rule: Literal["uniform"] = "uniform"


class OracleRule(PruningBase):
    """Control: everything is generated, then the outcome decides. Nothing is saved."""

    has_floor: ClassVar[bool] = False
    rule: Literal["oracle"] = "oracle"
    target_positive_ratio: float = Field(0.5, ge=0, le=1)
    """Wanted share of right rollouts among survivors, in [0, 1]."""


class ConfidenceRule(PruningBase):
    """Control in the manner of DeepConf: keep the rollouts whose mean log-probability is highest."""

    rule: Literal["confidence"] = "confidence"
    mix: float = Field(0.0, ge=0, le=1)
    """Share of uniform lottery mixed in, in [0, 1]; 0 keeps or stops with certainty, so no weights exist."""


class ExtremesRule(PruningBase):
    """Warning example: the highest and lowest qualities of a group, with certainty."""

    has_floor: ClassVar[bool] = False
    rule: Literal["extremes"] = "extremes"

    @model_validator(mode="after")
    def _ranked(self) -> Self:
        if self.draw != "systematic":
            raise ValueError(f"pruning.draw = {self.draw!r}: extremes ranks siblings, so set 'systematic'")
        return self


class LinearRule(PruningBase):
    """What rules have in common whose survival is linear in the quality."""

    max_survival: float = Field(0.9, gt=0, le=1)
    """Largest survival, in (0, 1]."""
    target_positive_ratio: float = Field(0.5, ge=0, le=1)
    """Wanted share of right rollouts among survivors, in [0, 1]."""

    @property
    def max_keep(self) -> float:
        return self.max_survival


class PaperRule(LinearRule):
    """arXiv 2603.24840 as printed; its target cancels when nothing is clipped."""

    rule: Literal["paper"] = "paper"
    draw: Literal["systematic", "bernoulli"] = "bernoulli"
    """systematic: exact count among siblings; bernoulli: independent, as in the paper."""
    balance_strength: float = 0.5
    """Slope of survival in (target - quality)."""


class BalancedRule(LinearRule):
    """Linear like ``paper``, with the slope that does reach the target."""

    rule: Literal["balanced"] = "balanced"
    scope: Literal["group", "buffer"] = "group"
    """Moments of quality taken from the group (shrunk to the buffer) or from the buffer alone."""
    max_balance_strength: float = Field(1.0, gt=0)
    """Limit of the slope's magnitude, above 0."""
    shrinkage: float = Field(4.0, ge=0)
    """Pseudo-rollouts by which group moments are pulled to the buffer's, 0 or more."""


class NeymanRule(PruningBase):
    """Survival proportional to the expected size of a rollout's gradient (Neyman allocation)."""

    rule: Literal["neyman"] = "neyman"
    scope: Literal["group", "batch"] = "group"
    """group: the same share of every group; batch: groups that look all right or all wrong give theirs to mixed ones.
    """
    min_survival: float = Field(0.2, gt=0, le=1)
    """Least probability of surviving all probes, in (0, 1]. Larger than the 0.1 of other rules: where the head is wrong
    about a rollout that this rule rarely keeps, its weight is the inverse."""
    shrinkage: float = Field(4.0, ge=0)
    """Pseudo-rollouts by which the prompt's history pulls the group's mean quality, 0 or more."""


class AutoRule(PruningBase):
    """Keeps all until its own running estimate shows that stopping pays; chooses probe and share then."""

    rule: Literal["auto"] = "auto"
    keep_ratio: float = Field(0.2, gt=0, le=1)
    """Least share of the candidates that it may choose to keep, in (0, 1]."""
    generated_price: float = Field(2.0, ge=0)
    """Cost of a generated token, 0 or more; by default in FLOPs per parameter."""
    trained_price: float = Field(6.0, ge=0)
    """Cost of a trained token, 0 or more."""
    step_price: float = Field(0.0, ge=0)
    """Cost of a decode step, however many rollouts run in it, 0 or more."""
    noise_ratio: float | None = Field(None, gt=0)
    """sigma_w / sigma_b, as arrol advise prints it, above 0; absent leaves the spread between prompts out."""

    @model_validator(mode="after")
    def _priced(self) -> Self:
        if not self.generated_price + self.trained_price + self.step_price:
            raise ValueError(
                f"pruning.trained_price = {self.trained_price:g}: all prices are 0, so nothing can pay; set one above"
            )
        if self.probe_keep_ratios:
            raise ValueError(
                f"pruning.probe_keep_ratios = {shown(list(self.probe_keep_ratios))}: auto chooses probe and share; "
                "leave it out"
            )
        return self


PruningConfig = Annotated[
    NeverRule
    | UniformRule
    | OracleRule
    | ConfidenceRule
    | ExtremesRule
    | PaperRule
    | BalancedRule
    | NeymanRule
    | AutoRule,
    Field(discriminator="rule"),
]
RULE_FIELDS = frozenset(name for rule in get_args(get_args(PruningConfig)[0]) for name in rule.model_fields)
"""Every field that some rule has, for hosts that take them as flat keys."""


def require_weights(pruning: PruningBase, correction: str, field: str) -> None:
    """ValueError where a correction by 1/survival meets a rule that stops with certainty."""
    if correction != "ipw" and isinstance(pruning, AutoRule):
        raise ValueError(f"{field} = {correction!r}: rule = 'auto' estimates the noise of 'ipw'; set it to 'ipw'")
    is_mixed = isinstance(pruning, ConfidenceRule) and pruning.mix > 0
    if correction != "plain" and isinstance(pruning, (ExtremesRule, ConfidenceRule)) and not is_mixed:
        raise ValueError(
            f"{field} = {correction!r}: rule {pruning.rule!r} stops with certainty, so no weights exist; "
            "set it to 'plain'" + (" or pruning.mix above 0" if pruning.rule == "confidence" else "")
        )


class AlgorithmBase(StrictModel):
    """What all algorithms share: the correction after pruning, clipping, reference, engine mismatch."""

    correction: Literal["plain", "ipw", "doubly_robust"] = "ipw"
    """plain: survivors only, biased; ipw: weighted by 1/survival; doubly_robust: ipw with predicted qualities in the
    baseline."""
    leave_one_out: bool = True
    """Keep a rollout's own reward out of its baseline; needed for an exactly unbiased gradient."""
    self_normalized: bool = False
    """Divide by the sum of weights instead of the number of rollouts started: less variance, small bias."""
    clip_ratio_low: float = Field(0.2, ge=0, lt=1)
    """Lower trust-region bound, in [0, 1)."""
    clip_ratio_high: float = Field(0.2, ge=0)
    """Upper trust-region bound, 0 or more."""
    kl_coef: float = Field(0.0, ge=0)
    """Weight of the KL to the frozen reference, 0 or more; 0 loads no reference."""
    importance_cap: float = Field(0.0, ge=0)
    """Cap of the truncated importance weight between trainer and engine; 0 trusts the engine's log-probs."""
    thinning: float = Field(0.5, ge=0)
    """Rollouts whose |advantage x weight| is below this share of the step's root mean square train by a lottery and
    count 1/probability (unbiased); 0 trains all, above 1 typical rollouts take part too. Off with ``kl_coef``."""
    thins: Literal["pruned", "always"] = "pruned"
    """Steps with that lottery: those in which a rollout was stopped, or every one. With "pruned" rule auto chooses its
    share, 0 to 1, for every step; with "always" it holds."""


class GrpoConfig(AlgorithmBase):
    """GRPO, arXiv 2402.03300."""

    name: Literal["grpo"] = "grpo"
    normalize_by_std: bool = True
    """Divide advantages by the group's spread."""
    aggregation: Literal["sequence_mean", "token_mean", "constant"] = "sequence_mean"
    """Denominator of the loss."""


class DrGrpoConfig(AlgorithmBase):
    """Dr. GRPO, arXiv 2503.20783: no division by the spread, constant denominator."""

    name: Literal["dr_grpo"] = "dr_grpo"
    normalize_by_std: bool = False
    """Divide advantages by the group's spread."""
    aggregation: Literal["sequence_mean", "token_mean", "constant"] = "constant"
    """Denominator of the loss."""


class DapoConfig(AlgorithmBase):
    """DAPO, arXiv 2503.14476; its dynamic sampling is allocation rule ``dapo``."""

    name: Literal["dapo"] = "dapo"
    clip_ratio_high: float = Field(0.28, ge=0)
    """Upper trust-region bound, 0 or more."""
    normalize_by_std: bool = True
    """Divide advantages by the group's spread."""
    aggregation: Literal["sequence_mean", "token_mean", "constant"] = "token_mean"
    """Denominator of the loss."""
    overlong_buffer_tokens: int = Field(0, ge=0)
    """Last tokens before the limit over which the length penalty grows, 0 or more; 0 switches it off."""
    overlong_penalty: float = Field(1.0, ge=0)
    """Penalty at the limit, 0 or more."""


class McGrpoConfig(AlgorithmBase):
    """MC-GRPO, arXiv 2601.22582: median and median absolute deviation; the median rollout is left out."""

    name: Literal["mc_grpo"] = "mc_grpo"
    correction: Literal["plain"] = "plain"
    """plain: survivors only; a median has no weighted form here."""
    normalize_by_std: bool = True
    """Divide advantages by the median absolute deviation, the mean one where that is 0."""
    aggregation: Literal["sequence_mean", "token_mean", "constant"] = "sequence_mean"
    """Denominator of the loss."""


AlgorithmConfig = Annotated[GrpoConfig | DrGrpoConfig | DapoConfig | McGrpoConfig, Field(discriminator="name")]
