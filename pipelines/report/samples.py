"""The samples: what each model answers to the same prompts, side by side."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .numbers import is_number, score
from .parts import Marks
from .text import passage


def samples(samples: Sequence[Mapping[str, Any]], marks: Marks) -> dict[str, Any] | None:
    """The samples grouped by prompt, so that the answers of several models stand side by side."""
    if not samples:
        return None
    scores = list(dict.fromkeys(name for sample in samples for name in sample.get("scores") or {}))
    models = list(dict.fromkeys(sample["model"] for sample in samples))
    groups: dict[str, dict[str, Any]] = {}
    for sample in samples:
        prompt = json.dumps(sample["prompt"], sort_keys=True)
        if prompt not in groups:
            groups[prompt] = {
                "id": marks.next("text"),
                "turns": _turns(sample["prompt"]),
                "flagged": bool(sample.get("prompt_flagged")),
                "answers": [],
            }
        groups[prompt]["answers"].append(_answer(sample, scores, models, marks))
    return {
        "groups": list(groups.values()),
        "models": [{"name": model, "tone": marks.tone(model)} for model in models],
        "scores": scores,
        "n": len(samples),
        "flagged": sum(bool(sample.get("flagged")) for sample in samples),
    }


def _turns(prompt: Any) -> list[dict[str, Any]]:
    if isinstance(prompt, str):
        return [{"role": "", "text": passage(prompt)}]
    return [{"role": turn["role"], "text": passage(turn.get("content") or "")} for turn in prompt]


def _answer(sample: Mapping[str, Any], scores: Sequence[str], models: Sequence[str], marks: Marks) -> dict[str, Any]:
    given = sample.get("scores") or {}
    model = sample["model"]
    return {
        "id": marks.next("text"),
        "model": model,
        "index": models.index(model),
        "tone": marks.tone(model),
        "flagged": bool(sample.get("flagged")),
        "text": passage(sample["completion"]),
        "scores": [(name, score(given[name])) for name in scores if name in given],
        "sort": json.dumps([given.get(name) if is_number(given.get(name)) else None for name in scores]),
        "note": sample.get("note") or "",
    }
