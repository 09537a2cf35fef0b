"""The parts that sections of the page share: cells, tables, figures, ids."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from markupsafe import Markup

from ...toolkit.chart_canvas import Chart
from .numbers import NOT_MEASURED, is_number, number

_TONES = {"base": 0, "sft": 1, "reward": 5, "ppo": 3}  # a model keeps its colour in every picture
_FREE_TONES = (2, 4, 5, 1, 3)


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: what is read.
        sort: the figure behind the text, by which the column is sorted.
        is_number: set flush right.
        share: drawn as a small bar, 0 to 1.
        height: rows that the cell spans.
        note: a second, smaller line.
    """

    text: str
    sort: float | None = None
    is_number: bool = False
    share: float | None = None
    height: int = 1
    note: str = ""


@dataclass(frozen=True)
class Table:
    """A table with its caption; `is_sortable` gives each column head a button.

    A row under a cell that spans several rows is that much shorter.
    """

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    note: str = ""
    is_sortable: bool = False

    @property
    def is_numeric(self) -> list[bool]:
        """For each column, whether its figures stand flush right."""
        full = [row for row in self.rows if len(row) == len(self.columns)]
        return [any(row[index].is_number for row in full) for index in range(len(self.columns))]


@dataclass(frozen=True)
class Figure:
    """A chart with its title, its numbers as a table and as JSON."""

    id: str
    title: str
    svg: Markup
    plot: str
    table: Table
    data: Markup
    note: str = ""


@dataclass
class Marks:
    """Hands out the ids and colours of one page: the same report gives the same."""

    used: int = 0
    tones: dict[str, int] = field(default_factory=dict)

    def next(self, kind: str) -> str:
        """A fresh id such as "figure-3"."""
        self.used += 1
        return f"{kind}-{self.used}"

    def tone(self, model: str) -> int:
        """The colour of a model: its own where it has one, else the first that is free."""
        if model not in self.tones:
            free = [tone for tone in _FREE_TONES if tone not in self.tones.values()]
            fallback = (free or _FREE_TONES)[0]
            self.tones[model] = _TONES.get(model.lower(), fallback)
        return self.tones[model]


def safe_json(value: Any) -> Markup:
    """`value` as JSON that can stand in a script element: ASCII, without "<", ">" and "&"; NaN becomes null."""
    text = json.dumps(_finite(value), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))


def _finite(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {name: _finite(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def cell(value: Any) -> Cell:
    """A cell for any plain value; figures are formatted and sort by size."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Cell(NOT_MEASURED)
    if is_number(value):
        return Cell(number(value), float(value), True)
    if isinstance(value, bool):
        return Cell("yes" if value else "no")
    return Cell(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def floats(values: Sequence[Any]) -> list[float]:
    """Numbers for a chart: what is missing or infinite becomes NaN, which leaves a gap."""
    return [float(value) if is_number(value) else math.nan for value in values]


def figure(
    key: str, title: str, chart: Chart, table: Table, data: Any, note: str = "", is_readable: bool = False
) -> Figure:
    """A drawn chart together with its numbers; `is_readable` lets the pointer read values off it."""
    plot = ",".join(f"{value:g}" for value in chart.plot) if is_readable else ""
    # The chart is built from escaped text by toolkit.charts, so it is markup already.
    return Figure(key, title, Markup(chart.svg), plot, table, safe_json(data), note)
