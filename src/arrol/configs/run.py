"""One run: model, task, sampling, engine, method, training, evaluation; and the comparison that varies it.

``load_run`` and ``load_compare`` are the only ways from a file and flags to a config.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from arrol.configs import allocation, method
from arrol.configs.allocation import AllocationConfig, UniformAllocation
from arrol.configs.base import StrictModel, merge, validate
from arrol.configs.files import read_config
from arrol.configs.flags import change, override
from arrol.configs.lora import LoraConfig
from arrol.configs.method import AlgorithmConfig, DrGrpoConfig, NeverRule, PruningConfig, QualityConfig
from arrol.configs.records import RecordsConfig
from arrol.configs.shipped import found_model
from arrol.configs.task import TaskConfig, with_reward_folder
from arrol.errors import ConfigError

MAX_ROLLOUTS = 2**20
"""Rollouts started in a step."""
MAX_COMPLETIONS = 2**24
"""Completions of one evaluation."""


class SamplingConfig(StrictModel):
    """How completions are sampled in training."""

    max_completion_tokens: int = Field(128, ge=1, le=2**24)
    """Length limit of a completion, 1 to 16777216."""
    temperature: float = Field(1.0, ge=0)
    """0 or more; 0 takes the most likely token."""
    top_p: float = Field(1.0, gt=0, le=1)
    """Nucleus, in (0, 1]; 1 is off."""
    top_k: int = Field(0, ge=0)
    """Most likely tokens considered, 0 is off."""
    stop: tuple[str, ...] = ()
    """Texts that end a completion, in training and evaluation; the embedded engine knows them."""

    @field_validator("stop")
    @classmethod
    def _stops_are_texts(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not all(value):
            raise ValueError(f"sampling.stop = {list(value)}: an empty text would end everything; leave it out")
        return value


class EngineConfig(StrictModel):
    """The embedded engine."""

    name: Literal["embedded"] = "embedded"
    max_rows: int = Field(256, ge=1, le=2**20)
    """Rollouts that decode at once, 1 to 1048576; fewer where memory allows fewer, the rest wait in a queue."""
    cache_gib: float | Literal["auto"] = "auto"
    """Memory of the key-value cache, above 0; auto is half of what is free when generation starts."""
    prefill_tokens: int = Field(16384, ge=1)
    """Prompt tokens prefilled in one pass, at least 1."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of generation; bfloat16 keeps a second copy of the weights."""

    @field_validator("cache_gib", mode="before")
    @classmethod
    def _cache_is_possible(cls, value: Any) -> Any:
        if value != "auto" and not (isinstance(value, int | float) and not isinstance(value, bool) and value > 0):
            raise ValueError(f"engine.cache_gib = {value!r}: set it to a number of GiB above 0, or to 'auto'")
        return value


class VllmEngineConfig(StrictModel):
    """vLLM as the engine; needs the extra ``vllm``."""

    name: Literal["vllm"] = "vllm"
    max_rows: int = Field(256, ge=1, le=65536)
    """Rollouts that decode at once, 1 to 65536; the rest wait in a queue."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Precision of generation."""
    quantization: str | None = None
    """A method of vLLM that quantises on loading, such as fp8, or int8_per_channel_weight_only, which a CPU knows too;
    needs algorithm.importance_cap above 0 and a dtype of 16 bits."""
    kv_cache_gib: float = Field(1.0, gt=0)
    """Memory for keys and values on a CPU, above 0."""
    gpu_memory_frac: float = Field(0.45, gt=0, le=1)
    """Share of a GPU's memory that vLLM may take, in (0, 1]; the learner needs the rest."""
    tensor_parallel_size: int = Field(1, ge=1, le=1024)
    """Processes that share each matrix, 1 to 1024."""
    enforce_eager: bool = False
    """Never capture CUDA graphs; a CPU has none."""
    sleep_level: Literal[0, 1, 2] = 0
    """What vLLM gives up while the policy learns: 0 nothing, 1 weights to the host and the cache, 2 both entirely."""


AnyEngineConfig = Annotated[EngineConfig | VllmEngineConfig, Field(discriminator="name")]


