"""The page of steps in headless Chromium, by keys alone: each line of each technique, two widths,
light and dark; no error, no request, nothing wider than the screen. Skipped without Chromium.
"""

import os
import shutil
from types import SimpleNamespace

import pytest
from battery import shake
from browser import Browser

import minilora as ml

NAMES = "chromium", "chromium-browser", "google-chrome", "chrome"
CHROMIUM = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="no Chromium: apt-get install chromium")

MODEL = ml.load_model("base")
BATCH = ml.batches([("Dwalk>", ("walked",))], MODEL.tokenizer, 1)[0]
AT = "document.body.dataset.at"
WIDER = "document.documentElement.scrollWidth - document.documentElement.clientWidth"


def traced(method, step=0, **how):
    """A step of a technique; of step 0 the first one, else one where nothing is 0."""
    ranks = {} if method == "full" else {"rank": 16 if method == "vera" else 4}
    tuned = ml.attach(MODEL, method, **ranks, **how)
    return ml.trace(shake(tuned, step) if step else tuned, *BATCH)


@pytest.fixture(scope="module")
def browser():
    with Browser(CHROMIUM) as it:
        yield it


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    traces = [traced("lora"), traced("vera")]
    path = ml.trace_page(tmp_path_factory.mktemp("page") / "two.html", traces)
    return SimpleNamespace(path=path, traces=traces)


def text(browser, where):
    return browser.run(f"document.querySelector('{where}').textContent")


def test_it_opens_on_the_first_moment(browser, two):
    """… and the buttons, the picture in words and its numbers say what is drawn."""
    browser.size(1280, 900)
    browser.open(two.path)
    moment, event, line = two.traces[0].moments()[0]
    assert browser.run(AT).startswith(f"0.{event}.")
    assert text(browser, "#lesson") == moment.says
    assert text(browser, "#moments [aria-pressed=true]") == moment.name
    ran, names, code = two.traces[0].at(event, line)
    made = code.split(" =")[0]
    label = browser.run("document.querySelector('#equation figure').ariaLabel")
    assert label.startswith(f"{made}, {' × '.join(map(str, names[made].shape))}, from")
    browser.run(
        "document.querySelector('#numbers').open = true; new Promise(requestAnimationFrame)"
    )
    seen = text(browser, "#numbers table tr:nth-child(2) td")
    assert float(seen.replace("−", "-").strip("≈ ")) == pytest.approx(names[made].flat[0], rel=0.05)
    assert not browser.wrong


def test_each_key_goes_where_it_says(browser, two):
    """Lines, ops, layers, backward, techniques: there and back."""
    browser.size(1280, 900)
    lora = two.traces[0].events
    first = next(i for i, e in enumerate(lora) if e.place.endswith("layers.1.self_attn.q_proj"))
    browser.open(two.path, f"#0.{first}.1")
    for key, back in ("ArrowRight", "ArrowLeft"), ("ArrowDown", "ArrowUp"), ("]", "["), ("t", "t"):
        before = browser.run(AT)
        browser.press(key)
        there = browser.run(AT)
        browser.press(back)
        assert there != before and browser.run(AT).rsplit(".", 1)[0] == before.rsplit(".", 1)[0], (
            key
        )
    browser.press("]")
    assert lora[int(browser.run(AT).split(".")[1])].place.endswith("layers.2.self_attn.q_proj")
    browser.press("b")
    undone = lora[int(browser.run(AT).split(".")[1])]
    assert undone.phase == "backward" and undone.place.endswith("layers.2.self_attn.q_proj")
    assert text(browser, "#map [aria-current]").startswith("q_proj")
    assert "LoRA" in text(browser, "#traces [aria-pressed=true]") and not browser.wrong


def test_a_name_in_the_address_leads_to_its_place(browser, two):
    """As the site's pages link: a moment, an op, a technique."""
    browser.open(two.path, "#softmax%20undone")
    assert text(browser, "#moments [aria-pressed=true]") == "softmax undone"
    browser.open(two.path, "#rmsnorm")
    assert "rmsnorm_forward" in text(browser, "#where")
    browser.open(two.path, "#vera")
    assert "vera_forward" in text(browser, "#where") and not browser.wrong


WATCH = """window.seen = new Set([document.body.dataset.at]);
new MutationObserver(() => seen.add(document.body.dataset.at)).observe(document.body,
  { attributeFilter: ["data-at"] })"""


def walk(browser, path, traces):
    """→ from the first line of each step to its last: every line has been drawn, none failed."""
    for k, trace in enumerate(traces):
        browser.open(path, f"#{k}.0.0")
        browser.run(WATCH)
        browser.press("ArrowRight", sum(max(1, len(e.lines)) for e in trace.events))
        lines = browser.run(f"data.traces[{k}].events.map(e => Math.max(1, e.lines.length))")
        every = {f"{k}.{i}.{line}" for i, n in enumerate(lines) for line in range(n)}
        assert set(browser.run("[...seen]")) == every, trace.record.title
    assert not browser.wrong


@pytest.mark.slow
def test_every_line_of_every_technique_by_keyboard(browser, tmp_path):
    """All seven in the first step."""
    browser.size(1280, 900)
    traces = [traced(method) for method in ml.METHODS]
    walk(browser, ml.trace_page(tmp_path / "all.html", traces), traces)


@pytest.mark.slow
@pytest.mark.parametrize("how", [{"recompute": "layers"}, {"dropout": 0.1}], ids=str)
def test_every_line_where_layers_run_twice_or_all_linears_adapt(browser, tmp_path, how):
    """Also dropout, and pictures of a later step."""
    browser.size(400, 860, "dark")
    traces = [traced("lora", 1, targets="all-linear", **how)]
    walk(browser, ml.trace_page(tmp_path / "how.html", traces), traces)


@pytest.mark.slow
def test_nothing_is_wider_than_the_screen_and_a_key_is_quick(browser, two):
    """1280 and 400 pixels, light and dark, tables open; half of all draws within 50 ms."""
    script = """(() => { const wide = [], times = [];
      data.traces.forEach((t, k) => t.events.forEach((e, i) => e.lines.forEach((_, l) => {
        if (l % 3) return;
        const start = performance.now();
        go(i, l, k);
        if (WIDER > 0) wide.push([k, i, l]);
        times.push(performance.now() - start);
      })));
      return [wide.slice(0, 5), times.sort((a, b) => a - b)[times.length >> 1]] })()"""
    for width, scheme in (1280, "light"), (400, "dark"):
        browser.size(width, 900, scheme)
        browser.open(two.path)
        browser.run("document.querySelector('#numbers').open = true")
        wide, middle = browser.run(script.replace("WIDER", WIDER))
        assert not wide, f"at {width} pixels"
        assert middle < 50, f"{middle:.0f} ms at {width} pixels"
    assert not browser.wrong
