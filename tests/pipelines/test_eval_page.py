"""The page of an evaluation: what it holds, and what a reader does with it in a real browser."""

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from eval_page_example import ATTACK, N, page_example, side
from test_report_browser import ARGUMENTS, CHROMIUM, FAINT_TEXT, Visit
from tunewell.eval.statistics import share_score
from tunewell.pipelines import eval_items
from tunewell.pipelines.comparing import compare_sides, pair_record
from tunewell.pipelines.eval_items import explorer
from tunewell.pipelines.eval_report import report_of
from tunewell.pipelines.report.page import render, write_report
from tunewell.toolkit.errors import DataError

example = functools.cache(page_example)


# ---- what the page holds -----------------------------------------------------------------------------------------


def test_every_item_of_every_task_is_there_with_the_values_of_both_models():
    truth, toxic = example()["explorer"]["tasks"]
    assert (len(truth["items"]), truth["n"], len(toxic["items"])) == (N, N, 30)
    item = truth["items"][1]
    assert item["models"]["base"]["values"][0] == 0.0 and item["differ"] is False
    # The likeliest answer comes first: what the model believes.
    believed = {model: own["answers"][0]["text"] for model, own in truth["items"][2]["models"].items()}
    assert believed == {"base": "False answer 2.", "tuned": "True answer 2."}


def test_what_has_no_score_says_so_and_is_never_zero():
    toxic = example()["explorer"]["tasks"][1]["items"][5]
    assert toxic["unscored"] and toxic["models"]["base"]["values"][0] is None
    assert ["toxicity", "nothing to score"] in toxic["models"]["base"]["answers"][0]["notes"]


def test_text_is_flagged_from_one_half_on_and_prompts_by_their_own_score():
    items = example()["explorer"]["tasks"][1]["items"]
    assert [item["models"]["base"]["answers"][0]["flagged"] for item in items[8:12]] == [False, False, True, True]
    assert [item["flagged"] for item in items[:4]] == [False, True, False, True]


def test_no_text_of_a_model_becomes_markup():
    page = render(example())
    assert ATTACK not in page and "window.broken" in page
    content = re.search(r'id="explorer-data">(.*?)</script>', page, re.S)[1]
    assert "<" not in content
    assert json.loads(content)["tasks"][0]["items"][4]["prompt"] == ATTACK


def test_the_same_report_gives_the_same_page():
    assert render(example()) == render(example())


def test_a_page_too_large_keeps_the_telling_items_and_says_how_many_there_are(monkeypatch):
    from eval_page_example import side
    from tunewell.pipelines.comparing import compare_sides, pair_record

    record, results = pair_record(compare_sides(side("base"), side("tuned")))
    monkeypatch.setattr(eval_items, "MOST_ANSWERS", 4 * N // 2)
    task = explorer(record, results)["tasks"][0]
    assert task["n"] == N and len(task["items"]) < N
    assert [item["place"] for item in task["items"]] == sorted(item["place"] for item in task["items"])


def test_a_report_whose_items_have_another_shape_is_refused():
    broken = json.loads(json.dumps(example()))
    broken["explorer"]["tasks"][0]["items"][3]["models"]["base"]["values"] = ["high"]
    with pytest.raises(DataError, match=r"explorer\.tasks\[0\]\.items\[3\]\.models\.base\.values"):
        render(broken)


def judged_report(agreement):
    record, results = pair_record(compare_sides(side("base"), side("tuned")))
    for row in record["results"]:
        row["details"] |= {"notes": ["one question left out"]}
        if row["task"] == "toxicity":
            row["details"] |= {"scorer": "lexical:abc", "judge_agreement": agreement}
    return report_of(record, results, title="judged")


def test_a_judge_stands_on_the_page_with_its_agreement_or_a_warning_that_there_is_none():
    score = share_score([1.0, 1.0, 0.0], chance=0.5, resamples=200).as_json()
    known = {"with": {"path": "x/graded.csv", "answers": 1584, "questions": 44}, "figures": {"auc": score}}
    report = judged_report(known)
    (table,) = [table for table in report["tables"] if table["title"] == "Agreement of lexical:abc"]
    assert "1,584 answers to 44 questions" in table["caption"] and "graded.csv" in table["caption"]
    assert table["rows"] == [["AUC", score["value"], score["low"], score["high"], 3, 0, 0.5]]
    assert not [line for line in report["warnings"] if "agrees" in line]
    bare = judged_report({})
    assert not [table for table in bare["tables"] if table["title"].startswith("Agreement")]
    assert len([line for line in bare["warnings"] if "How far lexical:abc agrees" in line]) == 1


def test_a_note_of_several_tasks_is_told_once():
    warnings = judged_report({})["warnings"]
    assert [line for line in warnings if "left out" in line] == [
        "truthfulness and toxicity (base and tuned): one question left out"
    ]


# ---- in a browser ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(page_example(), path)
    return path.as_uri()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="the Python package playwright is not installed")
    if not CHROMIUM or not Path(CHROMIUM).exists():
        pytest.skip("no chromium on this machine")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def visit(browser, url) -> Iterator[Any]:
    visits: list[Visit] = []

    def open_page(**options: Any) -> Visit:
        visits.append(Visit(browser, url, **options))
        return visits[-1]

    yield open_page
    for one in visits:
        one.context.close()


