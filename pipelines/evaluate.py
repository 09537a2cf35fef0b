"""The evaluation stage: truthfulness, toxicity, perplexity and reward of base, SFT and PPO on held-out rows."""

import itertools
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..toolkit.errors import DataError
from ..toolkit.files import write_json
from ..toolkit.mitigations.settings import OFF, MitigationSettings
from ..toolkit.settings.base import BaseSettings
from ..toolkit.stage import Artifacts, Figure, Outcome
from .console import Console
from .examination import EvalSettings, Examination

if TYPE_CHECKING:
    from ..eval.task import TaskResult

# The figure of each task that stands for it in run.json's `task.model`.
HEADLINES = {"truthfulness": "mc1", "toxicity": "toxicity_probability", "perplexity": "perplexity", "reward": "reward"}


def run_eval(
    settings: EvalSettings,
    base: BaseSettings,
    seed: int,
    questions: Path | None,
    console: Console,
    before: Artifacts,
    folder: Path,
    mitigations: MitigationSettings = OFF,
) -> Outcome:
    """Ask every model every task, compare the models pair by pair, and keep every answer.

    Raises:
        DataError: there are no sets to evaluate on.
    """
    from ..eval.task import write_result
    from ..toolkit.model.loading import load_base
    from ..toolkit.model.stack import ModelStack
    from .at_decoding import erasing
    from .gated_eval import measure_gate_of

    if before.data is None:
        raise DataError("evaluation needs the held-out sets: put `filter` before `eval` in the recipe's stages")
    stack = ModelStack(*load_base(before.base, base))
    adapters = {"sft": before.sft, "ppo": before.policy, "reward": before.reward}
    for name, path in adapters.items():
        if path is not None:
            stack.load(name, path)
    examination = Examination(settings, stack, before.data, seed, questions, folder)
    tasks, missing = examination.tasks()
    treated = erasing(mitigations, stack, before.data, seed, folder)
    gates: dict[str, Figure] = {}
    gate_warnings: list[str] = []
    measured: dict[str, dict[str, TaskResult]] = {}
    for model in ["base", *(name for name in ("sft", "ppo") if adapters[name] is not None)]:
        measured[model] = {}
        for task, ask in tasks.items():
            adapter = None if model == "base" else model
            with console.bar(f"{model}: {task}") as advance, treated(adapter):
                measured[model][task] = ask(adapter, advance)
            write_result(measured[model][task], folder / model / f"{task}.json")
        if mitigations.control.strength and model != "base":
            with console.bar(f"{model}: gate") as advance, treated(model):
                figures, told = measure_gate_of(
                    mitigations.control, stack, model, examination.talk(), examination.scorer, data=before.data,
                    seed=seed, max_new_tokens=settings.max_new_tokens, folder=folder, advance=advance,
                )  # fmt: skip
            gates |= figures
            gate_warnings += told
    write_json(folder / "not_measured.json", missing)
    write_json(folder / "comparisons.json", _comparisons(measured, seed))
    warnings = [f"{entry['what']} not measured: {entry['reason']}" for entry in missing]
    if examination.too_long:
        warnings.append(f"{examination.too_long} held-out prompts are too long for the window and were left out.")
    return Outcome(
        artifacts=before,
        results=_results(measured) | gates,
        rows={task: len(result.items) for task, result in measured["base"].items()}
        | {"held_out_prompts_too_long": examination.too_long},
        warnings=(*warnings, *gate_warnings),
    )


def _comparisons(measured: dict[str, dict[str, "TaskResult"]], seed: int) -> list[dict[str, Any]]:
    """Paired differences of every figure from each model to the next, and from the first to the last.

    The p-values of a pair's headlines are adjusted together; perplexity has no value per item, its loss has.
    """
    from ..eval.compare import compare, holm_adjusted

    models = list(measured)
    steps = list(itertools.pairwise(models))
    if len(models) > 2:
        steps.append((models[0], models[-1]))
    heads = set((HEADLINES | {"perplexity": "nll"}).items())
    found = []
    for first, second in steps:
        rows = [row for task in measured[first]
                for row in compare(measured[first][task], measured[second][task], seed=seed)]  # fmt: skip
        adjusted = iter(holm_adjusted([row for row in rows if (row.task, row.metric) in heads]))
        found += [
            {"from": first, "to": second} | (next(adjusted) if (row.task, row.metric) in heads else row).as_json()
            for row in rows
        ]
    return found


def _results(measured: dict[str, dict[str, "TaskResult"]]) -> dict[str, Figure]:
    """The headline of each task as `task.model`, every other figure as `task.figure.model`."""
    results: dict[str, Figure] = {}
    for model, tasks in measured.items():
        for task, result in tasks.items():
            for figure, score in result.scores.items():
                name = f"{task}.{model}" if figure == HEADLINES[task] else f"{task}.{figure}.{model}"
                results[name] = score.as_json()
    if "ppo" in measured and "reward" in measured["ppo"]:
        results["ppo.reward.before"] = measured["sft"]["reward"].scores["reward"].as_json()
        results["ppo.reward.after"] = measured["ppo"]["reward"].scores["reward"].as_json()
        results["ppo.kl"] = measured["ppo"]["reward"].scores["kl"].as_json()
    return results
