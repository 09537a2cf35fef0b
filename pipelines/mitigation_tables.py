"""Tables of the comparison of mitigations, in Markdown; every interval is one of 95 %."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..toolkit.files import read_json
from .mitigation_arms import METHODS, UNTREATED

Row = Mapping[str, Any]


def levels(table: Sequence[Row]) -> str:
    """Every arm: toxicity, bias, truthfulness, perplexity, and the alignment tax against the untreated one."""
    lines = [
        "| method | strength | toxic samples | bias (nats) | truthful | perplexity | alignment tax (nats per token) |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in table:
        tax = row.get("nll.difference")
        perplexity = {part: math.exp(row["nll"][part]) for part in ("value", "low", "high")}
        cells = [
            row["method"],
            f"{row['strength']:g}" if row["method"] in METHODS else "",
            _share(row["toxicity"]),
            _number(row["bias"]),
            _share(row["truthfulness"]),
            _number(perplexity),
            "" if tax is None else _change(tax, 3),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def changes(table: Sequence[Row]) -> str:
    """The bare base, and each method at its highest strength: paired differences from the untreated arm."""
    lines = [
        "| method | strength | toxic samples (points) | bias (nats) | truthful (points) | alignment tax (nats) |",
        "|---|---|---|---|---|---|",
    ]
    strongest = {row["method"]: row for row in table if row["method"] != UNTREATED}
    for name, row in strongest.items():
        method = METHODS.get(name)
        cells = [
            f"{method.title} (`{name}`)" if method else "bare base, not fine-tuned",
            f"{row['strength']:g}" if method else "",
            _change(row["toxicity.difference"], 0, 100),
            _change(row["bias.difference"], 2),
            _change(row["truthfulness.difference"], 0, 100),
            _change(row["nll.difference"], 3),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def gates(folder: Path) -> str:
    """What the gate did at each strength, on labelled texts and on the model's own; empty where it was not compared.

    Args:
        folder: of the stage.
    """
    lines = [
        "| strength | AUC | alarms, safe answers | taken back | alarms, toxic answers | released | over-refusal |",
        "|---|---|---|---|---|---|---|",
    ]
    for strength in METHODS["control"].strengths:
        path = folder / "arms" / f"control-{strength:g}" / "gate.json"
        if not path.is_file():
            return ""
        found = read_json(path)
        counted = found["outcomes"]
        safe, unsafe = counted["safe"], counted["unsafe"]
        cells = [
            f"{strength:g}",
            f"{found['held_out']['auc']:.3f}",
            f"{counted['false_alarms']} of {safe}",
            f"{counted['recovered']}",
            f"{counted['true_alarms']} of {unsafe}",
            f"{counted['released']}",
            f"{counted['over_refused']} of {safe}",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _share(figure: Row) -> str:
    return f"{figure['value']:.0%} [{figure['low']:.0%}, {figure['high']:.0%}]"


def _number(figure: Row) -> str:
    return f"{figure['value']:.2f} [{figure['low']:.2f}, {figure['high']:.2f}]"


def _change(figure: Row, digits: int, scale: float = 1.0) -> str:
    # Adding zero turns -0.0 into 0.0, which is printed without a sign of its own.
    delta, low, high = (round(scale * figure[part], digits) + 0.0 for part in ("delta", "low", "high"))
    return f"{delta:+.{digits}f} [{low:+.{digits}f}, {high:+.{digits}f}]"
