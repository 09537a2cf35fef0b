"""A value of a tree is turned into what its field asks for, or its fault is noted."""

import dataclasses
import difflib
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from ..errors import TunewellError
from .fields import Limits, TrainerBlock, TrainerRule, all_paths, fields_with_hints, join, rule_of, words
from .yaml_text import origins_of, plain

BAD: Any = object()  # stands for a value whose fault has been noted


@dataclass(frozen=True)
class Fault:
    """One thing wrong with a tree.

    Attributes:
        path: dotted path of the key, as in `sft.trainer.learning_rate`.
        problem: what was got, what was wanted and how to mend it.
        origin: where the value was written ("line 3", "an override"); empty where that is not known.
    """

    path: str
    problem: str
    origin: str = ""

    def __str__(self) -> str:
        return f"{self.path or 'settings'}{f' ({self.origin})' if self.origin else ''}: {self.problem}"


@dataclass(frozen=True)
class Place:
    """Where in a tree a value stands, and what is asked of it there."""

    path: str
    origin: str
    rule: Limits | TrainerRule
    found: list[Fault]
    root: type[Any]
    or_null: bool = False

    @property
    def limits(self) -> Limits:
        """The range asked for; an open one where none was declared."""
        return self.rule if isinstance(self.rule, Limits) else Limits()

    def inside(self, key: str, tree: Mapping[str, Any], rule: Limits | TrainerRule) -> "Place":
        """The place of a key of the mapping that stands here."""
        return Place(join(self.path, key), origins_of(tree).get(key, self.origin), rule, self.found, self.root)

    def item(self, position: int) -> "Place":
        """The place of one member of the list that stands here."""
        return dataclasses.replace(self, path=f"{self.path}[{position}]", or_null=False)

    def fault(self, got: Any, wanted: str, cure: str = "") -> Any:
        """Note that a value is not what was wanted, and return BAD."""
        null = " or null" if self.or_null else ""
        return self.note(f"got {_shown(got)}; wanted {wanted}{null}.{f' {cure}' if cure else ''}")

    def note(self, problem: str) -> Any:
        """Note a fault in words of its own, and return BAD."""
        self.found.append(Fault(self.path, problem, self.origin))
        return BAD


def read_value(hint: Any, value: Any, place: Place) -> Any:
    """Turn `value` into what `hint` asks for; a fault is noted and BAD returned."""
    if is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else _read_section(hint, value, place)
    if hint is TrainerBlock:
        return _read_trainer_block(value, place)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _read_union(hint, arguments, value, place)
    if origin is Literal:
        return _read_choice(arguments, value, place)
    if origin in (list, tuple):
        return _read_list(hint, origin, arguments, value, place)
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return _read_mapping(hint, arguments, value, place)
    if hint is Any:
        return plain(value)
    if value is None:
        return place.fault(None, words(hint, place.limits), "Leave the key out to have its default.")
    if hint in READERS:
        return READERS[hint](value, place)
    raise TypeError(f"{place.path}: fields of type {hint!r} are not supported")


def _read_section(cls: type[Any], value: Any, place: Place) -> Any:
    value = {} if value is None else value  # a section whose keys are all commented out
    if not isinstance(value, Mapping):
        return place.fault(value, words(cls, place.limits))
    known = {item.name: (item, hint) for item, hint in fields_with_hints(cls)}
    unknown = [key for key in value if key not in known]
    for key in unknown:
        _note_unknown_key(key, list(known), f"one of {', '.join(known)}", place.inside(key, value, Limits()))
    arguments = {}
    for name, (item, hint) in known.items():
        inner = place.inside(name, value, rule_of(item))
        is_required = item.default is MISSING and item.default_factory is MISSING
        if name in value:
            arguments[name] = read_value(hint, value[name], inner)
        elif is_required and is_dataclass(hint):
            arguments[name] = read_value(hint, {}, inner)  # names the keys that are missing in it
        elif is_required:
            arguments[name] = inner.note(f"missing; wanted {words(hint, inner.limits)}.")
    # A mistyped key leaves a default in its place, and a check across fields would judge what nobody asked for.
    if unknown or any(argument is BAD for argument in arguments.values()):
        return BAD
    return _made(cls, arguments, value, place)


