"""The page in a real browser: no error, every block drawn; hover, click, search, unfolding and the keyboard do what they should.

`RINGGRAPH_SCREENSHOTS=FOLDER` keeps a picture of every view.
"""

import os
from pathlib import Path

import pytest
from browser import chromium, open_page, settle
from odd_graphs import GRAPHS
from places import DATA

from runner import Driver
from runner.driver.driver import Setup
from runner.driver.planning import PlanRequest
from runner.driver.view.view import view
from runner.report.tensors import tensors_of

pytestmark = pytest.mark.usefixtures("short_searches")

CASES = {
    "moe": (["moe"], ()),
    "decode": (["decode_fwd"], ()),
    "prefill": (["prefill_fwd"], ()),
    "qwen3": (["qwen3_decode"], ("qwen3-tiny",)),
    "minpeak": (["qwen3_prefill:minpeak"], ("qwen3-tiny",)),
    "arenas": (["moe:minpeak"], ()),
    "recorded": ([str(DATA / "captures" / "layers_1")], ()),
    "recorded_arenas": ([f"{DATA / 'captures' / 'layers_1'}:minpeak"], ()),
    "difference": (["decode_fwd", "decode_fwd:autoscope"], ()),
}


@pytest.fixture(scope="module")
def browser():
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def opened(browser, tmp_path_factory):
    """Opens the page of a case, made once."""
    pages = {}

    def of(case):
        if case not in pages:
            given, config = CASES[case]
            pages[case] = tmp_path_factory.mktemp("pages") / f"{case}.html"
            view(Setup(config), given, PlanRequest(""), pages[case])
        open_page(browser, pages[case])
        return browser

    return of


def tab(browser, name):
    browser.execute_script(f"openTab('{name}')")
    settle(browser)
    if folder := os.environ.get("RINGGRAPH_SCREENSHOTS"):
        browser.save_screenshot(str(Path(folder) / f"{browser.title.replace(' ', '_').replace(',', '')}-{name}.png"))


def details(browser):
    return browser.execute_script("return document.getElementById('details').innerText")


LARGE = ("prefill", "minpeak")


@pytest.mark.parametrize("case", [pytest.param(case, marks=pytest.mark.slow) if case in LARGE else case for case in CASES])
def test_a_page_opens_without_a_complaint_and_draws_every_block(case, opened):
    browser = opened(case)
    for name in browser.execute_script("return page.tabs.map((tab) => tab.id)"):
        tab(browser, name)
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth"), name
    drawn = browser.execute_script("return page.drawn.map((side) => Object.values(side).reduce((a, b) => a + b, 0))")
    given, config = CASES[case]
    parts = [one.partition(":") for one in given]
    schedules = [Driver(config).plan(graph, strategy or "annotated").schedule for graph, _, strategy in parts]
    for shown, schedule in zip(drawn, schedules, strict=True):
        assert shown == sum(item.size_bytes > 0 for item in schedule.submissions)
    inside = browser.execute_script("return page.inside.map((side) => Object.values(side).reduce((a, b) => a + b, 0))")
    for shown, schedule in zip(inside, schedules, strict=True):
        assert shown == sum(len(item.slots) for item in schedule.submissions if len(item.slots) > 1)
    browser.execute_script("openTab('rings'); for (const side of page.sides) showBy(side, true)")
    settle(browser)
    again = browser.execute_script("return page.drawn.map((side) => Object.values(side).reduce((a, b) => a + b, 0))")
    assert again == drawn
    assert browser.execute_script("return page.inside.map((side) => Object.values(side).reduce((a, b) => a + b, 0))") == inside
    assert browser.get_log("browser") == []


@pytest.mark.parametrize("name", GRAPHS)
def test_pages_of_odd_graphs_open_without_a_complaint(name, browser, tmp_path):
    (tmp_path / "odd.yaml").write_text(GRAPHS[name], encoding="utf-8")
    view(Setup(), [str(tmp_path / "odd.yaml")], PlanRequest(""), tmp_path / "odd.html")
    open_page(browser, tmp_path / "odd.html")
    for one in browser.execute_script("return page.tabs.map((tab) => tab.id)"):
        browser.execute_script(f"openTab('{one}')")
        settle(browser)
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth"), one
    if name != "empty":
        browser.execute_script("select(page.sides[0], 'block', 0)")
        assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    assert browser.get_log("browser") == []


def _pointer(browser, kind, ring, submission):
    """A pointer event on the middle of a block, at the place where the page drew it."""
    browser.execute_script(
        """
        const [kind, ring, i] = arguments, side = page.sides[0];
        const rings = [0, 1, 2, 3].filter((one) => side.inRing[one].length);
        const plot = plots[rings.indexOf(ring)], box = plot.canvas.getBoundingClientRect(), height = plot.height - 14;
        const most = Math.max(...side.inRing[ring].map((k) => side.col.offset[k] + side.col.size[k]));
        const capacity = side.capacity[ring] / 1024, top = capacity <= 2 * most ? capacity : most;
        const x = plot.x((i + side.end(i)) / 2), y = height - ((side.col.offset[i] + side.col.size[i] / 2) / top) * height;
        plot.canvas.setPointerCapture = () => {};
        const at = {clientX: box.left + x, clientY: box.top + y, pointerId: 1, bubbles: true};
        const event = (name) => new PointerEvent(name, at);
        if (kind === "hover") plot.canvas.dispatchEvent(event("pointermove"));
        else for (const name of ["pointerdown", "pointerup"]) plot.canvas.dispatchEvent(event(name));
        """,
        kind,
        ring,
        submission,
    )
    settle(browser)


