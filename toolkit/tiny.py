"""Train a tiny Llama-shaped base model and its tokenizer from plain text, on a CPU, in about a minute."""

import math
import os
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from .errors import DataError
from .files import sha256_file, sha256_of, unfinished_folder
from .muon import Muon
from .settings.base import TinySettings
from .settings.reading import to_tree

BOS, EOS, PAD = "<bos>", "<eos>", "<pad>"
ROW_TOKENS = 128  # short rows: the cost of the block mask grows with the square of a row
# Ends with the end token of the last answer, so that what is trained is what is generated and scored.
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if not loop.first %}{{ '\\n\\n' }}{% endif %}"
    "{% if message['role'] == 'user' %}{{ 'Human: ' + message['content'] }}"
    "{% elif message['role'] == 'system' %}{{ message['content'] }}"
    "{% else %}{{ 'Assistant:' }}{% generation %}{{ ' ' + message['content'] + eos_token }}{% endgeneration %}"
    "{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '\\n\\nAssistant:' }}{% endif %}"
)


def train_tokenizer(texts: Sequence[str], settings: TinySettings) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer that puts a start token before every text and has its own padding token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings.vocabulary,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A $B", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    wrapped = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=settings.context,
        clean_up_tokenization_spaces=False,
    )
    wrapped.chat_template = CHAT_TEMPLATE
    return wrapped


