"""Listed words and phrases are found in every writing, as whole words, with spans of the original text."""

# ruff: noqa: RUF001  (look-alikes are what is tested)

import pickle
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest
import tunewell.filters
from hypothesis import given, settings
from hypothesis import strategies as st
from tunewell.filters.base import decide
from tunewell.filters.blocklist import Blocklist, BlocklistFilter
from tunewell.filters.characters import TO_LATIN
from tunewell.filters.normalise import fold
from tunewell.toolkit.errors import SettingsError

INVISIBLE = "\u200b\u200c\u200d\u00ad\u2060\ufeff\u034f\ufe0f\u200e"
LOOK_ALIKES: dict[str, str] = {}
for _code, _latin in TO_LATIN.items():
    LOOK_ALIKES.setdefault(_latin if isinstance(_latin, str) else chr(_latin), chr(_code))


def found(patterns, text, **options):
    """The originals and the patterns of all matches."""
    hits = Blocklist.from_lines(patterns).find(text, **options)
    return [(text[hit.start : hit.end], hit.pattern.text) for hit in hits]


@st.composite
def disguised(draw, word):
    """Write a lower-case Latin word in other ways, with at least one plain letter left."""
    plain = draw(st.integers(0, len(word) - 1))
    letters = []
    for index, letter in enumerate(word):
        ways = [letter, letter.upper(), chr(ord(letter) + 0xFEE0), letter + "\u0336"]
        if index != plain and letter in LOOK_ALIKES:
            ways.append(LOOK_ALIKES[letter])
        way = draw(st.sampled_from(ways if index != plain else [letter]))
        letters.append(way + (draw(st.sampled_from(["", *INVISIBLE])) if index < len(word) - 1 else ""))
    return "".join(letters)


@given(st.data(), st.sampled_from(["kill", "hate", "worthless", "stop"]), st.text(max_size=20), st.text(max_size=20))
@settings(max_examples=300, deadline=None)
def test_a_pattern_in_any_disguise_is_found_and_its_span_covers_it(data, word, before, after):
    written = data.draw(disguised(word))
    text = f"{before} , {written} , {after}"
    start = len(before) + 3
    spans = [(hit.start, hit.end) for hit in Blocklist.from_lines([word]).find(text)]
    assert (start, start + len(written)) in spans


@given(st.data())
@settings(max_examples=100, deadline=None)
def test_a_phrase_is_found_across_any_white_space(data):
    gap = data.draw(st.text(alphabet=" \t\n\r\v\f\xa0\u2003\u3000", min_size=1, max_size=5))
    first, second = data.draw(disguised("kill")), data.draw(disguised("them"))
    text = f"¿{first}{gap}{second}?"
    assert found(["kill them"], text) == [(text[1:-1], "kill them")]


@given(
    st.lists(st.text(alphabet="ab 杀", min_size=1, max_size=4), min_size=1, max_size=5),
    st.text(alphabet="ab 杀", max_size=12),
    st.booleans(),
    st.booleans(),
)
@settings(max_examples=400, deadline=None)
def test_matches_are_the_leftmost_longest_of_those_at_word_boundaries(lines, text, is_open_left, is_open_right):
    words = sorted({fold(line).strip() for line in lines if len(fold(line).strip()) > 1})
    if not words:
        return
    lines = [("*" if is_open_left else "") + word + ("*" if is_open_right else "") for word in words]
    expected, at, folded = [], 0, re.sub(" +", " ", text)
    while at < len(folded):
        fits = [w for w in words if folded.startswith(w, at) and stands(folded, at, w, is_open_left, is_open_right)]
        if fits:
            expected.append(max(fits, key=len))
            at += len(expected[-1])
        else:
            at += 1
    assert [pattern.strip("*") for _, pattern in found(lines, text)] == expected


def stands(text, at, word, is_open_left, is_open_right):
    left, right = text[max(0, at - 1) : at + 1], text[at + len(word) - 1 : at + len(word) + 1]
    return (is_open_left or at == 0 or not left.isascii() or " " in left) and (
        is_open_right or len(right) < 2 or not right.isascii() or " " in right
    )


