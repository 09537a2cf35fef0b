import json
import math
import sys
from dataclasses import replace

import pytest
from micro_model import QUESTIONS, harness_rows, micro_model
from tunewell.eval.compare import compare
from tunewell.eval.harness import HarnessTask
from tunewell.eval.truthfulness import multiple_choice
from tunewell.eval.truthfulqa import questions_from_rows, read_questions
from tunewell.toolkit.errors import DataError, MissingPackageError, ModelError, SettingsError

pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install 'tunewell[benchmarks]'")
# lm-eval and datasets, not ours: a function that Python will drop, and files that garbage collection closes.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

ROWS = questions_from_rows(QUESTIONS)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    path = harness_rows(ROWS.questions, tmp_path_factory.mktemp("rows") / "rows.jsonl")
    return {name: HarnessTask(f"truthfulqa_{name}", data=path) for name in ("mc1", "mc2")}


def test_truthfulness_equals_lm_eval(tasks):
    model, tokenizer = micro_model()
    ours = multiple_choice(model, tokenizer, replace(ROWS, mode="parity"), preset="truthfulqa", binary=False,
                           control=False)  # fmt: skip
    theirs = {name: task.ask(model, tokenizer, engine="harness") for name, task in tasks.items()}
    assert ours.scores["mc1"].value == theirs["mc1"].scores["acc"].value
    assert ours.scores["mc2"].value == pytest.approx(theirs["mc2"].scores["acc"].value, abs=1e-6)
    for own, row in zip(ours.items, theirs["mc2"].items, strict=True):
        for a, b in zip(own["answers"], row["answers"], strict=True):
            assert a["log_likelihood"] == pytest.approx(b["log_likelihood"], abs=1e-3)


@pytest.mark.slow
def test_truthfulness_equals_lm_eval_on_published_questions(shared_data, tmp_path):
    questions = read_questions(shared_data / "truthfulqa" / "TruthfulQA.csv", mode="parity")
    some = replace(questions, questions=questions.questions[::60])
    path = harness_rows(some.questions, tmp_path / "rows.jsonl")
    model, tokenizer = micro_model()
    ours = multiple_choice(model, tokenizer, some, preset="truthfulqa", binary=False, control=False).scores
    mc1, mc2 = (
        HarnessTask(f"truthfulqa_{name}", data=path).ask(model, tokenizer, engine=engine).scores["acc"].value
        for name, engine in (("mc1", "harness"), ("mc2", "packed"))
    )
    assert 0.0 < mc1 < 1.0
    assert ours["mc1"].value == mc1
    assert ours["mc2"].value == pytest.approx(mc2, abs=1e-3)


def test_the_packed_engine_gives_lm_evals_own_numbers(tasks):
    model, tokenizer = micro_model()
    packed, plain = (tasks["mc2"].ask(model, tokenizer, engine=engine) for engine in ("packed", "harness"))
    assert packed.scores["acc"].value == pytest.approx(plain.scores["acc"].value, abs=1e-6)
    assert [item["id"] for item in packed.items] == [item["id"] for item in plain.items]
    assert packed.items[0]["prompt"].count("Q: ") == 7
    assert packed.details["preset"] == {"versions": {"truthfulqa_mc2": 3.0}, "shots": {"truthfulqa_mc2": 0},
                                        "chat": False}  # fmt: skip
    assert packed.details["dataset"]["n_used"] == len(QUESTIONS)


def test_contexts_longer_than_the_window_are_cut_as_lm_eval_cuts_them(tasks):
    model, tokenizer = micro_model(context=256)  # the six solved questions alone are longer
    packed, plain = (tasks["mc1"].ask(model, tokenizer, engine=engine) for engine in ("packed", "harness"))
    for a, b in zip(packed.items, plain.items, strict=True):
        assert [x["log_likelihood"] for x in a["answers"]] == pytest.approx([x["log_likelihood"] for x in b["answers"]])


def test_two_models_are_compared_row_by_row(tasks):
    before, after = (tasks["mc2"].ask(*micro_model(seed)) for seed in (0, 1))
    [row] = compare(before, after)
    assert row.n_pairs == len(QUESTIONS)
    assert row.delta == pytest.approx(after.scores["acc"].value - before.scores["acc"].value)
    with pytest.raises(DataError, match=r"preset\.chat"):
        compare(before, tasks["mc2"].ask(*micro_model(), chat=True))


def test_a_limit_takes_the_first_rows(tasks):
    result = tasks["mc1"].ask(*micro_model(), limit=2)
    assert (result.scores["acc"].n, result.details["dataset"]["n"]) == (2, len(QUESTIONS))


