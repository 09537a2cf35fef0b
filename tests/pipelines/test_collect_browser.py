import json
import os
import shutil
import zipfile
from collections.abc import Iterator
from typing import Any

import pytest
from collect_fakes import ROWS, served, study
from micro_run import QUIET, call, libraries_as_before
from test_report_browser import ARGUMENTS, FAINT_TEXT
from tunewell.pipelines.collect.export import _is_held_out
from tunewell.pipelines.collect.items import items_of
from tunewell.toolkit.data.rows import read_rows, write_rows

pytestmark = [pytest.mark.browser, *(pytest.mark.filterwarnings(line) for line in QUIET)]
sync_api = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is not installed")
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
LOOPBACK_ONLY = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
ATTACK = "<script>window.broken = 1</script><img src=x onerror='window.broken = 1'>"
DRAFT = '() => Object.keys(localStorage).filter((name) => name.includes("draft"))'


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if CHROMIUM is None:
        pytest.skip("no Chromium: install it, or name its path in the variable CHROMIUM")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[*ARGUMENTS[:-1], LOOPBACK_ONLY])
        yield browser
        browser.close()


class Person:
    """A labeler at a window of their own; what the page complains about is kept."""

    def __init__(self, browser: Any, url: str, name: str, width: int = 1280, **more: Any) -> None:
        self.meets_answer = more.pop("meets_answer", None)  # what becomes of an answer on its way; may be changed
        self.context = browser.new_context(viewport={"width": width, "height": 860}, **more)
        self.page = self.context.new_page()
        if self.meets_answer:
            # Before the page is opened: Chromium takes up interception a little later than it says, and of a page
            # that is open already one request in a hundred or so slips past it.
            self.page.route("**/api/answer", lambda route: self.meets_answer(route))
        self.complaints: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(url)
        self.page.keyboard.type(name)  # the field has the focus
        self.page.keyboard.press("Enter")
        self.at()

    def at(self, step: str = "") -> Any:
        self.page.wait_for_selector(f"[data-step{f'={step}' if step else ''}]")
        return self.page

    def keys(self, *keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def says(self, text: str) -> None:
        sync_api.expect(self.page.locator("#work")).to_contain_text(text)

    def close(self) -> None:
        self.context.close()


@pytest.fixture
def people(browser: Any) -> Iterator[Any]:
    met: list[Person] = []

    def meet(url: str, name: str = "Ada", **more: Any) -> Person:
        met.append(Person(browser, url, name, **more))
        return met[-1]

    yield meet
    for one in met:
        one.close()


def held_out(is_wanted: bool, n: int) -> list[str]:
    """Prompts that the export holds out, or does not."""
    every = (f"Say hello to guest {number}." for number in range(1000))
    return [prompt for prompt in every if _is_held_out(prompt, 0.15) == is_wanted][:n]


@pytest.mark.slow
def test_the_whole_round_from_the_open_page_to_a_reward_model(tmp_path, people, monkeypatch, capsys):
    prompts = [*held_out(False, 3), *held_out(True, 1)]
    rows = [{"prompt": prompts[0]}] + [
        {"prompt": one, "completions": [" Hello!", " Go away.", " Yes?"]} for one in prompts
    ]
    store, _, _ = study(tmp_path, rows)
    with served(store) as server:
        ada = people(server.url)
        page = ada.at("demonstrate")
        page.keyboard.type("Hello, dear guest.")
        page.keyboard.press("Control+Enter")
        for number in range(4):
            ada.at("rate")
            for _ in range(3):
                text = page.locator(".completion .text").inner_text()
                ada.keys({"Hello!": "7", "Go away.": "1", "Yes?": "4"}[text])
                if text == "Go away.":
                    ada.keys("b")  # inappropriate
                ada.keys("Enter")
            ada.at("rank")
            if number == 0:  # by mouse: each card into its slot
                for text, rank in (("Hello!", 1), ("Yes?", 2), ("Go away.", 3)):
                    card, slot = page.locator(".rankable", has_text=text), page.locator(f'.slot[data-rank="{rank}"]')
                    card.locator(".grip").hover()
                    page.mouse.down()
                    slot.locator(".slot-name").hover()
                    page.mouse.up()
            else:
                for place in range(3):
                    text = page.locator(f"#card-{place} .text").inner_text()
                    ada.keys("abc"[place], {"Hello!": "1", "Go away.": "3", "Yes?": "2"}[text])
            page.click("#forward")
            if number == 1:  # taken back, and a tie made of it
                sync_api.expect(page.locator("#progress")).to_contain_text("3 answered")
                ada.keys("u")
                sync_api.expect(page.locator("#progress")).to_contain_text("2 answered")
                assert page.locator(".tab-rating").all_inner_texts().count("7") == 1
                ada.at("rate")
                ada.keys("ArrowRight", "ArrowRight", "Enter")
                ada.at("rank")
                yes = page.locator(".rankable", has_text="Yes?")
                yes.focus()
                ada.keys("ArrowUp")
                assert page.locator(".slot.tied").get_attribute("data-rank") == "1"
                ada.keys("Enter")
        ada.says("All done")
        assert page.inner_text("#progress").startswith("5 answered")
        assert ada.complaints == []
        page.goto(server.url + server.page.owner_path())
        with page.expect_download() as download:
            page.click("text=Export everything")
        zipfile.ZipFile(download.value.path()).extractall(tmp_path)
    out = tmp_path / "export"
    comparisons = read_rows(out / "comparisons.jsonl")
    assert len(comparisons) == 3 + 2 + 3 and len(read_rows(out / "comparisons_held_out.jsonl")) == 3
    assert {row["rejected"] for row in comparisons if row["chosen"] == " Yes?"} == {" Go away."}
    assert {row["flags"][0] for row in read_rows(out / "ratings.jsonl") if row["flags"]} == {"inappropriate"}
    assert read_rows(out / "demonstrations.jsonl")[0]["completion"] == " Hello, dear guest."
    write_rows(tmp_path / "corpus.jsonl", [{"text": f"{row['prompt']}{row['chosen']}"} for row in comparisons])
    names = ("demonstrations", "comparisons", "comparisons_held_out", "prompts", "held_out_prompts")
    with libraries_as_before():
        done = call(
            monkeypatch, capsys, "reward", "embedded", "data.source=files", f"data.corpus={tmp_path / 'corpus.jsonl'}",
            *(f"data.{name}={out / name}.jsonl" for name in names), "filter.blocklist=null", "filter.phrases=null",
            "base.tiny.hidden_size=64", "base.tiny.layers=1", "base.tiny.heads=2", "base.tiny.steps=5",
            "sft.trainer.max_steps=1", "reward.trainer.max_steps=12", "--json", "--out", tmp_path / "run",
        )  # fmt: skip
    assert done.code == 0, done.err
    results = json.loads(done.out.splitlines()[-1])["results"]
    assert results["reward.accuracy"]["n"] == 3
    assert (tmp_path / "run" / "03-reward" / "reward" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 375])
