"""One name, one thing: no two public classes of the package share a name."""

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "arrol"
TWINS = {
    "Chain": "numbers joined by operations; each synthetic task has its own",
    "Solver": "a way to write solutions; each synthetic task has its own",
    "Row": "a row of the decoder's batch, a row of a data set",
    "Batch": "a generate call of the embedded engine, a training batch of verl",
}
"""Name -> why it may stand for two things."""


def test_public_classes_have_names_of_their_own():
    places = defaultdict(list)
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.parse(path.read_text("utf-8")).body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                places[node.name].append(path.relative_to(SOURCE).as_posix())
    assert {name: found for name, found in places.items() if len(found) > 1 and name not in TWINS} == {}


def test_what_benchmarks_share_has_no_name_of_a_folder_of_tests():
    """Both folders are on the path when the main suite runs a script, and the first of a name is what is loaded."""
    own = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    trees = [ast.parse(path.read_text("utf-8")) for path in (ROOT / "benchmarks").glob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    folders = {path.name for path in (ROOT / "tests").rglob("*/") if path.is_dir()}
    shared = own & {node.module for node in nodes}
    assert {"measure", "shape"} < shared
    assert shared & folders == set()
