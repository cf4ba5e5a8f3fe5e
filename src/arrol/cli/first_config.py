"""The first config for a data file and a model: numbers from what both say, and a TOML that explains them.

Nothing is loaded here; :mod:`arrol.cli.init` looks. Memory counts float32: weights, gradient and two moments of AdamW
are 16 bytes a parameter, and the logits of a microbatch are held three times.
"""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arrol.configs.base import validate
from arrol.configs.run import RunConfig

GIB = 2**30
BYTES_PER_PARAMETER = 16
BYTES_PER_LOGIT = 12
LOGITS_SHARE = 0.25
"""Share of the free memory for the logits of a microbatch."""
USUAL_LIMIT, USUAL_MICROBATCH = 512, 2048
GROUP_SIZE, PROMPTS = 8, 16
FEWEST_STEPS, MOST_STEPS, EPOCHS = 20, 200, 4
EARLIEST_PROBE = 4
RATES = ((10**7, 1e-4), (3 * 10**8, 2e-6), (math.inf, 1e-6))
"""Parameters below which a rate is a first guess."""


def draft(source: str, model: str, rewards: Sequence[str], template: str | None = None) -> RunConfig:
    """The config before anything was looked at; ConfigError where the reward functions are not given as import paths.

    Of several functions the first says what is right.
    """
    task: dict[str, Any] = {"name": "dataset", "source": source, "reward": list(rewards)}
    task |= {"template": template} if template else {}
    if len(rewards) > 1:
        task["success_reward"] = rewards[0].rpartition(":")[2]
    return validate(RunConfig, {"model": model, "task": task})


@dataclass(frozen=True)
class Seen:
    """What the data and the model say."""

    source: str
    model: str
    rewards: tuple[str, ...]
    """Import paths of reward functions; empty where a verifier judges."""
    prompt_column: str
    answer_column: str | None
    answer_format: str | None
    num_train: int
    num_eval: int
    template: str
    verifier: str
    """integer or symbolic; empty with rewards."""
    longest_prompt: int
    """Tokens."""
    solution_tokens: tuple[int, ...]
    """Lengths of the worked solutions in the data; empty without any."""
    num_parameters: int
    vocab_size: int
    positions: int | None
    """Longest sequence of the model; None where it names no limit."""
    free_bytes: int


@dataclass(frozen=True)
class FirstNumbers:
    """Lengths and batch sizes."""

    max_completion_tokens: int
    probe: int
    group_size: int
    prompts: int
    steps: int
    microbatch_tokens: int
    learning_rate: float
    needed_bytes: int
    """Bytes of weights, gradient, moments and one microbatch's logits."""


