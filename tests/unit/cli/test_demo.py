"""The demo's files are the checkout's own, and a flag of the user wins."""

from pathlib import Path

from arrol.cli.demo import CONFIG, MODEL, demo_flags
from arrol.configs.run import load_compare, planned_runs

ROOT = Path(__file__).parents[3]


def test_what_is_shipped_is_what_the_checkout_has():
    assert CONFIG.read_text() == (ROOT / "configs" / "demo.toml").read_text()
    shipped, own = ({path.name for path in folder.iterdir()} for folder in (MODEL, ROOT / "models" / "arithmetic-base"))
    assert shipped == own


def test_flags_of_the_user_come_last():
    (_, config), *_ = planned_runs(load_compare(CONFIG, demo_flags(["--run.training.steps", "3"])))
    assert config.model == str(MODEL)
    assert config.training.steps == 3
    (_, config), *_ = planned_runs(load_compare(CONFIG, demo_flags(["--run.model", "mine"])))
    assert config.model == "mine"
