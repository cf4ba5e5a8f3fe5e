"""What a field takes, in our words, for each kind of error that pydantic finds.

>>> need("greater_than_equal", {"ge": 1}, "")
'must be at least 1'
>>> need("literal_error", {"expected": "'sand' or 'clay'"}, "")
"must be 'sand' or 'clay'"
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

WHOLE, NUMBER, CHOICE, TEXT = "must be a whole number", "must be a number", "must be true or false", "must be a text"
LIST, TABLE = "must be a list", "must be a table of names and values"
WORDS = {
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be at most {le}",
    "multiple_of": "must be a multiple of {multiple_of}",
    "finite_number": "must be a finite number",
    "int_from_float": WHOLE,
    "int_parsing": WHOLE,
    "int_parsing_size": WHOLE,
    "int_type": WHOLE,
    "float_parsing": NUMBER,
    "float_type": NUMBER,
    "bool_parsing": CHOICE,
    "bool_type": CHOICE,
    "string_type": TEXT,
    "string_unicode": TEXT,
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "string_pattern_mismatch": "has characters that are not allowed here",
    "literal_error": "must be {expected}",
    "list_type": LIST,
    "tuple_type": LIST,
    "too_short": "must have at least {min_length} entries",
    "too_long": "must have at most {max_length} entries",
    "dict_type": TABLE,
    "model_type": TABLE,
    "model_attributes_type": TABLE,
    "none_required": "must be left out",
}
"""Type of an error of pydantic -> what to say; braces hold names of its context."""


def need(kind: str, context: Mapping[str, Any], message: str) -> str:
    """What the field takes; ``message`` is pydantic's and serves where its kind has no words of ours."""
    if kind in WORDS:
        one = any(context.get(name) == 1 for name in ("min_length", "max_length"))
        whole = {name: int(value) for name, value in context.items() if isinstance(value, float) and value.is_integer()}
        said = WORDS[kind].format(**{**context, **whole})
        return said.replace("characters", "character").replace("entries", "entry") if one else said
    said = message.removeprefix("Value error, ").removeprefix("Input should be ").removeprefix("Input ")
    return f"must be {said}" if message.startswith("Input should be ") else f"{said[0].lower()}{said[1:]}"
