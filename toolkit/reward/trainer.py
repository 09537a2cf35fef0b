"""TRL's RewardTrainer on rankings: each completion is encoded once, and the loss is a sum of terms over its score."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from trl import RewardTrainer

from ..checkpoints import BestByAdapterName, WithoutEmbeddings
from ..errors import ModelError
from ..finite import FiniteSteps
from ..model.network import eval_mode
from ..telemetry import NoTelemetry
from .examples import Example
from .losses import Terms, reward_loss
from .scoring import score_batches

INPUTS = ("input_ids", "attention_mask")
COLUMNS = ["completions_ids", "better", "worse", "margin", "weight", "wins", "losses", "row"]


@dataclass(frozen=True)
class RankingCollator:
    """Brings examples of any number of completions into one batch, padded on the right.

    Args:
        pad_token_id: fills the rows; it must not be the end token, behind which the score is read.
    """

    pad_token_id: int

    def __call__(self, examples: Sequence[Example]) -> dict[str, Any]:
        """Flatten the completions of all examples; indices of pairs count over the whole batch."""
        ids = [list(completion) for example in examples for completion in example["completions_ids"]]
        input_ids, attention_mask = _padded(ids, self.pad_token_id)
        starts, start = [], 0
        for example in examples:
            starts.append(start)
            start += len(example["completions_ids"])

        def floats(name: str) -> Tensor:
            return torch.tensor([value for example in examples for value in example[name]], dtype=torch.float32)

        def indices(name: str) -> Tensor:
            found = [first + value for first, example in zip(starts, examples, strict=True) for value in example[name]]
            return torch.tensor(found, dtype=torch.long)

        return {
            "input_ids": input_ids,
            "attention_mask": attention_mask,
            "better": indices("better"),
            "worse": indices("worse"),
            **{name: floats(name) for name in ("margin", "weight", "wins", "losses")},
            "rows": torch.tensor([example["row"] for example in examples]),
        }


class RankingTrainer(FiniteSteps, BestByAdapterName, WithoutEmbeddings, NoTelemetry, RewardTrainer):  # type: ignore[misc]  # TRL's has no types
    """`trl.RewardTrainer` whose batch element is a prompt with all its completions.

    It takes what `ExampleMaker` makes as its data sets, and TRL's own settings. With `gradient_cache`, at most that
    many completions are encoded at a time and the gradient stays the same (Gao et al. 2021,
    https://arxiv.org/abs/2101.06983): scores without a graph, the gradient of the loss by the scores, then every chunk
    again with its share of that gradient. It costs one more forward pass.

    Args:
        *args: as of `trl.RewardTrainer`.
        gradient_cache: completions per forward pass; None encodes the whole batch at once.
        **kwargs: as of `trl.RewardTrainer`.
    """

    def __init__(self, *args: Any, gradient_cache: int | None = None, **kwargs: Any) -> None:
        tokenizer = kwargs["processing_class"]
        if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
            raise ModelError(
                f"the tokenizer's padding token is {tokenizer.pad_token!r} and its end token {tokenizer.eos_token!r}; "
                "wanted a padding token of its own, or the score would be read one token early: "
                'tokenizer.add_special_tokens({"pad_token": "<|pad|>"}), and resize the model\'s embeddings'
            )
        kwargs.setdefault("data_collator", RankingCollator(int(tokenizer.pad_token_id)))
        super().__init__(*args, **kwargs)
        self.gradient_cache = gradient_cache
        self._pad = int(tokenizer.pad_token_id)

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset  # tokenised already, and what is too long was counted

    def _set_signature_columns_if_needed(self) -> None:
        self._signature_columns: Any = COLUMNS

    def compute_loss(
        self,
        model: nn.Module,
        inputs: Mapping[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The loss of a batch; with outputs, also the scores as `logits` (B, 1)."""
        if self.gradient_cache is None:
            scores = _scores(model, inputs)
        else:
            parts = _chunks(inputs, self.gradient_cache)
            scores = torch.cat([_scores(model, part) for part in parts])
        terms = _terms(inputs)
        loss = reward_loss(scores, terms, self._center())
        self._note(scores.detach().float(), terms, inputs)
        return (loss, {"logits": scores[:, None]}) if return_outputs else loss

    def scores_of(self, sequences: Sequence[Sequence[int]], batch_size: int = 32) -> list[float]:
        """Scores of token ids by the model as it is now; with batches of 1, free of any padding."""
        model: Any = self.model
        order = sorted(range(len(sequences)), key=lambda index: len(sequences[index]))
        scores = [0.0] * len(sequences)
        with eval_mode(model), torch.no_grad(), self.compute_loss_context_manager():
            for batch in score_batches(order, sequences, batch_size):
                rows, mask = _padded([list(sequences[index]) for index in batch], self._pad)
                inputs = {"input_ids": rows.to(model.device), "attention_mask": mask.to(model.device)}
                for index, score in zip(batch, _scores(model, inputs).tolist(), strict=True):
                    scores[index] = score
        return scores

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None) -> Tensor:
        """One forward and backward pass; chunk by chunk where a gradient cache is set."""
        if self.gradient_cache is None or len(inputs["input_ids"]) <= self.gradient_cache:
            return super().training_step(model, inputs, num_items_in_batch)
        return self._cached_step(model, inputs)

    def _cached_step(self, model: nn.Module, inputs: dict[str, Any]) -> Tensor:
        model.train()
        inputs = self._prepare_inputs(inputs)
        parts = _chunks(inputs, self.gradient_cache or 1)
        device = inputs["input_ids"].device
        states, scores = [], []
        with torch.no_grad(), self.compute_loss_context_manager():
            for part in parts:
                states.append(_random_state(device))
                scores.append(_scores(model, part).float())
        leaf = torch.cat(scores).requires_grad_()
        terms = _terms(inputs)
        loss = reward_loss(leaf, terms, self._center())
        loss = loss / self.current_gradient_accumulation_steps
        (gradient,) = torch.autograd.grad(loss, leaf)
        self._note(leaf.detach(), terms, inputs)
        places = torch.split(gradient, [len(part["input_ids"]) for part in parts])
        for index, (part, state, share) in enumerate(zip(parts, states, places, strict=True)):
            is_last = index == len(parts) - 1
            # Processes exchange gradients once a step, not once a chunk.
            with nullcontext() if is_last else self.accelerator.no_sync(model):
                with _drawn_again(state, device), self.compute_loss_context_manager():
                    product = (_scores(model, part).float() * share).sum()
                self.accelerator.backward(product)
        return loss.detach()

    def _center(self) -> float:
        arguments: Any = self.args
        return float(arguments.center_rewards_coefficient or 0.0)

    def _note(self, scores: Tensor, terms: Terms, inputs: Mapping[str, Any]) -> None:
        """Figures that TRL's trainer logs, over the pairs of this batch."""
        model: Any = self.model
        mode = "train" if model.training else "eval"
        metrics = self._metrics[mode]
        if mode == "train":
            self._total_train_tokens += int(self.accelerator.gather(inputs["attention_mask"].sum()).sum())
        metrics["num_tokens"] = [self._total_train_tokens]
        every = self.accelerator.gather_for_metrics(scores)
        for name, value in (("min", every.min()), ("mean", every.mean()), ("max", every.max())):
            metrics[f"{name}_reward"].append(float(value))
        if len(terms.better):
            lead = scores[terms.better] - scores[terms.worse]
            metrics["accuracy"].append(float(((lead > 0) + 0.5 * (lead == 0)).mean()))
            metrics["margin"].append(float(lead.mean()))


