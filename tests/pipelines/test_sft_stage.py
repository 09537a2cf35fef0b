import json
import shutil
from types import SimpleNamespace

import pytest
from micro_run import MICRO, QUIET, call, libraries_as_before, micro_run
from tunewell.pipelines.console import Console
from tunewell.pipelines.recipe import find_recipe, read_recipe
from tunewell.pipelines.sets import DataSettings
from tunewell.pipelines.sft import _kept_figures, run_sft, selection, usable
from tunewell.pipelines.stages import stages_of
from tunewell.pipelines.training import trainer_arguments
from tunewell.toolkit.errors import MissingPackageError, SettingsError
from tunewell.toolkit.files import read_json
from tunewell.toolkit.settings.base import BaseSettings
from tunewell.toolkit.settings.reading import TrainerBlock
from tunewell.toolkit.stage import Artifacts

pytestmark = [pytest.mark.filterwarnings(line) for line in QUIET]
BASE = [one for one in MICRO if one.startswith(("base.", "filter.", "data."))]


@pytest.mark.slow
def test_sft_after_a_reward_model_logs_both_curves_and_keeps_the_best_by_reward(tmp_path, monkeypatch, capsys):
    arguments = ["run", "findings/sft-overfit", *BASE, "filter.blocklist=null", "reward.trainer.num_train_epochs=1",
                 "sft.trainer.num_train_epochs=3", "sft.validation_prompts=6", "sft.max_new_tokens=4",
                 "sft.ptx_share=0.1", "--out", str(tmp_path / "run"), "--json"]  # fmt: skip
    with libraries_as_before():
        called = call(monkeypatch, capsys, *arguments)
    assert called.code == 0, called.err
    record = read_json(tmp_path / "run" / "run.json")
    log = read_json(tmp_path / "run" / "03-sft" / "log.json")
    rewards = {entry["epoch"]: entry["eval_reward"] for entry in log if "eval_reward" in entry}
    losses = {entry["epoch"]: entry["eval_loss"] for entry in log if "eval_loss" in entry}
    assert len(rewards) == len(losses) == 3
    best = max(rewards, key=rewards.get)
    results = record["results"]
    assert results["sft.reward"]["value"] == rewards[best] and results["sft.epochs"]["value"] == best
    change = results["sft.reward_after_lowest_loss"]
    assert change["n"] == 6 and change["low"] <= change["value"] <= change["high"]
    assert results["sft.held_out_loss"]["value"] == losses[best]
    rows = record["stages"]["sft"]["rows"]
    assert rows["pretraining_texts"] == round(rows["demonstrations"] / 9)
    assert (tmp_path / "run" / "03-sft" / "policy" / "adapter_config.json").is_file()
    assert "SFT: reward of sampled answers" in (tmp_path / "run" / "report.html").read_text()


def test_a_checkpoint_is_chosen_by_reward_only_where_there_is_a_reward_model(tmp_path):
    settings = read_recipe(find_recipe("embedded")).sft
    assert selection(settings, Artifacts()) == "last"
    assert selection(settings, Artifacts(reward=tmp_path)) == "reward"
    wanted = read_recipe(find_recipe("embedded"), ["sft.select=reward"]).sft
    with pytest.raises(SettingsError, match=r"no reward model; put `reward` before `sft` in the stages, or give"):
        selection(wanted, Artifacts())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["sft.reward=nowhere"], r"sft\.reward.*got 'nowhere', wanted the folder of a reward adapter"),
        (["sft.select=best"], r"sft\.select"),
        (
            ["sft.trainer.completion_only_loss=false"],
            r"completion_only_loss.*the loss counts completions alone, always",
        ),
        (["sft.trainer.assistant_only_loss=true"], r"assistant_only_loss.*every answer of a chat is a row of its own"),
        (["reward.trainer.chat_template_path=x"], r"reward\.trainer\.chat_template_path.*before the trainer sees them"),
        (["reward.trainer.pad_token=x"], r"reward\.trainer\.pad_token.*base\.pad_token decides it"),
        (["sft.ptx_share=1"], r"sft\.ptx_share"),
        (["data.validation_share=0.9"], r"validation_share.*leaves nothing to train on"),
    ],
)
def test_settings_that_cannot_work_are_refused_with_the_cure(settings, message):
    with pytest.raises(SettingsError, match=message):
        read_recipe(find_recipe("embedded"), settings)


