"""Values of Parquet and of data sets that JSON has no form for, as text or numbers that lose nothing."""

import base64
from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any

import orjson

from ..files import JSON_OPTIONS


def plain_value(value: Any) -> Any:
    """Give a value a form in JSON: made for the `default` of a JSON writer.

    Dates and times become ISO 8601 text (down to nanoseconds, as pandas writes them), decimals text, bytes base64,
    durations seconds.

    Args:
        value: one that the writer does not know.

    Raises:
        TypeError: it is of another type still.
    """
    if isinstance(value, date | time):  # a datetime is a date, and pandas has its own kind of it
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal):
        return str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return base64.b64encode(value).decode("ascii")
    raise TypeError(f"got {type(value).__name__}, for which JSON has no form")


def columns_without_form(row: Mapping[str, Any]) -> list[str]:
    """Name the columns of a row, with their types, that even `plain_value` finds no form for."""
    found = []
    for name, value in row.items():
        try:
            orjson.dumps(value, default=plain_value, option=JSON_OPTIONS)
        except TypeError as error:
            found.append(f"{name} ({type(value).__name__}: {error})")
    return found
