"""Prompts become rows of TRL's formats, with personal data hidden where it must not be learned."""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from ...filters import redact_row
from ..collect.export import comparisons_of
from .splitting import Split
from .templates import Templates, few_shot_prompts
from .written import Text, Written

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Form:
    """What rows look like.

    Attributes:
        templates: how prompts are put.
        is_chat: rows of messages rather than of text.
        shots: pairs that a few-shot prompt shows at most; None: all others.
        draws: few-shot prompts for each query at most.
        seed: decides which pairs are shown.
        prompts_without_labels: keep prompts that have labels out of the PPO set.
    """

    templates: Templates = field(default_factory=Templates)
    is_chat: bool = False
    shots: int | None = None
    draws: int = 1
    seed: int = 0
    prompts_without_labels: bool = False


def hide_personal_data(one: Written) -> tuple[Written, Counter[str]]:
    """Put the kind in brackets in the place of all personal data; returns how many pieces of each kind there were."""
    names = ("prompt", "instruction", "pairs", "use_case", "demonstrations", "rankings", "comparisons", "ratings")
    hidden = redact_row({"completions": [getattr(one, name) for name in names]})
    values = dict(zip(names, hidden.row["completions"], strict=True))
    values["pairs"] = [tuple(pair) for pair in values["pairs"]]
    return replace(one, **values), Counter(hidden.counts)


def rows_of(one: Written, split: Split, user: str | None, form: Form) -> Iterator[tuple[str, Row]]:
    """All rows that a prompt gives, each with the name of its file."""
    # Every row has every column, of one type: `datasets` takes the columns of a file from its first rows.
    about: Row = {"kind": one.kind, "user": user or "", "source": one.place, "use_case": one.use_case}
    suffix = "" if split == "train" else f"_{split}"
    prompts_file = "prompts" if split == "train" else f"{split}_prompts"
    for prompt, completion, more in _prompts(one, form):
        # A few-shot query with its response has a label too.
        if not (form.prompts_without_labels and split == "train" and (one.is_labelled or completion)):
            yield prompts_file, {"prompt": _asked(prompt, form)} | about | more
        for text in [*([completion] if completion else []), *one.demonstrations]:
            answer = _answer(prompt, text.rstrip() if isinstance(text, str) else text, form)
            yield f"demonstrations{suffix}", {"prompt": _asked(prompt, form), "completion": answer} | about | more
        yield from _judged(one, prompt, suffix, about, form)


def _prompts(one: Written, form: Form) -> Iterator[tuple[Text, str, Row]]:
    """Each prompt, the response that belongs to it, and what more there is to say."""
    if one.kind == "few_shot":
        for made in few_shot_prompts(
            form.templates, one.instruction, one.pairs, shots=form.shots, draws=form.draws, seed=form.seed
        ):
            yield made.prompt, made.completion, {"shots": made.n_shots}
    elif one.is_chat:
        yield one.prompt, "", {"shots": 0}
    elif one.kind == "use_case":
        yield form.templates.use_case.format(prompt=one.prompt, use_case=one.use_case), "", {"shots": 0}
    else:
        yield form.templates.plain.format(prompt=one.prompt), "", {"shots": 0}


def _judged(one: Written, prompt: Text, suffix: str, about: Row, form: Form) -> Iterator[tuple[str, Row]]:
    asked = _asked(prompt, form)
    pairs: list[tuple[Row, bool]] = []
    for completions, ranks, is_simulated in one.rankings:
        texts = [_answer(prompt, text, form) for text in completions]
        yield (
            f"rankings{suffix}",
            {"prompt": asked, "completions": texts, "ranks": ranks} | about | {"is_simulated": is_simulated},
        )
        pairs += [(pair, is_simulated) for pair in comparisons_of(asked, texts, ranks)]
    for chosen, rejected, is_simulated in one.comparisons:
        both = {"chosen": _answer(prompt, chosen, form), "rejected": _answer(prompt, rejected, form)}
        pairs.append(({"prompt": asked} | both, is_simulated))
    for number, judged in enumerate(pairs):
        pair, is_simulated = judged
        # Rankings and the pairs made of them are often given together.
        if pair["chosen"] != pair["rejected"] and judged not in pairs[:number]:
            yield f"comparisons{suffix}", pair | about | {"is_simulated": is_simulated}
    for text, rating, is_simulated in one.ratings:
        row = {"prompt": asked, "completion": _answer(prompt, text, form), "rating": rating}
        yield f"ratings{suffix}", row | about | {"is_simulated": is_simulated}


def _asked(prompt: Text, form: Form) -> Text:
    return [{"role": "user", "content": prompt}] if form.is_chat and isinstance(prompt, str) else prompt


def _answer(prompt: Text, text: Text, form: Form) -> Text:
    """A completion that stands behind its prompt: as a message, or as text with white space between the two."""
    if not isinstance(text, str):
        return text
    if form.is_chat:
        return [{"role": "assistant", "content": text.strip()}]
    joint = "" if not text or text[0].isspace() or prompt[-1:].isspace() else " "
    return joint + text


def words_in(rows: Iterable[Row]) -> list[int]:
    """Words of the prompt of each row."""
    return [len(_plain(row["prompt"]).split()) for row in rows]


def _plain(prompt: str | Sequence[Row]) -> str:
    return prompt if isinstance(prompt, str) else " ".join(str(one["content"]) for one in prompt)