class TrainingConfig(StrictModel):
    """How much, and how fast, the policy learns."""

    steps: int = Field(100, ge=1, le=10**9)
    """Training steps, 1 to 1000000000."""
    prompts_per_step: int = Field(16, ge=1, le=65536)
    """Prompts per step, 1 to 65536."""
    group_size: int = Field(16, ge=1, le=65536)
    """Rollouts started per prompt, 1 to 65536; at most 1048576 rollouts a step."""
    minibatches: int = Field(1, ge=1, le=65536)
    """Optimizer steps per pass over the batch, 1 to 65536."""
    epochs: int = Field(1, ge=1, le=1000)
    """Passes over the batch, 1 to 1000."""
    microbatch_tokens: int = Field(2048, ge=1)
    """Padded tokens per forward and backward, at least 1; few stay in a CPU's caches, a GPU wants 16384 or more."""
    bf16: bool = False
    """Autocast the learner's matrix products to bfloat16."""
    gradient_checkpointing: bool = False
    """Compute each layer's activations again in the backward pass: less memory, one more forward pass."""
    checkpoint_every: int = Field(0, ge=0)
    """Steps between checkpoints; 0 saves at the end only."""
    keep_checkpoints: int = Field(2, ge=1)
    """Newest checkpoints kept, at least 1; with 2, a run whose newest is damaged goes on from the one before."""
    max_bad_steps: int = Field(5, ge=1)
    """Optimizer steps in a row without a finite gradient before the run stops, at least 1."""

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.group_size * self.prompts_per_step > MAX_ROLLOUTS:
            raise ValueError(
                f"training.group_size = {self.group_size}: times prompts_per_step = {self.prompts_per_step} is more "
                f"than {MAX_ROLLOUTS} rollouts a step; lower one of them"
            )
        return self


