"""`tunewell toxicity calibrate`: agreement of a scorer with reference scores."""

import csv
import json
import random

import numpy as np
import pytest
from micro_run import QUIET, call, libraries_as_before
from tunewell.eval.statistics import spearman
from tunewell.pipelines.console import Console
from tunewell.pipelines.toxicity_agreement import Columns, agreement, auc
from tunewell.toolkit.errors import DataError, ModelError

pytestmark = [pytest.mark.filterwarnings(line) for line in QUIET]


class Reads:
    """Scores a text by the number at its end, changed by a function; `?` cannot be scored."""

    id = "reads"

    def __init__(self, change=lambda value: value):
        self.change = change

    def score(self, texts):
        return np.array([np.nan if "?" in text else self.change(float(text.split()[-1])) for text in texts])


@pytest.fixture
def rows():
    rng = random.Random(0)
    found = []
    for prompt in range(40):
        for model in ("kind", "rude"):
            for _ in range(2):
                score = min(1.0, max(0.0, rng.random() * 0.6 + (0.3 if model == "rude" else 0.0)))
                found.append({"model_type": model, "prompt_type": "basic", "context": f"p{prompt}",
                              "sample": f"text {score:.4f}", "toxicity": f"{score:.4f}"})  # fmt: skip
    return found


def write(path, rows):
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def run(path, scorer, **options):
    return agreement(scorer, path, Columns(), Console(is_quiet=True), resamples=200, **options)


def test_a_scorer_that_is_the_reference_agrees_in_all_figures(tmp_path, rows):
    found = run(write(tmp_path / "rows.csv", rows), Reads())
    figures = found.figures
    assert figures["spearman"].value == pytest.approx(1.0) and figures["auc"].value == 1.0
    assert figures["precision"].value >= 0.9 and figures["recall"].value >= 0.9
    assert found.threshold == pytest.approx(0.5, abs=0.03)
    assert [cell["mean_score"] for cell in found.cells] == [cell["mean_reference"] for cell in found.cells]


def test_another_scale_is_mapped_and_does_not_change_ranks(tmp_path, rows):
    found = run(write(tmp_path / "rows.csv", rows), Reads(lambda value: value**2 / 2))
    assert found.figures["spearman"].value == pytest.approx(1.0)
    assert found.threshold == pytest.approx(0.125, abs=0.02)  # where a reference of one half lands
    assert found.figures["brier"].value > 0.05


def test_a_scorer_that_knows_nothing_is_at_chance_within_its_error(tmp_path, rows):
    rng = np.random.default_rng(0)
    found = run(write(tmp_path / "rows.csv", rows), Reads(lambda _: rng.random()))
    for name, chance in (("spearman", 0.0), ("auc", 0.5)):
        figure = found.figures[name]
        assert abs(figure.value - chance) < 3 * figure.se and figure.chance == chance


def test_intervals_are_wider_when_answers_of_a_prompt_belong_together(tmp_path, rows):
    for row in rows:  # the error belongs to the prompt, not to the text
        prompt = random.Random(row["context"])
        row["sample"], row["toxicity"] = f"text {prompt.random():.4f}", f"{prompt.random():.4f}"
    together = run(write(tmp_path / "a.csv", rows), Reads()).figures["spearman"]
    for number, row in enumerate(rows):
        row["context"] = str(number)
    alone = run(write(tmp_path / "b.csv", rows), Reads()).figures["spearman"]
    assert together.value == pytest.approx(alone.value)
    assert together.se > alone.se


def test_empty_texts_and_missing_references_are_counted_and_never_zero(tmp_path, rows):
    rows[0]["sample"], rows[1]["toxicity"] = " ", ""
    found = run(write(tmp_path / "rows.csv", rows), Reads())
    assert found.counts == {"read": 160, "empty": 1, "without_reference": 1, "unscored": 0, "used": 158}


def test_texts_that_the_scorer_cannot_score_stop_it_unless_forced(tmp_path, rows):
    for row in rows[:10]:
        row["sample"] = "? 0.5"
    path = write(tmp_path / "rows.csv", rows)
    with pytest.raises(ModelError, match="10 of 160 texts"):
        run(path, Reads())
    assert run(path, Reads(), force=True).counts["unscored"] == 10


def test_auc_by_hand_with_ties():
    assert auc(np.array([0.1, 0.5, 0.5, 0.9]), np.array([False, False, True, True])) == pytest.approx((2 + 1.5) / 4)
    assert np.isnan(auc(np.array([0.1]), np.array([True])))


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [("toxicity", "high", "wanted a number or nothing"), ("toxicity", "1.5", "values outside 0 to 1")],
)
def test_references_that_are_no_scores_are_refused(tmp_path, rows, column, value, message):
    rows[3][column] = value
    with pytest.raises(DataError, match=message):
        run(write(tmp_path / "rows.csv", rows), Reads())


def test_the_command_prints_the_figures_and_the_cells(tmp_path, rows, monkeypatch, capsys):
    path = write(tmp_path / "rows.csv", rows)
    (tmp_path / "words.txt").write_text("text\n")
    with libraries_as_before():
        shown = call(monkeypatch, capsys, "toxicity", "calibrate", f"wordlist:{tmp_path}/words.txt", path)
        assert shown.code == 0 and "rank correlation with the reference" in shown.out
        assert "rude        basic          80" in shown.out
        tree = json.loads(
            call(monkeypatch, capsys, "toxicity", "calibrate", f"wordlist:{tmp_path}/words.txt", path, "--json").out
        )
        assert tree["figures"]["spearman"]["value"] is None  # a constant has no rank correlation
        fault = call(
            monkeypatch, capsys, "toxicity", "calibrate", f"wordlist:{tmp_path}/words.txt", path, "--text", "smaple"
        )
        assert fault.code == 2 and "has no column 'smaple'" in fault.err


def test_the_papers_table_is_recomputed_from_its_samples(shared_data):
    source = str(shared_data / "instructgpt" / "real_toxicity_samples-dev.csv")
    words = shared_data / "real-toxicity-prompts" / "list_of_naughty_and_bad_words.txt"
    from tunewell.toolkit.toxicity.scorer import WordlistToxicity

    found = run(source, WordlistToxicity.load(words))
    cells = {(cell["model_type"], cell["prompt_type"]): cell for cell in found.cells}
    assert len(cells) == 36 and all(cell["n"] == 55 for cell in found.cells)
    with open(source, encoding="utf-8") as file:
        wanted = [float(row["toxicity"]) for row in csv.DictReader(file)
                  if (row["model_type"], row["prompt_type"]) == ("ppo-ptx-175b", "biased prompt")]  # fmt: skip
    assert cells["ppo-ptx-175b", "biased prompt"]["mean_reference"] == pytest.approx(sum(wanted) / 55)
    # The paper's finding: told to be spiteful, PPO models are more toxic than the base they came from.
    assert (
        cells["ppo-ptx-175b", "biased prompt"]["mean_reference"] > cells["gpt-175b", "biased prompt"]["mean_reference"]
    )
    x, y = ([cell[name] for cell in found.cells] for name in ("mean_score", "mean_reference"))
    assert found.figures["cells_spearman"].value == pytest.approx(spearman(x, y))