def _made(cls: type[Any], arguments: Mapping[str, Any], tree: Mapping[str, Any], place: Place) -> Any:
    try:
        settings = cls(**arguments)
    except (TunewellError, ValueError) as error:  # from __post_init__
        return place.note(str(error))
    check = getattr(settings, "faults", None)
    if callable(check):
        place.found.extend(cross_faults(check(), tree, place.path))
    return settings


def cross_faults(texts: Iterable[str], tree: Mapping[str, Any], path: str) -> Iterator[Fault]:
    """Put the path of a section before the texts of its cross-field checks, each `key: problem` or a problem."""
    for text in texts:
        key, separator, problem = text.partition(": ")
        if separator and key.replace(".", "").replace("_", "").isalnum():
            yield Fault(join(path, key), problem, origins_of(tree).get(key.partition(".")[0], ""))
        else:
            yield Fault(path, text)


def _note_unknown_key(key: str, known: Sequence[str], wanted: str, place: Place) -> None:
    elsewhere = [path for path in all_paths(place.root, "") if path.rpartition(".")[2] == key]
    near = [*difflib.get_close_matches(key, known, n=1), *elsewhere[:3]]
    cure = f" Did you mean {' or '.join(map(repr, near))}?" if near else ""
    if "." in key:
        cure = " Write it as nested sections: one key a line, each further in."
    place.note(f"got an unknown key; wanted {wanted}.{cure}")


def _read_trainer_block(value: Any, place: Place) -> Any:
    rule = place.rule
    if not isinstance(rule, TrainerRule):
        raise TypeError(f"{place.path}: declare a TrainerBlock field with trainer_block(...)")
    value = {} if value is None else value
    if not isinstance(value, Mapping):
        return place.fault(value, f"a mapping of options for {rule.class_name}")
    before = len(place.found)
    known = rule.options()
    for key, option in value.items():
        inner = place.inside(key, value, Limits())
        if key in rule.reserved:
            inner.note(f"cannot be given here: {rule.reserved[key]}. Remove it.")
        elif known is not None and key not in known:
            _note_unknown_key(key, list(known), f"an option of {rule.class_name}", inner)
        elif known is not None and known[key].removesuffix(" | None") == "bool" and isinstance(option, str):
            # Text counts as true in Python: `no`, which is text in YAML 1.2, would switch the option on.
            inner.fault(option, "true or false", _flag_cure(option))
        elif known is not None and (wanted := _number_wanted(known[key], option)):
            inner.fault(option, wanted, _number_cure(option))
    return BAD if len(place.found) > before else TrainerBlock({**rule.default, **value})


def _number_wanted(annotation: str, option: Any) -> str:
    """The number that a trainer's option takes, where something else was given; empty where nothing is wrong."""
    kinds = set(annotation.split(" | "))
    if not kinds <= {"int", "float", "None"} or (option is None and "None" in kinds):
        return ""
    if isinstance(option, bool) or not isinstance(option, (int, float)):
        return "a number" if "float" in kinds else "a whole number"
    return "a whole number" if "float" not in kinds and isinstance(option, float) and not option.is_integer() else ""


def _read_union(hint: Any, members: tuple[Any, ...], value: Any, place: Place) -> Any:
    others = [member for member in members if member is not type(None)]
    if value is None and len(others) < len(members):
        return None
    place = dataclasses.replace(place, or_null=len(others) < len(members))
    if len(others) == 1:
        return read_value(others[0], value, place)
    sections = [member for member in others if isinstance(value, Mapping) and is_dataclass(member)]
    if len(sections) == 1:
        return read_value(sections[0], value, place)  # its own faults say more than "wanted this or that"
    for member in others:
        trial = dataclasses.replace(place, found=[])
        result = read_value(member, value, trial)
        if not trial.found:
            return result
    wanted = " or ".join(words(member, place.limits) for member in others)
    return place.fault(value, wanted)


