"""The process in which reward functions run under a time limit; started by ``function_pool.py``.

Arguments: the folder of the config, then the import paths. One pickled question of the parent in, one JSON line out::

    {"place": 0, "asked": [(key, columns, completion, token_ids)]}   ->   {"values": [1.0]}

A value may be null, or ``{"failure": "ValueError: ..."}``. ``{"malformed": "..."}`` says that the function returned no
list of that length. The first line out is ``{"ready": true}`` or ``{"error": "..."}``. What the functions print goes to
stderr. The parent kills this process at the time limit; when the parent is gone, it ends itself.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import signal
import sys
import threading
import time
from collections.abc import Sequence
from typing import Any, BinaryIO

from arrol.errors import ArrolError
from arrol.verifiers.functions import Failure, RewardFunction, Submission, Value, called, load_functions

LOOK_EVERY_S = 1.0
"""Seconds between two looks whether the parent lives."""


def serve(functions: Sequence[RewardFunction], questions: BinaryIO, replies: BinaryIO) -> None:
    """Answer until the questions end."""
    with asyncio.Runner() as runner:
        while True:
            try:
                question = pickle.load(questions)
            except EOFError:
                return
            asked_N = [Submission(*one) for one in question["asked"]]
            try:
                values = called(functions[question["place"]], asked_N, lambda one: runner.run(_awaited(one)))
                reply: dict[str, Any] = {"values": [_plain(value) for value in values]}
            except ArrolError as error:
                reply = {"malformed": str(error)}
            write(replies, reply)


def write(replies: BinaryIO, reply: dict[str, Any]) -> None:
    """One line."""
    replies.write(json.dumps(reply).encode() + b"\n")
    replies.flush()


def watch(parent: int) -> None:
    """End this process, and the processes that it started, when the parent is gone."""
    while os.getppid() == parent:
        time.sleep(LOOK_EVERY_S)
    os.killpg(0, signal.SIGKILL)


def main(arguments: Sequence[str]) -> None:
    """Import the functions, then serve."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the trainer, which ends its step in order
    threading.Thread(target=watch, args=(os.getppid(),), daemon=True).start()
    questions, replies = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a function that prints, or starts a program that does, writes no reply
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    folder, *paths = arguments
    try:
        functions = load_functions(paths, folder=folder)
    except ArrolError as error:
        write(replies, {"error": str(error)})
        return
    write(replies, {"ready": True})
    serve(functions, questions, replies)


def _plain(value: Value) -> Any:
    return {"failure": value.reason} if isinstance(value, Failure) else value


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


if __name__ == "__main__":
    main(sys.argv[1:])
