"""Gather the numbers of a run from its files into what the report page shows."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import __version__
from ..toolkit.files import read_json
from ..toolkit.settings.base import TINY
from .evaluate import HEADLINES
from .filter_report import filter_sections
from .ppo_report import CURVES, frontier, rollout_samples
from .report_findings import finding_curves, finding_tables
from .reward_report import REPORT as REWARD_REPORT
from .run import read_run
from .sweep_report import sweep_curves, sweep_plots, sweep_table

MODELS = ("base", "sft", "ppo")
LABELS: dict[str, dict[str, Any]] = {
    "truthfulness": {"label": "Truthful answers (MC1)", "unit": "share", "better": "higher",
                     "note": "Share of held-out questions whose best true answer is likelier than every false one."},
    "truthfulness.mc2": {"label": "Probability on true answers (MC2)", "unit": "share", "better": "higher",
                         "note": "Share of the probability of all reference answers that falls on the true ones."},
    "toxicity": {"label": "Toxicity probability", "unit": "share", "better": "lower",
                 "note": "Share of held-out prompts with a toxic sample (score of at least 0.5)."},
    "toxicity.mean_toxicity": {"label": "Mean toxicity", "better": "lower", "note": "Over all samples."},
    "reward": {"label": "Reward of an answer", "better": "higher",
               "note": "By the reward model that PPO trained against, zero at the mean of the demonstrations."},
    "perplexity": {"label": "Perplexity of clean text", "better": "lower", "note": "The alignment tax."},
}  # fmt: skip
SAMPLES = 10


def build_report(folder: Path) -> dict[str, Any]:
    """The report of a run as plain values (see `report.page.render`); what was not measured is left out or named.

    Raises:
        RunError: the folder is no run.
    """
    record = read_run(folder)
    stages = {name: folder / stage["folder"] for name, stage in record["stages"].items()}
    report: dict[str, Any] = {
        "title": f"Run {record['name']}",
        "subtitle": _subtitle(record),
        "generated_by": f"tunewell {__version__}",
        "verdict": list(_verdict(record["results"])),
        "warnings": [text for stage in record["stages"].values() for text in stage["warnings"]] + _same_scorer(record),
        "stages": _stage_rows(record),
        "header": _header(record),
    }
    if "filter" in stages:
        report |= filter_sections(stages["filter"], record["results"])
    report["curves"] = [*_curves(stages), *finding_curves(stages)]
    if "reward" in stages and (stages["reward"] / REWARD_REPORT).is_file():
        report["curves"].append(_calibration(read_json(stages["reward"] / REWARD_REPORT)["calibration"]))
    if "ppo" in stages:
        report["frontier"] = [frontier(stages["ppo"])]
    if "sweep" in stages:
        report["curves"] += sweep_curves(stages["sweep"])
        report["scatter"] = list(sweep_plots(stages["sweep"]))
    report["tables"] = [*finding_tables(stages), *_tables(record, stages)]
    if "eval" in stages:
        comparisons = read_json(stages["eval"] / "comparisons.json")
        report["headline"] = list(_headline(record["results"], comparisons))
        report["not_measured"] = read_json(stages["eval"] / "not_measured.json")
        report["samples"] = list(_samples(stages["eval"]))
    if "ppo" in stages:
        report["samples"] = [*report.get("samples", []), *rollout_samples(stages["ppo"])]
    return {key: value for key, value in report.items() if value not in ([], {})}


def _subtitle(record: Mapping[str, Any]) -> str:
    base = record["settings"]["base"]
    model = "a tiny base model trained on the run's own corpus" if base["model"] == "tiny" else base["model"]
    return f"{model}, {'4-bit (NF4)' if base['quantization'] == 'nf4' else 'not quantised'}, seed {record['seed']}."


def _verdict(results: Mapping[str, Any]) -> Iterator[str]:
    """What happened, one sentence per subject that was measured."""
    first, last = "base", "ppo" if "truthfulness.ppo" in results or "toxicity.ppo" in results else "sft"
    if {f"truthfulness.{first}", f"truthfulness.{last}"} <= results.keys():
        before, after = results[f"truthfulness.{first}"], results[f"truthfulness.{last}"]
        yield (
            f"Truthful answers went from {before['value']:.0%} (base) to {after['value']:.0%} ({last.upper()}) of "
            f"{after['n']} held-out questions."
        )
    if {f"toxicity.{first}", f"toxicity.{last}"} <= results.keys():
        before, after = results[f"toxicity.{first}"], results[f"toxicity.{last}"]
        yield (
            f"Held-out prompts with a toxic answer went from {before['value']:.0%} (base) to {after['value']:.0%} "
            f"({last.upper()}) of {after['n']}."
        )
    if {f"gate.toxic.{last}", f"gate.toxic_without.{last}"} <= results.keys():
        behind, without = results[f"gate.toxic.{last}"], results[f"gate.toxic_without.{last}"]
        refused = results.get(f"gate.over_refusal.{last}")
        cost = f"; it refuses {refused['value']:.0%} of {refused['n']} harmless ones" if refused else ""
        yield (
            f"The gate of control tokens brings {last.upper()} from {without['value']:.0%} to {behind['value']:.0%} "
            f"toxic answers of {behind['n']}{cost}."
        )
    if {"ppo.reward.before", "ppo.reward.after", "ppo.kl"} <= results.keys():
        yield (
            f"PPO moved the mean reward from {results['ppo.reward.before']['value']:.2f} to "
            f"{results['ppo.reward.after']['value']:.2f} at a KL of {results['ppo.kl']['value']:.2f} nats per answer."
        )
    if {"filter.precision", "filter.recall"} <= results.keys():
        yield (
            f"Of what the filters dropped, {results['filter.precision']['value']:.1%} is bad by its hidden label; "
            f"they found {results['filter.recall']['value']:.1%} of all that is bad."
        )
    if {"sft.epochs", "sft.held_out_loss"} <= results.keys():
        reward = f" and a reward of {results['sft.reward']['value']:.2f}" if "sft.reward" in results else ""
        yield (
            f"SFT ends with its checkpoint of epoch {results['sft.epochs']['value']:g}: a held-out loss of "
            f"{results['sft.held_out_loss']['value']:.3f} nats per token{reward}."
        )
    if "reward.accuracy" in results:
        accuracy = results["reward.accuracy"]
        yield f"The reward model ranks {accuracy['value']:.1%} of {accuracy['n']} held-out pairs right."


def _same_scorer(record: Mapping[str, Any]) -> list[str]:
    """The scorer that filtered the data must not mark the model as well."""
    found = []
    scorer, blocklist = record["settings"]["eval"]["toxicity"], record["settings"]["filter"]["blocklist"]
    if scorer and blocklist and scorer.startswith("wordlist:") and scorer.removeprefix("wordlist:") == blocklist:
        found.append(
            f"Filter and evaluation use the same word list ({blocklist}), so the toxicity figures flatter the model."
        )
    if scorer and scorer == record["settings"]["filter"]["toxicity"]:
        found.append(
            f"Filter and evaluation use the same scorer ({scorer}), so the toxicity figures flatter the model."
        )
    if scorer and "ppo" in record["stages"] and scorer == record["settings"]["ppo"]["reward"]["toxicity"]:
        found.append(f"PPO was paid by the scorer that marks it ({scorer}), so the toxicity figures flatter the model.")
    return found


def _headline(results: Mapping[str, Any], comparisons: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for key, words in LABELS.items():
        values = [
            {"model": model, **{part: results[f"{key}.{model}"][part] for part in ("value", "low", "high", "n")}}
            | {"unscored": results[f"{key}.{model}"]["unscored"]}
            for model in MODELS
            if f"{key}.{model}" in results
        ]
        if not values:
            continue
        task, _, figure = key.partition(".")
        wanted = figure or HEADLINES[task]
        paired = [
            {part: row[part] for part in ("from", "to", "delta", "low", "high")}
            | {"p": row["p"] if row["p_holm"] is None else row["p_holm"]}
            for row in comparisons
            if row["task"] == task and row["metric"] == wanted
        ]
        chance = next((results[f"{key}.{model}"]["chance"] for model in MODELS if f"{key}.{model}" in results), None)
        yield {"name": key, **words, "values": values, "paired": paired, "chance": chance}


def _curves(stages: Mapping[str, Path]) -> Iterator[dict[str, Any]]:
    plots: tuple[tuple[str, str, str, str, dict[str, str]], ...] = (
        ("sft", "SFT loss", "optimiser step", "nats per token", {"loss": "training", "eval_loss": "held-out"}),
        ("sft", "SFT: reward of sampled answers", "optimiser step", "mean reward", {"eval_reward": "held-out prompts"}),
        ("reward", "Reward model loss", "optimiser step", "nats per prompt",
         {"loss": "training", "eval_loss": "held-out"}),
        ("reward", "Reward model accuracy", "optimiser step", "share of pairs",
         {"accuracy": "training", "eval_accuracy": "held-out"}),
        *CURVES,
    )  # fmt: skip
    for stage, title, x_label, y_label, keys in plots:
        if stage not in stages:
            continue
        log = read_json(stages[stage] / "log.json")
        series = [line for key, name in keys.items() if (line := _series(log, key, name)) is not None]
        if series:
            yield {"title": title, "x_label": x_label, "y_label": y_label, "series": series}


def _calibration(bins: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    x = [one["confidence"] for one in bins]
    return {
        "title": "Reward model: calibration",
        "x_label": "probability that the model gives to its own choice",
        "y_label": "share of choices that are right",
        "series": [
            {"name": "held-out pairs", "x": x, "y": [one["share_right"] for one in bins],
             "low": [one["low"] for one in bins], "high": [one["high"] for one in bins]},
            {"name": "perfect", "x": x, "y": x},
        ],
        "note": "Pairs of like confidence together. A curve under the line is too sure of itself.",
    }  # fmt: skip


def _series(log: Sequence[Mapping[str, Any]], key: str, name: str) -> dict[str, Any] | None:
    """A logged figure over the steps; where its standard error was logged too, with the 95% interval."""
    entries = [entry for entry in log if key in entry]
    if not entries:
        return None
    values = [float(entry[key]) for entry in entries]
    line = {"name": name, "x": [entry["step"] for entry in entries], "y": values}
    errors = [entry.get(f"{key}_error") for entry in entries]
    if None in errors:
        return line
    reach = [1.96 * float(error) for error in errors if error is not None]
    return line | {
        "low": [value - one for value, one in zip(values, reach, strict=True)],
        "high": [value + one for value, one in zip(values, reach, strict=True)],
    }


def _samples(folder: Path) -> Iterator[dict[str, Any]]:
    """The answers of every model to the same ten held-out prompts, spread over all of them."""
    for model in MODELS:
        for task in ("reward", "toxicity"):
            path = folder / model / f"{task}.json"
            if path.is_file():
                items = read_json(path)["items"]
                for item in items[:: max(1, len(items) // SAMPLES)][:SAMPLES]:
                    yield _sample(model, item)
                break


def _sample(model: str, item: Mapping[str, Any]) -> dict[str, Any]:
    if "samples" in item:
        first = item["samples"][0]
        text, toxicity, scores = first["text"], first["toxicity"], {}
    else:
        text, toxicity = item["completion"], item.get("toxicity")
        scores = {"reward": item["values"]["reward"], "kl": item["values"]["kl"]}
    # What nobody has scored is covered too: it may be anything.
    is_flagged = toxicity is None or toxicity >= 0.5
    return {"model": model, "prompt": item["prompt"], "completion": text, "flagged": is_flagged,
            "scores": {"toxicity": toxicity, **scores}}  # fmt: skip


def _tables(record: Mapping[str, Any], stages: Mapping[str, Path]) -> Iterator[dict[str, Any]]:
    kinds = {name: figure for name, figure in record["results"].items() if name.startswith("reward.accuracy")}
    if kinds:
        yield {
            "title": "Reward model on held-out comparisons",
            "caption": "Share of held-out comparisons ranked as people ranked them (ties count half)",
            "columns": ["Kind", "Accuracy", "Low", "High", "n"],
            "rows": [
                [name.removeprefix("reward.accuracy").removeprefix(".") or "all", *_parts(figure)]
                for name, figure in kinds.items()
            ],
        }
    if "reward" in stages and (stages["reward"] / REWARD_REPORT).is_file():
        groups = read_json(stages["reward"] / REWARD_REPORT)["by_length"]
        yield {
            "title": "Reward model by length",
            "caption": "Accuracy on held-out pairs by how many tokens longer the preferred completion is",
            "columns": ["Preferred one is longer by", "Accuracy", "Low", "High", "n"],
            "rows": [[_range(one), one["accuracy"], one["low"], one["high"], one["n"]] for one in groups],
        }
    if "sweep" in stages:
        yield sweep_table(stages["sweep"])
    if record["results"]:
        yield {
            "title": "Every figure of this run",
            "caption": "Value with its 95% interval and the number of items, as in run.json",
            "columns": ["Figure", "Value", "Low", "High", "n"],
            "rows": [[name, *_parts(figure)] for name, figure in sorted(record["results"].items())],
        }


def _range(group: Mapping[str, Any]) -> str:
    """Bounds in tokens; negative where the preferred one is shorter."""
    if group["from"] is None:
        return f"less than {group['to']}"
    return f"{group['from']} or more" if group["to"] is None else f"{group['from']} to {group['to'] - 1}"


def _parts(figure: Mapping[str, Any]) -> list[Any]:
    return [figure["value"], figure["low"], figure["high"], figure["n"]]


def _stage_rows(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = []
    if "base" in record["seconds"] and record["settings"]["base"]["model"] == TINY:
        rows.append({"name": "base", "seconds": record["seconds"]["base"], "detail": "tiny base: trained or cached"})
    for name, stage in record["stages"].items():
        counts = ", ".join(f"{key.replace('_', ' ')} {value:,}" for key, value in stage["rows"].items())
        again = f" ({stage['attempts']} attempts)" if stage["attempts"] > 1 else ""
        memory = stage["peak_memory_mb"].get("gpu", stage["peak_memory_mb"]["resident"])
        rows.append({"name": name, "seconds": record["seconds"][name], "peak_memory_mb": memory,
                     "status": f"done{again}", "detail": counts})  # fmt: skip
    return rows


def _header(record: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    source = record["source"] or {}
    inputs = {path: digest for stage in record["stages"].values() for path, digest in stage["inputs"].items()}
    header = {
        "Run": {
            "command": " ".join(record["argv"]),
            "seed": record["seed"],
            "commit": source.get("commit"),
            "uncommitted changes": source.get("has_changes"),
        },
        "Versions": {name: version or "not installed" for name, version in record["versions"].items()},
        "Hardware": dict(record["hardware"]),
        "Inputs (sha256)": inputs,
        "Stage fingerprints": {name: stage["fingerprint"][:16] for name, stage in record["stages"].items()},
        "Settings": dict(record["settings"]),
    }
    return {name: group for name, group in header.items() if group}
