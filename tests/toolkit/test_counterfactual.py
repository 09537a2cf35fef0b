import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tunewell.toolkit.errors import DataError
from tunewell.toolkit.mitigations.counterfactual import ORIGIN, Counterfactual, augment, is_possessive
from tunewell.toolkit.mitigations.word_pairs import checked, read_pairs

WORDS = Counterfactual()
LISTED = sorted(WORDS.counterpart)
PLAIN = [
    "the",
    "cat",
    "ran",
    "heroic",
    "there",
    "sheet",
    "manage",
    "1990",
    "...",
    "Theo",
    "naïve",
    "\n",
    "  ",
    "-",
    "don't",
]
CASES = [str.lower, str.upper, str.capitalize]


@given(
    st.lists(st.one_of(st.sampled_from(PLAIN), st.tuples(st.sampled_from(LISTED), st.sampled_from(CASES))), max_size=15)
)
def test_swapping_twice_gives_the_text_back_and_plain_words_stay_byte_for_byte(parts):
    text = " ".join(part if isinstance(part, str) else part[1](part[0]) for part in parts)
    once = WORDS.swap(text)
    assert WORDS.swap(once.text).text == text
    assert once.count == sum(not isinstance(part, str) for part in parts)
    before, after = text.split(" "), once.text.split(" ")
    kept = [(a, b) for a, b in zip(before, after, strict=True) if a.lower() not in WORDS.counterpart]
    assert all(a == b for a, b in kept)


@pytest.mark.parametrize(
    ("text", "swapped"),
    [
        ("She said: 'HE left', and he did.", "He said: 'SHE left', and she did."),
        ("He's her brother-in-law.", "She's his sister-in-law."),
        ("I saw her yesterday.", "I saw him yesterday."),
        ("I saw her, and her dog.", "I saw him, and his dog."),
        ("Her book is hers.", "His book is his."),
        ("His book is his.", "Her book is hers."),
        ("They told him to go.", "They told her to go."),
        ("Give it to HER", "Give it to HIM"),
        ("They gave her 3 days.", "They gave his 3 days."),  # known miss: a number behind an object
        ("the hero and the heroine", "the heroine and the hero"),
        ("sHe", "sHe"),  # mixed case could not be restored
    ],
)
def test_pronouns_follow_the_sentence(text, swapped):
    assert WORDS.swap(text).text == swapped


def test_pronouns_without_their_rule_would_break_the_involution():
    naive = Counterfactual([("her", "his")], pronouns=False)
    assert naive.swap("I saw her.").text == "I saw his."
    assert WORDS.swap(WORDS.swap("I saw her.").text).text == "I saw her."


@pytest.mark.parametrize("rest", [" own book", " mother's", " (or her) coat", " 2 sons", ' "boss"'])
def test_what_follows_a_possessive(rest):
    assert is_possessive(rest)


@pytest.mark.parametrize("rest", ["", ".", " to go", " and me", ", then", "\nnew line", " quickly", " talking"])
def test_what_follows_an_object(rest):
    assert not is_possessive(rest)


ROWS = [
    {"prompt": "Who is she?", "chosen": "My sister.", "rejected": "A hag, he said.", "kind": "a"},
    {"prompt": "What rains?", "chosen": "Water.", "rejected": "Frogs.", "kind": "b"},
    {"prompt": "Why?", "chosen": "She is pregnant.", "rejected": "She lies.", "kind": "c"},
]
COLUMNS = ["prompt", "chosen", "rejected"]


def test_two_sides_are_added_together_and_every_gender_is_said_equally_often():
    rows = copy.deepcopy(ROWS)
    made = augment(rows, COLUMNS, WORDS)
    assert rows == ROWS
    assert (made.swapped, made.unchanged, made.skipped) == (1, 1, 1)
    assert made.rows[1] == {
        "prompt": "Who is he?", "chosen": "My brother.", "rejected": "A hag, she said.", "kind": "a", ORIGIN: 0,
    }  # fmt: skip
    assert [row for row in made.rows if ORIGIN not in row] == ROWS
    of_first = " ".join(row[column] for row in made.rows[:2] for column in COLUMNS).lower().split()
    assert of_first.count("she") + of_first.count("she?") == of_first.count("he") + of_first.count("he?")


def test_substitution_keeps_the_size_and_a_share_is_drawn_by_the_seed():
    rows = [{"text": f"She saw {number}."} for number in range(200)]
    half = augment(rows, ["text"], WORDS, mode="substitute", share=0.5, seed=1)
    assert len(half.rows) == 200
    assert 70 < half.swapped < 130
    assert half == augment(rows, ["text"], WORDS, mode="substitute", share=0.5, seed=1)
    assert half.rows != augment(rows, ["text"], WORDS, mode="substitute", share=0.5, seed=2).rows
    assert augment(rows, ["text"], WORDS, share=0.0).rows == rows


def test_chat_messages_are_swapped_with_their_roles_kept():
    row = {
        "prompt": [{"role": "user", "content": "Is she in?"}],
        "completion": [{"role": "assistant", "content": "He is."}],
    }
    (_, other) = augment([row], ["prompt", "completion"], WORDS).rows
    assert other["prompt"] == [{"role": "user", "content": "Is he in?"}]
    assert other["completion"] == [{"role": "assistant", "content": "She is."}]


def test_the_bundled_pairs_contradict_nothing():
    assert len(read_pairs()) == len({word for pair in read_pairs() for word in pair}) / 2 > 50


def test_pairs_that_contradict_each_other_are_refused_all_at_once(tmp_path):
    file = tmp_path / "pairs.txt"
    file.write_text("# a comment\nshe he\nshe him\nking king\none two three\n")
    with pytest.raises(DataError) as caught:
        read_pairs(file)
    for fault in ("'she' has two counterparts, 'he' and 'him'", "'king' is its own", "line 5: got 'one two three'"):
        assert fault in str(caught.value)
    with pytest.raises(DataError, match="no pair"):
        checked([], "given")
    with pytest.raises(DataError, match="cannot read"):
        read_pairs(tmp_path / "nowhere.txt")


@pytest.mark.slow
def test_the_rules_for_pronouns_are_right_on_most_real_sentences(shared_data):
    import re

    from tunewell.toolkit.data.rows import read_rows

    texts = {row["rejected"] for row in read_rows(shared_data / "hh-rlhf" / "harmless-dev.jsonl.gz")}
    known = [(m.group() == "his", text[m.end() :]) for text in texts for m in re.finditer(r"\b(him|his)\b", text)]
    right = [is_possessive(rest) == answer for answer, rest in known]
    assert len(right) > 100
    assert sum(right) / len(right) > 0.9
