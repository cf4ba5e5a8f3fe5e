"""TRL made small: a random model of two layers, questions it gets right now and then, a trainer that ends in seconds.

Nothing here loads TRL before it is called, so the main suite, which has none, may import it.
"""

import importlib.util
import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")

import torch

from arrol.configs.sft import ModelShape

ALPHABET = "0123456789+= "
CHAT = "{% for m in messages %}{{ m['content'] }}{% endfor %}{% if add_generation_prompt %}{{ '=' }}{% endif %}"
SHAPE = ModelShape(hidden_size=32, intermediate_size=64, num_layers=2, num_heads=4, num_kv_heads=2, max_positions=128)


def has_trl():
    """False for the folder of this name, which is a package without code to Python."""
    spec = importlib.util.find_spec("trl")
    return spec is not None and spec.origin is not None


def has_async():
    """TRL 1.16 and newer: its asynchronous trainer takes a rollout worker."""
    if not has_trl():
        return False
    from importlib.metadata import version

    return tuple(int(part) for part in version("trl").split(".")[:2]) >= (1, 16)


def model_and_tokenizer(seed=0):
    from arrol.training.policy import character_tokenizer
    from arrol.training.sft import new_model

    tokenizer = character_tokenizer(ALPHABET)
    tokenizer.chat_template = CHAT
    return new_model(SHAPE, tokenizer, seed), tokenizer


def dataset(rows=32, chat=True):
    from datasets import Dataset

    prompts = [f"{i % 10}+{(3 * i) % 10}" for i in range(rows)]
    return Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": text}] if chat else text, "answer": str(i % 10)}
            for i, text in enumerate(prompts)
        ]
    )


def text_of(completion):
    return completion if isinstance(completion, str) else completion[0]["content"]


def has_digit(completions, answer, **kwargs):
    """Right when the answer's digit occurs: a random model manages that in about half of its rollouts."""
    return [float(digit in text_of(c)) for c, digit in zip(completions, answer, strict=True)]


def has_digit_on_two_ranks(completions, answer, **kwargs):
    assert torch.distributed.get_world_size() == 2
    return has_digit(completions, answer)


def is_short(completions, **kwargs):
    return [0.1 * (len(text_of(c)) < 20) for c in completions]


def reward_model(folder):
    """A random sequence classifier with its tokenizer; the folder."""
    from transformers import LlamaForSequenceClassification

    policy, tokenizer = model_and_tokenizer(seed=1)
    policy.config.num_labels, policy.config.pad_token_id = 1, tokenizer.pad_token_id
    LlamaForSequenceClassification(policy.config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


SETTINGS = {
    "per_device_train_batch_size": 16,
    "num_generations": 8,
    "max_completion_length": 24,
    "max_steps": 3,
    "logging_steps": 1,
    "learning_rate": 1e-3,
    "report_to": "none",
    "save_strategy": "no",
    "use_cpu": True,
    "bf16": False,
    "disable_tqdm": True,
    "seed": 7,
}
PRUNING = {
    "probe_tokens": [6],
    "keep_ratio": 0.5,
    "pruning_warmup_steps": 1,
    "quality": {"hidden_size": 8, "min_class_records": 4},
}


def config(folder, *, pruning=PRUNING, **changes):
    from arrol.integrations.trl import GRPOConfig

    return GRPOConfig(output_dir=str(folder), **{**SETTINGS, **pruning, **changes})


def trl_config(folder, **changes):
    """TRL's own."""
    from trl import GRPOConfig

    return GRPOConfig(output_dir=str(folder), **{**SETTINGS, **changes})


def trainer(args, cls=None, *, reward_funcs=has_digit, chat=True, evaluate=False, model=None, **more):
    """Of our class, or of the one given."""
    from arrol.integrations.trl import GRPOTrainer

    torch.set_num_threads(1)
    fresh, tokenizer = model_and_tokenizer()
    return (cls or GRPOTrainer)(
        model=model or fresh,
        reward_funcs=reward_funcs,
        args=args,
        train_dataset=dataset(chat=chat),
        eval_dataset=dataset(4, chat=chat) if evaluate else None,
        processing_class=tokenizer,
        **more,
    )


def weights(host):
    return torch.cat([p.detach().flatten() for p in host.model.parameters()])


def history(host, key):
    """Values of a logged metric, in order."""
    return [row[key] for row in host.state.log_history if key in row]
