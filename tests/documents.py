"""Every code block and command of README and docs: found here, and each one classified in ``document_table.py``.

A shell block (fenced as ``bash`` or ``sh``, or indented) is a list of commands; any other fenced block is one unit.
Commands are compared without comments, so a comment may change freely and a flag may not.
"""

from __future__ import annotations

import re
import runpy
import shlex
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "benchmarks/README.md", "models/README.md")
LINKED = ("benchmarks", "configs", "examples", "models", "tests")
"""Folders that a command of the documents may name."""
SUITES = ("main", "trl", "vllm", "verl")
SHELL = ("bash", "sh", "")
FENCE = re.compile(r"^```(\w*)$")
COMMENT = re.compile(r"\s+#\s.*$|^#.*$")


@dataclass(frozen=True)
class Row:
    """Where a unit runs, and how; the fields that apply depend on the unit's language."""

    where: str
    """A suite, or ``nowhere``."""
    run: str = ""
    """Commands: the shortened command, or what is appended when it begins with ``+``."""
    after: tuple[str, ...] = ()
    """Units that have to run before."""
    save: str = ""
    """Data and configs: the path under which the block is saved."""
    swaps: tuple[tuple[str, str], ...] = ()
    """Python: texts replaced before it runs; each must occur."""
    why: str = ""
    """``nowhere``: the reason; a test of the unit's own: its name."""


@dataclass(frozen=True)
class Unit:
    """A command, or a block that is no shell; ``key`` is its name in the table."""

    page: str
    line: int
    language: str
    text: str

    @property
    def key(self) -> str:
        return self.text if self.language in SHELL else f"{self.page}: {self.text.strip().splitlines()[0].strip()}"


def pages() -> list[Path]:
    """README, the pages beside it, and everything under docs."""
    return [ROOT / name for name in PAGES] + sorted((ROOT / "docs").rglob("*.md"))


def units() -> list[Unit]:
    """All units of all pages, in order."""
    return [unit for page in pages() for unit in units_of(page.read_text("utf-8"), page.relative_to(ROOT).as_posix())]


def units_of(text: str, page: str) -> Iterator[Unit]:
    """Units of one page."""
    for line, language, block in blocks_of(text):
        if language not in SHELL:
            yield Unit(page, line, language, block)
        else:
            for command in commands_of(block):
                yield Unit(page, line, language, command)


def blocks_of(text: str) -> Iterator[tuple[int, str, str]]:
    """Line, language and text of every fenced block and of every block that is indented by four columns."""
    lines, at = text.splitlines(), 0
    while at < len(lines):
        fence = FENCE.match(lines[at])
        if fence:
            end = lines.index("```", at + 1)
            yield at + 1, fence[1], "\n".join(lines[at + 1 : end])
            at = end + 1
        elif lines[at].startswith("    ") and (at == 0 or not lines[at - 1].strip()):
            end = at
            while end < len(lines) and (lines[end].startswith("    ") or not lines[end].strip()):
                end += 1
            yield at + 1, "", "\n".join(line[4:] for line in lines[at:end]).rstrip()
            at = end
        else:
            at += 1


def commands_of(block: str) -> list[str]:
    """Commands of a shell block: continued lines joined, comments and a final ``&`` dropped, ``&&`` split."""
    joined = re.sub(r"\s*\\\n\s*", " ", block)
    lines = [COMMENT.sub("", line).strip() for line in joined.splitlines()]
    return [part.removesuffix("&").strip() for line in lines if line for part in line.split(" && ")]


def workplace(folder: Path) -> Path:
    """A folder in which the documents' relative paths work and nothing of the repository is written to."""
    for name in LINKED:
        (folder / name).symlink_to(ROOT / name)
    (folder / "runs").mkdir()
    return folder


@dataclass
class Runner:
    """Runs units in the working directory, each once, those that it comes after first."""

    table: Mapping[str, Row]
    names: Mapping[str, object] = field(default_factory=dict)
    """Names that the Python blocks take for granted, such as ``dataset``."""
    done: set[str] = field(default_factory=set)

    def __call__(self, unit: Unit) -> None:
        if unit.key in self.done:
            return
        row = self.table[unit.key]
        for before in row.after:
            self(next(other for other in units() if other.key == before))
        if row.save:
            Path(row.save).parent.mkdir(parents=True, exist_ok=True)
            Path(row.save).write_text(unit.text + "\n", "utf-8")
        elif unit.language == "python":
            run_python(unit, row.swaps, self.names)
        else:
            run_command(f"{unit.text} {row.run[1:]}" if row.run.startswith("+") else row.run or unit.text)
        self.done.add(unit.key)


def run_python(unit: Unit, swaps: tuple[tuple[str, str], ...], names: Mapping[str, object]) -> None:
    """Execute a block with its swaps; its line numbers are those of the page."""
    text = unit.text
    for old, new in swaps:
        assert old in text, f"{unit.key}: {old!r} is not there any more"
        text = text.replace(old, new)
    exec(compile("\n" * unit.line + text, unit.page, "exec"), {"__name__": "__main__", **names})


def run_command(command: str) -> None:
    """Run a command in this process where it is Python of ours, else in one of its own; fail when it fails."""
    words = shlex.split(command)
    while "=" in words[0]:
        words.pop(0)  # OMP_NUM_THREADS=1 and its like: the suites set them
    program, *arguments = words
    if arguments[:2] == ["-m", "arrol.cli.main"]:
        program, arguments = "arrol", arguments[2:]
    if Path(program).name == "arrol":
        from arrol.cli.main import main

        assert main(arguments) == 0, command
    elif Path(program).name == "python" and arguments[0].endswith(".py"):
        with (
            patch.object(sys, "argv", arguments),
            patch.object(sys, "path", [str(Path(arguments[0]).parent), *sys.path]),
        ):
            runpy.run_path(arguments[0], run_name="__main__")
    else:
        subprocess.run(words, check=True, timeout=200)
