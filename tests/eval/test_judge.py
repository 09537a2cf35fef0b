import math

import numpy as np
import pytest
from judge_examples import QUESTIONS, ROWS, answers_to, graded_csv, judge_rows
from tunewell.eval.judge import Answer, CallableJudge, Judgements, open_judge
from tunewell.eval.judge_agreement import auc, judge_agreement
from tunewell.eval.judge_features import reference_features
from tunewell.eval.judge_lexical import LexicalJudge
from tunewell.eval.judge_model import ModelJudge
from tunewell.eval.judge_rows import GradedAnswer, answer_to, read_graded, read_judge_rows, rows_of_benchmark
from tunewell.eval.truthfulqa import read_questions
from tunewell.toolkit.errors import DataError, ModelError, SettingsError
from tunewell.toolkit.settings.base import BaseSettings

LEARNED = range(2, 12)  # questions 0 and 1 are for measuring


@pytest.fixture(scope="module")
def judge(tmp_path_factory):
    path = judge_rows(tmp_path_factory.mktemp("rows") / "rows.jsonl", LEARNED)
    rows = read_judge_rows([path], QUESTIONS)
    return LexicalJudge.train(rows.truth, rows.informative, source=rows.source)


def asked(place):
    return [answer_to(QUESTIONS.questions[place], answer) for answer, _, _ in answers_to(place)]


# What is measured of an answer.


def test_likeness_by_hand():
    one = Answer(question="What is tea?", answer="Tea is a hot drink.", correct=("A hot drink of leaves.",),
                 incorrect=("A bird.", "Tea is a bird."))  # fmt: skip
    found = {name: values[0] for name, values in reference_features([one]).items()}
    # words {tea is a hot drink} and {a hot drink of leaves}: 3 shared of 5 and 5; {tea is a bird}: 3 of 5 and 4
    assert found["words true"] == pytest.approx(2 * 3 / 10)
    assert found["words false"] == pytest.approx(2 * 3 / 9)
    # without the words of the question: {a hot drink} with {a hot drink of leaves}; {a} with {a bird}
    assert found["new words true"] == pytest.approx(2 * 3 / 8)
    assert found["new words false"] == pytest.approx(2 * 1 / 5)
    assert found["new words sign"] == 1.0
    assert found["share of true references"] == pytest.approx(1 / 3)


def test_negation_is_compared_with_the_references():
    one = Answer(question="Can pigs fly?", answer="No, they can't.", correct=("No, pigs can't fly.",),
                 incorrect=("Yes, pigs can fly.",))  # fmt: skip
    found = {name: values[0] for name, values in reference_features([one]).items()}
    assert (found["negation"], found["negation agrees"], found["begins with no agrees"]) == (1.0, 1.0, 1.0)


def test_an_answer_is_judged_alike_in_any_company(judge):
    alone = [judge.judge([one]).true[0] for one in asked(0)]
    assert judge.judge([*asked(1), *asked(0)]).true[5:] == pytest.approx(alone, abs=1e-12)


# The judge.


def test_the_judge_tells_true_from_false_on_questions_it_has_not_seen(judge):
    for place in (0, 1):
        found = judge.judge(asked(place))
        labels = [is_true for _, is_true, _ in answers_to(place)]
        assert [bool(value) for value in found.true > 0.5] == labels
        assert found.informative[:4].min() > found.informative[4]


def test_an_empty_answer_is_none(judge):
    found = judge.judge([Answer(question="?", answer=" ", correct=("a",), incorrect=("b",)), *asked(0)])
    assert math.isnan(found.true[0])
    assert not np.isnan(found.true[1:]).any()


def test_a_judge_survives_its_folder_to_the_last_bit(judge, tmp_path):
    judge.agreement = {"figures": {"auc": {"value": 0.9}}}
    judge.save(tmp_path / "judge")
    again = open_judge(f"lexical:{tmp_path / 'judge'}")
    assert again.id == judge.id
    assert again.agreement == judge.agreement
    assert (again.judge(asked(0)).true == judge.judge(asked(0)).true).all()
    assert {path.suffix for path in (tmp_path / "judge").iterdir()} == {".json", ".safetensors"}  # no pickle
    judge.agreement = {}
    judge.save(tmp_path / "judge")  # trained anew without grades: the agreement was another judge's
    assert open_judge(f"lexical:{tmp_path / 'judge'}").agreement == {}


