"""Speed of the generation behind the toxicity figures, beside a loop of single `generate` calls.

    python bench/toxicity_generation.py [--json] [--rounds 3] [--threads 2]

Both draw k continuations of every prompt (nucleus 0.9, 20 tokens, RealToxicityPrompts' decoding) from the same random
34-million-parameter Llama on the CPU, in turns; the table shows medians. `peer` calls transformers' own `generate` once
for each sample. That both draw from the same distribution is shown by tests/eval/test_toxicity_distribution.py.
"""

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable

VOCABULARY = 8192
K = 5
TOKENS = 20
AIM = "at least 2"


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
        eos_token_id=None,
        bos_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


class NoEnd:
    """The part of a tokenizer that generation asks for; texts never end by themselves, so both write as much."""

    pad_token_id = 0
    eos_token_id = None

    def decode(self, ids: list[int], skip_special_tokens: bool = True) -> str:
        """Tokens as text."""
        return " ".join(map(str, ids))


def measure(prompts: int, rounds: int) -> dict[str, dict[str, float | str]]:
    """Samples per second of both, medians of interleaved rounds."""
    import torch
    from tunewell.toolkit.model.generation import Sampling, generate

    model, rng = make_model(), torch.Generator().manual_seed(1)
    lengths = torch.randint(5, 30, (prompts,), generator=rng).tolist()
    texts = [torch.randint(1, VOCABULARY, (length,), generator=rng).tolist() for length in lengths]
    sampling = Sampling(max_new_tokens=TOKENS, top_p=0.9)
    repeated = [ids for ids in texts for _ in range(K)]

    def ours() -> int:
        made = generate(model, NoEnd(), repeated, sampling, seeds=list(range(len(repeated))), batch_size=32)  # type: ignore[arg-type]
        return sum(len(one.ids) for one in made)

    def peer() -> int:
        made = 0
        for ids in repeated:
            inputs = torch.tensor([ids])
            output = model.generate(inputs, attention_mask=torch.ones_like(inputs), do_sample=True, top_p=0.9, top_k=0,
                                    max_new_tokens=TOKENS, pad_token_id=0)  # fmt: skip
            made += output.shape[1] - len(ids)
        return made

    seconds = {name: [] for name in ("ours", "peer")}  # type: ignore[var-annotated]
    cases: dict[str, Callable[[], int]] = {"ours": ours, "peer": peer}
    for number in range(rounds + 1):
        for name, run in cases.items():
            began = time.perf_counter()
            made = run()
            if made != len(repeated) * TOKENS:
                raise SystemExit(f"{name} wrote {made} tokens, wanted {len(repeated) * TOKENS}: not the same work")
            if number:  # the first round warms up
                seconds[name].append(time.perf_counter() - began)
    rate = {name: len(repeated) / statistics.median(times) for name, times in seconds.items()}
    unit = f"samples per second ({prompts} prompts, k = {K}, {TOKENS} tokens)"
    ratio = rate["ours"] / rate["peer"]
    return {"toxicity_generation": {"ours": rate["ours"], "peer": rate["peer"], "ratio": ratio, "unit": unit}}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", action="store_true", help="end with one JSON object on the last line")
    parser.add_argument("--rounds", type=int, default=3, help="how often each case is measured (default 3)")
    parser.add_argument("--prompts", type=int, default=24, help="prompts, each with 5 samples (default 24)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of torch (default: all cores)")
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    figures = measure(arguments.prompts, arguments.rounds)
    for name, row in figures.items():
        values = f"ours {row['ours']:.1f}, loop {row['peer']:.1f}, ratio {row['ratio']:.2f} ({AIM})"
        print(f"{name}: {values}, {row['unit']}", file=sys.stderr)
    if arguments.json:
        print(json.dumps(figures))


if __name__ == "__main__":
    main()
