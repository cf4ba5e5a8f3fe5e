"""Tables shown to readers are what the committed records say, and links in the documentation lead somewhere."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("*/README.md")])


def test_tables_are_rendered_from_records():
    done = subprocess.run(
        [sys.executable, "benchmarks/render_results.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    text = page.read_text("utf-8")
    targets = [target.split("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text)]
    broken = [t for t in targets if t and "://" not in t and not (page.parent / t).exists()]
    assert not broken


def test_tables_of_the_first_page_have_at_most_six_columns():
    rows = [line for line in (ROOT / "README.md").read_text("utf-8").splitlines() if line.startswith("|")]
    assert [row for row in rows if len(re.findall(r"(?<!\\)\|", row)) > 7] == []


def test_every_published_arm_without_its_head_is_marked_and_explained():
    """Oracle runs made before ``algorithm.correction`` had its name ran doubly_robust as ipw."""
    folders = [folder for folder in (ROOT / "results").iterdir() if not folder.name.startswith("fair-")]
    studies = [folder for folder in folders if (folder / "oracle-seed0").is_dir()]
    assert len(studies) == 3
    pages = {path: path.read_text("utf-8") for path in (ROOT / "README.md", *ROOT.glob("docs/**/*.md"))}
    blocks = [
        block
        for text in pages.values()
        for name, block in re.findall(r"<!-- ([\w:-]+) -->\n(.*?)<!-- /\1 -->", text, flags=re.S)
        if "| oracle" in block and name.split(":")[0] in {folder.name for folder in studies}
    ]
    assert len(blocks) >= 2 * len(studies)
    for block in blocks:
        assert re.findall(r"^\| oracle(?!\\\*)", block, flags=re.M) == []
        assert r"\* oracle ran without the head's scores, so its doubly_robust correction was ipw." in block
