"""Tiny random models of several architectures and the naive way to score, one plain forward pass for each pair."""

import contextlib
import logging

import torch
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    Qwen2Config,
    Qwen3Config,
)

WORDS, WINDOW = 97, 64
SIZES = {
    "vocab_size": WORDS,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": WINDOW,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,  # far from uniform, so that a wrong mask or position shows
}
GROUPED = SIZES | {"num_key_value_heads": 2}
OLD = {"vocab_size": WORDS, "bos_token_id": 1, "eos_token_id": 2, "initializer_range": 0.2, "n_layer": 2, "n_head": 4}
CONFIGS = {
    "llama": lambda: LlamaConfig(**GROUPED),
    "qwen2": lambda: Qwen2Config(**GROUPED),
    "qwen3": lambda: Qwen3Config(**GROUPED, head_dim=16),
    "gpt2": lambda: GPT2Config(**OLD, n_embd=64, n_positions=WINDOW),
    "gpt_neox": lambda: GPTNeoXConfig(**SIZES),
    "granite": lambda: GraniteConfig(**GROUPED, logits_scaling=4.0),
    "cohere": lambda: CohereConfig(**GROUPED, logit_scale=0.25),
    "gemma2": lambda: Gemma2Config(**GROUPED, head_dim=16, sliding_window=8, final_logit_softcapping=3.0),
    "mistral": lambda: MistralConfig(**GROUPED, sliding_window=8),
    "bloom": lambda: BloomConfig(**OLD, hidden_size=64),
}


def model(name="llama", attention=None, seed=0):
    torch.manual_seed(seed)
    made = AutoModelForCausalLM.from_config(CONFIGS[name](), attn_implementation=attention)
    return made.eval()


def texts(n, shortest, longest, seed=0):
    random = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shortest, longest + 1, (n,), generator=random).tolist()
    return [torch.randint(3, WORDS, (length,), generator=random).tolist() for length in lengths]


def naive(made, prefix, continuation):
    """The total by definition."""
    ids = torch.tensor([[*prefix, *continuation]], device=made.device)
    with torch.no_grad():
        logs = made(input_ids=ids, use_cache=False).logits[0].double().log_softmax(-1)
    return sum(logs[len(prefix) + i - 1, token].item() for i, token in enumerate(continuation))


def naive_table(made, prefixes, continuations, preamble=()):
    return [[naive(made, [*preamble, *prefix], own) for own in continuations] for prefix in prefixes]


@contextlib.contextmanager
def out_of_memory_above(made, cells, error=torch.OutOfMemoryError):
    """A model whose trunk has no memory for more than `cells` tokens, its cache counted in; lists the sizes tried."""
    sizes = []

    def refuse(module, args, kwargs):
        cache = kwargs.get("past_key_values")
        rows, width = kwargs["input_ids"].shape
        sizes.append(rows * (width + (cache.get_seq_length() if cache else 0)))
        if sizes[-1] > cells:
            raise error("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: 1 bytes")

    handle = made.base_model.register_forward_pre_hook(refuse, with_kwargs=True)
    try:
        yield sizes
    finally:
        handle.remove()


logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it looks for optional kernels once per process