def test_empty_completions_and_rows_that_are_too_long_are_counted_apart():
    from tunewell.toolkit.settings.base import TinySettings
    from tunewell.toolkit.tiny import train_tokenizer

    made = train_tokenizer(["w6 w7 and some words"], TinySettings(vocabulary=260))
    made.chat_template = "{% for one in messages %}{{ one['content'] }}{% endfor %}"
    chat = [{"role": "assistant", "content": "\n"}]
    rows = [{"prompt": "w6", "completion": text} for text in (" w7", " ", " w7" * 30)]
    assert usable(rows, made, 16) == (rows[:1], {"too_long": 1, "empty": 1})
    asked = [{"role": "user", "content": "w6"}]
    assert usable([{"prompt": asked, "completion": chat}], made, 16)[1] == {"too_long": 0, "empty": 1}


def test_a_tracker_gets_the_log_and_one_that_cannot_serve_is_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    from transformers import TrainerCallback, integrations
    from trl import SFTConfig

    def arguments(name):
        block = TrainerBlock({"report_to": name})
        return trainer_arguments(SFTConfig, block, BaseSettings(device="cpu"), tmp_path, 0)

    with pytest.raises(SettingsError, match=r"report_to: got 'notebook', wanted `none` or some of .*tensorboard"):
        arguments("notebook")
    monkeypatch.setattr(integrations, "get_available_reporting_integrations", list)
    with pytest.raises(MissingPackageError, match=r"report_to=trackio needs the package 'trackio'"):
        arguments("trackio")
    monkeypatch.setattr(integrations, "get_available_reporting_integrations", lambda: ["trackio"])
    assert arguments(["trackio"]).report_to == ["trackio"]
    assert arguments("none").report_to == []
    assert issubclass(integrations.INTEGRATION_TO_CALLBACK["trackio"], TrainerCallback)


