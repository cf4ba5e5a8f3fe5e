"""The report: complete, self-contained, and safe whatever a run is called."""

import base64
import dataclasses
import html
import re
from html.parser import HTMLParser

import pytest

from arrol.errors import DataError
from arrol.records.schema import EndRecord
from arrol.reports.page import report_title, report_warnings, write_report
from arrol.reports.plots import FIGURES, STACKED
from arrol.reports.summary import headline
from arrol.reports.tables import display_rows

HOSTILE = "<script>alert('x')</script>\"&|`$"


class Page(HTMLParser):
    """Tags, sources and text of a page; fails on tags that are not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href", "srcset")]
        if tag not in ("meta", "img", "source"):
            self._open.append(tag)

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def report(comparison, write_run, tmp_path_factory):
    folder = tmp_path_factory.mktemp("compare")
    for run in comparison:
        write_run(run, folder / f"{run.run.arm}-seed{run.run.seed}")
    return write_report([folder], folder / "report")


def test_files(report):
    assert report.markdown.name == "report.md"
    assert report.html.name == "report.html"
    assert [path.stem for path in report.pngs] == list(FIGURES)
    assert all(path.is_file() for path in (report.markdown, report.html, *report.pngs))
    assert not list(report.html.parent.rglob("*.part"))
    assert report.rows[0]["arm"] == "grpo"


def test_all_numbers_are_in_tables_that_fit_a_screen(report):
    fold = report.html.read_text("utf-8").partition("All numbers, and how they were made")[2].partition("</details>")[0]
    heads = [re.findall(r'<th scope="col">([^<]*)', table) for table in fold.split("</table>")[:-1]]
    assert [each[0] for each in heads] == ["arm"] * 3
    assert all(len(each) <= 8 for each in heads)
    assert sorted({head for each in heads for head in each}) == sorted(display_rows(report.rows)[0])


def test_the_page_needs_nothing_else(report):
    page = Page(report.html.read_text("utf-8"))
    drawn = {path.read_bytes() for path in report.pngs[0].parent.iterdir()}
    assert len(page.sources) == len(drawn) == len(report.pngs) + len(STACKED)
    assert all(source.startswith("data:image/png;base64,") for source in page.sources)
    assert {base64.b64decode(source.partition(",")[2]) for source in page.sources} == drawn
    assert "script" not in page.tags
    assert "default-src 'none'" in report.html.read_text("utf-8")


def test_key_numbers_come_first_then_a_sentence_a_picture_the_arms_and_folds(comparison, report):
    text = report.html.read_text("utf-8")
    marks = ['<dl class="tiles">', '<p class="headline">', "<figure>", '<table class="numbers">', "<details>"]
    order = [text.index(mark) for mark in (*marks, '<div class="plots">', '<table class="facts">', "<pre>")]
    assert order == sorted(order)
    first, _, folded = text.partition("<details>")
    assert first.count("<figure>") == 1
    assert folded.count("<figure>") == len(FIGURES) - 1
    assert html.escape(headline(comparison, report.rows)) in first
    assert "tokens generated" not in first
    assert "tokens generated" in folded
    for mark in ("prefers-color-scheme: dark", 'name="viewport"', "0123456789ab", "Some CPU, 2 cores", "numpy 2.0.0"):
        assert mark in text
    assert "arrol compare demo.toml --seeds 0" in text
    assert "&quot;keep_ratio&quot;: 0.5" in text


def test_a_narrow_screen_gets_stacked_plots_and_cells_with_their_headings(report):
    text = report.html.read_text("utf-8")
    assert text.count('<source media="(max-width: 40rem)"') == len(STACKED)
    assert '<td data-head="arm">grpo</td>' in text
    assert "content: attr(data-head)" in text


def test_dark_mode_turns_the_plots_dark(report):
    dark = report.html.read_text("utf-8").partition("prefers-color-scheme: dark")[2].partition("\n}")[0]
    assert "img { filter: invert(1) hue-rotate(180deg); mix-blend-mode: screen; }" in dark
    assert "background: #fff" not in report.html.read_text("utf-8")


def test_markdown_says_the_key_numbers_and_the_sentence(report):
    text = report.markdown.read_text("utf-8")
    order = [text.index(mark) for mark in ("95% interval", "- speed-up: **", "| arm |")]
    assert order == sorted(order)
    assert "- kept: **" in text


def test_markdown_links_its_pictures(report):
    text = report.markdown.read_text("utf-8")
    links = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", text)
    assert [report.markdown.parent / link for link in links] == list(report.pngs)
    assert text.startswith("# arrol: grpo against ")
    assert "| balanced | 3 | 60 |" in text
    assert "```json\n{" in text


def test_our_own_words_are_ascii(report):
    assert report.markdown.read_bytes().isascii()
    assert report.html.read_bytes().isascii()


def hostile(run):
    facts = dataclasses.replace(
        run.run,
        arm=HOSTILE,
        run_id=HOSTILE,
        command=HOSTILE,
        commit=HOSTILE,
        device=HOSTILE,
        started_at=HOSTILE,
        versions={HOSTILE: HOSTILE},
        config={HOSTILE: f"{HOSTILE}\n```\n{HOSTILE}"},
    )
    return dataclasses.replace(run, run=facts, end=EndRecord(step=1, outcome=HOSTILE, message=HOSTILE))


def test_nothing_from_data_becomes_markup(plain_run, write_run, tmp_path):
    run = hostile(plain_run(seconds=(1,), accuracies={0: 0.1, 1: 0.5}))
    report = write_report([write_run(run, tmp_path / "run")], tmp_path / "out")
    text = report.html.read_text("utf-8")
    page = Page(text)
    assert "script" not in page.tags
    assert "<script" not in text
    assert HOSTILE in page.text
    markdown = report.markdown.read_text("utf-8")
    before_config = markdown[: markdown.index("### Config")]
    assert "<script" not in before_config
    assert [line for line in markdown.splitlines() if line.startswith("```")] == ["```json", "```"]


def test_an_empty_run_has_a_report_too(plain_run, write_run, tmp_path):
    report = write_report([write_run(plain_run(finished=False), tmp_path / "run")], tmp_path / "out")
    assert report.pngs == ()
    text = report.markdown.read_text("utf-8")
    assert "| arm | seeds |\n| :-- | --: |\n| grpo | 1 |\n" in text
    assert "has no end: killed, or still running" in text
    Page(report.html.read_text("utf-8"))


def test_a_run_with_a_single_evaluation(plain_run, write_run, tmp_path):
    report = write_report([write_run(plain_run(accuracies={0: 0.25}), tmp_path / "run")], tmp_path / "out", target=0.5)
    assert report.rows[0]["start_accuracy"] == 0.25
    assert [path.stem for path in report.pngs] == ["accuracy"]


def test_a_second_report_replaces_the_first(plain_run, write_run, tmp_path):
    folder = write_run(plain_run(accuracies={1: 0.25}), tmp_path / "run")
    first = write_report([folder], tmp_path / "out").markdown.read_text("utf-8")
    assert write_report([folder], tmp_path / "out").markdown.read_text("utf-8") == first


def test_no_runs_is_a_one_line_error_and_writes_nothing(tmp_path):
    with pytest.raises(DataError, match="no such folder"):
        write_report([tmp_path / "none"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_place_that_cannot_be_written(plain_run, write_run, tmp_path):
    folder = write_run(plain_run(), tmp_path / "run")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match=r"out = .*report\.md': cannot be written"):
        write_report([folder], tmp_path / "file")


class TestWarnings:
    def changed(self, run, **changes):
        return dataclasses.replace(run, run=dataclasses.replace(run.run, **changes))

    def test_clean_comparison_has_none(self, comparison):
        assert report_warnings(comparison) == []

    @pytest.mark.parametrize(
        ("changes", "words"),
        [
            ({"commit": "other"}, "different commits"),
            ({"device": "other"}, "different devices"),
            ({"dirty": True}, "differs from its commit"),
        ],
    )
    def test_what_weakens_numbers_is_said(self, plain_run, changes, words):
        (warning,) = report_warnings([plain_run(), self.changed(plain_run(seed=1), **changes)])
        assert words in warning

    def test_lengths_and_ends(self, plain_run):
        failed = dataclasses.replace(
            plain_run("x", seconds=(1,)), end=EndRecord(step=1, outcome="failed", message="disk full")
        )
        warnings = report_warnings([plain_run(seconds=(1, 1)), failed])
        assert warnings == ["The runs have different lengths (1 to 2 steps).", "x, seed 0: failed disk full."]

    def test_runs_that_learned_nothing_share_the_sentence(self, plain_run):
        idle = {"tokens/trained": (0, 0), "rollout/dead_group_frac": (1, 1)}
        runs = [plain_run(seed=seed, metrics=idle) for seed in (0, 1)]
        first, second = report_warnings(runs)
        assert first == "every run: nothing was learned: no rollout trained in any of 2 steps."
        assert second.startswith("every run: the rollouts of every prompt got equal rewards")
        works = plain_run(seed=2, metrics={**idle, "tokens/trained": (9, 9), "rollout/dead_group_frac": (0, 0)})
        assert report_warnings([*runs, works])[0].startswith("grpo, seed 0; grpo, seed 1: nothing was learned")
        assert report_warnings([works]) == []

    def test_resumed_runs_say_so(self, plain_run, write_run, tmp_path):
        run = self.changed(plain_run(seconds=(1,)), segment=2)
        run = dataclasses.replace(run, end=EndRecord(step=1, segment=2, outcome="finished"))
        report = write_report([write_run(run, tmp_path / "run")], tmp_path / "out")
        assert "finished after step 1, resumed 2 times" in report.markdown.read_text("utf-8")


def test_title_of_one_arm(plain_run):
    assert report_title([plain_run()]) == "arrol: grpo"
