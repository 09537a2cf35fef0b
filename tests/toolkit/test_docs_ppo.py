"""What docs/ppo.md says of settings and signs is what the code does."""

import json
import re
from pathlib import Path

import pytest
from tunewell.toolkit.ppo import signs
from tunewell.toolkit.ppo.config import PPOConfig

PAGE = (Path(__file__).parents[2] / "docs" / "ppo.md").read_text(encoding="utf-8")
INHERITED = {"logging_steps", "lr_scheduler_type"}


def documented():
    """Name and default of every setting in the table."""
    table = PAGE.split("## Settings")[1].split("## Rewards")[0]
    for line in re.findall(r"^\| (`.*)$", table, re.M):
        names, defaults, _ = (cell.strip() for cell in line.strip("| ").split(" | "))
        names = [name for name in re.findall(r"`(\w+)`", names) if hasattr(PPOConfig, name)]
        values = [value.strip() for value in defaults.split(",")]
        yield from zip(names, values * len(names) if len(values) == 1 else values, strict=True)


def test_every_setting_of_ppo_stands_in_the_table_with_its_default():
    found = dict(documented())
    own = PPOConfig.__annotations__.keys() - INHERITED
    assert own - found.keys() == set()
    for name, text in found.items():
        default = getattr(PPOConfig, name)
        told = text if isinstance(default, str) else json.loads(text)
        assert told == pytest.approx(default) if isinstance(default, float) else told == default, name


def test_thresholds_of_the_signs_are_those_of_the_page():
    assert f"above {signs.FAR:g} nats per token" in PAGE
    rules = re.findall(r'Sign\(\s*"(\w+)"', Path(signs.__file__).read_text(encoding="utf-8"))
    rows = PAGE.split("## Signs")[1].split("## On real")[0].count("\n| ") - 1  # less the heading
    assert rows == len(set(rules))
