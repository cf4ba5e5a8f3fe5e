"""The built wheel in an empty folder: it carries the demo's config and model, and runs without a checkout."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
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
