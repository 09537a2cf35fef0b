import ast
import re
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest
from tunewell.pipelines import stages
from tunewell.pipelines.console import Console
from tunewell.pipelines.recipe import (
    BUNDLED,
    NEEDS,
    Recipe,
    StageName,
    bundled_recipes,
    find_recipe,
    first_sentence,
    read_recipe,
    recipe_text,
)
from tunewell.pipelines.stages import stages_of
from tunewell.toolkit.errors import DataError, SettingsError
from tunewell.toolkit.settings.reading import build, field_help, to_tree

OWN = [f"data.{name}=pairs.jsonl" for name in ("demonstrations", "comparisons", "prompts", "held_out_prompts")]
NEEDED = {
    "hh-rlhf": ["data.path=pairs.jsonl"],
    "own-files": [*OWN, "base.model=some/model"],
}  # what a bundled recipe leaves to the user


def faults_of(text: str, tmp_path: Path, *overrides: str) -> tuple[str, ...]:
    path = tmp_path / "recipe.yaml"
    path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        read_recipe(path, overrides)
    assert f"in {path}" in str(caught.value)
    return caught.value.faults


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.jsonl").write_text('{"chosen": "a", "rejected": "b"}\n')
    return tmp_path


@pytest.mark.parametrize("name", sorted(bundled_recipes()))
def test_every_bundled_recipe_loads_and_says_what_it_is_for(here, name):
    path = find_recipe(name)
    recipe = read_recipe(path, NEEDED.get(name, ()))
    assert recipe.name == Path(name).name
    assert first_sentence(recipe_text(path)).endswith((".", "?", "!"))
    assert build(Recipe, to_tree(recipe)) == recipe  # what run.json records makes the same recipe again


def test_the_embedded_recipe_is_there_and_every_bundled_one_is_found_by_its_name():
    found = bundled_recipes()
    assert {"embedded", "hh-rlhf"} <= set(found)
    assert all(path.is_file() and path.is_relative_to(BUNDLED) for path in found.values())


def test_a_recipe_with_an_empty_file_has_defaults_for_everything(tmp_path):
    path = tmp_path / "empty.yaml"
    path.write_text("")
    assert read_recipe(path) == Recipe()


def test_the_first_sentence_of_the_opening_comment_is_what_a_recipe_is_for():
    assert first_sentence("# One thing,\n# in two lines. And more.\nname: x\n# Later.") == "One thing, in two lines."
    assert first_sentence("# No full stop\nname: x") == "No full stop"
    assert first_sentence("name: x") == ""


def test_overrides_win_and_reach_every_depth():
    recipe = read_recipe(
        find_recipe("embedded"),
        [
            "seed=5",
            "sft.trainer.max_steps=2",
            "base.tiny.hidden_size=64",
            "filter.phrases=null",
            "stages=[filter, sft]",
        ],
    )
    assert (recipe.seed, recipe.base.tiny.hidden_size, recipe.filter.phrases) == (5, 64, None)
    assert recipe.sft.trainer["max_steps"] == 2 and recipe.sft.trainer["save_steps"] == 4  # the others stay
    assert recipe.stages == ("filter", "sft")


def test_all_faults_are_told_at_once_with_path_value_what_was_wanted_and_the_nearest_name(tmp_path):
    text = """
name: broken
sed: 3
base:
  quantization: nf5
  tiny:
    hidden_size: 100
    layers: zero
sft:
  trainer:
    learning_rat: 1.0e-3
    output_dir: /somewhere
  max_length: 2
eval:
  samples_per_prompt: 0
"""
    faults = "\n".join(
        faults_of(text, tmp_path, "ppo.max_prompt_tokens=many", "data.source=hh", "rewrad.trainer.max_steps=3")
    )
    for wanted in (
        r"sed \(line 3\): got an unknown key; .*Did you mean 'seed'\?",
        r"base\.quantization \(line 5\): got 'nf5' .*wanted one of 'none', 'nf4'\. Did you mean 'nf4'\?",
        r"base\.tiny\.layers \(line 8\): got 'zero' .*wanted a whole number from 1 to 64",
        r"sft\.trainer\.learning_rat \(line 11\): .*an option of SFTConfig\. Did you mean 'learning_rate'\?",
        r"sft\.trainer\.output_dir \(line 12\): .*the stage's folder in the run decides it",
        r"sft\.max_length \(line 13\): got 2 .*wanted a whole number of at least 8 \(tokens\)",
        r"eval\.samples_per_prompt \(line 15\): got 0 .*at least 1",
        r"ppo\.max_prompt_tokens \(an override\): got 'many' .*whole number",
        r"rewrad \(an override\): .*Did you mean 'reward'\?",
        r"data\.path: got nothing, wanted a file of pairs",
    ):
        assert re.search(wanted, faults), f"{wanted} not in:\n{faults}"


