r"""The process in which math-verify runs; started by ``symbolic.py``, never imported by arrol.

One JSON line in, one JSON line out::

    {"gold": "1/2", "found": "\\frac{1}{2}"}   ->   {"right": true}

The first line out is ``{"ready": true}``, or ``{"missing": "..."}`` when math-verify cannot be imported. The parent
kills this process at the time limit; when the parent is gone, an alarm ends it.
"""

import itertools
import json
import logging
import signal
import sys
from functools import lru_cache

MEMORY_BYTES = 2**30
"""Limit of the address space; an expression that needs more is wrong."""
GRACE_S = 1.0
"""Seconds between the parent's time limit and the alarm."""


def limit_memory() -> None:
    """Bound the address space where the system can."""
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    except (ImportError, ValueError, OSError):  # not this system, or a lower limit is set already
        pass


@lru_cache(maxsize=1024)
def parse_gold(gold: str) -> list:
    """The parsed gold answer, cached: a prompt is verified many times."""
    from math_verify import parse

    return parse(f"\\boxed{{{gold}}}", parsing_timeout=None)


def compare(gold: str, found: str, tolerance: float = 0.0) -> dict[str, object]:
    """Is ``found`` the same as ``gold``, or within the tolerance of it?"""
    from math_verify import parse, verify

    golds, parsed = parse_gold(gold), parse(f"\\boxed{{{found}}}", parsing_timeout=None)
    if verify(golds, parsed, timeout_seconds=None):
        return {"right": True}
    return {"right": tolerance > 0 and any(is_within(tolerance, *pair) for pair in itertools.product(golds, parsed))}


def is_within(tolerance: float, gold: object, found: object) -> bool:
    """True for two constants that are no further apart, up to the rounding of a float."""
    from sympy import Expr

    if not isinstance(gold, Expr) or not isinstance(found, Expr) or gold.free_symbols or found.free_symbols:
        return False
    return abs(complex((gold - found).evalf())) <= tolerance * (1 + 1e-9)


def serve(time_limit_s: float) -> None:
    """Answer until standard input ends."""
    for line in sys.stdin:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, time_limit_s + GRACE_S)
        try:
            question = json.loads(line)
            reply = compare(**question)
        except Exception as error:
            # The only broad catch of the project: on hostile text sympy and its parsers raise errors of every kind
            # (RecursionError, MemoryError, TypeError, AttributeError ...). Each means: not the answer.
            reply = {"right": False, "error": type(error).__name__}
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, 0)
        print_line(reply)


def print_line(reply: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(reply) + "\n")
    sys.stdout.flush()


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C belongs to the trainer, which ends its step in order
    limit_memory()
    try:
        import math_verify  # noqa: F401
    except ImportError as error:
        print_line({"missing": str(error)})
        return
    logging.disable(logging.CRITICAL)  # math-verify warns at every text it cannot read
    compare("x+1", "1+x")  # loads grammars, so that the first question costs no more than any other
    print_line({"ready": True})
    serve(float(sys.argv[1]))


if __name__ == "__main__":
    main()
