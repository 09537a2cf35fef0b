"""`tunewell eval`: models and tasks, the record and its schema, resume, and what goes wrong."""

import json
import shutil
from importlib.resources import files
from pathlib import Path

import jsonschema
import pytest
from eval_models import PROMPTS, QUESTIONS, break_model, make_model, write_inputs
from micro_run import QUIET, call, hashes, libraries_as_before
from tunewell.eval.task import read_result
from tunewell.eval.tasks import TASKS
from tunewell.pipelines import eval_run
from tunewell.pipelines.eval_units import read_tasks
from tunewell.toolkit.errors import SettingsError
from tunewell.toolkit.model import loading

pytestmark = [pytest.mark.filterwarnings(line) for line in QUIET]
SCHEMA = json.loads(files("tunewell.pipelines").joinpath("schemas/eval.json").read_text())
ASKED = (
    "truthfulness", "toxicity", "perplexity", "truthfulness.questions=questions.jsonl",
    "toxicity.prompts=prompts.jsonl", "toxicity.scorer=wordlist:words.txt", "toxicity.samples_per_prompt=2",
    "toxicity.max_new_tokens=4", "perplexity.texts=texts.jsonl", "resamples=200",
)  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("eval")
    write_inputs(folder)
    make_model(folder / "first", 0)
    make_model(folder / "second", 1)
    break_model(folder / "second", folder / "broken")
    return folder


@pytest.fixture
def tunewell_(monkeypatch, capsys, place):
    monkeypatch.chdir(place)
    with libraries_as_before():
        yield lambda *arguments: call(monkeypatch, capsys, *arguments)


@pytest.fixture
def done(tunewell_, place, tmp_path) -> Path:
    """A finished evaluation in a folder of its own, made once and copied."""
    whole = place / "whole"
    if not whole.is_dir():
        called = tunewell_("eval", *ASKED, "--model", "first", "--model", "other=second", "--out", whole, "--json")
        assert called.code == 0, called.err
        (place / "printed.json").write_text(called.out.strip().split("\n")[-1])
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def test_the_record_fits_its_published_schema_and_holds_every_figure(done, place, tunewell_):
    record = json.loads((done / "eval.json").read_text())
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    jsonschema.validate(record, SCHEMA)
    assert json.loads(tunewell_("eval", "--schema").out) == SCHEMA
    assert [model["name"] for model in record["models"]] == ["first", "other"]
    assert {(row["model"], row["task"]) for row in record["results"]} == {
        (model, task) for model in ("first", "other") for task in ("truthfulness", "toxicity", "perplexity")
    }
    assert record["run"]["versions"]["torch"] and record["run"]["finished"]
    assert all(score["n"] > 0 for row in record["results"] for score in row["scores"].values())
    printed = json.loads((place / "printed.json").read_text())
    assert printed["results"] == record["results"] and Path(printed["report"]).name == "report.html"


def test_the_schema_refuses_a_record_with_nan_or_without_a_reason(done):
    record = json.loads((done / "eval.json").read_text())
    record["results"][0]["scores"]["mc1"]["value"] = "NaN"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(record, SCHEMA)
    record["results"][0] |= {"status": "failed", "scores": {}, "reason": None}
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(record, SCHEMA)


def test_every_generation_is_kept_with_its_score_and_seed(done):
    items = read_result(done / "other" / "toxicity.json").items
    assert len(items) == len(PROMPTS)
    for item in items:
        assert [sample["condition"] for sample in item["samples"]] == [
            condition for condition in ("none", "respectful", "biased") for _ in range(2)
        ]
        assert all({"text", "toxicity", "seed", "tokens"} <= sample.keys() for sample in item["samples"])
    assert not (done / ".partial").exists()


def test_the_same_call_again_measures_nothing_and_changes_no_answer(done, tunewell_):
    before = hashes(done)
    called = tunewell_("eval", *ASKED, "-m", "first", "-m", "other=second", "--out", done)
    assert called.code == 0 and called.err.count("was measured before, skipped") == 6
    after = hashes(done)
    assert {name for name in before if before[name] != after[name]} <= {"eval.json", "report.html"}


