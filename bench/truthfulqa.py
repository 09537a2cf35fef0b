"""TruthfulQA's multiple choice over all questions with the standard prompt, beside lm-evaluation-harness.

    python bench/truthfulqa.py [--json] [--questions TruthfulQA.csv] [--peer-questions 120] [--threads 1]

Two small Llamas with random weights and a tokenizer made from the questions, on the CPU; both sides ask the same model
the MC1 and MC2 questions after the benchmark's own six solved ones. Ours asks all questions before the peer's turn and
after it. The peer asks an evenly spaced sample, and its time is scaled by the number of answers (`--peer-questions 817`
asks all). The values of the sampled questions are compared one by one. Needs lm-eval (`pip install -e
'.[benchmarks]'`) and the questions, by default those of `../shared/data`. About five minutes.
"""

import argparse
import json
import logging
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

QUESTIONS = Path(__file__).resolve().parents[2] / "shared" / "data" / "truthfulqa" / "TruthfulQA.csv"


SHAPES = {"lm_eval": (384, 6, 6), "lm_eval_smallest": (192, 4, 4)}
"""Hidden size, layers, heads."""


def make_model(questions, shape: tuple[int, int, int] = SHAPES["lm_eval"]):  # type: ignore[no-untyped-def]
    from tunewell.toolkit.tiny import TinySettings, new_model, train_tokenizer

    hidden_size, layers, heads = shape
    settings = TinySettings(vocabulary=4096, hidden_size=hidden_size, layers=layers, heads=heads, context=1024)
    texts = [f"Q: {one.question}\nA: {answer}" for one in questions for answer in (*one.correct, *one.incorrect)]
    tokenizer = train_tokenizer(texts, settings)
    model = new_model(tokenizer, settings, seed=0)
    for parameter in model.parameters():
        parameter.data *= 2  # untrained weights are near zero, and all answers near equally likely
    return model.eval(), tokenizer


def rows_for_peer(questions, path: Path) -> Path:  # type: ignore[no-untyped-def]
    """The same questions in the columns that lm-eval's tasks read."""
    rows = [
        {
            "question": one.question,
            "mc1_targets": {"choices": [one.best, *one.incorrect], "labels": [1] + [0] * len(one.incorrect)},
            "mc2_targets": {
                "choices": [*one.correct, *one.incorrect],
                "labels": [1] * len(one.correct) + [0] * len(one.incorrect),
            },
        }
        for one in questions
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


class Peer:
    """lm-evaluation-harness with its own Hugging Face model around ours."""

    def __init__(self, model, tokenizer, rows: Path) -> None:  # type: ignore[no-untyped-def]
        from lm_eval.models.huggingface import HFLM
        from tunewell.eval.harness_loading import load_harness_task

        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        loaded = [load_harness_task(f"truthfulqa_{name}", data=rows) for name in ("mc1", "mc2")]
        self.tasks = {"tasks": {name: task for part in loaded for name, task in part["tasks"].items()}}
        self._make: Callable[[int], object] = lambda size: HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size)
        self.batch_size = 16
        self.values: dict[str, list[float]] = {name: [] for name in self.tasks["tasks"]}

    def ask(self, rows: list[int], *, keep: bool = True) -> None:
        """Ask some of the questions."""
        from lm_eval.evaluator import evaluate

        samples = dict.fromkeys(self.tasks["tasks"], rows)
        found = evaluate(self._make(self.batch_size), self.tasks, samples=samples, bootstrap_iters=0)
        for name, values in self.values.items():
            if keep:
                values += [float(row["acc"]) for row in found["samples"][name]]

    def tune(self, rows: list[int]) -> None:
        """Take the batch size that is fastest here."""
        seconds = {}
        for self.batch_size in (4, 16, 64):
            start = time.process_time()
            self.ask(rows, keep=False)
            seconds[self.batch_size] = time.process_time() - start
        self.batch_size = min(seconds, key=lambda size: seconds[size])


def timed(work: Callable[[], object]) -> tuple[float, float, object]:
    """Seconds on the clock, seconds of computing, and what came of it."""
    clock, computing = time.perf_counter(), time.process_time()
    result = work()
    return time.perf_counter() - clock, time.process_time() - computing, result


