"""The model that comes with arrol, in a checkout and in a wheel: its name is ``arithmetic-base``.

>>> found_model("Qwen/Qwen3-1.7B-Base")
'Qwen/Qwen3-1.7B-Base'
"""

from __future__ import annotations

from pathlib import Path

SHIPPED = Path(__file__).parents[1] / "shipped"
"""In a checkout links to ``configs`` and ``models``; in an installed wheel the files themselves."""
MODEL_NAME = "arithmetic-base"
"""One million parameters, character level; learnt chained arithmetic."""


def found_model(source: str) -> str:
    """The folder of the shipped model for its name, unless a path has that name; any other source as it is."""
    return str(SHIPPED / MODEL_NAME) if source == MODEL_NAME and not Path(source).exists() else source
