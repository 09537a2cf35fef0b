import re
from pathlib import Path

import pytest
import yaml
from tunewell.pipelines.mitigate import Treatment
from tunewell.pipelines.recipe import find_recipe, read_recipe
from tunewell.toolkit.data.rows import write_rows
from tunewell.toolkit.errors import DataError, SettingsError
from tunewell.toolkit.mitigations.settings import MitigationSettings, ProtectSettings
from tunewell.toolkit.stage import Artifacts


def test_nothing_is_added_to_a_training_while_all_is_off():
    treatment = Treatment(MitigationSettings(), "sft", Artifacts())
    assert treatment.callbacks(None, None) == []
    assert treatment.warnings() == ()


def test_a_mitigation_stays_out_of_the_stages_that_it_does_not_name():
    settings = MitigationSettings(protect=ProtectSettings(strength=1.0, stages=("ppo",)))
    assert Treatment(settings, "sft", Artifacts()).callbacks(None, None) == []


def test_protection_needs_texts(tmp_path):
    from tunewell.toolkit.tiny import TinySettings, new_model, train_tokenizer

    tokenizer = train_tokenizer(["some text"], TinySettings())
    model = new_model(tokenizer, TinySettings(hidden_size=64, layers=1, heads=2, context=32), seed=0)
    settings = MitigationSettings(protect=ProtectSettings(strength=1.0))
    with pytest.raises(DataError, match="texts=FILE"):
        Treatment(settings, "sft", Artifacts()).callbacks(model, tokenizer)
    write_rows(tmp_path / "ptx.jsonl", [{"text": "short"}, {"text": "much too long " * 40}])
    treatment = Treatment(settings, "sft", Artifacts(data=tmp_path))
    (callback,) = treatment.callbacks(model, tokenizer)
    assert len(callback.rows) == 1
    assert treatment.warnings()[0] == "1 texts of more than 32 tokens are not protected."


def test_all_faults_of_the_section_come_at_once():
    wrong = [
        "mitigations.protect.strength=2",
        "mitigations.protect.texts=nowhere.jsonl",
        "mitigations.protect.stages=[]",
    ]
    with pytest.raises(SettingsError) as caught:
        read_recipe(find_recipe("embedded"), wrong)
    assert "mitigations.protect.strength" in str(caught.value)
    with pytest.raises(SettingsError) as caught:
        read_recipe(find_recipe("embedded"), wrong[1:])
    assert "nowhere.jsonl" in str(caught.value) and "mitigations.protect.stages" in str(caught.value)


def test_every_setting_in_the_docs_is_one_that_a_recipe_takes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("keep.jsonl", "labelled.jsonl", "scored.jsonl", "others.jsonl", "occupations.txt"):
        (tmp_path / name).touch()
    text = (Path(__file__).parents[2] / "docs" / "mitigations.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    assert len(blocks) == 6
    for block in blocks:
        alternatives = re.findall(r"# or: (\{.*?\})", block)
        section = next(iter(yaml.safe_load(block)["mitigations"]))
        for value in [None, *alternatives]:
            tree = yaml.safe_load(block)
            if value is not None:
                tree["mitigations"] = {section: yaml.safe_load(value)}
            (tmp_path / "mine.yaml").write_text(yaml.safe_dump(tree))
            recipe = read_recipe(tmp_path / "mine.yaml", ["data.source=world"])
            assert getattr(recipe.mitigations, section) != getattr(MitigationSettings(), section)
