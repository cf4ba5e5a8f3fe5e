"""A supervised warm start: shape of the model, source of the solutions, length of the training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from arrol.configs.base import StrictModel, validate
from arrol.configs.files import read_config
from arrol.configs.flags import override
from arrol.configs.lora import LoraConfig
from arrol.configs.run import OptimizerConfig
from arrol.configs.shipped import found_model
from arrol.configs.task import DatasetTaskConfig, TaskConfig, with_reward_folder

MAX_PARAMETERS = 10**10
"""Most parameters in the layers of a new model."""


class ModelShape(StrictModel):
    """A new model; character-level over the task's alphabet."""

    architecture: Literal["qwen3", "llama"] = "qwen3"
    """qwen3 or llama."""
    hidden_size: int = Field(128, ge=8, le=65536)
    """Width, 8 to 65536, an even multiple of num_heads."""
    intermediate_size: int = Field(384, ge=8, le=2**20)
    """Width inside the feed-forward part, 8 to 1048576."""
    num_layers: int = Field(5, ge=1, le=1024)
    """Layers, 1 to 1024."""
    num_heads: int = Field(4, ge=1, le=1024)
    """Attention heads, 1 to 1024."""
    num_kv_heads: int = Field(4, ge=1)
    """Key-value heads, a divisor of num_heads."""
    max_positions: int = Field(512, ge=16, le=2**24)
    """Longest prompt and completion together, 16 to 16777216."""

    @model_validator(mode="after")
    def _divisible(self) -> Self:
        if self.hidden_size % (2 * self.num_heads):  # rotary embeddings turn pairs
            raise ValueError(
                f"shape.hidden_size = {self.hidden_size}: no even multiple of num_heads = {self.num_heads}"
            )
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"shape.num_kv_heads = {self.num_kv_heads}: no divisor of num_heads = {self.num_heads}")
        size = self.num_layers * self.hidden_size * (4 * self.hidden_size + 3 * self.intermediate_size)
        if size > MAX_PARAMETERS:
            raise ValueError(
                f"shape.hidden_size = {self.hidden_size}: with num_layers = {self.num_layers} and intermediate_size = "
                f"{self.intermediate_size} the model has {size:.1e} parameters; stay below {MAX_PARAMETERS:.0e}"
            )
        return self


class SftConfig(StrictModel):
    """Everything that determines a warm start."""

    name: str = Field("sft", min_length=1, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    """Name of the run and of its folder under out_dir."""
    out_dir: str = "runs"
    """Folder that receives the run's folder."""
    model: str | None = None
    """Folder or hub name to start from; absent starts a new model of the given shape."""
    shape: ModelShape = ModelShape()
    """Shape of a new model."""
    task: TaskConfig
    """Whose solutions are learnt; also judges the result."""
    demonstrations: str | None = None
    """File of prompt and solution to learn instead of the task's own; a dataset task puts its template around them."""
    mixture: dict[str, float] = {}
    """Solver -> share of the demonstrations; empty takes the task's default."""
    pretrain_steps: int = Field(0, ge=0)
    """First steps, which see pretrain_mixture, 0 or more."""
    pretrain_mixture: dict[str, float] = {}
    """Solver -> share of the first steps' demonstrations; empty takes the exact solver alone."""
    steps: int = Field(1000, ge=1, le=10**9)
    """Optimizer steps, pretraining included, 1 to 1000000000."""
    batch_size: int = Field(256, ge=1, le=2**20)
    """Demonstrations per step, 1 to 1048576."""
    lora: LoraConfig | None = None
    """Adapters that train in place of the weights; the saved model has them merged. Needs model."""
    optimizer: OptimizerConfig = OptimizerConfig(
        learning_rate=2e-3, weight_decay=0.01, schedule="cosine", lr_warmup_steps=50
    )
    """How weights move."""
    seed: int = Field(0, ge=0, le=2**62)
    """A number from 0 to 2**62; one seed reproduces the run on a CPU, bit for bit."""
    num_threads: int = Field(1, ge=1, le=1024)
    """CPU threads of torch, 1 to 1024."""
    device: str = "auto"
    """auto, cpu, cuda or cuda:N."""
    bf16: bool = False
    """Autocast matrix products to bfloat16."""
    checkpoint_every: int = Field(0, ge=0)
    """Steps between checkpoints, from which --resume goes on; 0 saves the finished model alone."""
    gradient_checkpointing: bool = False
    """Compute each layer's activations again in the backward pass: less memory, one more forward pass."""
    save_dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the saved weights."""
    eval_prompts: int = Field(256, ge=1, le=10**6)
    """Held-out prompts judged at the end, 1 to 1000000."""
    max_completion_tokens: int = Field(128, ge=1, le=2**24)
    """Length limit of a judged completion, 1 to 16777216."""

    @field_validator("model")
    @classmethod
    def _found(cls, value: str | None) -> str | None:
        return value and found_model(value)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.pretrain_steps >= self.steps:
            raise ValueError(
                f"pretrain_steps = {self.pretrain_steps}: leaves nothing of steps = {self.steps}; lower it"
            )
        if self.model is None and self.lora is not None:
            raise ValueError(
                f"lora.r = {self.lora.r}: adapters need a trained model; name one in model, or leave it out"
            )
        if self.model is None and isinstance(self.task, DatasetTaskConfig):
            raise ValueError("model = None: only the synthetic tasks know an alphabet; name a model to start from")
        return self


def load_sft(path: str | Path, flags: Sequence[str] = ()) -> SftConfig:
    """The warm start of a file under flags."""
    values = override(SftConfig, read_config(path, "warm start"), flags)
    return validate(SftConfig, with_reward_folder(values, path))
