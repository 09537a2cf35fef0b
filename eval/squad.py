"""Answers that a model writes to questions about passages, scored as SQuAD v2 does: the alignment tax of reading."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..toolkit.files import sha256_of
from ..toolkit.model.generation import Completion, Sampling, generate, window_of
from ..toolkit.model.network import network_of
from ..toolkit.model.tokens import encode_plain
from .encoding import with_start
from .kept import generate_kept
from .short_answers import answer_f1, exact_match, normalised
from .squad_prompts import NO_ANSWER, passage_prompt
from .squad_rows import PassageQuestion, PassageQuestions
from .statistics import RESAMPLES, mean_score, share_score
from .task import Score, TaskResult, check_scored, row_ids

STOP = ("\n",)  # an answer is one line, as in the samples of Ouyang et al. 2022
_WHOLE = ("f1", "exact_match", "empty_rate", "mean_words")
_ANSWERABLE = ("f1_answerable", "exact_match_answerable", "declined_answerable")
_UNANSWERABLE = ("declined_unanswerable",)
_BETTER = {"empty_rate": False, "declined_answerable": False, "mean_words": None}


def squad(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    questions: PassageQuestions,
    *,
    preset: str = "none",
    no_answer: str = NO_ANSWER,
    max_new_tokens: int = 50,
    n_read: int | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    batch_size: int = 32,
    force: bool = False,
    kept: Path | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> TaskResult:
    """Let a model answer every question once, by its likeliest tokens.

    An answer that is `no_answer` (by SQuAD's normalisation) declines the question, which the official script takes for
    an empty prediction: right where the question has no answer, wrong elsewhere. What is empty from the start is wrong
    everywhere and counted in `empty_rate`, or a model that says nothing would get half of the data set right. Intervals
    draw whole passages.

    Args:
        model: a causal language model; whatever adapter is active is used.
        tokenizer: of the model.
        questions: from `read_squad`.
        preset: see `passage_prompt`.
        no_answer: the words by which a question is declined.
        max_new_tokens: longest answer.
        n_read: questions of the source, those not chosen included.
        seed: of the bootstrap.
        resamples: of the bootstrap.
        batch_size: answers per forward pass.
        force: take the figures though more than 1 % of the questions do not fit the model's window.
        kept: file where the answers are kept as they are made, see `generate_kept`.
        progress: called with (answers done, answers in all).

    Raises:
        ModelError: more than 1 % of the questions do not fit the model's window.
        SettingsError: a preset that cannot be used.
    """
    prompt = passage_prompt(preset, tokenizer, no_answer)
    asked = questions.questions
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=0.0)
    encoded = [with_start(tokenizer, encode_plain(tokenizer, prompt(one))) for one in asked]
    window = window_of(network_of(model))
    fits = [window is None or len(ids) + max_new_tokens <= window for ids in encoded]
    what = f"questions, whose passages leave no room for {max_new_tokens} tokens in the window of {window},"
    check_scored(fits.count(False), len(fits), what, force=force)
    write = generate if kept is None else partial(generate_kept, path=kept)
    told = [ids for ids, fit in zip(encoded, fits, strict=True) if fit]
    made = iter(write(model, tokenizer, told, sampling, seeds=[seed] * len(told), batch_size=batch_size, stop=STOP,
                      progress=progress) if told else ())  # fmt: skip
    names = row_ids([one.id, one.passage, one.question, list(one.answers)] for one in asked)
    items = [
        _item(name, one, next(made) if fit else None, no_answer)
        for name, one, fit in zip(names, asked, fits, strict=True)
    ]
    pattern = PassageQuestion(id="", title="{title}", passage="{passage}", question="{question}", answers=())
    return TaskResult(
        name="squad",
        scores=_scores(items, seed, resamples),
        items=items,
        details={
            "dataset": {"path": questions.source, "sha256": questions.sha256, "n": n_read or len(items),
                        "n_used": len(items)},
            "preset": preset,
            "prompt_sha256": sha256_of(prompt(pattern)),
            "decoding": {**asdict(sampling), "k": 1, "stop": list(STOP)},
            "scorer": f"SQuAD v2; declined by {no_answer!r}",
            "seed": seed,
            "notes": [f"{fits.count(False)} {what} were not asked"] if False in fits else [],
        },
    )  # fmt: skip


def _item(name: str, question: PassageQuestion, completion: Completion | None, no_answer: str) -> dict[str, Any]:
    text = "" if completion is None else completion.text.strip()
    return {
        "id": name,
        "group": sha256_of(question.passage)[:16],
        "values": dict.fromkeys((*_WHOLE, *(_ANSWERABLE if question.answers else _UNANSWERABLE)))
        | ({} if completion is None else _values(text, question.answers, no_answer)),
        "question": question.question,
        "completion": text,
        "is_empty": completion is not None and not text,
        "has_ended": None if completion is None else completion.ended,
        "is_answerable": bool(question.answers),
        "references": list(question.answers),
        "category": question.title,
        "passage": question.passage,
        "squad_id": question.id,
    }


def _values(text: str, references: Sequence[str], no_answer: str) -> dict[str, float]:
    declined = bool(text) and normalised(text) == normalised(no_answer)
    shared = {"empty_rate": float(not text), "mean_words": float(len(text.split()))}
    if not references:
        right = float(declined)
        return shared | {"f1": right, "exact_match": right, "declined_unanswerable": right}
    f1, exact = (0.0, 0.0) if declined else (answer_f1(text, references), exact_match(text, references))
    return shared | {"f1": f1, "exact_match": exact, "f1_answerable": f1, "exact_match_answerable": exact,
                     "declined_answerable": float(declined)}  # fmt: skip


def _scores(items: Sequence[dict[str, Any]], seed: int, resamples: int) -> dict[str, Score]:
    """Figures of all questions, then of those with and without an answer, as far as there are any."""
    parts = {name: [one for one in items if name in one["values"]] for name in (*_WHOLE, *_ANSWERABLE, *_UNANSWERABLE)}
    return {name: _score(name, part, seed, resamples) for name, part in parts.items() if part}


def _score(name: str, items: Sequence[dict[str, Any]], seed: int, resamples: int) -> Score:
    values = [float("nan") if item["values"][name] is None else item["values"][name] for item in items]
    make = mean_score if name == "mean_words" else share_score
    return make(values, groups=[item["group"] for item in items], higher_is_better=_BETTER.get(name, True), seed=seed,
                resamples=resamples)  # fmt: skip
