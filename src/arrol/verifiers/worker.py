r"""The process in which math-verify runs; started by ``symbolic.py``, never imported by arrol.

One JSON line in, one JSON line out::

    {"gold": "1/2", "found": "\\frac{1}{2}", "boxed": true}   ->   {"right": true, "answer": "\\frac{1}{2}"}
    {"value_of": "\\frac{1}{2}"}                             ->   {"value": [0.5, 0.0]}

The first line out is ``{"ready": true}``, or ``{"missing": "..."}`` when math-verify cannot be imported. The parent
kills this process at the time limit; when the parent is gone, an alarm ends it.
"""

import cmath
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


def compare(gold: str, found: str, boxed: bool) -> dict[str, object]:
    """Is ``found`` the same as ``gold``? Unboxed text is searched for its last expression."""
    from math_verify import parse, verify

    parsed = parse(f"\\boxed{{{found}}}" if boxed else found, parsing_timeout=None)
    spelled = parsed[-1] if parsed and isinstance(parsed[-1], str) else None
    return {"right": bool(verify(parse_gold(gold), parsed, timeout_seconds=None)), "answer": spelled}


def value_of(text: str) -> dict[str, object]:
    """Real and imaginary part of an answer that is one number; null for anything else."""
    from math_verify import parse
    from sympy import Expr, N

    parsed = parse(f"\\boxed{{{text}}}", parsing_timeout=None)
    if not parsed or not isinstance(parsed[0], Expr) or parsed[0].free_symbols:
        return {"value": None}
    value = complex(N(parsed[0], 15))
    return {"value": [value.real, value.imag] if cmath.isfinite(value) else None}


def serve(time_limit_s: float) -> None:
    """Answer until standard input ends."""
    for line in sys.stdin:
        if hasattr(signal, "setitimer"):
            signal.setitimer(signal.ITIMER_REAL, time_limit_s + GRACE_S)
        try:
            question = json.loads(line)
            reply = value_of(question["value_of"]) if "value_of" in question else compare(**question)
        except Exception as error:
            # The only broad catch of the project: on hostile text sympy and its parsers raise errors of every kind
            # (RecursionError, MemoryError, TypeError, AttributeError ...). Each means: not the answer.
            reply = {"right": False, "answer": None, "error": type(error).__name__}
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
    compare("x+1", "1+x", boxed=True)  # loads grammars, so that the first question costs no more than any other
    print_line({"ready": True})
    serve(float(sys.argv[1]))


if __name__ == "__main__":
    main()
