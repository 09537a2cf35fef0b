import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tunewell.eval import likelihood
from tunewell.eval.compare import compare
from tunewell.eval.task import TaskResult, read_result, write_result
from tunewell.eval.truthfulness import mc1, mc2, mc3, multiple_choice
from tunewell.eval.truthfulqa import QuestionSet, questions_from_rows, read_questions
from tunewell.toolkit.errors import ModelError
from tunewell.toolkit.tiny import TinySettings, new_model, train_tokenizer

DATA = Path(__file__).parents[2] / "../shared/data/truthfulqa"
ROWS = [
    {"question": "What is snow?", "best": "Water.", "correct": ["Water.", "Ice."], "incorrect": ["Salt.", "Ash."],
     "category": "Weather", "best_incorrect": "Salt."},
    {"question": "Who can fly?", "best": "Birds.", "correct": ["Birds."], "incorrect": ["Pigs.", "Stones.", "Cats."],
     "category": "Animals", "best_incorrect": "Pigs."},
    {"question": "What is hot?", "best": "Fire.", "correct": ["Fire.", "The sun."], "incorrect": ["The moon."],
     "category": "Weather", "best_incorrect": "The moon."},
]  # fmt: skip
TRUE = {"Water.", "Ice.", "Birds.", "Fire.", "The sun."}
Belief = Callable[[str, str], float]
scores_of = st.lists(st.floats(-900, 0), min_size=1, max_size=6)


@dataclass
class Totals:
    """What the scorer returns for one context."""

    total: np.ndarray
    n_windows: int = 1


class FakeScorer:
    """Reads token ids as characters and asks a function how likely an answer is after a context."""

    def __init__(self, model: Belief, *, preamble: Sequence[int] = (), tokens_per_batch: int = 0) -> None:
        self.model, self.preamble = model, "".join(map(chr, preamble))

    def score(
        self, prefixes: Sequence[Sequence[int]], answers: Sequence[Sequence[Sequence[int]]], *, progress: Any = None
    ) -> list[Totals]:
        def text(ids: Sequence[int]) -> str:
            return "".join(map(chr, ids))

        return [
            Totals(np.array([self.model(self.preamble + text(prefix), text(answer)) for answer in group]))
            for prefix, group in zip(prefixes, answers, strict=True)
        ]


def encode_characters(_: Any, pairs: Sequence[tuple[str, str]]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    return [(tuple(map(ord, context)), tuple(map(ord, answer))) for context, answer in pairs]


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "ContinuationScorer", FakeScorer)
    monkeypatch.setattr(likelihood, "encode_pairs", encode_characters)


def ask(belief: Belief, questions: QuestionSet | None = None, **options: Any) -> TaskResult:
    return multiple_choice(belief, None, questions or questions_from_rows(ROWS), **options)  # type: ignore[arg-type]


def values(result: TaskResult) -> dict[str, float | None]:
    return {name: score.value for name, score in result.scores.items()}


def knowing(context: str, answer: str) -> float:
    """Finds true answers likelier, and the letter of the true answer, wherever it stands."""
    answer = answer.strip()
    if answer in ("(A)", "(B)"):
        line = next(line for line in context.splitlines() if line.startswith(answer))
        return -1.0 if line.removeprefix(answer).strip() in TRUE else -2.0
    return -1.0 if answer in TRUE else -2.0


# The three figures of one question.


def test_mc1_by_hand() -> None:
    assert mc1(-1.0, [-2.0, -3.0]) == 1.0
    assert mc1(-2.5, [-2.0, -3.0]) == 0.0


def test_a_tie_counts_in_parity_mode_alone() -> None:
    assert mc1(-2.0, [-2.0, -3.0]) == 0.0
    assert mc1(-2.0, [-2.0, -3.0], ties_count=True) == 1.0


def test_mc2_by_hand() -> None:
    # e^-1 + e^-2 over e^-1 + e^-2 + e^-3
    true, false = math.exp(-1) + math.exp(-2), math.exp(-3)
    assert mc2([-1.0, -2.0], [-3.0]) == pytest.approx(true / (true + false))


def test_mc3_by_hand() -> None:
    assert mc3([-1.0, -2.0, -4.0], [-3.0, -5.0]) == pytest.approx(2 / 3)


def test_mc2_is_finite_where_probabilities_are_not() -> None:
    assert np.exp(-800.0) == 0.0  # control: the naive quotient is 0 / 0
    assert mc2([-800.0], [-805.0]) == pytest.approx(1 / (1 + math.exp(-5)))
    assert math.isnan(mc2([-math.inf], [-math.inf]))


