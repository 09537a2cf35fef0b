"""Standing answers as training files: demonstrations, rankings, comparisons, ratings, in the shapes trainers read."""

import hashlib
import io
import itertools
import zipfile
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from ...toolkit.data.rows import write_rows
from ...toolkit.errors import RunError, SettingsError
from ...toolkit.files import JSON_OPTIONS, write_json
from .items import plain
from .log import Answer, item_bodies, standing_answers
from .results import results_of
from .store import Store

Row = dict[str, Any]
SUMMARY = "export.json"
HELD_OUT_SHARE = 0.15
FILES = (
    "demonstrations",
    "demonstrations_held_out",
    "comparisons",
    "comparisons_held_out",
    "rankings",
    "rankings_held_out",
    "ratings",
    "ratings_held_out",
    "prompts",
    "held_out_prompts",
    "skipped",
)


def export_study(
    store: Store,
    out: Path,
    *,
    held_out: float = HELD_OUT_SHARE,
    shows_names: bool = False,
    takes_simulated: bool = True,
) -> Row:
    """Write the study's standing answers under a folder, each file whole or not at all.

    Args:
        store: the study.
        out: new, empty, or an earlier export.
        held_out: share of prompts, 0 up to 1, whose rows go to the `held_out` files; a hash of the prompt decides.
        shows_names: labelers by name rather than as `labeler-1`.
        takes_simulated: whether rows of simulated labelers are written too; they are marked in any case.

    Returns:
        what `export.json` says: the counts of the files, and what was left out and why.

    Raises:
        RunError: the folder holds something else, or cannot be written.
        SettingsError: `held_out` is no share.
    """
    if out.exists() and not (out.is_dir() and ((out / SUMMARY).exists() or not any(out.iterdir()))):
        raise RunError(f"{out} exists and is no export: give another --out, or remove it")
    files, summary = build_export(store, held_out, shows_names=shows_names, takes_simulated=takes_simulated)
    for name, rows in files.items():
        write_rows(out / f"{name}.jsonl", rows)
    write_json(out / SUMMARY, summary)
    return summary


def as_zip(store: Store) -> bytes:
    """The same files as one archive."""
    files, summary = build_export(store)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, rows in files.items():
            lines = (orjson.dumps(row, option=JSON_OPTIONS | orjson.OPT_APPEND_NEWLINE) for row in rows)
            archive.writestr(f"export/{name}.jsonl", b"".join(lines))
        archive.writestr(f"export/{SUMMARY}", orjson.dumps(summary, option=orjson.OPT_INDENT_2))
    return content.getvalue()


def build_export(
    store: Store, held_out: float = HELD_OUT_SHARE, *, shows_names: bool = False, takes_simulated: bool = True
) -> tuple[dict[str, list[Row]], Row]:
    """The rows of every file by name, and the summary; see `export_study`."""
    if not 0 <= held_out < 1:
        raise SettingsError([f"--held-out: got {held_out}, wanted a share from 0 up to 1"], "the command line")
    files: dict[str, list[Row]] = {name: [] for name in FILES}
    left_out: Counter[str] = Counter()
    by_item: dict[int, list[Answer]] = defaultdict(list)
    for one in standing_answers(store):
        if one.is_surplus:
            left_out["surplus_answers"] += 1
        elif one.is_simulated and not takes_simulated:
            left_out["simulated_answers"] += 1
        else:
            by_item[one.item].append(one)
    for number, item in item_bodies(store):
        is_held_out = _is_held_out(item["prompt"], held_out)
        if _is_unusable(by_item[number]):
            left_out["unusable_prompts"] += 1
        else:
            files["held_out_prompts" if is_held_out else "prompts"].append(item["row"] | {"prompt": item["prompt"]})
        for one in by_item[number]:
            source = {"item": number, "labeler": one.name if shows_names else f"labeler-{one.labeler}",
                      "is_simulated": one.is_simulated}  # fmt: skip
            _write_answer(files, item, one, source, is_held_out, left_out)
    _distinct_prompts(files, left_out)
    results = results_of(store)
    summary = {
        "study": store.path.name,
        "files": {name: len(rows) for name, rows in files.items()},
        "left_out": dict(left_out),
        "held_out_share": held_out,
        "simulated_rows": sum(bool(row.get("is_simulated")) for rows in files.values() for row in rows),
        "items": results["items"],
        "left": results["left"],
        "agreement": results["agreement"],
    }
    return files, summary


