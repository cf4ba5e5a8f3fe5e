r"""Rows of (gold, completion, verdict, source): the table of verdicts that must hold. Add a row where one was false.

The verdict is True for right. The source says where the row, or its verdict, comes from: ``issue`` for reported rows,
``mathematics`` where it can be proved, ``format`` for conventions of the benchmarks' prompts, ``cheat`` for texts that
must earn nothing.
"""

from .verdict_answers import BOXES, MARKS, MORE_SPELLINGS, NUMBERS, THINKING, WHOLE_ANSWER
from .verdict_formulas import ALGEBRA, CHEATS, LISTS, UNITS
from .verdict_row import Row

TABLE: list[Row] = [
    *WHOLE_ANSWER,
    *MORE_SPELLINGS,
    *NUMBERS,
    *MARKS,
    *THINKING,
    *BOXES,
    *LISTS,
    *UNITS,
    *ALGEBRA,
    *CHEATS,
]