def test_hover_and_click_tell_of_the_block_under_the_pointer(opened):
    browser = opened("moe")
    tab(browser, "rings")
    schedule = Driver().plan("moe", ring_heap="safe").schedule
    item = max((s for s in schedule.submissions if s.task is not None), key=lambda s: s.size_bytes)
    index = schedule.submissions.index(item)
    ring = browser.execute_script("return page.sides[0].ring(arguments[0])", index)
    _pointer(browser, "hover", ring, index)
    tip = browser.execute_script("const box = document.getElementById('tip'); return box.hidden ? '' : box.innerText")
    assert item.name in tip and "pinned by" in tip and "first use" in tip and "KiB" in tip
    _pointer(browser, "click", ring, index)
    assert details(browser).startswith(item.name) and "moe.yaml" in details(browser)


def _on_tensor(browser, kind, t):
    """A pointer event on the middle of a tensor in its block."""
    browser.execute_script(
        """
        const [kind, t] = arguments, side = page.sides[0], i = side.tensorBlock[t], ring = side.ring(i);
        const plot = plots[[0, 1, 2, 3].filter((one) => side.inRing[one].length).indexOf(ring)], box = plot.canvas.getBoundingClientRect();
        const most = largest(side.inRing[ring], (k) => side.col.offset[k] + side.col.size[k]), capacity = side.capacity[ring] / 1024;
        const [x, y, w, h] = boxOf(side, i, t, use(side, t, false), capacity <= 2 * most ? capacity : most, plot);
        plot.canvas.setPointerCapture = () => {};
        const at = {clientX: box.left + x + w / 2, clientY: box.top + y + h / 2, pointerId: 1, bubbles: true};
        for (const name of kind === "hover" ? ["pointermove"] : ["pointerdown", "pointerup"]) plot.canvas.dispatchEvent(new PointerEvent(name, at));
        """,  # noqa: E501
        kind,
        t,
    )
    settle(browser)


def test_an_arena_tells_whose_bytes_they_are_and_who_takes_them(opened):
    browser = opened("arenas")
    tab(browser, "rings")
    schedule = Driver().plan("moe", "minpeak", ring_heap="safe").schedule
    found = tensors_of(schedule)
    titles = [slot.name for item in schedule.submissions for slot in item.slots]
    t = max(range(len(titles)), key=lambda k: int(found.size[k] * (found.last[k] - found.first[k] + 1)))
    _on_tensor(browser, "hover", t)
    tip = browser.execute_script("const box = document.getElementById('tip'); return box.hidden ? '' : box.innerText")
    first, last = (schedule.submissions[at].name for at in (found.first[t], found.last[t]))
    assert tip.startswith(f"{titles[t]}, in the block of arena") and f"first use {first}, last use {last}" in tip
    _on_tensor(browser, "click", t)
    assert details(browser).startswith(titles[t]) and "moe.yaml" in details(browser) and "pinned by" in details(browser)