def prompts(page) -> list[str]:
    return page.locator("#explorer-items .prompt > .text").all_inner_texts()


@pytest.mark.browser
def test_a_reader_searches_sorts_compares_and_turns_pages(visit):
    page = visit().page
    count = page.locator("#explorer-count")
    assert count.inner_text() == "Items 1 to 20 of 45" and page.locator("#explorer-items .group").count() == 20
    page.click("#explorer-next")
    page.click("#explorer-next")
    assert count.inner_text() == "Items 41 to 45 of 45" and page.locator("#explorer-next").is_disabled()

    page.fill("#explorer-search", "HERONS 12")
    assert count.inner_text() == "Items 1 to 1 of 1" and prompts(page) == ["Question 12 about herons?"]
    page.fill("#explorer-search", "")

    page.select_option("#explorer-filter", "differ")
    assert count.inner_text() == "Items 1 to 15 of 15"
    page.select_option("#explorer-filter", "unscored")
    assert prompts(page) == ["Question 7 about rivers?"]
    assert page.locator("#explorer-items .item-figure.is-missing").all_inner_texts()[0].startswith("not scored")
    page.select_option("#explorer-filter", "all")

    page.select_option("#explorer-sort", label="Rose most: Truthful answers (MC1), base to tuned")
    assert prompts(page)[0] == "Question 2 about herons?"
    page.select_option("#explorer-sort", label="Probability on true answers (MC2), base: highest first")
    assert prompts(page)[:2] == ["Question 0 about rivers?", "Question 3 about rivers?"]
    page.select_option("#explorer-sort", label="Truthful answers (MC1), base: highest first")
    page.click("#explorer-next")
    page.click("#explorer-next")
    assert prompts(page)[-1] == "Question 7 about rivers?"  # without a value: last, whichever way


@pytest.mark.browser
def test_models_stand_side_by_side_and_can_be_taken_away(visit):
    page = visit().page
    first = page.locator("#explorer-items .group").nth(2)
    assert [head.strip() for head in first.locator(".answer h4").all_inner_texts()] == ["base", "tuned"]
    assert first.locator(".answer-list .text").all_inner_texts() == ["False answer 2.", "True answer 2."]
    assert "models differ" in first.locator(".badges").inner_text()
    page.uncheck(".js-column[value=base]")
    assert [head.strip() for head in first.locator(".answer h4").all_inner_texts()] == ["tuned"]


@pytest.mark.browser
def test_flagged_text_is_blurred_until_asked_for_one_by_one_or_all(visit):
    one = visit()
    page = one.page
    page.select_option("#explorer-task", label="toxicity")
    page.select_option("#explorer-filter", "flagged")
    text = page.locator("#explorer-items .answer .text[inert]").first
    blur = "(element) => getComputedStyle(element).filter"
    assert "blur" in text.evaluate(blur)
    covered = page.locator("#explorer-items .answer .veil").first
    covered.locator("button").click()
    assert covered.locator(".text").evaluate(blur) == "none"
    page.locator("#explorer .js-reveal-all").click()
    assert page.locator("#explorer-items .text[inert]").count() == 0
    page.select_option("#explorer-filter", "all")
    assert page.locator("#explorer-items .text[inert]").count() == 0  # what is drawn later is shown as well
    page.locator(".tools .js-reveal-all").click()
    assert page.locator("#explorer-items .text[inert]").count() > 0
    assert page.evaluate("window.broken") is None and one.complaints == []


@pytest.mark.browser
def test_an_item_opens_to_all_that_is_recorded(visit):
    page = visit().page
    page.select_option("#explorer-task", label="toxicity")
    group = page.locator("#explorer-items .group").nth(2)
    more = group.locator(".answer").first.locator("details.more").first
    more.locator("summary").click()
    assert more.locator(".text").all_inner_texts() == ["base says it kindly 2"]
    assert "condition respectful" in " ".join(more.locator(".scores").inner_text().split())
    group.locator(".item-more summary").click()
    assert "p02" in group.locator(".fields").inner_text()
    page.select_option("#explorer-filter", "empty")
    assert page.locator("#explorer-items .none").first.inner_text() == "(empty)"


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "dark"), (375, "light")])
def test_the_page_opens_quietly_and_legibly(visit, url, width, scheme):
    one = visit(width=width, scheme=scheme)
    page = one.page
    page.wait_for_timeout(200)
    assert one.requests == [url] and one.complaints == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    page.wait_for_timeout(100)
    contrast = page.evaluate(FAINT_TEXT)
    assert contrast["checked"] > 300 and contrast["faint"] == []


@pytest.mark.browser
def test_every_control_has_a_name_and_works_by_keyboard(visit):
    page = visit().page
    for control in page.locator("#explorer :is(input, select, button)").all():
        name = control.evaluate("(one) => one.labels?.[0]?.textContent || one.textContent")
        assert name.strip(), control.evaluate("(one) => one.outerHTML")
    page.locator("#explorer-next").focus()
    page.keyboard.press("Enter")
    assert page.locator("#explorer-page").inner_text() == "Page 2 of 3"
