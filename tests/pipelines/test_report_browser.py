import os
import shutil
from collections.abc import Iterator
from typing import Any

import pytest
from report_example import report_example
from tunewell.pipelines.report.page import write_report

pytestmark = pytest.mark.browser
sync_api = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is not installed")

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-default-apps",
    "--disable-extensions",
    "--disable-sync",
    "--metrics-recording-only",
    "--no-first-run",
    "--host-resolver-rules=MAP * ~NOTFOUND",
]
ATTACK = "Innocent start. <script>window.broken = 1</script><img src=x onerror='window.broken = 1'></script> <!-- end"

# Every visible text whose colour stands out from its ground by less than 4.5 to 1.
FAINT_TEXT = """() => {
  const channels = (color) => color.match(/[\\d.]+/g).map(Number);
  const light = (color) => {
    const linear = (part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4;
    const [r, g, b] = channels(color).map((part) => linear(part / 255));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = (element) => {
    for (let one = element; one; one = one.parentElement) {
      const color = getComputedStyle(one).backgroundColor;
      const parts = channels(color);
      if (parts.length < 4 || parts[3] > 0) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const faint = [];
  let checked = 0;
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || element.closest("script, noscript, style, [inert], [hidden]")) continue;
    if (!element.getClientRects().length) continue;
    const style = getComputedStyle(element);
    const color = element.closest("svg") ? style.fill : style.color;
    const [high, low] = [light(color), light(ground(element))].sort((a, b) => b - a);
    checked += 1;
    if ((high + 0.05) / (low + 0.05) < 4.5) faint.push(walker.currentNode.data.trim().slice(0, 40) + " " + color);
  }
  return { checked, faint };
}"""


def hostile_report() -> dict[str, Any]:
    report = report_example()
    report["samples"][0]["completion"] = ATTACK
    report["samples"][3]["completion"] = ATTACK  # flagged
    report["samples"][6]["completion"] = "unbroken" * 12_500  # 100,000 letters
    report["title"] = f"A kinder, truer small model {ATTACK}"
    report["headline"][0]["label"] = ATTACK
    report["curves"][0]["title"] = ATTACK
    report["header"]["Run"]["path"] = "/a/very/long/path" * 30
    report["tables"][0]["columns"][0] = "a column with a long name " * 3
    return report


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium: install it, or name its path in the variable CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(hostile_report(), path)
    return path.as_uri()


class Visit:
    """A page opened in a window of its own, with everything it said or asked for."""

    def __init__(self, browser: Any, url: str, width: int = 1280, scheme: str = "light", **more: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme, **more)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.complaints: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.goto(url)


@pytest.fixture
def visit(browser: Any, url: str) -> Iterator[Any]:
    visits: list[Visit] = []

    def open_page(**options: Any) -> Visit:
        visits.append(Visit(browser, url, **options))
        return visits[-1]

    yield open_page
    for one in visits:
        one.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_the_page_opens_quietly_and_legibly(visit: Any, url: str, width: int, scheme: str) -> None:
    one = visit(width=width, scheme=scheme)
    page = one.page
    page.wait_for_timeout(200)
    assert one.requests == [url]
    assert one.complaints == []
    assert page.evaluate("window.broken") is None
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    # Nothing but a frame that scrolls by itself may reach over the edge.
    outside = """(width) => [...document.querySelectorAll("main *, header *, footer *, .side *")]
        .filter((element) => !element.closest(".table-frame, svg, .visually-hidden, [inert]"))
        .filter((element) => element.getBoundingClientRect().right > width + 1)
        .map((element) => element.outerHTML.slice(0, 120))"""
    assert page.evaluate(outside, width) == []
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    contrast = page.evaluate(FAINT_TEXT)
    assert contrast["checked"] > 300
    assert contrast["faint"] == []
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 23, 28)"
    assert dark == (scheme == "dark")
    assert page.locator(".js-theme").get_attribute("aria-checked") == str(dark).lower()