def test_takers_of_bytes_are_found(opened):
    """Against a search byte by byte (KiB by KiB): who has each KiB next, and who had it last."""
    browser = opened("arenas")
    found = tensors_of(Driver().plan("moe", "minpeak", ring_heap="safe").schedule)
    told = browser.execute_script(
        "const side = page.sides[0], all = range(0, side.tensorBlock.length);"
        "return all.map((t) => [side.neighbours(t, 1), side.neighbours(t, -1)])"
    )
    num = 0
    for t, (after, before) in enumerate(told):
        expected = set(), set()
        for at in range(found.offset[t] // 1024, (found.offset[t] + found.size[t]) // 1024):
            there = [
                s
                for s in range(len(told))
                if found.block[s] == found.block[t] and found.offset[s] <= at * 1024 < found.offset[s] + found.size[s]
            ]
            later = [s for s in there if found.first[s] > found.last[t]]
            earlier = [s for s in there if found.last[s] < found.first[t]]
            expected[0].update([min(later, key=lambda s: found.first[s])] if later else [])
            expected[1].update([max(earlier, key=lambda s: found.last[s])] if earlier else [])
        assert ({*after}, {*before}) == expected
        num += len(after)
    assert num > 50


def test_search_finds_tensors(opened):
    from selenium.webdriver.common.keys import Keys

    browser = opened("arenas")
    box = browser.find_element("id", "search")
    box.send_keys("post_ffn", Keys.ENTER)
    settle(browser)
    assert details(browser).startswith("post_ffn")
    kind, index, x0, x1 = browser.execute_script(
        "return [page.selected.kind, page.sides[0].tensorFirst(page.selected.index), ringGroups[0].x0, ringGroups[0].x1]"
    )
    assert kind == "tensor" and x0 <= index <= x1
    assert browser.get_log("browser") == []


def test_a_click_leads_to_the_line_of_the_graph(opened):
    browser = opened("moe")
    browser.execute_script("select(page.sides[0], 'block', 0)")
    browser.find_element("css selector", "#details .mono").click()
    settle(browser)
    line = browser.execute_script(
        "const here = document.querySelector('pre.source .here'); return [here.dataset.line, here.innerText]"
    )
    mark = Driver().plan("moe").schedule.submissions[0].mark
    assert mark is not None and int(line[0]) == mark.line
    assert line[1].strip() == Path(mark.file).read_text().splitlines()[mark.line - 1].strip()


def test_search_finds_tasks_and_scopes_and_goes_there(opened):
    from selenium.webdriver.common.keys import Keys

    browser = opened("decode")
    browser.find_element("tag name", "body").send_keys("/")
    box = browser.find_element("id", "search")
    assert browser.execute_script("return document.activeElement.id") == "search"
    box.send_keys("layer_3.moe.dispatch", Keys.ENTER)
    settle(browser)
    assert details(browser).startswith("layer_3.moe.dispatch")
    shown = browser.execute_script("return [page.tab, ringGroups[0].x0, ringGroups[0].x1, page.selected.index]")
    assert shown[0] == "rings" and shown[1] <= shown[3] <= shown[2]
    box.clear()
    box.send_keys("no such thing", Keys.ENTER)
    assert "nothing is called so" in browser.find_element("id", "hits").text


def test_layers_unfold_and_boxes_open_by_a_click(opened):
    browser = opened("decode")
    tab(browser, "graph")
    folded = browser.execute_script(
        "return page.sides[0].graph.boxes.filter((box) => box.alike.length > 1).map((box) => box.alike.length)"
    )
    assert folded
    count = "return document.querySelectorAll('.graph .box').length"
    before = browser.execute_script(count)
    badge = next(one for one in browser.find_elements("css selector", ".graph .badge") if one.text == f"x{folded[0]}")
    badge.click()
    assert browser.execute_script(count) == before + folded[0] - 1
    tab(browser, "graph")
    next(one for one in browser.find_elements("css selector", ".graph .badge") if one.text == "+").click()
    assert browser.execute_script(count) > before + folded[0] - 1
    browser.find_elements("css selector", ".graph .box")[0].click()
    assert "tasks" in details(browser)
    assert browser.get_log("browser") == []


def test_scopes_unfold_and_tell_of_themselves(opened):
    browser = opened("decode")
    tab(browser, "scopes")
    rows = "return document.querySelectorAll('#panel-scopes tbody tr').length"
    before = browser.execute_script(rows)
    browser.find_elements("css selector", "#panel-scopes .toggle")[1].click()
    assert browser.execute_script(rows) > before
    browser.find_elements("css selector", "#panel-scopes tbody tr")[1].click()
    assert "own bytes" in details(browser)


def test_the_keyboard_reaches_everything_and_pictures_have_words(opened):
    from selenium.webdriver.common.keys import Keys

    browser = opened("moe")
    browser.find_element("tag name", "body").send_keys("2")
    assert browser.execute_script("return page.tab") == "rings"
    settle(browser)
    canvas = browser.find_element("css selector", "#panel-rings canvas")
    browser.execute_script("arguments[0].focus()", canvas)
    canvas.send_keys("+", Keys.ARROW_RIGHT)
    x0, x1, most = browser.execute_script("const group = ringGroups[0]; return [group.x0, group.x1, group.most]")
    assert 0 < x0 < x1 <= most and x1 - x0 < most
    canvas.send_keys(Keys.HOME)
    assert browser.execute_script("return ringGroups[0].x1 - ringGroups[0].x0") == most
    for name in ("rings", "timeline"):
        tab(browser, name)
        canvases = browser.find_elements("css selector", f"#panel-{name} canvas")
        assert canvases and all(len(one.get_attribute("aria-label")) > 20 for one in canvases)
    buttons = "return [...document.querySelectorAll('button')].every((one) => one.textContent.trim() || one.ariaLabel)"
    assert browser.execute_script(buttons)


def test_light_and_dark_can_be_read(opened):
    browser = opened("moe")
    contrast = """
        const lum = (text) => { const c = text.match(/\\d+/g).slice(0, 3).map((v) => { v /= 255; return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; }); return 0.2126 * c[0] + 0.7152 * c[1] + 0.0722 * c[2]; };
        const ratio = (a, b) => { const [x, y] = [lum(a), lum(b)].sort((p, q) => q - p); return (x + 0.05) / (y + 0.05); };
        const bg = getComputedStyle(document.body).backgroundColor;
        return ["body", "h1", ".verdict", ".tabs button", ".hint"].map((one) => ratio(getComputedStyle(document.querySelector(one)).color, bg));
    """  # noqa: E501
    tab(browser, "rings")
    for _ in range(2):
        assert min(browser.execute_script(contrast)) > 4.5
        browser.find_element("id", "theme").click()