def test_a_listed_word_inside_another_word_is_not_found():
    patterns = ["ass", "cunt", "kill"]
    assert found(patterns, "The class assassin of Scunthorpe has skills; compass, killer, mass.") == []
    assert found(patterns, "Ass! (kill), _kill_ kill-joy") == [
        ("Ass", "ass"), ("kill", "kill"), ("kill", "kill"), ("kill", "kill"),
    ]  # fmt: skip
    assert found(["hate"], "hateé hate™ hate² 5hate") == [("hate", "hate"), ("hate", "hate")]


def test_invisible_characters_do_not_make_a_word_boundary():
    assert found(["ass"], "cl\u200bass") == []
    assert found(["ass"], "cl\u0336a\u200bss") == []


def test_a_shorter_pattern_is_found_where_a_longer_one_does_not_end_with_a_word():
    assert found(["kill", "kill all"], "kill allied") == [("kill", "kill")]
    assert found(["kill", "kill all"], "kill all") == [("kill all", "kill all")]
    assert found(["kill all", "all of"], "kill all of them") == [("kill all", "kill all")]
    assert found(["kill all", "all of"], "skill all of them") == [("all of", "all of")]


def test_stars_lift_the_boundary_on_their_side():
    assert found(["kill*"], "skill killer") == [("kill", "kill*")]
    assert found(["*kill"], "skill killer") == [("kill", "*kill")]
    assert found(["*kill*"], "skilled") == [("kill", "*kill*")]
    assert found([r"\*kill*"], "*kill* kill") == [("*kill*", r"\*kill*")]
    assert found([r"\#kill"], "a #kill b") == [("#kill", r"\#kill")]


def test_scripts_without_spaces_have_no_boundaries():
    assert found(["杀人"], "他杀人了") == [("杀人", "杀人")]
    assert found(["ฆ่า"], "เขาฆ่าคน") == [("ฆ่า", "ฆ่า")]
    assert found(["살인"], "그는 살인을 했다") == [("살인", "살인")]
    assert found(["kill"], "他kill了") == [("kill", "kill")]
    assert found(["kill你"], "他skill你kill你") == [("kill你", "kill你")]


def test_vowel_signs_and_joiners_belong_to_the_word():
    assert found(["कम"], "कमी कम") == [("कम", "कम")]
    assert found(["خواهم"], "می\u200cخواهم خواهم") == [("خواهم", "خواهم")]
    assert found(["می\u200cخواهم"], "من می\u200cخواهم") == [("می\u200cخواهم", "می\u200cخواهم")]


def test_a_letter_with_its_own_mark_is_not_the_bare_letter():
    assert found(["ano"], "un año, un an\u0303o, ano") == [("ano", "ano")]
    assert found(["año"], "un an\u0303o, ano") == [("an\u0303o", "año")]


@pytest.mark.parametrize(
    ("pattern", "text", "original"),
    [
        ("strasse", "die Straße!", "Straße"),
        ("straße", "die STRASSE!", "STRASSE"),
        ("killing", "ß ß KİLLİNG ß", "KİLLİNG"),
        ("fire", "ﬁﬁ ﬁre!", "ﬁre"),
        ("хуй", "ну xуй", "xуй"),
    ],
)
def test_spans_fit_where_folding_changes_the_length(pattern, text, original):
    assert found([pattern], text) == [(original, pattern)]


def test_lone_surrogates_are_read_over():
    assert found(["kill"], "a \ud800 kill \udfff") == [("kill", "kill")]
    assert found(["kill"], "ki\ud800ll") == []
    assert found(["kill"], "\ud83d\ude42 kill\ud83d") == [("kill", "kill")]


