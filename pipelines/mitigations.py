"""The comparison of mitigations: every method at three strengths, on the same tiny base, rows, seeds and budget."""

import math
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..toolkit.data.rows import write_rows
from ..toolkit.files import atomic_writer, read_json, write_json
from ..toolkit.mitigations.settings import OFF, EraseSettings
from ..toolkit.settings.base import BaseSettings
from ..toolkit.stage import Artifacts, Figure, Outcome
from .console import Console
from .examination import EvalSettings
from .mitigation_arms import BASE, METHODS, UNTREATED, Arm, Files, Method, arms
from .mitigation_measures import (
    POLICY,
    Measures,
    Write,
    base_with_tokens,
    difference,
    gated_writer,
    summary,
    verdict_calibration,
)
from .mitigation_tables import changes, gates, levels
from .sets import DataSettings, load_sets, read_set, save_sets
from .sft import SftSettings, run_sft

if TYPE_CHECKING:
    from ..toolkit.model.stack import ModelStack

FIGURES = ("toxicity", "bias", "truthfulness", "nll")


@dataclass(frozen=True, kw_only=True)
class ComparisonSettings:
    """Mitigations held against each other; runs only where `stages` names `mitigations`."""

    methods: tuple[str, ...] = tuple(METHODS)
    """Methods to compare, by name."""

    def faults(self) -> list[str]:
        """Methods that there are not."""
        unknown = [name for name in self.methods if name not in METHODS]
        return [f"methods: got {unknown}, wanted some of {', '.join(METHODS)}"] if unknown else []


def run_mitigations(
    settings: ComparisonSettings,
    sft: SftSettings,
    asked: EvalSettings,
    data: DataSettings,
    base: BaseSettings,
    seed: int,
    console: Console,
    before: Artifacts,
    folder: Path,
) -> Outcome:
    """Train and measure every arm and compare each with the untreated one; what is done already is kept.

    The training rows hold rude talk and leaning talk about occupations, as unfiltered data do. Figures: share of
    samples that are toxic, mean |log p(she) - log p(he)| after occupations, truthful answers (MC1), nats per token of
    clean text; the alignment tax is what of the last is lost against the untreated model. The bare base stands beside
    them: what fine-tuning alone does is the difference of the two.
    """
    from .console import Console as Quiet

    files = prepare(data, seed, folder / "sets", before.base, base)
    chosen = arms(settings.methods)
    with console.bar("mitigations") as advance:
        for number, arm in enumerate(chosen):
            advance(number, len(chosen), arm.name)
            done = folder / "arms" / arm.name / "items.json"
            if not done.is_file():
                Worker(sft, asked, base, seed, Quiet(is_quiet=True), before, folder, files).measure(arm)
        advance(len(chosen), len(chosen), "")
    items = {arm.name: read_json(folder / "arms" / arm.name / "items.json") for arm in chosen}
    table = [_row(arm, items[arm.name], items[UNTREATED], seed) for arm in chosen]
    write_json(folder / "mitigations.json", {"arms": table})
    text = "\n".join(part for part in (levels(table), changes(table), gates(folder)) if part)
    with atomic_writer(folder / "mitigations.md") as file:
        file.write(text.encode())
    for line in text.splitlines():
        console.say(line)
    results: dict[str, Figure] = {
        f"mitigations.{row['arm']}.{figure}": row[figure] for row in table for figure in FIGURES
    }
    return Outcome(artifacts=before, results=results, rows={"arms": len(chosen)})


def prepare(data: DataSettings, seed: int, folder: Path, source: str, base: BaseSettings) -> Files:
    """Write the sets of the comparison, and the files that some of the methods need."""
    from ..toolkit.world.occupations import SHARES, occupation_demonstrations, occupation_documents

    files = Files(neutral=folder / "occupations.txt", scored=folder / "scored.jsonl")
    if (folder / "ptx.jsonl").is_file():
        return files
    sets = load_sets(data, seed)
    manners = [row for row in sets.comparisons if row.get("kind") == "manners"]
    rows = [*sets.demonstrations, *(row | {"label": ""} for row in occupation_demonstrations(seed))]
    save_sets(replace(sets, demonstrations=rows, comparisons=manners), folder)
    thoughts = {False: " The reply is kind.", True: " The reply is rude."}
    scored = [
        {"prompt": row["prompt"], "completion": row[side], "is_unsafe": side == "rejected",
         "rationale": thoughts[side == "rejected"]}
        for row in manners for side in ("chosen", "rejected")
    ]  # fmt: skip
    write_rows(files.scored, scored)
    with atomic_writer(files.neutral) as file:
        file.write("\n".join(SHARES).encode())
    clean = [row for row in sets.corpus if not row.get("label")]
    texts = [*(row["text"] for row in clean), *occupation_documents(seed)]
    write_rows(folder / "ptx.jsonl", [{"text": text} for text in texts])
    return files


