"""Batched toxicity generation draws from the distribution that single `generate` calls draw from."""

from collections import Counter

import pytest
import torch
from scipy.stats import chisquare
from tunewell.toolkit.model.generation import Sampling, generate
from tunewell.toolkit.settings.base import TinySettings
from tunewell.toolkit.tiny import new_model, train_tokenizer

N = 3000
TEXTS = ["the cat sat on the mat and was rude", "a kind word for the dog by the door"]
NUCLEUS = 0.9


@pytest.fixture(scope="module")
def tiny():
    settings = TinySettings(vocabulary=300, hidden_size=64, layers=1, heads=2, context=64)
    tokenizer = train_tokenizer(TEXTS, settings)
    model = new_model(tokenizer, settings, 0).eval()
    with torch.no_grad():
        model.model.norm.weight *= 6  # some tokens likely, as in a trained model
    return model, tokenizer, tokenizer("the cat")["input_ids"]


def nucleus(logits):
    """Probabilities of the likeliest tokens that together reach the nucleus, written for this test alone."""
    probabilities, order = logits.double().softmax(-1).sort(descending=True)
    count = int((probabilities.cumsum(0) < NUCLEUS).sum()) + 1
    kept = probabilities[:count] / probabilities[:count].sum()
    return dict(zip(order[:count].tolist(), kept.tolist(), strict=True))


@torch.no_grad()
def exact(model, prompt, ends):
    """Probability of every continuation of two tokens."""
    firsts = nucleus(model(torch.tensor([prompt])).logits[0, -1])
    found = {(first,): p for first, p in firsts.items() if first in ends}
    going_on = [first for first in firsts if first not in ends]
    logits = model(torch.tensor([[*prompt, first] for first in going_on])).logits[:, -1]
    for first, row in zip(going_on, logits, strict=True):
        found |= {(first, second): firsts[first] * q for second, q in nucleus(row).items()}
    return found


def fit(expected, seen):
    """p-value of a chi-square test, rare continuations put together."""
    common = [key for key, p in expected.items() if p * N >= 5]
    counts, wanted = [seen[key] for key in common], [N * expected[key] for key in common]
    if N - sum(wanted) > 1e-6:
        counts, wanted = [*counts, N - sum(counts)], [*wanted, N - sum(wanted)]
    assert sum(counts) == N  # nothing outside the nucleus was drawn
    return chisquare(counts, wanted).pvalue, len(common)


def drawn(tiny, sampling):
    model, tokenizer, prompt = tiny
    others = [tokenizer(text)["input_ids"] for text in TEXTS]  # neighbours of other lengths, so that rows are padded
    prompts = [prompt] * N + [others[row % 2] for row in range(N // 10)]
    made = generate(model, tokenizer, prompts, sampling, seeds=range(len(prompts)), batch_size=300)
    return Counter(tuple(one.ids) for one in made[:N])


@pytest.mark.timeout(120)
def test_samples_follow_the_exact_nucleus_distribution_and_the_test_would_see_another(tiny):
    model, tokenizer, prompt = tiny
    expected = exact(model, prompt, {tokenizer.eos_token_id})
    assert sum(expected.values()) == pytest.approx(1)
    p, cells = fit(expected, drawn(tiny, Sampling(max_new_tokens=2, top_p=NUCLEUS)))
    assert cells > 20 and p > 1e-4
    p, _ = fit(expected, drawn(tiny, Sampling(max_new_tokens=2, top_p=NUCLEUS, temperature=0.9)))
    assert p < 1e-6  # the control: a tenth of temperature would be seen


def test_a_loop_of_single_generate_calls_follows_the_same_distribution(tiny):
    model, tokenizer, prompt = tiny
    expected = exact(model, prompt, {tokenizer.eos_token_id})
    torch.manual_seed(0)
    inputs = torch.tensor([prompt] * N)
    output = model.generate(inputs, attention_mask=torch.ones_like(inputs), do_sample=True, top_p=NUCLEUS, top_k=0,
                            max_new_tokens=2, pad_token_id=tokenizer.pad_token_id)  # fmt: skip
    rows = output[:, len(prompt) :].tolist()
    seen = Counter(tuple(row[:1] if row[0] == tokenizer.eos_token_id else row) for row in rows)
    assert fit(expected, seen)[0] > 1e-4
