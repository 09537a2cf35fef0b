import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "eval"))
from judge_examples import graded_csv, judge_rows, questions_file
from tunewell.pipelines import cli


def tunewell(monkeypatch, capsys, *arguments):
    """Exit code, standard output and error of the command line."""
    monkeypatch.setattr(sys, "argv", ["tunewell", *map(str, arguments)])
    try:
        cli.main()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    shown = capsys.readouterr()
    return code, shown.out, shown.err


@pytest.fixture
def files(tmp_path):
    return {
        "rows": judge_rows(tmp_path / "rows.jsonl"),
        "graded": graded_csv(tmp_path / "graded.csv"),
        "questions": questions_file(tmp_path / "questions.jsonl"),
    }


def test_train_and_agree(files, tmp_path, monkeypatch, capsys):
    shared = ("--graded", files["graded"], "--questions", files["questions"], "--json", "--quiet")
    code, out, _ = tunewell(monkeypatch, capsys, "judge", "train", files["rows"], "--out", tmp_path / "judge", *shared)
    assert code == 0
    trained = json.loads(out.splitlines()[-1])
    assert trained["left_out"] == {"questions that the judge is measured on": 40}
    assert trained["figures"]["rank_correlation"]["value"] == pytest.approx(1.0)
    assert trained["figures"]["informative_auc"]["value"] == 1.0
    code, out, _ = tunewell(monkeypatch, capsys, "judge", "agree", f"lexical:{tmp_path / 'judge'}", *shared)
    again = json.loads(out.splitlines()[-1])
    assert code == 0
    assert again["judge"] == trained["judge"]
    assert again["figures"] == trained["figures"]
    assert json.loads((tmp_path / "judge" / "agreement.json").read_text())["figures"] == trained["figures"]


def test_without_rows_the_references_are_learned_from(files, tmp_path, monkeypatch, capsys):
    code, out, _ = tunewell(
        monkeypatch, capsys, "judge", "train", "--questions", files["questions"], "--out", tmp_path / "judge",
        "--graded", files["graded"],
    )  # fmt: skip
    assert code == 0
    assert "left out: 4 rows, questions that the judge is measured on" in out
    assert "rank correlation" in out


def test_faults_are_told_in_one_message(files, tmp_path, monkeypatch, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.txt").write_text("x")
    for arguments, message in (
        (("train", files["rows"], "--questions", files["questions"], "--out", tmp_path / "full"), "holds no trained"),
        (("train", tmp_path / "no.jsonl", "--questions", files["questions"], "--out", tmp_path / "j"), "cannot read"),
        (("train", files["rows"], "--questions", files["questions"], "--strength", "0"), "strength: got 0.0"),
        (("agree", f"lexical:{tmp_path / 'none'}", "--graded", files["graded"], "--questions", files["questions"]),
         "holds no judge"),
    ):  # fmt: skip
        code, _, error = tunewell(monkeypatch, capsys, "judge", *arguments)
        assert code == 2
        assert message in error
        assert "Traceback" not in error
