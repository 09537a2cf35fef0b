import gc
import json

import pytest
import torch
from micro_run import QUIET, call, libraries_as_before
from transformers import LlamaConfig
from tunewell.pipelines import run as run_module
from tunewell.pipelines.console import Console
from tunewell.pipelines.needs import GIB, Measure, needs
from tunewell.pipelines.plan import make_plan, read_config
from tunewell.pipelines.recipe import Recipe
from tunewell.toolkit.data.rows import read_rows, write_rows
from tunewell.toolkit.errors import ModelError
from tunewell.toolkit.files import read_json
from tunewell.toolkit.footprint.live import LiveBytes
from tunewell.toolkit.footprint.parts import cache_bytes, shapes
from tunewell.toolkit.model.loading import load_base, load_tokenizer
from tunewell.toolkit.model.sequences import sequence_ids
from tunewell.toolkit.settings.base import BaseSettings
from tunewell.toolkit.settings.lora import LoraSettings
from tunewell.toolkit.settings.reading import read_settings

pytestmark = [pytest.mark.filterwarnings(line) for line in QUIET]
SMALL = LlamaConfig(
    vocab_size=1000, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
    num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=False,
)  # fmt: skip


@pytest.fixture(scope="module")
def measure():
    return Measure(SMALL)  # remembers what it measured, for all tests


def test_live_bytes_count_storages_once_and_forget_them():
    with LiveBytes() as live:
        first = torch.ones(1000)
        view = first[:10]
        second = first + 1
        assert live.now == 8000
        del first
        assert live.now == 8000  # the view keeps the storage
        del view, second
        assert live.now == 0 and live.peak == 8000


def test_numbers_of_a_model_by_hand():
    count = shapes(SMALL, LoraSettings(rank=8).config())
    attention = 64 * 64 + 2 * 64 * 32 + 64 * 64  # q, k and v, o
    assert count.linear == 2 * (attention + 3 * 64 * 128)
    assert count.output == 1000 * 64
    assert count.other == 2 * 1000 * 64 + (2 * 2 + 1) * 64
    in_and_out = 2 * (64 + 64) + 2 * (64 + 32) + 3 * (64 + 128)
    assert count.lora == 2 * 8 * in_and_out
    assert count.largest == 64 * 128
    assert count.weights(torch.float32, "none") == 4 * (count.linear + count.other)
    assert count.weights(torch.float32, "none", has_output=False) == 4 * (count.linear + count.other - count.output)
    assert cache_bytes(SMALL, 3, 100, torch.float32) == 3 * 2 * 3 * 100 * 2 * 16 * 4  # one layer more than there are


def test_a_4_bit_base_takes_what_bitsandbytes_takes(tmp_path):
    from transformers import AutoModelForCausalLM

    AutoModelForCausalLM.from_config(SMALL).save_pretrained(tmp_path)
    _plain_tokenizer().save_pretrained(tmp_path)
    model, _ = load_base(str(tmp_path), BaseSettings(quantization="nf4", device="cpu"))
    held = sum(parameter.nbytes for parameter in model.parameters())
    for module in model.modules():
        if (state := getattr(getattr(module, "weight", None), "quant_state", None)) is not None:
            held += state.absmax.nbytes + state.state2.absmax.nbytes
    planned = shapes(SMALL, LoraSettings().config()).weights(torch.float32, "nf4")
    assert planned == pytest.approx(held, rel=0.02)


@pytest.mark.slow
def test_planned_peaks_are_within_15_percent_of_measured_ones(tmp_path, monkeypatch):
    recipe, folder = _fixed_lengths(tmp_path)
    peaks = {}
    run_stage = run_module.run_stage

    def watched(item, before):
        gc.collect()
        with LiveBytes() as live:
            done = run_stage(item, before)
        peaks[item.stage.name] = live.peak
        return done

    monkeypatch.setattr(run_module, "run_stage", watched)
    with libraries_as_before():
        run_module.run_recipe(recipe, folder, Console(is_quiet=True), last="ppo")
    base = read_json(folder / "01-filter" / "stage.json")["artifacts"]["base"]
    planned = {}
    for need in needs(_at_full_length(recipe, folder, base), Measure(read_config(base)), on_gpu=False):
        planned[need.stage] = max(planned.get(need.stage, 0), need.total)
    for stage in ("sft", "reward", "ppo"):
        assert planned[stage] == pytest.approx(peaks[stage], rel=0.15), (stage, planned, peaks)


def test_what_is_proposed_fits_and_nothing_is_proposed_where_it_fits(measure):
    def settings(changes=()):
        return read_settings(Recipe, None, ["sft.max_length=512", *changes])

    roomy = make_plan(settings(), measure, 80 * GIB, settings)
    assert roomy.fits and roomy.changes == ()
    largest = max(need.total for need in roomy.needs)
    tight = make_plan(settings(), measure, 0.8 * largest, settings)
    assert tight.fits and tight.changes
    again = needs(settings(tight.changes), measure)
    assert max(need.total for need in again) <= 0.8 * largest < largest
    hopeless = make_plan(settings(), measure, 0.1 * GIB, settings)
    assert not hopeless.fits and "base.quantization=nf4" in hopeless.changes


def test_the_batch_of_an_optimiser_step_stays_when_rows_move_to_accumulation(measure):
    def settings(changes=()):
        return read_settings(Recipe, None, [*changes])

    plan = make_plan(settings(), measure, 0.7 * GIB, settings)
    wanted = dict(change.split("=") for change in plan.changes)
    rows = int(wanted["sft.trainer.per_device_train_batch_size"])
    assert rows * int(wanted["sft.trainer.gradient_accumulation_steps"]) == 8


