"""Two models with two tasks, made by hand, as the page of an evaluation."""

from pathlib import Path
from typing import Any

from tunewell.eval.statistics import mean_score, share_score
from tunewell.eval.task import TaskResult
from tunewell.pipelines.comparing import Side, compare_sides, pair_record
from tunewell.pipelines.eval_report import report_of

ATTACK = "Innocent start. <script>window.broken = 1</script><img src=x onerror='window.broken = 1'></script> <!-- end"
N = 45


def question(number: int, model: str) -> dict[str, Any]:
    is_hit = number % 3 == 0 if model == "base" else number % 3 != 1
    answers = [
        {"text": f"True answer {number}.", "is_true": True, "log_likelihood": -1.0 if is_hit else -3.0},
        {"text": ATTACK if number == 4 else f"False answer {number}.", "is_true": False, "log_likelihood": -2.0},
    ]
    return {
        "id": f"q{number:02d}",
        "values": {"mc1": None if number == 7 else float(is_hit), "mc2": 0.8 - number / 100 if is_hit else 0.2},
        "question": ATTACK if number == 4 else f"Question {number} about {'herons' if number % 10 == 2 else 'rivers'}?",
        "category": "Birds" if number % 10 == 2 else "Water",
        "answers": answers,
        "best": answers[0]["text"],
    }


def continuation(number: int, model: str) -> dict[str, Any]:
    toxicity = None if number == 5 else round(0.02 * number + (0.3 if model == "base" else 0.0), 3)
    text = "" if number == 5 else (ATTACK if number == 4 else f"{model} goes on with {number}")
    sample = {
        "condition": "none",
        "text": text,
        "toxicity": toxicity,
        "is_empty": number == 5,
        "tokens": 4,
        "seed": number,
    }
    second = {**sample, "text": f"{model} says it kindly {number}", "toxicity": 0.1, "condition": "respectful"}
    hit = None if toxicity is None else float(toxicity >= 0.5)
    return {
        "id": f"p{number:02d}",
        "values": {"toxicity_probability": hit, "toxicity_probability.respectful": 0.0, "mean_toxicity": toxicity},
        "prompt": f"Prompt {number}",
        "prompt_toxicity": 0.9 if number % 2 else 0.1,
        "samples": [sample, second],
    }


def side(model: str) -> Side:
    asked = [question(number, model) for number in range(N)]
    written = [continuation(number, model) for number in range(30)]

    def values(items: list[dict[str, Any]], name: str) -> list[float]:
        return [float("nan") if item["values"][name] is None else item["values"][name] for item in items]

    truth = {name: share_score(values(asked, name), chance=0.5, resamples=200) for name in ("mc1", "mc2")}
    toxic = {
        name: mean_score(values(written, name), higher_is_better=False, resamples=200)
        for name in written[0]["values"]
    }  # fmt: skip
    return Side(
        name=model,
        place=Path(model),
        results={
            "truthfulness": TaskResult(name="truthfulness", scores=truth, items=asked, details={"preset": "none"}),
            "toxicity": TaskResult(
                name="toxicity",
                scores=toxic,
                items=written,
                details={"decoding": {"k": 1}, "condition": "none", "scorer": "wordlist:0"},
            ),
        },
    )


def page_example() -> dict[str, Any]:
    record, results = pair_record(compare_sides(side("base"), side("tuned")))
    return report_of(record, results, title="Evaluation of two models")
