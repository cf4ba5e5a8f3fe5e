"""Every command and code block of README and docs runs, here or in its host's suite, or says why it cannot."""

import re
import tomllib

import pytest

from arrol.cli.main import build_parser
from arrol.configs.base import validate
from arrol.configs.files import kind_of, read_toml
from arrol.configs.run import CompareConfig, RunConfig
from arrol.configs.sft import SftConfig
from arrol.lab.designs import DesignsConfig
from document_table import CI, TABLE
from documents import ROOT, SUITES, commands_of, pages, units, units_of

UNITS = units()
INLINE = re.compile(r"`((?:arrol|make|python|bash) [^`\n]+)`")
"""Commands within a sentence."""


def test_every_unit_is_in_the_table_and_every_row_is_used():
    found = {unit.key for unit in UNITS}
    missing = [f"{unit.page}:{unit.line}: {unit.key}" for unit in UNITS if unit.key not in TABLE]
    assert missing == [], "say in tests/document_table.py where these run"
    assert sorted(TABLE.keys() - found) == [], "rows of no unit"


@pytest.mark.parametrize("key", TABLE)
def test_rows_are_complete(key):
    row = TABLE[key]
    assert row.where in (*SUITES, "test", "nowhere")
    assert bool(row.why) == (row.where in ("test", "nowhere"))
    assert all(other in TABLE for other in row.after)
    if row.where == "test":
        path, word = row.why.split(": ")
        assert word in key
        assert word in (ROOT / path).read_text("utf-8")
    if row.why == CI:
        command = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()[-1].split()
        assert command[0] == "make"
        assert key.removeprefix("make ") in command


@pytest.mark.parametrize(
    "unit", [u for u in UNITS if TABLE.get(u.key) and TABLE[u.key].where == "main"], ids=lambda u: f"{u.page}:{u.line}"
)
def test_it_runs(unit, run):
    run(unit)
    if unit.language == "toml":
        values = tomllib.loads(unit.text)
        if "designs" in values:
            validate(DesignsConfig, values)
            return
        kind = SftConfig if kind_of(values) == "warm start" else RunConfig
        validate(kind, {"name": "here", "model": "model", "task": {"name": "arithmetic"}, **values})


def test_configs_of_the_repository_are_valid():
    for path in (ROOT / "configs").glob("*.toml"):
        assert read_toml(path)


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_commands_within_sentences_exist(page):
    """Their program, their subcommand or target, their flags and their files; words in capitals stand for anything."""
    (subcommands,) = (a for a in build_parser()._actions if hasattr(a, "choices") and a.choices)
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.M)
    for command in INLINE.findall(page.read_text("utf-8")):
        program, first, *words = command.split()
        if program == "make":
            assert first in targets, command
        elif program == "arrol" and first != "grpo":  # TRL parses that one's flags
            known = subcommands.choices[first]._option_string_actions
            flags = [word.split("=")[0] for word in words if word.startswith("--")]
            assert not [f for f in flags if f not in known and not is_field(f)], command
        elif first.endswith((".py", ".sh")):
            assert (ROOT / first).is_file(), command


def is_field(flag):
    """A flag whose first part is a field of a run or of a comparison, such as ``--training.steps``."""
    return flag.removeprefix("--").split(".")[0] in {*RunConfig.model_fields, *CompareConfig.model_fields}


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.relative_to(ROOT).as_posix())
def test_links_between_files_lead_somewhere(page):
    """``make docs`` checks anchors too; this one needs no network and no generator."""
    for target in re.findall(r"\]\((?!https?:|#)([^)#\s]+)", page.read_text("utf-8")):
        assert (page.parent / target).exists(), target


def test_the_collector_finds_what_is_there():
    text = "a\n\n    make x  # why\n    arrol y \\\n        --z 1 && b &\n\n```python\nx = 1\n```\n\n- list\n  more\n"
    found = [(unit.language, unit.key) for unit in units_of(text, "p.md")]
    assert found == [("", "make x"), ("", "arrol y --z 1"), ("", "b"), ("python", "p.md: x = 1")]
    assert commands_of("a '# kept'\n# left out\n") == ["a '# kept'"]