def test_a_damaged_answer_file_is_measured_again(done, tunewell_):
    good = (done / "first" / "perplexity.json").read_bytes()
    (done / "first" / "perplexity.json").write_bytes(good[:-20])
    called = tunewell_("eval", *ASKED, "-m", "first", "--out", done)
    assert called.code == 0 and called.err.count("skipped") == 2
    assert (done / "first" / "perplexity.json").read_bytes() == good


def test_other_settings_are_refused_with_what_changed_and_again_replaces_them(done, tunewell_):
    called = tunewell_("eval", *ASKED, "toxicity.max_new_tokens=5", "-m", "first", "--out", done)
    assert called.code == 2
    assert "first, toxicity: max_new_tokens was 4, now 5" in called.err and "--again" in called.err
    called = tunewell_("eval", *ASKED, "toxicity.max_new_tokens=5", "-m", "first", "--out", done, "--again")
    assert called.code == 0
    record = json.loads((done / "eval.json").read_text())
    assert len(record["results"]) == 6  # what was measured of the other model stays
    # Figures at four and at five tokens are never compared.
    assert not [row for row in record["comparisons"] if row["task"] == "toxicity"]
    assert [row for row in record["comparisons"] if row["task"] == "truthfulness"]


def test_a_model_asked_otherwise_than_those_that_are_there_is_refused_with_what_differs(done, tunewell_):
    called = tunewell_("eval", *ASKED, "toxicity.samples_per_prompt=3", "-m", "third=first", "--out", done)
    assert called.code == 2
    assert "first, toxicity: samples_per_prompt was 2, now 3" in called.err and "--again" in called.err
    # What bounds the memory changes no figure: a larger model may need less.
    asked = ("eval", *ASKED[1:2], *(word for word in ASKED if word.startswith("toxicity.")), "resamples=200")
    called = tunewell_(*asked, "toxicity.batch_size=1", "-m", "third=first", "--out", done)
    assert called.code == 0, called.err
    called = tunewell_(*asked, "toxicity.samples_per_prompt=3", "-m", "fourth=first", "--out", done, "--again")
    assert called.code == 0
    assert "toxicity of first and fourth is not compared: decoding.k: 2 and 3" in called.err
    page = (done / "report.html").read_text()
    assert "toxicity of first and fourth is not compared: decoding.k: 2 and 3" in page
    assert page.count("first: k = 2; other: k = 2; third: k = 2; fourth: k = 3. Figures of another k") >= 2


def test_another_model_under_a_name_that_is_taken_is_refused(done, tunewell_):
    """The tasks that it is not asked would stand beside as if they were its own."""
    asked = [word for word in ASKED if not word.startswith(("truthfulness", "toxicity"))]
    for more in ((), ("--again",)):
        called = tunewell_("eval", *asked, "-m", "first=second", "--out", done, *more)
        assert called.code == 2
    assert "under the same name:\n  - first, truthfulness\n  - first, toxicity" in called.err
    assert tunewell_("eval", *ASKED, "-m", "first=second", "--out", done, "--again").code == 0


def test_what_a_model_was_warned_of_stays_when_another_is_added(done, tunewell_):
    record = json.loads((done / "eval.json").read_text())
    told = ["toxicity of first: flattered", "other: measured without them"]
    (done / "eval.json").write_text(json.dumps(record | {"warnings": told}))
    assert tunewell_("eval", *ASKED, "-m", "third=first", "--out", done).code == 0
    assert json.loads((done / "eval.json").read_text())["warnings"] == told
    assert tunewell_("eval", *ASKED, "-m", "first", "--out", done).code == 0  # said anew, or no longer true
    assert json.loads((done / "eval.json").read_text())["warnings"] == told[1:]


def test_a_model_that_gives_nan_fails_visibly_and_stops_no_other(tunewell_, tmp_path):
    called = tunewell_("eval", *ASKED, "-m", "broken", "-m", "first", "--out", tmp_path)
    assert called.code == 2
    record = json.loads((tmp_path / "eval.json").read_text())
    jsonschema.validate(record, SCHEMA)
    by_model = {name: [row for row in record["results"] if row["model"] == name] for name in ("broken", "first")}
    assert [row["status"] for row in by_model["first"]] == ["measured"] * 3
    assert [row["status"] for row in by_model["broken"]] == ["failed"] * 3
    reasons = {row["task"]: row["reason"] for row in by_model["broken"]}
    assert "logits that are not numbers" in reasons["toxicity"]
    assert "NaN or infinite" in reasons["truthfulness"] and "not finite" in reasons["perplexity"]
    assert "broken, toxicity: the model gave logits" in called.err
    page = (tmp_path / "report.html").read_text()
    assert "toxicity of broken" in page and "logits that are not numbers" in page


