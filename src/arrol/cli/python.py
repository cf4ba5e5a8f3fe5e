"""``arrol.train``: a run from Python, in a script or a notebook, as ``arrol train`` makes it.

Functions that can be imported become import paths in the run's config, so ``arrol eval RUN`` and worker processes find
them. Functions of a notebook, and tasks that are objects, live as long as the call.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arrol.cli.files import require_place, whole
from arrol.cli.names import require_model, require_names, require_reward
from arrol.cli.rows import is_rows, rows_text
from arrol.cli.run_folder import require_run
from arrol.configs.base import validate
from arrol.configs.files import read_config
from arrol.configs.flags import override
from arrol.configs.learning import require_signal
from arrol.configs.run import RunConfig
from arrol.configs.task import with_reward_folder
from arrol.errors import ConfigError
from arrol.records.store import Run, read_run
from arrol.verifiers.functions import handed_over

if TYPE_CHECKING:
    from collections.abc import Iterator

    from arrol.protocols import Task

Reward = Callable[..., Any] | str
TASK_METHODS = ("train_prompt", "eval_prompts", "verify", "submit", "close")


def train(
    config: str | Path | Mapping[str, Any] | RunConfig,
    *,
    task: Any = None,
    reward: Reward | Sequence[Reward] | Mapping[Reward, float] | None = None,
    flags: Sequence[str] = (),
    resume: bool = False,
) -> Run:
    """Train as ``arrol train`` does, and return the run as :func:`arrol.read_run` reads it; ``.frame()`` has its steps.

    ``config``: path of a TOML file, its content as a dict, or a RunConfig. ``task``: rows (a list of dicts, a Dataset,
    a data frame, a dict of several splits), a path, an :class:`arrol.protocols.Task`, or a function of the tokenizer
    that makes one; absent: that of the config. ``reward``: functions as for TRL, their import paths, or a dict with
    weights. ``flags``: as on the command line, such as ``["--training.steps", "5"]``. Wrong input raises an ArrolError
    before anything slow.
    """
    with ExitStack() as cleanup:
        values, made = _values(config), _is_task(task)
        if made:
            values["task"] = {"name": "python", "object": _name_of(task)}
            if reward is not None:
                raise ConfigError(f"reward: the task {_name_of(task)} judges itself; leave one of them out")
        elif task is not None:
            values["task"] = {**_dataset(values), "source": "."}
        local = [] if reward is None else cleanup.enter_context(_with_rewards(values, reward))
        settled = validate(RunConfig, override(RunConfig, values, flags))
        limit = getattr(settled.task, "reward_time_limit_s", None)
        if local and limit is not None:
            raise ConfigError(
                f"task.reward_time_limit_s = {limit:g}: worker processes import functions, and {local[0]} is in no "
                "module; put it into a file, or leave the limit out"
            )
        require_signal(settled)
        folder = Path(settled.out_dir) / settled.name
        require_place("out_dir", folder)
        if resume:
            require_run([folder])
        if task is not None and not made:
            source = str(task) if isinstance(task, str | Path) else cleanup.enter_context(_written(task, folder))
            settled = settled.model_copy(update={"task": settled.task.model_copy(update={"source": source})})
        require_model(settled)
        if not made:
            require_names(settled)
            require_reward(settled.task)
        return _run(settled, task if made else None, resume=resume)


def _run(config: RunConfig, task: Any, *, resume: bool) -> Run:
    from transformers.utils import logging

    from arrol.cli.output import run_console
    from arrol.cli.report import report_after
    from arrol.cli.train import run_folder, say_findings, train_one
    from arrol.training.policy import load_tokenizer

    logging.disable_progress_bar()
    console, folder = run_console(as_json=False), run_folder(config)
    made: Task | None = None
    if task is not None:
        is_object = hasattr(task, "train_prompt") and not isinstance(task, type)
        made = _whole_task(task if is_object else task(load_tokenizer(config.model)))
    end = train_one(config, arm=config.name, resume=resume, console=console, task=made).end
    say_findings(console, config)
    report_after([folder], folder, console)
    console.print(f"{end.outcome} at step {end.step}; records, rollouts and checkpoints: {folder}", soft_wrap=True)
    return read_run(folder)


def _values(config: str | Path | Mapping[str, Any] | RunConfig) -> dict[str, Any]:
    """Raw values of a config."""
    if isinstance(config, RunConfig):
        return config.model_dump()
    if isinstance(config, str | Path):
        return with_reward_folder(read_config(config, "run"), config)
    if isinstance(config, Mapping):
        return dict(config)
    raise ConfigError(f"config = {type(config).__name__}: give the path of a TOML file, a dict, or a RunConfig")


def _dataset(values: Mapping[str, Any]) -> dict[str, Any]:
    """The config's task where it is a data set, whose rows are given now."""
    task = values.get("task")
    is_other = not isinstance(task, Mapping) or task.get("name", "dataset") != "dataset"
    return {"name": "dataset"} if is_other else {**dict(task or {}), "name": "dataset"}


