"""Sources of prompts become the training sets of a folder, with a data card and every count."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from ...toolkit.data.rows import write_rows
from ...toolkit.errors import DataError, RunError, SettingsError
from ...toolkit.files import write_atomic, write_json
from ..console import Console
from .card import card_of
from .choosing import Dropped, drop_common_prefixes, drop_unclear, limit_users, merge_equal
from .rendering import Form, hide_personal_data, rows_of, words_in
from .sources import read_sources
from .splitting import SPLITS, Split, drop_leaks, split_by_user
from .templates import Templates
from .unclear import MOST_WORDS
from .written import Written, plain

Row = dict[str, Any]
SUMMARY, DROPPED, CARD = "build.json", "dropped.jsonl", "README.md"
KINDS = ("demonstrations", "rankings", "comparisons", "ratings")
FILES = (
    *(f"{name}{suffix}" for name in KINDS for suffix in ("", "_held_out", "_test")),
    "prompts",
    "held_out_prompts",
    "test_prompts",
)
FormName = Literal["auto", "text", "chat"]
PersonalData = Literal["hide", "drop", "keep"]


@dataclass(frozen=True, kw_only=True)
class BuildSettings:
    """What becomes of the prompts.

    Raises:
        SettingsError: all values that make no sense at once.
    """

    templates: Templates = field(default_factory=Templates)
    form: FormName = "auto"
    shots: int | None = None
    draws: int = 1
    max_words: int = MOST_WORDS
    prefix: int = 128
    per_user: int = 200
    held_out: float = 0.15
    test: float = 0.0
    personal_data: PersonalData = "hide"
    leak_words: int = 13
    prompts_without_labels: bool = False
    user_column: str = "user"
    columns: Mapping[str, str] = field(default_factory=dict)
    split: str = "train"
    seed: int = 0

    def __post_init__(self) -> None:
        least = {"shots": 0, "draws": 1, "max_words": 1, "prefix": 1, "per_user": 1, "leak_words": 1}
        faults = [
            f"--{name.replace('_', '-')}: got {value}, wanted at least {low}"
            for name, low in least.items()
            if (value := getattr(self, name)) is not None and value < low
        ]
        if not (self.held_out >= 0 and self.test >= 0 and self.held_out + self.test < 1):
            faults.append(
                f"--held-out, --test: got {self.held_out:g} and {self.test:g}, wanted shares from 0 whose sum is "
                "below 1, so that something is left to train on"
            )
        for name, known in (("form", get_args(FormName)), ("personal_data", get_args(PersonalData))):
            if getattr(self, name) not in known:
                option = name.replace("_", "-")
                faults.append(f"--{option}: got {getattr(self, name)!r}, wanted one of {', '.join(known)}")
        if faults:
            raise SettingsError(faults, "the command line")


def build(sources: Sequence[str], out: Path, settings: BuildSettings, console: Console) -> Row:
    """Build the sets.

    In this order: rows of one prompt become one, unclear prompts are dropped, of those that begin alike one stays,
    and so many of each user; users are split; training prompts that give away others are dropped; personal data in
    the training split is hidden; templates make rows of them.

    Args:
        sources: what `read_sources` understands.
        out: new, empty, or an earlier build, whose files are replaced.
        settings: what becomes of the prompts.
        console: shows what goes on.

    Returns:
        what `build.json` says: `rows` (read = used + dropped), `prompts`, `files`, `splits` and more.

    Raises:
        DataError: a source cannot be used, or nothing is left to train on.
        RunError: the folder holds something else, or cannot be written.
    """
    _check_folder(out)
    with console.working("prompts") as say:
        say("reading")
        written, unusable = read_sources(sources, settings.columns, settings.user_column, settings.split)
        say(f"choosing among {len(written)} prompts")
        unique, kept, dropped = _chosen(written, settings)
        splits: dict[Split, list[Written]] = split_by_user(kept, settings.held_out, settings.test, settings.seed)
        splits, leaks = drop_leaks(splits, settings.leak_words)
        splits, personal, hidden = _without_personal_data(splits, settings.personal_data)
        dropped += leaks + personal
        for split, share in (("train", 1.0), ("held_out", settings.held_out), ("test", settings.test)):
            if share and not splits[split]:  # type: ignore[index]
                reasons = Counter(one.reason for one in dropped)
                said = ", ".join(f"{n} {reason}" for reason, n in reasons.most_common()) or "nothing dropped"
                raise DataError(
                    f"no prompt is left in the {split} split ({said}): add prompts, or change what drops them"
                )
        say("writing")
        files = _rows(splits, settings)
    summary = _summary(sources, settings, unique, splits, dropped, unusable, hidden, files)
    if not summary["users"]["known"]:
        console.warn(
            f"no row has the column {settings.user_column!r}, so prompts are split one by one and not limited by user: "
            "name the column with --user-column"
        )
    _write(out, files, _dropped_rows(dropped, unusable, settings), summary)
    return summary


def _check_folder(out: Path) -> None:
    ours = {SUMMARY, DROPPED, CARD, *(f"{name}.jsonl" for name in FILES)}
    if out.exists() and not (out.is_dir() and {path.name for path in out.iterdir()} <= ours):
        raise RunError(f"{out} exists and holds other files than a build: give another --out, or remove it")


def _chosen(written: Sequence[Written], settings: BuildSettings) -> tuple[list[Written], list[Written], list[Dropped]]:
    """All distinct prompts, those that stay, and those that do not."""
    unique = merge_equal(written)
    kept, dropped = drop_unclear(unique, settings.templates, settings.max_words)
    kept, more = drop_common_prefixes(kept, settings.prefix)
    kept, most = limit_users(kept, settings.per_user, settings.seed)
    dropped += more + most
    if not kept:
        reasons = Counter(one.reason for one in dropped)
        raise DataError(f"no prompt is left of {len(unique)}: {', '.join(f'{n} {why}' for why, n in reasons.items())}")
    return unique, kept, dropped


def _without_personal_data(
    splits: Mapping[Split, list[Written]], how: PersonalData
) -> tuple[dict[Split, list[Written]], list[Dropped], Counter[str]]:
    """The splits with the training one cleaned, what was dropped, and how many pieces were found by kind."""
    if how == "keep":
        return dict(splits), [], Counter()
    cleaned = [(one, *hide_personal_data(one)) for one in splits["train"]]
    counts = sum((found for _, _, found in cleaned), Counter[str]())
    if how == "hide":
        return {**splits, "train": [clean for _, clean, _ in cleaned]}, [], counts
    dropped = [Dropped(clean, "personal_data", ", ".join(sorted(found))) for _, clean, found in cleaned if found]
    return {**splits, "train": [one for one, _, found in cleaned if not found]}, dropped, counts


def _rows(splits: Mapping[Split, Sequence[Written]], settings: BuildSettings) -> dict[str, list[Row]]:
    form = Form(
        templates=settings.templates,
        is_chat=_is_chat([one for every in splits.values() for one in every], settings.form),
        shots=settings.shots,
        draws=settings.draws,
        seed=settings.seed,
        prompts_without_labels=settings.prompts_without_labels,
    )
    # A number in place of the name, which may well be an address.
    users = {one.user for split in SPLITS for one in splits[split] if one.user is not None}
    names = {user: f"user-{number}" for number, user in enumerate(sorted(users), start=1)}
    files: defaultdict[str, list[Row]] = defaultdict(list)
    for split in SPLITS:
        for one in splits[split]:
            for name, row in rows_of(one, split, names.get(one.user or ""), form):
                files[name].append(row)
    return {name: files[name] for name in FILES if files[name]}


def _is_chat(prompts: Sequence[Written], form: FormName) -> bool:
    chats = [one for one in prompts if one.is_chat]
    if form == "text" and chats:
        raise DataError(f"{chats[0].place} holds a chat, which cannot be written as text: give --form chat")
    return form == "chat" or bool(chats)


def _summary(
    sources: Sequence[str],
    settings: BuildSettings,
    unique: Sequence[Written],
    splits: Mapping[Split, Sequence[Written]],
    dropped: Sequence[Dropped],
    unusable: Sequence[Row],
    hidden: Counter[str],
    files: Mapping[str, Sequence[Row]],
) -> Row:
    kept = [one for every in splits.values() for one in every]
    reasons = Counter(one.reason for one in dropped)
    used, lost = sum(one.n_rows for one in kept), sum(one.prompt.n_rows for one in dropped)
    return {
        "sources": [Path(source).name for source in sources],
        "settings": asdict(replace(settings, columns=dict(settings.columns))),
        "rows": {"read": used + lost + len(unusable), "used": used, "dropped": lost + len(unusable)},
        "prompts": {"distinct": len(unique), "kept": len(kept), "dropped": len(dropped)},
        "dropped": dict(reasons.most_common()),
        "unusable_rows": dict(Counter(one["reason"] for one in unusable)),
        "users": {
            "known": len({one.user for one in kept} - {None}),
            "prompts_without_user": sum(one.user is None for one in kept),
        },
        "splits": {split: _split_counts(splits[split]) for split in SPLITS if splits[split]},
        "personal_data": dict(hidden),
        "files": {name: len(rows) for name, rows in files.items()},
        "simulated_rows": sum(row.get("is_simulated", False) for rows in files.values() for row in rows),
        "prompt_words": {name: _spread(rows) for name, rows in files.items() if "prompts" in name},
    }


def _split_counts(prompts: Sequence[Written]) -> Row:
    kinds = Counter(one.kind for one in prompts)
    users = {one.user for one in prompts} - {None}
    labelled = sum(one.is_labelled for one in prompts)
    return {"prompts": len(prompts), "users": len(users), "labelled": labelled, **dict(sorted(kinds.items()))}


def _spread(rows: Sequence[Row]) -> Row:
    words = words_in(rows)
    low, middle, high = (float(value) for value in np.percentile(words, (5, 50, 95)))
    return {"n": len(words), "p5": low, "median": middle, "p95": high, "most": max(words)}


def _dropped_rows(dropped: Sequence[Dropped], unusable: Sequence[Row], settings: BuildSettings) -> list[Row]:
    found = [
        {
            "place": one.prompt.place,
            "reason": one.reason,
            "detail": one.detail,
            "rows": one.prompt.n_rows,
            "prompt": plain(one.prompt.prompt) or "\n".join(one.prompt.texts),
        }
        for one in dropped
    ]
    return found + [{**one, "detail": "", "rows": 1, "prompt": None} for one in unusable]


def _write(out: Path, files: Mapping[str, Sequence[Row]], dropped: Sequence[Row], summary: Row) -> None:
    """Write all files; the summary goes first and comes last, so that it never stands beside files of another build."""
    (out / SUMMARY).unlink(missing_ok=True)
    for name in FILES:
        if name not in files:
            (out / f"{name}.jsonl").unlink(missing_ok=True)
    for name, rows in files.items():
        write_rows(out / f"{name}.jsonl", rows)
    write_rows(out / DROPPED, dropped)
    write_atomic(out / CARD, card_of(summary))
    write_json(out / SUMMARY, summary)
