"""Every refusal of the source has an entry in docs/troubleshooting.md, and every entry belongs to a refusal."""

import re
from pathlib import Path

from refusals import refusals

PAGE = Path(__file__).parents[2] / "docs" / "troubleshooting.md"


def fragments():
    """What the first column of the tables quotes."""
    cells = [line.split(" | ")[0] for line in PAGE.read_text("utf-8").splitlines() if line.startswith("| `")]
    return [fragment for cell in cells for fragment in re.findall(r"`([^`]+)`", cell)]


def test_every_refusal_has_an_entry():
    known = fragments()
    missing = [f"{r.path}:{r.line}: {r.text}" for r in refusals() if not any(part in r.text for part in known)]
    assert missing == [], "add a stable part of each message to docs/troubleshooting.md, with why and what to do"


def test_every_entry_belongs_to_a_refusal():
    texts = [refusal.text for refusal in refusals()]
    assert [part for part in fragments() if not any(part in text for text in texts)] == []


def test_nothing_says_to_install_arrol_from_an_index():
    """It is in none yet."""
    root = PAGE.parents[1]
    files = [
        root / "README.md",
        *(path for folder in ("src", "docs", "examples") for path in (root / folder).rglob("*")),
    ]
    texts = [path for path in files if path.suffix in (".md", ".py", ".sh")]
    assert [str(path) for path in texts if re.search(r"""\binstall ['"]?arrol""", path.read_text("utf-8"))] == []


def test_there_are_refusals():
    assert len(refusals()) > 250