@contextmanager
def _written(rows: Any, folder: Path) -> Iterator[str]:
    """Path of the rows as a file beside the run's folder, named for its content; a failed start leaves none."""
    name, files = rows_text(rows)
    path = folder.parent / name
    is_new = not path.exists()
    if is_new:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as partial:
            if len(files) > 1 or path.suffix == "":
                partial.mkdir()
            for split, text in files.items():
                (partial if path.suffix else partial / f"{split}.jsonl").write_text(text, "utf-8")
    try:
        yield str(path)
    except BaseException:
        if is_new and not folder.exists():
            for file in [path] if path.is_file() else list(path.iterdir()):
                file.unlink()
            with suppress(OSError):
                path.rmdir()
            with suppress(OSError):
                path.parent.rmdir()
        raise


@contextmanager
def _with_rewards(values: dict[str, Any], reward: Any) -> Iterator[list[str]]:
    """Put the functions into the config's task, by import path where that leads to them; yields the others' names."""
    task = _dataset(values)
    values["task"] = task
    weights = dict(reward) if isinstance(reward, Mapping) else dict.fromkeys(_listed(reward), 1.0)
    here: dict[str, Callable[..., Any]] = {}
    entries = []
    for function, weight in weights.items():
        path = function if isinstance(function, str) else _name_of(function)
        if not isinstance(function, str) and not _is_importable(path, function):
            if not callable(function):
                raise ConfigError(f"reward = {function!r}: no function; give one that takes completions")
            here[path] = function
        entries.append({"function": path, "weight": weight})
    task["reward"] = entries
    with handed_over(here):
        yield list(here)


def _listed(reward: Any) -> list[Any]:
    return list(reward) if isinstance(reward, list | tuple) else [reward]


def _name_of(value: Any) -> str:
    """``module:name`` of a function or of an object's class."""
    named = value if hasattr(value, "__qualname__") else type(value)
    return f"{named.__module__}:{named.__qualname__}"


def _is_importable(path: str, function: Any) -> bool:
    module, _, name = path.partition(":")
    if module == "__main__" or "<" in name or module not in sys.modules:
        return False
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part, None)
    return found is function


def _is_task(task: Any) -> bool:
    """An object or a function that makes one, not rows and no path."""
    if task is None or isinstance(task, str | Path) or is_rows(task):
        return False
    if hasattr(task, "train_prompt") or callable(task):
        return True
    raise ConfigError(
        f"task = {type(task).__name__}: give rows, a path, an object with train_prompt, eval_prompts and verify, or a "
        "function of the tokenizer that makes one"
    )


def _whole_task(task: Any) -> Task:
    """The task; verdicts at once and nothing to close where it does not say otherwise."""
    missing = [name for name in TASK_METHODS[:3] if not callable(getattr(task, name, None))]
    if missing:
        raise ConfigError(f"task = {type(task).__name__}: has no {missing[0]}; see arrol.protocols.Task")
    return task if all(hasattr(task, name) for name in TASK_METHODS) else _Judged(task)


class _Judged:
    """A task without ``submit`` or ``close``; an :class:`arrol.protocols.Task`."""

    def __init__(self, task: Any) -> None:
        self._task = task
        self.name = str(getattr(task, "name", type(task).__name__))
        self.train_prompt, self.eval_prompts, self.verify = task.train_prompt, task.eval_prompts, task.verify

    def submit(self, prompt: Any, completion_text: str, token_ids: Sequence[int] = ()) -> Callable[[], Any]:
        return lambda: self.verify(prompt, completion_text)

    def close(self) -> None:
        close = getattr(self._task, "close", None)
        if close is not None:
            close()