def test_what_the_last_stage_cannot_use_is_told_before_the_first(tmp_path):
    faults = faults_of("", tmp_path, "eval.preset=sixx", "eval.toxicity=wordlst:words.txt")
    assert len(faults) == 2
    assert "eval.preset" in faults[0] and "did you mean 'six'?" in faults[0]
    assert "eval.toxicity" in faults[1] and "did you mean 'wordlist'?" in faults[1]
    assert read_recipe(find_recipe("embedded"), ["eval.preset=six", "eval.toxicity=detoxify:unbiased"])


def test_another_toxicity_scorer_makes_the_evaluation_stale(tmp_path):
    words = tmp_path / "me@home" / "words.txt"
    words.parent.mkdir()
    recipe = read_recipe(find_recipe("embedded"), [f"eval.toxicity=wordlist:{words}"])

    def inputs():
        return stages_of(recipe, Console(is_quiet=True))[-1].inputs

    with pytest.raises(DataError, match=r"eval\.toxicity: got wordlist:.*, but there is no .*words\.txt"):
        inputs()
    words.write_text("rude")
    before = inputs()
    words.write_text("rude\nworse")
    assert inputs() != before


def test_other_code_of_a_stage_makes_it_stale_wherever_it_stands():
    # these show progress, or are of the commands that open finished models: they decide no result of a stage
    apart = {"console", "model_source", "corpus.units"}

    def used_by(name: str, begins: str = "") -> set[str]:
        nodes = ast.walk(ast.parse((Path(stages.__file__).with_name(f"{name}.py")).read_text()))
        ours = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 1 and node.module]
        return {node.module for node in ours if any(one.name.startswith(begins) for one in node.names)}

    wanted = set.union(used_by("stages", "run_"), *map(used_by, stages.MODULES)) - apart
    assert {"evaluate", "examination", "mitigate"} < wanted, "the search finds what it should"
    assert wanted <= set(stages.MODULES), f"stages.MODULES leaves out {wanted - set(stages.MODULES)}"


def test_an_unknown_option_of_a_trainer_is_refused_without_importing_the_trainer(tmp_path):
    (fault,) = faults_of("reward: {trainer: {per_device_batch: 4}}", tmp_path)
    assert "reward.trainer.per_device_batch" in fault and "RewardConfig" in fault
    (fault,) = faults_of("ppo: {trainer: {kl_coeff: 0.1}}", tmp_path)
    assert "ppo.trainer.kl_coeff" in fault and "kl_coef'" in fault and "PPOConfig" in fault


