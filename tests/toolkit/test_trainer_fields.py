"""Options of a trainer's settings class, read from source."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tunewell.toolkit.settings.trainer_fields import field_types

CLASSES = ["trl.trainer.sft_config:SFTConfig", "trl.trainer.reward_config:RewardConfig", "trl:DPOConfig"]

REAL_FIELDS = """
import dataclasses, importlib, json, sys
def names(path):
    module, _, name = path.partition(":")
    fields = dataclasses.fields(getattr(importlib.import_module(module), name))
    return sorted(field.name for field in fields if field.init)
print(json.dumps({path: names(path) for path in sys.argv[1:]}))
"""


@pytest.mark.slow  # the control imports torch and trl, in a process of its own
def test_names_are_exactly_those_of_the_real_classes() -> None:
    command = [sys.executable, "-W", "ignore", "-c", REAL_FIELDS, *CLASSES]
    real = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    for path in CLASSES:
        found = field_types(path)
        assert found is not None
        assert sorted(found) == real[path]
        assert {"learning_rate", "output_dir", "gradient_checkpointing"} <= set(found)


def test_annotations_come_from_the_class_nearest_to_the_one_asked_for() -> None:
    found = field_types("trl.trainer.sft_config:SFTConfig")
    assert found is not None
    assert found["bf16"] == "bool | None"  # TRL's own base class; plain bool in transformers
    assert found["num_train_epochs"] == "float"


def test_reading_imports_neither_the_package_nor_torch() -> None:
    code = (
        "import sys; from tunewell.toolkit.settings.trainer_fields import field_types;"
        "assert 'seed' in field_types('trl.trainer.sft_config:SFTConfig');"
        "assert 'vocabulary' in field_types('tunewell.toolkit.tiny:TinySettings');"
        "print(sorted({'torch', 'trl', 'transformers', 'tunewell.toolkit.tiny'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"


MODULES = {
    "__init__.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .lazy import Base as Basis\n",
    "lazy.py": (
        "from dataclasses import dataclass, field\nfrom typing import ClassVar\n"
        "@dataclass\nclass Base:\n"
        "    kind: ClassVar[int] = 0\n"
        "    a: int = 1\n"
        "    hidden: int = field(default=0, init=False)\n"
        "    dropped: int = 0\n"
        "    plain = 3\n"
    ),
    "stars.py": "from .lazy import *\n",
    "sub/__init__.py": "",
    "sub/child.py": (
        "import abc\nfrom dataclasses import dataclass, field\nfrom typing import Generic, TypeVar\n"
        "import {p}.stars as other\nfrom .. import Basis\nfrom ..stars import Base\n"
        "T = TypeVar('T')\n"
        "class Mixin:\n    note: str = 'not a field: no dataclass'\n"
        "@dataclass\nclass Child(Basis, Generic[T]):\n"
        "    b: 'bool' = True\n"
        "    a: float = 2.0\n"
        "    dropped: int = field(init=False, default=1)\n"
        "@dataclass\nclass Dotted(other.Base, Mixin, object, abc.ABC):\n    c: int = 3\n"
        "@dataclass\nclass Starred(Base): ...\n"
        "from missing_package import Absent\n"
        "@dataclass\nclass Orphan(Absent):\n    d: int = 4\n"
        "@dataclass\nclass Loop(Circle):\n    e: int = 4\n"
        "@dataclass\nclass Circle(Loop):\n    f: int = 4\n"
    ),
    "broken.py": "class Broken(:\n",
    "odd.py": "from dataclasses import dataclass\n@dataclass\nclass Odd:\n    x: str = '\\d'\n",
}


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"package_{tmp_path.name}"
    for file, text in MODULES.items():
        path = tmp_path / name / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text.replace("{p}", name))
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_bases_are_followed_through_lazy_relative_star_and_dotted_imports(package: str) -> None:
    child = f"{package}.sub.child"
    assert field_types(f"{child}:Child") == {"a": "float", "b": "'bool'"}
    assert field_types(f"{child}:Dotted") == {"a": "int", "dropped": "int", "c": "int"}
    assert field_types(f"{child}:Starred") == {"a": "int", "dropped": "int"}
    assert field_types(f"{package}:Basis") == {"a": "int", "dropped": "int"}


def test_source_that_cannot_be_found_or_read_gives_none_so_that_the_check_is_skipped(package: str) -> None:
    absent = [
        "no_such_package.module:X",
        f"{package}.none:X",
        f"{package}.sub.child:Nothing",
        f"{package}.broken:Broken",
    ]
    absent += [f"{package}.sub.child:Orphan", f"{package}.sub.child:Loop", "", ":X"]
    assert [field_types(path) for path in absent] == [None] * len(absent)


def test_odd_escapes_in_foreign_source_raise_no_warning(package: str) -> None:
    assert field_types(f"{package}.odd:Odd") == {"x": "str"}


def test_a_class_of_our_own_package_is_read_like_any_other() -> None:
    from tunewell.toolkit.settings.fields import Limits

    assert set(field_types("tunewell.toolkit.settings.fields:Limits") or ()) == {
        field.name for field in dataclasses.fields(Limits)
    }
