"""Texts that are made to slip through, and files that look alike: what filters once overlooked."""

import json

import numpy as np
import pytest
from tunewell.filters import Blocklist, ContaminationFilter, NearDuplicateFilter, find_personal_data, read_benchmarks
from tunewell.filters.benchmark_texts import BenchmarkItem, items_of
from tunewell.filters.contamination_report import ContaminationReport
from tunewell.filters.personal_data import redact
from tunewell.filters.redaction import redact_row
from tunewell.filters.words import words_of
from tunewell.toolkit.errors import SettingsError


@pytest.mark.parametrize("mark", ["\u0336", "\u0489", "\u0483", "\u2de0", "\ua66f", "\u0488", "\u0345"])
def test_crossed_out_words_are_found_whatever_crosses_them_out(mark):
    words = Blocklist.from_lines(["kill"])
    text = "".join(letter + mark for letter in "kill")
    (hit,) = words.find(f"they {text} it")
    assert text.startswith(f"they {text} it"[hit.start : hit.end].rstrip(mark))
    assert not words.find(f"they s{text} it")  # control: a longer word


def test_the_script_of_a_word_is_not_decided_by_signs_of_scripts_without_spaces():
    words = Blocklist.from_lines(["kill"])
    assert words.find("kill\u6211") and words.find("kill\u6211\u044f") and words.find("\u6211kill")


@pytest.mark.parametrize("behind", [" 12/27", " 123", " 1234", " 1227", "-123"])
def test_a_card_is_found_though_its_expiry_or_code_follows(behind):
    assert redact(f"card 4111 1111 1111 1111{behind} x").text == f"card [CARD]{behind} x"
    assert redact(f"no card 4111 1111 1111 1112{behind} x").text.count("[CARD]") == 0


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("x (212) 736-5000 8.8.8.8 x", "x [PHONE] [IP_ADDRESS] x"),
        ("x +44 20 7946 0958 5500000000000004 x", "x [PHONE] [CARD] x"),
        ("x (212) 736-5000  212-736-5000 x", "x [PHONE]  [PHONE] x"),
        ("x 2001:4860:4860::8888 4111 1111 1111 1111 x", "x [IP_ADDRESS] [CARD] x"),
    ],
)
def test_a_piece_is_found_beside_another(text, hidden):
    assert redact(text).text == hidden and redact(hidden).text == hidden


def test_of_thousands_of_pieces_each_is_found():
    text = "\n".join(f"u{n}@posthof.net 8.8.{n % 250}.{n // 250 + 1}" for n in range(6000))
    assert len(find_personal_data(text, kinds=("email", "ip_address"))) == 12_000


def test_texts_of_messages_in_parts_are_hidden_too():
    turn = {"role": "user", "content": [{"type": "text", "text": "mail zoe.k@posthof.net"}], "thinking": "8.8.8.8"}
    found = redact_row({"messages": [turn]})
    assert found.row["messages"][0]["content"][0] == {"type": "text", "text": "mail [EMAIL]"}
    assert found.row["messages"][0]["thinking"] == "[IP_ADDRESS]" and found.counts == {"email": 1, "ip_address": 1}


def test_vowel_signs_belong_to_their_words():
    assert words_of("\u092d\u093e\u0930\u0924 \u0915\u0940") == ["\u092d\u093e\u0930\u0924", "\u0915\u0940"]
    assert words_of("\u0642\u064e\u062a\u064e\u0644\u060c x") == ["\u0642\u064e\u062a\u064e\u0644", "x"]
    first = "\u092d\u093e\u0930\u0924 \u0915\u0940 \u0930\u093e\u091c"
    other = "\u092d\u0930\u0924 \u0915\u0947 \u0930\u094b\u091c"  # the same consonants
    judge = NearDuplicateFilter(shingle_words=1)
    assert judge.decide(judge.summarise([first, other, first])).of.tolist() == [-1, -1, 0]


def test_places_are_counted_over_all_items_and_one_word_again_and_again_is_looked_up_once():
    one, two = (tuple(f"{name}{n}" for n in range(13)) for name in "ab")
    items = (BenchmarkItem("b", 1, (" ".join(one),)), BenchmarkItem("b", 2, (" ".join(two),)))
    verdict = ContaminationFilter(items=items, max_ngrams=1).judge([" ".join((*one, "x", *two))])[0]
    assert (verdict.keep, verdict.measures["ngrams"], verdict.measures["items"]) == (False, 2, 2)
    zeros = ContaminationFilter(items=(BenchmarkItem("arc", 1, (" ".join(["0"] * 900),)),))
    assert zeros.judge([" ".join(["0"] * 50_000)])[0].measures["coverage"] == 1


def test_benchmarks_of_one_file_name_stay_apart(tmp_path):
    texts = [" ".join(f"{name}{n}" for n in range(14)) for name in "ab"]
    paths = []
    for name, text in zip(("gsm", "mmlu"), texts, strict=True):
        (tmp_path / name).mkdir()
        paths.append(tmp_path / name / "test.jsonl")
        paths[-1].write_text(json.dumps({"question": text}) + "\n")
    report = ContaminationReport(ContaminationFilter(items=read_benchmarks(paths)))
    report.add([("here", texts[0])])
    assert [(one.benchmark, one.items, one.found) for one in report.benchmarks] == [
        (str(paths[0]), 1, 1), (str(paths[1]), 1, 0),
    ]  # fmt: skip


def test_a_text_with_an_address_in_it_is_a_passage_and_an_address_alone_is_none():
    chinese = "\u8bf7\u9605\u8bfbhttps://example.com/a\u5e76\u56de\u7b54"
    rows = [{"q": chinese}, {"q": "see\nhttps://example.com/a"}, {"q": "https://example.com/a"}]
    assert [item.row for item in items_of(rows, "x")] == [1, 2]


def test_the_same_text_with_other_stars_is_not_said_to_find_the_same():
    with pytest.raises(SettingsError, match=r"line 2: got '\*kill', the text of line 1 with other stars"):
        Blocklist.from_lines(["kill*", "*kill"])
    with pytest.raises(SettingsError, match="finds the same as line 1"):
        Blocklist.from_lines(["kill*", "KILL*"])


def test_a_summary_of_words_is_as_it_was_where_no_sign_is_in_it():
    judge = NearDuplicateFilter(n_hashes=16)
    assert np.array_equal(judge.summarise(["One, two"]), judge.summarise(["one two"]))
