"""Plain YAML is read into trees that remember where each key was written.

Scalars follow YAML 1.2: only `true` and `false` are booleans (`no` and `on` are text), `1e-5` is a number, `12:30`
and `2024-01-01` are text. Tags, anchors and aliases are refused: a recipe is plain values.
"""

import copy
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from ..errors import SettingsError

OVERRIDE = re.compile(r"(?P<key>[^\s=]+)=(?P<value>.*)", re.DOTALL)

# (name, pattern, first characters); the first that matches wins.
SCALARS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?[0-9]{1,300}", list("-+0123456789")),
    ("float", r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?", list("-+.0123456789")),
    ("float", r"[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)", list("-+.")),
)


class Tree(dict[str, Any]):
    """A mapping read from YAML.

    Attributes:
        origins: for each key, where it was written ("line 3", "an override").
    """

    def __init__(self, values: Mapping[str, Any] | None = None, origins: Mapping[str, str] | None = None) -> None:
        super().__init__(values or {})
        self.origins = dict(origins or {})


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, list[tuple[str, re.Pattern[str]]]] = {}  # noqa: RUF012 (PyYAML's own design)


class _Dumper(yaml.SafeDumper):
    def ignore_aliases(self, data: Any) -> bool:
        return True


def _represent_text(dumper: _Dumper, text: str) -> yaml.ScalarNode:
    # Other styles fold line breaks, and lose some of Unicode's.
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _represent_text)
for _name, _pattern, _first in SCALARS:
    for _class in (_Loader, _Dumper):
        # The dumper keeps PyYAML's patterns too, so that text such as `no` is quoted for every reader.
        _class.add_implicit_resolver(f"tag:yaml.org,2002:{_name}", re.compile(f"^(?:{_pattern})$"), _first)


def load_yaml(path: Path) -> dict[str, Any]:
    """Read a file that holds one YAML mapping; an empty file is an empty mapping.

    Raises:
        SettingsError: the file is missing or not UTF-8, the YAML is broken (with line and column), or it holds
            duplicate keys, keys that are not text, tags or aliases (each with its line).
    """
    tree, faults = parse_yaml(read_text(path), str(path))
    if faults:
        raise SettingsError(faults, str(path))
    return tree


def parse_yaml(text: str, where: str) -> tuple[Tree, list[str]]:
    """Read a YAML mapping, and gather the faults that do not keep the rest from being read (doubled keys).

    Raises:
        SettingsError: the text is broken, holds tags or aliases, or is no mapping.
    """
    value, faults = _parse(text, where)
    if value is None:
        value = Tree()
    if not isinstance(value, Tree):
        raise SettingsError(
            [f"got {value!r:.80}; wanted a mapping: lines such as `section:` and `  key: value`"], where
        )
    return value, faults


