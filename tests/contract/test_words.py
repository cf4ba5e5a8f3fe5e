"""Words that make a reader stop: CONTRIBUTING asks for subject, verb, object and the field's terms."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("src", "docs", "tests", "examples", "benchmarks", "configs", "models", "tools")
SUFFIXES = (".py", ".md", ".toml", ".yaml", ".sh")
NOT_OURS = ("Please reason step by step, and put your final answer within",)
"""Text that others published."""
WORDS = re.compile(
    r"(?<![a-z])(please|nobody|somebody|anybody|everybody|whoever|besides|those[ _]who|whom|one'?s[ _]own)(?![a-z])",
    re.I,
)


def lines():
    """(place, text) of every line that we wrote, but this file's."""
    paths = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*")) if path.suffix in SUFFIXES]
    for path in [*sorted(ROOT.glob("*.md")), *paths]:
        if path != Path(__file__):
            for number, text in enumerate(path.read_text("utf-8").splitlines(), 1):
                yield f"{path.relative_to(ROOT)}:{number}", text


def test_plain_words():
    found = [f"{place}: {text.strip()}" for place, text in lines() if WORDS.search(text)]
    assert [line for line in found if not any(text in line for text in NOT_OURS)] == []


def test_the_pattern_finds_them_inside_names_too():
    for text in ("Nobody waits.", "a_rule_of_ones_own", "those who wait", "test_whoever_trains", "to whom"):
        assert WORDS.search(text), text
    for text in ("this one's gradient", "nobodyhome", "those rows"):
        assert not WORDS.search(text), text
