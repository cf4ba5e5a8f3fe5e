"""Entry point ``verl.plugins``: every process that imports verl loads this, so it costs next to nothing.

The agent loop is not registered here, because that would import verl's agent loops (1.7 s) into processes that never
run one; the manager registers it in its own workers. What is done here is to speak up where verl cannot: an importable
TRL of 1.13 or newer breaks verl while it runs, and ``pip check`` finds nothing wrong. verl logs a plug-in that fails
at level DEBUG only, hence ``python -m arrol.integrations.verl --check``.
"""

from __future__ import annotations

import logging
import os

from arrol.integrations.versions import trl_conflict

GROUP, NAME = "verl.plugins", "arrol"


def _warn() -> None:
    """Once per driver: Ray's workers inherit the mark."""
    conflict = None if os.environ.get("ARROL_PLUGIN_WARNED") else trl_conflict()
    if conflict:
        os.environ["ARROL_PLUGIN_WARNED"] = "1"
        logging.getLogger(__name__).warning("arrol: %s", conflict)


_warn()
