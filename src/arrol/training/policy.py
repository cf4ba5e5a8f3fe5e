"""The language model that learns: loading, saving, and log-probabilities of sampled tokens without waste.

Loading runs no code that comes with a model and reads no pickle: see ``model_files.py`` for folders.

Legend: ``R`` rollouts, ``T`` completion positions, ``N`` selected tokens, ``D`` hidden size, ``V`` vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from tokenizers import Tokenizer as CoreTokenizer
from tokenizers import decoders, models, pre_tokenizers
from torch.utils.checkpoint import checkpoint
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from arrol.configs.run import RunConfig
from arrol.configs.sft import SftConfig
from arrol.configs.shipped import found_model
from arrol.engines.embedded.memory import is_shortage
from arrol.engines.embedded.support import logits_of, max_positions, too_long
from arrol.engines.embedded.trial import FAILURES
from arrol.errors import ConfigError, DataError, ModelError
from arrol.hub import cached_only, is_model_name
from arrol.training.lora import adapter_base, loaded_adapters, merged, require_peft, require_targets, with_adapters
from arrol.training.model_files import KERNEL_FIELDS, Shape, hub_kernels, is_adapter_folder, require_model_files
from arrol.training.model_shapes import MEND, lacking, matching_shapes, weights_in_words
from arrol.types import Prompt

LOGIT_CHUNK = 2**24
"""Logits held at a time (tokens times vocabulary), so that a large vocabulary does not fill the memory: with several
chunks, the backward pass computes each one's logits again instead of keeping them all."""
LIBRARY_ERRORS = (*FAILURES, OSError, SafetensorError, StrictDataclassError)
"""What transformers raises on files that it cannot use."""
MOST_SHOWN = 200
"""Characters of a library's message in one of ours."""
logger = logging.getLogger(__name__)


def resolve_device(name: str) -> torch.device:
    """``auto`` is CUDA where there is one; ConfigError for a device this machine lacks."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"device = {name!r}: not a device; use auto, cpu, cuda or cuda:N") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device = {name!r}: no CUDA device here; use auto or cpu")
    return device


def load_tokenizer(source: str) -> Any:
    """The tokenizer of a folder or hub name; it must know how a completion ends.

    A folder of adapters without one has that of their model.
    """
    source = found_model(source)
    if is_adapter_folder(Path(source)) and not (Path(source) / "tokenizer_config.json").is_file():
        source = base_of(source)
    cached = _is_cached_only(source)
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, local_files_only=cached, trust_remote_code=False)
        tokenizer.decode(tokenizer.encode("0 1"))  # fails on settings that are read when they are used
    except Exception as error:
        if type(error) is not Exception and not isinstance(error, LIBRARY_ERRORS):  # tokenizers raises bare ones
            raise
        _require_no_code(source, "tokenizer_config.json", error)
        if (Path(source) / "config.json").is_file():
            load_config(source)  # it is read with the tokenizer; where it is what failed, say that
        remedy = "check the name" if is_model_name(source) else "put one beside the weights"
        raise ModelError(f"model = {source!r}: no tokenizer could be loaded ({_reason(error)}); {remedy}") from None
    if tokenizer.eos_token_id is None:
        raise ModelError(
            f"model = {source!r}: its tokenizer has no eos token, so no completion could end; set eos_token in it"
        )
    return tokenizer


def load_config(source: str) -> Any:
    """The model's config, for adapters that of their model; no weights are read."""
    config = _loaded(AutoConfig.from_pretrained, base_of(source))
    for part in (config, config.get_text_config()):
        for name in KERNEL_FIELDS:
            if kernel := next(hub_kernels({name: getattr(part, f"_{name}", None)}), None):
                raise ModelError(f"model = {source!r}: asks for code to load ({kernel}); give another model")
    return config


def load_policy(source: str, device: torch.device) -> Any:
    """A causal language model in float32, in evaluation mode: reinforcement learning never trains with dropout.

    A folder of LoRA adapters gives the model that they are for, with the adapters merged into it. ModelError also for
    quantised weights, such as four bits of bitsandbytes: no update could change them.
    """
    base = base_of(source)
    if base != source:
        require_peft(f"model = {source!r}")
        return merged(loaded_adapters(load_policy(base, device), Path(source), trains=False, base=base))
    laid_out(source)
    return _loaded_weights(source).to(device)