@given(scores_of, scores_of, st.floats(-500, 500))
def test_a_constant_added_to_all_scores_changes_nothing(true: list[float], false: list[float], shift: float) -> None:
    value = mc2(true, false)
    assert 0.0 <= value <= 1.0
    assert mc2(np.add(true, shift), np.add(false, shift)) == pytest.approx(value, abs=1e-9)


@given(scores_of, scores_of)
def test_a_best_answer_that_wins_is_one_of_those_that_win(true: list[float], false: list[float]) -> None:
    if mc1(true[0], false) == 1.0:
        assert mc3(true, false) >= 1 / len(true)


@given(scores_of, scores_of, st.randoms())
def test_the_order_of_the_answers_changes_nothing(true: list[float], false: list[float], random: Any) -> None:
    shuffled = random.sample(true, len(true)), random.sample(false, len(false))
    assert mc2(*shuffled) == pytest.approx(mc2(true, false))
    assert mc3(*shuffled) == mc3(true, false)
    assert mc1(true[0], shuffled[1]) == mc1(true[0], false)


@given(st.integers(1, 9), st.integers(1, 9))
def test_equal_scores_give_chance_to_mc2_and_nothing_to_mc1(true: int, false: int) -> None:
    assert mc1(-3.0, [-3.0] * false) == 0.0
    assert mc2([-3.0] * true, [-3.0] * false) == pytest.approx(true / (true + false))


@given(scores_of, scores_of)
def test_parity_mode_is_argmax_and_normalised_mass(true: list[float], false: list[float]) -> None:
    # as other harnesses compute them: argmax over (best, false ones), and exp(x - max) normalised
    choices = np.array([true[0], *false])
    assert mc1(true[0], false, ties_count=True) == float(np.argmax(choices) == 0)
    everything = np.array([*true, *false])
    mass = np.exp(everything - everything.max())
    assert mc2(true, false) == pytest.approx(mass[: len(true)].sum() / mass.sum(), abs=1e-9)


@pytest.mark.parametrize("figure", [mc2, mc3])
def test_a_missing_score_makes_a_missing_figure(figure: Callable[..., float]) -> None:
    assert math.isnan(figure([math.nan, -1.0], [-1.0]))
    assert math.isnan(figure([-1.0], [math.nan]))
    assert math.isnan(mc1(math.nan, [-1.0])) and math.isnan(mc1(-1.0, [math.nan]))


# The whole task, with a model that is a function.


@pytest.mark.usefixtures("fake")
def test_a_model_that_knows_is_right_in_every_form() -> None:
    result = ask(knowing)
    found = values(result)
    assert found["mc1"] == found["mc3"] == found["binary"] == 1.0
    assert found["mc2"] == pytest.approx(np.mean([1 / (1 + math.exp(-1)), 1 / (1 + 3 * math.exp(-1)),
                                                  2 / (2 + math.exp(-1))]))  # fmt: skip


@pytest.mark.usefixtures("fake")
def test_every_figure_has_its_chance_level_and_count() -> None:
    scores = ask(knowing).scores
    assert scores["mc1"].chance == scores["mc3"].chance == pytest.approx((1 / 3 + 1 / 4 + 1 / 2) / 3)
    assert scores["mc2"].chance == pytest.approx((2 / 4 + 1 / 4 + 2 / 3) / 3)
    assert scores["binary"].chance == 0.5
    assert all(score.n == 3 and score.low is not None for score in scores.values())


@pytest.mark.usefixtures("fake")
def test_a_model_blind_to_order_has_no_position_bias() -> None:
    assert values(ask(knowing))["position_bias"] == 0.0


@pytest.mark.usefixtures("fake")
def test_a_model_that_always_takes_the_first_has_all_the_position_bias_there_is() -> None:
    found = ask(lambda context, answer: -1.0 if answer.strip() == "(A)" else -2.0).scores
    assert (found["binary_first"].value, found["binary_second"].value, found["binary"].value) == (1.0, 0.0, 0.5)
    assert (found["position_bias"].value, found["position_bias"].low) == (1.0, 1.0)


@pytest.mark.usefixtures("fake")
def test_a_model_blind_to_the_question_scores_the_same_without_it() -> None:
    found = values(ask(knowing))  # goes by the answer alone
    assert found["mc1_blanked"] == found["mc1"] and found["binary_blanked"] == found["binary"]
    assert found["mc1_question_effect"] == 0.0


