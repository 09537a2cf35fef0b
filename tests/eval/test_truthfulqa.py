import csv
import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
from tunewell.eval.truthfulqa import questions_from_rows, read_questions, read_truthfulqa, split_answers, word_f1
from tunewell.toolkit.errors import DataError

DATA = Path(__file__).parents[2] / "../shared/data/truthfulqa"
HEADER = ["Type", "Category", "Question", "Best Answer", "Correct Answers", "Incorrect Answers", "Source"]
ROW = ["Adversarial", "Kitchen", "What is soup?", "A liquid food", "A liquid food; A dish", "A metal; A stone", ""]


def write_csv(path: Path, *rows: list[str], header: list[str] = HEADER, encoding: str = "utf-8") -> Path:
    with path.open("w", encoding=encoding, newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def json_row(**changes: Any) -> dict[str, Any]:
    return {"question": "What is soup?", "best": "Food.", "correct": ["Food."], "incorrect": ["Metal."]} | changes


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_csv_is_read_with_and_without_byte_order_mark(tmp_path: Path, encoding: str) -> None:
    questions = read_truthfulqa(write_csv(tmp_path / "t.csv", ROW, encoding=encoding))
    [question] = questions.questions
    assert question.question == "What is soup?"
    assert question.best == "A liquid food."
    assert question.correct == ("A liquid food.", "A dish.")
    assert question.incorrect == ("A metal.", "A stone.")
    assert (question.category, question.kind) == ("Kitchen", "Adversarial")
    assert questions.sha256 == hashlib.sha256((tmp_path / "t.csv").read_bytes()).hexdigest()


def test_lists_are_split_at_semicolons_without_empty_answers() -> None:
    assert split_answers(" One;Two.; three ;; ") == ["One.", "Two.", "three."]


def test_surrounding_space_of_a_question_goes(tmp_path: Path) -> None:
    row = [*ROW[:2], "  What is soup?\t", *ROW[3:]]
    assert read_truthfulqa(write_csv(tmp_path / "t.csv", row)).questions[0].question == "What is soup?"


def test_answers_listed_twice_count_once_and_that_is_said(tmp_path: Path) -> None:
    row = [*ROW[:4], "A liquid food; A dish; A dish.", "A metal; A metal", ""]
    questions = read_truthfulqa(write_csv(tmp_path / "t.csv", row))
    assert questions.questions[0].correct == ("A liquid food.", "A dish.")
    assert questions.questions[0].incorrect == ("A metal.",)
    assert "1 question: answers listed twice, counted once" in questions.notes


def test_an_answer_both_true_and_false_leaves_the_question_out_in_strict_mode_alone(tmp_path: Path) -> None:
    both = [*ROW[:4], "A liquid food; Unknown", "A metal; Unknown", ""]
    path = write_csv(tmp_path / "t.csv", ROW, both)
    strict, parity = read_truthfulqa(path), read_truthfulqa(path, mode="parity")
    assert (len(strict.questions), strict.n_read) == (1, 2)
    assert len(parity.questions) == 2
    assert any("left out (strict)" in note and "Unknown." in note for note in strict.notes)
    assert any("kept (parity)" in note for note in parity.notes)


def test_a_missing_best_answer_is_put_among_the_true_ones_and_that_is_said(tmp_path: Path) -> None:
    row = [*ROW[:3], "Broth", *ROW[4:]]
    questions = read_truthfulqa(write_csv(tmp_path / "t.csv", row))
    assert questions.questions[0].correct[0] == "Broth."
    assert "1 question: best answer added to the true ones" in questions.notes


def test_the_best_false_answer_is_read_where_there_is_a_column(tmp_path: Path) -> None:
    header, row = [*HEADER[:4], "Best Incorrect Answer", *HEADER[4:]], [*ROW[:4], "A kind of metal", *ROW[4:]]
    questions = read_truthfulqa(write_csv(tmp_path / "t.csv", row, header=header))
    assert questions.questions[0].best_incorrect == "A kind of metal."  # need not be in the list
    assert questions.notes == ()


def test_without_that_column_the_nearest_false_answer_is_taken_and_that_is_said(tmp_path: Path) -> None:
    row = [*ROW[:5], "A stone; A liquid metal; Fire", ""]
    questions = read_truthfulqa(write_csv(tmp_path / "t.csv", row))
    assert questions.questions[0].best_incorrect == "A liquid metal."
    assert any("best false answer not given" in note for note in questions.notes)


def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", ROW[:5], header=HEADER[:5])
    with pytest.raises(DataError, match="lacks the columns Incorrect Answers; it has Type, Category"):
        read_truthfulqa(path)


def test_an_empty_file_and_one_of_bytes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="holds no question"):
        read_truthfulqa(write_csv(tmp_path / "t.csv"))
    (tmp_path / "empty.csv").write_bytes(b"")
    with pytest.raises(DataError, match="it has none"):
        read_truthfulqa(tmp_path / "empty.csv")
    (tmp_path / "b.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match="not a CSV file in UTF-8"):
        read_truthfulqa(tmp_path / "b.csv")
    with pytest.raises(DataError, match="No such file"):
        read_truthfulqa(tmp_path / "missing.csv")


def test_a_question_without_false_answers_is_refused_by_line(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "t.csv", ROW, [*ROW[:5], " ; ", ""])
    with pytest.raises(DataError, match="line 3: incorrect empty"):
        read_truthfulqa(path)


def test_an_unknown_mode_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="mode: got 'lax', wanted 'strict' or 'parity'"):
        read_truthfulqa(write_csv(tmp_path / "t.csv", ROW), mode="lax")


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_json_lines_are_read_as_they_stand(tmp_path: Path, suffix: str) -> None:
    rows = [json_row(), json_row(question="Why?", best="So", correct=["So"], incorrect=["No"], group="g")]
    content = "\n".join(map(json.dumps, rows)).encode() + b"\n\n"
    path = tmp_path / f"q{suffix}"
    path.write_bytes(gzip.compress(content) if suffix.endswith("gz") else content)
    questions = read_questions(path).questions
    assert [question.best for question in questions] == ["Food.", "So"]  # no period is added
    assert questions[1].group == "g"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{oops", "line 2 is not JSON"),
        ("[1]", "line 2 is list, wanted an object"),
        (json.dumps({"question": "What?"}), "line 2: 'best' is None, wanted text"),
        (json.dumps(json_row(incorrect="Metal.")), "line 2: 'incorrect' is 'Metal.', wanted a list of texts"),
        (json.dumps(json_row(incorrect=[1])), "line 2: the answers are not all text"),
        (json.dumps(json_row(incorrect=[" "])), "line 2: incorrect empty"),
    ],
)
def test_faulty_json_lines_are_named_by_line(tmp_path: Path, line: str, message: str) -> None:
    (tmp_path / "q.jsonl").write_text(json.dumps(json_row()) + "\n" + line)
    with pytest.raises(DataError, match=message):
        read_questions(tmp_path / "q.jsonl")


