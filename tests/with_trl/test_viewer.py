"""A run of TRL in the viewer, in a real headless browser."""

import json
import threading

import pytest

import trl_host
from arrol.records.store import read_run
from arrol.records.texts import read_texts
from arrol.reports.viewer.server import Library, viewer_server
from browser import Browser, find_browser

pytestmark = pytest.mark.skipif(find_browser() is None, reason="no Chromium found; install one, or set ARROL_CHROMIUM")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    page = Browser(find_browser(), tmp_path_factory.mktemp("profile"))
    yield page
    page.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    trl_host.trainer(trl_host.config(out, max_steps=3)).train()
    return out


@pytest.fixture
def address(folder):
    with viewer_server(Library([folder]), 0) as server:  # what arrol view OUTPUT_DIR serves
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


def text(browser, selector):
    return browser.run(f"document.querySelector({json.dumps(selector)}).textContent")


def test_a_rollout_that_was_stopped_shows_its_text_its_probe_and_its_survival(browser, folder, address):
    row = next(row for row in read_run(folder / "arrol").rollouts if row.finish_reason == "pruned")
    told = json.loads(read_texts(folder / "arrol", row.step))["groups"][row.group]
    tokens = next(each for each in told["rollouts"] if each["index"] == row.index)["tokens"]
    browser.size(1400, 900)
    browser.open(f"{address}#group={row.step}/{row.group}/{row.index}")
    assert f"step 3 of 3, finished, rule neyman, {3 * 16} rollouts" in text(browser, "#status")
    assert text(browser, "pre.text") == told["prompt"]
    assert text(browser, "article.chosen h3") == f"Rollout {row.index}: stopped at 6 tokens"
    shown = text(browser, "article.chosen .text")
    assert shown.startswith("".join(told["tokens"][at] for at in tokens))
    assert f"Probe at 6: stopped, by the draw; quality {row.quality:.2f}" in shown
    assert f"survival {row.survival:.2f}" in shown
    first = "article:not(.chosen) .facts"
    assert "reward" in text(browser, first)
    assert "advantage" in text(browser, first)
    assert browser.complaints() == []


def test_the_list_has_every_rollout_and_its_filters_count(browser, folder, address):
    rows = read_run(folder / "arrol").rollouts
    for name, count in {
        "stopped": sum(row.finish_reason == "pruned" for row in rows),
        "right": sum(row.success == 1 for row in rows),
        "wrong": sum(row.success == 0 for row in rows),
    }.items():
        browser.open(f"{address}#show={name}")
        assert text(browser, "#count").startswith(f"{count} "), name
    assert browser.complaints() == []
