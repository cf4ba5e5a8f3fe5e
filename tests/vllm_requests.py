"""Requests as vLLM's scheduler gets them, and a book of groups that judges them by the score they were given."""

from arrol.engines.vllm.groups import GroupBook, ProbeScore
from arrol.engines.vllm.request import parse_args, pruning_args
from lottery import GivenQuality

BATCH = {"rule": "neyman", "scope": "batch", "warmup_steps": 0, "batch_groups": 3, "step": 1}


class Clock:
    """Wall time that a test moves."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def asked(group="g", size=4, **changes):
    return parse_args(pruning_args(group=group, size=size, **{"probe_tokens": 8, **changes}))


def book_of(*added, **settings):
    """A book with these (name, request) pairs added."""
    book = GroupBook(lambda pruning: GivenQuality(), **settings)
    for name, pruning in added:
        book.add(name, pruning)
    return book


def four(prefix="", **changes):
    return [(f"{prefix}{letter}", asked(**changes)) for letter in "abcd"]


def wave(prefix, first, **changes):
    """The four requests of a later wave."""
    return [(f"{prefix}{letter}", asked(first=first, index=i, **changes)) for i, letter in enumerate("abcd")]


def scored(names, score=0.5, probe=8):
    return [ProbeScore(name, probe, score) for name in names]


def opened(book):
    """Groups that the controllers hold."""
    return sum(len(owner.controller._groups) for owner in book._owners.values())


def decided(book, names):
    return [name for name in names if book.decision(name) is not None]