def test_every_step_is_legible_and_nothing_reaches_over_the_edge(tmp_path, people, width, scheme):
    hostile = [{"prompt": ATTACK, "completions": [ATTACK, "unbroken" * 12_500, "word " * 400]}, *ROWS[:1]]
    store, _, _ = study(tmp_path, hostile)
    with served(store) as server:
        ada = people(server.url, ATTACK[:50], width=width, color_scheme=scheme)
        page = ada.page

        def look(least: int) -> None:
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            contrast = page.evaluate(FAINT_TEXT)
            assert contrast["faint"] == [] and contrast["checked"] >= least, contrast

        ada.at("rate")
        look(30)
        ada.keys("3", "Enter", "4", "Enter", "5", "Enter")
        ada.at("rank")
        look(12)
        ada.keys("1", "1", "2")
        look(12)
        ada.keys("?")
        look(20)
        ada.keys("Escape", "s")
        look(12)
        ada.keys("Escape")
        page.click("#you-open")
        look(12)
        ada.keys("Escape")
        page.wait_for_selector("main :focus")  # the keys work on the item again
        ada.keys("Enter")
        ada.at("demonstrate")
        look(8)
        page.goto(server.url + server.page.owner_path())
        page.wait_for_selector("#labelers td")
        look(12)
        assert page.evaluate("window.broken") is None and ada.complaints == []
        assert {url.split("/")[2] for url in ada.requests} == {f"127.0.0.1:{server.port}"}


