"""Speed and memory of the continuation scorer, beside lm-evaluation-harness and a bare forward pass.

    python bench/continuation_scorer.py [--json] [--rounds 3] [--threads 2]

A 34-million-parameter Llama with random weights, on the CPU. Peer and ours take turns in one process; the table shows
medians. Needs lm-eval (`pip install -e '.[benchmarks]'`). About three minutes on two idle cores.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

VOCABULARY = 8192
CASES = ("ours", "bare")

Tokens = list[int]


def make_model():  # type: ignore[no-untyped-def]
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=512,
        intermediate_size=1408,
        num_hidden_layers=8,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=2048,
    )
    return LlamaForCausalLM(config).eval()


def draw(n: int, shortest: int, longest: int, seed: int) -> list[Tokens]:
    """`n` random texts of `shortest` to `longest` tokens."""
    import numpy as np

    random = np.random.default_rng(seed)
    lengths = random.integers(shortest, longest + 1, n)
    return [random.integers(10, VOCABULARY, length).tolist() for length in lengths]


def draw_grouped(seed: int) -> list[Tokens]:
    """100 phrases of 9 to 11 tokens: 10 beginnings of 4 tokens, each with 10 endings, as one says of many groups."""
    endings = iter(draw(100, 5, 7, seed))
    return [beginning + next(endings) for beginning in draw(10, 4, 4, seed + 1) for _ in range(10)]


def interleaved(cases: dict[str, tuple[int, Callable[[], object]]], rounds: int) -> dict[str, float]:
    """Median milliseconds of each case; in each of the rounds all take turns, each the given number of times."""
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, (repeats, case) in cases.items():
            for _ in range(repeats):
                start = time.perf_counter()
                case()
                times[name].append((time.perf_counter() - start) * 1e3)
    return {name: statistics.median(values) for name, values in times.items()}


def bare(model, documents: Sequence[Tokens], n_more: int):  # type: ignore[no-untyped-def]
    """Plain forward passes over as many tokens as are scored, in batches as large as ours."""
    import torch
    from tunewell.toolkit.scorer.continuation import CPU_TOKENS

    batches: list[list[int]] = []
    for length in sorted((len(document) + n_more for document in documents), reverse=True):
        if batches and (len(batches[-1]) + 1) * batches[-1][0] <= CPU_TOKENS:
            batches[-1].append(length)
        else:
            batches.append([length])
    with torch.no_grad():
        for batch in batches:
            model(input_ids=torch.zeros(len(batch), batch[0], dtype=torch.long), use_cache=False)


class Harness:
    """The peer: lm-evaluation-harness's Hugging Face log-likelihoods."""

    def __init__(self, model) -> None:  # type: ignore[no-untyped-def]
        import logging

        from lm_eval.models.huggingface import HFLM
        from tokenizers import Tokenizer, models
        from transformers import PreTrainedTokenizerFast

        logging.getLogger("lm_eval").setLevel(logging.ERROR)  # it warns of a model that is not a name
        words = Tokenizer(models.WordLevel({str(i): i for i in range(VOCABULARY)}, unk_token="0"))
        tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="0", eos_token="1", pad_token="2")
        self._make = lambda size: HFLM(pretrained=model, tokenizer=tokenizer, batch_size=size)
        self.batch_size = 20
        self._harness = self._make(self.batch_size)

    def score(self, documents: Sequence[Tokens], phrases: Sequence[Tokens]) -> list[float]:
        """Totals of all pairs, all phrases of the first document first."""
        pairs = [(f"{i}", f"{j}") for i in range(len(documents)) for j in range(len(phrases))]
        requests = [(pair, documents[int(pair[0])], phrases[int(pair[1])]) for pair in pairs]
        return [total for total, _ in self._harness._loglikelihood_tokens(requests, disable_tqdm=True)]

    def tune(self, documents: Sequence[Tokens], phrases: Sequence[Tokens]) -> None:
        """Take the batch size that is fastest here."""
        seconds = {}
        for self.batch_size in (1, 4, 20):
            self._harness = self._make(self.batch_size)
            start = time.perf_counter()
            self.score(documents, phrases)
            seconds[self.batch_size] = time.perf_counter() - start
        self.batch_size = min(seconds, key=lambda size: seconds[size])
        self._harness = self._make(self.batch_size)