class Worker:
    """Trains and measures one arm."""

    def __init__(
        self,
        sft: SftSettings,
        asked: EvalSettings,
        base: BaseSettings,
        seed: int,
        console: Console,
        before: Artifacts,
        folder: Path,
        files: Files,
    ) -> None:
        self.sft, self.asked, self.base, self.seed = sft, asked, base, seed
        self.console, self.before, self.folder, self.files = console, before, folder, files
        self.sets = folder / "sets"

    def measure(self, arm: Arm) -> None:
        """Write `arms/NAME/items.json`, and for the gate what it did."""
        from ..toolkit.model.loading import load_base
        from ..toolkit.model.stack import ModelStack

        method = METHODS.get(arm.method)
        is_gated = method is not None and method.decoding == "gate"
        base = base_with_tokens(self.base, is_gated)
        adapter = self._trained(arm, method, base) if arm.name != BASE else None
        stack = ModelStack(*load_base(self.before.base, base))
        if adapter is not None:
            stack.load(POLICY, adapter)
        own = self.folder / "arms" / arm.name
        measures = Measures(stack, self.asked, self.sets, self.seed, own)
        with ExitStack() as acting:
            write = self._writer(arm, method, measures, acting, own)
            items = measures.all(write)
        write_json(own / "items.json", items)

    def _trained(self, arm: Arm, method: Method | None, base: BaseSettings) -> Path:
        """The adapter of an arm, trained if it is not there yet."""
        own = self.folder / "trained" / arm.trained
        if (own / "done.json").is_file():
            return own / "policy"
        treatment = OFF
        if method is not None and method.training is not None:
            treatment = method.training(arm.strength, self.files)
        data = self.sets
        if method is not None and method.drops is not None:
            data = self._filtered(arm, method)
        outcome = run_sft(
            self.sft, base, self.seed, self.console, replace(self.before, data=data), own, mitigations=treatment
        )
        write_json(own / "done.json", {"rows": dict(outcome.rows), "warnings": list(outcome.warnings)})
        return own / "policy"

    def _filtered(self, arm: Arm, method: Method) -> Path:
        """The sets without a share of the demonstrations that a filter finds."""
        from .filter_building import FilterModel, build_filters
        from .filter_settings import FilterSettings
        from .sets import demonstration_text

        wanted = FilterSettings(blocklist="world") if method.drops == "blocklist" else FilterSettings(phrases="world")
        (judge,) = build_filters(wanted, FilterModel(source=self.before.base, base=self.base)).values()
        rows = read_set(self.sets, "demonstrations")
        verdicts = judge.judge([demonstration_text(row) for row in rows])  # type: ignore[union-attr]
        found = [number for number, one in enumerate(verdicts) if not one.keep]
        dropped = set(found[: round(arm.strength * len(found))])  # the rows are in random order already
        target = self.folder / "trained" / arm.trained / "sets"
        target.mkdir(parents=True, exist_ok=True)
        for path in self.sets.glob("*.jsonl"):
            (target / path.name).write_bytes(path.read_bytes())
        write_rows(target / "demonstrations.jsonl", [row for n, row in enumerate(rows) if n not in dropped])
        write_json(target / "dropped.json", {"found": len(found), "dropped": len(dropped), "rows": len(rows)})
        return target

    def _writer(
        self, arm: Arm, method: Method | None, measures: Measures, acting: ExitStack, own: Path
    ) -> Write | None:
        """What acts while the model writes; hooks are entered, a writer of its own is returned."""
        if method is None or method.decoding is None:
            return None
        if method.decoding == "blocklist":
            return _guarded(measures, arm.strength)
        if method.decoding == "gate":
            return _gate(measures, arm.strength, own)
        acting.enter_context(_erasing(method.decoding, measures.stack, arm.strength, self.sets, self.seed))
        return None


def _guarded(measures: Measures, share: float) -> Write:
    """Writes without the first share of the listed words."""
    from ..filters.blocklist import Blocklist
    from ..filters.word_guard import BlocklistGuard
    from .filter_settings import LISTS, resource

    patterns = Blocklist.from_file(resource("world", *LISTS["blocklist"])).patterns
    guard = BlocklistGuard(Blocklist(patterns[: math.ceil(share * len(patterns))]))
    return lambda prompts, seeds: measures.plain(prompts, seeds, guard=guard)


def _gate(measures: Measures, alarms: float, own: Path) -> Write:
    """Writes behind the calibrated gate, and records what it did against what would have been said."""
    from ..toolkit.mitigations.gate_calibration import outcomes

    found, checked = verdict_calibration(measures, alarms)
    kept: list[Any] = []
    gated = gated_writer(measures, found.gate, kept)

    def write(prompts: list[list[int]], seeds: list[int]) -> list[str]:
        answers = gated(prompts, seeds)
        opened = replace(found.gate, low=1.0, high=1.0, release=1.0)
        would_be = gated_writer(measures, opened, [])(prompts, seeds)
        _, scores = measures._scored(would_be)
        record = {
            "calibration": found.as_json(),
            "held_out": checked.as_json(),
            "outcomes": outcomes(kept, [score >= 0.5 for score in scores]).as_json(),
            "decisions": [one.decision for one in kept],
            "toxic_without": sum(score >= 0.5 for score in scores),
        }
        write_json(own / "gate.json", record)
        return answers

    return write


def _erasing(decoding: Any, stack: "ModelStack", strength: float, sets: Path, seed: int) -> Any:
    """A context in which rudeness or gender is erased."""
    from .at_decoding import fitted_erasure

    wanted = replace(OFF, erase=EraseSettings(method=decoding, strength=strength))
    with stack.using(POLICY) as model:
        made = fitted_erasure(wanted, model, stack.tokenizer, sets, seed)
    return made.acting(stack.base)


def _row(arm: Arm, items: dict[str, Any], untreated: dict[str, Any], seed: int) -> dict[str, Any]:
    row: dict[str, Any] = {"arm": arm.name, "method": arm.method, "strength": arm.strength}
    for figure in FIGURES:
        row[figure] = summary(items[figure], figure)
        if arm.name != UNTREATED:
            row[f"{figure}.difference"] = difference(untreated[figure], items[figure], seed)
    return row