def new_model(tokenizer: PreTrainedTokenizerFast, settings: TinySettings, seed: int) -> LlamaForCausalLM:
    """Make an untrained Llama of the given shape, its weights drawn from `seed`."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=settings.hidden_size,
        intermediate_size=_multiple_of_64(settings.hidden_size * 8 / 3),
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.heads,
        num_key_value_heads=settings.heads,
        max_position_embeddings=settings.context,
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config)


def build_base(
    texts: Sequence[str],
    folder: Path,
    *,
    seed: int = 0,
    settings: TinySettings | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> None:
    """Train tokenizer and model on `texts` and save both in `folder` as a plain Hugging Face folder.

    Args:
        texts: one document each; documents longer than the context are cut into pieces, none is dropped.
        folder: where the model goes (safetensors).
        seed: decides the initial weights and the order of the documents.
        settings: shape and training.
        tokenizer: one made before, so that the figures of two bases per token can be held against each other; None
            trains one on `texts`.
        progress: called with (steps done, steps in all, loss in nats per token) after each step.

    Raises:
        DataError: when there is no text to train on.
    """
    settings = settings or TinySettings()
    if not any(text.strip() for text in texts):
        raise DataError("got a corpus without text, wanted at least one non-empty document: check base.corpus")
    tokenizer = tokenizer or train_tokenizer(texts, settings)
    model = new_model(tokenizer, settings, seed)
    with _few_threads():
        _train(model, list(_pieces(texts, tokenizer, settings.context)), settings, seed, progress)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def cached_base(
    texts: Sequence[str],
    *,
    seed: int = 0,
    settings: TinySettings | None = None,
    tokenizer: PreTrainedTokenizerFast | None = None,
    cache: Path | None = None,
    progress: Callable[[int, int, float], None] | None = None,
) -> Path:
    """Give the folder of the tiny base for these texts, building it when the cache does not hold it.

    The name holds a hash of the texts, the seed, the settings, a given tokenizer, torch's version and the code of this
    module, so a change of any of them builds anew.

    Args:
        texts: one document each.
        seed: decides the initial weights and the order of the documents.
        settings: shape and training.
        tokenizer: as in `build_base`.
        cache: where bases are kept; default `$TUNEWELL_CACHE`, else `tunewell` in the user's cache folder.
        progress: as in `build_base`.
    """
    settings = settings or TinySettings()
    code = sha256_file(Path(__file__))
    words = None if tokenizer is None else tokenizer.backend_tokenizer.to_str()
    key = sha256_of([list(texts), seed, to_tree(settings), words, torch.__version__, code])
    folder = (cache or cache_folder()) / f"tiny-{key[:16]}"
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)  # a fault names what the user chose
    with unfinished_folder(folder) as part:
        build_base(texts, part / "base", seed=seed, settings=settings, tokenizer=tokenizer, progress=progress)
        try:
            (part / "base").rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process finished the same base first
                raise
    return folder


def cache_folder() -> Path:
    """The folder for what can be built again: `$TUNEWELL_CACHE`, else `tunewell` under the user's cache folder."""
    if own := os.environ.get("TUNEWELL_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tunewell"


def _multiple_of_64(size: float) -> int:
    return 64 * math.ceil(size / 64)  # bitsandbytes packs 4-bit weights in blocks of 64


def _pieces(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast, context: int) -> Iterator[list[int]]:
    """Token ids of every document between start and end token, long documents in several pieces."""
    limit = min(context, 256)
    for text in texts:
        ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        for start in range(0, len(ids), limit):
            yield ids[start : start + limit]


def _rows(pieces: list[list[int]], length: int, rng: random.Random) -> Iterator[list[list[int]]]:
    """Endless rows of pieces in random order, at most `length` tokens each."""
    row, size = list[list[int]](), 0
    while True:
        for piece in rng.sample(pieces, len(pieces)):
            if row and size + len(piece) > length:
                yield row
                row, size = [], 0
            row.append(piece)
            size += len(piece)


@contextmanager
def _few_threads() -> Iterator[None]:
    """At most four: with many cores, so small products spend their time on waiting for the last thread."""
    usual = torch.get_num_threads()
    torch.set_num_threads(min(usual, 4))
    try:
        yield
    finally:
        torch.set_num_threads(usual)


def _train(
    model: LlamaForCausalLM,
    pieces: list[list[int]],
    settings: TinySettings,
    seed: int,
    progress: Callable[[int, int, float], None] | None,
) -> None:
    optimizers = _optimizers(model, settings)
    length = max(map(len, pieces), default=0)
    rows = _rows(pieces, max(length, ROW_TOKENS), random.Random(seed))
    rows_per_step = max(1, settings.tokens_per_step // max(length, ROW_TOKENS))
    model.train()
    for step in range(settings.steps):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] * _schedule(step, settings.steps)
        input_ids, position_ids, labels = _packed([next(rows) for _ in range(rows_per_step)])
        # In float32: CPUs without instructions for bfloat16, most of those at home, emulate it many times slower.
        loss = model(input_ids=input_ids, position_ids=position_ids, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if progress:
            progress(step + 1, settings.steps, loss.item())
    model.eval()  # type: ignore[no-untyped-call]


def _optimizers(model: LlamaForCausalLM, settings: TinySettings) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for the rest: it learns rare facts in far fewer steps than AdamW alone."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    adamw = torch.optim.AdamW(others, lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.01)
    muon = Muon(matrices, lr=settings.muon_learning_rate, weight_decay=0.01)
    for optimizer in (muon, adamw):
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
    return [muon, adamw]


def _schedule(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / 20) * 0.5 * (1 + math.cos(math.pi * step / steps))


def _packed(rows: list[list[list[int]]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Tensors (rows, longest row); positions restart with every piece, which tells the model to keep them apart."""
    longest = max(sum(map(len, row)) for row in rows)
    input_ids = torch.zeros((len(rows), longest), dtype=torch.long)
    position_ids = torch.zeros_like(input_ids)
    for index, row in enumerate(rows):
        flat = torch.tensor([token for piece in row for token in piece])
        input_ids[index, : len(flat)] = flat
        position_ids[index, : len(flat)] = torch.cat([torch.arange(len(piece)) for piece in row])
    # Position 0 is a start token or padding: neither is to be predicted.
    labels = input_ids.masked_fill(position_ids == 0, -100)
    return input_ids, position_ids, labels