def first_numbers(seen: Seen) -> FirstNumbers:
    """Lengths from the worked solutions where there are some, else a guess; batches that fit the memory."""
    room = math.inf if seen.positions is None else seen.positions - seen.longest_prompt
    lengths = sorted(seen.solution_tokens)
    if lengths:
        wanted = 1.5 * lengths[int(0.95 * (len(lengths) - 1))]
        middle = lengths[len(lengths) // 2]
    else:
        wanted, middle = USUAL_LIMIT, USUAL_LIMIT // 2
    limit = max(2, int(min(max(wanted, 16), room)))
    prompts = max(1, min(PROMPTS, seen.num_train))
    steps = min(max(math.ceil(EPOCHS * seen.num_train / prompts), FEWEST_STEPS), MOST_STEPS)
    sequence = seen.longest_prompt + limit
    affordable = int(LOGITS_SHARE * seen.free_bytes / (seen.vocab_size * BYTES_PER_LOGIT))
    microbatch = max(min(USUAL_MICROBATCH, affordable), sequence)
    needed = BYTES_PER_PARAMETER * seen.num_parameters + BYTES_PER_LOGIT * microbatch * seen.vocab_size
    rate = next(rate for size, rate in RATES if seen.num_parameters < size)
    probe = max(1, min(max(middle // 2, EARLIEST_PROBE), limit - 1))
    return FirstNumbers(limit, probe, GROUP_SIZE, prompts, steps, microbatch, rate, needed)


def open_questions(seen: Seen, numbers: FirstNumbers) -> list[str]:
    """What neither the data nor the model could tell."""
    found = []
    if not seen.solution_tokens:
        found.append(
            f"how long the model's completions are: the data hold no worked solutions, so max_completion_tokens = "
            f"{numbers.max_completion_tokens} and the probe are guesses"
        )
    found.append(f"the learning rate: {numbers.learning_rate:g} is a guess by the size of the model")
    found.append(
        "whether pruning pays: rule auto keeps every rollout until its own estimate says so; arrol lab measures"
    )
    if seen.num_eval == 0:
        found.append("what to evaluate on: no row is set aside, and training needs some; set task.eval_source")
    if numbers.needed_bytes > seen.free_bytes:
        found.append(
            f"how to fit it: training needs {_gib(numbers.needed_bytes)}, {_gib(seen.free_bytes)} are free; take a "
            "smaller model or another machine"
        )
    return found


def as_toml(out: Path, seen: Seen, numbers: FirstNumbers) -> str:
    """The config with a comment on each choice; the run has the name of the file ``out``, without blanks."""
    name, words = re.sub(r"[^A-Za-z0-9._-]", "-", out.stem).lstrip("._-") or "run", shlex.quote(str(out))
    lines = [
        f"# arrol train {words}; every field is explained by: arrol info {words}",
        *_fields(("name", name, ""), ("model", seen.model, f"{seen.num_parameters / 1e6:,.1f} million parameters")),
        "",
        "[task]",
        'name = "dataset"',
        *_fields(("source", seen.source, f"{seen.num_train} rows to train on, {seen.num_eval} set aside")),
        *_task_fields(seen),
        *(["# eval_source = ... needed: no row is set aside"] if not seen.num_eval else []),
        "",
        "[sampling]",
        *_fields(("max_completion_tokens", numbers.max_completion_tokens, _length_note(seen))),
        "",
        "[pruning]",
        *_fields(
            ("rule", "auto", "keeps every rollout until stopping pays by its own estimate"),
            ("probe_tokens", [numbers.probe], "where a rollout may be stopped"),
            ("warmup_steps", numbers.steps // 5, "the head learns, nothing is stopped"),
        ),
        "",
        "[algorithm]",
        *_fields(("name", "dr_grpo", ""), ("correction", "ipw", "survivors count 1/survival; rule auto needs it")),
        "",
        "[training]",
        *_fields(
            ("steps", numbers.steps, ""),
            ("prompts_per_step", numbers.prompts, ""),
            ("group_size", numbers.group_size, "rollouts of each prompt; arrol advise measures the best one"),
            ("microbatch_tokens", numbers.microbatch_tokens, f"training needs {_gib(numbers.needed_bytes)}"),
        ),
        "",
        "[optimizer]",
        *_fields(("learning_rate", numbers.learning_rate, "a guess by the size of the model")),
        "",
        "[evaluation]",
        *_fields(("every", max(1, numbers.steps // 4), ""), ("num_prompts", max(1, min(seen.num_eval, 256)), "")),
    ]
    return "\n".join(lines) + "\n"


def _task_fields(seen: Seen) -> list[str]:
    fields: list[tuple[str, object, str]] = [("prompt_column", seen.prompt_column, "")]
    if seen.rewards:
        fields.append(("reward", list(seen.rewards), "judges in place of a verifier"))
        if len(seen.rewards) > 1:
            fields.append(("success_reward", seen.rewards[0].rpartition(":")[2], "says what is right"))
    else:
        fields += [("answer_column", seen.answer_column, ""), ("answer_format", seen.answer_format, "")]
        note = "every gold answer is an integer" if seen.verifier == "integer" else "reads numbers and formulas"
        fields.append(("verifier", seen.verifier, note))
    fields.append(("template", seen.template, f"prompts have up to {seen.longest_prompt} tokens"))
    return _fields(*fields)


def _length_note(seen: Seen) -> str:
    if not seen.solution_tokens:
        return "a guess: the data hold no worked solutions"
    lengths = sorted(seen.solution_tokens)
    return f"worked solutions have {lengths[len(lengths) // 2]} tokens in the middle, {lengths[-1]} at most"


def _gib(size: int) -> str:
    return f"about {size / GIB:.1f} GiB"


def _fields(*fields: tuple[str, object, str]) -> list[str]:
    """Lines of TOML; JSON's texts, numbers and lists are TOML's."""
    return [f"{name} = {_value(value)}{f'  # {note}' if note else ''}" for name, value, note in fields]


def _value(value: object) -> str:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"[{', '.join(map(_value, value))}]"
    return f"{value:g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
