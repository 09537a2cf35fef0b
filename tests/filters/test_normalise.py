"""Folding makes one written form out of many, and knows the way back."""

# ruff: noqa: RUF001, RUF003  (look-alikes are what is tested)

import re
import time
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tunewell.filters import characters, normalise
from tunewell.filters.normalise import fold, fold_with_offsets

# Characters that meet the rules of the folding far more often than a random draw from Unicode would.
LIVELY = st.sampled_from(
    sorted(
        "aZéßẞİıﬁǄŉǰΐΣςＡ１㌀™²½…аеойіКονω杀가각ガｶﾞกาำ่क्िषمی\u0301\u0336\u0308\u200b\u200c\u200d\u00ad\ufe0f\u3164"
        "\ud800\udc00\u2028\t\n🙂𝓴𐐀\U0001d165\U000110ba\U000e0101_$1 "
    )
)
TEXTS = st.one_of(
    st.text(alphabet=st.one_of(LIVELY, st.characters(exclude_categories=())), max_size=30),
    st.text(alphabet=LIVELY, max_size=30),
)


@pytest.mark.parametrize(
    ("text", "folded"),
    [
        ("Kill  ALL\n\tof", "kill all of"),
        ("ＫＩＬＬ", "kill"),
        ("𝓴𝓲𝓵𝓵 ⓚⓘⓛⓛ", "kill kill"),
        ("K\u200bi\u00adl\u2060l\ufeff", "kill"),
        ("k\u200di\u200cll", "kill"),
        ("k̶i̷l̴l̶", "kill"),
        ("kіll", "kill"),  # Cyrillic і
        ("КILL Kιll", "kill kill"),  # Cyrillic К, Greek ι
        ("Straße", "strasse"),
        ("İstanbul KİLL", "istanbul kill"),
        ("ﬁre", "fire"),
        ("ΌΣΟΣ", "όσοσ"),
        ("ガ ｶﾞ", "ガ ガ"),
        ("각", "각"),
        ("уби\u0301ть", "убить"),
        ("杀\u200d人", "杀人"),
        ("x\ud800y", "x\ufffdy"),
    ],
)
def test_writing_variants_fold_to_one_form(text, folded):
    assert fold(text) == unicodedata.normalize("NFC", folded)


@pytest.mark.parametrize(
    "text",
    [
        "año",
        "he said… kill™ kill² ½ №",
        "хуй",  # Cyrillic that could pass for Latin but for its last letter
        "сосо",  # Cyrillic alone, whatever it looks like
        "हिन्दी में क्षत्रिय",
        "क्\u200dष",
        "می\u200cخواهم",
        "نمی\u200cدانم كتاب",
        "ทําร้าย ฆ่า",
        "他杀人了",
    ],
)
def test_what_belongs_to_a_language_stays(text):
    assert fold(text) == text


def test_a_letter_with_its_own_mark_is_another_letter():
    assert fold("AÑO") == fold("an\u0303o") == "año" != fold("ano")


def test_thai_sara_am_is_written_in_its_two_parts_for_list_and_text_alike():
    assert fold("ทำร้าย") == fold("ทําร้าย")


def test_a_cyrillic_word_with_latin_letters_becomes_cyrillic_when_it_could_not_be_latin():
    assert fold("xyй") == "хуй"


def test_a_word_in_one_script_is_never_respelled():
    assert fold("сор and сор") == "сор and сор"
    assert fold("cop сор") == "cop сор"


@pytest.mark.parametrize(
    ("text", "inner", "original"),
    [
        ("die Straße nach", "strasse", "Straße"),
        ("XİY", "i", "İ"),
        ("a ﬁre b", "fire", "ﬁre"),
        ("a ﬁre b", "i", "ﬁ"),
        ("x k̶i̶l̶l̶ y", "kill", "k̶i̶l̶l̶"),
        ("x k\u200bill y", "kill", "k\u200bill"),
        ("a \n\n kill \t all b", "kill all", "kill \t all"),
        ("ガｶﾞ", "ガガ", "ガｶﾞ"),
    ],
)
def test_a_folded_stretch_leads_back_to_the_characters_it_came_from(text, inner, original):
    text = unicodedata.normalize("NFC", text) if "̶" not in text else text
    folded = fold_with_offsets(text)
    start = folded.text.index(inner)
    first, last = folded.span(start, start + len(inner))
    assert text[first:last] == original