def test_a_model_that_could_not_be_loaded_is_told_of_until_another_call_does_without_it(tunewell_, place, tmp_path):
    (place / "frist").mkdir(exist_ok=True)
    (place / "frist" / "config.json").write_text("{}")
    asked = ("perplexity", "perplexity.texts=texts.jsonl", "resamples=200", "--out", tmp_path)
    assert tunewell_("eval", *asked, "-m", "frist", "-m", "broken").code == 2

    def names():
        record = json.loads((tmp_path / "eval.json").read_text())
        jsonschema.validate(record, SCHEMA)
        assert {row["model"] for row in record["results"]} == {model["name"] for model in record["models"]}
        return [model["name"] for model in record["models"]]

    assert names() == ["frist", "broken"]
    called = tunewell_("eval", *asked, "-m", "first")
    assert called.code == 0 and "frist: could not be loaded by an earlier call" in called.err
    assert names() == ["broken", "first"]  # what was loaded and failed is a finding
    page = (tmp_path / "report.html").read_text()
    assert "perplexity of broken" in page and "frist" not in page


def test_auto_is_the_type_that_it_comes_to_and_no_other(tunewell_, done, monkeypatch):
    assert tunewell_("eval", *ASKED, "-m", "first", "--dtype", "float32", "--out", done).code == 0  # what auto is here
    monkeypatch.setattr(loading, "device_of", lambda settings: "cuda")
    called = tunewell_("eval", *ASKED, "-m", "first", "--out", done)
    assert called.code == 2 and "the model, or how it is held in memory, has changed" in called.err


def test_an_unknown_task_and_other_faults_are_told_at_once_before_anything_is_read(tunewell_, tmp_path):
    called = tunewell_(
        "eval", "toxcity", "perplexity", "perplexity.limit=0", "reasmples=5", "-m", "first", "-o", tmp_path
    )
    assert called.code == 2
    assert "got 'toxcity' (did you mean 'toxicity'?)" in called.err
    assert "perplexity.limit" in called.err and "perplexity.texts: missing" in called.err
    assert "reasmples: no task here has such a setting (did you mean 'resamples'?)" in called.err
    assert not any(tmp_path.iterdir())


TOXICITY = ("toxicity", "toxicity.prompts=prompts.jsonl")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "task: got none, wanted at least one of"),
        (("truthfulness", "truthfulness.questions=question.jsonl"), "Did you mean questions.jsonl?"),
        (("truthfulness", "truthfulness.questions=words.txt"), "words.txt, line 1"),
        (("truthfulness", "truthfulness.questions=lacking.csv"), "Best Answer"),
        (
            (
                "truthful_answers",
                "truthful_answers.questions=questions.jsonl",
                "truthful_answers.judge=lexical:nowhere",
            ),
            "Make one with `tunewell judge",
        ),
        ((*TOXICITY, "toxicity.scorer=wordlst:words.txt"), "did you mean 'wordlist'"),
        ((*TOXICITY, "toxicity.scorer=detoxify:words.txt@deadbeef"), "wanted one that begins with 'deadbeef'"),
        ((*TOXICITY, "toxicity.scorer=wordlist:words.txt", "toxicity.k=9"), "got 9, wanted at most samples_per_prompt"),
        (
            ("truthfulness", "truthfulness.questions=questions.jsonl", "preset=sixx"),
            "truthfulness.preset (an override)",
        ),
        (("perplexity", "perplexity.texts=questions.jsonl"), "rows have no text in 'text'"),
    ],
)
def test_bad_input_ends_with_one_clear_message(tunewell_, tmp_path, words, message):
    called = tunewell_("eval", *words, "--model", "first", "--out", tmp_path)
    assert called.code == 2 and "Traceback" not in called.err
    assert message in called.err


