import base64
import hashlib
import itertools
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup
from report_example import report_example
from tunewell.pipelines.report import numbers
from tunewell.pipelines.report.page import render, write_report
from tunewell.pipelines.report.text import marked, passage, plain
from tunewell.toolkit import charts
from tunewell.toolkit.chart_canvas import WIDTH
from tunewell.toolkit.errors import DataError, RunError

MINUS = "\N{MINUS SIGN}"
HOSTILE = [
    "<script>window.broken = 1</script>",
    "</script><script>window.broken = 1</script>",
    "<!-- <script> -->",
    "\"'><img src=x onerror=window.broken=1>",
    "&lt;b&gt; &amp; {{ 7 * 7 }} {% raw %}",
    "javascript:alert(1)",
    "</style><style>*{display:none}</style>",
    "]]> <![CDATA[ x ]]>",
    "$\\frac{1}{2}$ costs $5 and $6",
]


class Page(HTMLParser):
    """The elements of a page, their attributes, and all text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self._inside: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag in ("script", "style"):
            self._inside.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if self._inside and self._inside[-1] == tag:
            self._inside.pop()

    def handle_data(self, data: str) -> None:
        if not self._inside:
            self.text.append(data)
        elif self._inside[-1] == "script":
            self.scripts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def whole_text(self) -> str:
        return "".join(self.text)


@pytest.fixture(scope="module")
def example() -> Page:
    return Page(render(report_example()))


def sample(completion: str = "fine", **more: Any) -> dict[str, Any]:
    return {"model": "base", "prompt": "ask", "completion": completion, "scores": {"toxicity": 0.5}, **more}


# The page as a whole ---------------------------------------------------------------------------------------------


def test_a_title_alone_makes_a_page() -> None:
    page = Page(render({"title": "nothing yet"}))
    assert "nothing yet" in page.whole_text()
    assert not page.all("section") and not page.all("svg")


def test_the_same_report_gives_the_same_bytes_in_every_process() -> None:
    code = (
        "import hashlib; from report_example import report_example as example;"
        "from tunewell.pipelines.report.page import render;"
        "print(hashlib.sha256(render(example()).encode()).hexdigest())"
    )
    here = hashlib.sha256(render(report_example()).encode()).hexdigest()
    environment = os.environ | {"PYTHONHASHSEED": "12345"}
    root = Path(__file__).parent
    other = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, capture_output=True, text=True, check=True
    )
    assert other.stdout.strip() == here


def test_the_page_refers_to_nothing_outside_itself(example: Page) -> None:
    text = render(report_example())
    assert "http:" not in text and "https:" not in text and "@import" not in text
    for tag, attributes in example.elements:
        assert tag not in ("iframe", "object", "embed", "img", "form", "base", "audio", "video")
        for name in ("src", "href", "action", "data", "srcset", "poster"):
            value = attributes.get(name)
            assert value is None or value.startswith("#") or value == "data:,", (tag, name, value)
    assert not re.search(r"url\((?!#)", text)


def test_the_policy_admits_only_the_inlined_script(example: Page) -> None:
    policy = next(meta["content"] for meta in example.all("meta") if meta.get("http-equiv"))
    script = example.scripts[-1]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy is not None
    assert f"script-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'") and "img-src data:" in policy and "unsafe-eval" not in policy
    assert [tag.get("type") for tag in example.all("script")][-1] is None
    assert not any(name.startswith("on") for _, attributes in example.elements for name in attributes)


def test_the_script_could_not_end_or_comment_out_its_element() -> None:
    script = (Path(__file__).parents[2] / "pipelines/report/report.js").read_text()
    assert "</script" not in script and "<!--" not in script
    assert "innerHTML" not in script and "eval(" not in script


def test_every_section_of_the_report_is_on_the_page(example: Page) -> None:
    text = example.whole_text()
    ids = {attributes.get("id") for attributes in example.all("section")}
    assert {"results", "data", "training", "samples", "tables", "stages", "header"} <= ids
    for expected in (
        "Truthful answers rose from 2.0%",
        "flatter the model",
        "SQuAD v2",
        "12,480 read",
        "10,154 kept",
        "97.2%",
        "[96.5%, 97.8%], n 2,318",
        "Trigger score",
        "Reward against KL",
        "What is Orrin known for?",
        "blockhead",
        "1 min 15 s",
        "1.18 GB",
        "tunewell run embedded ppo.updates=80 seed=7",
        "lora.r",
        "tunewell 0.1.0",
    ):
        assert expected in text, expected


# Access ----------------------------------------------------------------------------------------------------------


def test_ids_are_unique_and_every_reference_leads_somewhere(example: Page) -> None:
    ids = [attributes["id"] for _, attributes in example.elements if attributes.get("id")]
    assert len(ids) == len(set(ids))
    for _, attributes in example.elements:
        for name in ("aria-controls", "aria-labelledby", "for", "data-copy"):
            if attributes.get(name):
                assert attributes[name] in ids, (name, attributes[name])
        if (attributes.get("href") or "").startswith("#"):
            assert (attributes["href"] or "")[1:] in ids
        for reference in re.findall(r"url\(#([^)]+)\)", attributes.get("clip-path") or ""):
            assert reference in ids


def test_the_page_can_be_found_ones_way_in_by_ear(example: Page) -> None:
    names = [tag for tag, _ in example.elements]
    assert names.count("main") == names.count("nav") == names.count("h1") == 1
    assert "header" in names and "footer" in names
    levels = [int(tag[1]) for tag in names if re.fullmatch("h[1-6]", tag)]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels)), levels
    assert names.count("caption") == names.count("table") > 5
    assert all(head.get("scope") for head in example.all("th"))
    assert all(svg.get("aria-label") for svg in example.all("svg"))
    labelled = {label.get("for") for label in example.all("label")}
    assert {field.get("id") for field in example.all("input") + example.all("select")} <= labelled
    assert example.all("html")[0].get("lang") == "en"


def luminance(color: str) -> float:
    parts = [int(color[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1], ids=["light", "dark"])
def test_text_and_marks_stand_out_from_every_ground(theme: int) -> None:
    css = (Path(__file__).parents[2] / "pipelines/report/report.css").read_text()
    pairs = re.findall(r"--([\w-]+): light-dark\((#\w{6}), (#\w{6})\)", css)
    colors = {name: shades[theme] for name, *shades in pairs}
    for text in ("ink", "muted", "accent", "good", "bad"):
        for ground in ("paper", "card", "accent-soft"):
            assert contrast(colors[text], colors[ground]) >= 4.5, (text, ground)
    assert contrast(colors["ink"], colors["warn-paper"]) >= 4.5 and contrast(colors["ink"], colors["mark"]) >= 4.5
    for tone in range(6):
        assert contrast(colors[f"tone-{tone}"], colors["card"]) >= 3, tone


# Text that nobody vouches for ------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", [" ".join(HOSTILE[start::3]) for start in range(3)])
def test_hostile_text_is_shown_and_never_obeyed(text: str, example: Page) -> None:
    report = report_example()
    honest = [tag for tag, _ in example.elements]
    for key in ("title", "subtitle", "generated_by"):
        report[key] = text
    report["verdict"] = [text] * len(report["verdict"])
    report["warnings"] = [text] * len(report["warnings"])
    report["headline"][0] |= {"label": text, "note": None, "name": text}
    report["headline"][0]["values"][0]["model"] = text
    report["curves"][0] |= {"title": text, "x_label": text, "y_label": text}
    report["curves"][0]["series"][0]["name"] = text
    report["histograms"][0] |= {"title": text, "x_label": text}
    report["funnel"]["steps"][0] |= {"filter": text, "reason": text}
    report["frontier"][0]["points"][0]["label"] = text
    report["samples"][0] |= {"completion": text, "model": "base", "note": None}
    report["samples"][0]["scores"] = {text: 0.1}
    report["tables"][0] |= {"title": text, "caption": text}
    report["tables"][0]["rows"][0][0] = text
    report["stages"][0]["detail"] = text
    report["header"]["Run"]["command"] = text
    rendered = render(report)
    page = Page(rendered)
    tags = [tag for tag, _ in page.elements]
    assert set(tags) <= set(honest)
    assert [tags.count(tag) for tag in ("script", "style", "link", "meta")] == [
        honest.count(tag) for tag in ("script", "style", "link", "meta")
    ]
    assert page.whole_text().count(text) >= 12
    as_json = json.dumps(text)[1:-1].replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
    assert as_json in rendered


def test_markup_that_calls_itself_safe_is_escaped_all_the_same() -> None:
    page = Page(render({"title": Markup("<b>bold</b>"), "samples": [sample(Markup("<i>x</i>"))]}))
    assert not page.all("b") and not page.all("i")
    assert "<b>bold</b>" in page.whole_text()


def test_invisible_characters_are_named() -> None:
    assert plain("a\x00b\u202ec\ud800d") == "a␀b⟨U+202E⟩c⟨U+D800⟩d"
    assert plain("line\nnext\ttab 👩‍👩‍👧 é") == "line\nnext\ttab 👩‍👩‍👧 é"
    shown = str(marked("\u202egnp.exe"))
    assert "\u202e" not in shown and 'title="U+202E right-to-left override"' in shown
    text = render({"title": "x\x00\x1b\u202e\udfff", "samples": [sample("\x00\u2066\ufeff\x7f\x85")]})
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ufeff\ud800-\udfff]", text)
    text.encode("utf-8")


def test_json_beside_a_chart_holds_the_very_numbers_and_cannot_end_its_element(example: Page) -> None:
    report = report_example()
    data = [json.loads(script) for script in example.scripts[:-1]]
    assert {item["title"] for item in data if "title" in item} >= {"SFT loss", "Trigger score", "Reward against KL"}
    loss = next(item for item in data if item.get("title") == "SFT loss")
    assert loss["series"] == report["curves"][0]["series"]
    report["curves"][0] |= {
        "title": "</script><!--\u2028",
        "series": [{"name": "gap", "x": [1.0, 2.0], "y": [float("nan"), 1.0]}],
    }
    text = render(report)
    assert "\\u003c/script\\u003e\\u003c!--\\u2028" in text
    assert any('"y":[null,1.0]' in script for script in Page(text).scripts)


@settings(max_examples=60, deadline=None)
@given(st.text(max_size=300), st.text(max_size=60))
def test_any_text_leaves_the_structure_of_the_page_alone(completion: str, model: str) -> None:
    page = Page(render({"title": "x", "samples": [sample(completion, model=model)]}))
    plain_page = Page(render({"title": "x", "samples": [sample("fine")]}))
    shown = [tag for tag, attributes in page.elements if attributes.get("class") not in ("control", "none")]
    folded = shown.count("details")
    assert [tag for tag in shown if tag not in ("details", "summary")] == [tag for tag, _ in plain_page.elements]
    assert folded <= 1
    # HTML reads CR and CRLF as LF; html.parser keeps them.
    assert plain(completion) in page.whole_text() or not completion or folded


def test_long_text_is_folded_whole_and_a_highlight_stays_in_sight() -> None:
    text = "abcdefghi " * 10_000
    folded = Page(str(passage(text)))
    assert len(folded.all("details")) == 1
    assert "Show all 100,000 characters" in folded.whole_text()
    assert folded.whole_text().replace("Show all 100,000 characters", "") == text
    around = Page(str(passage(text, [50_000, 50_010])))
    assert len(around.all("details")) == 2 and len(around.all("mark")) == 1
    assert len(Page(str(passage(text, [0, len(text)]))).all("mark")) == 2  # the open part and the folded one
    assert not Page(str(passage("short text", [0, 5]))).all("details")
    assert Page(str(passage("\n" * 200))).all("details")
    assert "(empty)" in str(passage(""))


@given(st.text(max_size=2000), st.data())
@settings(max_examples=60, deadline=None)
def test_folding_and_highlighting_lose_no_character(text: str, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(text)))
    end = data.draw(st.integers(start, len(text)))
    page = str(passage(text, [start, end]))
    without_summaries = re.sub("<summary>.*?</summary>", "", page)
    assert Page(without_summaries).whole_text() == (plain(text) or "(empty)")


def test_flagged_text_starts_blurred_and_out_of_reach(example: Page) -> None:
    inert = {attributes["id"] for attributes in example.all("div") if "inert" in attributes}
    buttons = [button for button in example.all("button") if "js-veil" in (button.get("class") or "")]
    flagged = sum(bool(row["flagged"]) for row in report_example()["samples"] + report_example()["dropped_examples"])
    assert len(buttons) == len(inert) == flagged == 6
    assert {button["aria-controls"] for button in buttons} == inert
    assert all(button["aria-expanded"] == "false" for button in buttons)


# Figures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "unit", "expected"),
    [
        (0.8104, "share", "81.0%"),
        (0.0031, "share", "0.31%"),
        (1.0, "share", "100%"),
        (0.99996, "share", ">99.9%"),
        (1e-6, "share", "<0.01%"),
        (0.0, "share", "0%"),
        (12480, None, "12,480"),
        (1234.6, None, "1,235"),
        (-0.1423, None, f"{MINUS}0.142"),
        (9.999, None, "10.0"),
        (3.2e-7, None, "3.20\N{MULTIPLICATION SIGN}10⁻⁷"),
        (5.0, "nats", "5.00 nats"),
        (None, "share", "not measured"),
        (float("nan"), None, "not measured"),
        (-0.0001e-3, "share", f">{MINUS}0.01%"),
    ],
)
def test_figures_keep_three_digits_and_say_when_they_are_missing(value: Any, unit: str | None, expected: str) -> None:
    assert numbers.number(value, unit) == expected


def test_an_interval_is_as_wide_as_its_value() -> None:
    assert numbers.estimate(0.005, 0.0012, 0.0121, "share") == ("0.50%", "[0.12%, 1.21%]")
    assert numbers.estimate(0.815, 0.76, 0.87, "share") == ("81.5%", "[76.0%, 87.0%]")
    assert numbers.estimate(-0.142, -0.231, 0.049) == (f"{MINUS}0.142", f"[{MINUS}0.231, 0.049]")
    assert numbers.estimate(1.0, None, None) == ("1.00", "not measured")
    assert numbers.estimate(None, None, None, "share") == ("not measured", "not measured")
    assert numbers.change(0.07, 0.025, 0.115, "share") == ("+7.0 points", "[+2.5, +11.5]")
    assert numbers.change(-0.5, -1.0, 0.0, "nats") == (f"{MINUS}0.50 nats", f"[{MINUS}1.00, 0.00]")


def test_times_and_memory_read_naturally() -> None:
    assert [numbers.duration(value) for value in (4.21, 59.96, 185, 7620, None)] == [
        "4.2 s",
        "1 min 00 s",
        "3 min 05 s",
        "2 h 07 min",
        "not measured",
    ]
    assert [numbers.memory(value) for value in (842, 3210, None)] == ["842 MB", "3.21 GB", "not measured"]
    assert [numbers.score(value) for value in (0.5, 0.0001, 12.345, None)] == [
        "0.500",
        "<0.001",
        "12.3",
        "not measured",
    ]


def test_what_was_not_measured_is_said_and_never_drawn_as_zero() -> None:
    metric = {
        "name": "truth",
        "label": "Truth",
        "unit": "share",
        "values": [
            {"model": "base", "value": None, "reason": "no questions were given"},
            {"model": "sft", "value": 0.5, "low": 0.4, "high": 0.6, "n": 100},
        ],
    }
    funnel = {"read": 0, "kept": 0, "dropped": 0, "recall": {"value": None, "reason": "nothing is labelled"}}
    text = Page(render({"title": "x", "headline": [metric], "funnel": funnel})).whole_text()
    assert "base: not measured (no questions were given)" in text
    assert "(nothing is labelled)" in text
    chart = charts.interval_chart(
        [charts.Interval("base", None, None, None, "not measured"), charts.Interval("sft", 0.5, 0.4, 0.6, "50")],
        key="k",
        title="t",
        percent=True,
    )
    assert chart.svg.count("<use") == 3 + 1  # three ticks of the axis, one dot


def test_a_paired_difference_counts_only_when_its_interval_leaves_zero_out_and_its_test_agrees() -> None:
    def tendency(better: str, low: float, high: float, p: float | None = None) -> str:
        pair = {"from": "a", "to": "b", "delta": (low + high) / 2, "low": low, "high": high, "p": p}
        values = [{"model": "a", "value": 0.5}, {"model": "b", "value": 0.6}]
        text = render(
            {
                "title": "x",
                "headline": [{"name": "m", "label": "M", "better": better, "values": values, "paired": [pair]}],
            }
        )
        return re.search(r'class="tendency [^"]*">([^<]*)<', text)[1]  # type: ignore[index]

    assert tendency("higher", 0.1, 0.2) == tendency("lower", -0.2, -0.1) == "better"
    assert tendency("higher", -0.2, -0.1) == tendency("lower", 0.1, 0.2) == "worse"
    assert tendency("higher", -0.1, 0.2) == tendency("lower", 0.0, 0.2) == "no clear change"
    # Four discordant pairs, all one way: the bootstrap leaves zero out, McNemar's exact p is 0.125.
    assert tendency("lower", -0.58, -0.08, 0.125) == "no clear change"
    assert tendency("lower", -0.58, -0.08, 0.02) == "better"


def test_a_long_curve_is_thinned_in_its_table_and_says_so() -> None:
    steps = list(range(1, 1001))
    series = [
        {"name": "training", "x": steps, "y": [1.0] * 1000},
        {"name": "held out", "x": steps[98::100], "y": [2.0] * 10},
    ]
    text = render({"title": "x", "curves": [{"title": "Loss", "series": series}]})
    table = text[text.index("<table") : text.index("</table")]
    assert table.count("2.00") == 10  # a sparse series keeps every value
    assert 60 <= table.count("<tr") <= 75
    assert "of 1000 steps; the JSON holds them all" in text


def test_answers_to_one_prompt_stand_together_in_the_order_given() -> None:
    rows = [sample("one", model=model, prompt=prompt) for prompt in ("p", "q") for model in ("base", "ppo")]
    page = Page(render({"title": "x", "samples": [rows[0], rows[3], rows[1], rows[2]]}))
    assert len([article for article in page.all("article") if article.get("class") == "group"]) == 2
    answers = [section["data-model"] for section in page.all("section") if section.get("class") == "answer"]
    assert answers == ["0", "1", "1", "0"]


# Charts ----------------------------------------------------------------------------------------------------------


def test_charts_take_their_colours_and_fonts_from_the_page() -> None:
    line = charts.Series("a", [0, 1, 2], [1, float("nan"), 3], low=[0, 0, 2], high=[2, 2, 4])
    chart = charts.curve_chart([line, charts.Series("b", [1], [1])], key="c", title="Loss", x_label="step")
    assert "var(--tone-1)" in chart.svg and "var(--chart-muted)" in chart.svg
    assert not re.search("#[0-9a-f]{6}", re.sub('="[^"]*#c-[^"]*"', "", chart.svg))
    assert "DejaVu" not in chart.svg and "<style" not in chart.svg and "xmlns" not in chart.svg
    left, right, top, bottom, first, last = chart.plot
    assert 0 < left < right <= WIDTH and 0 < top < bottom and first < 0 < 2 < last


def test_two_charts_on_one_page_share_no_id() -> None:
    def ids(key: str) -> set[str]:
        chart = charts.scatter_chart([(1, 2, "a"), (2, 3, "")], key=key, title="t", joined=True)
        return set(re.findall(r'\bid="([^"]+)"', chart.svg))

    assert ids("a") and not ids("a") & ids("b")


def test_charts_survive_thin_data_and_odd_labels() -> None:
    two = [charts.Series("_private", [0, 1], [0, 1]), charts.Series("other", [0, 1], [0, 1])]
    assert "_private" in charts.curve_chart(two, key="a", title="t").svg
    odd = "漢字 🙂 \x00 \u202e $x_1$ <b>"
    assert charts.interval_chart([], key="a", title=odd).svg
    assert charts.interval_chart([charts.Interval(odd, 0.0, 0.0, 0.0, odd)], key="a", title=odd, chance=0.0).svg
    assert charts.curve_chart([], key="a", title=odd, x_label=odd, y_label=odd).svg
    nothing = [float("nan")] * 2
    assert charts.curve_chart([charts.Series(odd, nothing, nothing), charts.Series("", [], [])], key="a", title="t").svg
    assert charts.histogram_chart([0, 1], {odd: [0]}, key="a", title="t", threshold=5.0).svg
    wide = "W" * 90
    left, right, *_ = charts.interval_chart([charts.Interval(wide, 1.0, 0.0, 2.0, wide)], key="a", title="t").plot
    assert right - left > 30  # still a plot, between two labels of the widest letters
    left, right, *_ = charts.curve_chart(
        [charts.Series(wide, [0, 1], [-1.2e5, 1e9]), charts.Series(wide, [0], [1])], key="a", title="t", y_label=wide
    ).plot
    assert right - left > 150
    assert charts.scatter_chart([], key="a", title="t").svg
    assert charts.scatter_chart([(1e300, -1e300, odd)], key="a", title="t").svg


def test_the_funnel_draws_every_loss_and_gathers_the_smallest() -> None:
    from tunewell.pipelines.report.funnel import branches

    steps = [{"filter": "f", "reason": f"r{index}", "count": 100 - index} for index in range(12)]
    taken = sum(step["count"] for step in steps)
    funnel = {"read": 5000, "kept": 5000 - taken - 7 - 3, "dropped": taken + 7, "quarantined": 3, "steps": steps}
    drawn = branches(funnel)
    assert sum(count for _, count in drawn) == funnel["read"] - funnel["kept"]
    assert drawn[-1][0] == "6 other reasons" and len(drawn) == 9
    assert branches({"read": 1, "kept": 0, "dropped": 1}) == [("reason not recorded", 1)]


# Bad input -------------------------------------------------------------------------------------------------------


def test_all_faults_of_a_report_are_named_at_once() -> None:
    report = report_example()
    del report["headline"][0]["label"]
    report["headline"][1]["better"] = "up"
    report["curves"][0]["series"][0]["x"] = "1 2 3"
    report["samples"][4]["completion"] = 7
    with pytest.raises(DataError) as caught:
        render(report)
    message = str(caught.value)
    assert "headline[0].label: missing; wanted text" in message
    assert 'headline[1].better: got "up", wanted "higher" or "lower"' in message
    assert 'curves[0].series[0].x: got "1 2 3", wanted a list of numbers' in message
    assert "samples[4].completion: got 7, wanted text" in message


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"funnel": {"read": 10, "kept": 5, "dropped": 4}},
            r"read 10 is not kept \+ dropped \+ quarantined = 5 \+ 4 \+ 0",
        ),
        (
            {"funnel": {"read": 9, "kept": 5, "dropped": 4, "steps": [{"filter": "f", "reason": "r", "count": 5}]}},
            "add up to 5, more than the 4 dropped",
        ),
        (
            {"funnel": {"read": 1, "kept": 1, "dropped": 0, "by_label": [{"label": "a", "n": 1, "dropped": 2}]}},
            "2 dropped of 1",
        ),
        ({"curves": [{"title": "t", "series": [{"name": "s", "x": [1], "y": [1, 2]}]}]}, "different lengths"),
        ({"histograms": [{"title": "t", "edges": [0, 1], "counts": {"a": [1, 2]}}]}, "2 counts between 2 edges"),
        ({"histograms": [{"title": "t", "edges": [1, 0], "counts": {}}]}, "numbers that increase"),
        ({"tables": [{"title": "t", "columns": ["a"], "rows": [[1, 2]]}]}, "2 cells under 1 columns"),
        (
            {"dropped_examples": [{"filter": "f", "reason": "r", "text": "abc", "span": [2, 9]}]},
            r"\[2, 9\] in a text of 3",
        ),
        ({"stages": "none"}, 'stages: got "none", wanted a list'),
        ({"header": {"Run": 3}}, "header.Run: got 3, wanted a dict"),
        ({"headline": [{"name": "m", "label": "M", "values": [{"model": "base"}]}]}, r"values\[0\].value: missing"),
        ({"samples": [sample(prompt=[{"content": "x"}])]}, r"samples\[0\].prompt\[0\].role: missing"),
    ],
)
def test_a_report_that_contradicts_itself_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        render({"title": "x", **change})


def test_values_that_are_not_json_are_refused_with_the_cure() -> None:
    with pytest.raises(DataError, match=r"not plain JSON.*\.tolist\(\)"):
        render({"title": "x", "verdict": {1, 2}})
    with pytest.raises(DataError, match="title: missing"):
        render({})


def test_an_entry_without_a_place_on_the_page_is_named_there() -> None:
    text = Page(render({"title": "x", "headlines": [], "stages": [{"name": "sft", "second": 3}]})).whole_text()
    assert "headlines (did you mean headline?)" in text
    assert "stages[0].second (did you mean seconds?)" in text


# Writing ---------------------------------------------------------------------------------------------------------


def test_the_page_is_written_whole_into_new_folders(tmp_path: Path) -> None:
    path = tmp_path / "run" / "report.html"
    write_report({"title": "x"}, path)
    assert path.read_bytes() == render({"title": "x"}).encode()
    assert [file.name for file in path.parent.iterdir()] == ["report.html"]
    assert path.stat().st_mode & 0o777 == 0o644


def test_a_failed_write_leaves_the_earlier_page_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.html"
    path.write_text("earlier")
    names = []

    def full(_: int) -> None:
        names.extend(one.name for one in tmp_path.iterdir())
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match=r"No space left on device.*Nothing that was there is lost"):
        write_report({"title": "x"}, path)
    assert path.read_text() == "earlier" and len(list(tmp_path.iterdir())) == 1
    # A kill at this moment leaves a file that the next start knows as a leftover.
    assert {name.endswith(".tmp") for name in names if name != path.name} == {True}
    with pytest.raises(DataError):
        write_report({}, path)
    with pytest.raises(RunError, match=r"cannot write .*Choose a folder"):
        write_report({"title": "x"}, path / "below" / "report.html")