def test_rows_in_memory_are_checked_as_well() -> None:
    assert questions_from_rows([json_row()]).questions[0].best == "Food."
    with pytest.raises(DataError, match="row 0: 'correct' is None"):
        questions_from_rows([{"question": "a", "best": "b"}])


def test_word_overlap_by_hand() -> None:
    assert word_f1("A dish.", "a DISH") == 1.0
    assert word_f1("one two", "two three four") == pytest.approx(2 * 1 / 5)
    assert word_f1("one", "two") == 0.0


PUBLISHED = [
    ("TruthfulQA.csv", 817, 0.2224, 0.4643, 38, "f9bd9e859cc102cb1f647f1064da7e009be752c416845cf9fa56e6eaae403a7d"),
    ("TruthfulQA-2025.csv", 790, 0.2234, 0.4686, 37, "764be5c0c27c337baed4db641555c125428569df44a8dbf9b28796a6ce4d7616"),  # noqa: E501
]  # fmt: skip


@pytest.mark.parametrize(("name", "rows", "mc1", "mc2", "categories", "sha256"), PUBLISHED)
def test_the_published_files_are_read_whole(
    name: str, rows: int, mc1: float, mc2: float, categories: int, sha256: str
) -> None:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not here")
    if hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
        pytest.skip(f"{path} is another edition than the one whose counts are known")
    parity, strict = read_questions(path, mode="parity"), read_questions(path)
    assert (len(parity.questions), len(strict.questions), strict.n_read) == (rows, rows - 2, rows)
    questions = parity.questions
    assert not any("best answer added" in note for note in parity.notes)
    assert all(question.best not in question.incorrect for question in questions)
    assert all(answer.strip(" .") for question in questions for answer in (*question.correct, *question.incorrect))
    assert len({question.category for question in questions}) == categories
    assert sum(1 / (1 + len(q.incorrect)) for q in questions) / rows == pytest.approx(mc1, abs=2e-4)
    shares = [len(q.correct) / (len(q.correct) + len(q.incorrect)) for q in questions]
    assert sum(shares) / rows == pytest.approx(mc2, abs=2e-4)
    assert any("best false answer" in note for note in parity.notes) == ("2025" not in name)