def test_models_need_names_of_their_own_and_must_exist(tunewell_, tmp_path):
    asked = ("truthfulness", "truthfulness.questions=questions.jsonl", "--out", tmp_path)
    assert "two models have the name 'first'" in tunewell_("eval", *asked, "-m", "first", "-m", "./first").err
    assert "--model: got none" in tunewell_("eval", *asked).err
    called = tunewell_("eval", *asked, "-m", "first@sft")
    assert called.code == 2 and "which is no run" in called.err
    called = tunewell_("eval", *asked, "-m", "first@sfd")
    assert called.code == 2 and "got the role 'sfd'" in called.err  # not an id of the hub that is looked for there


def test_settings_come_from_a_file_and_from_the_command_line(place, monkeypatch):
    monkeypatch.chdir(place)
    given = {"toxicity": {"prompts": "prompts.jsonl", "scorer": "wordlist:words.txt", "k": 2}}
    task = read_tasks(["toxicity", "toxicity.k=3", "limit=2"], given)["toxicity"]
    assert (task.k, task.limit, task.samples_per_prompt) == (3, 2, 5)
    with pytest.raises(SettingsError, match=r"truthfulnes: settings for a task that is not asked"):
        read_tasks(["toxicity"], given | {"truthfulnes": {}})


def test_explain_lists_every_setting_of_every_task(tunewell_):
    shown = tunewell_("eval", "--explain").out
    for name, task in TASKS.items():
        assert all(f"{name}.{field}" in shown for field in task.__dataclass_fields__ if field != "labels")
        assert next(iter(task.labels))  # the first label is the headline


def test_a_long_generation_goes_on_where_it_was_cut_off(tunewell_, tmp_path, monkeypatch):
    from tunewell.eval import kept

    made, real = [], kept.generate

    def counted(*arguments, **options):
        if len(made) == 1:
            raise KeyboardInterrupt
        made.append(len(arguments[2]))
        return real(*arguments, **options)

    asked = ("eval", "toxicity", *(word for word in ASKED if word.startswith("toxicity.")), "-m", "first",
             "toxicity.batch_size=1", "--out", tmp_path)  # fmt: skip
    monkeypatch.setattr(kept, "generate", counted)
    called = tunewell_(*asked)
    assert called.code == 130 and "go on where it stopped" in called.err
    monkeypatch.setattr(kept, "generate", lambda *a, **o: made.append(len(a[2])) or real(*a, **o))
    assert tunewell_(*asked).code == 0
    assert sum(made) == len(PROMPTS) * 2 * 3  # no sample was made twice


def test_a_comparison_of_two_models_is_paired_and_its_headlines_are_adjusted_together(done):
    record = json.loads((done / "eval.json").read_text())
    rows = {(row["task"], row["metric"]): row for row in record["comparisons"]}
    row = rows["truthfulness", "mc1"]
    assert (row["from"], row["to"], row["n_pairs"]) == ("first", "other", len(QUESTIONS))
    assert row["method"] == "exact McNemar" and row["p_holm"] >= row["p"]
    assert rows["truthfulness", "mc2"]["p_holm"] is None
    assert rows["perplexity", "nll"]["p_holm"] is not None  # perplexity has no value per item, its loss has


def test_the_folder_is_held_while_it_is_written(done, tunewell_):
    with eval_run.lock(done):
        called = tunewell_("eval", *ASKED, "-m", "first", "--out", done)
    assert called.code == 2 and "in use by another tunewell process" in called.err


def test_a_scorer_that_filtered_the_training_data_is_named_in_a_warning(place, tmp_path, monkeypatch):
    from tunewell.pipelines.eval_units import NamedModel
    from tunewell.pipelines.model_source import ModelSource

    monkeypatch.chdir(place)
    tasks = read_tasks([word for word in ASKED if word.startswith("toxicity")])
    (tmp_path / "run.json").write_text(json.dumps({"settings": {"filter": {"toxicity": "wordlist:words.txt"}}}))
    model = NamedModel("sft", ModelSource(given="run", base="first", run=tmp_path))
    (warning,) = eval_run._warnings([model], tasks)
    assert "toxicity of sft: the scorer wordlist:words.txt also filtered the training data" in warning
    (tmp_path / "run.json").write_text(
        json.dumps({"settings": {"filter": {"toxicity": None, "blocklist": "other.txt"}}})
    )
    assert not list(eval_run._warnings([model], tasks))
