"""The explorer: every item of an evaluation as JSON in the page, which its script searches, sorts and shows."""

from collections.abc import Mapping
from typing import Any

from .parts import Marks, safe_json


def explorer(report: Mapping[str, Any], marks: Marks) -> dict[str, Any] | None:
    """The section of items, or None without any."""
    content = report.get("explorer")
    if not content:
        return None
    models = [{"name": name, "tone": marks.tone(name)} for name in content["models"]]
    return {
        "models": models,
        "tasks": [task["name"] for task in content["tasks"]],
        "flagged": any(_is_flagged(item) for task in content["tasks"] for item in task["items"]),
        "data": safe_json({**content, "tones": [model["tone"] for model in models]}),
    }


def _is_flagged(item: Mapping[str, Any]) -> bool:
    return item["flagged"] or any(answer["flagged"] for own in item["models"].values() for answer in own["answers"])
