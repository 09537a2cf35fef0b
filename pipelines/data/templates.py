"""Templates put prompts of the three kinds into words."""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from string import Formatter
from typing import Literal

from ...toolkit.errors import SettingsError
from ...toolkit.files import sha256_of

Kind = Literal["plain", "few_shot", "use_case"]
Pair = tuple[str, str]
"""A query and its response; the response is empty where nobody wrote one."""


@dataclass(frozen=True, kw_only=True)
class Templates:
    """How a prompt is put together from what was written.

    Raises:
        SettingsError: a template lacks a part that it must hold, or names one that there is not; all of them at once.
    """

    plain: str = "{prompt}"
    """Of an arbitrary task; holds {prompt}."""

    few_shot: str = "{instruction}\n\n{shots}{query}"
    """Of an instruction with pairs; holds {instruction}, {shots} and {query}."""

    shot: str = "Input: {query}\nOutput: {response}\n\n"
    """Of one pair that is shown; holds {query} and {response}."""

    query: str = "Input: {query}\nOutput:"
    """Of the query that is to be answered; holds {query}."""

    use_case: str = "{prompt}"
    """Of a prompt for a use case; holds {prompt} and, where it is to be told to the model, {use_case}."""

    def __post_init__(self) -> None:
        parts = {
            "plain": ({"prompt"}, set[str]()),
            "few_shot": ({"instruction", "shots", "query"}, set[str]()),
            "shot": ({"query", "response"}, set[str]()),
            "query": ({"query"}, set[str]()),
            "use_case": ({"prompt"}, {"use_case"}),
        }
        faults = [
            fault
            for name, (must, may) in parts.items()
            if (fault := _fault(f"--{name.replace('_', '-')}-template", getattr(self, name), must, may))
        ]
        if faults:
            raise SettingsError(faults, "the templates")


@dataclass(frozen=True)
class FewShot:
    """One few-shot prompt.

    Attributes:
        prompt: all of it.
        completion: the response of the pair that was left out to be asked; empty where nobody wrote one.
        n_shots: how many pairs it shows.
    """

    prompt: str
    completion: str
    n_shots: int


def few_shot_prompts(
    templates: Templates, instruction: str, pairs: Sequence[Pair], *, shots: int | None, draws: int, seed: int
) -> list[FewShot]:
    """Ask every query once or more, each time behind other pairs.

    With K pairs there are K prompts with the K - 1 others in the context, as in Ouyang et al. 2022, appendix A.1
    (https://arxiv.org/abs/2203.02155). More `draws` ask every query again behind shots drawn anew, in another order;
    a draw that comes out like an earlier one is not repeated.

    Args:
        templates: how it is put.
        instruction: what every pair obeys.
        pairs: queries and responses; those without a response are asked but never shown.
        shots: pairs shown at most; None shows all others.
        draws: prompts for each query, at most.
        seed: decides which pairs are shown, and their order.
    """
    made: dict[str, FewShot] = {}
    for query, response in pairs:
        if not query:
            continue
        others = [pair for pair in pairs if pair[0] != query and all(pair)]
        for draw in range(draws):
            rng = random.Random(sha256_of([seed, instruction, query, draw]))
            shown = rng.sample(others, len(others) if shots is None else min(shots, len(others)))
            text = templates.few_shot.format(
                instruction=instruction,
                shots="".join(templates.shot.format(query=one, response=other) for one, other in shown),
                query=templates.query.format(query=query),
            )
            made.setdefault(text, FewShot(text, response, len(shown)))
    return list(made.values())


def _fault(option: str, template: str, must: set[str], may: set[str]) -> str:
    known = ", ".join(f"{{{name}}}" for name in sorted(must | may))
    try:
        # A bare name only: {prompt.real} or {prompt!r} would reach into Python.
        named = {
            name + (f"!{conversion}" if conversion else "") + (f":{form}" if form else "")
            for _, name, form, conversion in Formatter().parse(template)
            if name is not None
        }
    except ValueError as error:
        return f"{option}: got {template!r}, which has {error}; write {{{{ and }}}} for braces that are meant as such"
    if missing := must - named:
        return f"{option}: got {template!r}, wanted it to hold {', '.join(f'{{{one}}}' for one in sorted(missing))}"
    if strange := named - must - may:
        return f"{option}: got {template!r} with {{{sorted(strange)[0]}}}, wanted only {known}"
    return ""
