import html
import json
import logging
import math
import re
import shutil
from itertools import pairwise
from pathlib import Path

import pytest
import tunewell
import typer.main
from micro_run import MICRO, QUIET, STAGES, Called, Made, call, hashes, libraries_as_before, micro_run
from rich.text import Text
from tunewell.pipelines import cli
from tunewell.pipelines.commands import options
from tunewell.pipelines.recipe import Recipe, bundled_recipes, read_recipe
from tunewell.pipelines.report_data import build_report
from tunewell.toolkit.settings.reading import field_help

pytestmark = [pytest.mark.filterwarnings(line) for line in QUIET]
COMMANDS = typer.main.get_command(cli.app).commands
ALL = COMMANDS | {
    f"{name} {sub}": one for name, group in COMMANDS.items() for sub, one in getattr(group, "commands", {}).items()
}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Made:
    return micro_run(tmp_path_factory.getbasetemp())


@pytest.fixture
def copy(made, tmp_path) -> Path:
    return Path(shutil.copytree(made.folder, tmp_path / "copy"))


@pytest.fixture
def tunewell_(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    with libraries_as_before():
        yield lambda *arguments: call(monkeypatch, capsys, *arguments)


# ---- help --------------------------------------------------------------------------------------------------------


def test_help_lists_every_command_with_a_sentence(tunewell_):
    shown = tunewell_("--help")
    assert shown.code == 0
    for name, command in COMMANDS.items():
        assert re.search(rf"{name}\b", shown.out), name
        assert len(command.get_short_help_str(200).split()) >= 4, name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_and_argument_has_help(name):
    for parameter in COMMANDS[name].params:
        explained = getattr(parameter, "help", None)
        assert explained and len(explained.split()) >= 2, f"{name} {parameter.name}"


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_every_command_is_shown_without_a_fault(tunewell_, name):
    shown = tunewell_(name, "--help")
    assert (shown.code, shown.err) == (0, "") and f"Usage: tunewell {name}" in shown.out


@pytest.mark.parametrize("name", COMMANDS)
def test_paragraphs_of_help_are_broken_by_the_terminal_alone(name):
    for paragraph in COMMANDS[name].help.split("\n\n"):
        assert "\n" not in paragraph or "\n  " in paragraph, paragraph  # but lists of examples, which are indented


def test_no_bracket_of_help_is_taken_for_markup():
    for name, command in ALL.items():
        for shown in (command.help, *(one.help for one in command.params)):
            assert Text.from_markup(shown).plain == shown.replace("\\[", "["), name


@pytest.mark.parametrize("name", [name for name, one in ALL.items() if "Examples:" in one.help])
def test_examples_of_help_can_be_copied_from_80_columns(tunewell_, monkeypatch, name):
    lines = ALL[name].help.partition("Examples:\n")[2].replace("\\[", "[").splitlines()  # rich takes them for markup
    assert all(len(line) < 78 and line.startswith("  ") for line in lines)
    assert all(line.endswith(" \\") for line, after in pairwise(lines) if after.startswith("   "))
    monkeypatch.setenv("COLUMNS", "80")
    shown = tunewell_(*name.split(), "--help").out
    assert lines and all(f" {line} " in shown for line in lines)


def test_help_of_run_teaches_by_example(tunewell_):
    shown = tunewell_("run", "--help").out
    assert "[RECIPE] [section.key=value]..." in shown
    assert "tunewell run sft.trainer.max_steps=40 --out runs/longer-sft" in shown
    assert "runs/NAME" in shown  # the default of --out


def test_no_command_at_all_shows_the_help(tunewell_):
    shown = tunewell_()
    assert "Usage: tunewell" in shown.out + shown.err and "recipes" in shown.out + shown.err


def test_the_version_is_printed_without_a_command(tunewell_):
    assert tunewell_("--version") == Called(0, f"{tunewell.__version__}\n", "")


@pytest.mark.parametrize("arguments", [("rnu",), ("run", "--ouut", "x"), ("report",)])
def test_a_command_line_that_cannot_be_understood_ends_with_2(tunewell_, arguments):
    shown = tunewell_(*arguments)
    assert shown.code == 2 and shown.out == "" and "Traceback" not in shown.err and "Error" in shown.err


# ---- recipes -----------------------------------------------------------------------------------------------------


def test_recipes_are_listed_printed_and_explained(tunewell_, tmp_path):
    listed = tunewell_("recipes")
    assert [line.split()[0] for line in listed.out.splitlines()] == list(bundled_recipes())
    assert all(line.endswith(".") for line in listed.out.splitlines())
    printed = tunewell_("recipes", "embedded")
    assert printed.out == bundled_recipes()["embedded"].read_text()
    (tmp_path / "mine.yaml").write_text(printed.out)
    assert read_recipe(tmp_path / "mine.yaml").name == "embedded"
    explained = tunewell_("recipes", "--explain").out
    assert all(f"{path}\n" in explained for path in field_help(Recipe))
    assert "default [filter, sft, reward, ppo, eval].\n" in explained  # lists stay on the line


def test_an_unknown_recipe_to_print_is_refused_with_the_nearest(tunewell_):
    shown = tunewell_("recipes", "embeded")
    assert (shown.code, shown.out) == (2, "") and "Did you mean 'embedded'?" in shown.err


# ---- a run -------------------------------------------------------------------------------------------------------


def test_a_run_prints_one_json_object_on_standard_output_and_its_progress_on_standard_error(made):
    called = made.called
    assert called.code == 0, called.err
    assert called.out.count("\n") == 1 and called.out.endswith("}\n")
    result = json.loads(called.out)
    assert result["run"] == str(made.folder) and result["report"] == str(made.folder / "report.html")
    assert result["results"] == json.loads((made.folder / "run.json").read_text())["results"]
    titles = [line for line in called.err.splitlines() if line in STAGES]
    assert titles == list(STAGES)


def test_standard_error_of_a_run_holds_nothing_that_a_user_cannot_use(made):
    known = r"base model|  /.*|\d\d-\w+|  \d+ s|  \w+( \w+)*: \d+ of \d+.*|warning: No filter is on: .*"
    known += r"|(Truthful answers|Held-out prompts|PPO moved|The reward model ranks) .*\."
    assert [line for line in made.called.err.splitlines() if not re.fullmatch(known, line)] == []


def test_every_figure_of_a_run_has_value_interval_and_count(made):
    results = json.loads(made.called.out)["results"]
    assert {"reward.accuracy", "ppo.reward.before", "ppo.reward.after", "ppo.kl"} <= set(results)
    for task in ("truthfulness", "toxicity", "perplexity"):
        assert {f"{task}.{model}" for model in ("base", "sft", "ppo")} <= set(results)
    for name, figure in results.items():
        assert {"value", "low", "high", "n"} <= set(figure), name
        assert figure["n"] > 0 and math.isfinite(figure["value"]), name


def test_the_record_of_a_run_says_what_it_was_made_of(made):
    record = json.loads((made.folder / "run.json").read_text())
    assert record["finished"] is True and record["tunewell"] == tunewell.__version__
    assert [stage["folder"] for stage in record["stages"].values()] == list(STAGES)
    assert set(record["seconds"]) == {"base", "filter", "sft", "reward", "ppo", "eval"}
    assert record["settings"]["sft"]["trainer"]["max_steps"] == 2 and record["seed"] == 0
    assert record["versions"]["torch"] and record["hardware"]["cores"]
    assert record["stages"]["sft"]["rows"]["demonstrations"] > 0
    for stage in record["stages"].values():
        assert len(stage["fingerprint"]) == 64 and stage["attempts"] == 1 and stage["peak_memory_mb"]["resident"] > 0
    page = html.unescape((made.folder / "report.html").read_text())
    assert "embedded" in page and record["stages"]["sft"]["fingerprint"][:16] in page


def test_a_second_run_skips_all_that_is_done_and_says_the_same(made, copy, tunewell_):
    again = tunewell_("run", *MICRO, "--json", "--out", copy)
    assert again.code == 0, again.err
    assert again.err.count("done before, skipped") == len(STAGES)
    assert json.loads(again.out)["results"] == json.loads(made.called.out)["results"]
    before, after = hashes(made.folder), hashes(copy)
    assert {name for name in before if before[name] != after.get(name)} <= {"run.json", "report.html"}
    assert set(after) == set(before)


def test_a_recipe_file_of_the_same_settings_is_the_same_run_and_quiet_means_warnings_only(copy, tunewell_, tmp_path):
    (tmp_path / "mine.yaml").write_text(bundled_recipes()["embedded"].read_text())
    again = tunewell_("run", "mine.yaml", *MICRO, "--quiet", "--out", copy)
    assert again.code == 0 and again.out == f"report: {copy / 'report.html'}\n"
    assert [line for line in again.err.splitlines() if not line.startswith("warning: No filter is on")] == []


def test_a_stage_that_is_missing_is_made_from_those_that_are_there(copy, made, tunewell_):
    shutil.rmtree(copy / "05-eval")
    again = tunewell_("run", *MICRO, "--json", "--out", copy)
    assert again.code == 0, again.err
    assert again.err.count("done before, skipped") == 4
    assert json.loads(again.out)["results"] == json.loads(made.called.out)["results"]


def test_a_command_of_one_stage_stops_behind_it(copy, tunewell_):
    for name in STAGES[2:]:
        shutil.rmtree(copy / name)
    done = tunewell_("sft", *MICRO, "--out", copy)
    assert done.code == 0, done.err
    assert sorted(path.name for path in copy.glob("0*")) == list(STAGES[:2])
    assert list(json.loads((copy / "run.json").read_text())["stages"]) == ["filter", "sft"]


def test_a_command_of_one_stage_forgets_nothing_of_a_run_that_went_further(copy, made, tunewell_):
    assert tunewell_("sft", *MICRO, "--out", copy).code == 0
    after = json.loads((copy / "run.json").read_text())
    assert after["results"] == json.loads(made.called.out)["results"]
    assert [stage["folder"] for stage in after["stages"].values()] == list(STAGES)


def test_a_stage_that_the_recipe_does_not_have_is_refused(tunewell_, tmp_path):
    shown = tunewell_("ppo", "stages=[filter, sft]", "--out", tmp_path / "run")
    assert shown.code == 2 and "wanted 'ppo' among them" in shown.err and not (tmp_path / "run").exists()


def test_the_default_folder_is_named_by_the_recipe(tunewell_, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "tunewell.pipelines.run.run_recipe", lambda recipe, out, *a, **k: asked.append(out) or {"results": {}}
    )
    monkeypatch.setattr("tunewell.pipelines.report_data.build_report", lambda folder: {})
    monkeypatch.setattr("tunewell.pipelines.report.page.write_report", lambda report, page: None)
    for arguments in (("run",), ("run", "name=mine"), ("run", "embedded", "seed=1", "name=other")):
        assert tunewell_(*arguments).code == 0
    assert asked == [Path("runs/embedded"), Path("runs/mine"), Path("runs/other")]


def test_the_report_is_built_anew_from_the_files_of_a_run(copy, tunewell_):
    page = (copy / "report.html").read_text()
    (copy / "report.html").unlink()
    shown = tunewell_("report", copy, "--json")
    assert shown.code == 0 and json.loads(shown.out) == {"report": str(copy / "report.html")}
    assert (copy / "report.html").read_text() == page


# ---- ends --------------------------------------------------------------------------------------------------------


def test_a_page_of_a_run_that_measured_nothing_has_no_table_of_figures(copy):
    def titles() -> list[str]:
        return [table["title"] for table in build_report(copy)["tables"]]

    assert "Every figure of this run" in titles()
    record = json.loads((copy / "run.json").read_text())
    (copy / "run.json").write_text(json.dumps(record | {"results": {}}))
    assert "Every figure of this run" not in titles()


def test_an_interruption_says_how_to_go_on(tunewell_, tmp_path, monkeypatch):
    def interrupt(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr("tunewell.pipelines.run.run_recipe", interrupt)
    shown = tunewell_("run", "--out", tmp_path / "run")
    assert shown.code == 130 and "give the same command again to go on" in shown.err and "Traceback" not in shown.err


def test_a_fault_of_our_own_ends_with_1_and_its_stack_trace(tunewell_, tmp_path, monkeypatch):
    def fail(*arguments, **options):
        raise KeyError("a bug")

    monkeypatch.setattr("tunewell.pipelines.run.run_recipe", fail)
    shown = tunewell_("run", "--out", tmp_path / "run")
    assert shown.code == 1 and shown.out == "" and "Traceback" in shown.err and "KeyError: 'a bug'" in shown.err


def test_a_figure_that_was_not_measured_is_null_in_json(capsys):
    options.print_result({"figure": {"value": math.nan, "low": None, "high": math.inf}}, True, "")
    assert json.loads(capsys.readouterr().out) == {"figure": {"value": None, "low": None, "high": None}}


def test_a_library_that_recommends_a_package_at_its_import_is_not_heard(tunewell_, caplog):
    heard = logging.getLogger("bitsandbytes.backends.cpu.ops")
    before = logging.getLogger("bitsandbytes").level
    try:
        logging.getLogger("bitsandbytes").setLevel(logging.NOTSET)
        heard.warning("install kernels")
        assert "install kernels" in caplog.text
        caplog.clear()
        tunewell_("recipes")
        heard.warning("install kernels")
        assert not caplog.text
    finally:
        logging.getLogger("bitsandbytes").setLevel(before)


def test_names_of_options_are_written_alike():
    names = [name for command in COMMANDS.values() for p in command.params for name in p.opts if name.startswith("--")]
    assert all(re.fullmatch(r"--[a-z]+(-[a-z]+)*", name) for name in names)