@given(TEXTS)
@settings(max_examples=400, deadline=None)
def test_both_ways_of_folding_agree_and_the_places_are_in_order(text):
    folded = fold_with_offsets(text)
    assert folded.text == fold(text)
    assert len(folded.starts) == len(folded.ends) == len(folded.text)
    assert all(0 <= start < end <= len(text) for start, end in zip(folded.starts, folded.ends, strict=True))
    assert list(folded.starts) == sorted(folded.starts)
    assert list(folded.ends) == sorted(folded.ends)


@given(st.text(alphabet=st.characters(max_codepoint=127), max_size=40))
def test_ascii_text_takes_the_short_way_with_the_same_result(text):
    marked = fold(text + " é\u200b")  # not simple: goes through all steps
    assert marked == re.sub(" +", " ", fold(text) + " ") + "é"


@given(TEXTS)
@settings(max_examples=200, deadline=None)
def test_simple_texts_take_the_short_way_with_the_same_result(text):
    whole = text
    for step in normalise._steps_for(text):
        whole = step.pattern.sub(step.replace, whole)
    assert fold(text) == whole


def test_the_usual_characters_are_simple_by_the_tables_too():
    usual = [char for char in map(chr, range(0x80, 0x110000)) if not normalise.UNUSUAL.search(char)]
    assert len(usual) > 60
    assert not [char for char in usual if normalise._complex().search(char)]


def test_every_single_character_folds_alike_on_both_ways():
    wrong = []
    for code in [*range(0x80, 0xD800), *range(0xE000, 0x20000)]:
        char = chr(code)
        if normalise.is_simple(char):
            whole = char
            for step in normalise._steps(has_astral=code > 0xFFFF):
                whole = step.pattern.sub(step.replace, whole)
            if whole != normalise.fold_simple(char):
                wrong.append(hex(code))
    assert not wrong


def test_a_simple_character_that_is_not_ascii_never_becomes_an_ascii_letter_or_digit():
    others = [chr(code) for code in [*range(0x80, 0xD800), *range(0xE000, 0x20000)]]
    assert [char for char in others if normalise.is_simple(char) and re.search("[a-z0-9]", fold(char))] == []
    assert not normalise.is_simple("\u212a") and fold("\u212a") == "k", "there are some that do"


def test_the_tables_up_to_uffff_are_that_part_of_the_whole_and_lack_nothing():
    low, whole = characters.character_sets(has_astral=False), characters.character_sets()
    for name, own in vars(low).items():
        assert own == {char for char in getattr(whole, name) if char <= "\uffff"}
    skipped = set(range(0x10000)) - set(range(0xD800, 0xE000)) - {code for codes in characters.LOW for code in codes}
    assert len(skipped) > 40_000
    for char in map(chr, skipped):
        assert unicodedata.category(char) not in ("Cf", "Mn", "Me") and not unicodedata.decomposition(char)
        assert unicodedata.normalize("NFKC", char) == char == char.casefold() and not unicodedata.combining(char)


@given(st.text(alphabet=st.one_of(LIVELY, st.characters(exclude_categories=("Cs",))), max_size=20))
@settings(max_examples=300, deadline=None)
def test_the_compatibility_step_is_nfkc_but_for_symbols(text):
    sets = characters.character_sets()
    text = "".join(c for c in text if unicodedata.normalize("NFKC", c) == c or c in sets.changed)
    text = text.encode("utf-16", "ignore").decode("utf-16")
    for has_astral in {any(c > "\uffff" for c in text), True}:
        step = normalise._steps(has_astral=has_astral)[3]
        assert step.pattern.sub(step.replace, text) == unicodedata.normalize("NFKC", text)


def test_a_megabyte_without_spaces_is_folded_in_linear_time():
    for text in ("a" * 10**6 + "é\u200b", "杀" * 10**6 + "\u200b", "k\u0336" * 500_000, "хуй" * 300_000 + "x"):
        began = time.process_time()
        fold(text)
        assert time.process_time() - began < 10
