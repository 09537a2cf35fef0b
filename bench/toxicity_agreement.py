"""How toxicity scorers that need no download agree with the Perspective API on published completions.

    python bench/toxicity_agreement.py [--data ../shared/data] [--json]

Reads OpenAI's samples for RealToxicityPrompts (InstructGPT, 55 prompts × 12 models × 3 instructions), prints one row a
scorer, then the mean toxicity of every model under every instruction by the Perspective scores. The data are not
part of this repository; see docs/evaluation.md. About a minute.
"""

import argparse
import json
import tempfile
from pathlib import Path

from tunewell.pipelines.console import Console
from tunewell.pipelines.toxicity_agreement import Agreement, Columns, agreement
from tunewell.toolkit.data.rows import read_rows, write_rows
from tunewell.toolkit.toxicity.scorer import ToxicityScorer, WordlistToxicity
from tunewell.toolkit.toxicity.tfidf import TfidfToxicity

SAMPLES = "instructgpt/real_toxicity_samples-dev.csv"
WORDS = "real-toxicity-prompts/list_of_naughty_and_bad_words.txt"
PROMPTS = "real-toxicity-prompts/challenging_rtp.jsonl"
TWEETS = "hate-speech/labeled_data-dev.csv"
INSTRUCTIONS = ("basic prompt", "respectful prompt", "biased prompt")


def of_tweets(data: Path) -> ToxicityScorer:
    """Trained on tweets, hateful or offensive against neither."""
    rows = read_rows(data / TWEETS)
    return TfidfToxicity.train([row["tweet"] for row in rows], [row["class"] != "2" for row in rows])


def of_prompts(data: Path) -> ToxicityScorer:
    """Trained on the challenging prompts of RealToxicityPrompts, by their own scores."""
    rows = read_rows(data / PROMPTS)
    return TfidfToxicity.train([row["text"] for row in rows], [row["score"] > 0.75 for row in rows])


def halves(data: Path) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """The samples of every other prompt, and the rest."""
    rows = read_rows(data / SAMPLES)
    contexts = list(dict.fromkeys(row["context"] for row in rows))
    chosen = set(contexts[::2])
    return [row for row in rows if row["context"] in chosen], [row for row in rows if row["context"] not in chosen]


def measure(data: Path) -> dict[str, Agreement]:
    """Agreement by the name of the scorer."""
    console, columns = Console(is_quiet=True), Columns()
    samples = str(data / SAMPLES)
    train, test = halves(data)
    own = TfidfToxicity.train([row["sample"] for row in train], [float(row["toxicity"]) >= 0.5 for row in train])
    found = {
        "word list (378 entries)": agreement(WordlistToxicity.load(data / WORDS), samples, columns, console),
        "tfidf, 12,379 tweets": agreement(of_tweets(data), samples, columns, console),
        "tfidf, 1,196 challenging prompts": agreement(of_prompts(data), samples, columns, console),
    }
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder) / "test.jsonl", test)
        found["tfidf, the same models' samples for other prompts"] = agreement(
            own, str(Path(folder) / "test.jsonl"), columns, console
        )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path(__file__).resolve().parents[2] / "shared" / "data")
    parser.add_argument("--json", action="store_true", help="end with one JSON object on the last line")
    arguments = parser.parse_args()
    if not (arguments.data / SAMPLES).is_file():
        raise SystemExit(f"{arguments.data / SAMPLES} is not there: give the folder of the data with --data")
    found = measure(arguments.data)
    print("| scorer | n | rank correlation | AUC | Brier | threshold | precision | recall | cells |")
    print("|---|---|---|---|---|---|---|---|---|")
    for name, one in found.items():
        print(f"| {name} | {one.counts['used']:,} | " + " | ".join(_columns(one)) + " |")
    first = next(iter(found.values()))
    print("\n| model | " + " | ".join(INSTRUCTIONS) + " |\n|---|---|---|---|")
    cells = {(cell["model_type"], cell["prompt_type"]): cell["mean_reference"] for cell in first.cells}
    for model in dict.fromkeys(model for model, _ in cells):
        print(f"| {model} | " + " | ".join(f"{cells[model, one]:.3f}" for one in INSTRUCTIONS) + " |")
    if arguments.json:
        print(json.dumps({name: one.as_json() for name, one in found.items()}))


def _columns(one: Agreement) -> list[str]:
    figures = one.figures
    texts = []
    for name in ("spearman", "auc", "brier"):
        score = figures[name]
        texts.append(f"{score.value:.2f} [{score.low:.2f}, {score.high:.2f}]")
    texts.append("-" if one.threshold is None else f"{one.threshold:.2f}")
    for name in ("precision", "recall"):
        score = figures.get(name)
        texts.append(
            "-" if score is None or score.value is None else f"{score.value:.0%} [{score.low:.0%}, {score.high:.0%}]"
        )
    cells = figures["cells_spearman"].value
    return [*texts, "-" if cells is None else f"{cells:.2f}"]


if __name__ == "__main__":
    main()
