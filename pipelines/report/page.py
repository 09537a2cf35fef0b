"""The report page: one HTML file that needs nothing but itself."""

import base64
import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ...toolkit.files import write_atomic
from .check import check
from .text import plain
from .view import build

_FOLDER = Path(__file__).parent


def render(report: Mapping[str, Any]) -> str:
    """The report as one HTML page; the same report gives the same text.

    Args:
        report: plain JSON-able values, see `check.REPORT`; sections that are missing are left out.

    Raises:
        DataError: the report misses an entry, holds a wrong type or contradicts itself; all faults at once.
    """
    plain_report, unread = check(report)
    script, explorer, style = _asset("report.js"), _asset("explorer.js"), _asset("report.css")
    template = _environment().get_template("report.html.j2")
    # These files are ours and go in verbatim: the policy admits the scripts by the hashes of these very bytes.
    return template.render(
        page=build(plain_report, unread),
        policy=_policy(script, explorer),
        script=Markup(script),
        explorer_script=Markup(explorer),
        style=Markup(style),
    )


def write_report(report: Mapping[str, Any], path: Path) -> None:
    """Write the page in one step: a reader finds the old page or the new one, never half of it.

    Raises:
        DataError: see `render`; an earlier page stays as it was.
        RunError: the folder cannot be written, or the disk is full.
    """
    write_atomic(path, render(report))


@cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_finalize,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def _finalize(value: Any) -> Any:
    """Every text that the template prints, made visible before it is escaped; markup of ours passes."""
    return plain(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _asset(name: str) -> str:
    # Browsers turn CRLF into LF before they hash a script, so a checkout with CRLF must do the same.
    return (_FOLDER / name).read_text(encoding="utf-8").replace("\r\n", "\n")


def _policy(*scripts: str) -> str:
    digests = [base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii") for script in scripts]
    admitted = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src {admitted}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
