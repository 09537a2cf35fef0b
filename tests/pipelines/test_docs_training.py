"""The commands and settings that docs/training.md, docs/findings.md and --help name exist."""

import re
import shlex
from dataclasses import fields
from pathlib import Path

import pytest
from tunewell.pipelines.commands.run import HELP
from tunewell.pipelines.recipe import bundled_recipes, find_recipe, read_recipe
from tunewell.pipelines.reward import RewardSettings
from tunewell.pipelines.sets import DataSettings
from tunewell.pipelines.sft import SftSettings

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "training.md").read_text(encoding="utf-8")
TYPED = "\n".join([PAGE, *HELP.values()]).replace("\\\n", " ").replace(" ... ", " data.demonstrations=chats.jsonl ")
COMMANDS = re.findall(r"^ *tunewell (?:sft|reward|ppo) .*=.*$", TYPED, flags=re.MULTILINE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_one_that_the_recipe_takes(command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    _, last, recipe, *settings = shlex.split(command.partition(" --out")[0])
    for name in ("chats", "ranked", "prompts"):
        (tmp_path / f"{name}.jsonl").write_text("{}\n")
    if "ranked.jsonl" not in command and last == "reward":
        settings.append("data.ratings=ranked.jsonl")
    read_recipe(find_recipe(recipe), [*settings, "base.model=some/model"], last)


def test_every_setting_that_the_page_names_is_there():
    known = {
        "sft": {field.name for field in fields(SftSettings)},
        "reward": {field.name for field in fields(RewardSettings)},
        "data": {field.name for field in fields(DataSettings)},
    }
    named = re.findall(r"`(sft|reward|data)\.([a-z_]+)", PAGE)
    assert len(named) > 15
    assert [f"{section}.{name}" for section, name in named if name not in known[section]] == []


def test_every_recipe_and_picture_of_the_findings_is_there():
    page = (DOCS / "findings.md").read_text(encoding="utf-8")
    recipes, pictures = set(re.findall(r"`(findings/[a-z-]+)`", page)), re.findall(r"\]\(([a-z-]+\.png)\)", page)
    assert recipes and recipes <= set(bundled_recipes())
    assert pictures and all((DOCS / name).is_file() for name in pictures)
