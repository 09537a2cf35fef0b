import pytest
from tunewell.eval.short_answers import answer_f1, exact_match, normalised


def test_case_articles_and_punctuation_do_not_count():
    assert normalised(" The  North-Sea, an ocean. ") == "northsea ocean"
    assert exact_match("the North Sea.", ["Baltic", "North Sea"]) == 1.0
    assert exact_match("North", ["North Sea"]) == 0.0


@pytest.mark.parametrize(
    ("answer", "references", "f1"),
    [
        ("the cold North Sea", ["North Sea"], 0.8),  # 2 of 3 words and 2 of 2
        ("sea sea", ["sea"], 2 / 3),  # a word counts as often as both have it
        ("Baltic", ["North Sea"], 0.0),
        ("Baltic Sea", ["North Sea", "Baltic"], 2 / 3),  # the nearest reference
        ("", [""], 1.0),
        ("", ["North Sea"], 0.0),
        ("The.", [""], 1.0),  # nothing is left of it
    ],
)
def test_f1_by_hand(answer, references, f1):
    assert answer_f1(answer, references) == pytest.approx(f1)