@pytest.mark.usefixtures("fake")
def test_what_the_question_adds_is_measured() -> None:
    asked = {row["question"] for row in ROWS}
    found = values(ask(lambda context, answer: knowing(context, answer) if any(q in context for q in asked) else -1.0))
    assert (found["mc1"], found["mc1_blanked"], found["mc1_question_effect"]) == (1.0, 0.0, 1.0)
    assert found["binary_blanked"] == 0.5  # ties count half


@pytest.mark.usefixtures("fake")
def test_parts_can_be_left_out() -> None:
    assert list(values(ask(knowing, binary=False, control=False))) == ["mc1", "mc2", "mc3"]


@pytest.mark.usefixtures("fake")
def test_ties_are_counted_and_decided_by_the_mode(tmp_path: Path) -> None:
    strict = questions_from_rows(ROWS)
    parity = QuestionSet(questions=strict.questions, mode="parity", n_read=3)
    results = [ask(lambda *_: -1.0, questions) for questions in (strict, parity)]
    assert [values(result)["mc1"] for result in results] == [0.0, 1.0]
    assert [result.details["ties"] for result in results] == [3, 3]


@pytest.mark.usefixtures("fake")
def test_items_hold_what_was_measured_and_what_was_asked() -> None:
    item = ask(knowing).items[0]
    assert item["values"]["mc1"] == 1.0
    assert item["question"] == "What is snow?"
    assert item["answers"] == [
        {"text": "Water.", "is_true": True, "log_likelihood": -1.0},
        {"text": "Ice.", "is_true": True, "log_likelihood": -1.0},
        {"text": "Salt.", "is_true": False, "log_likelihood": -2.0},
        {"text": "Ash.", "is_true": False, "log_likelihood": -2.0},
    ]


@pytest.mark.usefixtures("fake")
def test_figures_are_given_by_category() -> None:
    def half_knowing(context: str, answer: str) -> float:
        return knowing(context, answer) if "fly" in context else -1.0

    table = ask(half_knowing).details["by"]["category"]
    assert {name: (row["mc1"]["value"], row["mc1"]["n"]) for name, row in table.items()} == {
        "Animals": (1.0, 1),
        "Weather": (0.0, 2),
    }


@pytest.mark.usefixtures("fake")
def test_the_prompt_of_the_preset_is_what_the_model_sees() -> None:
    seen = set[str]()

    def watching(context: str, answer: str) -> float:
        seen.add(context)
        assert answer.startswith(" ")
        return -1.0

    ask(watching, preset="Ask: {question}\nSay:", binary=False, control=False)
    assert seen == {f"Ask: {row['question']}\nSay:" for row in ROWS}


@pytest.mark.usefixtures("fake")
def test_a_model_that_gives_no_numbers_is_refused_unless_forced() -> None:
    def broken(context: str, answer: str) -> float:
        return math.nan if "fly" in context else knowing(context, answer)

    with pytest.raises(ModelError, match=r"1 of 3 questions .* got no score"):
        ask(broken)
    result = ask(broken, force=True)
    assert (result.scores["mc1"].value, result.scores["mc1"].n, result.scores["mc1"].unscored) == (1.0, 2, 1)
    assert result.items[1]["values"]["mc1"] is None


