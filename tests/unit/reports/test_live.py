"""The page of a run that trains."""

import re

from arrol.records.live import History
from arrol.reports.live import Progress, live_page


def page_of(values, *, is_over=False, name="mine", warnings=(), left="12 min"):
    history = History()
    for step, value in enumerate(values, start=1):
        history.add(step, {"rollout/success_frac_before": value, "time/step_s": 2.0})
    progress = Progress(history.step, 40, left, is_over, "2026-01-02 03:04:05 UTC")
    return live_page(name, history.curves(), warnings, progress, 5)


def test_a_page_says_where_the_run_stands_and_renews_itself():
    page = page_of([0.1, 0.4, 0.2])
    assert '<meta http-equiv="refresh" content="5">' in page
    assert "Step 3 of 40, 12 min left." in page
    assert "Renewed every 5 s; last change 2026-01-02 03:04:05 UTC." in page
    assert "share right <b>0.200</b>" in page
    assert "time per step <b>2.000 s</b>" in page
    assert ">step 1</span><span>step 3</span>" in page


def test_points_lie_inside_their_box_and_higher_values_higher():
    page = page_of([0.1, 0.4, 0.2])
    points = re.search(r'<polyline points="([^"]+)"', page)[1].split()
    places = [tuple(map(float, point.split(","))) for point in points]
    assert [x for x, _ in places] == [6, 160, 314]
    assert [y for _, y in places] == [104, 6, 71.3]


def test_a_page_of_an_ended_run_stays_as_it_is_and_leads_to_the_report():
    page = page_of([0.1], is_over=True)
    assert "http-equiv" + '="refresh"' not in page
    assert "Step 1 of 40." in page
    assert '<a href="report.html">The report</a>' in page


def test_before_the_first_step_there_is_a_page_without_curves():
    page = page_of([], left="")
    assert "Step 0 of 40." in page
    assert "<svg" not in page


def test_names_and_warnings_are_text():
    page = page_of([0.1], name="<script>x", warnings=["Step 5: <b>no</b>."])
    assert "<script" not in page
    assert "Step 5: &lt;b&gt;no&lt;/b&gt;." in page


def test_nothing_is_loaded_from_elsewhere():
    assert re.findall(r"https?://", page_of([0.1, 0.2])) == []
    assert "default-src 'none'" in page_of([0.1])


def test_a_curve_of_one_value_names_value_and_step_once():
    page = page_of([0.25])
    assert page.count("<span>0.250</span>") == 1
    assert page.count("<span>step 1</span>") == 2, "of two curves"
