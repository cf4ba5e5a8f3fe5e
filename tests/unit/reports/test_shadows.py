"""How often a right rollout was stopped, by hand."""

import dataclasses

import pytest

from arrol.records.schema import ShadowRecord
from arrol.reports.page import write_report
from arrol.reports.shadows import shadow_rows
from arrol.stats import wilson_interval


def shadow(index, reward, quality, **changes):
    return ShadowRecord(
        step=1,
        group=0,
        index=index,
        completion_tokens=9,
        finish_reason="stop",
        reward=reward,
        quality=quality,
        **changes,
    )


SHADOWS = (shadow(0, 1.0, 0.1), shadow(1, 0.0, 0.1), shadow(2, 0.0, 0.15), shadow(3, 1.0, 1.0), shadow(4, None, 0.5))


def run_of(plain_run, shadows=SHADOWS):
    return dataclasses.replace(plain_run("neyman", seconds=(1.0, 1.0)), shadows=shadows)


def test_shares_by_quality(plain_run):
    rows = shadow_rows([run_of(plain_run)])
    assert [(row.arm, row.quality, row.finished, row.right) for row in rows] == [
        ("neyman", "all", 4, 2), ("neyman", "0.0 to 0.2", 3, 1), ("neyman", "0.8 to 1.0", 1, 1),
    ]  # fmt: skip
    assert (rows[0].low, rows[0].high) == wilson_interval(2, 4)
    assert rows[1].mean_quality == pytest.approx(0.35 / 3)
    assert rows[1].cells() == ["neyman", "0.0 to 0.2", "3", "0.333", "0.061 to 0.792", "0.12"]


def test_unscored_ones_count_among_all(plain_run):
    (row,) = shadow_rows([run_of(plain_run, (shadow(0, 1.0, float("nan")),))])
    assert (row.quality, row.finished, row.cells()[-1]) == ("all", 1, "-")


def test_success_counts_where_it_is_told(plain_run):
    (row, _) = shadow_rows([run_of(plain_run, (shadow(0, 9.0, 0.5, success=0.0),))])
    assert row.right == 0


def test_without_any_there_is_no_table(plain_run):
    assert shadow_rows([plain_run("neyman")]) == []


def test_the_report_has_the_table(plain_run, tmp_path, monkeypatch):
    monkeypatch.setattr("arrol.reports.page.find_runs", lambda paths: paths)
    monkeypatch.setattr("arrol.reports.page.read_run", lambda path: run_of(plain_run))
    monkeypatch.setattr("arrol.reports.page.draw_plots", lambda runs, folder: [])
    report = write_report(["a"], tmp_path)
    for file in (report.markdown, report.html):
        text = file.read_text("utf-8")
        assert "How often a right rollout was stopped" in text
        assert "0.061 to 0.792" in text
