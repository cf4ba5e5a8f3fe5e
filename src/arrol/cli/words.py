"""Words of a command line: told apart into options and the config's flags, and refused in one line that says what to
write."""

from __future__ import annotations

import argparse
import difflib
import re
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any, NoReturn

from arrol.errors import ConfigError

WITH_FLAGS = ("sft", "train", "compare", "demo", "eval", "grpo", "lab", "info")
"""Commands that take the fields of a config as flags."""


class Parser(argparse.ArgumentParser):
    """Raises ConfigError instead of printing its usage and exiting."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(self._plain(message))

    def _plain(self, message: str) -> str:
        """argparse's message as field, value and what to write."""
        if found := re.match(r"the following arguments are required: (\S+)", message):
            name = found[1].rstrip(",")
            needed = [action for action in self._actions if action.required]
            words = (" ".join([*action.option_strings[-1:], str(action.metavar)]) for action in needed)
            return f"{name}: missing; write {self.prog} {' '.join(words)}"
        found = re.match(r"argument ([^:]+): (.*)", message, re.DOTALL)
        action = self._option_string_actions.get(found[1].split("/")[0]) if found else None
        if found is None or action is None:
            return f"{message}; {self.prog} --help lists what it takes"
        name, problem = found[1], found[2]
        value = next(iter(re.findall(r"'([^']*)'", problem)), "")
        if "ignored explicit argument" in problem:
            return f"{name} = {value!r}: takes no value; write {name} alone"
        if action.choices is not None and "invalid choice" in problem:
            return f"{name} = {value!r}: unknown; choose {' or '.join(map(str, action.choices))}"
        if "invalid int value" in problem:
            return f"{name} = {value!r}: not a whole number; write {name} {action.metavar}"
        return f"{name}: has no value; write {name} {action.metavar}"


class ShowVersion(argparse.Action):
    """Prints the version, which is read when it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> None:
        try:
            version = metadata.version("arrol")
        except metadata.PackageNotFoundError:
            version = "not installed"
        print(f"arrol {version}")
        parser.exit(0)


def commands_of(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    """The parsers of the commands, by name."""
    (found,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return found.choices


def parsed(parser: argparse.ArgumentParser, argv: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
    """Options of the command, and the config's flags; ConfigError for a word that is neither."""
    commands = commands_of(parser)
    if not argv:
        raise ConfigError(f"COMMAND: missing; choose {', '.join(commands)}; arrol --help explains them")
    if argv[0] not in commands and not argv[0].startswith("-"):
        near = difflib.get_close_matches(argv[0], commands, n=1, cutoff=0.5)
        what = f"write arrol {near[0]}" if near else f"choose {', '.join(commands)}"
        raise ConfigError(f"COMMAND = {argv[0]!r}: unknown; {what}")
    words, flags = split_flags(parser, argv)
    options, left = parser.parse_known_args(words)
    if left:
        raise ConfigError(_left_over(commands, options.command, left[0]))
    _require_no_option(commands, options.command, flags)
    return options, flags


def split_flags(parser: argparse.ArgumentParser, argv: Sequence[str]) -> tuple[list[str], list[str]]:
    """Words for the parser, and the config's flags with their values, wherever they stand; an option may be written
    with underscores too."""
    commands = commands_of(parser)
    name = argv[0] if argv else ""
    if name == "grpo":
        return [name], list(argv[1:])
    options = commands[name]._option_string_actions if name in commands else {}
    words, flags, pending = [], [], list(argv)
    while pending:
        word = pending.pop(0)
        key, equals, value = word.partition("=")
        option = key.replace("_", "-")
        if option in options:
            words.append(option + equals + value)
            if not equals and options[option].nargs != 0 and pending:
                words.append(pending.pop(0))
        elif name in WITH_FLAGS and word.startswith("--"):
            flags.append(word)
            if not equals and pending and not pending[0].startswith("--"):
                flags.append(pending.pop(0))
        else:
            words.append(word)
    return words, flags


def _require_no_option(commands: Mapping[str, argparse.ArgumentParser], command: str, flags: Sequence[str]) -> None:
    """ConfigError for a flag that is no field of the config, but an option of other commands."""
    for flag in flags if command != "grpo" else ():
        option = flag.partition("=")[0].replace("_", "-")
        owners = [name for name, each in commands.items() if option in each._option_string_actions]
        near = difflib.get_close_matches(option, commands[command]._option_string_actions, n=1, cutoff=0.8)
        if "." in option or not (owners or near) or _is_field(command, option[2:].replace("-", "_")):
            continue
        remedy = f"write {near[0]}" if near else f"{_have(owners)}; leave it out"
        raise ConfigError(f"{option}: no option of arrol {command}; {remedy}")


def _is_field(command: str, key: str) -> bool:
    from arrol.configs.run import RunConfig
    from arrol.configs.sft import SftConfig
    from arrol.configs.suggestions import ending_in

    return bool(ending_in(SftConfig if command == "sft" else RunConfig, key, {}))


def _left_over(commands: Mapping[str, argparse.ArgumentParser], command: str, word: str) -> str:
    """A word that the command does not take."""
    name, option = f"arrol {command}", word.partition("=")[0].replace("_", "-")
    known = [text for text in commands[command]._option_string_actions if text.startswith("--")]
    if not word.startswith("-"):
        takes = [action.metavar or action.dest for action in commands[command]._positionals._group_actions]
        fields = "; a field of the config is --section.field VALUE" if command in WITH_FLAGS else ""
        return f"{word!r}: not understood; {name} takes {takes[0] if takes else 'options only'}{fields}"
    near = difflib.get_close_matches(option, known, n=1, cutoff=0.75)
    owners = [each for each, parser in commands.items() if option in parser._option_string_actions]
    if near or not owners:
        remedy = f"write {near[0]}" if near else f"it takes {', '.join(known)}"
        return f"{option}: no option of {name}; {remedy}"
    return f"{option}: no option of {name}; {_have(owners)}; leave it out"


def _have(owners: Sequence[str]) -> str:
    names = [f"arrol {name}" for name in owners]
    return f"{names[0]} has it" if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]} have it"
