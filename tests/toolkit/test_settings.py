"""Recipes become frozen settings, and all their faults are told at once."""

# A table of messages reads best with one case a line, and `setting` makes a dataclass field, as `field` does.
# ruff: noqa: E501

import copy
import dataclasses
import json
import pickle
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from tunewell.toolkit.errors import SettingsError
from tunewell.toolkit.settings.reading import (
    TrainerBlock,
    apply_overrides,
    build,
    collect_faults,
    field_help,
    load_yaml,
    read_settings,
    setting,
    to_tree,
    to_yaml,
    trainer_block,
)
from tunewell.toolkit.settings.yaml_text import dump_yaml, parse_yaml


@dataclass(frozen=True, kw_only=True)
class Data:
    path: Path
    """Where the rows are."""
    limit: int | None = setting(None, low=1, unit="rows")
    """Read only so many rows."""


@dataclass(frozen=True, kw_only=True)
class Filter:
    low: float = setting(0.2, low=0.0, high=1.0)
    """Scores below this are kept."""
    high: float = setting(0.8, low=0.0, high=1.0)
    """Scores above this are dropped."""
    lists: tuple[str, ...] = ("listed",)
    """Names of word lists."""
    weights: dict[str, float] = setting(factory=dict, above=0.0)
    """Weight of each list."""

    def faults(self) -> list[str]:
        return [f"low: {self.low} is above high, {self.high}"] if self.low > self.high else []


@dataclass(frozen=True, kw_only=True)
class Sft:
    kind: Literal["lora", "full"] = "lora"
    """What is trained:
    adapters, or all weights."""
    rate: float = setting(1e-4, above=0.0, below=1.0)
    """Learning rate."""
    is_packed: bool = False
    """Whether rows are packed."""
    context: int | Literal["auto"] = setting("auto", low=1, unit="tokens")
    """Longest row."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the two moments."""
    trainer: TrainerBlock = trainer_block(
        "trl.trainer.sft_config:SFTConfig",
        reserved={"output_dir": "the folder of the run decides it"},
        default={"logging_steps": 5},
    )
    """Options of TRL's trainer."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    data: Data
    """What is read."""
    filter: Filter = Filter()
    """What is dropped."""
    sft: Sft = Sft()
    """How the model is trained."""
    judge: Filter | None = None
    """A second filter."""
    name: str = "run"
    """A name for people."""

    def faults(self) -> list[str]:
        return ["name: 'base' is the name of the base model"] if self.name == "base" else []


def faults_of(tree: Mapping[str, Any], cls: type[Any] = Recipe) -> list[str]:
    return [str(fault) for fault in collect_faults(cls, tree)]


def one_fault(tree: Mapping[str, Any], cls: type[Any] = Recipe) -> str:
    faults = faults_of(tree, cls)
    assert len(faults) == 1, faults
    return faults[0]


def data(**more: Any) -> dict[str, Any]:
    return {"data": {"path": "rows.jsonl"}, **more}


# ----------------------------------------------------------------------------- what is read

RECIPE = """\
data: {path: rows/a.jsonl, limit: 10}
filter:
  low: 0
  lists: [a, b]
  weights: {a: 1, b: .5}
sft:
  kind: full
  rate: 1e-5
  context: 64
  betas: [0.8, 0.9]
  trainer: {learning_rate: 1E-5, report_to: [tensorboard], save_strategy: no}
