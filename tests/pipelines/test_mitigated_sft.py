"""Every mitigation at once: off is the untreated run bit for bit, a resumed run ends alike, 4 bits work too."""

import shutil
from dataclasses import replace

import pytest
from micro_run import MICRO, QUIET
from safetensors.torch import load_file
from tunewell.pipelines.console import Console
from tunewell.pipelines.recipe import find_recipe, read_recipe
from tunewell.pipelines.run import run_recipe
from tunewell.pipelines.sets import load_sets, save_sets
from tunewell.pipelines.sft import run_sft
from tunewell.toolkit.errors import SettingsError
from tunewell.toolkit.mitigations.settings import OFF
from tunewell.toolkit.stage import Artifacts
from tunewell.toolkit.tiny import cached_base

pytestmark = [
    *[pytest.mark.filterwarnings(line) for line in QUIET],
    # bitsandbytes reads single-element tensors that require gradients as numbers while it quantises
    pytest.mark.filterwarnings("ignore:Converting a tensor with requires_grad=True:UserWarning"),
]
STEPS = ("sft.trainer.max_steps=4", "sft.trainer.save_steps=2", "sft.trainer.save_strategy=steps")
# Everything that SFT can be treated with; strengths last, so that they can be left out.
PLANS = (
    "mitigations.protect.energy=0.5", "mitigations.protect.limit=10", "mitigations.unlikelihood.batch_size=2",
    "mitigations.control.every=4", "mitigations.control.row_learning_rate=0.02", "mitigations.augment.mode=substitute",
)  # fmt: skip
STRENGTHS = (
    "mitigations.protect.strength=0.5", "mitigations.unlikelihood.strength=0.5", "mitigations.equalise.strength=0.5",
    "mitigations.embeddings.pair_distance=0.5", "mitigations.embeddings.bias_subspace=0.5",
    "mitigations.embeddings.counterfactual_hidden=0.5", "mitigations.embeddings.train_rows=true",
    "mitigations.augment.share=0.5", "mitigations.control.strength=2", "base.control_tokens=true",
)  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A micro base, its sets, and the files that mitigations need; words of the world's tokenizer."""
    folder = tmp_path_factory.mktemp("mitigated")
    recipe = read_recipe(find_recipe("embedded"), [*MICRO, *STEPS])
    sets = load_sets(recipe.data, 0)
    (folder / "pairs.txt").write_text("the and\n")
    (folder / "neutral.txt").write_text("flag bread\n")
    save_sets(sets, folder / "sets")
    shutil.copy(folder / "sets" / "clean_text.jsonl", folder / "sets" / "ptx.jsonl")
    base = cached_base([row["text"] for row in sets.corpus], seed=0, settings=recipe.base.tiny)
    return folder, str(base)


def trained(made, target, settings):
    folder, base = made
    files = (f"mitigations.pairs={folder}/pairs.txt", f"mitigations.embeddings.neutral={folder}/neutral.txt")
    recipe = read_recipe(find_recipe("embedded"), [*MICRO, *STEPS, *files, *settings])
    target.mkdir(parents=True, exist_ok=True)
    outcome = run_sft(
        recipe.sft, recipe.base, 0, Console(is_quiet=True), Artifacts(base=base, data=folder / "sets"), target,
        mitigations=recipe.mitigations,
    )  # fmt: skip
    return load_file(target / "policy" / "adapter_model.safetensors"), outcome


def same(first, second):
    return first.keys() == second.keys() and all((one == second[name]).all() for name, one in first.items())


def test_strength_zero_of_everything_is_the_untreated_run_bit_for_bit_and_a_resumed_treated_run_ends_alike(
    made, tmp_path
):
    untreated, _ = trained(made, tmp_path / "untreated", ())
    planned, _ = trained(made, tmp_path / "planned", PLANS)
    assert same(untreated, planned)

    whole, outcome = trained(made, tmp_path / "whole", (*PLANS, *STRENGTHS))
    assert any("tokens_delta" in name for name in whole), "the control: rows of the embeddings were trained"
    assert not all((whole[name] == one).all() for name, one in untreated.items())
    assert outcome.rows["demonstrations"] > 0
    checkpoint = tmp_path / "resumed" / "checkpoints" / "checkpoint-2"
    shutil.copytree(tmp_path / "whole" / "checkpoints" / "checkpoint-2", checkpoint)
    resumed, _ = trained(made, tmp_path / "resumed", (*PLANS, *STRENGTHS))
    assert same(whole, resumed)


