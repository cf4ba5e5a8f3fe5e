"""Options and config keys are frozen: a change of either is a change of frozen.json in the same commit.

Rewrite it with ``python tests/contract/test_cli_options.py`` and look at the difference.
"""

import json
from pathlib import Path
from typing import get_args

from arrol.cli.main import build_parser
from arrol.configs.base import StrictModel
from arrol.configs.run import CompareConfig, RunConfig
from arrol.configs.sft import SftConfig

FROZEN = Path(__file__).with_name("frozen.json")


def options():
    """Command -> its arguments."""
    (commands,) = (action for action in build_parser()._actions if hasattr(action, "choices") and action.choices)
    return {
        name: sorted("/".join(action.option_strings) or action.dest for action in parser._actions)
        for name, parser in commands.choices.items()
    }


def keys(model, prefix=""):
    """Every dotted key of a config; variants of a union share a prefix, tagged by their name."""
    found = set()
    for name, info in model.model_fields.items():
        nested = models(info.annotation)
        if not nested:
            found.add(prefix + name)
        for node in nested:
            found |= keys(node, f"{prefix}{name}{tag(node) if len(nested) > 1 else ''}.")
    return found


def models(annotation):
    if isinstance(annotation, type) and issubclass(annotation, StrictModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in models(part)]


def tag(node):
    field = node.model_fields.get("rule") or node.model_fields["name"]
    return f"({field.default})"


def current():
    configs = {"run": RunConfig, "compare": CompareConfig, "sft": SftConfig}
    return {"options": options(), **{name: sorted(keys(model)) for name, model in configs.items()}}


def test_options_and_keys_are_the_frozen_ones():
    frozen, now = json.loads(FROZEN.read_text("utf-8")), current()
    assert now["options"] == frozen["options"]
    for name in ("run", "compare", "sft"):
        assert sorted(set(now[name]) ^ set(frozen[name])) == [], name


if __name__ == "__main__":
    FROZEN.write_text(json.dumps(current(), indent=1) + "\n", "utf-8")
