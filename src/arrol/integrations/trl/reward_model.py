"""A reward model as a reward function: TRL gives a model every row, and it has no None for a stopped one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, PreTrainedModel

from arrol.errors import ConfigError
from arrol.integrations.trl.batch import RewardFunction

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from trl import GRPOConfig


class RewardModel:
    """The first logit of a sequence classifier on prompt plus completion, as TRL computes it; a reward function."""

    def __init__(
        self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, template_options: Mapping[str, object]
    ) -> None:
        self.__name__ = str(model.config.name_or_path).split("/")[-1]
        self._model, self._tokenizer, self._options = model.eval(), tokenizer, dict(template_options)
        if tokenizer.pad_token_id is None:
            tokenizer.pad_token = tokenizer.eos_token
        model.config.get_text_config().pad_token_id = tokenizer.pad_token_id  # the classifier reads the last other one

    def __call__(self, prompts: Sequence[Any], completions: Sequence[Any], **columns: object) -> list[float]:
        """One reward per completion, text or chat messages."""
        from accelerate import PartialState
        from trl import apply_chat_template, is_conversational

        texts = [prompt + completion for prompt, completion in zip(prompts, completions, strict=True)]
        if is_conversational({"prompt": prompts[0]}):
            chats = [{"messages": chat} for chat in texts]
            texts = [apply_chat_template(chat, self._tokenizer, **self._options)["text"] for chat in chats]
        model = self._model.to(PartialState().device)
        inputs = self._tokenizer(
            text=texts, return_tensors="pt", padding=True, padding_side="right", add_special_tokens=False
        ).to(model.device)
        with torch.inference_mode():
            return model(**inputs).logits[:, 0].float().tolist()


def with_reward_models(functions: Sequence[Any], tokenizers: object, args: GRPOConfig) -> list[RewardFunction]:
    """Reward functions as they are; names and classifiers of transformers as :class:`RewardModel`.

    ``tokenizers`` is TRL's ``reward_processing_classes``. ConfigError under DeepSpeed ZeRO-3.
    """
    places = dict(enumerate(tokenizers if isinstance(tokenizers, list) else [tokenizers]))
    return [
        _reward_model(function, places.get(place), args) if isinstance(function, str | PreTrainedModel) else function
        for place, function in enumerate(functions)
    ]


def _reward_model(model: str | PreTrainedModel, tokenizer: PreTrainedTokenizerBase | None, args: GRPOConfig) -> Any:
    from transformers.integrations import is_deepspeed_zero3_enabled

    name = model if isinstance(model, str) else model.config.name_or_path
    if is_deepspeed_zero3_enabled():
        raise ConfigError(
            f"reward_funcs = {name!r}: ZeRO-3 would split the reward model; wrap it in a function, or use ZeRO-2"
        )
    options = {"trust_remote_code": getattr(args, "trust_remote_code", False), **(args.model_init_kwargs or {})}
    revision, classifier = None, model
    if isinstance(model, str):
        revision = options.get("revision")
        options = {key: value for key, value in options.items() if key not in ("device_map", "quantization_config")}
        classifier = AutoModelForSequenceClassification.from_pretrained(model, num_labels=1, **options)
    if tokenizer is None:
        remote = options["trust_remote_code"]
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=remote)
    return RewardModel(cast(PreTrainedModel, classifier), tokenizer, args.chat_template_kwargs or {})
