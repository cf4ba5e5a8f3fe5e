"""Do our verdicts agree with the table of Math-Verify's own tests? One record; each difference is printed and kept.

The rows (gold, prediction, verdict) are read from the tests of a checkout of Math-Verify without running them. Rows
with settings of their own (``precision``, ``strict``, ``allow_set_relation_comp``) count too, under our one setting.

    python benchmarks/math_verify_table.py FOLDER_OF_MATH_VERIFY/tests [--out results/bench-math-verify.jsonl]
"""

from __future__ import annotations

import argparse
import ast
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from arrol.records.schema import BenchRecord
from arrol.records.store import RecordWriter, provenance
from arrol.verifiers.extraction import final_answer
from arrol.verifiers.symbolic import SymbolicVerifier

TIME_LIMIT_S = 60.0
VERDICTS = ("expected", "result")


class Row(NamedTuple):
    """A row of a table; ``place`` is file, line and settings."""

    place: str
    gold: str
    prediction: str
    is_right: bool


def rows_of(path: Path) -> Iterator[Row | str]:
    """Rows of the parametrised tests of a file; the place of one that is no literal as text."""
    for function in ast.walk(ast.parse(path.read_text("utf-8"))):
        for call in function.decorator_list if isinstance(function, ast.FunctionDef) else []:
            if not isinstance(call, ast.Call) or len(call.args) < 2 or not isinstance(call.args[1], ast.List):
                continue
            names = [name.strip() for name in ast.literal_eval(call.args[0]).split(",")]
            if not {"gold", "pred"} <= set(names):
                continue
            for element in call.args[1].elts:
                place = f"{path.name}:{element.lineno}"
                try:
                    row = dict(zip(names, ast.literal_eval(element), strict=True))
                except ValueError:
                    yield place
                    continue
                verdict = next(bool(row.pop(name)) for name in VERDICTS if name in row)
                gold, prediction = row.pop("gold"), row.pop("pred")
                yield Row(f"{place} {row or ''}".strip(), gold, prediction, verdict)


def gold_of(text: str) -> str:
    """The gold answer of a row: what a formula alone says, else the answer of the text."""
    alone = text.strip()
    if alone.startswith("$") and alone.endswith("$") and "boxed" not in alone:
        return alone
    return final_answer(text).text or text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tests", type=Path)
    parser.add_argument("--out", type=Path, default=Path("results/bench-math-verify.jsonl"))
    args = parser.parse_args()
    found = [row for path in sorted(args.tests.glob("test_*.py")) for row in rows_of(path)]
    rows = [row for row in found if isinstance(row, Row)]
    verifier = SymbolicVerifier(time_limit_s=TIME_LIMIT_S)
    differences: list[dict[str, Any]] = []
    for row in rows:
        verdict = verifier.verify(row.prediction, gold_of(row.gold))
        if verdict.is_right != row.is_right:
            asked = "right" if row.is_right else "wrong"
            differences.append({"place": row.place, "theirs": asked, "verifier": verdict.verifier})
            print(f"{row.place}: theirs {asked}: {row.gold[-90:]!r} <- {row.prediction[-90:]!r}: {verdict}")
    verifier.close()
    share = 1 - len(differences) / len(rows)
    skipped = [place for place in found if isinstance(place, str)]
    record = BenchRecord(
        benchmark="math-verify-table", variant="rows that agree", unit="frac", median=share, p20=share, p80=share,
        repeats=len(rows), config={"differences": differences, "not_literal": skipped},
    )  # fmt: skip
    args.out.unlink(missing_ok=True)
    with RecordWriter(args.out) as writer:
        writer.write(provenance(sys.argv).run_record(name="math-verify-table", arm="", seed=0, config={}))
        writer.write(record)
    print(f"{len(rows) - len(differences)} of {len(rows)} agree; {len(skipped)} rows are no literals")


if __name__ == "__main__":
    main()
