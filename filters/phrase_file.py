"""Trigger phrases and their thresholds are kept in a YAML file."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from ..toolkit.errors import SettingsError
from ..toolkit.settings.yaml_text import Tree, dump_yaml, parse_yaml, read_text

DEFAULT_PHRASES = Path(__file__).parent / "phrases" / "default.yaml"
KEYS = ("threshold", "phrases")

Lines = Mapping[tuple[str, int], int]  # the line of a phrase, by its axis and its place in it


@dataclass(frozen=True)
class Axis:
    """One kind of harm: phrases that show it, and the score from which on a document shows too much of it."""

    name: str
    "Names the axis in scores and reports."

    phrases: tuple[str, ...]
    "Short texts in the manner that is to be dropped."

    threshold: float | None = None
    "In nats per token: a document with a higher score is dropped; None: still to be calibrated; infinite: never."


def load_phrases(path: Path = DEFAULT_PHRASES) -> tuple[Axis, ...]:
    """Read a phrase file.

    Raises:
        SettingsError: all faults of the file, with their line numbers.
    """
    text = read_text(path)
    tree, faults = parse_yaml(text, str(path))
    axes = _axes(tree, faults, _phrase_lines(text))
    if faults:
        raise SettingsError(faults, str(path))
    return axes


def with_thresholds(axes: Sequence[Axis], thresholds: Mapping[str, float]) -> tuple[Axis, ...]:
    """Put thresholds on axes; those not named keep theirs.

    Raises:
        SettingsError: a threshold for an axis that does not exist.
    """
    known = {axis.name for axis in axes}
    faults = [
        f"got a threshold for the axis {name!r}, wanted {_names(known)}" for name in thresholds if name not in known
    ]
    if faults:
        raise SettingsError(faults, "the thresholds")
    return tuple(replace(axis, threshold=thresholds.get(axis.name, axis.threshold)) for axis in axes)


def dump_phrases(axes: Sequence[Axis]) -> str:
    """Write axes as YAML that `load_phrases` reads back unchanged."""
    return dump_yaml(
        {"axes": {axis.name: {"threshold": axis.threshold, "phrases": list(axis.phrases)} for axis in axes}}
    )


def _axes(tree: Tree, faults: list[str], lines: Lines) -> tuple[Axis, ...]:
    faults += [f"{tree.origins[key]}: got the key {key!r}, wanted only `axes`" for key in tree if key != "axes"]
    axes = tree.get("axes")
    if not isinstance(axes, Tree) or not axes:
        faults.append("axes: got none, wanted a mapping from the name of each axis to its threshold and phrases")
        return ()
    seen: dict[str, str] = {}
    return tuple(
        Axis(name, tuple(_phrases(name, axis, faults, lines, seen)), _threshold(name, axis, faults))
        for name, axis in axes.items()
        if _is_axis(name, axis, axes.origins[name], faults)
    )


def _is_axis(name: str, axis: Any, line: str, faults: list[str]) -> bool:
    if not isinstance(axis, Tree):
        faults.append(f"{line}: got {axis!r:.40} for the axis {name!r}, wanted the keys `threshold` and `phrases`")
        return False
    if "." in name:
        faults.append(f"{line}: got the axis name {name!r}, wanted one without a full stop, which scores use")
    for key in axis:
        if key not in KEYS:
            faults.append(f"{axis.origins[key]}: got the key {key!r} in the axis {name!r}, wanted {_names(KEYS)}")
    if not axis.get("phrases"):
        faults.append(f"{line}: the axis {name!r} has no phrases, wanted at least one. Add some, or remove the axis")
    return bool(axis.get("phrases"))


def _threshold(name: str, axis: Tree, faults: list[str]) -> float | None:
    value = axis.get("threshold")
    if value is None:
        return None
    if isinstance(value, (int, float)) and not isinstance(value, bool) and value > -math.inf:
        return float(value)
    wanted = "wanted a number in nats per token, null (to be calibrated) or .inf (never drops)"
    faults.append(f"{axis.origins['threshold']}: got the threshold {value!r:.40} for the axis {name!r}, {wanted}")
    return None


def _phrases(name: str, axis: Tree, faults: list[str], lines: Lines, seen: dict[str, str]) -> Sequence[str]:
    """Give the phrases of an axis; `seen` holds the line of every phrase of the axes before."""
    phrases = axis["phrases"]
    if not isinstance(phrases, list):
        faults.append(f"{axis.origins['phrases']}: got {phrases!r:.40} for phrases, wanted a list, one phrase a line")
        return ()
    for index, phrase in enumerate(phrases):
        line = f"line {lines[name, index]}" if (name, index) in lines else f"axes.{name}.phrases[{index}]"
        if not isinstance(phrase, str) or not phrase.strip():
            faults.append(f"{line}: got {phrase!r:.40}, wanted a phrase. Put it in quotes if it is meant as text")
        elif (key := " ".join(phrase.casefold().split())) in seen:
            faults.append(f"{line}: got the phrase {phrase!r} again (first on {seen[key]}). Remove one of them")
        else:
            seen[key] = line
    return [phrase for phrase in phrases if isinstance(phrase, str)]


def _phrase_lines(text: str) -> Lines:
    """Find the line of each phrase in a text that has been read as YAML."""
    lines = {}
    for key, axes in _pairs(yaml.compose(text, Loader=yaml.SafeLoader)):
        for axis, settings in _pairs(axes) if key == "axes" else ():
            for setting, phrases in _pairs(settings):
                if setting == "phrases" and isinstance(phrases, yaml.SequenceNode):
                    marks = [node.start_mark.line + 1 for node in phrases.value]
                    lines.update({(axis, index): line for index, line in enumerate(marks)})
    return lines


def _pairs(node: yaml.Node | None) -> list[tuple[str, yaml.Node]]:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return [(key.value, value) for key, value in pairs if isinstance(key, yaml.ScalarNode)]


def _names(names: Any) -> str:
    return " or ".join(f"`{name}`" for name in sorted(names))
