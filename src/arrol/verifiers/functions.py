"""Reward functions by import path, ``my_module:reward``, with the calling convention of TRL.

A function gets keyword arguments, each a list with one entry per completion: ``prompts``, ``completions``,
``completion_ids`` and every column of the row but ``prompt``, ``completion`` and those three names. One that takes no
``**columns`` gets the arguments that it names. It returns, or an async one resolves to, a list with one number or None
each.

Legend: ``N`` completions of a call.
"""

from __future__ import annotations

import difflib
import importlib
import inspect
import math
import sys
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from arrol.errors import ConfigError, DataError

GIVEN = ("prompts", "completions", "completion_ids")
"""Arguments that are no columns of the data."""
UNNAMED = frozenset({"prompt", "completion", *GIVEN})
"""Columns that a function does not get under their name, as in TRL."""
WrittenText = str | list[dict[str, str]]
"""Text, or one message of the assistant where the data hold messages."""
_HERE: dict[str, Callable[..., Any]] = {}
"""Functions of notebooks, see :func:`handed_over`."""
OURS = "__arrol_reward__"
"""Set in the modules that were imported here."""


class Submission(NamedTuple):
    """A completion whose reward is asked for."""

    key: str
    """Key of its row."""
    columns: Mapping[str, Any]
    """Cells of the row; ``prompt`` is the question."""
    completion: WrittenText
    token_ids: tuple[int, ...]

    @property
    def row(self) -> str:
        """Key and beginning of the question, for messages."""
        prompt = self.columns["prompt"]
        text = prompt if isinstance(prompt, str) else str(prompt[-1]["content"])
        return f"{self.key!r} ({_shown(text)})"


class Failure(NamedTuple):
    """Why a function gave a completion no usable value."""

    reason: str
    """In a few words, on one line."""


Value = float | Failure | None
"""What a function gave to one completion."""


@dataclass(frozen=True)
class RewardFunction:
    """A function of the user with its place among several."""

    path: str
    """``module:function``, or the name of a function that was handed over."""
    call: Callable[..., Any]
    weight: float = 1.0
    name: str = "reward"
    """In metrics: letters, digits and underscores."""

    @property
    def field(self) -> str:
        """How messages begin."""
        return f"task.reward = {self.path!r}"

    def require_columns(self, columns: Collection[str] | None) -> None:
        """ConfigError where it cannot be called with these columns; None: they are not known yet."""
        parameters = _parameters(self.call)
        if parameters is None:
            return
        takes_all = any(p.kind is p.VAR_KEYWORD for p in parameters)
        for one in parameters:
            is_needed = one.default is one.empty and one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)
            if is_needed and one.kind is one.POSITIONAL_ONLY:
                raise ConfigError(
                    f"{self.field}: takes {one.name!r} by position only; define it as "
                    f"{self.name}(completions, **columns)"
                )
            known = {*GIVEN, *(name for name in columns or () if name not in UNNAMED)}
            if is_needed and columns is not None and one.name not in known:
                raise ConfigError(
                    f"{self.field}: needs {one.name!r}, which is no column of the data; it gets "
                    f"{', '.join(sorted(known))}"
                )
        if not takes_all and "completions" not in {p.name for p in parameters}:
            raise ConfigError(
                f"{self.field}: takes no 'completions'; define it as {self.name}(completions, **columns), as for TRL"
            )

    def arguments(self, asked_N: Sequence[Submission]) -> dict[str, list[Any]]:
        """The keyword arguments of a call, new lists each."""
        keys = dict.fromkeys(key for one in asked_N for key in one.columns if key not in UNNAMED)
        given: dict[str, list[Any]] = {
            "prompts": [one.columns["prompt"] for one in asked_N],
            "completions": [one.completion for one in asked_N],
            "completion_ids": [list(one.token_ids) for one in asked_N],
            **{key: [one.columns.get(key) for one in asked_N] for key in keys},
        }
        parameters = _parameters(self.call)
        if parameters is None or any(p.kind is p.VAR_KEYWORD for p in parameters):
            return given
        return {p.name: given[p.name] for p in parameters if p.name in given}

    def checked(self, values: Any, count: int) -> list[Value]:
        """One entry per completion of what it returned; DataError unless that is a list of as many."""
        try:
            found = None if isinstance(values, str | bytes | Mapping) else list(values)
        except TypeError:
            found = None
        if found is None:
            raise DataError(
                f"{self.field}: returned {_shown(values)}, no list; return a list with one number or None per "
                "completion"
            )
        if len(found) != count:
            raise DataError(
                f"{self.field}: returned {len(found)} rewards for {count} completions; return one each, None where "
                "there is none"
            )
        return [_number(value) for value in found]


def called(function: RewardFunction, asked_N: Sequence[Submission], run: Callable[[Any], Any]) -> list[Value]:
    """What a function gives to the completions; one whose call raises an error has a Failure.

    ``run`` resolves the awaitable of an async function. A call of several that raises is repeated in halves, so an
    error costs the completions that cause it. What the function prints goes to stderr.
    """
    try:
        with redirect_stdout(sys.stderr):
            values = function.call(**function.arguments(asked_N))
            if inspect.isawaitable(values):
                values = run(values)
    except (Exception, SystemExit) as error:  # the user's code on text of a model: it may raise anything
        if len(asked_N) == 1:
            return [Failure(_told(error))]
        half = len(asked_N) // 2
        return called(function, asked_N[:half], run) + called(function, asked_N[half:], run)
    return function.checked(values, len(asked_N))