def _read_choice(choices: tuple[Any, ...], value: Any, place: Place) -> Any:
    for choice in choices:
        if type(choice) is type(value) and choice == value:
            return choice
    names = [str(choice) for choice in choices]
    near = difflib.get_close_matches(value.lower(), names, n=1) if isinstance(value, str) else []
    return place.fault(value, words(Literal[choices], place.limits), f"Did you mean {near[0]!r}?" if near else "")


def _read_list(hint: Any, origin: type[Any], arguments: tuple[Any, ...], value: Any, place: Place) -> Any:
    if not isinstance(value, (list, tuple)):
        is_scalar = value is not None and not isinstance(value, Mapping)
        return place.fault(value, words(hint, place.limits), f"Write [{value}]." if is_scalar else "")
    is_open = origin is list or arguments[-1] is Ellipsis
    if not is_open and len(value) != len(arguments):
        return place.fault(value, words(hint, place.limits))
    members = [arguments[0]] * len(value) if is_open else arguments
    pairs = enumerate(zip(members, value, strict=True))
    items = [read_value(member, part, place.item(position)) for position, (member, part) in pairs]
    return BAD if any(item is BAD for item in items) else origin(items)


def _read_mapping(hint: Any, arguments: tuple[Any, ...], value: Any, place: Place) -> Any:
    if not isinstance(value, Mapping):
        return place.fault(value, words(hint, place.limits))
    member = arguments[1]
    items = {key: read_value(member, part, place.inside(key, value, place.rule)) for key, part in value.items()}
    return BAD if any(item is BAD for item in items.values()) else items


def _read_flag(value: Any, place: Place) -> Any:
    if isinstance(value, bool):
        return value
    return place.fault(value, "true or false", _flag_cure(value))


def _flag_cure(value: Any) -> str:
    word = str(value).lower()
    if word in ("yes", "on", "true", "y", "1"):
        return "Write true, without quotes."
    return "Write false, without quotes." if word in ("no", "off", "false", "n", "0") else ""


def _read_whole_number(value: Any, place: Place) -> Any:
    wanted = words(int, place.limits)
    if isinstance(value, bool) or not isinstance(value, int):
        is_whole = isinstance(value, float) and value.is_integer()
        return place.fault(value, wanted, f"Write {int(value)}." if is_whole else _number_cure(value))
    return value if place.limits.allow(value) else place.fault(value, wanted)


def _read_number(value: Any, place: Place) -> Any:
    wanted = words(float, place.limits)
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return place.fault(value, wanted, _number_cure(value))
    if not abs(value) < 1e308:  # also catches nan; JSON has no word for either
        return place.fault(value, f"{wanted}, finite")
    return float(value) if place.limits.allow(value) else place.fault(value, wanted)


def _number_cure(value: Any) -> str:
    try:
        float(value)
    except (TypeError, ValueError):
        return ""
    return "Write the number without quotes or underscores." if isinstance(value, str) else ""


def _read_text_value(value: Any, place: Place) -> Any:
    if isinstance(value, str):
        return value
    is_scalar = isinstance(value, (bool, int, float))
    return place.fault(value, "text", "Put it in quotes if it is text." if is_scalar else "")


def _read_path(value: Any, place: Place) -> Any:
    if isinstance(value, Path):
        return value
    if not isinstance(value, str) or not value.strip() or "\0" in value:
        return place.fault(value, "a path of a file or folder")
    try:
        return Path(value).expanduser()
    except RuntimeError:
        return place.fault(value, "a path of a file or folder", "No such user: write the whole path.")


READERS: dict[Any, Callable[[Any, Place], Any]] = {
    bool: _read_flag,
    int: _read_whole_number,
    float: _read_number,
    str: _read_text_value,
    Path: _read_path,
}


def _shown(value: Any) -> str:
    if value is None:
        return "nothing (null)"
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    text = text if len(text) <= 80 else f"{text[:77]}..."
    kinds = {bool: "a flag", int: "a whole number", float: "a number", str: "text", list: "a list", tuple: "a list"}
    return f"{text} ({'a mapping' if isinstance(value, Mapping) else kinds.get(type(value), type(value).__name__)})"