"""


def test_a_recipe_becomes_typed_settings(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    recipe = build(Recipe, load_yaml(tmp_path / "r.yaml"))
    assert recipe == Recipe(
        data=Data(path=Path("rows/a.jsonl"), limit=10),
        filter=Filter(low=0.0, lists=("a", "b"), weights={"a": 1.0, "b": 0.5}),
        sft=Sft(
            kind="full",
            rate=1e-5,
            context=64,
            betas=(0.8, 0.9),
            trainer=TrainerBlock(
                {"logging_steps": 5, "learning_rate": 1e-5, "report_to": ["tensorboard"], "save_strategy": "no"}
            ),
        ),
    )
    assert type(recipe.filter.low) is float


def test_an_empty_section_has_its_defaults_and_null_is_kept_where_it_is_allowed() -> None:
    recipe = build(Recipe, data(filter=None, judge=None))
    assert recipe.filter == Filter()
    assert recipe.judge is None
    assert build(Recipe, data(judge={})).judge == Filter()


def test_settings_round_trip_through_trees_json_and_yaml(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text(RECIPE)
    recipe = build(Recipe, load_yaml(tmp_path / "r.yaml"))
    assert build(Recipe, json.loads(json.dumps(to_tree(recipe)))) == recipe
    for explain in (False, True):
        (tmp_path / "again.yaml").write_text(to_yaml(recipe, explain=explain))
        assert build(Recipe, load_yaml(tmp_path / "again.yaml")) == recipe


def test_settings_are_frozen_and_a_trainer_block_cannot_be_changed_from_outside() -> None:
    options = {"report_to": ["none"]}
    recipe = build(Recipe, data(sft={"trainer": options}))
    options["report_to"].append("x")
    recipe.sft.trainer["report_to"].append("y")
    assert recipe.sft.trainer["report_to"] == ["none"]
    with pytest.raises(dataclasses.FrozenInstanceError):
        recipe.name = "other"  # type: ignore[misc]
    with pytest.raises(TypeError):
        recipe.sft.trainer["seed"] = 1  # type: ignore[index]


def test_a_trainer_block_is_hashable_copies_and_pickles_as_plain_values() -> None:
    tree, _ = parse_yaml("a: {b: [1, {c: 2}]}", "test")
    block = TrainerBlock(tree)
    assert hash(TrainerBlock({"a": 1})) == hash(TrainerBlock({"a": 1.0}))
    assert copy.deepcopy(block) == block == pickle.loads(pickle.dumps(block))
    assert type(block["a"]) is dict
    assert type(block["a"]["b"][1]) is dict


# ----------------------------------------------------------------------------- faults, one by one


@pytest.mark.parametrize(
    ("tree", "wanted"),
    [
        (data(nmae="x"), "nmae: got an unknown key; wanted one of data, filter, sft, judge, name. Did you mean 'name'?"),
        (data(rate=1), "rate: got an unknown key; wanted one of data, filter, sft, judge, name. Did you mean 'sft.rate'?"),
        (data(**{"sft.rate": 1}), "sft.rate: got an unknown key; wanted one of data, filter, sft, judge, name. Write it as nested"),
        (data(sft={"warmup_steps": 5}), "Did you mean 'sft.trainer.warmup_steps'?"),
        (data(sft={"kind": "lorra"}), "sft.kind: got 'lorra' (text); wanted one of 'lora', 'full'. Did you mean 'lora'?"),
        (data(sft={"rate": "1e-5"}), "sft.rate: got '1e-5' (text); wanted a number above 0 and below 1. Write the number without quotes"),
        (data(sft={"rate": 0}), "sft.rate: got 0 (a whole number); wanted a number above 0 and below 1."),
        (data(sft={"rate": True}), "sft.rate: got true (a flag); wanted a number"),
        (data(sft={"rate": float("nan")}), "sft.rate: got nan (a number); wanted a number above 0 and below 1, finite."),
        (data(sft={"rate": None}), "sft.rate: got nothing (null); wanted a number above 0 and below 1. Leave the key out"),
        (data(sft={"is_packed": "yes"}), "sft.is_packed: got 'yes' (text); wanted true or false. Write true, without quotes."),
        (data(sft={"is_packed": 0}), "sft.is_packed: got 0 (a whole number); wanted true or false. Write false"),
        (data(sft={"context": 0}), "sft.context: got 0 (a whole number); wanted a whole number of at least 1 (tokens) or one of 'auto'."),
        (data(sft={"betas": [0.9]}), "sft.betas: got [0.9] (a list); wanted a list of 2: a number, a number."),
        (data(filter={"lists": "a"}), "filter.lists: got 'a' (text); wanted a list, each text. Write [a]."),
        (data(filter={"lists": ["a", 1]}), "filter.lists[1]: got 1 (a whole number); wanted text. Put it in quotes"),
        (data(filter={"weights": {"a": 0}}), "filter.weights.a: got 0 (a whole number); wanted a number above 0."),
        (data(filter={"weights": [1]}), "filter.weights: got [1] (a list); wanted a mapping from names to a number above 0."),
        (data(filter=3), "filter: got 3 (a whole number); wanted a section with the keys low, high, lists, weights."),
        (data(judge=3), "judge: got 3 (a whole number); wanted a section with the keys low, high, lists, weights or null."),
        (data(judge={"low": 2}), "judge.low: got 2 (a whole number); wanted a number from 0 to 1."),
        (data(name=5), "name: got 5 (a whole number); wanted text. Put it in quotes if it is text."),
        (data(name="base"), "name: 'base' is the name of the base model"),
        ({"data": {"path": "x", "limit": 1e3}}, "data.limit: got 1000.0 (a number); wanted a whole number of at least 1 (rows) or null. Write 1000."),
        ({"data": {"path": "x", "limit": 0}}, "data.limit: got 0 (a whole number); wanted a whole number of at least 1 (rows) or null."),
        ({"data": {"path": ""}}, "data.path: got '' (text); wanted a path of a file or folder."),
        ({"data": {"path": 3}}, "data.path: got 3 (a whole number); wanted a path"),
        ({"data": {}}, "data.path: missing; wanted a path of a file or folder."),
        ({}, "data.path: missing; wanted a path of a file or folder."),
        (data(filter={"low": 0.9}), "filter.low: 0.9 is above high, 0.8"),
        (data(sft={"trainer": 3}), "sft.trainer: got 3 (a whole number); wanted a mapping of options for SFTConfig."),
        (data(sft={"trainer": {"learning_rte": 1}}), "sft.trainer.learning_rte: got an unknown key; wanted an option of SFTConfig. Did you mean 'learning_rate'?"),
        (data(sft={"trainer": {"output_dir": "x"}}), "sft.trainer.output_dir: cannot be given here: the folder of the run decides it."),
        (data(sft={"trainer": {"learning_rate": "fast"}}), "sft.trainer.learning_rate: got 'fast' (text); wanted a number."),
        (data(sft={"trainer": {"max_grad_norm": None}}), "sft.trainer.max_grad_norm: got nothing (null); wanted a number."),
        (data(sft={"trainer": {"max_steps": 2.5}}), "sft.trainer.max_steps: got 2.5 (a number); wanted a whole number."),
        (data(sft={"trainer": {"save_total_limit": [2]}}), "sft.trainer.save_total_limit: got [2] (a list); wanted a whole number."),
        (data(sft={"trainer": {"bf16": "no"}}), "sft.trainer.bf16: got 'no' (text); wanted true or false. Write false"),
    ],
)  # fmt: skip
def test_a_fault_says_where_what_was_got_what_was_wanted_and_the_cure(tree: dict[str, Any], wanted: str) -> None:
    assert wanted in one_fault(tree)


def test_cross_field_faults_are_told_even_when_other_sections_and_the_parent_have_faults() -> None:
    tree = data(filter={"low": 0.9}, sft={"rate": 5}, name="base")
    assert [fault.split(":")[0] for fault in faults_of(tree)] == ["filter.low", "sft.rate"]
    # A fault across the fields of one section does not hide the parent's own.
    tree = data(filter={"low": 0.9}, name="base")
    assert [fault.split(":")[0] for fault in faults_of(tree)] == ["filter.low", "name"]


def test_no_check_across_fields_judges_a_default_that_stands_in_for_a_mistyped_key() -> None:
    assert "hihg: got an unknown key" in one_fault(data(filter={"low": 0.9, "hihg": 0.95}))


def test_extra_checks_and_earlier_faults_join_the_others() -> None:
    with pytest.raises(SettingsError, match="3 faults in my file") as caught:
        build(
            Recipe,
            data(filter={"low": 0.9}),
            where="my file",
            earlier=["override 'x': bad"],
            extra_checks=[lambda recipe: ["data.path: must not be relative"] if not recipe.data.path.is_absolute() else []],
        )  # fmt: skip
    assert caught.value.faults[0] == "override 'x': bad"
    assert caught.value.faults[2] == "data.path: must not be relative"


def test_a_path_prefix_is_put_before_every_fault() -> None:
    with pytest.raises(SettingsError, match=r"stages\[2\]\.low: got 5"):
        build(Filter, {"low": 5}, path="stages[2]")


def test_errors_of_a_class_of_its_own_become_faults() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Even:
        number: int = 0

        def __post_init__(self) -> None:
            if self.number % 2:
                raise ValueError(f"{self.number} is odd")

    @dataclass(frozen=True, kw_only=True)
    class Outer:
        even: Even = Even()

    assert one_fault({"number": 3}, Even) == "settings: 3 is odd"


def test_a_field_type_that_is_not_supported_is_a_fault_of_the_program() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Odd:
        numbers: set[int] = dataclasses.field(default_factory=set)

    with pytest.raises(TypeError, match=r"set\[int\].* not supported"):
        collect_faults(Odd, {"numbers": [1]})


# ----------------------------------------------------------------------------- YAML


def test_faults_name_the_line_or_the_override(tmp_path: Path) -> None:
    (tmp_path / "r.yaml").write_text("data:\n  path: x\nsft:\n\n  rate: 5\n  trainer:\n    sed: 1\n")
    with pytest.raises(SettingsError) as caught:
        read_settings(Recipe, tmp_path / "r.yaml", ["filter.low=3", "data.limit"])
    text = str(caught.value)
    assert "4 faults in" in text
    assert "r.yaml" in text
    assert "sft.rate (line 5): got 5" in text
    assert "sft.trainer.sed (line 7): got an unknown key" in text
    assert "filter.low (an override): got 3" in text
    assert "override 'data.limit': wanted section.key=value" in text


def test_scalars_follow_yaml_1_2(tmp_path: Path) -> None:
    text = "a: 1e-5\nb: 1E5\nc: no\nd: 12:30\ne: 010\nf: 2024-01-01\ng: 1_000\nh:\ni: TRUE\nj: -.5\nk: 'no'\nl: .inf"
    expected = {
        "a": 1e-5, "b": 1e5, "c": "no", "d": "12:30", "e": 10, "f": "2024-01-01", "g": "1_000", "h": None, "i": True,
        "j": -0.5, "k": "no", "l": float("inf"),
    }  # fmt: skip
    (tmp_path / "r.yaml").write_text(text)
    assert load_yaml(tmp_path / "r.yaml") == expected
    # The control: what PyYAML by itself makes of four of them.
    assert yaml.safe_load("[1e-5, no, 12:30, 010]") == ["1e-5", False, 750, 8]


plain_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.sampled_from(["no", "1e5", "~", "0x1", "1_0", "<<"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(st.dictionaries(st.text(max_size=5), plain_values, max_size=4))
def test_what_is_written_as_yaml_is_read_back_unchanged(tree: dict[str, Any]) -> None:
    again, faults = parse_yaml(dump_yaml(tree), "test")
    assert (again, faults) == (tree, [])


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("a: 1\nb: 2\na: 3\n", r"line 3: got the key 'a' again \(first on line 1\)\. Remove one"),
        ("s:\n  a: 1\n  a: 2\n", r"line 3: got the key 'a' again"),
        ("1: x\n", r"line 1: got the key 1; wanted text\. Put it in quotes"),
        ("a: !!python/object/apply:os.system [ls]\n", r"line 1: got the tag '!!python/object/apply:os\.system'"),
        ("a: !!str 5\n", r"got the tag '!!str'; wanted plain values"),
        ("a: &x 1\nb: *x\n", r"line 1: got the anchor '&x'(.|\n)*line 2: got the alias '\*x'"),
        ("- a\n- b\n", r"got \['a', 'b'\]; wanted a mapping"),
        ("just words\n", r"got 'just words'; wanted a mapping"),
        ("a: [1\nb: 2\n", r"line 2, column 2: not YAML: while parsing a flow sequence, expected ',' or '\]'"),
        ("a: b: c\n", r"line 1, column 5: not YAML: mapping values are not allowed here.*needs quotes"),
        ("a:\n\tb: 1\n", r"line 2, column 1: not YAML.*Indent with spaces, not tabs"),
        ("a: 1\n---\nb: 2\n", r"line 2, column 1: not YAML: expected a single document"),
        ("a: \x00\n", "not YAML: special characters are not allowed"),
        ("[" * 3000, "nested too deeply"),
    ],
)
def test_yaml_that_is_no_plain_mapping_is_refused_with_its_place(tmp_path: Path, text: str, wanted: str) -> None:
    (tmp_path / "r.yaml").write_text(text)
    with pytest.raises(SettingsError, match=wanted):
        load_yaml(tmp_path / "r.yaml")


def test_an_empty_file_is_an_empty_mapping_and_a_byte_order_mark_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("# nothing here\n")
    assert load_yaml(tmp_path / "empty.yaml") == {}
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n")
    assert load_yaml(tmp_path / "bom.yaml") == {"a": 1, "b": 2}


def test_a_file_that_cannot_be_read_is_named_with_the_nearest_one(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("a: 1")
    with pytest.raises(SettingsError, match=r"cannot read .*recipes\.yaml.*Did you mean .*recipe\.yaml'"):
        load_yaml(tmp_path / "recipes.yaml")
    with pytest.raises(SettingsError, match="cannot read"):
        load_yaml(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"a: caf\xe9")
    with pytest.raises(SettingsError, match="byte 6 is not UTF-8"):
        load_yaml(tmp_path / "latin.yaml")


def test_overrides_are_laid_over_a_tree_which_stays_as_it_was() -> None:
    tree = {"sft": {"rate": 1, "kind": "lora"}, "name": None}
    before = copy.deepcopy(tree)
    overrides = ["sft.rate=1e-5", "filter.lists=[a, b]", "data.path=a=b.jsonl", "name=", "x.y.z=true", "sft.rate=2"]
    after, faults = apply_overrides(tree, overrides)
    assert faults == []
    assert tree == before
    assert after == {
        "sft": {"rate": 2, "kind": "lora"},
        "name": None,
        "filter": {"lists": ["a", "b"]},
        "data": {"path": "a=b.jsonl"},
        "x": {"y": {"z": True}},
    }


@pytest.mark.parametrize(
    ("override", "wanted"),
    [
        ("rank", r"override 'rank': wanted section\.key=value"),
        ("=3", r"wanted section\.key=value"),
        ("a..b=3", "empty names between the dots"),
        ("a =3", "without spaces around the ="),
        ("--a=3", "without leading dashes: 'a=3'"),
        ("a=[1", "not YAML"),
        ("a=!!str 5", "got the tag '!!str'"),
        ("a=#fff", "got a YAML comment for a value. Put the value in quotes"),
        ("a={b: 1, b: 2}", "got the key 'b' again"),
        ("taken.key=1", r"taken holds \[1, 2\], which has no keys. Give a whole new value: taken=\.\.\."),
    ],
)
def test_a_malformed_override_is_told_with_its_cure(override: str, wanted: str) -> None:
    tree, faults = apply_overrides({"taken": [1, 2]}, [override, "other=1"])
    assert len(faults) == 1
    with pytest.raises(SettingsError, match=wanted):
        raise SettingsError(faults)
    assert tree["other"] == 1


# ----------------------------------------------------------------------------- help


def test_help_is_the_text_under_the_field_with_what_it_takes_its_unit_and_default() -> None:
    text = field_help(Recipe)
    assert text["data"] == "What is read."
    assert text["data.path"] == "Where the rows are. Takes a path of a file or folder; required."
    assert text["data.limit"] == (
        "Read only so many rows. Takes a whole number of at least 1 (rows) or null; default null."
    )
    assert text["sft.kind"] == ("What is trained: adapters, or all weights. Takes one of 'lora', 'full'; default lora.")
    assert text["sft.trainer"] == "Options of TRL's trainer. Takes the options of SFTConfig (not output_dir)."
    assert text["filter.weights"].endswith("Takes a mapping from names to a number above 0; default {}.")
    assert text["judge.low"].startswith("Scores below this are kept.")


def test_help_of_inherited_fields_comes_from_the_class_that_explains_them() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Strict(Filter):
        high: float = 0.5
        """Scores above this half are dropped."""

    text = field_help(Strict)
    assert text["low"].startswith("Scores below this are kept.")
    assert text["high"].startswith("Scores above this half are dropped.")


def test_an_explained_recipe_carries_the_help_as_comments() -> None:
    text = to_yaml(build(Recipe, data()), explain=True)
    assert "# What is read.\ndata:\n  # Where the rows are.\n  path: rows.jsonl\n" in text


# ----------------------------------------------------------------------------- all at once, before torch

SCRIPT = """
import json, sys
sys.path.insert(0, {tests!r})
from test_settings import Recipe
from tunewell.toolkit.errors import SettingsError
from tunewell.toolkit.settings.reading import read_settings
from pathlib import Path
try:
    read_settings(Recipe, Path({path!r}), ["sft.kind=lorra", "no equals sign"])