def test_the_contrast_check_finds_faint_text(visit: Any) -> None:
    page = visit().page
    page.evaluate("document.querySelector('.subtitle').style.color = '#bbb'")
    page.evaluate("document.querySelector('svg text').style.fill = '#eee'")
    assert len(page.evaluate(FAINT_TEXT)["faint"]) == 2


def test_charts_are_legible_on_a_phone(visit: Any) -> None:
    sizes = visit(width=375).page.evaluate(
        """() => [...document.querySelectorAll("svg text")].map((text) =>
            parseFloat(getComputedStyle(text).fontSize) * text.getCTM().a)"""
    )
    assert len(sizes) > 100 and min(sizes) >= 10


def test_flagged_text_is_blurred_until_asked_for(visit: Any) -> None:
    page = visit().page
    answer = page.locator(".answer", has_text="Innocent start").nth(1)
    text, button = answer.locator(".text"), answer.locator(".js-veil")
    blur = "(element) => getComputedStyle(element).filter"
    assert "blur" in text.evaluate(blur)
    assert text.evaluate("(element) => element.inert")
    button.click()
    assert text.evaluate(blur) == "none" and not text.evaluate("(element) => element.inert")
    assert button.get_attribute("aria-expanded") == "true"
    assert ATTACK in text.inner_text()
    assert page.evaluate("window.broken") is None
    button.click()
    assert "blur" in text.evaluate(blur)
    button.focus()
    page.keyboard.press("Enter")
    assert text.evaluate(blur) == "none"
    page.keyboard.press("Space")
    assert "blur" in text.evaluate(blur)


def test_one_switch_reveals_and_hides_all_flagged_text(visit: Any) -> None:
    page = visit().page
    switch = page.locator(".toolbar .js-reveal-all")
    switch.focus()
    page.keyboard.press("Enter")
    assert page.locator(".text[inert]").count() == 0
    assert [one.get_attribute("aria-checked") for one in page.locator(".js-reveal-all").all()] == ["true", "true"]
    page.locator(".tools .js-reveal-all").click()
    assert page.locator(".text[inert]").count() == 6


def test_samples_can_be_searched_and_filtered(visit: Any) -> None:
    page = visit().page
    count = page.locator("#sample-count")
    assert count.inner_text() == "30 answers to 10 prompts"
    page.fill("#sample-search", "VELMORA heron")
    assert count.inner_text() == "2 of 30 answers"
    assert page.locator(".group:visible").count() == 1
    page.fill("#sample-search", "")
    page.select_option("#sample-model", label="ppo")
    assert count.inner_text() == "10 of 30 answers"
    assert set(page.locator(".answer:visible h4").all_inner_texts()) == {"ppo"}
    page.fill("#sample-search", "no such words")
    assert count.inner_text() == "0 of 30 answers" and page.locator(".group:visible").count() == 0
    page.fill("#sample-search", "")
    page.select_option("#sample-model", label="All models")
    assert count.inner_text() == "30 answers to 10 prompts"


def test_samples_can_be_sorted_by_score_and_put_back(visit: Any) -> None:
    page = visit().page

    def order() -> list[str]:
        return page.locator(".group .eyebrow").all_inner_texts()

    as_generated = order()
    page.select_option("#sample-sort", label="toxicity, highest first")
    toxic = [row["scores"]["toxicity"] for row in report_example()["samples"]]
    worst = [max(score or 0 for score in toxic[start : start + 3]) for start in range(0, 30, 3)]
    expected = sorted(range(10), key=lambda index: -worst[index])
    assert order() == [f"Prompt {index + 1}" for index in expected]
    page.select_option("#sample-model", label="sft")  # the last prompt's sft answer has no score
    assert order()[-1] == "Prompt 10"
    page.select_option("#sample-sort", label="toxicity, lowest first")
    assert order()[-1] == "Prompt 10"
    page.select_option("#sample-sort", label="As generated")
    assert order() == as_generated