def test_a_model_that_gives_no_numbers_is_refused_where_lm_eval_would_take_the_first_answer(tasks):
    model, tokenizer = micro_model(seed=2)
    model.lm_head.weight.data[:] = math.nan
    with pytest.raises(ModelError, match="NaN or infinite"):
        tasks["mc1"].ask(model, tokenizer)
    with pytest.raises(ModelError, match=r"4 of 4 rows \(their log-likelihoods are not numbers"):
        tasks["mc1"].ask(model, tokenizer, engine="harness")
    forced = tasks["mc1"].ask(model, tokenizer, engine="harness", force=True)
    assert (forced.scores["acc"].value, forced.scores["acc"].unscored) == (None, 4)


def own_task(folder, text, rows):
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    path = folder / "own.yaml"
    data = {"test": str(folder / "rows.jsonl")}
    path.write_text(f"task: own\ndataset_path: json\ndataset_kwargs:\n  data_files: {json.dumps(data)}\n"
                    f"  cache_dir: {folder / 'cache'}\ntest_split: test\n{text}")  # fmt: skip
    return path


def test_a_task_file_of_ones_own_that_generates(tmp_path):
    text = (
        "output_type: generate_until\ndoc_to_text: '{{q}}'\ndoc_to_target: '{{a}}'\n"
        "generation_kwargs: {max_gen_toks: 3, until: ['.']}\nmetric_list: [{metric: exact_match}]\n"
    )
    path = own_task(tmp_path, text, [{"q": "What is hot?", "a": "Fire"}, {"q": "Who can fly?", "a": "Birds"}])
    result = HarnessTask(str(path)).ask(*micro_model(), batch_size=2)
    assert result.scores["exact_match"].value == 0.0
    assert result.scores["exact_match"].high > 0  # none of two right is no proof of none
    assert [item["target"] for item in result.items] == ["Fire", "Birds"]


def test_a_figure_that_is_no_mean_over_rows_has_no_interval_and_says_so(tmp_path):
    text = (
        "output_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_target: a\ndoc_to_choice: ['no', 'yes']\n"
        "metric_list: [{metric: acc}, {metric: f1}]\n"
    )
    rows = [{"q": f"Is {number} even?", "a": number % 2} for number in range(6)]
    result = HarnessTask(str(own_task(tmp_path, text, rows))).ask(*micro_model())
    assert result.scores["acc"].low is not None
    assert (result.scores["f1"].low, result.scores["f1"].n) == (None, 6)
    assert result.details["notes"] == ["f1 is no mean over rows: it stands without an interval"]
    assert [row.metric for row in compare(result, result)] == ["acc"]


def test_a_task_that_lm_eval_does_not_know_is_told_with_the_nearest(monkeypatch):
    import lm_eval.tasks

    class Manager:
        """Stands in for the one that reads 14,000 files."""

        task_index = ("hellaswag", "arc_easy")
        all_tasks = ("hellaswag", "arc_easy")

        def __init__(self, include_defaults=True):
            assert include_defaults

    monkeypatch.setattr(lm_eval.tasks, "TaskManager", Manager)
    with pytest.raises(DataError, match="knows no task 'helaswag': did you mean hellaswag"):
        HarnessTask("helaswag")
    with pytest.raises(DataError, match=r"got the task file no/where\.yaml, which is not there"):
        HarnessTask("no/where.yaml")


def test_rows_that_cannot_be_had_are_told_with_the_cure(tmp_path, monkeypatch):
    import datasets

    def offline(*args, **kwargs):
        raise ConnectionError("Couldn't reach the Hub")

    monkeypatch.setattr(datasets, "load_dataset", offline)
    with pytest.raises(
        DataError, match=r"cannot load the task 'truthfulqa_mc1' \(Couldn't reach the Hub\).*JSON lines"
    ):
        HarnessTask("truthfulqa_mc1")
    with pytest.raises(DataError, match="No such file"):
        HarnessTask("truthfulqa_mc1", data=tmp_path / "missing.jsonl")


def test_chat_without_a_template_is_refused(tasks, monkeypatch):
    model, tokenizer = micro_model()
    monkeypatch.setattr(tokenizer, "chat_template", None)
    with pytest.raises(SettingsError, match="the tokenizer has no chat template"):
        tasks["mc1"].ask(model, tokenizer, chat=True)


def test_without_lm_eval_the_cure_is_told(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    monkeypatch.setattr("tunewell.eval.harness_loading.find_spec", lambda name: None)
    with pytest.raises(MissingPackageError, match=r'pip install "tunewell\[benchmarks\]"'):
        HarnessTask("hellaswag")