except SettingsError as error:
    heavy = sorted({{"torch", "transformers", "trl", "datasets", "pandas"}} & set(sys.modules))
    print(json.dumps({{"faults": error.faults, "heavy": heavy}}))
"""


def test_a_recipe_of_many_faults_gives_one_error_naming_all_before_torch_is_imported(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        "filtre: {}\n"  # unknown section; data.path is missing
        "filter:\n  low: 0.9\n  lists: words\n"  # wrong type; the check across fields waits for it
        "judge: {low: .9, high: .1}\n"  # across fields
        "sft:\n  rate: 7\n  is_packed: yes\n"  # out of range; not a flag
        "  trainer: {learning_rte: 1.0e-4, output_dir: x}\n"  # unknown and reserved options
        "sft2: 1\nname: a\nname: b\n"  # unknown, doubled
    )
    script = SCRIPT.format(tests=str(Path(__file__).parent), path=str(path))
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    answer = json.loads(result.stdout)
    assert answer["heavy"] == []
    named = [fault.split(" (")[0].split(":")[0] for fault in answer["faults"]]
    assert sorted(named) == sorted(
        [
            "line 12", "override 'no equals sign'", "filtre", "sft2", "data.path", "filter.lists", "judge.low",
            "sft.kind", "sft.rate", "sft.is_packed", "sft.trainer.learning_rte", "sft.trainer.output_dir",
        ]
    )  # fmt: skip