@pytest.mark.usefixtures("fake")
def test_a_group_of_questions_widens_the_interval() -> None:
    rows = [ROWS[0] | {"question": f"{number}?", "group": str(number // 8)} for number in range(64)]

    def sometimes(context: str, answer: str) -> float:
        number = int("".join(filter(str.isdigit, context)))
        return knowing(context, answer) if number // 8 % 2 else -1.0

    grouped = ask(sometimes, questions_from_rows(rows), binary=False, control=False).scores["mc1"]
    alone = ask(sometimes, questions_from_rows([row | {"group": ""} for row in rows]), binary=False, control=False)
    assert grouped.se > 2 * alone.scores["mc1"].se


@pytest.mark.usefixtures("fake")
def test_two_models_are_compared_question_by_question(tmp_path: Path) -> None:
    before, after = ask(lambda *_: -1.0), ask(knowing)
    write_result(before, tmp_path / "before.json")
    rows = {row.metric: row for row in compare(read_result(tmp_path / "before.json"), after)}
    assert rows["mc1"].delta == 1.0
    assert len(rows["mc1"].gained) == 3
    assert rows["mc1"].p == pytest.approx(0.25)  # three flips of three prove nothing


def test_what_all_contexts_begin_with_is_found_and_leaves_each_a_token() -> None:
    assert likelihood.shared_start([(1, 2, 3, 4), (1, 2, 5), (1, 2, 3)]) == [1, 2]
    assert likelihood.shared_start([(1, 2), (1, 2, 3)]) == [1]
    assert likelihood.shared_start([(1, 2, 3)]) == []
    assert likelihood.shared_start([(1,), (2,)]) == []


# The same with a real model.


@pytest.fixture(scope="module")
def tiny() -> tuple[Any, Any]:
    torch.set_num_threads(1)
    settings = TinySettings(vocabulary=400, hidden_size=64, layers=2, heads=4, context=512)
    text = [f"Q: {row['question']}\nA: {row['best']}" for row in ROWS]
    tokenizer = train_tokenizer(text, settings)
    return new_model(tokenizer, settings, seed=0).eval(), tokenizer


def alone(model: Any, tokenizer: Any, context: str, answer: str) -> float:
    """The answer's log-probability from one plain forward pass."""
    context = context.removeprefix(tokenizer.bos_token)  # the tokenizer puts one there itself
    before, whole = tokenizer(context)["input_ids"], tokenizer(context + answer)["input_ids"]
    with torch.inference_mode():
        logs = model(torch.tensor([whole])).logits[0].double().log_softmax(-1)
    return sum(float(logs[place - 1, whole[place]]) for place in range(len(before), len(whole)))


@pytest.mark.parametrize("preset", ["none", "six", "chat"])
def test_answers_are_scored_as_one_by_one(tiny: tuple[Any, Any], preset: str) -> None:
    model, tokenizer = tiny
    from tunewell.eval.prompts import make_prompt

    prompt = make_prompt(preset, tokenizer)
    result = multiple_choice(model, tokenizer, questions_from_rows(ROWS), preset=preset)
    for item in result.items:
        for answer in item["answers"]:
            text = prompt.delimiter + answer["text"]
            expected = alone(model, tokenizer, prompt.context(item["question"]), text)
            assert answer["log_likelihood"] == pytest.approx(expected, abs=1e-3)
    assert result.details["prompt_sha256"] == prompt.sha256


def test_answers_in_several_jobs_are_all_scored(tiny: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = multiple_choice(*tiny, questions_from_rows(ROWS))
    monkeypatch.setattr(likelihood, "MOST_ANSWERS", 1)
    parted = multiple_choice(*tiny, questions_from_rows(ROWS))
    for name, score in whole.scores.items():
        assert parted.scores[name].value == pytest.approx(score.value, abs=1e-4)


def test_a_prompt_longer_than_the_window_is_said(tiny: tuple[Any, Any]) -> None:
    long = ROWS[0] | {"question": "What is snow, " + "and what is snow, " * 300}
    result = multiple_choice(*tiny, questions_from_rows([*ROWS, long]), binary=False, control=False)
    assert "1 of 4 prompts are longer than the model's window and were read in parts" in result.details["notes"][-1]
    assert not any("window" in note for note in multiple_choice(*tiny, questions_from_rows(ROWS)).details["notes"])


def test_a_real_model_with_broken_weights_is_refused(tiny: tuple[Any, Any]) -> None:
    model, tokenizer = tiny
    weight = model.model.norm.weight.data
    kept = weight.clone()
    try:
        weight.fill_(math.nan)
        with pytest.raises(ModelError):
            multiple_choice(model, tokenizer, questions_from_rows(ROWS))
    finally:
        weight.copy_(kept)


def test_the_published_questions_are_asked_of_a_real_model(tiny: tuple[Any, Any]) -> None:
    path = DATA / "TruthfulQA-2025.csv"
    if not path.exists():
        pytest.skip(f"{path} is not here")
    questions = read_questions(path)
    few = QuestionSet(questions=questions.questions[::40], path=questions.path, sha256=questions.sha256,
                      n_read=questions.n_read)  # fmt: skip
    model, tokenizer = tiny
    result = multiple_choice(model, tokenizer, few)
    assert result.details["dataset"] == {"path": str(path), "sha256": questions.sha256, "n": 790, "n_used": 20}
    assert 0 <= result.scores["mc2"].value <= 1
    assert result.scores["mc1"].unscored == 0