def load_functions(
    paths: Sequence[str], weights: Sequence[float] | None = None, folder: str | None = None
) -> list[RewardFunction]:
    """The functions of import paths; modules are looked for in ``folder``, the working directory and what is
    installed. ConfigError where one cannot be imported or called."""
    functions = []
    for path, weight in zip(paths, weights or [1.0] * len(paths), strict=True):
        call = _imported(path, folder)
        name, full = _short(path), "".join(c if c.isalnum() else "_" for c in path)
        is_shared = sum(_short(other) == name for other in paths) > 1
        functions.append(RewardFunction(path, call, weight, full if is_shared else name))
    for function in functions:
        function.require_columns(None)
    return functions


def _short(path: str) -> str:
    """Name of a function without its module; that of a lambda is ``reward``."""
    name = path.rpartition(":")[2].rpartition(".")[2]
    return name if name.isidentifier() else "reward"


@contextmanager
def handed_over(functions: Mapping[str, Callable[..., Any]]) -> Iterator[None]:
    """Functions that no import finds, by the path that stands for them, until the end of the block."""
    _HERE.update(functions)
    try:
        yield
    finally:
        for path in functions:
            _HERE.pop(path, None)


def _imported(path: str, folder: str | None) -> Callable[..., Any]:
    field = f"task.reward = {path!r}"
    if path in _HERE:
        return _HERE[path]
    if path.startswith("__main__:") or "<" in path:
        raise ConfigError(
            f"{field}: is a function of a notebook or script that arrol.train was given; put it into a file of its own"
        )
    module_name, colon, attribute = path.partition(":")
    parts = (*module_name.split("."), *attribute.split("."))
    if not colon or module_name.endswith(".py") or not all(part.isidentifier() for part in parts):
        example = f"{Path(module_name).stem if colon else 'my_rewards'}:{attribute or 'reward'}"
        raise ConfigError(f"{field}: not module:function; write for example {example}")
    module = _module(module_name, field, folder)
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            names = [
                name
                for name, value in getattr(found, "__dict__", {}).items()
                if callable(value) and not name.startswith("_")
            ]
            near = difflib.get_close_matches(part, names, n=3, cutoff=0.0)
            place = getattr(module, "__file__", None) or "built in"
            raise ConfigError(
                f"{field}: {module_name} ({place}) has no {part!r}; it has {', '.join(near) or 'no function'}"
            )
        found = getattr(found, part)
    if inspect.isclass(found) or not callable(found):
        kind = "a class" if inspect.isclass(found) else _shown(found)
        raise ConfigError(f"{field}: is {kind}, no function; name a function, or an object that can be called")
    call: Callable[..., Any] = found
    return call


def _module(name: str, field: str, folder: str | None) -> ModuleType:
    """The module, imported from the folder of the config, the working directory or what is installed."""
    folders = list(dict.fromkeys(str(Path(one).resolve()) for one in (folder or ".", ".")))
    with _first_on_path(folders):
        importlib.invalidate_caches()
        _forget_other(name, folders)
        try:
            with redirect_stdout(sys.stderr):
                module = importlib.import_module(name)
            vars(module).setdefault(OURS, True)
            return module
        except (Exception, SystemExit) as error:  # the module is the user's: its import may raise anything
            missing = error.name if isinstance(error, ModuleNotFoundError) else None
            if missing and (name == missing or name.startswith(f"{missing}.")):
                places = " or ".join(map(repr, folders))
                raise ConfigError(
                    f"{field}: no module {missing!r} in {places}, and none is installed; put {missing}.py beside the "
                    "config, or install it"
                ) from None
            raise ConfigError(f"{field}: importing {name} failed ({_told(error)}); mend it") from error


def _forget_other(name: str, folders: Sequence[str]) -> None:
    """Let a file of these folders be imported although one of the same name was loaded here from another folder."""
    top = name.partition(".")[0]
    known, spec = sys.modules.get(top), PathFinder.find_spec(top, list(folders))
    if known is None or spec is None or OURS not in vars(sys.modules.get(name, known)):
        return
    if spec.origin != getattr(known, "__file__", None):
        for one in [one for one in sys.modules if one == top or one.startswith(f"{top}.")]:
            del sys.modules[one]


@contextmanager
def _first_on_path(folders: Sequence[str]) -> Iterator[None]:
    """Search these folders first; afterwards last, for what a function imports when it is called."""
    sys.path[:0] = folders
    try:
        yield
    finally:
        for one in folders:
            sys.path.remove(one)
        sys.path.extend(one for one in folders if one not in sys.path)


def _parameters(call: Callable[..., Any]) -> list[inspect.Parameter] | None:
    """None where Python cannot tell, as for some built-in functions."""
    try:
        return list(inspect.signature(call).parameters.values())
    except (TypeError, ValueError):
        return None


def _number(value: Any) -> Value:
    if value is None:
        return None
    try:
        number = math.nan if isinstance(value, str | bytes) else float(value)
        is_number = not isinstance(value, str | bytes)
    except (TypeError, ValueError, RuntimeError):  # RuntimeError: a tensor of several numbers
        is_number = False
    if not is_number:
        return Failure(f"returned {_shown(value)}, no number; return a finite number, or None")
    return number if math.isfinite(number) else Failure(f"returned {number}; return a finite number, or None")


def _shown(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _told(error: BaseException) -> str:
    """Type, first line and place of an error, on one line."""
    text = " ".join(str(error).split())[:160]
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename != __file__]
    frames = [frame for frame in frames if "importlib" not in frame.filename]
    place = f", {Path(frames[-1].filename).name} line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{': ' if text else ''}{text}{place}"
