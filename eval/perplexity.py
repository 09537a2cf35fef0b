"""Perplexity of held-out texts: how well a model still predicts plain language."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..toolkit.errors import DataError
from ..toolkit.model.batching import token_batches
from ..toolkit.model.generation import window_of
from ..toolkit.model.network import eval_mode, network_of
from ..toolkit.model.tokens import encode_plain, start_ids
from .statistics import RESAMPLES, mean_score
from .task import Score, TaskResult, check_scored, row_ids


@dataclass(frozen=True)
class _Window:
    """Part of a document that goes through the model at once; its last `new` tokens are scored."""

    document: int
    ids: list[int]
    new: int


def perplexity(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    *,
    max_length: int | None = None,
    stride: int | None = None,
    tokens_per_batch: int = 4096,
    dataset: dict[str, Any] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> TaskResult:
    """Measure `nll`, the mean negative log-likelihood in nats per token, and `perplexity`, its exponential.

    Every token counts once, whatever document it stands in; the interval is over documents. A document longer than
    the window is read in overlapping windows, in which only the tokens not yet scored count. The first token is
    scored too, after a start token. An empty text is unscored.

    Args:
        model: a causal language model; whatever adapter is active is used.
        tokenizer: of the model.
        texts: documents that the model has not been trained on.
        max_length: window in tokens; None: the model's own, or 1024 where it names none.
        stride: tokens from one window to the next; None: half a window.
        tokens_per_batch: bound on the memory of one forward pass, in tokens.
        dataset: recorded: path, sha256, n.
        seed: of the bootstrap.
        resamples: of the bootstrap.
        force: take the figure though more than 1 % of the documents have none.
        progress: called with (windows done, windows in all).

    Raises:
        DataError: no texts, or a window or stride that means nothing.
        ModelError: more than 1 % of the documents get no finite likelihood.
    """
    window = max_length or window_of(network_of(model)) or 1024
    step = stride or max(1, window // 2)
    if window < 2 or not 1 <= step < window:
        raise DataError(f"got a window of {window} tokens and a stride of {step}, wanted 1 <= stride < window")
    if not texts:
        raise DataError("got no texts, wanted at least one")
    start = start_ids(tokenizer)
    encoded = [encode_plain(tokenizer, text) if text.strip() else [] for text in texts]
    windows = [part for row, ids in enumerate(encoded) if ids
               for part in _windows(row, [*start, *ids], window, step)]  # fmt: skip
    totals = [0.0] * len(texts)
    for part, total in _totals(model, windows, tokens_per_batch, progress):
        totals[part.document] += total
    counts = [0] * len(texts)
    for part in windows:
        counts[part.document] += part.new
    items = [_item(*row) for row in zip(row_ids(texts), texts, totals, counts, strict=True)]
    failed = sum(item["values"]["nll"] is None and item["weights"]["nll"] > 0 for item in items)
    check_scored(failed, len(items), "documents (their likelihood is not finite: is the model sound?)", force=force)
    nll = _nll(items, seed, resamples)
    return TaskResult(
        name="perplexity",
        scores={"perplexity": _exponential(nll), "nll": nll},
        items=items,
        details={
            "dataset": dataset or {"path": None, "sha256": None, "n": len(texts), "n_used": len(texts)},
            "window": {"tokens": window, "stride": step},
            "tokens": sum(item["weights"]["nll"] for item in items if item["values"]["nll"] is not None),
            "notes": [],
        },
    )


def _windows(document: int, ids: list[int], window: int, step: int) -> Iterator[_Window]:
    """Cut a document so that every token after the first is new in exactly one window."""
    done = 1  # the first token has nothing before it
    for begin in range(0, len(ids), step):
        end = min(begin + window, len(ids))
        if end > done:
            yield _Window(document, ids[begin:end], end - done)
            done = end


def _totals(
    model: PreTrainedModel | PeftModel,
    windows: Sequence[_Window],
    tokens_per_batch: int,
    progress: Callable[[int, int], None] | None,
) -> Iterator[tuple[_Window, float]]:
    """The negative log-likelihood of each window's new tokens, in nats."""
    order = sorted(windows, key=lambda part: len(part.ids))
    done = 0
    with eval_mode(network_of(model)), torch.inference_mode():
        for batch in token_batches(order, lambda part: len(part.ids), tokens=tokens_per_batch):
            losses = _losses(model, [part.ids for part in batch]).double().cpu()
            for part, row in zip(batch, losses, strict=True):
                last = len(part.ids) - 1
                yield part, float(row[last - part.new : last].sum())
            done += len(batch)
            if progress:
                progress(done, len(order))


def _losses(model: PreTrainedModel | PeftModel, rows: Sequence[list[int]]) -> Tensor:
    """(B, T − 1) loss of predicting each next token; what lies past a row's end is meaningless."""
    longest = max(map(len, rows))
    input_ids = torch.zeros((len(rows), longest), dtype=torch.long)
    attention_mask = torch.zeros_like(input_ids)
    for row, ids in enumerate(rows):
        input_ids[row, : len(ids)] = torch.tensor(ids)
        attention_mask[row, : len(ids)] = 1
    device = network_of(model).device
    input_ids = input_ids.to(device)
    logits = model(input_ids=input_ids, attention_mask=attention_mask.to(device), use_cache=False).logits[:, :-1]
    return nn.functional.cross_entropy(logits.float().transpose(1, 2), input_ids[:, 1:], reduction="none")


def _item(name: str, text: str, total: float, count: int) -> dict[str, Any]:
    is_scored = count > 0 and math.isfinite(total)
    return {
        "id": name,
        "values": {"nll": total / count if is_scored else None},
        "weights": {"nll": count},
        "text": text,
    }


def _nll(items: Sequence[dict[str, Any]], seed: int, resamples: int) -> Score:
    values = [float("nan") if item["values"]["nll"] is None else item["values"]["nll"] for item in items]
    weights = [item["weights"]["nll"] for item in items]
    return mean_score(values, weights=weights, higher_is_better=False, seed=seed, resamples=resamples)


def _exponential(nll: Score) -> Score:
    """The same figure as a perplexity; the standard error by the delta method."""
    value, low, high = (None if x is None else math.exp(x) for x in (nll.value, nll.low, nll.high))
    se = None if value is None or nll.se is None else value * nll.se
    return replace(nll, value=value, low=low, high=high, se=se)