@pytest.mark.slow
def test_everything_at_once_goes_through_all_stages_on_a_four_bit_base_and_chat_and_export_say_what_acts(
    made, tmp_path
):
    from tunewell.pipelines.at_decoding import find_at_decoding
    from tunewell.pipelines.chat import Conversation
    from tunewell.pipelines.export.merge import export_model
    from tunewell.pipelines.model_source import find_model
    from tunewell.pipelines.prompt_form import prompt_form
    from tunewell.pipelines.report_data import build_report
    from tunewell.toolkit.files import read_json
    from tunewell.toolkit.mitigations.decoding import Erasure
    from tunewell.toolkit.model.generation import Sampling

    folder, _ = made
    files = (f"mitigations.pairs={folder}/pairs.txt", f"mitigations.embeddings.neutral={folder}/neutral.txt")
    more = ("base.quantization=nf4", "mitigations.protect.stages=[sft,reward,ppo]", "mitigations.erase.strength=0.5",
            "mitigations.control.think_tokens=8")  # fmt: skip
    recipe = read_recipe(find_recipe("embedded"), [*MICRO, *files, *PLANS, *STRENGTHS, *more])
    record = run_recipe(recipe, tmp_path / "run", Console(is_quiet=True))
    assert record["finished"]
    for model in ("sft", "ppo"):
        assert 0 <= record["results"][f"gate.auc.{model}"]["value"] <= 1
        assert record["results"][f"gate.toxic.{model}"]["n"] == 4
        answers = read_json(tmp_path / "run" / "05-eval" / model / "gate.json")["answers"]
        assert {one["decision"] for one in answers} <= {"pass", "recovered", "filter"} and len(answers) == 4

    verdict = build_report(tmp_path / "run")["verdict"]
    assert any(text.startswith("The gate of control tokens brings PPO from") for text in verdict)

    told = record["stages"]["eval"]["warnings"]
    assert any("safe held-out texts of sft" in text and "row_learning_rate" in text for text in told)

    source = find_model(str(tmp_path / "run"))
    acting = find_at_decoding(source)
    assert acting.erasure and acting.gate and not acting.missing and len(acting.names) == 2
    shut = replace(acting.gate, low=0.0, high=0.0)
    talk = Conversation(
        stack=source.load(), form=prompt_form(source), sampling=Sampling(max_new_tokens=8), gate=shut,
        erasure=Erasure.load(acting.erasure),
    )  # fmt: skip
    assert talk.ask("Hello <|safe|>").text == shut.refusal
    exported = export_model(source, tmp_path / "out", Console(is_quiet=True), is_checked=False)
    assert any("mitigations.erase, mitigations.control" in text for text in exported.warnings)

    (tmp_path / "run" / "05-eval" / "gate-ppo.json").unlink()
    assert find_at_decoding(source).missing == ("mitigations.control (it is made by the stage eval)",)
    assert find_at_decoding(find_model(str(tmp_path / "run"), role="base")).names == ()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["mitigations.control.strength=1"], r"base\.control_tokens.* got false"),
        (["mitigations.control.strength=1", "base.control_tokens=true", "mitigations.protect.strength=1"],
         r"control\.strength.* got 1 with protect\.strength 1"),
        (["mitigations.embeddings.pair_distance=1", "mitigations.embeddings.train_rows=true",
          "mitigations.protect.strength=1"], r"embeddings\.train_rows.* got true with protect\.strength 1"),
        (["mitigations.control.held_out=nowhere.jsonl"], r"control\.held_out.* got 'nowhere\.jsonl'"),
        (["mitigations.embeddings.bias_subspace=1"], "wanted a file of neutral words"),
        (["mitigations.embeddings.train_rows=true"], "without pair_distance or bias_subspace"),
    ],
)  # fmt: skip
def test_mitigations_that_exclude_each_other_or_lack_something_are_refused(settings, message):
    with pytest.raises(SettingsError, match=message):
        read_recipe(find_recipe("embedded"), settings)


def test_all_mitigations_are_off_by_default():
    assert read_recipe(find_recipe("embedded")).mitigations == OFF
