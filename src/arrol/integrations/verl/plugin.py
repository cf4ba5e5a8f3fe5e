"""Entry point ``verl.plugins``: loaded by every process that imports verl, so it imports next to nothing.

It warns once per driver of a TRL that breaks verl at run time, which ``pip check`` does not find. verl logs a plug-in
that fails to load at level DEBUG only; ``python -m arrol.integrations.verl --check`` reports it. The agent loop is
registered by the manager in its own workers: its import takes 1.7 s.
"""

from __future__ import annotations

import logging
import os

from arrol.integrations.versions import trl_conflict

GROUP, NAME = "verl.plugins", "arrol"


def _warn() -> None:
    """Ray's workers inherit the mark in the environment."""
    conflict = None if os.environ.get("ARROL_PLUGIN_WARNED") else trl_conflict()
    if conflict:
        os.environ["ARROL_PLUGIN_WARNED"] = "1"
        logging.getLogger(__name__).warning("arrol: %s", conflict)


_warn()