class OptimizerConfig(StrictModel):
    """AdamW."""

    learning_rate: float = Field(1e-6, gt=0, le=0.1)
    """Peak rate, in (0, 0.1]; AdamW moves each weight by about as much per step."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the first moment, in [0, 1)."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """Decay of the second moment, in [0, 1)."""
    weight_decay: float = Field(0.0, ge=0)
    """0 or more."""
    max_grad_norm: float = Field(1.0, gt=0)
    """Gradients are scaled to at most this norm, above 0."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """What the rate does after its warm-up; linear and cosine end at 0."""
    lr_warmup_steps: int = Field(0, ge=0)
    """Steps in which the rate rises linearly, 0 or more."""


class EvaluationConfig(StrictModel):
    """Held-out accuracy; nothing is ever pruned there."""

    every: int = Field(10, ge=0)
    """Steps between evaluations; 0 evaluates at the start and the end only."""
    num_prompts: int = Field(256, ge=1, le=10**6)
    """Held-out prompts, 1 to 1000000."""
    samples_per_prompt: int = Field(1, ge=1, le=65536)
    """Completions per prompt, 1 to 65536."""
    temperature: float = Field(1.0, ge=0)
    """0 or more; 0 takes the most likely token."""

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.num_prompts * self.samples_per_prompt > MAX_COMPLETIONS:
            raise ValueError(
                f"evaluation.samples_per_prompt = {self.samples_per_prompt}: times num_prompts = {self.num_prompts} is "
                f"more than {MAX_COMPLETIONS} completions; lower one of them"
            )
        return self


class RunConfig(StrictModel):
    """Everything that determines a run."""

    name: str = Field("run", min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run and of its folder under out_dir: letters, digits, dots, dashes."""
    model: str = Field(min_length=1)
    """Folder or hub name of the base model; arithmetic-base is the small one that comes with arrol."""
    out_dir: str = "runs"
    """Folder that receives the run's folder."""
    seed: int = Field(0, ge=0, le=2**62)
    """A number from 0 to 2**62; one seed reproduces the run on a CPU, bit for bit."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    num_threads: int = Field(1, ge=1, le=1024)
    """CPU threads of torch, 1 to 1024; part of what makes a run repeatable."""
    report_to: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Metric services, in addition to the records: tensorboard, wandb, trackio."""
    report_every: int = Field(10, ge=0)
    """Steps between two tables of completions, with histograms, in these services; 0 sends none."""
    task: TaskConfig
    """What is asked."""
    sampling: SamplingConfig = SamplingConfig()
    """How completions are sampled in training."""
    engine: AnyEngineConfig = EngineConfig()
    """Who samples: embedded, or vllm."""
    pruning: PruningConfig = NeverRule()
    """Who keeps running."""
    quality: QualityConfig = QualityConfig()
    """How rollouts are judged at a probe."""
    allocation: AllocationConfig = UniformAllocation()
    """How many rollouts a prompt gets, and which of them train."""
    algorithm: AlgorithmConfig = DrGrpoConfig()
    """What a reward teaches."""
    training: TrainingConfig = TrainingConfig()
    """How much is learnt."""
    lora: LoraConfig | None = None
    """Adapters that train in place of the weights; absent trains every weight. --lora.r 16 switches them on."""
    optimizer: OptimizerConfig = OptimizerConfig()
    """How weights move."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """How progress is measured."""
    records: RecordsConfig = RecordsConfig()
    """What is kept of the rollouts."""

    @field_validator("model")
    @classmethod
    def _found(cls, value: str) -> str:
        return found_model(value)

    @field_validator("engine", mode="before")
    @classmethod
    def _embedded_unless_named(cls, value: Any) -> Any:
        """A section that names no engine is about the embedded one."""
        return {"name": "embedded", **value} if isinstance(value, Mapping) else value

    @model_validator(mode="after")
    def _engine_can(self) -> Self:
        engine, sampling = self.engine, self.sampling
        field, value = "dtype", str(engine.dtype)
        if isinstance(engine, VllmEngineConfig) and engine.quantization is not None:
            field, value = "quantization", engine.quantization
        if value != "float32" and not self.algorithm.importance_cap:
            raise ValueError(
                f"engine.{field} = {value!r}: samples from another policy than the learner's; "
                "set algorithm.importance_cap, for example to 2.0"
            )
        if not isinstance(engine, VllmEngineConfig):
            return self
        if self.records.shadow_share:
            given = f"records.shadow_share = {self.records.shadow_share:g}"
            raise ValueError(f"{given}: the embedded engine alone finishes stopped rollouts; set it to 0")
        if sampling.stop:
            raise ValueError(
                f"sampling.stop = {list(sampling.stop)}: vLLM runs without a tokenizer here and reads no text; use "
                "engine.name 'embedded', or leave it out"
            )
        if engine.quantization is not None and engine.dtype == "float32":
            raise ValueError(
                f"engine.dtype = {engine.dtype!r}: vLLM quantises models of 16 bits only; set it to 'bfloat16'"
            )
        if sampling.temperature != 1.0 and (sampling.top_p < 1.0 or sampling.top_k):
            raise ValueError(
                f"sampling.temperature = {sampling.temperature}: with top_p or top_k, vLLM's log-probabilities are not "
                "the policy's; use temperature 1, or neither top_p nor top_k"
            )
        return self

    @field_validator("lora")
    @classmethod
    def _no_dropout(cls, value: LoraConfig | None) -> LoraConfig | None:
        if value is not None and value.dropout:
            raise ValueError(
                f"lora.dropout = {value.dropout:g}: a policy trains without dropout, which would move its ratio to the "
                "sampler's; leave it out"
            )
        return value

    @model_validator(mode="after")
    def _allocation_fits(self) -> Self:
        training = self.training
        allocation.require_possible(
            self.allocation, training.group_size, training.prompts_per_step, self.sampling.max_completion_tokens
        )
        if isinstance(self.pruning, method.OracleRule) and not isinstance(self.allocation, UniformAllocation):
            raise ValueError(
                f"allocation.rule = {self.allocation.rule!r}: pruning.rule 'oracle' chooses by outcome too; "
                "set one of them to 'uniform'"
            )
        uses_belief = self.allocation.posterior.used_for in ("advantage", "both")
        if isinstance(self.algorithm, method.DapoConfig) and self.algorithm.overlong_buffer_tokens and uses_belief:
            raise ValueError(
                f"algorithm.overlong_buffer_tokens = {self.algorithm.overlong_buffer_tokens}: the posterior is of a "
                "success rate, which knows no penalty; set it to 0, or allocation.posterior.used_for to 'allocation'"
            )
        if isinstance(self.algorithm, method.McGrpoConfig):
            if isinstance(self.allocation, UniformAllocation) and training.group_size % 2 == 0:
                raise ValueError(
                    f"training.group_size = {training.group_size}: mc_grpo leaves the median rollout out, so ask for "
                    f"one more, {training.group_size + 1}"
                )
            if uses_belief:
                raise ValueError(
                    f"allocation.posterior.used_for = {self.allocation.posterior.used_for!r}: mc_grpo has a baseline "
                    "of its own; set it to 'allocation' or 'nothing'"
                )
        return self

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        pruning, size = self.pruning, self.training.group_size
        if not pruning.has_probes:
            return self
        limit = self.sampling.max_completion_tokens
        if pruning.probe_tokens[-1] >= limit:
            raise ValueError(
                f"pruning.probe_tokens = {list(pruning.probe_tokens)}: beyond the length limit; keep each below "
                f"sampling.max_completion_tokens = {limit}"
            )
        first, field = allocation.first_wave(self.allocation, size)
        is_bounded = not isinstance(pruning, (NeverRule, method.AutoRule))
        if is_bounded and pruning.keep_ratio * first < pruning.min_survivors:
            raise ValueError(
                f"{field} = {first}: too small for the floor; keep_ratio {pruning.keep_ratio} leaves "
                f"{pruning.keep_ratio * first:g} of a group, fewer than pruning.min_survivors = {pruning.min_survivors}"
            )
        if isinstance(pruning, method.AutoRule) and isinstance(self.engine, VllmEngineConfig):
            raise ValueError(
                "pruning.rule = 'auto': vLLM's scheduler sees no outcomes to learn from; use engine.name 'embedded'"
            )
        method.require_weights(pruning, self.algorithm.correction, "algorithm.correction")
        if self.algorithm.correction != "plain" and isinstance(pruning, method.OracleRule):
            kept = round(pruning.keep_ratio * size)
            right = round(pruning.target_positive_ratio * kept)
            if not 0 < right < kept:
                raise ValueError(
                    f"pruning.target_positive_ratio = {pruning.target_positive_ratio:g}: keeps {right} right of {kept} "
                    "rollouts, so one outcome is left out with certainty and no weights exist; move it towards 0.5, or "
                    "set algorithm.correction = 'plain'"
                )
        return self


class Arm(StrictModel):
    """One line of a comparison: the base config with some fields changed."""

    name: str = Field(min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name in tables and of the folder: letters, digits, dots, dashes."""
    change: dict[str, Any] = {}
    """Sections and fields to change, in the shape of a run's config."""


