"""Known vulnerabilities of the locked packages, by pip-audit.

    python tools/vulnerabilities.py [NAME==VERSION] LOCK...

pip-audit asks the package index for the advisories of each package. Where the index does not answer such questions, as
a mirror may not, this says ``not checked`` and exits 0: a network is no fault of a commit. An advisory that is not
argued in ``ACCEPTED`` is exit 1.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, cast

from licences import locked_packages

ACCEPTED: dict[str, str] = {}
"""Identifier of an advisory -> why it does not concern us."""
LIMIT_S = 100
"""Of one call of pip-audit."""
OPTIONS = ("--no-deps", "--disable-pip", "--progress-spinner", "off", "--timeout", "10", "--format", "json")
PIP_AUDIT = (sys.executable, "-m", "pip_audit")

Pin = tuple[str, str]


def main(locks: Sequence[str], command: Sequence[str] = PIP_AUDIT) -> int:
    pins = sorted({pin for lock in locks for pin in _pins(lock)})
    answers, reason = audit(pins[:: max(1, len(pins) // 3)], command)  # a few tell whether the index answers at all
    if len(answers) > len(_unanswered(answers)):
        answers, reason = audit(pins, command)
    unanswered = _unanswered(answers)
    if not answers or len(unanswered) == len(answers):
        print(f"vulnerabilities: not checked, 0 of {len(pins)} packages ({reason or unanswered[0]['skip_reason']})")
        return 0
    found = list(faults(answers))
    for line in found:
        print(line, file=sys.stderr)
    for each in unanswered:
        print(f"{each['name']}: not checked ({each['skip_reason']})")
    print(f"vulnerabilities: {len(answers) - len(unanswered)} of {len(pins)} packages checked, {len(found)} faults")
    return int(bool(found))


def faults(answers: Sequence[dict[str, Any]]) -> list[str]:
    """One line for each advisory without an argument."""
    return [
        f"{each['name']} {each['version']}: {known['id']}; "
        f"mended in {', '.join(known['fix_versions']) or 'no version yet'}; lock that, or argue it in "
        "ACCEPTED of tools/vulnerabilities.py"
        for each in answers
        for known in each.get("vulns", ())
        if not {known["id"], *known.get("aliases", ())} & ACCEPTED.keys()
    ]


def audit(pins: Sequence[Pin], command: Sequence[str]) -> tuple[list[dict[str, Any]], str]:
    """What pip-audit says of each package, and why it says nothing of any; one call per version of a name."""
    found: list[dict[str, Any]] = []
    rest = list(pins)
    while rest:
        part = dict(reversed(rest))
        rest = [pin for pin in rest if pin not in part.items()]
        with tempfile.TemporaryDirectory() as folder:
            lock = Path(folder) / "lock.txt"
            lock.write_text("".join(f"{name}=={version}\n" for name, version in part.items()), "utf-8")
            try:
                done = subprocess.run(
                    [*command, "-r", str(lock), *OPTIONS], capture_output=True, text=True, timeout=LIMIT_S, check=False
                )
            except subprocess.TimeoutExpired:
                return [], f"pip-audit did not end within {LIMIT_S} s"
        try:
            found += json.loads(done.stdout)["dependencies"]
        except (ValueError, KeyError):
            return [], (done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1][:200]
    return found, ""


def _pins(lock: str) -> Iterable[Pin]:
    return [cast(Pin, tuple(lock.split("==")))] if "==" in lock else locked_packages(Path(lock)).items()


def _unanswered(answers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [each for each in answers if "skip_reason" in each]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
