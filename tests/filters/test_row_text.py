"""Filters judge the good side of a row, whatever its shape, and every span is found again in it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tunewell.filters.blocklist import Blocklist, BlocklistFilter
from tunewell.filters.row_text import RowReader, RowText
from tunewell.toolkit.errors import DataError, SettingsError

CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Call me an oaf."},
    {"role": "assistant", "content": "No."},
]


def say(role, content):
    return [{"role": role, "content": content}]


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"text": "a", "label": 1}, "a"),
        ({"prompt": "p"}, "p"),
        ({"prompt": "p", "completion": "c"}, "p\n\nc"),
        ({"prompt": "p", "chosen": "good", "rejected": "oaf"}, "p\n\ngood"),
        ({"chosen": "dialogue", "rejected": "oaf"}, "dialogue"),
        ({"prompt": "p", "completion": "oaf", "rating": 1}, "p"),
        ({"prompt": "p", "completions": ["a", "oaf", "c"], "ranks": [1, 2, 1]}, "p\n\na\n\nc"),
        ({"messages": CHAT}, "Be kind.\n\nCall me an oaf.\n\nNo."),
        (
            {"prompt": say("user", "p"), "chosen": say("assistant", "good"), "rejected": say("assistant", "oaf")},
            "p\n\ngood",
        ),
        ({"text": ""}, ""),
    ],
)
def test_every_shape_is_judged_by_its_good_side(row, text):
    assert RowReader().read(row).text == text


def test_a_pair_is_dropped_as_a_unit_for_its_good_side_and_never_for_its_bad_one():
    judge, reader = BlocklistFilter(Blocklist.from_lines(["oaf"])), RowReader()
    rows = [
        {"prompt": "Hello", "chosen": "Hi.", "rejected": "Go away, oaf."},
        {"prompt": "Hello", "chosen": "Hi, oaf.", "rejected": "Hi."},
        {"prompt": "Hello, oaf", "chosen": "Hi.", "rejected": "Hi."},
    ]
    judged = [reader.read(row) for row in rows]
    verdicts = judge.judge([one.text for one in judged])
    assert [verdict.keep for verdict in verdicts] == [True, False, False]
    assert judged[1].locate(verdicts[1].span) == (("chosen",), (4, 7))
    assert judged[2].locate(verdicts[2].span) == (("prompt",), (7, 10))
    everything = RowReader(columns=("prompt", "chosen", "rejected"))
    assert not judge.judge([everything.read(rows[0]).text])[0].keep


def test_roles_and_columns_can_be_chosen():
    assert RowReader(roles=("assistant",)).read({"messages": CHAT}).text == "No."
    assert RowReader(roles=("tool",)).read({"messages": CHAT}) == RowText("", ())
    pair = {"prompt": CHAT[:2], "chosen": CHAT[2:], "rejected": say("assistant", "Oaf!")}
    assert RowReader(roles=("assistant",)).read(pair).text == "No."
    assert RowReader(columns=("chosen",)).read(pair).text == "No."
    assert RowReader().read({"messages": CHAT}).locate((14, 17)) == (("messages", 1, "content"), (4, 7))


@pytest.mark.parametrize(
    "message", [{"role": "human", "content": "oaf"}, {"content": "oaf"}, {"role": ["x"], "content": "oaf"}]
)
def test_a_message_of_a_role_of_its_own_is_judged_and_told_where_roles_are_chosen(message):
    row = {"messages": [*CHAT, message]}
    assert RowReader().read(row).text.endswith("No.\n\noaf")
    with pytest.raises(DataError, match=r"the row holds the role .* in messages\.3, wanted one of system"):
        RowReader(roles=("user",)).read(row)


@given(st.lists(st.text(max_size=5), min_size=1, max_size=5), st.data())
def test_every_span_is_found_in_the_part_it_begins_in(contents, data):
    row = {"messages": [{"role": "user", "content": content} for content in contents]}
    judged = RowReader().read(row)
    if not judged.text:
        return
    start = data.draw(st.integers(0, len(judged.text) - 1))
    end = data.draw(st.integers(start + 1, len(judged.text)))
    place, (first, last) = judged.locate((start, end))
    content = row["messages"][place[1]]["content"]
    assert 0 <= first <= last <= len(content)
    if judged.text[start:end] in content:
        starts = {part[0]: part[1] for part in judged.parts}
        if starts[place] <= start and end <= starts[place] + len(content):
            assert content[first:last] == judged.text[start:end]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"question": "x"}, "nothing to judge: it has question, wanted one of text.*--column NAME"),
        ({}, "no columns at all"),
        ({"text": None}, "None in text"),
        ({"text": 5}, "5 in text"),
        ({"messages": [{"role": "user"}]}, r"messages\.0"),
        ({"messages": ["hello"]}, r"'hello' in messages\.0"),
        ({"prompt": "p", "chosen": None, "rejected": "x"}, "None in chosen"),
        ({"prompt": "p", "completions": ["a", "b"], "ranks": [1]}, "as ranks of 2 completions"),
        ({"prompt": "p", "completions": ["a", "b"]}, "as ranks of 2 completions"),
    ],
)
def test_rows_that_cannot_be_judged_say_why(row, message):
    with pytest.raises(DataError, match=message):
        RowReader().read(row)


def test_chosen_columns_must_be_there_and_roles_must_exist():
    with pytest.raises(DataError, match="no column 'completion'; it has prompt"):
        RowReader(columns=("prompt", "completion")).read({"prompt": "p"})
    with pytest.raises(SettingsError, match="got 'bot', wanted some of system"):
        RowReader(roles=("bot",))
    with pytest.raises(SettingsError, match="got none"):
        RowReader(roles=())