def laid_out(source: str) -> tuple[Any, dict[str, Shape]]:
    """The config of a model, for adapters that of their model, and name -> shape of its weights; no weights are read.

    ModelError where its weights are quantised, or the config asks for other weights than the files hold.
    """
    source = base_of(source)
    config = load_config(source)
    quantised = getattr(config, "quantization_config", None)
    if quantised is not None:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else "by a method of its own"
        raise ModelError(
            f"model = {source!r}: its weights are quantised ({method}), and training changes weights; give the model "
            "that it was made from"
        )

    def matching(source: str, **_: Any) -> dict[str, Shape]:
        return matching_shapes(Path(source) if Path(source).is_dir() else None, config, f"model = {source!r}")

    shapes: dict[str, Shape] = _loaded(matching, source)
    return config, shapes


def load_trained(config: RunConfig | SftConfig, source: str, device: torch.device, *, base: str) -> tuple[Any, Any]:
    """The model that a run trains, and what its checkpoints save: the same, or with ``[lora]`` the ``PeftModel``.

    ``source``: the run's model, or the policy of a checkpoint. ``base``: the model that adapters are for.
    """
    if config.lora is None:
        model = load_policy(source, device)
        return model, model
    model = load_policy(base, device)
    if is_adapter_folder(Path(source)) and source != base:
        return model, loaded_adapters(model, Path(source), trains=True, base=base)
    return model, with_adapters(model, config.lora, base, config.seed)


def require_lora(config: RunConfig | SftConfig) -> None:
    """One line where peft is not installed, or the model has no layer of a name in ``lora.target_modules``."""
    if config.lora is not None and config.model is not None:
        require_peft(f"lora.r = {config.lora.r}")
        require_targets(load_config(config.model), config.lora)


def base_of(source: str) -> str:
    """The model of a folder of adapters; the source itself where it is one."""
    source = found_model(source)
    folder = Path(source)
    if not is_adapter_folder(folder):
        return source
    require_model_files(folder, f"model = {source!r}")
    return adapter_base(folder)


def _loaded(load: Callable[..., Any], source: str, **options: Any) -> Any:
    """What ``load`` gives for a source that is there; ModelError for whatever the library raises."""
    cached = _is_cached_only(source)
    try:
        return load(source, local_files_only=cached, trust_remote_code=False, **options)
    except LIBRARY_ERRORS as error:
        if is_shortage(error) or isinstance(error, ModelError):
            raise
        _require_no_code(source, "config.json", error)
        raise ModelError(
            f"model = {source!r}: could not be loaded ({_reason(error)}); "
            "give a folder or hub name of a causal language model"
        ) from None


def _require_no_code(source: str, file: str, error: Exception) -> None:
    """ModelError where a library failed because it was not to run the code that ``file`` names."""
    if "trust_remote_code" in str(error):
        raise ModelError(
            f"model = {source!r}: needs code of its own (auto_map in {file}), and arrol runs none that comes with a "
            "model; give a model that transformers knows"
        ) from None


def _loaded_weights(source: str) -> Any:
    """The model in float32; ModelError where the config asks for weights that the files lack."""
    options: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
    # Where peft is installed transformers looks for adapters too, and does not pass local_files_only on.
    options["adapter_kwargs"] = {"local_files_only": _is_cached_only(source)}
    model, info = _loaded(AutoModelForCausalLM.from_pretrained, source, **options)
    if lacks := sorted(info["missing_keys"]):
        raise ModelError(f"model = {source!r}: config.json asks for {lacking(lacks)}; {MEND}")
    if unused := sorted(info["unexpected_keys"]):
        logger.warning(
            "arrol: model = %r: config.json has no place for %s of the files, such as %s; unless you expect that, %s",
            source, weights_in_words(len(unused)), unused[0], MEND,
        )  # fmt: skip
    return model