def test_long_text_is_folded_and_opens_on_request(tmp_path, people):
    text = "a long text " * 8400
    store, _, _ = study(tmp_path, [{"prompt": "p", "completion": text}])
    with served(store) as server:
        ada = people(server.url)
        shown = ada.page.locator(".completion .text")
        assert len(shown.inner_text()) < 4000
        ada.page.get_by_role("button", name="Show all 100,799 characters").click()
        assert len(shown.inner_text()) > 100_000


def test_toxic_text_is_blurred_until_it_is_asked_for(tmp_path, people):
    store, _, _ = study(tmp_path, [])
    store.add(items_of([ROWS[2]], "auto", "rows", lambda texts: ["Go away" in text for text in texts]))
    with served(store) as server:
        ada = people(server.url)
        page = ada.page
        if "Hello" in page.locator(".completion .text").inner_text():
            ada.keys("ArrowRight")
        text = page.locator(".completion .text")
        blur = "(element) => getComputedStyle(element).filter"
        assert "blur" in text.evaluate(blur) and text.evaluate("(element) => element.inert")
        ada.keys("v")
        assert text.evaluate(blur) == "none"
        ada.keys("v")
        assert "blur" in text.evaluate(blur)
        page.get_by_role("button", name="Show blurred text").click()
        assert text.evaluate(blur) == "none"
        page.click("#you-open")
        page.check("input[name=blur][value=all]")
        ada.keys("Escape")
        assert page.locator(".text[inert]").count() == 2  # the prompt too
        page.click("#you-open")
        page.check("input[name=blur][value=none]")
        ada.keys("Escape")
        assert page.locator(".text[inert]").count() == 0


def test_a_draft_outlives_the_page_and_a_half_answer_is_not_sent(tmp_path, people):
    store, _, _ = study(tmp_path)
    with served(store) as server:
        ada = people(server.url)
        page = ada.at("demonstrate")
        ada.keys("Control+Enter")
        sync_api.expect(page.locator("#lacking")).to_have_text("Write an answer, or skip.")
        page.keyboard.type("Half a line about")
        page.reload()
        ada.at("demonstrate")
        assert page.input_value(".composer") == "Half a line about"
        page.keyboard.press("End")
        page.keyboard.type(" rain.")
        ada.keys("Control+Enter")
        ada.at("rate")
        assert page.evaluate(DRAFT) == []
        ada.keys("6", "Enter", "Enter")
        sync_api.expect(page.locator("#lacking")).to_contain_text("Not rated yet")
        page.reload()
        ada.at("rate")
        assert page.locator(".tab-rating").all_inner_texts() == ["6", "·", "·"]
    assert store.count("answers") == 1


def test_two_windows_of_one_name_and_a_double_click(tmp_path, people):
    store, _, _ = study(tmp_path, [*ROWS[:1], {"prompt": "Write about snow."}])
    with served(store) as server:
        first, second = people(server.url), people(server.url)
        first.page.keyboard.type("From the first window.")
        second.page.keyboard.type("From the second window.")
        first.page.dblclick("#forward")
        first.says("Write about snow.")
        second.page.click("#forward")
        sync_api.expect(second.page.locator("#notice")).to_contain_text(
            "Nothing was changed: this item is answered already"
        )
        sync_api.expect(second.page.get_by_role("button", name="Copy my text")).to_be_visible()
        second.says("Write about snow.")
    with store.read() as base:
        assert [row[0] for row in base.execute("SELECT json_extract(body, '$.completion') FROM answers")] == [
            "From the first window."
        ]


def test_an_answer_is_sent_again_until_the_server_has_it(tmp_path, people):
    store, _, _ = study(tmp_path, [*ROWS[:1], {"prompt": "Write about snow."}])
    with served(store) as server:
        ada = people(server.url, meets_answer=lambda route: route.abort())
        page = ada.page
        page.keyboard.type("Rain taps the roof.")
        ada.keys("Control+Enter")
        sync_api.expect(page.locator("#notice")).to_contain_text("Not saved yet")
        assert store.count("answers") == 0
        ada.meets_answer = lambda route: route.continue_()
        ada.says("Write about snow.")
        sync_api.expect(page.locator("#notice")).to_be_hidden()
        # The server takes it, but its word is lost on the way: sent again, it stays one answer.
        page.keyboard.type("Snow is quiet.")
        lost = []

        def lose(route):
            if not lost:
                lost.append(route.fetch().status)
                route.abort()
            else:
                route.continue_()

        ada.meets_answer = lose
        ada.keys("Control+Enter")
        ada.says("All done")
    assert lost == [200] and store.count("answers") == 2