def apply_overrides(tree: Mapping[str, Any], overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Lay settings from the command line over a tree; of two for the same key the last one counts.

    Args:
        tree: left as it is.
        overrides: each `section.key=value`; the value is read as YAML (`[1, 2]` is a list, nothing is null).

    Returns:
        the new tree, and one fault for each override that could not be applied.
    """
    result = tree_copy(tree)
    faults = []
    for override in overrides:
        fault = _apply(result, override)
        if fault:
            faults.append(f"override {override!r}: {fault}")
    return result, faults


def tree_copy(tree: Mapping[str, Any]) -> Tree:
    """Copy a mapping and the mappings in it, each with what it knows of its origins."""
    values = {
        key: tree_copy(value) if isinstance(value, Mapping) else copy.deepcopy(value) for key, value in tree.items()
    }
    return Tree(values, origins_of(tree))


def origins_of(tree: Mapping[str, Any]) -> Mapping[str, str]:
    """Where the keys of a mapping were written; empty for one that was not read from YAML."""
    return tree.origins if isinstance(tree, Tree) else {}


def plain(value: Any) -> Any:
    """Copy a value, with every mapping in it a plain dict and every sequence a list."""
    if isinstance(value, Mapping):
        return {key: plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    return copy.deepcopy(value)


def dump_yaml(tree: Any) -> str:
    """Write plain values as YAML that `load_yaml` reads back unchanged."""
    return yaml.dump(tree, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=110)


def in_line(tree: Any) -> str:
    """Write plain values as YAML of one line, for messages and help."""
    line = yaml.dump(
        [tree], Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=float("inf"), default_flow_style=True
    )
    return line.strip()[1:-1]


def read_text(path: Path) -> str:
    """Read a UTF-8 file, with or without a byte order mark.

    Raises:
        SettingsError: the file is missing (the nearest name is given), unreadable or not UTF-8.
    """
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SettingsError(
            [f"byte {error.start} is not UTF-8 ({error.reason}); wanted a text file. Save it as UTF-8."], str(path)
        ) from error
    except OSError as error:
        near = difflib.get_close_matches(path.name, _names_in(path.parent), n=1)
        cure = f"Did you mean {str(path.with_name(near[0]))!r}?" if near else "Give the path of a YAML file."
        raise SettingsError([f"cannot read {str(path)!r}: {error.strerror}. {cure}"], str(path)) from error


def _names_in(folder: Path) -> list[str]:
    try:
        return sorted(entry.name for entry in folder.iterdir())
    except OSError:
        return []


def _parse(text: str, where: str) -> tuple[Any, list[str]]:
    try:
        _refuse_tags_and_aliases(text, where)
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
        finally:
            loader.dispose()
        faults: list[str] = []
        return (None if node is None else _value(node, faults)), faults
    except yaml.YAMLError as error:
        raise SettingsError([_syntax_fault(error)], where) from error
    except RecursionError as error:
        raise SettingsError(["got values nested too deeply to be read; wanted sections and keys"], where) from error


def _refuse_tags_and_aliases(text: str, where: str) -> None:
    faults = []
    for token in yaml.scan(text, Loader=_Loader):
        if isinstance(token, (yaml.TagToken, yaml.AnchorToken, yaml.AliasToken)):
            kind = type(token).__name__.removesuffix("Token").lower()
            faults.append(
                f"line {token.start_mark.line + 1}: got the {kind} {_written(text, token)!r}; wanted plain values. "
                "Write the value itself, in quotes if it is text."
            )
    if faults:
        raise SettingsError(faults, where)


def _written(text: str, token: yaml.Token) -> str:
    return text[token.start_mark.index : token.end_mark.index]


def _value(node: yaml.Node, faults: list[str]) -> Any:
    if isinstance(node, yaml.MappingNode):
        return _mapping(node, faults)
    if isinstance(node, yaml.SequenceNode):
        return [_value(child, faults) for child in node.value]
    return _scalar(node.tag.rpartition(":")[2], node.value)


def _mapping(node: yaml.MappingNode, faults: list[str]) -> Tree:
    tree = Tree()
    for key_node, value_node in node.value:
        line = f"line {key_node.start_mark.line + 1}"
        key = _value(key_node, faults)
        value = _value(value_node, faults)
        if not isinstance(key, str):
            faults.append(f"{line}: got the key {key!r:.40}; wanted text. Put it in quotes.")
        elif key in tree:
            faults.append(f"{line}: got the key {key!r} again (first on {tree.origins[key]}). Remove one of them.")
        else:
            tree[key] = value
            tree.origins[key] = line
    return tree


def _scalar(kind: str, text: str) -> Any:
    if kind == "null":
        return None
    if kind == "bool":
        return text.lower() == "true"
    if kind == "int":
        return int(text)
    if kind == "float":
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def _syntax_fault(error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    problem = getattr(error, "problem", None) or getattr(error, "reason", None) or str(error)
    context = getattr(error, "context", None)
    cure = "Indent with spaces, not tabs." if "'\\t'" in problem else "Mend it there; text with : or # needs quotes."
    return f"{place}not YAML: {f'{context}, ' if context else ''}{problem}. {cure}"


def _apply(tree: Tree, override: str) -> str | None:
    """Apply one override in place, or say why not."""
    match = OVERRIDE.fullmatch(override)
    *sections, key = match["key"].split(".") if match else [""]
    if match is None or not key or not all(sections):
        return "wanted section.key=value, without spaces around the = and without empty names between the dots"
    if override.startswith("-"):
        return f"wanted section.key=value without leading dashes: {override.lstrip('-')!r}"
    try:
        value, faults = _parse(match["value"], "an override")
    except SettingsError as error:
        faults = list(error.faults)
    if faults:
        return faults[0]
    if value is None and match["value"].strip().startswith("#"):
        return "got a YAML comment for a value. Put the value in quotes."
    for depth, section in enumerate(sections):
        inner = tree.get(section)
        if inner is None:
            inner = tree[section] = Tree()
            tree.origins[section] = "an override"
        if not isinstance(inner, Tree):
            name = ".".join(sections[: depth + 1])
            return f"{name} holds {inner!r:.40}, which has no keys. Give a whole new value: {name}=..."
        tree = inner
    tree[key] = value
    tree.origins[key] = "an override"
    return None