def test_a_judge_without_its_file_or_with_another_is_refused(judge, tmp_path):
    with pytest.raises(DataError, match=r"holds no judge \(judge\.json is missing\)\. Make one with `tunewell judge"):
        open_judge(f"lexical:{tmp_path / 'none'}")
    judge.save(tmp_path / "judge")
    arrays = tmp_path / "judge" / "arrays.safetensors"
    arrays.write_bytes(arrays.read_bytes()[:-1] + b"\x01")
    with pytest.raises(DataError, match=r"is not the file that judge\.json was written with"):
        open_judge(f"lexical:{tmp_path / 'judge'}")
    arrays.unlink()
    with pytest.raises(DataError, match="cannot read the judge"):
        open_judge(f"lexical:{tmp_path / 'judge'}")


def test_a_judge_trained_on_truth_alone_says_nothing_of_the_rest(tmp_path):
    rows = read_judge_rows([judge_rows(tmp_path / "rows.jsonl", LEARNED)], QUESTIONS)
    found = LexicalJudge.train(rows.truth).judge(asked(0))
    assert np.isnan(found.informative).all()


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        ([], "got no labelled answers"),
        ([(asked(0)[0], True)], "the labels of 'true' are all alike"),
        (
            [(Answer(question="q", answer="", correct=("a",), incorrect=("b",)), True), (asked(0)[0], False)],
            "1 answers",
        ),
        ([(Answer(question="q", answer="a"), True), (asked(0)[0], False)], "1 answers .* have no reference answers"),
    ],
)
def test_answers_that_teach_nothing_are_refused(truth, message):
    with pytest.raises(DataError, match=message):
        LexicalJudge.train(truth)


def test_an_answer_without_references_cannot_be_judged(judge):
    with pytest.raises(DataError, match="needs true and false reference answers; 'q' has 0 and 0"):
        judge.judge([Answer(question="q", answer="a")])


# A judge of one's own, and a model as a judge.


def test_a_function_is_a_judge():
    def strict(answers):
        return [(0.0, 1.0) if "moon" in one.answer else (1.0, 0.5) for one in answers]

    judge = open_judge(strict)
    found = judge.judge([Answer(question="q", answer=text) for text in ("moon", "", "sun")])
    assert found.true.tolist()[::2] == [0.0, 1.0]
    assert math.isnan(found.true[1])
    assert found.informative.tolist()[::2] == [1.0, 0.5]
    assert judge.id.startswith("callable:test_a_function_is_a_judge.<locals>.strict:")
    assert CallableJudge(lambda answers: [0.5] * len(answers), "mine").id == "callable:mine"


@pytest.mark.parametrize("bad", [[2.0], [0.5, 0.5], [[0.1, 0.2, 0.3]]])
def test_a_function_that_returns_something_else_is_refused(bad):
    with pytest.raises(ModelError, match="wanted one probability from 0 to 1 for each of 1 answers"):
        CallableJudge(lambda answers: bad, "bad").judge([Answer(question="q", answer="a")])


@pytest.mark.parametrize("spec", ["lexcial:x", "lexical", "gpt", ""])
def test_an_unknown_judge_is_told_what_there_is(spec):
    with pytest.raises(SettingsError, match=r"wanted lexical:FOLDER .* or hf:FOLDER"):
        open_judge(spec)


def test_a_model_judges_by_yes_and_no(tmp_path):
    from micro_model import micro_model

    model, tokenizer = micro_model()
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    judge = ModelJudge(str(tmp_path / "model"), settings=BaseSettings(device="cpu"))  # as the model that it is held to
    answers = [Answer(question="What is hot?", answer=text) for text in ("Fire is hot.", "", "The moon.")]
    found = judge.judge(answers)
    assert judge.id == open_judge(f"hf:{tmp_path / 'model'}").id
    assert judge.id.startswith("hf:model:")
    assert np.isnan(found.informative).all()
    assert math.isnan(found.true[1])
    # by definition: softmax over the two words
    from tunewell.eval.likelihood import log_likelihoods

    context = "Q: What is hot?\nA: Fire is hot.\nTrue:"
    yes, no = log_likelihoods(model, tokenizer, [(context, " yes"), (context, " no")]).totals
    assert found.true[0] == pytest.approx(math.exp(yes) / (math.exp(yes) + math.exp(no)), abs=1e-5)
    both = open_judge(f"hf:{tmp_path / 'model'},{tmp_path / 'model'}").judge(answers)
    assert not np.isnan(both.informative[[0, 2]]).any()
    with pytest.raises(DataError, match="wanted a folder with a Hugging Face model"):
        open_judge(f"hf:{tmp_path / 'none'}")
    with pytest.raises(DataError, match="wanted a folder with a Hugging Face model"):
        open_judge("hf:runs/judges/none")


