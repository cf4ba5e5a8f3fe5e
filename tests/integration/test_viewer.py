"""The viewer in a real headless browser: what it shows, what it does not run, by keyboard, from 400 to 1,400 pixels."""

import asyncio
import json
import threading

import pytest

from arrol.records.store import read_run
from arrol.reports.viewer.server import Library, viewer_server
from browser import Browser, find_browser
from verl_records import LONG, PROMPT, PlayedRun, use_bytes
from viewer_runs import SmallRun, rollout_row, run_row, shadow_row

HOSTILE = [
    "<script>document.title='run'</script>",
    "<img src=x onerror=\"document.title='run'\">",
    "</script><svg onload=\"document.title='run'\">",
    "a\u202egnp.exe\u2066\u200b\u0007",
    "{{7*7}} ${7*7} javascript:alert(1)",
    "\U0001f600 \u05d0\u05d1",
]

pytestmark = pytest.mark.skipif(find_browser() is None, reason="no Chromium found; install one, or set ARROL_CHROMIUM")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    page = Browser(find_browser(), tmp_path_factory.mktemp("profile"))
    yield page
    page.close()


@pytest.fixture
def small(tmp_path):
    run = SmallRun(tmp_path / "small")
    run.records(run_row())
    return run


@pytest.fixture
def address(small):
    with viewer_server(Library([small.folder]), 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}/"
        server.shutdown()


@pytest.fixture
def opened(browser, small, address):
    """Opens the page at an address of its own; a test that leaves an error or a foreign request fails."""

    def open_at(words=""):
        browser.events.clear()
        browser.open(f"{address}#{words}")

    yield open_at
    assert browser.complaints() == []
    assert [url for url in browser.requests() if not url.startswith((address, "about:", "data:"))] == []


def text(browser, selector):
    return browser.run(f"document.querySelector({json.dumps(selector)}).textContent")


def listed(browser):
    """Cells of the rollouts in the list."""
    rows = "[...document.querySelectorAll('#space [role=row]:not(.prompt)')]"
    return browser.run(f"{rows}.map(row => [...row.children].map(cell => cell.textContent))")


def test_a_rollout_shows_why_it_was_stopped(browser, small, opened):
    small.step(1)
    small.end()
    browser.size(1400, 900)
    opened("group=1/0/2")
    assert "step 1 of 2, finished, rule neyman, 6 rollouts" in text(browser, "#status")
    assert text(browser, "#group-title") == "Step 1, prompt 0"
    assert text(browser, "pre.text") == "question 0 a"
    assert text(browser, "article.chosen h3") == "Rollout 2: stopped at 2 tokens"
    wanted = "abProbe at 2: stopped, by the draw; quality 0.50, score 0.25, survival 0.50"
    assert text(browser, "article.chosen .text") == wanted
    first = "article:first-child"
    assert text(browser, f"{first} .facts") == "reward 1.00, advantage 0.50, weight 2.00, answer b"
    assert browser.run(f"[...document.querySelectorAll('{first} .text i')].map(i => i.className)") == ["", "p3", ""]
    row = browser.run("[...document.querySelectorAll('tbody tr')[2].children].map(c => c.textContent)")
    assert row == ["2", "stopped", "2", "stopped", "\u2013", "0.50", "2.00", "0.25", "0.50", "0.50", "draw", "no"]
    assert "1 stopped, 1 right, 1 wrong" in browser.run(
        "document.querySelector('svg.lanes').getAttribute('aria-label')"
    )


def test_a_right_rollout_that_was_stopped_is_found(browser, small, opened):
    small.rollouts(shadow_row())
    small.step(1)
    opened("show=missed")
    (row,) = listed(browser)
    assert row[-1] == "\u2192 right"
    browser.run("document.querySelectorAll('#space [role=row]')[1].click()")
    browser.wait("document.querySelector('article.chosen .shadow')")
    assert text(browser, "article.chosen .shadow") == "bba"
    assert "would be right, 3 more tokens, reward 1.00" in text(browser, "article.chosen")


@pytest.mark.parametrize("hostile", HOSTILE)
def test_no_text_of_a_model_is_run(browser, small, opened, hostile):
    small.step(1, words=(hostile, "b"))
    small.rollouts(
        rollout_row(step=1, group=2, prompt_key=hostile, reason=hostile, finish_reason=hostile, dropped=hostile)
    )
    opened("group=1/0/0")
    assert browser.run("document.title") == "arrol: rollouts"
    assert (
        browser.run(
            "document.querySelectorAll('main script, main img, main iframe, main [onload], main [onerror]').length"
        )
        == 0
    )
    shown = text(browser, "article:first-child .text")
    for character in hostile:
        code = f"U+{ord(character):04X}"
        assert (code if code in ("U+202E", "U+2066", "U+200B", "U+0007") else character) in shown
    assert not set(shown) & set("\u202e\u2066\u200b\u0007")
    browser.run("document.querySelectorAll('#space .prompt')[2].click()")
    browser.wait("document.getElementById('group-title').textContent === 'Step 1, prompt 2'")
    assert browser.run("document.title") == "arrol: rollouts"


def test_filters_sorting_and_search(browser, small, opened):
    small.step(1)
    small.rollouts(
        rollout_row(1, 2, 0, reason="floor", quality=0.1),
        rollout_row(1, 2, 1, reason="deadline", reward=0.0, quality=0.9),
    )
    opened()
    for name, count in {
        "stopped": 1,
        "survived": 7,
        "right": 5,
        "wrong": 2,
        "dead": 3,
        "floor": 1,
        "deadline": 1,
    }.items():
        browser.run(f"document.getElementById('show-{name}').click()")
        assert len(listed(browser)) == count, name
        browser.run(f"document.getElementById('show-{name}').click()")
    opened("sort=quality&descending=1")
    assert [row[4] for row in listed(browser)] == ["0.90"] + ["0.50"] * 6 + ["0.10"]
    opened("text=question%201")
    assert [row[1] for row in listed(browser)] == ["0", "1", "2"]
    assert "searched 1 of 1 steps" in text(browser, "#count")
    opened("step=2")
    assert text(browser, "#count") == "No rollout matches."


