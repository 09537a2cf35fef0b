"""Ways to ask a question about a passage, with the words to say when it does not hold the answer."""

import string
from collections.abc import Callable
from typing import Any

from ..toolkit.errors import SettingsError
from .prompts import make_prompt
from .squad_rows import PassageQuestion

NO_ANSWER = "Not in background."
"""What the samples published with InstructGPT (Ouyang et al. 2022, https://arxiv.org/abs/2203.02155) say."""
_TASK = (
    "Answer every question from the background before it, in as few words as it takes. Where the background does not "
    "hold the answer, write: {no_answer}\n\n"
)
# Title, background, questions and answers in paragraphs of their own, as in those samples.
_ITEM = "Title: {title}\n\nBackground: {passage}\n\nQ: {question}\n\nA:"
# Written for this project.
_SHOTS: tuple[tuple[str, str, tuple[tuple[str, str | None], ...]], ...] = (
    (
        "Lighthouse",
        "The lighthouse on the eastern rock was built in 1874 and is 31 metres tall. Until 1968 two keepers lived in "
        "it with their families; since then its lamp has been lit by a timer.",
        (("When was the lighthouse built?", "1874"), ("What was the name of the last keeper?", None)),
    ),
    (
        "Rye bread",
        "Rye bread keeps longer than bread of wheat. Bakers raise it with sourdough, because rye has little gluten and "
        "yeast alone would leave it flat.",
        (("Who first baked rye bread?", None), ("What do bakers raise rye bread with?", "sourdough")),
    ),
)
_NEEDED = {"passage", "question"}
_KNOWN = {*_NEEDED, "title", "no_answer"}


def passage_prompt(preset: str, tokenizer: Any = None, no_answer: str = NO_ANSWER) -> Callable[[PassageQuestion], str]:
    """Find how a question is put.

    Args:
        preset: `none` (instruction, passage, question), `shots` (two solved passages between them), `chat` (`none` as
            the user's turn of the tokenizer's chat template), or a template with `{passage}` and `{question}`, and
            `{title}` and `{no_answer}` where wanted.
        tokenizer: needed by `chat`.
        no_answer: the words for a question without an answer.

    Raises:
        SettingsError: no such preset, or a template that lacks a field.
        ModelError: `chat` with a tokenizer that has no chat template.
    """
    lead = _TASK.format(no_answer=no_answer)
    if preset == "none":
        return lambda one: lead + _asked(one.title, one.passage, one.question)
    if preset == "shots":
        shots = "".join(_solved(*shot, no_answer=no_answer) for shot in _SHOTS)
        return lambda one: lead + shots + _asked(one.title, one.passage, one.question)
    if preset == "chat":
        turn = make_prompt("chat", tokenizer).context
        return lambda one: turn(lead + _asked(one.title, one.passage, one.question))
    check_preset(preset)
    return lambda one: preset.format(title=one.title, passage=one.passage, question=one.question, no_answer=no_answer)


def check_preset(preset: str) -> None:
    """Refuse what is neither a preset nor a template, before any model is loaded.

    Raises:
        SettingsError: with what was got and wanted.
    """
    if preset in ("none", "shots", "chat"):
        return
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(preset) if name is not None}
    except ValueError as error:
        raise SettingsError([f"preset: {preset!r} is not a template ({error}); write {{{{ for a brace"]) from error
    if not _NEEDED <= names <= _KNOWN:
        raise SettingsError(
            [f"preset: got {preset!r}, wanted none, shots, chat, or a template with {{passage}} and {{question}} "
             "(and {title}, {no_answer})"]
        )  # fmt: skip


def _asked(title: str, passage: str, question: str) -> str:
    text = _ITEM.format(title=title, passage=passage, question=question)
    return text if title else text.partition("\n\n")[2]


def _solved(title: str, passage: str, answers: tuple[tuple[str, str | None], ...], no_answer: str) -> str:
    (question, first), *rest = answers
    text = f"{_asked(title, passage, question)} {first or no_answer}\n\n"
    return text + "".join(f"Q: {question}\n\nA: {answer or no_answer}\n\n" for question, answer in rest)
