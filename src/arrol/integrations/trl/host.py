"""What pruning reads of TRL's trainer, public names only, and TRL's settings in arrol's terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol, cast

import torch

from arrol.engines.embedded.support import max_positions
from arrol.errors import ConfigError
from arrol.integrations.trl.batch import RewardFunction
from arrol.types import SamplingParams

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel
    from trl import GRPOConfig
    from trl.generation.vllm_generation import VLLMGeneration

Chat = Sequence[Mapping[str, object]]
TrlPrompts = Sequence[str] | Sequence[Chat]


class TokenizerLike(Protocol):
    """Of the tokenizer."""

    pad_token_id: int
    eos_token_id: int

    def __call__(self, *, text: TrlPrompts) -> Mapping[str, list[list[int]]]: ...
    def apply_chat_template(self, **options: object) -> Mapping[str, list[list[int]]]: ...


class TrainerLike(Protocol):
    """The attributes of ``trl.GRPOTrainer`` that are read; public in TRL 1.6 to 1.16."""

    args: GRPOConfig
    accelerator: Accelerator
    model: PreTrainedModel
    model_wrapped: torch.nn.Module
    processing_class: TokenizerLike
    chat_template: str | None
    chat_template_kwargs: dict[str, object]
    num_generations: int
    max_completion_length: int
    reward_func_names: list[str]
    reward_funcs: list[RewardFunction]
    reward_weights: torch.Tensor
    scale_rewards: str
    loss_type: str
    mask_truncated_completions: bool
    use_vllm: bool
    vllm_generation: VLLMGeneration
    is_fsdp_enabled: bool


def tokenized_prompts(prompts: TrlPrompts, trainer: TrainerLike) -> list[list[int]]:
    """Token ids of each prompt, text or chat messages, exactly as TRL tokenizes them. ConfigError for images."""
    from trl import is_conversational

    tokenizer = trainer.processing_class
    if not is_conversational({"prompt": prompts[0]}):
        return tokenizer(text=prompts)["input_ids"]
    if any(not isinstance(message["content"], str) for chat in cast(Sequence[Chat], prompts) for message in chat):
        raise ConfigError("prompt = content blocks: only text can be pruned; set rule = 'never' for images")
    return tokenizer.apply_chat_template(
        conversation=prompts,
        chat_template=trainer.chat_template,
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        **trainer.chat_template_kwargs,
    )["input_ids"]


def require_positions(prompt_ids: list[list[int]], trainer: TrainerLike) -> None:
    """ConfigError where the longest prompt and a completion of full length exceed the model's positions."""
    longest, most = max(map(len, prompt_ids), default=0), trainer.max_completion_length
    limit = max_positions(trainer.accelerator.unwrap_model(trainer.model).config.get_text_config())
    if limit is not None and longest + most > limit:
        raise ConfigError(
            f"max_completion_length = {most}: with a prompt of {longest} tokens it exceeds the {limit} positions of "
            f"the model (max_position_embeddings); lower it to {max(limit - longest, 0)}"
        )


def sampling_params(trainer: TrainerLike) -> SamplingParams:
    """TRL's sampling settings; ConfigError for a setting that the engine lacks."""
    args = trainer.args
    for name, value, unset in (
        ("min_p", args.min_p, (None, 0.0)),
        ("repetition_penalty", args.repetition_penalty, (None, 1.0)),
        ("generation_kwargs", args.generation_kwargs, (None, {})),
    ):
        if value not in unset:
            raise ConfigError(
                f"{name} = {value!r}: pruned rollouts are sampled by temperature, top_p and top_k only; leave it out"
            )
    ids = getattr(trainer, "eos_token_ids", None)  # TRL 1.13 and newer
    return SamplingParams(
        trainer.max_completion_length,
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=max(args.top_k or 0, 0),
        stop_token_ids=tuple(ids) if ids else (trainer.processing_class.eos_token_id,),
    )
