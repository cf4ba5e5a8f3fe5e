"""What pruning reads of TRL's trainer, public names only, and TRL's settings in arrol's terms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast, runtime_checkable

import torch
from transformers.integrations import is_deepspeed_zero3_enabled

from arrol.engines.embedded.steps import require_supported
from arrol.engines.embedded.support import max_positions, too_long
from arrol.errors import ConfigError
from arrol.integrations.trl.batch import RewardFunction
from arrol.types import SamplingParams

if TYPE_CHECKING:
    from accelerate import Accelerator
    from transformers import PreTrainedModel, TrainerState
    from trl import GRPOConfig
    from trl.generation.vllm_generation import VLLMGeneration

Chat = Sequence[Mapping[str, object]]
TrlPrompts = Sequence[str] | Sequence[Chat]


UNSET: Mapping[str, tuple[object, ...]] = {
    "min_p": (None, 0.0),
    "repetition_penalty": (None, 1.0),
    "generation_kwargs": (None, {}),
}
"""Sampling setting that only vLLM has -> values without effect."""
PASSED_ON = frozenset(
    {"temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty", "repetition_penalty"}
    | {"min_tokens", "logit_bias", "bad_words", "allowed_token_ids", "structured_outputs", "repetition_detection"}
)
"""Keys of ``generation_kwargs`` that go to vLLM."""


class TokenizerLike(Protocol):
    """What we use of TRL's tokenizer."""

    pad_token_id: int
    eos_token_id: int

    def __call__(self, *, text: TrlPrompts) -> Mapping[str, list[list[int]]]: ...
    def decode(self, token_ids: Sequence[int], /, *, skip_special_tokens: bool = False) -> str: ...
    def apply_chat_template(self, **options: object) -> Mapping[str, list[list[int]]]: ...


@runtime_checkable
class AdaptedModel(Protocol):
    """A model with a PEFT adapter."""

    def get_base_model(self) -> PreTrainedModel: ...


class TrainerLike(Protocol):
    """The attributes of ``trl.GRPOTrainer`` that are read; public in TRL 1.6 to 1.16."""

    args: GRPOConfig
    state: TrainerState
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


def gathered(mine: list[Any], trainer: TrainerLike) -> list[Any]:
    """The objects of all ranks, in the order of ranks."""
    if trainer.accelerator.num_processes == 1:
        return mine
    from accelerate.utils import gather_object

    return gather_object(mine)


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


def require_whole_layers(trainer: TrainerLike) -> None:
    """ConfigError where the embedded engine would sample from layers that are split over processes."""
    shards = {"fsdp = True": trainer.is_fsdp_enabled, "deepspeed = ZeRO-3": is_deepspeed_zero3_enabled()}
    for setting, is_on in shards.items():
        if is_on and not trainer.use_vllm:
            raise ConfigError(
                f"{setting}: the embedded engine needs whole layers on each process; set use_vllm = True, or rule = "
                "'never'"
            )


def require_whole_groups(trainer: TrainerLike) -> None:
    """ConfigError where the rollouts of one prompt would lie on several processes."""
    args = trainer.args
    if args.generation_batch_size // trainer.accelerator.num_processes % trainer.num_generations:
        raise ConfigError(
            f"per_device_train_batch_size = {args.per_device_train_batch_size}: times steps_per_generation = "
            f"{args.steps_per_generation} it is no multiple of num_generations = {trainer.num_generations}, which "
            "would split groups over processes; choose a multiple"
        )


def policy_of(model: PreTrainedModel) -> PreTrainedModel:
    """The causal language model; an adapter's layers lie inside it."""
    return model.get_base_model() if isinstance(model, AdaptedModel) else model


def require_model(trainer: TrainerLike) -> None:
    """ModelError where the embedded engine would sample otherwise than the trainer's model, as it computes here."""
    if not trainer.use_vllm:
        with trainer.accelerator.autocast():
            require_supported(policy_of(trainer.model))


def require_positions(prompt_ids: list[list[int]], trainer: TrainerLike) -> None:
    """ConfigError where the longest prompt and a completion of full length exceed the model's positions."""
    longest, most = max(map(len, prompt_ids), default=0), trainer.max_completion_length
    limit = max_positions(trainer.accelerator.unwrap_model(trainer.model).config.get_text_config())
    if limit is not None and longest + most > limit:
        raise too_long("max_completion_length", most, longest, limit)


def sampling_params(trainer: TrainerLike) -> SamplingParams:
    """TRL's sampling settings that every engine has."""
    args = trainer.args
    ids = getattr(trainer, "eos_token_ids", None)  # TRL 1.13 and newer
    return SamplingParams(
        trainer.max_completion_length,
        temperature=args.temperature,
        top_p=args.top_p,
        top_k=max(args.top_k or 0, 0),
        stop_token_ids=tuple(ids) if ids else (trainer.processing_class.eos_token_id,),
    )


def vllm_options(args: GRPOConfig) -> dict[str, object]:
    """TRL's other sampling settings, as fields of vLLM's SamplingParams."""
    options: dict[str, object] = {"min_p": args.min_p, "repetition_penalty": args.repetition_penalty}
    options = {name: value for name, value in options.items() if value not in UNSET[name]}
    options |= args.generation_kwargs or {}
    if args.vllm_structured_outputs_regex is not None:
        options["structured_outputs"] = {"regex": args.vllm_structured_outputs_regex}
    return options


def require_sampling(args: GRPOConfig, *, two_phase: bool) -> None:
    """ConfigError for a sampling setting that the engine lacks, or would apply otherwise than TRL."""
    if args.use_vllm:
        for key in (args.generation_kwargs or {}).keys() - PASSED_ON:
            raise ConfigError(
                f"generation_kwargs[{key!r}]: pruning sets it itself, or it was not tested; leave it out, or use "
                f"some of {sorted(PASSED_ON)}"
            )
        if two_phase and (args.generation_kwargs or args.vllm_structured_outputs_regex):
            raise ConfigError(
                "vllm_two_phase = True: grammars and generation_kwargs would start again in the second call; leave "
                "them out, or start vLLM with arrol's classes"
            )
        return
    for name, unset in UNSET.items():
        value = getattr(args, name)
        if value not in unset:
            raise ConfigError(
                f"{name} = {value!r}: the embedded engine samples by temperature, top_p and top_k only; leave it out, "
                "or set use_vllm = True"
            )
