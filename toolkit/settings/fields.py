"""A field of a settings class carries its range, its unit or the trainer class that it is for."""

import dataclasses
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from .trainer_fields import field_types
from .yaml_text import plain

RULE = "tunewell"  # the key under which a field's metadata holds its Limits or TrainerRule


class TrainerBlock(Mapping[str, Any]):
    """Options passed untouched to a trainer's own settings class: `SFTConfig(**block)`.

    Read-only and hashable, so that it can be the default of a frozen dataclass. What it hands out are copies.
    """

    __slots__ = ("_options",)

    def __init__(self, options: Mapping[str, Any] | None = None) -> None:
        self._options = plain(dict(options or {}))

    def __getitem__(self, key: str) -> Any:
        return plain(self._options[key])

    def __iter__(self) -> Iterator[str]:
        return iter(self._options)

    def __len__(self) -> int:
        return len(self._options)

    def __hash__(self) -> int:
        # By keys alone: 1 and 1.0 are equal values, so anything finer could tell equal blocks apart.
        return hash(frozenset(self._options))

    def __repr__(self) -> str:
        return f"TrainerBlock({self._options!r})"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """The range and unit of a number, or of each number in a list or mapping."""

    low: float | None = None
    """Smallest value allowed."""
    high: float | None = None
    """Largest value allowed."""
    above: float | None = None
    """Every value must be larger than this."""
    below: float | None = None
    """Every value must be smaller than this."""
    unit: str = ""
    """What one is one of: tokens, nats, seconds."""

    def allow(self, value: float) -> bool:
        """Whether a number lies in the range."""
        return (
            (self.low is None or value >= self.low)
            and (self.high is None or value <= self.high)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )

    def words(self) -> str:
        """The range and unit in words, with a space before them; empty where there are none."""
        if self.low is not None and self.high is not None:
            text = f" from {_digits(self.low)} to {_digits(self.high)}"
        else:
            named = (("of at least", self.low), ("above", self.above), ("of at most", self.high), ("below", self.below))
            bounds = [f"{word} {_digits(bound)}" for word, bound in named if bound is not None]
            text = f" {' and '.join(bounds)}" if bounds else ""
        return text + (f" ({self.unit})" if self.unit else "")


@dataclass(frozen=True)
class TrainerRule:
    """What a trainer block is for: its class, the options that we set ourselves (with the reason), the defaults."""

    class_path: str
    reserved: Mapping[str, str]
    default: TrainerBlock

    def options(self) -> dict[str, str] | None:
        """Names and annotations of the options that may be given; None where the class cannot be found."""
        known = field_types(self.class_path)
        if known is None:
            return None
        return {name: annotation for name, annotation in known.items() if name not in self.reserved}

    @property
    def class_name(self) -> str:
        """The class without its module."""
        return self.class_path.rpartition(":")[2]


def setting(
    default: Any = MISSING,
    *,
    factory: Callable[[], Any] | None = None,
    low: float | None = None,
    high: float | None = None,
    above: float | None = None,
    below: float | None = None,
    unit: str = "",
) -> Any:
    """Declare a field with a range and a unit, which fault messages and help then name.

    Args:
        default: the default; without it and without `factory` the field is required.
        factory: makes the default, for mappings and lists.
        low: smallest value allowed.
        high: largest value allowed.
        above: values must be larger than this.
        below: values must be smaller than this.
        unit: what one is one of (tokens, nats, seconds).
    """
    metadata = {RULE: Limits(low=low, high=high, above=above, below=below, unit=unit)}
    if factory is not None:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


def trainer_block(
    class_path: str, *, reserved: Mapping[str, str] | None = None, default: Mapping[str, Any] | None = None
) -> Any:
    """Declare a block of options that is passed untouched to a trainer's settings class.

    Names are checked against that class without importing it; values are left to it.

    Args:
        class_path: module and class, as in `trl.trainer.sft_config:SFTConfig`.
        reserved: options that may not be given, each with the reason.
        default: options given where a recipe does not; a recipe's options are laid over them.
    """
    rule = TrainerRule(class_path, dict(reserved or {}), TrainerBlock(default))
    return field(default=rule.default, metadata={RULE: rule})


def words(hint: Any, limits: Limits) -> str:
    """What a type asks for, in plain words."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint in (int, float):
        return f"a {'whole ' if hint is int else ''}number{limits.words()}"
    if origin in (Union, types.UnionType):
        return " or ".join(words(member, limits) for member in arguments)
    if origin is Literal:
        return f"one of {', '.join(map(repr, arguments))}"
    if origin is tuple and arguments[-1] is not Ellipsis:
        return f"a list of {len(arguments)}: {', '.join(words(member, limits) for member in arguments)}"
    if origin in (list, tuple):
        return f"a list, each {words(arguments[0], limits)}"
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return f"a mapping from names to {words(arguments[1], limits)}"
    if is_dataclass(hint):
        return f"a section with the keys {', '.join(item.name for item in fields(hint))}"
    named = {bool: "true or false", str: "text", Path: "a path of a file or folder", type(None): "null"}
    return named.get(hint, "a value")


def all_paths(cls: type[Any], path: str) -> Iterator[str]:
    """Dotted paths of every setting below a class, the options of its trainer blocks included."""
    for item, hint in fields_with_hints(cls):
        dotted = join(path, item.name)
        yield dotted
        rule = rule_of(item)
        if isinstance(rule, TrainerRule):
            yield from (join(dotted, name) for name in rule.options() or ())
        for section in sections_in(hint):
            yield from all_paths(section, dotted)


def rule_of(item: "dataclasses.Field[Any]") -> Limits | TrainerRule:
    """What was declared with `setting` or `trainer_block`; a field without either has no limits."""
    rule = item.metadata.get(RULE)
    return rule if isinstance(rule, (Limits, TrainerRule)) else Limits()


def fields_with_hints(cls: type[Any]) -> list[tuple["dataclasses.Field[Any]", Any]]:
    """The fields that a class takes, each with its resolved type."""
    hints = get_type_hints(cls)
    return [(item, hints[item.name]) for item in fields(cls) if item.init]


def sections_in(hint: Any) -> list[type[Any]]:
    """The settings classes that a type allows: the type itself, or members of its union."""
    members = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    return [member for member in members if isinstance(member, type) and is_dataclass(member)]


def join(path: str, key: str) -> str:
    """Put a key behind a dotted path, which may be empty."""
    return f"{path}.{key}" if path else str(key)


def _digits(number: float) -> str:
    return str(int(number)) if float(number).is_integer() and abs(number) < 1e15 else f"{number:g}"