RandomState = tuple[Tensor, Tensor | None]


def _random_state(device: torch.device) -> RandomState:
    return torch.get_rng_state(), torch.cuda.get_rng_state(device) if device.type == "cuda" else None


@contextmanager
def _drawn_again(state: RandomState, device: torch.device) -> Iterator[None]:
    """Draw the same dropout as from `state` on, and leave the generators as they are now."""
    on_cpu, on_gpu = state
    with torch.random.fork_rng(devices=[] if on_gpu is None else [device]):
        torch.set_rng_state(on_cpu)
        if on_gpu is not None:
            torch.cuda.set_rng_state(on_gpu, device)
        yield


def _padded(rows: Sequence[list[int]], pad: int) -> tuple[Tensor, Tensor]:
    """Token ids (B, T), padded on the right, and the mask that is 1 at real tokens."""
    longest = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    return ids, torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])


def _scores(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor:
    """(B,) scores; the cache of keys and values would only cost memory."""
    scores: Tensor = model(**{name: inputs[name] for name in INPUTS}, use_cache=False).logits.squeeze(-1)
    return scores


def _chunks(inputs: Mapping[str, Any], size: int) -> list[dict[str, Tensor]]:
    """At most `size` rows each, without the columns that only padding fills."""
    chunks = []
    for start in range(0, len(inputs["input_ids"]), size):
        part = {name: inputs[name][start : start + size] for name in INPUTS}
        longest = int(part["attention_mask"].sum(1).max())
        chunks.append({name: tensor[:, :longest] for name, tensor in part.items()})
    return chunks


def _terms(inputs: Mapping[str, Any]) -> Terms:
    names = ("better", "worse", "margin", "weight", "wins", "losses")
    return Terms(**{name: inputs[name] for name in names}, elements=len(inputs["rows"]))