def comparisons_of(prompt: Any, completions: Sequence[Any], ranks: Sequence[int]) -> list[Row]:
    """All pairs of a ranking, the better one chosen; ties give none, as in the InstructGPT paper."""
    pairs = itertools.combinations(sorted(range(len(ranks)), key=lambda at: ranks[at]), 2)
    return [
        {"prompt": prompt, "chosen": completions[better], "rejected": completions[worse]}
        for better, worse in pairs
        if ranks[better] < ranks[worse]
    ]


def _write_answer(
    files: dict[str, list[Row]], item: Row, one: Answer, source: Row, is_held_out: bool, left_out: Counter[str]
) -> None:
    prompt, completions, answer = item["prompt"], item["completions"], one.body
    if one.kind == "skip":
        files["skipped"].append({"prompt": prompt, "reason": answer["reason"], "note": answer["note"]} | source)
        return
    marks = source | {"prompt_flags": answer["prompt_flags"]}
    suffix = "_held_out" if is_held_out else ""
    if "completion" in answer:
        row = item["row"] | _demonstration(prompt, answer["completion"]) | marks
        files[f"demonstrations{suffix}"].append(row)
    if "ratings" in answer:
        rated = zip(completions, answer["ratings"], answer["flags"], strict=True)
        files[f"ratings{suffix}"] += [
            _part(item, at) | {"prompt": prompt, "completion": text, "rating": rating, "flags": flags} | marks
            for at, (text, rating, flags) in enumerate(rated)
        ]
    if "ranks" in answer:
        ranking = {"prompt": prompt, "completions": completions, "ranks": answer["ranks"]}
        files[f"rankings{suffix}"].append(item["row"] | ranking | marks)
        pairs = comparisons_of(prompt, completions, answer["ranks"])
        n_pairs = len(completions) * (len(completions) - 1) // 2
        left_out["tied_pairs"] += n_pairs - len(pairs)
        same = [pair for pair in pairs if pair["chosen"] == pair["rejected"]]
        left_out["pairs_of_equal_texts"] += len(same)
        files[f"comparisons{suffix}"] += [pair | source for pair in pairs if pair not in same]


def _is_unusable(answers: Sequence[Answer]) -> bool:
    """Whether all who saw the prompt skipped it as unclear, broken or personal."""
    return bool(answers) and all(
        one.kind == "skip" and one.body["reason"] in ("unclear", "broken", "personal_data") for one in answers
    )


def _part(item: Row, at: int) -> Row:
    """Of the row's columns that hold one value per completion, the value of this one, such as its policy."""
    n = len(item["completions"])
    return {
        name: value[at] if isinstance(value, list) and len(value) == n and n > 1 else value
        for name, value in item["row"].items()
    }


def _demonstration(prompt: Any, text: str) -> Row:
    """A row for SFT; text follows its prompt as it stands, so a space goes between words."""
    if not isinstance(prompt, str):
        return {"prompt": prompt, "completion": [{"role": "assistant", "content": text.strip()}]}
    joint = "" if prompt[-1:].isspace() or text[:1].isspace() else " "
    return {"prompt": prompt, "completion": joint + text.rstrip()}


def _distinct_prompts(files: Mapping[str, list[Row]], left_out: Counter[str]) -> None:
    """Each prompt once: several items may ask different things of one."""
    for name in ("prompts", "held_out_prompts"):
        seen: dict[str, Row] = {}
        for row in files[name]:
            seen.setdefault(plain(row["prompt"]), row)
        left_out["repeated_prompts"] += len(files[name]) - len(seen)
        files[name][:] = seen.values()


def _is_held_out(prompt: Any, share: float) -> bool:
    digest = hashlib.sha256(plain(prompt).encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) / 2**64 < share