def measure_speed(rounds: int) -> dict[str, dict[str, object]]:
    import numpy as np
    from tunewell.toolkit.scorer.continuation import ContinuationScorer

    model = make_model()
    scorer, harness = ContinuationScorer(model), Harness(model)
    documents, phrases = draw(6, 100, 500, 1), draw(20, 5, 13, 2)
    n_more = sum(len(phrase) - 1 for phrase in phrases)
    same, unlike, grouped = draw(3, 300, 300, 3), draw(100, 9, 11, 4), draw_grouped(5)
    few = [grouped[i] for i in np.random.default_rng(6).choice(100, 10, replace=False)]
    harness.tune(documents[:1], phrases)

    expected = np.array(harness.score(documents, phrases)).reshape(len(documents), len(phrases))
    got = np.stack([scores.total for scores in scorer.score(documents, phrases)])
    difference = float(np.abs(got - expected).max())

    times = interleaved(
        {
            "ours": (3, lambda: scorer.score(documents, phrases)),
            "lm-eval": (1, lambda: harness.score(documents, phrases)),
            "bare": (3, lambda: bare(model, documents, n_more)),
            "bare trunk": (3, lambda: bare(model.model, documents, n_more)),
            "10 grouped": (3, lambda: scorer.score(same, few)),
            "100 grouped": (3, lambda: scorer.score(same, grouped)),
            "10 unlike": (3, lambda: scorer.score(same, unlike[:10])),
            "100 unlike": (3, lambda: scorer.score(same, unlike)),
        },
        rounds,
    )
    checked = {"max_difference_nats": difference, "peer_batch_size": harness.batch_size}
    what = f"ms for {len(documents)} documents"
    return {
        "lm_eval": figure(times, "lm-eval", f"{what} and 20 phrases") | checked,
        "phrases_10_to_100": growth(times, "grouped", "with common beginnings", few, grouped),
        "phrases_10_to_100_unlike": growth(times, "unlike", "without common beginnings", unlike[:10], unlike),
        "bare_forward": figure(times, "bare", f"{what}, as many tokens in plain forward passes"),
        "bare_forward_without_head": figure(times, "bare trunk", f"{what}, the same without the head"),
    }


def figure(milliseconds: dict[str, float], peer: str, unit: str) -> dict[str, object]:
    """The ratio is how many times faster ours is."""
    ours, other = milliseconds["ours"], milliseconds[peer]
    return {"ours": ours, "peer": other, "ratio": other / ours, "unit": unit}


def growth(
    milliseconds: dict[str, float], kind: str, what: str, ten: list[Tokens], hundred: list[Tokens]
) -> dict[str, object]:
    """How cost grows from 10 to 100 phrases: the one ratio here that is better when lower."""
    few, many = milliseconds[f"10 {kind}"], milliseconds[f"100 {kind}"]
    fewer, more = tokens_read(ten), tokens_read(hundred)
    unit = (
        f"ms for 3 documents of 300 tokens, 100 phrases (ours) and 10 (peer) {what}; ratio = growth of cost; the "
        f"tokens read grow {more / fewer:.2f} times, from {fewer} to {more} a document"
    )
    return {"ours": many, "peer": few, "ratio": many / few, "unit": unit}


def tokens_read(phrases: list[Tokens]) -> int:
    """Tokens that go through the model for a document of 300 tokens and all phrases."""
    from tunewell.toolkit.scorer.continuation import PACK_TOKENS
    from tunewell.toolkit.scorer.packing import pack_in_one_row

    return 300 + sum(pack.tokens.size for pack in pack_in_one_row(phrases, PACK_TOKENS))


def measure_memory(threads: int) -> dict[str, dict[str, object]]:
    """Peak memory of both: medians of three runs, each in a process of its own."""
    measured: dict[str, list[float]] = {case: [] for case in CASES}
    for case in CASES * 3:
        command = [sys.executable, __file__, "--peak", case, "--threads", str(threads)]
        # Freed memory goes back at once, so that the peak is what was in use, not what the allocator kept.
        environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
        out = subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout
        measured[case].append(float(out.split()[-1]))
    peaks = {case: statistics.median(values) for case, values in measured.items()}
    ratio = peaks["bare"] / peaks["ours"]
    unit = "MiB at the peak above the loaded model"
    return {"peak_memory": {"ours": peaks["ours"], "peer": peaks["bare"], "ratio": ratio, "unit": unit}}


def print_peak(case: str) -> None:
    """Print by how many MiB resident memory rose at most while `case` ran."""
    from tunewell.toolkit.scorer.continuation import ContinuationScorer

    model, documents, phrases = make_model(), draw(8, 100, 500, 1), draw(20, 5, 13, 2)
    n_more = sum(len(phrase) - 1 for phrase in phrases)
    scorer = ContinuationScorer(model)
    bare(model, [[0] * 8], 0)  # what any first pass allocates belongs to neither
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins again here
    before = resident("VmRSS")
    if case == "ours":
        scorer.score(documents, phrases)
    else:
        bare(model, documents, n_more)
    print((resident("VmHWM") - before) / 1024)


def resident(field: str) -> int:
    """A memory figure of this process, in KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


AIMS = {
    "lm_eval": "at least 15",
    "phrases_10_to_100": "below 2.5",
    "bare_forward": "at least 0.8",
    "peak_memory": "above 0.67",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object on the last line")
    parser.add_argument("--rounds", type=int, default=3, help="how often each case runs (default 3)")
    parser.add_argument("--peak", choices=CASES, help=argparse.SUPPRESS)
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of torch (default: all cores)")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    if arguments.peak:
        return print_peak(arguments.peak)
    figures = measure_speed(arguments.rounds) | measure_memory(arguments.threads)
    print(f"{'figure':28}{'ours':>10}{'peer':>10}{'ratio':>8}  {'aim':13} unit", file=sys.stderr)
    for name, row in figures.items():
        values = "".join(f"{row[key]:>{width}.2f}" for key, width in (("ours", 10), ("peer", 10), ("ratio", 8)))
        print(f"{name:28}{values}  {AIMS.get(name, ''):13} {row['unit']}", file=sys.stderr)
    lm_eval = figures["lm_eval"]
    print(f"largest difference from lm-eval: {lm_eval['max_difference_nats']:.1e} nats", file=sys.stderr)
    if arguments.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
