"""The experiment of PPO's coefficients: runs that differ in one of them alone, each asked the same held-out rows."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..toolkit.errors import DataError
from ..toolkit.files import read_json, write_json
from ..toolkit.settings.base import BaseSettings
from ..toolkit.settings.reading import TrainerBlock, setting
from ..toolkit.stage import Artifacts, Figure, Outcome
from .console import Console
from .examination import EvalSettings, Examination
from .ppo import PpoSettings, ppo_log, run_ppo

if TYPE_CHECKING:
    from ..eval.task import TaskResult

FIGURES = {
    "reward": ("reward", "reward"),
    "kl": ("reward", "kl"),
    "ended": ("reward", "ended"),
    "tokens": ("reward", "tokens"),
    "toxicity": ("toxicity", "toxicity_probability"),
    "truthfulness": ("truthfulness", "mc1"),
    "perplexity": ("perplexity", "perplexity"),
}
"""What is measured of every arm: the name in the results, the task, and its figure."""
START = "sft"


@dataclass(frozen=True, kw_only=True)
class SweepSettings:
    """PPO again and again, from one SFT model against one reward model; what is not named here is as in `ppo`."""

    kl_coefs: tuple[float, ...] = setting((0.0, 0.05, 0.2, 1.0), low=0, unit="per nat")
    """One run for each of these KL coefficients, without pretraining gradients."""
    ptx_coefs: tuple[float, ...] = setting((), low=0)
    """One run for each of these coefficients of the pretraining gradients, with the KL coefficient of `ppo`."""

    def faults(self) -> list[str]:
        """Arms that are missing or stand twice."""
        found = []
        if len(self.arms(TrainerBlock())) < 2:
            found.append("kl_coefs, ptx_coefs: got fewer than two runs in all, wanted some to compare")
        for name in ("kl_coefs", "ptx_coefs"):
            given = getattr(self, name)
            if len(set(given)) < len(given):
                found.append(f"{name}: got {list(given)}, wanted each coefficient once")
        return found

    def arms(self, trainer: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """The options of every run by its name."""
        without = {f"kl {kl:g}": {"kl_coef": kl, "ptx_coef": 0.0} for kl in self.kl_coefs}
        mixed = {f"ptx {ptx:g}": {"kl_coef": trainer.get("kl_coef", 0.02), "ptx_coef": ptx} for ptx in self.ptx_coefs}
        return without | mixed


def run_sweep(
    settings: SweepSettings,
    ppo: PpoSettings,
    asked: EvalSettings,
    base: BaseSettings,
    seed: int,
    console: Console,
    before: Artifacts,
    folder: Path,
) -> Outcome:
    """Train and measure every arm, beside the SFT model that all start from; a run that was stopped trains the rest.

    Raises:
        DataError: a stage before is missing.
    """
    if before.data is None or before.sft is None or before.reward is None:
        raise DataError("a sweep needs the sets, SFT and reward: put filter, sft, reward before it in the stages")
    arms = settings.arms(ppo.trainer)
    for name, options in arms.items():
        place = folder / "arms" / name.replace(" ", "-")
        if (place / "log.json").is_file() and (place / "policy").is_dir():
            continue
        console.say(f"  {name}")
        changed = replace(ppo, trainer=TrainerBlock(dict(ppo.trainer) | options))
        run_ppo(changed, base, seed, console, before, place)
    measured = _measure(arms, asked, base, seed, console, before, folder)
    table = {
        name: {arm: tasks[task].scores[figure].as_json() for arm, tasks in measured.items()}
        for name, (task, figure) in FIGURES.items()
        if task in measured[START] and figure in measured[START][task].scores
    }
    logs = {
        name: [
            {key: entry[key] for key in ("step", "objective/score", "objective/kl")}
            for entry in ppo_log(folder / "arms" / name.replace(" ", "-"))
            if "objective/kl" in entry
        ]
        for name in arms
    }
    write_json(folder / "sweep.json", {"arms": arms, "figures": table, "logs": logs})
    for line in _lines(table):
        console.say(line)
    results: dict[str, Figure] = {
        f"sweep.{name}.{arm}": {part: figure[part] for part in ("value", "low", "high", "n")}
        for name, row in table.items()
        for arm, figure in row.items()
        if figure["value"] is not None
    }
    return Outcome(artifacts=before, results=results, rows={"arms": len(arms)}, warnings=tuple(_signs(arms, folder)))


def _signs(arms: Iterable[str], folder: Path) -> Iterator[str]:
    """The signs of failure that each arm showed."""
    from ..toolkit.ppo.signs import signs_by_step

    for arm in arms:
        for step, sign in signs_by_step(ppo_log(folder / "arms" / arm.replace(" ", "-"))):
            yield f"Sweep, {arm}, iteration {step}: {sign.text}"


def _measure(
    arms: Mapping[str, Mapping[str, Any]],
    asked: EvalSettings,
    base: BaseSettings,
    seed: int,
    console: Console,
    before: Artifacts,
    folder: Path,
) -> dict[str, dict[str, "TaskResult"]]:
    """Every task asked of the SFT model and of the end of every arm."""
    from ..eval.task import write_result
    from ..toolkit.model.loading import load_base
    from ..toolkit.model.stack import ModelStack

    stack = ModelStack(*load_base(before.base, base))
    stack.load("sft", before.sft or Path())
    stack.load("reward", before.reward or Path())
    tasks, _ = Examination(asked, stack, before.data or Path(), seed, None, folder).tasks()
    measured: dict[str, dict[str, TaskResult]] = {}
    for arm in (START, *arms):
        if arm != START:
            stack.load("ppo", folder / "arms" / arm.replace(" ", "-") / "policy")
        measured[arm] = {}
        for task, ask in tasks.items():
            with console.bar(f"{arm}: {task}") as advance:
                measured[arm][task] = ask("sft" if arm == START else "ppo", advance)
            write_result(measured[arm][task], folder / arm.replace(" ", "-") / f"{task}.json")
        if arm != START:
            stack.delete("ppo")
    return measured


def sweep_figures(folder: Path) -> dict[str, Any]:
    """What a finished sweep wrote."""
    found: dict[str, Any] = read_json(folder / "sweep.json")
    return found


def _lines(table: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> list[str]:
    """The table in words, one line an arm."""
    lines = [f"  {'':<10}" + "".join(f"{name:>24}" for name in table)]
    for arm in next(iter(table.values())):
        lines.append(f"  {arm:<10}" + "".join(f"{_cell(row[arm]):>24}" for row in table.values()))
    return lines


def _cell(figure: Mapping[str, Any]) -> str:
    """A value with its interval; what could not be measured is named so."""
    if figure["value"] is None:
        return "not measured"
    interval = "" if figure["low"] is None else f" [{figure['low']:.3f}, {figure['high']:.3f}]"
    return f"{figure['value']:.3f}{interval}"
