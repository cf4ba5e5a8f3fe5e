"""Finds a text in the prompts and completions of a run, newest step first, within a time limit."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from arrol.errors import DataError
from arrol.records.texts import read_groups, text_steps

SECONDS = 3.0
HITS = 2000


def search_texts(run: Path, text: str, *, seconds: float = SECONDS) -> dict[str, Any]:
    """Rollouts ``[step, group, index]`` whose prompt or completion has ``text``, in any case of its letters.

    ``steps`` is the number of steps that were read, ``of`` of how many: fewer where time or ``HITS`` ran out.
    """
    wanted, ends = text.casefold(), time.monotonic() + seconds
    hits: list[list[int]] = []
    known = text_steps(run) if wanted else []
    read = 0
    for step in reversed(known):
        if time.monotonic() > ends or len(hits) >= HITS:
            break
        read += 1
        try:
            groups = read_groups(run, step)
        except DataError:  # the page says so where it is opened
            continue
        for group in groups:
            in_prompt = wanted in group.prompt.casefold()
            for rollout in group.rollouts:
                if in_prompt or wanted in "".join(map(group.tokens.__getitem__, rollout.tokens)).casefold():
                    hits.append([step, group.group, rollout.index])
    return {"hits": hits[:HITS], "steps": read, "of": len(known)}