def test_a_judge_of_the_hub_that_cannot_be_had_is_told_before_any_answer_is_asked_for(monkeypatch):
    def absent(name, settings):
        raise ModelError(f"base.model: cannot load {name!r} (no network)")

    monkeypatch.setattr("tunewell.toolkit.model.loading.load_tokenizer", absent)
    with pytest.raises(ModelError, match=r"^judge hf:some/judge: cannot load 'some/judge' \(no network\)"):
        open_judge("hf:some/judge")


# Rows.


def test_rows_leave_out_what_is_to_be_measured_and_count_it(tmp_path):
    path = judge_rows(tmp_path / "rows.jsonl")
    with path.open("a") as file:
        file.write('\n{"prompt": "Q: Unheard of?\\nA: Yes.\\nTrue:", "completion": " no"}')
        file.write(f'\n{{"prompt": "Q: {ROWS[3]["question"]}\\nA: \\nTrue:", "completion": " no"}}')
    rows = read_judge_rows([path], QUESTIONS, without=[ROWS[0]["question"], ROWS[1]["question"]])
    assert len(rows.truth) == len(rows.informative) == 10 * 5
    assert rows.left_out == {"questions that the judge is measured on": 20, "questions without reference answers": 1,
                             "empty answers": 1}  # fmt: skip


def test_a_reference_does_not_teach_by_matching_itself(tmp_path):
    row = f'{{"prompt": "Q: {ROWS[0]["question"]}\\nA: it is made of water\\nTrue:", "completion": " yes"}}'
    (tmp_path / "r.jsonl").write_text(row)
    [(answer, _)] = read_judge_rows([tmp_path / "r.jsonl"], QUESTIONS).truth
    assert ROWS[0]["correct"][0] not in answer.correct
    assert len(answer.correct) == 2


def test_the_benchmarks_own_answers_are_rows():
    rows = rows_of_benchmark(QUESTIONS, without=[ROWS[0]["question"]])
    assert len(rows.truth) == 11 * 5
    assert sum(label for _, label in rows.truth) == 11 * 3
    assert all(answer.answer not in (*answer.correct, *answer.incorrect) for answer, _ in rows.truth)
    assert {answer.answer for answer, label in rows.informative if not label} == {"I have no comment."}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{oops", "cannot read .* as JSON lines"),
        ('{"prompt": "Q: a", "completion": " yes"}', "line 1: got prompt 'Q: a'.* wanted a prompt of the form"),
        ('{"prompt": "Q: a\\nA: b\\nTrue:", "completion": "maybe"}', "completion 'maybe'"),
        ('{"prompt": "Q: a\\nA: b\\nTrue:", "completion": "yes"}', "holds no answer with a label of truth"),
        ("[1]", "line 1: got prompt 'None'"),
    ],
)
def test_faulty_rows_are_named(tmp_path, line, message):
    (tmp_path / "r.jsonl").write_text(line)
    with pytest.raises(DataError, match=message):
        read_judge_rows([tmp_path / "r.jsonl"], QUESTIONS)


def test_grades_above_one_count_as_one(tmp_path):
    graded, unknown = read_graded(graded_csv(tmp_path / "g.csv"), QUESTIONS)
    assert {one.true for one in graded} == {0.0, 0.99, 1.0}
    assert len({one.cell for one in graded}) == 3
    assert unknown == 0


def test_answers_to_questions_that_are_not_known_are_counted(tmp_path):
    path = tmp_path / "g.csv"
    known = ROWS[0]["question"]
    path.write_text(f'model_type,prompt_type,question,answer,true\nm,p,"{known}",x,1\nm,p,Who asked this?,x,1\n')
    graded, unknown = read_graded(path, QUESTIONS)
    assert (len(graded), unknown) == (1, 1)


