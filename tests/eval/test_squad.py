"""The task `squad`: reading the data, scoring by hand, pairing two models."""

import copy
import json
from dataclasses import replace

import pytest
from micro_model import micro_model
from tunewell.eval import squad as module
from tunewell.eval.compare import compare
from tunewell.eval.squad import squad
from tunewell.eval.squad_prompts import passage_prompt
from tunewell.eval.squad_rows import read_squad
from tunewell.eval.tasks import find_task
from tunewell.toolkit.errors import DataError, ModelError, SettingsError
from tunewell.toolkit.model.generation import Completion

ROWS = [
    {"id": "a", "title": "Sea", "context": "Oil was found in the North Sea.", "question": "Where was oil found?",
     "answers": {"text": ["the North Sea", "North Sea"], "answer_start": [17, 21]}},
    {"id": "b", "title": "Sea", "context": "Oil was found in the North Sea.", "question": "What did it cost?",
     "answers": {"text": [], "answer_start": []}},
    {"id": "c", "title": "", "context": "Snow fell on two cold days.", "question": "What fell?",
     "answers": {"text": ["Snow"], "answer_start": [0]}},
    {"id": "d", "title": "", "context": "Snow fell on two cold days.", "question": "Who saw it?",
     "answers": {"text": [], "answer_start": []}},
]  # fmt: skip


def as_official(rows):
    """The rows in the format in which the data set is published."""
    paragraphs = {}
    for row in rows:
        answers = [{"text": t, "answer_start": s} for t, s in zip(*row["answers"].values(), strict=True)]
        qa = {"id": row["id"], "question": row["question"], "answers": answers, "is_impossible": not answers}
        paragraphs.setdefault((row["title"], row["context"]), []).append(qa)
    return {
        "version": "v2.0",
        "data": [{"title": t, "paragraphs": [{"context": c, "qas": qas}]} for (t, c), qas in paragraphs.items()],
    }