def stop_token_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Ids that end a completion: the tokenizer's eos and those the model's generation config names."""
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    extra = named if isinstance(named, list) else [named]
    if not all(token_id is None or type(token_id) is int for token_id in extra):
        raise ModelError(
            f"model = {model.name_or_path!r}: generation_config.json has eos_token_id = {str(named)[:60]!r}; write the "
            "id of a token, or a list of ids"
        )
    extra = [token_id for token_id in extra if token_id is not None]
    return tuple(sorted({int(tokenizer.eos_token_id), *map(int, extra)}))


def require_positions(
    config: Any,
    prompts: Iterable[Prompt],
    max_completion_tokens: int,
    *,
    field: str = "sampling.max_completion_tokens",
) -> None:
    """ConfigError where the longest of the prompts and a completion of full length exceed :func:`max_positions`;
    ``field`` names the limit."""
    limit, longest = max_positions(config), max(prompts, key=lambda prompt: len(prompt.token_ids), default=None)
    if limit is None or longest is None:
        return
    length = len(longest.token_ids)
    if length >= limit:
        raise DataError(
            f"prompt: {longest.text[:60]!r} has {length} tokens, and the model has {limit} positions "
            "(max_position_embeddings); leave it out, or take a model with more"
        )
    if length + max_completion_tokens > limit:
        raise too_long(field, max_completion_tokens, length, limit)


def character_tokenizer(alphabet: str) -> PreTrainedTokenizerFast:
    """One token per character, with ``<pad>`` and ``<eos>``; spaces kept as they are."""
    vocabulary = {token: number for number, token in enumerate(["<pad>", "<eos>", "<unk>", *sorted(set(alphabet))])}
    core = CoreTokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    core.decoder = decoders.Fuse()
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        clean_up_tokenization_spaces=False,
    )


def token_logprobs(
    model: Any, ids_RT: torch.Tensor, selected_RT: torch.Tensor, *, temperature: float = 1.0, with_entropy: bool = False
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Log-probabilities ``[N]`` of the selected tokens, and their distributions' entropies ``[N]`` without gradient.

    ``ids_RT`` are right-padded rows of prompt and completion; ``selected_RT`` is true at completion tokens (never in
    column 0). Only the hidden states in front of selected tokens meet the output embedding. Causal attention never
    looks right, so padding needs no mask.
    """
    assert not bool(selected_RT[:, 0].any()), "the first token of a row has nothing in front of it"
    hidden_RTD = model.base_model(input_ids=ids_RT, use_cache=False).last_hidden_state
    hidden_ND = hidden_RTD[:, :-1][selected_RT[:, 1:]]
    target_N = ids_RT[:, 1:][selected_RT[:, 1:]]
    return head_logprobs(model, hidden_ND, target_N, temperature=temperature, with_entropy=with_entropy)


def head_logprobs(
    model: Any, hidden_ND: torch.Tensor, target_N: torch.Tensor, *, temperature: float, with_entropy: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What :func:`token_logprobs` returns, from the hidden states in front of the tokens."""
    chunk = max(1, LOGIT_CHUNK // int(model.config.get_text_config().vocab_size))

    def logprobs_of(hidden: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        logprob_NV = (logits_of(model, hidden).float() / (temperature or 1.0)).log_softmax(-1)
        entropy = -(logprob_NV.detach().exp() * logprob_NV.detach()).sum(-1) if with_entropy else None
        return logprob_NV.gather(1, target[:, None]).squeeze(1), entropy

    parts = list(zip(hidden_ND.split(chunk), target_N.split(chunk), strict=True))
    if len(parts) > 1 and torch.is_grad_enabled():
        results = [checkpoint(logprobs_of, *part, use_reentrant=False) for part in parts]
    else:
        results = [logprobs_of(*part) for part in parts]
    entropies = [entropy for _, entropy in results if entropy is not None]
    return torch.cat([logprob for logprob, _ in results]), torch.cat(entropies) if with_entropy else None


def _is_cached_only(source: str) -> bool:
    """True for a hub name that only the cache holds; ModelError where there is neither a folder nor a name."""
    if is_model_name(source):
        return cached_only("models", source, f"model = {source!r}")
    require_model_files(Path(source), f"model = {source!r}")
    return False


def _reason(error: Exception) -> str:
    """The library's message as one line, cut where it is long."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 3]}..."