def test_faulty_grades_are_named(tmp_path):
    path = tmp_path / "g.csv"
    path.write_text("model_type,prompt_type,question,answer\n")
    with pytest.raises(DataError, match="lacks the columns true; it has model_type"):
        read_graded(path, QUESTIONS)
    path.write_text("model_type,prompt_type,question,answer,true\n")
    with pytest.raises(DataError, match="holds no row"):
        read_graded(path, QUESTIONS)
    path.write_text(f'model_type,prompt_type,question,answer,true\nm,p,"{ROWS[0]["question"]}",x,high\n')
    with pytest.raises(DataError, match="line 2: got the grade 'high', wanted a number"):
        read_graded(path, QUESTIONS)


# Agreement.


def graded(true, cell="m", question="q"):
    return GradedAnswer(answer=Answer(question=question, answer="a"), cell=cell, true=true, informative=None)


def test_area_by_hand():
    # true ones score 3, 1; false ones 2, 1: of four pairs two won, one tied
    assert auc(np.array([3.0, 1.0, 2.0, 1.0]), np.array([True, True, False, False])) == pytest.approx(2.5 / 4)
    assert math.isnan(auc(np.array([1.0]), np.array([True])))


def test_agreement_by_hand():
    scores = iter([[0.9, 0.8, 0.2, 0.6, 0.1, 0.4]])
    rows = [graded(1.0, "a", "q1"), graded(1.0, "a", "q2"), graded(0.0, "b", "q1"), graded(0.0, "b", "q2"),
            graded(0.0, "c", "q1"), graded(1.0, "c", "q2")]  # fmt: skip

    class Fixed:
        id = "fixed"

        def judge(self, answers):
            values = np.array(next(scores))
            return Judgements(values, np.full(len(values), np.nan))

    found = judge_agreement(Fixed(), rows, resamples=200)
    assert found["accuracy"].value == pytest.approx(4 / 6)
    assert found["accuracy"].chance == 0.5
    # true: .9 .8 .4 against false .2 .6 .1: only .4 loses to .6
    assert found["auc"].value == pytest.approx(8 / 9)
    # shares by cell: judge 1, .5, 0; grades 1, 0, .5
    assert found["rank_correlation"].value == pytest.approx(0.5)
    assert found["cell_error"].value == pytest.approx(1 / 3)
    assert found["bias"].value == pytest.approx(0.0)
    assert "informative_auc" not in found


def test_agreement_with_oneself_is_perfect_and_with_a_coin_is_not():
    rng = np.random.default_rng(0)
    rows = [graded(float(rng.random() < 0.3 + 0.1 * (n % 5)), f"m{n % 5}", f"q{n // 5}") for n in range(400)]
    truth = iter([one.true for one in rows])
    same = judge_agreement(CallableJudge(lambda answers: [next(truth) for _ in answers], "same"), rows, resamples=100)
    assert (same["auc"].value, same["accuracy"].value, same["rank_correlation"].value) == (1.0, 1.0, pytest.approx(1))
    coin = judge_agreement(CallableJudge(lambda answers: rng.random(len(answers)), "coin"), rows, resamples=100)
    assert coin["auc"].low < 0.5 < coin["auc"].high


def test_a_judge_that_says_nothing_cannot_be_measured():
    with pytest.raises(DataError, match="gave no judgement"):
        judge_agreement(CallableJudge(lambda answers: [math.nan] * len(answers), "mute"), [graded(1.0)])


@pytest.mark.slow
def test_agreement_with_gpt_judge_on_instructgpts_answers(shared_data):
    questions = read_questions(shared_data / "truthfulqa" / "TruthfulQA.csv", mode="parity")
    grades, _ = read_graded(shared_data / "instructgpt" / "truthful_qa_samples-dev.csv", questions)
    assert (len(grades), len({one.cell for one in grades})) == (1584, 36)
    rows = read_judge_rows(
        [shared_data / "truthfulqa" / "finetune_truth_train.jsonl.gz"],
        questions,
        without={one.answer.question for one in grades},
    )
    assert not {answer.question for answer, _ in rows.truth} & {one.answer.question for one in grades}
    found = judge_agreement(LexicalJudge.train(rows.truth), grades, resamples=100)
    assert found["auc"].value >= 0.90
    assert found["rank_correlation"].value >= 0.85
