import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from micro_run import QUIET, call, hashes, libraries_as_before, micro_run
from tunewell.pipelines.console import Console
from tunewell.pipelines.export.card import plain
from tunewell.pipelines.export.merge import Exported, export_model
from tunewell.pipelines.model_source import ModelSource, answering, find_model, with_memory
from tunewell.pipelines.prompt_form import PromptForm, prompt_form
from tunewell.toolkit.errors import ModelError, RunError
from tunewell.toolkit.files import read_json, unfinished_path

pytestmark = [pytest.mark.filterwarnings(line) for line in QUIET]
QUESTION = "Question: What is the bread of Popu made from?\nAnswer:"
# What a user does who has never heard of tunewell: it must not be importable, and nothing may come from the network.
PLAIN_USE = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForCausalLM.from_pretrained(sys.argv[1])
ids = tokenizer(sys.argv[2], return_tensors="pt").input_ids
with torch.no_grad():
    torch.save(model(input_ids=ids).logits.float(), sys.argv[3])
print(model.dtype, model.generation_config.eos_token_id == [tokenizer.eos_token_id], "tunewell" in sys.modules)
"""


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return micro_run(tmp_path_factory.getbasetemp()).folder


def in_float32(run: Path, role: str | None = None) -> ModelSource:
    """A model of the run, held alike on every machine: a GPU would take 16 bits, whose rounding is measured here."""
    return with_memory(find_model(str(run), role=role), device="cpu")


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory) -> Exported:
    out = tmp_path_factory.mktemp("export") / "model"
    unfinished_path(out).mkdir()  # of a killed export
    unfinished_path(out.with_name("another")).mkdir()  # somebody may be at it
    return export_model(in_float32(run), out, Console(is_quiet=True), dtype="float32")


def logits_of(run: Path, role: str) -> torch.Tensor:
    stack = in_float32(run, role).load()
    with answering(stack) as model, torch.no_grad():
        return model(input_ids=stack.tokenizer(QUESTION, return_tensors="pt").input_ids).logits


def test_plain_transformers_loads_the_folder_and_gets_the_logits_of_the_trained_model(run, exported, tmp_path):
    command = [sys.executable, "-c", PLAIN_USE, str(exported.folder), QUESTION, str(tmp_path / "logits.pt")]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["torch.float32", "True", "False"]
    got = torch.load(tmp_path / "logits.pt", weights_only=True)
    torch.testing.assert_close(got, logits_of(run, "ppo"), rtol=0, atol=1e-5)
    assert (got - logits_of(run, "base")).abs().max() > 1e-3  # the adapter is in it


def test_the_distance_from_the_trained_model_is_measured(run, exported, tmp_path):
    assert exported.difference.kl < 1e-6 and exported.difference.tokens > 100
    rounded = export_model(in_float32(run), tmp_path / "model", Console(is_quiet=True))
    assert 1e-8 < rounded.difference.kl < 1e-3
    assert not rounded.warnings
    assert {tensor.dtype for tensor in _weights(tmp_path / "model").values()} == {torch.bfloat16}


def test_weights_are_safetensors_and_nothing_unfinished_is_left(exported):
    names = {path.name for path in exported.folder.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md", "chat_template.jinja"} <= names
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]
    assert sorted(path.name.split(".")[:2] for path in exported.folder.parent.iterdir()) == [["", "another"], ["model"]]


def test_an_adapter_of_a_4_bit_base_is_merged_into_the_16_bit_one_and_told(run, tmp_path):
    source = find_model(str(run))
    quantised = replace(source, settings=replace(source.settings, quantization="nf4"))
    made = export_model(quantised, tmp_path / "model", Console(is_quiet=True))
    assert made.trained_on == "nf4"
    assert "merged into the 16-bit one" in made.warnings[0]
    assert made.difference.kl > 1e-6
    assert "quantization_config" not in read_json(tmp_path / "model" / "config.json")
    assert {tensor.dtype for tensor in _weights(tmp_path / "model").values()} == {torch.bfloat16}


def test_the_card_tells_data_filters_evaluation_and_limits(run, exported):
    text = (exported.folder / "README.md").read_text()
    _, front, body = text.split("---\n", 2)
    assert yaml.safe_load(front)["pipeline_tag"] == "text-generation"
    for heading in ("## Use", "## How it was made", "## Data", "## Evaluation", "## Limits"):
        assert heading in body
    results = read_json(run / "run.json")["results"]
    assert f"| toxicity.ppo | {results['toxicity.ppo']['value']:.4g} |" in body
    assert "toxicity.sft" not in body  # another model's figures are not this one's
    assert "plain text, not on chat messages" in body
    assert str(run) not in text and str(Path.home()) not in text.replace(str(exported.folder), "")


def test_the_folder_remembers_how_it_is_to_be_asked(run, exported):
    asked = PromptForm(is_chat=False, template="Question: {question}\nAnswer:")
    assert prompt_form(find_model(str(run))) == asked
    assert prompt_form(find_model(str(exported.folder))) == asked


def test_foreign_text_means_nothing_in_the_card():
    assert plain("<script>|`a`|\n# b") == r"&lt;script&gt;\|\`a\`\| \# b"


def test_a_folder_that_holds_something_is_never_touched(run, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(RunError, match="holds something already: name a folder that is new or empty"):
        export_model(find_model(str(run)), tmp_path, Console(is_quiet=True))
    assert list(hashes(tmp_path)) == ["mine.txt"]


def test_a_model_without_adapter_has_nothing_to_merge(run, tmp_path):
    with pytest.raises(ModelError, match="has no adapter to merge"):
        export_model(find_model(str(run), role="base"), tmp_path / "model", Console(is_quiet=True))


def test_the_command_prints_where_it_wrote_and_how_far_it_is(run, tmp_path, monkeypatch, capsys):
    with libraries_as_before():
        good = call(monkeypatch, capsys, "export", run, "--role", "sft", "--out", tmp_path / "model", "--no-check")
        bad = call(monkeypatch, capsys, "export", run, "--out", tmp_path / "other", "--dtype", "int8")
    assert good.code == 0 and "-sft -> " in good.out and "KL" not in good.out
    assert bad.code == 2 and "wanted one of bfloat16, float16, float32" in bad.err


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")
