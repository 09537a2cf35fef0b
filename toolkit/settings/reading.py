"""Settings are frozen dataclasses built from plain trees, with every fault of a tree found at once.

A settings class is an ordinary frozen, keyword-only dataclass. The text under a field explains it, `setting` gives
its range and unit, and a method `faults(self) -> list[str]` may check fields against each other::

    @dataclass(frozen=True, kw_only=True)
    class Adapter:
        rank: int = setting(16, low=1, high=256)
        "Rank of the two matrices of an adapter."
"""

import ast
import dataclasses
import inspect
import itertools
import textwrap
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

from ..errors import SettingsError
from .fields import (
    Limits,
    TrainerBlock,
    TrainerRule,
    fields_with_hints,
    join,
    rule_of,
    sections_in,
    setting,
    trainer_block,
    words,
)
from .values import BAD, Fault, Place, cross_faults, read_value
from .yaml_text import apply_overrides, dump_yaml, in_line, load_yaml, parse_yaml, read_text

__all__ = [
    "Fault", "TrainerBlock", "apply_overrides", "build", "collect_faults", "field_help", "load_yaml",
    "read_settings", "setting", "to_tree", "to_yaml", "trainer_block",
]  # fmt: skip

T = TypeVar("T")


def read_settings(
    cls: type[T],
    path: Path | None = None,
    overrides: Sequence[str] = (),
    extra_checks: Sequence[Callable[[T], Iterable[str]]] = (),
) -> T:
    """Build settings from a YAML file and overrides of the command line, with more checks as in `build`.

    Raises:
        SettingsError: all faults of the file, the overrides and the values in them.
    """
    where = str(path) if path else "the settings"
    tree, faults = parse_yaml(read_text(path), where) if path else ({}, [])
    tree, override_faults = apply_overrides(tree, overrides)
    return build(cls, tree, where=where, earlier=[*faults, *override_faults], extra_checks=extra_checks)


def build(
    cls: type[T],
    tree: Mapping[str, Any],
    *,
    path: str = "",
    where: str = "the recipe",
    earlier: Sequence[str] = (),
    extra_checks: Sequence[Callable[[T], Iterable[str]]] = (),
) -> T:
    """Build settings from a plain tree.

    Args:
        cls: a frozen dataclass.
        tree: nested mappings, lists and scalars, as `load_yaml` returns them.
        path: dotted path of `tree` within a larger one, for messages.
        where: what the tree was read from, for messages.
        earlier: faults already found, to be reported together with these.
        extra_checks: more cross-field checks; each returns faults as `key: problem`. They run, like the methods
            `faults`, on what could be built.

    Raises:
        SettingsError: every fault found.
    """
    found: list[Fault] = []
    settings = read_value(cls, tree, Place(path, "", Limits(), found, cls))
    if settings is not BAD:
        for check in extra_checks:
            found.extend(cross_faults(check(settings), tree, path))
    if found or earlier:
        raise SettingsError([*earlier, *map(str, found)], where)
    return typing.cast(T, settings)


def collect_faults(cls: type[Any], tree: Mapping[str, Any], *, path: str = "") -> list[Fault]:
    """Every fault that `build` would report, as values."""
    found: list[Fault] = []
    read_value(cls, tree, Place(path, "", Limits(), found, cls))
    return found


def to_tree(settings: Any) -> Any:
    """Turn settings into plain values for JSON and YAML; `build` makes equal settings of them."""
    if is_dataclass(settings):
        return {item.name: to_tree(getattr(settings, item.name)) for item in fields(settings) if item.init}
    if isinstance(settings, Mapping):
        return {key: to_tree(value) for key, value in settings.items()}
    if isinstance(settings, (list, tuple)):
        return [to_tree(value) for value in settings]
    return str(settings) if isinstance(settings, Path) else settings


def to_yaml(settings: Any, *, explain: bool = False) -> str:
    """Write settings as a recipe.

    Args:
        settings: an instance of a settings class.
        explain: write the text of each field above it as a comment.
    """
    if not explain:
        return dump_yaml(to_tree(settings))
    docs = field_docs(type(settings))
    parts = []
    for item in (item for item in fields(settings) if item.init):
        value = getattr(settings, item.name)
        doc = textwrap.fill(docs.get(item.name, ""), 100, initial_indent="# ", subsequent_indent="# ")
        if is_dataclass(value):
            body = f"{item.name}:\n" + textwrap.indent(to_yaml(value, explain=True), "  ")
        else:
            body = dump_yaml({item.name: to_tree(value)})
        parts.append(f"{doc}\n{body}" if doc else body)
    return "".join(parts)


def field_help(cls: type[Any]) -> dict[str, str]:
    """Explain every field, those of nested sections included.

    Returns:
        for each dotted path, the text under the field, then what it takes, its unit and its default.
    """
    return dict(_help_of(cls, ""))


def field_docs(cls: type[Any]) -> dict[str, str]:
    """The text under each field of a class (a string literal on the next line); inherited fields included."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if not is_dataclass(base):
            continue
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError):
            continue  # a class made without a source file has no text to show
        body = tree.body[0].body if isinstance(tree.body[0], ast.ClassDef) else []
        for statement, following in itertools.pairwise(body):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                text = following.value if isinstance(following, ast.Expr) else None
                if isinstance(text, ast.Constant) and isinstance(text.value, str):
                    docs[statement.target.id] = " ".join(text.value.split())
    return docs


def _help_of(cls: type[Any], path: str) -> Iterator[tuple[str, str]]:
    docs = field_docs(cls)
    for item, hint in fields_with_hints(cls):
        dotted = join(path, item.name)
        text = docs.get(item.name, "")
        rule = rule_of(item)
        if isinstance(rule, TrainerRule):
            reserved = f" (not {', '.join(rule.reserved)})" if rule.reserved else ""
            yield dotted, f"{text} Takes the options of {rule.class_name}{reserved}.".strip()
        elif sections := sections_in(hint):
            yield dotted, text
            for section in sections:
                yield from _help_of(section, dotted)
        else:
            yield dotted, f"{text} Takes {words(hint, rule)}; {_default_words(item)}.".strip()


def _default_words(item: "dataclasses.Field[Any]") -> str:
    if item.default_factory is not MISSING:
        value = item.default_factory()
    elif item.default is not MISSING:
        value = item.default
    else:
        return "required"
    return f"default {in_line(to_tree(value))}"