def test_a_table_can_be_sorted_by_its_heads(visit: Any) -> None:
    page = visit().page
    table = page.locator("#tables table")
    button = table.get_by_role("button", name="McNemar p")
    column = table.locator("tbody tr td:nth-child(5)")
    as_given = column.all_inner_texts()
    button.click()
    assert column.all_inner_texts() == [as_given[index] for index in (2, 0, 1)]
    assert table.locator("th[aria-sort=ascending]").count() == 1
    button.focus()
    page.keyboard.press("Enter")
    assert column.all_inner_texts() == [as_given[index] for index in (1, 0, 2)]
    button.click()
    assert column.all_inner_texts() == as_given and table.locator("th[aria-sort]").count() == 0


def test_the_theme_can_be_chosen_and_is_remembered(visit: Any) -> None:
    page = visit().page
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    ink = "getComputedStyle(document.querySelector('svg text')).fill"
    light_ink = page.evaluate(ink)
    page.click(".js-theme")
    assert page.evaluate(ground) != light and page.evaluate(ink) != light_ink
    page.reload()
    assert page.evaluate(ground) != light
    page.click(".js-theme")
    assert page.evaluate(ground) == light


def test_long_text_opens_on_request(visit: Any) -> None:
    page = visit(width=375).page
    fold = page.locator(".answer .fold").first
    assert fold.locator("summary").inner_text() == "Show all 100,000 characters"
    fold.locator("summary").focus()
    page.keyboard.press("Enter")
    assert len(fold.inner_text()) > 98_000
    assert page.evaluate("document.documentElement.scrollWidth") <= 375


def test_numbers_and_settings_can_be_copied(visit: Any) -> None:
    page = visit(permissions=["clipboard-read", "clipboard-write"]).page
    page.locator("#figure-1 summary").click()
    page.locator("#figure-1 .js-copy").click()
    sync_api.expect(page.locator("#announce")).to_have_text("Copied")
    copied = page.evaluate("navigator.clipboard.readText().then(JSON.parse)")
    assert copied["values"] == report_example()["headline"][0]["values"]
    button = page.locator(".js-copy-text")
    button.click()
    sync_api.expect(button).to_have_text("Copied")
    assert "lora.r: 16" in page.evaluate("navigator.clipboard.readText()")


def test_the_pointer_reads_values_off_a_curve(visit: Any) -> None:
    page = visit().page
    chart = page.locator("#training .figure", has_text="PPO reward").locator("svg")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + 0.98 * box["width"], box["y"] + 0.5 * box["height"])
    last = report_example()["curves"][2]["series"][0]["y"][-1]
    readout = page.locator("#training .readout:visible").inner_text()
    assert readout.split("\n") == ["update 80", f"{last:.3g}"]
    page.mouse.move(box["x"] + 0.5 * box["width"], box["y"] - 40)
    assert page.locator("#training .readout:visible").count() == 0


def test_the_keyboard_reaches_everything_and_can_be_seen_there(visit: Any) -> None:
    page = visit().page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    assert page.locator(".skip").bounding_box()["y"] >= 0
    seen = set()
    for _ in range(80):
        page.keyboard.press("Tab")
        seen.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
        width = page.evaluate("getComputedStyle(document.activeElement).outlineWidth")
        assert width == "3px", page.evaluate("document.activeElement.outerHTML.slice(0, 200)")
    assert {"sample-search", "sample-model", "sample-sort", "veil-button js-veil"} <= seen


def test_unrevealed_text_is_not_printed(visit: Any) -> None:
    page = visit(scheme="dark").page
    page.emulate_media(media="print", color_scheme="dark")
    hidden = page.locator(".text[inert]").first
    assert hidden.evaluate("(element) => getComputedStyle(element).visibility") == "hidden"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(27, 36, 46)"  # dark ink on white paper
    assert not page.locator(".toolbar").is_visible()


def test_without_javascript_all_is_there_and_flagged_text_stays_blurred(visit: Any) -> None:
    page = visit(java_script_enabled=False).page
    assert "flagged text stays blurred" in page.locator("noscript").inner_text()
    assert page.locator(".answer").count() == 30 and page.locator(".js-theme:visible").count() == 0
    assert not page.locator(".toolbar").is_visible()