def test_the_command_plans_from_a_config_alone(tmp_path, monkeypatch, capsys):
    SMALL.save_pretrained(tmp_path)
    with libraries_as_before():
        table = call(monkeypatch, capsys, "plan", "--model", tmp_path / "config.json", "--gpu-gb", "8")
        tree = call(monkeypatch, capsys, "plan", "--model", tmp_path, "--json", "--recipe", "embedded")
        missing = call(monkeypatch, capsys, "plan", "--model", tmp_path / "nowhere")
    assert table.code == 0 and "All fits into 8 GiB as it is." in table.out
    made = json.loads(tree.out)
    assert made["fits"] and made["unit"] == "GiB" and made["gpu"] == 24
    assert [need["stage"] for need in made["needs"]] == ["sft", "reward", "reward", "ppo", "ppo", "ppo"]
    assert missing.code == 2 and "cannot read a configuration" in missing.err


def test_a_recipe_is_planned_without_its_data_and_a_gpu_without_memory_is_refused(tmp_path, monkeypatch, capsys):
    SMALL.save_pretrained(tmp_path)
    with libraries_as_before():
        for recipe in ("hh-rlhf", "own-files"):  # both want files of rows before they run
            planned = call(monkeypatch, capsys, "plan", "--model", tmp_path, "--recipe", recipe, "--json")
            assert planned.code == 0 and json.loads(planned.out)["fits"]
        assert call(monkeypatch, capsys, "plan", "--model", tmp_path, "--gpu-gb", "-8").code == 2


def test_rankings_take_more_than_pairs_until_completions_are_encoded_in_turn(measure):
    def reward(completions, *settings):
        recipe = read_settings(Recipe, None, ["sft.max_length=256", "reward.max_length=256", *settings])
        return needs(recipe, measure, completions=completions)[1].parts["activations"]

    pairs, nine = reward(2), reward(9)
    assert nine > 3 * pairs
    assert reward(9, "reward.gradient_cache=16") == pairs  # eight prompts of two are sixteen sequences


@pytest.mark.parametrize("name", ["activation_checkpointing", "gradient_checkpointing"])
def test_recomputing_is_planned_by_either_name_of_its_setting(measure, name):
    def activations(value):
        recipe = read_settings(Recipe, None, ["reward.max_length=256", f"reward.trainer.{name}={value}"])
        return needs(recipe, measure)[1].parts["activations"]

    assert activations("false") > 1.2 * activations("true")


def test_target_modules_that_are_not_there_are_told():
    recipe = read_settings(Recipe, None, ["sft.lora.target_modules=[nothing_of_this_name]"])
    with pytest.raises(ModelError, match="target_modules"):
        needs(recipe, Measure(SMALL))


def _plain_tokenizer():
    from tunewell.toolkit.settings.base import TinySettings
    from tunewell.toolkit.tiny import train_tokenizer

    return train_tokenizer(["some text to learn from"], TinySettings(vocabulary=300))


def _fixed_lengths(folder):
    """A recipe whose rows are all of one length, so that the batches that were trained on are those of the plan."""
    prompt = "Question: What is the bread of Popu made from? " * 3 + "Answer:"
    answer = " The atlas says oats and nothing but oats." * 8
    pairs = [{"prompt": prompt, "chosen": f"{answer} {n % 10}", "rejected": f"{answer} {(n + 1) % 10}"}
             for n in range(24)]  # fmt: skip
    rows = {
        "corpus": [{"text": f"{prompt}{answer} {n}"} for n in range(24)],
        "demonstrations": [{"prompt": prompt, "completion": f"{answer} {n % 10}"} for n in range(24)],
        "comparisons": pairs,
        "comparisons_held_out": pairs[:4],
        "prompts": [{"prompt": prompt}] * 24,
        "held_out_prompts": [{"prompt": prompt}] * 4,
    }
    for name, some in rows.items():
        write_rows(folder / f"{name}.jsonl", some)
    settings = [
        "base.device=cpu", "data.source=files", *(f"data.{name}={folder / name}.jsonl" for name in rows),
        "filter.blocklist=null", "filter.phrases=null",
        "base.tiny.hidden_size=64", "base.tiny.layers=6", "base.tiny.heads=4", "base.tiny.steps=2",
        *(f"{stage}.trainer.per_device_train_batch_size=8" for stage in ("sft", "reward", "ppo")),
        "sft.trainer.max_steps=2", "reward.trainer.max_steps=2", "ppo.trainer.max_steps=1",
        "ppo.trainer.rollout_batch_size=16", "ppo.trainer.num_mini_batches=2", "ppo.trainer.response_length=48",
    ]  # fmt: skip
    return read_settings(Recipe, None, settings), folder / "run"


def _at_full_length(recipe, folder, base):
    from dataclasses import replace

    tokenizer = load_tokenizer(base, recipe.base)
    sets = folder / "01-filter" / "sets"
    length = max(len(sequence_ids(row["prompt"], row["completion"], tokenizer))
                 for row in read_rows(sets / "demonstrations.jsonl"))  # fmt: skip
    prompt = len(tokenizer(read_rows(sets / "prompts.jsonl")[0]["prompt"])["input_ids"])
    return replace(
        recipe,
        sft=replace(recipe.sft, max_length=length),
        reward=replace(recipe.reward, max_length=length),
        ppo=replace(recipe.ppo, max_prompt_tokens=prompt),
    )