class CompareConfig(StrictModel):
    """Arms on the same prompts and seeds."""

    name: str = Field("compare", min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the comparison and of its folder under run.out_dir."""
    seeds: tuple[int, ...] = Field((0,), min_length=1)
    """One run per arm and seed."""
    arms: tuple[Arm, ...] = Field(min_length=1)
    """One line of the table each; ratios refer to the arm named grpo or never, else to the first unpruned one."""
    run: dict[str, Any]
    """The base config, in the shape of a run's config."""

    @model_validator(mode="after")
    def _distinct(self) -> Self:
        names = [arm.name for arm in self.arms]
        if len(set(names)) != len(names):
            raise ValueError(f"arms = {names}: give each arm a name of its own")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError(f"seeds = {list(self.seeds)}: name each seed once")
        return self


def load_run(path: str | Path, flags: Sequence[str] = ()) -> RunConfig:
    """The config of a file under flags; ConfigError on the first mistake."""
    values = override(RunConfig, read_config(path, "run"), flags)
    return validate(RunConfig, with_reward_folder(values, path))


def load_compare(path: str | Path, flags: Sequence[str] = ()) -> CompareConfig:
    """The comparison of a file under flags (``--seeds``, ``--name``, ``--run.section.field``); every arm is checked."""
    shapes = {"run": RunConfig}
    values = override(CompareConfig, read_config(path, "comparison"), flags, shapes)
    compare = validate(CompareConfig, values, shapes)
    arms = tuple(arm.model_copy(update={"change": with_reward_folder(arm.change, path)}) for arm in compare.arms)
    compare = compare.model_copy(update={"run": with_reward_folder(compare.run, path), "arms": arms})
    planned_runs(compare)
    return compare


def planned_runs(compare: CompareConfig) -> list[tuple[str, RunConfig]]:
    """Every arm's name with its config: all arms of a seed, then the next seed."""
    return [(arm.name, arm_config(compare, arm, seed)) for seed in compare.seeds for arm in compare.arms]


def arm_config(compare: CompareConfig, arm: Arm, seed: int) -> RunConfig:
    """The run of one arm under one seed; its folder is ``out_dir/<comparison>/<arm>-seed<seed>``."""
    values = merge(change(RunConfig, compare.run, arm.change)[0], {"name": f"{arm.name}-seed{seed}", "seed": seed})
    try:
        config = validate(RunConfig, values)
    except ConfigError as error:
        raise ConfigError(f"arm {arm.name!r}: {error}") from None
    return config.model_copy(update={"out_dir": str(Path(config.out_dir) / compare.name)})