@pytest.mark.parametrize(
    ("device", "quantization", "wanted"),
    [
        (
            "cuda",
            "nf4",
            {"optim": "paged_adamw_32bit", "bf16": True, "activation_checkpointing": True, "use_cpu": False},
        ),
        ("cuda", "none", {"bf16": True, "activation_checkpointing": True}),
        ("cpu", "nf4", {"bf16": True, "activation_checkpointing": False, "use_cpu": True}),
        ("cpu", "none", {"bf16": False, "activation_checkpointing": False}),
    ],
)
def test_precision_memory_and_optimiser_follow_the_machine_and_the_recipe_has_the_last_word(
    tmp_path, monkeypatch, device, quantization, wanted
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    base = BaseSettings(device=device, quantization=quantization)
    found = trainer_arguments(dict, TrainerBlock({}), base, tmp_path, 0)  # the arguments as they would be passed
    assert wanted.items() <= found.items() and ("optim" in found) == ("optim" in wanted)
    own = TrainerBlock({"optim": "adamw_torch", "fp16": True, "gradient_checkpointing": False})
    found = trainer_arguments(dict, own, base, tmp_path, 0)
    # transformers warns of the old name, so that it is passed on by the new one
    assert (found["optim"], found["bf16"], found["activation_checkpointing"]) == ("adamw_torch", False, False)
    assert "gradient_checkpointing" not in found
    both = TrainerBlock({"gradient_checkpointing": False, "activation_checkpointing": True})
    assert trainer_arguments(dict, both, base, tmp_path, 0)["activation_checkpointing"] is True


def test_validation_prompts_of_preferences_are_in_no_other_part(tmp_path):
    from tunewell.pipelines.sets import load_sets, plain_text
    from tunewell.toolkit.data.rows import write_rows

    write_rows(tmp_path / "pairs.jsonl", [
        {"chosen": f"\n\nHuman: question {n}?\n\nAssistant: good {n}.",
         "rejected": f"\n\nHuman: question {n}?\n\nAssistant: bad {n}."} for n in range(200)
    ])  # fmt: skip
    found = load_sets(DataSettings(source="hh", path=str(tmp_path / "pairs.jsonl"), validation_share=0.2), 0)
    parts = [{plain_text(row["prompt"]) for row in rows} for rows in
             (found.demonstrations, found.demonstrations_held_out, found.held_out_prompts)]  # fmt: skip
    assert sum(map(len, parts)) == len(set.union(*parts)) == 200
    assert 20 < len(parts[1]) < 65


def test_another_reward_adapter_in_the_folder_that_the_recipe_names_is_another_input(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    weights = tmp_path / "adapter_model.safetensors"

    def inputs():
        recipe = read_recipe(find_recipe("embedded"), [f"sft.reward={tmp_path}", "sft.select=reward"])
        return next(stage for stage in stages_of(recipe, Console()) if stage.name == "sft").inputs

    weights.write_bytes(b"one")
    before = inputs()
    assert str(weights) in before
    weights.write_bytes(b"two")
    assert inputs() != before


def test_held_out_demonstrations_that_are_left_out_are_told(tmp_path, tmp_path_factory):
    made = micro_run(tmp_path_factory.getbasetemp()).folder
    artifacts = read_json(made / "01-filter" / "stage.json")["artifacts"]
    data = tmp_path / "data"
    shutil.copytree(made / artifacts["data"], data)
    rows = [{"prompt": "Say it.", "completion": text} for text in (" Yes.", " ", " word" * 2000)]
    (data / "demonstrations_held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = read_recipe(find_recipe("embedded"), MICRO)
    with libraries_as_before():
        outcome = run_sft(
            recipe.sft, recipe.base, 0, Console(), Artifacts(base=artifacts["base"], data=data), tmp_path / "sft"
        )
    assert outcome.rows["held_out"] == outcome.rows["held_out.too_long"] == outcome.rows["held_out.empty"] == 1
    told = "SFT left out 2 held-out demonstrations: 1 have more than 512 tokens, 1 an empty completion."
    assert told in outcome.warnings


@pytest.mark.parametrize(("loads_best", "step"), [(True, 3), (False, 6)])
def test_the_figures_are_those_of_the_checkpoint_that_the_trainer_ended_with(loads_best, step):
    log = [{"step": 3, "epoch": 1.0, "eval_loss": 1.5}, {"step": 6, "epoch": 2.0, "eval_loss": 2.5}]
    state = SimpleNamespace(log_history=log, best_global_step=3, global_step=6)
    arguments = SimpleNamespace(load_best_model_at_end=loads_best)
    found = _kept_figures(SimpleNamespace(state=state, args=arguments, eval_dataset=[1, 2], probe=None))
    assert found["sft.epochs"]["value"] == step / 3
    assert found["sft.held_out_loss"]["value"] == {3: 1.5, 6: 2.5}[step]


def test_held_out_prompts_without_room_for_an_answer_are_told(tmp_path, tmp_path_factory):
    made = micro_run(tmp_path_factory.getbasetemp()).folder
    artifacts = read_json(made / "01-filter" / "stage.json")["artifacts"]
    data = tmp_path / "data"
    shutil.copytree(made / artifacts["data"], data)
    rows = [{"prompt": text, "completion": " Yes."} for text in ("Say it.", "Say no.", "word " * 150)]
    (data / "demonstrations_held_out.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = read_recipe(find_recipe("embedded"), [*MICRO, f"sft.reward={made / '03-reward' / 'reward'}",
                                                   "sft.select=reward", "sft.max_new_tokens=400"])  # fmt: skip
    with libraries_as_before():
        outcome = run_sft(recipe.sft, recipe.base, 0, Console(), Artifacts(base=artifacts["base"], data=data),
                          tmp_path / "sft")  # fmt: skip
    assert outcome.results["sft.reward"]["n"] == 2
    assert any("without 1 held-out prompts that leave no room" in text for text in outcome.warnings)