def test_the_keyboard_goes_to_a_rollout_and_opens_it(browser, small, opened):
    small.step(1)
    opened()
    browser.run("document.getElementById('list').focus()")
    for key in ("End", "ArrowUp", "Home", "ArrowDown", "ArrowDown", "ArrowDown"):
        browser.press(key)
    assert browser.run("document.getElementById('list').getAttribute('aria-activedescendant')") == "line-3"
    browser.press("Enter", "\r")
    browser.wait("document.querySelector('article.chosen')")
    assert text(browser, "article.chosen h3") == "Rollout 2: stopped at 2 tokens"
    assert browser.run("document.activeElement.id") == "group"
    assert browser.run("location.hash") == "#run=0&group=1%2F0%2F2"


def test_a_screen_reader_finds_names_and_roles(browser, small, opened):
    small.step(1)
    opened("group=1/0/0")
    nodes = browser.call("Accessibility.getFullAXTree")["nodes"]
    named = [(n["role"]["value"], n.get("name", {}).get("value", "")) for n in nodes if not n.get("ignored")]
    roles = [role for role, _ in named]
    for role in (
        "banner",
        "main",
        "search",
        "grid",
        "columnheader",
        "gridcell",
        "table",
        "rowheader",
        "article",
        "status",
    ):
        assert role in roles, role
    controls = ("button", "checkbox", "combobox", "searchbox", "spinbutton", "textbox", "grid")
    assert [pair for pair in named if pair[0] in controls and not pair[1]] == []


def test_a_running_run_is_followed(browser, small, opened):
    small.step(1)
    opened("step=newest")
    assert {row[0] for row in listed(browser)} == {"1"}
    small.step(2)
    small.end()
    browser.wait("document.getElementById('status').textContent.includes('step 2 of 2, finished')")
    assert {row[0] for row in listed(browser)} == {"2"}


def test_a_run_without_texts_shows_its_numbers(browser, small, opened):
    small.rollouts(rollout_row(), rollout_row(index=1, reward=None))
    opened("group=1/0/1")
    assert "were not kept" in text(browser, "#detail")
    assert browser.run("document.querySelectorAll('svg .lane').length") == 2
    assert browser.run("document.querySelectorAll('article').length") == 0


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 860, 1400])
def test_every_width_fits_and_every_text_can_be_read(browser, small, opened, width, dark):
    small.step(1, words=("a" * 500, "b"))
    browser.size(width, 900, dark=dark)
    opened("group=1/0/0")
    assert browser.run("document.documentElement.scrollWidth") <= width
    assert min(browser.run(CONTRASTS)) >= 4.5
    assert browser.run("Math.min(...[...document.querySelectorAll('svg.lanes text')].map((t) => t.getBBox().x))") >= 0


CONTRASTS = """(() => {
  const light = (text) => text.match(/[\\d.]+/g).slice(0, 3).map((part) => part / 255)
    .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
    .reduce((sum, part, k) => sum + part * [0.2126, 0.7152, 0.0722][k], 0);
  const under = (node) => { for (; node; node = node.parentElement) {
    const colour = getComputedStyle(node).backgroundColor;
    if (!/, 0\\)$/.test(colour)) return colour; } return "rgb(255, 255, 255)"; };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT), found = [];
  while (walker.nextNode()) {
    const node = walker.currentNode.parentElement;
    if (!walker.currentNode.textContent.trim() || node.closest("svg, option")) continue;
    const pair = [light(getComputedStyle(node).color), light(under(node))].sort((a, b) => b - a);
    found.push((pair[0] + 0.05) / (pair[1] + 0.05));
  }
  return found;
})()"""


def test_a_run_of_verl_is_opened_as_it_trains(browser, tmp_path, monkeypatch):
    """Written by verl's service; tests/with_verl opens one of verl itself."""
    use_bytes(monkeypatch)

    async def play():
        run = PlayedRun(tmp_path / "checkpoints" / "arrol")
        await run.step(1, reward=lambda group, index: float(index > 1), left_out=[(1, index) for index in range(4)])
        await run.close()

    asyncio.run(play())
    rows = read_run(tmp_path / "checkpoints" / "arrol").rollouts
    stopped = next(row for row in rows if row.finish_reason == "pruned")
    with viewer_server(Library([tmp_path / "checkpoints"]), 0) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        browser.events.clear()
        address = f"http://127.0.0.1:{server.server_address[1]}/"
        browser.open(f"{address}#group={stopped.step}/{stopped.group}/{stopped.index}")
        assert "step 1 of 2, running, rule uniform, 8 rollouts" in text(browser, "#status")
        assert text(browser, "article.chosen h3") == f"Rollout {stopped.index}: stopped at 4 tokens"
        shown = text(browser, "article.chosen .text")
        assert shown.startswith(f"{LONG[:4]}Probe at 4: stopped, by the draw; ")
        assert text(browser, "pre.text") == PROMPT
        other = next(row for row in rows if row.group == 1 and row.finish_reason != "pruned")
        browser.open(f"{address}#group=1/1/{other.index}")
        assert text(browser, "article.chosen .facts").endswith("left out: filtered, answer 2")
        assert browser.complaints() == []
        server.shutdown()
