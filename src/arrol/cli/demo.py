"""``arrol demo``: the comparison of ``configs/demo.toml`` with the model that comes with the package, in any folder."""

from __future__ import annotations

from arrol.configs.shipped import MODEL_NAME, SHIPPED

CONFIG, MODEL = SHIPPED / "demo.toml", SHIPPED / MODEL_NAME


def demo_flags(flags: list[str]) -> list[str]:
    """The user's flags, and the shipped model unless they name one; runs go to ``runs/demo`` here."""
    names_model = any(flag.partition("=")[0] == "--run.model" for flag in flags)
    return flags if names_model else ["--run.model", str(MODEL), *flags]