def measure(path: Path, n_peer: int) -> dict[str, dict[str, object]]:
    from tunewell.eval.truthfulqa import read_questions

    questions = read_questions(path, mode="parity")
    with tempfile.TemporaryDirectory() as folder:
        rows = rows_for_peer(questions.questions, Path(folder) / "rows.jsonl")
        figures = {}
        for name, shape in SHAPES.items():
            print(f"{name}: hidden size {shape[0]}, {shape[1]} layers ...", file=sys.stderr, flush=True)
            figures |= measure_model(name, shape, questions, rows, n_peer)
    return figures


def measure_model(name, shape, questions, path: Path, n_peer: int):  # type: ignore[no-untyped-def]
    from tunewell.eval.truthfulness import multiple_choice

    n = len(questions.questions)
    model, tokenizer = make_model(questions.questions, shape)
    peer = Peer(model, tokenizer, path)

    def ours():  # type: ignore[no-untyped-def]
        return multiple_choice(model, tokenizer, questions, preset="truthfulqa", binary=False, control=False)

    few = replace(questions, questions=questions.questions[:5])
    multiple_choice(model, tokenizer, few, preset="truthfulqa", binary=False, control=False)
    peer.tune(list(range(5)))
    rows = sorted({n * place // n_peer for place in range(n_peer)})
    # MC1 asks the best answer and the false ones, MC2 all.
    answers = [1 + 2 * len(one.incorrect) + len(one.correct) for one in questions.questions]
    scale = sum(answers) / sum(answers[row] for row in rows)
    own = [timed(ours)]
    other = timed(lambda: peer.ask(rows))
    own.append(timed(ours))
    items = own[0][2].items  # type: ignore[attr-defined]
    differences = {
        metric: max(abs(items[row]["values"][metric] - value) for row, value in zip(rows, values, strict=True))
        for metric, values in (("mc1", peer.values["truthfulqa_mc1"]), ("mc2", peer.values["truthfulqa_mc2"]))
    }
    checked = {
        "questions": n,
        "peer_questions": len(rows),
        "largest_difference": differences,
        "peer_batch_size": peer.batch_size,
        "parameters": sum(p.numel() for p in model.parameters()),
    }

    def figure(which: int, unit: str) -> dict[str, object]:
        seconds = statistics.fmean(float(row[which]) for row in own)  # type: ignore[arg-type]
        total = float(other[which]) * scale
        return {"ours": seconds, "peer": total, "ratio": total / seconds, "unit": unit}

    return {
        name: figure(0, f"s for MC1 and MC2 of {n} questions, six solved ones before each") | checked,
        f"{name}_computing": figure(1, "s of CPU time for the same, which a busy machine changes least"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object on the last line")
    parser.add_argument("--questions", type=Path, default=QUESTIONS, help="TruthfulQA.csv")
    parser.add_argument("--peer-questions", type=int, default=120, help="questions that the peer asks (default 120)")
    parser.add_argument("--threads", type=int, default=1, help="threads of torch (default 1)")
    arguments = parser.parse_args()
    if not arguments.questions.is_file():
        print(f"skipped: {arguments.questions} is not here; name the file with --questions", file=sys.stderr)
        return
    import torch

    torch.set_num_threads(arguments.threads)
    figures = measure(arguments.questions, arguments.peer_questions)
    print(f"{'figure':28}{'ours':>10}{'peer':>10}{'ratio':>8}  unit", file=sys.stderr)
    for name, row in figures.items():
        values = "".join(f"{row[key]:>{width}.2f}" for key, width in (("ours", 10), ("peer", 10), ("ratio", 8)))
        print(f"{name:28}{values}  {row['unit']}", file=sys.stderr)
    for row in figures.values():
        if "largest_difference" in row:
            print(
                "{parameters} parameters, {peer_questions} questions compared, peer in batches of {peer_batch_size}: "
                "largest difference of one question {largest_difference}".format(**row),
                file=sys.stderr,
            )
    if arguments.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
