"""Figures written for people: three significant digits, one width for a value and its interval."""

import math
from typing import Any, TypeGuard

NOT_MEASURED = "not measured"
_MINUS = "\N{MINUS SIGN}"
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def is_number(value: Any) -> TypeGuard[float]:
    """Whether `value` is a finite int or float (a bool is a flag, NaN is a missing figure)."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def decimals(*values: float) -> int:
    """Digits after the point that give the largest of `values` three significant digits (0 to 6)."""
    largest = max((abs(value) for value in values), default=0.0)
    if largest == 0:
        return 0
    # Rounding first, so that 9.999 counts as 10.0 and gets one digit less.
    exponent = math.floor(math.log10(float(f"{largest:.2e}")))
    return min(6, max(0, 2 - exponent))


def fixed(value: float, digits: int) -> str:
    """`value` with `digits` decimals, thousands commas and a real minus sign; never "-0"."""
    text = f"{value:,.{digits}f}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("-")
    return text.replace("-", _MINUS)


def number(value: Any, unit: str | None = None) -> str:
    """One figure with its unit; `unit="share"` turns 0.81 into "81.0%".

    A whole number is written whole. A figure that is missing (None or NaN) is "not measured".
    A share just below 1 is never rounded up to 100%, a small one never down to 0%.
    """
    if not is_number(value):
        return NOT_MEASURED
    if unit == "share":
        return _percent(float(value))
    text = fixed(value, 0) if isinstance(value, int) else _real(float(value))
    return f"{text} {unit}" if unit else text


def score(value: Any) -> str:
    """The score of one text: at most three decimals, for nobody needs the fourth of a single answer."""
    if is_number(value) and 0 < abs(value) < 5e-4:
        return "<0.001" if value > 0 else f">{_MINUS}0.001"
    return fixed(value, min(3, decimals(value))) if is_number(value) else NOT_MEASURED


def _real(value: float) -> str:
    if value != 0 and abs(value) < 1e-3:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa}\N{MULTIPLICATION SIGN}10{str(int(exponent)).translate(_RAISED)}".replace("-", _MINUS)
    return fixed(value, decimals(value))


def _percent(share: float) -> str:
    percent = 100 * share
    if 0 < abs(percent) < 0.01:
        return "<0.01%" if percent > 0 else f">{_MINUS}0.01%"
    if 99.95 <= percent < 100:
        return ">99.9%"
    return fixed(percent, min(decimals(percent), 2)) + "%"


def estimate(value: Any, low: Any, high: Any, unit: str | None = None) -> tuple[str, str]:
    """A value and its interval "[low, high]", written with the same number of decimals.

    Returns:
        The value and the interval; "not measured" where one of them is missing.
    """
    parts = [float(part) for part in (value, low, high) if is_number(part)]
    scale = 100.0 if unit == "share" else 1.0
    digits = decimals(*(scale * part for part in parts))
    sign = "%" if unit == "share" else ""
    if unit == "share":
        digits = min(digits, 2)
    value_text = fixed(scale * value, digits) + sign if is_number(value) else NOT_MEASURED
    if unit and unit != "share" and is_number(value):
        value_text += f" {unit}"
    if not (is_number(low) and is_number(high)):
        return value_text, NOT_MEASURED
    return value_text, f"[{fixed(scale * low, digits)}{sign}, {fixed(scale * high, digits)}{sign}]"


def change(delta: Any, low: Any, high: Any, unit: str | None = None) -> tuple[str, str]:
    """A signed difference and its interval; shares differ by percentage points."""
    parts = [float(part) for part in (delta, low, high) if is_number(part)]
    scale = 100.0 if unit == "share" else 1.0
    digits = decimals(*(scale * part for part in parts))
    if unit == "share":
        digits = min(digits, 2)

    def signed(part: float) -> str:
        text = fixed(scale * part, digits)
        return text if text.startswith(_MINUS) or float(text.replace(",", "")) == 0 else f"+{text}"

    word = {"share": " points", None: ""}.get(unit, f" {unit}")
    delta_text = signed(delta) + word if is_number(delta) else NOT_MEASURED
    interval = f"[{signed(low)}, {signed(high)}]" if is_number(low) and is_number(high) else NOT_MEASURED
    return delta_text, interval


def change_text(delta: Any, low: Any, high: Any, unit: str | None = None) -> str:
    """A difference with its interval, if it has one: a single item or group has none."""
    text, interval = change(delta, low, high, unit)
    return f"{text} {interval if interval != NOT_MEASURED else '(no interval)'}"


def duration(seconds: Any) -> str:
    """Seconds as "4.2 s", "3 min 05 s" or "2 h 07 min"."""
    if not is_number(seconds):
        return NOT_MEASURED
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def memory(megabytes: Any) -> str:
    """Megabytes as "842 MB" or "3.21 GB" (1 GB = 1000 MB)."""
    if not is_number(megabytes):
        return NOT_MEASURED
    if megabytes < 1000:
        return f"{megabytes:.0f} MB"
    return f"{megabytes / 1000:.{decimals(megabytes / 1000)}f} GB"
