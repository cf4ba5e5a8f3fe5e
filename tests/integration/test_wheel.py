"""The built wheel in an empty folder: it carries the demo's config and model, and runs without a checkout."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
QUICKSTART = (ROOT / "docs" / "quickstart.md").read_text("utf-8")
FEW = [
    "--training.steps",
    "1",
    "--training.group_size",
    "4",
    "--sampling.max_completion_tokens",
    "24",
    "--pruning.warmup_steps",
    "0",
]
NEEDED = ("src", "configs", "models", "pyproject.toml", "README.md", "LICENSE")


def call(*words, **options):
    done = subprocess.run([sys.executable, *map(str, words)], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Folder with the wheel's files; links stay links in what it is built from."""
    source, site = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("site")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in NEEDED:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(ROOT / name, source / name)
    pip = ("-m", "pip", "--quiet", "--disable-pip-version-check")
    call(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", site, source)
    (wheel,) = site.glob("*.whl")
    call(*pip, "install", "--no-deps", "--no-index", "--target", site, wheel)
    return site


def test_the_demo_runs_from_the_wheel_in_an_empty_folder(site, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1"}
    place = call("-c", "import arrol; print(arrol.__file__)", env=environment, cwd=tmp_path)
    assert Path(place.strip()).is_relative_to(site)
    small = ["--run.training.steps", "1", "--run.training.prompts_per_step", "2", "--run.evaluation.num_prompts", "2"]
    out = call("-m", "arrol", "demo", *small, env=environment, cwd=tmp_path)
    assert "report: runs/demo/report/report.md" in out
    assert {path.name for path in tmp_path.iterdir()} == {"runs"}
    assert (tmp_path / "runs" / "demo" / "report" / "report.html").is_file()


def test_the_quickstart_works_from_the_wheel_in_an_empty_folder(site, tmp_path):
    blocks = {match[1].split("\n")[0]: match[1] for match in re.finditer(r"```\w+\n(.*?)```", QUICKSTART, re.DOTALL)}
    files = {
        "data/train.jsonl": '{"prompt": "53*3-73+12=", "answer": "98"}',
        "data/test.jsonl": '{"prompt": "12*4-9=", "answer": "39"}',
        "my_rewards.py": "def correct(completions, answer, **columns):",
        "mine.toml": 'name = "mine"',
        "notebook.py": "import arrol",
    }
    (tmp_path / "data").mkdir()
    for name, first in files.items():
        (tmp_path / name).write_text(blocks[first], "utf-8")
    environment = {**os.environ, "PYTHONPATH": str(site), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}

    def arrol(*words):
        return call("-m", "arrol", *words, env=environment, cwd=tmp_path)

    assert "report: runs/mine/report/report.md" in arrol("train", "mine.toml", *FEW)
    assert "mean reward" in arrol("eval", "runs/mine", "--evaluation.samples_per_prompt", "2", "--k", "1")
    assert "Next: arrol eval first.toml" in arrol("init", "data", "--model", "arithmetic-base", "--out", "first.toml")
    assert 'model = "arithmetic-base"' in (tmp_path / "first.toml").read_text("utf-8")
    arrol("train", "first.toml", *FEW, "--pruning.probe_tokens", "8")
    assert "rollout/dead_group_frac" in call("notebook.py", env=environment, cwd=tmp_path)