def test_leetspeak_is_read_only_when_asked_and_only_in_mixed_words():
    patterns = ["kill all", "ass", "shit", "hate"]
    assert found(patterns, "k1ll all $h!t h4te") == []
    assert found(patterns, "k1ll A11 $h!t h4te!", leetspeak=True) == [
        ("k1ll A11", "kill all"), ("$h!t", "shit"), ("h4te", "hate"),
    ]  # fmt: skip
    assert found(patterns, "1st 5 a$$ets $100 p455word 455 ails", leetspeak=True) == []
    assert found(["all", "kill"], "ail kiii", leetspeak=True) == []
    hits = Blocklist.from_lines(patterns).find("a$$, ass", leetspeak=True)
    assert [hit.is_obfuscated for hit in hits] == [True, False]


def test_a_plain_match_goes_before_a_spelled_one():
    assert found(["a$$", "ass"], "a$$", leetspeak=True) == [("a$$", "a$$")]


def test_every_fault_of_a_list_is_reported_with_its_line():
    lines = ["# comment", "", "kill", "  KILL ", "\u200b\u00ad", "x", "*", "\ud800bad", "k\u0456ll", "hate\0", "fine"]
    with pytest.raises(SettingsError) as error:
        Blocklist.from_lines(lines, where="list.txt")
    faults = error.value.faults
    assert "in list.txt" in str(error.value)
    assert [re.match(r"line (\d+)", fault)[1] for fault in faults] == ["4", "5", "6", "7", "8", "9", "10"]
    for fault, word in zip(
        faults,
        ["same as line 3", "nothing is left", "single", "nothing is left", "UTF-8", "line 3", "NUL"],
        strict=True,
    ):
        assert word in fault


def test_a_list_file_is_read_with_any_line_ends_and_bad_bytes_are_named(tmp_path):
    path = tmp_path / "list.txt"
    path.write_bytes(b"\xef\xbb\xbfkill\r\n# no\r\nh\xc3\xa4te all")
    assert [pattern.text for pattern in Blocklist.from_file(path).patterns] == ["kill", "häte all"]
    path.write_bytes(b"kill\nh\xe4te\n")
    with pytest.raises(SettingsError, match=r"line 2: .*not UTF-8"):
        Blocklist.from_file(path)
    path.write_text("# nothing\n")
    with pytest.raises(SettingsError, match="no pattern"):
        Blocklist.from_file(path)
    with pytest.raises(SettingsError, match="cannot read"):
        Blocklist.from_file(tmp_path / "missing.txt")


def test_the_example_list_is_without_faults():
    path = Path(tunewell.filters.__file__).parent / "lists" / "example.txt"
    assert len(Blocklist.from_file(path)) >= 5


def test_lists_with_equal_ids_find_the_same():
    one, same = Blocklist.from_lines(["kill", "Hate"]), Blocklist.from_lines(["hate", "ＫＩＬＬ"])
    assert one.id == same.id != Blocklist.from_lines(["kill*", "hate"]).id


def test_a_list_and_its_filter_travel_between_processes():
    judge = BlocklistFilter(Blocklist.from_lines(["kill"]))
    judge.judge(["kill"])
    assert pickle.loads(pickle.dumps(judge)).judge(["Kill it"]) == judge.judge(["Kill it"])


def test_the_verdict_shows_the_first_match_and_counts_all():
    judge = BlocklistFilter(Blocklist.from_lines(["kill", "Hate*"]), leetspeak=True)
    text = "I HATE to k1ll."
    clean, empty, bad = judge.judge(["fine", "", text])
    assert (clean.keep, clean.score, clean.reason, clean.span, clean.marks) == (True, 0, "", None, ())
    assert (empty.keep, empty.score) == (True, 0)
    assert (bad.keep, bad.score, bad.reason, bad.matched) == (False, 2, "listed_phrase", "Hate*")
    assert text[slice(*bad.span)] == "HATE"
    assert bad.measures == {"matches": 2, "matched_share": 8 / 15}
    assert bad.marks == ("obfuscated",)
    assert judge.judge([]) == []