def test_faults_are_told_before_torch_is_imported(tmp_path):
    (tmp_path / "broken.yaml").write_text("sed: 3\nsft: {trainer: {learning_rat: 1}}\n")
    script = """
import sys
from tunewell.pipelines.cli import main
sys.argv = ["tunewell", "run", "broken.yaml", "base.device=tpu"]
try:
    main()
except SystemExit as end:
    heavy = {"torch", "transformers", "trl", "peft", "datasets", "sklearn", "matplotlib"} & set(sys.modules)
    print(end.code, sorted(heavy))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.stdout == "2 []\n"
    assert done.stderr.startswith("error: 3 faults in broken.yaml:\n") and "Traceback" not in done.stderr
    for path in ("sed", "sft.trainer.learning_rat", "base.device"):
        assert f"  - {path}" in done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.yaml"]  # and nothing was made


@pytest.mark.parametrize(
    ("stages", "fault"),
    [
        ("[sft]", "'sft' needs filter before it"),
        ("[filter, ppo, sft, reward]", "'ppo' needs sft, reward before it"),
        ("[filter, sft, ppo]", "'ppo' needs reward before it"),
        ("[filter, sft, filter]", "wanted each stage once"),
        (
            "[]",
            "got none, wanted at least one of filter, retrain, mixture, losses, sft, reward, sweep, ppo, eval, "
            "mitigations",
        ),
        ("[filter, stf]", "got 'stf'"),
    ],
)
def test_stages_out_of_order_are_refused(tmp_path, stages, fault):
    assert any(fault in found for found in faults_of(f"stages: {stages}", tmp_path)), stages


def test_every_stage_names_its_needs_and_a_partial_recipe_is_allowed(tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text("stages: [filter, sft, eval]")
    assert read_recipe(path).stages == ("filter", "sft", "eval")
    assert set(NEEDS) == set(get_args(StageName))


@pytest.mark.parametrize("name", ["''", "' '", "a/b", "../up", "."])
def test_a_name_that_cannot_name_a_folder_is_refused(tmp_path, name):
    (fault,) = faults_of(f"name: {name}", tmp_path)
    assert re.match(r"name \(line 1\): got .*, wanted a word that can name a folder", fault)


def test_a_source_needs_its_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (fault,) = faults_of("data: {source: hh}", tmp_path)
    assert "data.path: got nothing" in fault and "data.path=FILE" in fault
    faults = faults_of("data: {source: files, demonstrations: mine.jsonl}", tmp_path)
    told = "\n".join(faults)
    assert "data.demonstrations (line 1): got 'mine.jsonl', wanted a file that exists" in told and str(tmp_path) in told
    for name in ("comparisons", "prompts", "held_out_prompts"):
        assert re.search(rf"data\.{name} \(line 1\): got nothing", told)


@pytest.mark.parametrize(
    ("last", "rows", "told"),
    [
        ("sft", ["demonstrations"], []),
        ("sft", [], [r"demonstrations.* for the stage sft: data\.demonstrations=FILE$"]),
        ("reward", ["demonstrations", "rankings"], []),
        ("reward", ["demonstrations", "ratings"], []),
        ("reward", ["rankings"], [r"demonstrations.*FILE, or stages=\[filter,reward\]$"]),
        ("reward", ["demonstrations"], [r"comparisons.*=FILE, or data\.rankings=FILE, or data\.ratings=FILE$"]),
        ("ppo", ["demonstrations", "ratings"], [r"prompts.* the stage ppo: data\.prompts=FILE$"]),
        (None, ["demonstrations", "ratings"], [r"prompts.*filter,sft,reward\]$", r"held_out_prompts.*,sft,reward\]$"]),
        (None, ["demonstrations", "prompts"], [r"comparisons.*=\[filter,sft\]$", r"held_out_prompts.*filter,sft\]$"]),
    ],
)  # fmt: skip
def test_a_stage_wants_only_the_files_that_it_reads(here, last, rows, told):
    given = ["base.model=some/model", *(f"data.{name}=pairs.jsonl" for name in rows)]
    if not told:
        assert read_recipe(find_recipe("own-files"), given, last).data.source == "files"
        return
    with pytest.raises(SettingsError) as caught:
        read_recipe(find_recipe("own-files"), given, last)
    assert len(caught.value.faults) == len(told)
    for proposed in re.findall(r"stages=\[[a-z,]+\]", str(caught.value)):  # what is proposed mends all faults
        assert read_recipe(find_recipe("own-files"), [*given, proposed], last)
    for fault, pattern in zip(caught.value.faults, told, strict=True):
        assert re.search(rf"^data\.{pattern}", fault)


def test_a_checkpoint_is_chosen_on_held_out_demonstrations_or_the_recipe_is_refused(here):
    given = ["base.model=some/model", *OWN]
    before = "stages=[filter,reward,sft]"
    for settings in ([before], ["sft.select=loss"], ["stages=[filter,sft]", "sft.select=loss"]):
        with pytest.raises(SettingsError, match=r"data\.validation_share.*: got 0, wanted .* or sft\.select=last"):
            read_recipe(find_recipe("own-files"), [*given, *settings])
    for cure in ("data.validation_share=0.05", "sft.select=last", "data.demonstrations_held_out=pairs.jsonl"):
        assert read_recipe(find_recipe("own-files"), [*given, before, cure])


def test_the_tiny_base_needs_text_to_be_trained_on(here):
    rows = ["data.source=files", *OWN]
    path = here / "recipe.yaml"
    path.write_text("")
    with pytest.raises(SettingsError, match=r"base\.model: got 'tiny' and no text to train it on, wanted a model"):
        read_recipe(path, rows)
    assert read_recipe(path, [*rows, "base.model=some/model"]).base.model == "some/model"
    assert read_recipe(path, [*rows, "data.corpus=pairs.jsonl"]).data.corpus == "pairs.jsonl"


@pytest.mark.parametrize(("given", "meant"), [("embeded", "embedded"), ("hh_rlhf", "hh-rlhf")])
def test_an_unknown_recipe_is_refused_with_the_nearest_name(given, meant):
    with pytest.raises(SettingsError, match=rf"got '{given}'.*\(embedded, .*hh-rlhf.*\)\. Did you mean '{meant}'\?"):
        find_recipe(given)
    with pytest.raises(SettingsError) as caught:
        find_recipe("nothing-like-it.yaml")
    assert "Did you mean" not in str(caught.value)


def test_a_file_of_the_user_is_a_recipe_too(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\n")
    assert find_recipe(str(path)) == path and read_recipe(path).name == "mine"


def test_every_setting_explains_itself():
    helps = field_help(Recipe)
    assert len(helps) > 50
    for path, text in helps.items():
        assert len(text.split()) >= 2, f"{path}: {text!r}"
    assert "(tokens)" in helps["eval.max_new_tokens"] and "default 32" in helps["eval.max_new_tokens"]


def test_other_weights_in_the_folder_of_the_base_are_another_input(here):
    weights = here / "model" / "model.safetensors"
    weights.parent.mkdir()

    def first_inputs():
        recipe = read_recipe(find_recipe("own-files"), [*OWN, f"base.model={weights.parent}"])
        return stages_of(recipe, Console())[0].inputs

    weights.write_bytes(b"one")
    before = first_inputs()
    assert str(weights) in before
    weights.write_bytes(b"two")
    assert first_inputs() != before