def test_skipping_needs_a_reason_and_the_keyboard_is_enough(tmp_path, people):
    store, _, _ = study(tmp_path, ROWS[:2])
    with served(store) as server:
        ada = people(server.url)
        page = ada.page
        ada.keys("Escape", "s")
        page.wait_for_selector("#skip-dialog[open]")
        ada.keys("Enter")
        sync_api.expect(page.locator("#skip-fault")).to_have_text("Choose a reason.")
        ada.keys("6", "Enter")
        sync_api.expect(page.locator("#skip-fault")).to_have_text("Say which other reason.")
        ada.keys("1", "Enter")
        ada.at("rate")
        assert "1 skipped" in page.inner_text("#progress")
        ada.keys("u")
        ada.at("demonstrate")
    with store.read() as base:
        assert base.execute("SELECT body FROM answers").fetchone()[0] == '{"reason":"unclear","note":""}'


def test_a_card_is_ranked_by_touch(tmp_path, people):
    store, _, _ = study(tmp_path, [])
    store.add(items_of([ROWS[2]], "rank", "rows"))
    with served(store) as server:
        ada = people(server.url, width=375, has_touch=True)
        page = ada.at("rank")
        grip = page.locator("#card-0 .grip").bounding_box()
        slot = page.locator('.slot[data-rank="2"]').bounding_box()
        start = {"x": grip["x"] + 60, "y": grip["y"] + 10}
        session = ada.context.new_cdp_session(page)

        def touch(kind: str, **points: float) -> None:
            session.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [points] if points else []})

        touch("touchStart", **start)
        for part in (0.3, 0.7, 1.0):
            touch("touchMove", x=start["x"], y=start["y"] + part * (slot["y"] + 10 - start["y"]))
        touch("touchEnd")
        sync_api.expect(page.locator('.slot[data-rank="2"] #card-0')).to_have_count(1)


def test_on_a_phone_a_tap_gives_a_rank(tmp_path, people):
    store, _, _ = study(tmp_path, [])
    store.add(items_of([ROWS[1]], "rank", "rows"))
    with served(store) as server:
        ada = people(server.url, width=375, has_touch=True, is_mobile=True)
        page = ada.at("rank")
        for name in ("Rank A 2", "Rank C 2", "Rank B 1"):
            page.get_by_role("button", name=name).tap()
        sync_api.expect(page.get_by_role("button", name="Rank C 2")).to_have_attribute("aria-pressed", "true")
        sync_api.expect(page.locator('.slot[data-rank="2"] .rankable')).to_have_count(2)
        assert page.evaluate("document.documentElement.scrollWidth") <= 375
        page.tap("#forward")
        sync_api.expect(page.locator("h1")).to_have_text("All done")
    with store.read() as base:
        assert sorted(json.loads(base.execute("SELECT body FROM answers").fetchone()[0])["ranks"]) == [1, 2, 2]


def test_results_come_live_with_agreement(tmp_path, people):
    store, work, _ = study(tmp_path, ROWS[2:3], overlap=3)  # one is at work, two have answered
    with served(store) as server:
        ada = people(server.url)
        page = ada.context.new_page()
        page.goto(server.url + server.page.owner_path())
        sync_api.expect(page.locator("#labelers")).to_have_text("Nobody has answered yet.")
        for name in ("Ben", "Cy"):
            one = store.join(name)
            item = work.next(one)
            ranks = [1 if number == 0 else 2 for number in item.shown]
            ratings = [7 if number == 0 else 2 for number in item.shown]
            body = {"ratings": ratings, "flags": [[], []], "ranks": ranks}
            work.submit(one, item.id, f"answer-{name}", "answer", body)
        sync_api.expect(page.locator("#agreement")).to_contain_text("Rankings, pair by pair", timeout=9000)
        assert page.locator("#agreement tbody tr").first.inner_text().split("\t")[:3] == [
            "Ratings, 1 to 7",
            "1.00",
            "100%",
        ]
