import re
import shutil
from pathlib import Path

import pytest
import torch
from micro_run import QUIET, micro_run
from tunewell.pipelines.model_source import answering, find_model, with_memory
from tunewell.toolkit.errors import ModelError, SettingsError
from tunewell.toolkit.files import read_json

pytestmark = [pytest.mark.filterwarnings(line) for line in QUIET]


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return micro_run(tmp_path_factory.getbasetemp()).folder


def test_a_run_means_the_adapter_that_was_trained_last_and_each_role_can_be_named(run):
    assert find_model(str(run)).adapter == run / "04-ppo" / "policy"
    assert find_model(str(run), role="sft").adapter == run / "02-sft" / "policy"
    assert find_model(str(run), role="base").adapter is None
    assert find_model(str(run)).name == f"{run.name}-ppo"
    assert find_model(str(run)).settings.tiny.hidden_size == 64


def test_the_folder_of_a_stage_means_what_that_stage_trained(run):
    assert find_model(str(run / "02-sft")).role == "sft"
    assert find_model(str(run / "05-eval")).role == "ppo"


def test_an_adapter_folder_names_its_own_base(run):
    found = find_model(str(run / "02-sft" / "policy"))
    assert (found.adapter, found.role, found.run) == (run / "02-sft" / "policy", "", None)
    assert found.base == read_json(run / "01-filter" / "stage.json")["artifacts"]["base"]


def test_a_model_folder_and_an_id_of_the_hub_stand_for_themselves(run):
    base = find_model(str(run), role="base").base
    assert find_model(base).base == base and find_model(base).adapter is None
    assert find_model("org/model").base == "org/model"


def test_what_is_loaded_answers_as_the_adapter(run):
    ids = torch.tensor([[1, 40, 50, 60]])
    with torch.no_grad():
        logits = {}
        for role in ("base", "sft", "ppo"):
            source = with_memory(find_model(str(run), role=role), dtype="float32")  # a GPU's 16 bits may round it away
            with answering(source.load()) as model:
                logits[role] = model(input_ids=ids.to(model.device)).logits
    assert not torch.equal(logits["base"], logits["sft"])
    assert not torch.equal(logits["sft"], logits["ppo"])


def test_how_the_base_is_held_can_be_changed_and_is_checked(run):
    source = find_model(str(run))
    assert with_memory(source, quantization="nf4", dtype=None).settings.quantization == "nf4"
    with pytest.raises(SettingsError, match="quantization: got 'int3'"):
        with_memory(source, quantization="int3")


def test_faults_name_what_there_is(run, tmp_path, monkeypatch):
    with pytest.raises(ModelError, match=re.escape("wanted one with run.json (a run), adapter_config.json")):
        find_model(str(tmp_path))
    with pytest.raises(ModelError, match=r"got the role 'rl', wanted one .*: ppo, sft, base"):
        find_model(str(run), role="rl")
    with pytest.raises(ModelError, match="which is no run"):
        find_model("org/model", role="sft")
    for reward in ("03-reward", "03-reward/reward"):
        with pytest.raises(ModelError, match=r"holds a reward model: it scores answers and writes none"):
            find_model(str(run / reward))
    with pytest.raises(ModelError, match=r"got the path .*nowhere, wanted a folder that exists"):
        find_model(str(tmp_path / "nowhere"))
    monkeypatch.chdir(run.parent.parent)
    typo = f"{run.parent.name}/{run.name}x"  # the hub could hold it by its form, and is not asked
    with pytest.raises(ModelError, match=rf"got {typo}, which does not exist\. Runs there: .*{run.name}"):
        find_model(typo)
    with pytest.raises(ModelError, match=r"got the file .*run\.json, wanted a folder that exists"):
        find_model(str(run / "run.json"))
    copy = tmp_path / "adapter"
    shutil.copytree(run / "02-sft" / "policy", copy)
    (copy / "base_meta.json").unlink()
    config = (copy / "adapter_config.json").read_text()
    (copy / "adapter_config.json").write_text(re.sub(r'("base_model_name_or_path": )"[^"]*"', r"\1null", config))
    with pytest.raises(ModelError, match="does not say which base"):
        find_model(str(copy))
