"""The names that your own training loop rests on (``examples/02_own_loop.py``), with their signatures.

Rewrite with ``python tests/contract/test_loop_signatures.py`` and look at the difference: a user with such a loop has
to follow it.
"""

import ast
import inspect
import json
from importlib import import_module
from pathlib import Path

ROOT = Path(__file__).parents[2]
FROZEN = Path(__file__).with_name("loop.json")
EXAMPLE = ROOT / "examples" / "02_own_loop.py"


METHODS = (
    "arrol.engines.embedded.engine.EmbeddedEngine.generate",
    "arrol.pruning.controller.PruningController.decisions",
    "arrol.quality.estimator.QualityEstimator.learn",
    "arrol.tasks.arithmetic.ArithmeticTask.train_prompt",
    "arrol.tasks.arithmetic.ArithmeticTask.verify",
    "arrol.training.packing.Microbatch.unflatten",
)


def imported():
    """Dotted names that the example imports from arrol; configs are frozen field by field in ``frozen.json``."""
    nodes = [node for node in ast.walk(ast.parse(EXAMPLE.read_text("utf-8"))) if isinstance(node, ast.ImportFrom)]
    modules = [node for node in nodes if node.module.startswith("arrol") and ".configs." not in node.module]
    return sorted(f"{node.module}.{alias.name}" for node in modules for alias in node.names)


def signature(dotted):
    """Names, kinds and defaults of the parameters; types are mypy's business, which reads the example too."""
    parts = dotted.split(".")
    at = next((n for n, part in enumerate(parts) if not part.islower()), len(parts) - 1)
    value = import_module(".".join(parts[:at]))
    for name in parts[at:]:
        value = getattr(value, name)
    found = inspect.signature(value)
    bare = [p.replace(annotation=p.empty) for p in found.parameters.values()]
    return str(found.replace(parameters=bare, return_annotation=found.empty))


def current():
    return {dotted: signature(dotted) for dotted in (*imported(), *METHODS)}


def test_signatures_are_the_frozen_ones():
    assert current() == json.loads(FROZEN.read_text("utf-8"))


def test_the_page_long_loop_is_there():
    names = {dotted.rsplit(".", 1)[1] for dotted in imported()}
    assert names >= {"policy_loss", "LossInputs", "pack", "group_examples", "batch_denominator", "token_logprobs"}


if __name__ == "__main__":
    FROZEN.write_text(json.dumps(current(), indent=1) + "\n", "utf-8")
