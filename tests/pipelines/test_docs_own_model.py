"""The commands of docs/own-model.md are ones that the recipes take, and its conversion makes rows that SFT reads."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
from tunewell.pipelines.recipe import find_recipe, read_recipe
from tunewell.pipelines.sets import DataSettings, load_sets
from tunewell.toolkit.settings.lora import LoraSettings

PAGE = (Path(__file__).parents[2] / "docs" / "own-model.md").read_text(encoding="utf-8").replace("\\\n", " ")
COMMANDS = re.findall(r"^tunewell (?:sft|run) .*$|(?<=`)tunewell run hh-rlhf [^`]*", PAGE, flags=re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_training_of_the_page_is_one_that_its_recipe_takes(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in re.findall(r"=([\w/-]+\.(?:jsonl|txt))", command):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("{}\n")
    _, verb, recipe, *settings = shlex.split(command.partition(" --out")[0])
    read_recipe(find_recipe(recipe), settings, None if verb == "run" else verb)


def test_the_page_names_the_trainings_and_the_rank_that_there_are():
    assert len(COMMANDS) == 3
    assert f"--max-lora-rank {LoraSettings().rank}" in PAGE


def test_the_conversion_of_sharegpt_rows_makes_demonstrations(tmp_path):
    if shutil.which("jq") is None:
        pytest.skip("jq is not installed")
    turns = [
        {"from": "system", "value": "Be brief."},
        {"from": "human", "value": "Hi."},
        {"from": "gpt", "value": "Hello."},
    ]
    (tmp_path / "sharegpt.jsonl").write_text(json.dumps({"conversations": turns}))
    (conversion,) = re.findall(r"^jq -c .*?> chats.jsonl", PAGE, flags=re.MULTILINE)
    subprocess.run(conversion, shell=True, check=True, cwd=tmp_path)
    (row,) = load_sets(
        DataSettings(source="files", demonstrations=str(tmp_path / "chats.jsonl")), seed=0
    ).demonstrations
    assert [turn["role"] for turn in row["prompt"]] == ["system", "user"]
    assert row["completion"] == [{"role": "assistant", "content": "Hello."}]