@pytest.fixture
def rows_file(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n" + "".join(json.dumps(row) + "\n" for row in ROWS))  # an empty line before them
    return path


@pytest.fixture
def official_file(tmp_path):
    path = tmp_path / "dev-v2.0.json"
    path.write_text(json.dumps(as_official(ROWS)))
    return path


def saying(monkeypatch, *texts):
    monkeypatch.setattr(module, "generate", lambda *args, **options: [Completion([1], text, True) for text in texts])


def test_both_formats_give_the_same_questions(rows_file, official_file):
    first, second = read_squad(str(rows_file)), read_squad(str(official_file))
    assert first.questions == second.questions
    assert first.questions[0].answers == ("the North Sea", "North Sea") and first.questions[1].answers == ()
    assert len(first.sha256) == 64


def test_the_figures_by_hand(monkeypatch, rows_file):
    # 2 of 3 words after the article is gone, and 2 of 2: F1 0.8; declined in other spelling; declined wrongly; empty.
    saying(monkeypatch, "in the North Sea", " not in background", "Not in background.", "  ")
    result = squad(*micro_model(), read_squad(str(rows_file)), resamples=200)
    found = {name: (score.value, score.n, score.unscored) for name, score in result.scores.items()}
    assert found == {
        "f1": (pytest.approx((0.8 + 1 + 0 + 0) / 4), 4, 0),
        "exact_match": (1 / 4, 4, 0),
        "empty_rate": (1 / 4, 4, 0),
        "mean_words": ((4 + 3 + 3 + 0) / 4, 4, 0),
        "f1_answerable": (pytest.approx(0.4), 2, 0),
        "exact_match_answerable": (0.0, 2, 0),
        "declined_answerable": (1 / 2, 2, 0),
        "declined_unanswerable": (1 / 2, 2, 0),
    }
    assert all(score.low <= score.value <= score.high for score in result.scores.values())
    assert [item["completion"] for item in result.items] == [
        "in the North Sea", "not in background", "Not in background.", ""
    ]  # fmt: skip
    assert len({item["group"] for item in result.items}) == 2 and len({item["id"] for item in result.items}) == 4


def test_to_say_nothing_or_to_decline_always_is_not_mistaken_for_reading(monkeypatch, rows_file):
    questions = read_squad(str(rows_file))
    saying(monkeypatch, *[""] * 4)
    assert squad(*micro_model(), questions, resamples=200).scores["f1"].value == 0.0
    saying(monkeypatch, *["Unknown"] * 4)
    always = squad(*micro_model(), questions, resamples=200, no_answer="unknown.").scores
    assert (always["f1"].value, always["f1_answerable"].value, always["declined_answerable"].value) == (0.5, 0.0, 1.0)


def test_figures_of_a_part_that_is_not_there_are_not_given(monkeypatch, rows_file):
    questions = read_squad(str(rows_file))
    saying(monkeypatch, "North Sea")
    scores = squad(*micro_model(), replace(questions, questions=questions.questions[:1]), resamples=200).scores
    assert scores["exact_match_answerable"].value == 1.0 and "declined_unanswerable" not in scores


def test_two_models_are_paired_by_question(monkeypatch, rows_file):
    questions = read_squad(str(rows_file))
    saying(monkeypatch, "North Sea", "Not in background.", "Snow", "two")
    before = squad(*micro_model(), questions, resamples=200)
    saying(monkeypatch, "Baltic", "Not in background.", "Snow", "two")
    after = squad(*micro_model(1), questions, resamples=200)
    deltas = {row.metric: (row.delta, row.n_pairs, len(row.lost)) for row in compare(before, after, resamples=200)}
    assert deltas["exact_match"] == (-1 / 4, 4, 1)
    assert deltas["exact_match_answerable"] == (-1 / 2, 2, 1)
    assert deltas["declined_unanswerable"] == (0.0, 2, 0)
    assert {row.unscored for row in compare(before, after, resamples=200)} == {0}  # the other part is not missing
    other = squad(*micro_model(1), questions, resamples=200, no_answer="Unanswerable")
    with pytest.raises(DataError, match=r"scorer: .*Not in background.*Unanswerable"):
        compare(before, other)


def test_a_passage_without_room_is_unscored_and_never_cut(monkeypatch, rows_file):
    questions = read_squad(str(rows_file))
    long = replace(questions.questions[0], id="long", passage="snow " * 2000)
    mixed = replace(questions, questions=(*questions.questions, long))
    with pytest.raises(ModelError, match="1 of 5 questions, whose passages leave no room for 50 tokens in the window"):
        squad(*micro_model(), mixed)
    saying(monkeypatch, "North Sea", "Not in background.", "Snow", "two")
    result = squad(*micro_model(), mixed, resamples=200, force=True)
    assert (result.scores["f1"].value, result.scores["f1"].n, result.scores["f1"].unscored) == (0.75, 4, 1)
    assert result.items[4]["values"]["f1"] is None and "1 questions" in result.details["notes"][0]


def test_a_real_model_answers_by_name_the_same_again_and_from_what_was_kept(rows_file, tmp_path):
    task = find_task("squad")(data=str(rows_file), limit=3, max_new_tokens=6, resamples=100)
    assert task.files() == [rows_file] and not task.faults()
    ask, kept = task.prepare(), tmp_path / "kept.jsonl"
    result = ask(*micro_model(), kept=kept)
    assert result.name == "squad" and set(task.labels) >= set(result.scores)
    assert result.details["dataset"]["n"] == 4 and len(result.items) == 3
    assert all("\n" not in item["completion"] for item in result.items)
    lines = kept.read_text()
    again = ask(*micro_model(), kept=kept)
    assert again == result and len(kept.read_text().split()) == len(lines.split())
    assert replace(task, batch_size=1).prepare()(*micro_model()).items == result.items


@pytest.mark.parametrize("preset", ["none", "shots", "{no_answer}|{title}|{passage}|{question}"])
def test_a_prompt_holds_passage_question_and_the_words_to_decline(preset, rows_file):
    one = read_squad(str(rows_file)).questions[0]
    text = passage_prompt(preset, no_answer="Nobody says.")(one)
    assert all(part in text for part in (one.passage, one.question, one.title, "Nobody says."))
    assert text.count("Nobody says.") == (3 if preset == "shots" else 1)


def test_a_prompt_without_title_has_no_empty_title(rows_file):
    assert "Title" not in passage_prompt("none")(read_squad(str(rows_file)).questions[2])


def test_chat_puts_the_whole_of_none_as_the_users_turn(rows_file):
    one, tokenizer = read_squad(str(rows_file)).questions[0], copy.deepcopy(micro_model()[1])
    tokenizer.chat_template = "{% for turn in messages %}<{{ turn.role }}>{{ turn.content }}{% endfor %}<assistant>"
    assert passage_prompt("chat", tokenizer)(one) == f"<user>{passage_prompt('none')(one)}<assistant>"
    tokenizer.chat_template = None
    with pytest.raises(ModelError, match="chat template"):
        passage_prompt("chat", tokenizer)


@pytest.mark.parametrize(
    ("settings", "fault"),
    [
        ({"preset": "few"}, "preset: got 'few', wanted none, shots, chat, or a template"),
        ({"preset": "{passage} {question} {answer}"}, "wanted none, shots"),
        ({"preset": "{passage} {question"}, "is not a template"),
        ({"no_answer": "the ."}, "no_answer: got 'the .', wanted words"),
    ],
)
def test_settings_that_cannot_be_used_are_told(settings, fault):
    assert fault in find_task("squad")(data="x.json", **settings).faults()[0]
    if "preset" in settings:
        with pytest.raises(SettingsError):
            passage_prompt(settings["preset"])


def without(field):
    return [ROWS[0], {key: value for key, value in ROWS[1].items() if key != field}]


@pytest.mark.parametrize(
    ("rows", "fault"),
    [
        (without("question"), "line 2: 'question' is missing, wanted text; there are id, title, context, answers"),
        (without("id"), "line 2: 'id' is missing"),
        (without("answers"), "line 2: 'answers' is missing, wanted an object"),
        ([ROWS[0] | {"context": 3}], "line 1: 'context' is 3, wanted text"),
        ([ROWS[0] | {"question": "  "}], "line 1: 'question' is empty"),
        ([ROWS[0] | {"answers": {"text": "North Sea"}}], "line 1, answers: 'text' is 'North Sea', wanted a list"),
        ([ROWS[0] | {"answers": {"text": [None]}}], "'text' holds None, wanted texts alone"),
        ([ROWS[0] | {"is_impossible": True}], "'is_impossible' is True, yet there are 2 answers"),
        ([ROWS[0], ROWS[1], ROWS[0]], r"1 ids stand there more than once \(such as a\)"),
        ([], "holds no rows"),
    ],
)
def test_rows_that_cannot_be_used_are_named(tmp_path, rows, fault):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(DataError, match=fault):
        read_squad(str(path))


def test_what_is_wrong_in_the_official_file_is_named_by_its_place(tmp_path):
    path = tmp_path / "dev.json"
    for break_it, fault in [
        (lambda tree: tree["data"][1]["paragraphs"][0]["qas"][1].pop("answers"),
         r"data\[1\].paragraphs\[0\].qas\[1\]: 'answers' is missing, wanted a list; there are id, question"),
        (lambda tree: tree["data"][0]["paragraphs"][0].pop("context"), r"paragraphs\[0\]: 'context' is missing"),
        (lambda tree: tree["data"].clear(), "holds no question"),
        (lambda tree: tree.pop("data"), "'data' is missing, wanted a list; there are version"),
        (lambda tree: tree["data"].append(5), r"data\[2\]: got int, wanted an object with 'paragraphs'"),
    ]:  # fmt: skip
        tree = as_official(ROWS)
        break_it(tree)
        path.write_text(json.dumps(tree))
        with pytest.raises(DataError, match=fault):
            read_squad(str(path))
    path.write_text("")
    with pytest.raises(DataError, match="is not JSON"):
        read_squad(str(path))
    with pytest.raises(DataError, match=r"cannot read .*none\.json"):
        read_squad(str(tmp_path / "none.json"))
