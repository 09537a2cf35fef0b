"""The data card: what is in a folder of sets, where it came from, and what was left out."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import yaml

from ... import __version__
from ..export.card import plain

Row = Mapping[str, Any]
SETS = {
    "demonstrations": "`prompt`, `completion`: SFT",
    "rankings": "`prompt`, `completions`, `ranks` (1 is best, equal is a tie): the reward model",
    "comparisons": "`prompt`, `chosen`, `rejected`, all pairs of the rankings among them: the reward model",
    "ratings": "`prompt`, `completion`, `rating`: the reward model",
    "prompts": "`prompt`: PPO",
}
REASONS = {
    "marked_unclear": "more labelers called it unclear, broken or personal than answered it",
    "empty": "there is nothing in it",
    "no_query": "an instruction without a query",
    "no_words": "it holds no word and no sum",
    "garbled": "characters were lost or misread",
    "placeholder": "a form that was not filled in",
    "nothing_follows": "it announces a text that is not there",
    "too_long": "more words than allowed",
    "common_prefix": "it begins like another one",
    "over_user_limit": "its user has as many prompts as allowed",
    "leak": "it gives away a prompt of the evaluation",
    "personal_data": "it holds personal data",
}


def card_of(summary: Row) -> str:
    """Write the card, as Markdown with the header by which `datasets.load_dataset` finds the sets."""
    rows, prompts, settings = summary["rows"], summary["prompts"], summary["settings"]
    lines = ["---", yaml.safe_dump({"configs": _configs(summary["files"])}, sort_keys=False).rstrip(), "---", ""]
    lines += [
        "# Training sets from prompts",
        "",
        f"Made by tunewell {__version__} (`tunewell data build`, seed {settings['seed']}) of "
        f"{', '.join(plain(one) for one in summary['sources'])}. All settings and counts: `build.json`.",
        "",
        f"{rows['read']} rows were read and {rows['used']} used; they hold {prompts['distinct']} distinct prompts, of "
        f"which {prompts['kept']} were kept and {prompts['dropped']} dropped (`dropped.jsonl`, with reasons).",
        "",
    ]
    lines += _table(("file", "rows", "what"), _files(summary["files"]))
    if summary["simulated_rows"]:
        lines += [f"**{summary['simulated_rows']} rows were judged by a simulated labeler, not by people** "
                  "(`is_simulated`).", ""]  # fmt: skip
    lines += ["## Splits", "", _users(summary), ""]
    names = ("prompts", "users", "labelled", "plain", "few_shot", "use_case")
    splits = [(name, *(found.get(key, 0) for key in names)) for name, found in summary["splits"].items()]
    lines += _table(("split", *(name.replace("_", " ") for name in names)), splits)
    lines += ["## Left out", ""]
    left = [(name, n, REASONS[name]) for name, n in summary["dropped"].items()]
    left += [(name, n, "the dialogues are no pair") for name, n in summary["unusable_rows"].items()]
    lines += _table(("reason", "prompts", "why"), left) if left else ["Nothing.", ""]
    lines += ["## Personal data", "", _personal(summary), ""]
    lines += ["## Length of prompts, in words", ""]
    spread = [
        (f"{name}.jsonl", *(f"{one[key]:g}" for key in ("n", "p5", "median", "p95", "most")))
        for name, one in summary["prompt_words"].items()
    ]
    lines += _table(("file", "n", "5%", "median", "95%", "longest"), spread)
    lines += [
        "## Limits",
        "",
        "- Rules find broken prompts, not vague ones, and numbers and addresses, not names or stories about people.",
        f"- Leaks are {settings['leak_words']} words in a row in both; a paraphrase or translation is not found.",
        "- The licence and the consent of those who wrote the prompts are not known to this program: add them here.",
        "",
    ]
    return "\n".join(lines)


def _configs(files: Mapping[str, int]) -> list[dict[str, Any]]:
    configs = []
    for name in SETS:
        parts = {"train": name, "validation": f"{name}_held_out", "test": f"{name}_test"}
        if name == "prompts":
            parts |= {"validation": "held_out_prompts", "test": "test_prompts"}
        found = [{"split": split, "path": f"{file}.jsonl"} for split, file in parts.items() if file in files]
        if found:
            configs.append({"config_name": name, "data_files": found})
    return configs


def _files(files: Mapping[str, int]) -> list[tuple[object, ...]]:
    return [(f"{name}.jsonl", n, SETS.get(name) or _split_use(name)) for name, n in files.items()]


def _split_use(name: str) -> str:
    return "the same, for validation" if "held_out" in name else "the same, for a last test"


def _users(summary: Row) -> str:
    users, settings = summary["users"], summary["settings"]
    if not users["known"]:
        return "No user is known: every prompt was split by itself."
    text = f"By user: none of {users['known']} users is in two splits, or has more than {settings['per_user']} prompts."
    without = users["prompts_without_user"]
    return f"{text} {without} prompts of nobody known were split one by one." if without else text


def _personal(summary: Row) -> str:
    how, found = summary["settings"]["personal_data"], summary["personal_data"]
    if how == "keep":
        return "It was not looked for."
    kinds = ", ".join(f"{n} {kind.replace('_', ' ')}" for kind, n in sorted(found.items())) or "none"
    done = "hidden, as `[EMAIL]`" if how == "hide" else "dropped with its prompt"
    return (
        f"E-mail, phone, card and IP addresses in the training split, {done}: {kinds}. Other splits are as they were."
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    return [*lines, *("| " + " | ".join(map(str, row)) + " |" for row in rows), ""]
