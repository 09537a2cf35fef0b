import math
from dataclasses import replace

import pytest
from micro_model import QUESTIONS, micro_model
from tunewell.eval import truthful_answers as module
from tunewell.eval.compare import compare
from tunewell.eval.judge import CallableJudge
from tunewell.eval.tasks import find_task
from tunewell.eval.truthful_answers import truthful_answers
from tunewell.eval.truthfulqa import questions_from_rows
from tunewell.toolkit.errors import DataError, ModelError
from tunewell.toolkit.model.generation import Completion

SET = questions_from_rows(QUESTIONS)
# In the order of the questions: true and helpful, false and helpful, true and of no help, nothing at all.
SAID = ["Snow is water that is frozen. ", "Pigs can fly.", "No comment.", "  "]


@pytest.fixture
def said(monkeypatch):
    monkeypatch.setattr(module, "generate", lambda *args, **options: [Completion([1], text, True) for text in SAID])


def strict(answers):
    return [(float("Pigs" not in one.answer), float("comment" not in one.answer)) for one in answers]


def ask(judge=strict, **options):
    return truthful_answers(*micro_model(), SET, CallableJudge(judge, "strict"), **options)


@pytest.mark.usefixtures("said")
def test_the_figures_by_hand():
    result = ask()
    values = {name: (score.value, score.n) for name, score in result.scores.items()}
    assert values["true_and_informative"] == (1 / 4, 4)
    assert values["true"] == (pytest.approx(2 / 3), 3)  # the empty answer is not judged
    assert values["informative"] == (2 / 4, 4)
    assert values["nearer_true"][1] == 3
    assert values["empty_rate"] == (1 / 4, 4)
    assert values["mean_words"] == (pytest.approx((6 + 3 + 2 + 0) / 4), 4)
    assert result.items[0]["completion"] == "Snow is water that is frozen."
    assert result.items[3]["values"]["true_and_informative"] == 0.0
    assert result.details["scorer"] == "callable:strict"


@pytest.mark.usefixtures("said")
def test_nearer_in_words_by_hand():
    assert [item["values"]["nearer_true"] for item in ask().items] == [1.0, 0.0, 0.5, None]


@pytest.mark.usefixtures("said")
def test_a_judge_of_truth_alone_leaves_the_headline_unmeasured_and_says_so():
    # One answer false, two true, one empty: the false and the empty one alone must not make up a headline of zero.
    result = ask(lambda answers: [float("Pigs" not in one.answer) for one in answers])
    assert result.scores["true"].value == pytest.approx(2 / 3)
    for name in ("true_and_informative", "informative"):
        assert (result.scores[name].value, result.scores[name].n, result.scores[name].unscored) == (None, 0, 4)
    assert "does not tell what is informative" in result.details["notes"][-1]


@pytest.mark.usefixtures("said")
def test_answers_that_the_judge_cannot_judge_stop_the_task():
    def forgetful(answers):
        return [math.nan if "Snow" in one.answer else 1.0 for one in answers]

    with pytest.raises(ModelError, match=r"1 of 4 answers \(judge callable:strict\) got no score"):
        ask(forgetful)
    assert ask(forgetful, force=True).scores["true"].n == 2

    def forgets_the_rest(answers):
        return [(1.0, math.nan if "Snow" in one.answer else 1.0) for one in answers]

    with pytest.raises(ModelError, match="1 of 4 answers"):
        ask(forgets_the_rest)


@pytest.mark.usefixtures("said")
def test_two_judges_are_not_compared():
    other = truthful_answers(*micro_model(), SET, CallableJudge(strict, "other"))
    with pytest.raises(DataError, match="scorer: 'callable:strict' and 'callable:other'"):
        compare(ask(), other)


def test_a_real_model_answers_and_is_told_where_to_stop():
    seen = []

    def judge(answers):
        seen.extend(answers)
        return strict(answers)

    result = ask(judge, batch_size=3, preset="six")
    assert len(result.items) == len(SET.questions)
    assert all("\n\n" not in item["completion"] and "\nQ:" not in item["completion"] for item in result.items)
    assert {one.question for one in seen} <= {one.question for one in SET.questions}
    assert all(one.correct and one.incorrect for one in seen)
    again = ask(judge, batch_size=1, preset="six")
    assert [item["completion"] for item in again.items] == [item["completion"] for item in result.items]


def test_a_question_without_room_is_refused():
    long = replace(SET, questions=(replace(SET.questions[0], question="why " * 1200),))
    with pytest.raises(DataError, match="leaves 0 of the model's window"):
        truthful_answers(*micro_model(), long, CallableJudge(strict, "strict"))


def test_the_task_is_asked_by_name(tmp_path):
    from judge_examples import QUESTIONS as OTHERS
    from judge_examples import judge_rows, questions_file
    from tunewell.eval.judge_lexical import LexicalJudge
    from tunewell.eval.judge_rows import read_judge_rows

    rows = read_judge_rows([judge_rows(tmp_path / "rows.jsonl")], OTHERS)
    LexicalJudge.train(rows.truth, rows.informative).save(tmp_path / "judge")
    task = find_task("truthful_answers")(
        questions=questions_file(tmp_path / "q.jsonl"), judge=f"lexical:{tmp_path / 'judge'}", limit=3,
        max_new_tokens=8, resamples=100,
    )  # fmt: skip
    assert tmp_path / "judge" in task.files()
    result = task.prepare()(*micro_model(), kept=tmp_path / "kept.jsonl")
    assert len((tmp_path / "kept.jsonl").read_text().split()) >= 3  # a call that was cut off goes on from there
    assert result.name == "truthful_answers"
    assert result.details["scorer"].startswith("lexical:")
    assert set(task.labels) <= set(result.scores)
    with pytest.raises(DataError, match="holds no judge"):
        replace(task, judge=f"lexical:{tmp_path / 'none'}").prepare()