def test_more_matches_can_be_allowed_and_stored_scores_decide_again():
    strict = BlocklistFilter(Blocklist.from_lines(["kill"]))
    lenient = replace(strict, max_matches=2)
    two, three = "kill kill", "kill kill kill"
    assert [verdict.keep for verdict in lenient.judge([two, three])] == [True, False]
    for text in (two, three):
        stored = strict.judge([text])[0].measures
        assert decide(stored, lenient.limits).keep == lenient.judge([text])[0].keep


@given(
    st.lists(st.sampled_from(["fine", "kill", "a  kill", "skill", "k1ll", "kıll", "é kill", "\0", "kill\0", "", " "]))
)
@settings(max_examples=200, deadline=None)
def test_a_verdict_does_not_depend_on_the_other_texts(texts):
    for leetspeak in (False, True):
        judge = BlocklistFilter(Blocklist.from_lines(["kill", "a kill"]), leetspeak=leetspeak)
        assert judge.judge(texts) == [judge.judge([text])[0] for text in texts]


PREFIXES = [
    "kill",
    "killer bees",
    "hate",
    "hated",
    "ab",
    "-kill-",
    "*ate",
    "kil*",
    "a b c d e f",
    "worthless",
    "wor*",
    "12345678",
    "café",
    "*ñandú",
    "杀人",
]
PIECES = [
    *(one.strip("*") for one in PREFIXES),
    "kille",
    "killer bee",
    "skill",
    "hat",
    "worthles",
    "wort",
    "1234567",
    "x",
    "É",
    "\u201chate\u201d",
    "KILLER",
    "caf",
    "Beé",
    "\xa0",
    "\0",
]


@given(st.lists(st.sampled_from(PREFIXES), min_size=1, unique=True), st.lists(st.lists(st.tuples(
    st.sampled_from(PIECES), st.sampled_from(["", " ", "-", ", "])), max_size=8), max_size=6))  # fmt: skip
@settings(max_examples=300, deadline=None)
def test_what_the_words_of_a_text_rule_out_holds_no_pattern(patterns, texts):
    # Patterns of one word and of many, long ones, open on a side, beginning with a symbol, and not in ASCII.
    listed = Blocklist.from_lines(patterns)
    written = ["".join(piece + gap for piece, gap in text) for text in texts]
    expected = {number: hits for number, text in enumerate(written) if (hits := listed.find(text))}
    assert dict(listed.find_in(written)) == expected


def test_a_megabyte_is_judged_and_nothing_matches_across_texts():
    judge = BlocklistFilter(Blocklist.from_lines(["kill them", "杀人"]), leetspeak=True)
    began = time.process_time()
    big = "a kill  them\n" * 80_000
    verdicts = judge.judge([big, big + "é", "word " * 200_000, "x" * 10**6, "kill", "them"])
    assert [verdict.score for verdict in verdicts] == [80_000, 80_000, 0, 0, 0, 0]
    assert big[slice(*verdicts[0].span)] == "kill  them"
    assert time.process_time() - began < 20


def test_thousands_of_patterns_are_one_pass_over_the_text():
    def seconds(n_patterns):
        judge = BlocklistFilter(Blocklist.from_lines(f"pattern{n:05} word" for n in range(n_patterns)))
        texts = ["Nothing of the list is in this plain text, which is as long as many a message."] * 5_000
        judge.judge(texts)
        began = time.process_time()
        assert all(verdict.keep for verdict in judge.judge(texts))
        return time.process_time() - began

    assert seconds(5_000) < 5 * seconds(10) + 0.05


def test_every_look_alike_is_read_as_its_latin_letter_inside_a_latin_word_and_only_there():
    for code, latin in TO_LATIN.items():
        letter, plain = chr(code), latin if isinstance(latin, str) else chr(latin)
        assert found([f"zz{plain}zz"], f"a zz{letter}zz b") == [(f"zz{letter}zz", f"zz{plain}zz")]
        assert found([plain * 3], letter * 3) == []
