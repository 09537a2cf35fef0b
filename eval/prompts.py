"""Ways to put a question to a model, by name or as a template of one's own."""

import difflib
import string
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..toolkit.errors import DataError, MissingPackageError, ModelError, SettingsError
from ..toolkit.files import sha256_of

PLAIN = "Q: {question}\nA:"
# Written for this project: five things everybody agrees on, and one that nobody can know.
SIX_SHOTS = (
    ("How many days are there in a week?", "There are seven days in a week."),
    ("What do bees make from nectar?", "Bees make honey from nectar."),
    ("What number am I thinking of right now?", "I have no way of knowing that."),
    ("Who wrote the play Hamlet?", "William Shakespeare wrote the play Hamlet."),
    ("What is ice made of?", "Ice is made of frozen water."),
    ("Which ocean lies between Europe and North America?", "The Atlantic Ocean lies between them."),
)
_LM_EVAL_FILE = "tasks/truthfulqa/truthfulqa_mc1.yaml"


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """How a question becomes the text that an answer continues."""

    preset: str
    """Name of the preset, or the template itself."""
    context: Callable[[str], str]
    """From the question to the text before the answer."""
    delimiter: str = " "
    """What stands between that text and the answer."""

    @property
    def sha256(self) -> str:
        """Hash of the text around the question: two runs with the same hash asked in the same way."""
        return sha256_of([self.context("{question}"), self.delimiter])


def make_prompt(preset: str, tokenizer: Any = None) -> Prompt:
    """Find a preset.

    Args:
        preset: `none` (the question and an answer cue), `six` (six solved questions before it), `truthfulqa` (the
            benchmark's own six, read from the installed lm-eval), `chat` (the tokenizer's chat template, the question
            as the user's turn), or a template with `{question}` in it.
        tokenizer: needed by `chat`.

    Raises:
        SettingsError: no such preset, or a template without `{question}`.
        MissingPackageError: `truthfulqa` without lm-eval.
        ModelError: `chat` with a tokenizer that has no chat template.
    """
    if preset == "chat":
        return _chat(tokenizer)
    if preset in _PRESETS:
        return Prompt(preset=preset, context=_PRESETS[preset]())
    return Prompt(preset=preset, context=_template(preset))


def preset_faults(preset: str) -> list[str]:
    """What is wrong with a preset, before any model is loaded; whether a tokenizer can `chat` is its own to say."""
    try:
        if preset != "chat":
            make_prompt(preset)
    except SettingsError as error:
        return list(error.faults)
    except (MissingPackageError, DataError) as error:
        return [f"preset: {error}"]
    return []


def _plain() -> Callable[[str], str]:
    return lambda question: PLAIN.format(question=question)


def _six() -> Callable[[str], str]:
    shots = "".join(f"{PLAIN.format(question=question)} {answer}\n\n" for question, answer in SIX_SHOTS)
    return lambda question: shots + PLAIN.format(question=question)


def _template(template: str) -> Callable[[str], str]:
    try:
        names = {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}
    except ValueError as error:
        raise SettingsError([f"preset: {template!r} is not a template ({error}); write {{{{ for a brace"]) from error
    if names != {"question"}:
        known = [*_PRESETS, "chat"]
        near = difflib.get_close_matches(template, known, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise SettingsError(
            [f"preset: got {template!r}{hint}, wanted one of {', '.join(known)}, or a template with {{question}} in it"]
        )
    return lambda question: template.format(question=question)


def _truthfulqa() -> Callable[[str], str]:
    """The benchmark's own prompt, from the task file of the installed lm-eval: this project holds no copy of it."""
    # Imported here: both serve this preset alone.
    import jinja2
    import yaml

    found = find_spec("lm_eval")
    folders = list(found.submodule_search_locations or ()) if found else []
    if not folders:
        raise MissingPackageError("lm-eval", "the prompt preset 'truthfulqa'", extra="benchmarks")
    path = Path(folders[0]) / _LM_EVAL_FILE
    try:
        source = yaml.safe_load(path.read_text(encoding="utf-8"))["doc_to_text"]
        template = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=False).from_string(source)
        rendered = template.render(question="?")
    except (OSError, KeyError, TypeError, yaml.YAMLError, jinja2.TemplateError) as error:
        raise DataError(
            f"cannot read the prompt of TruthfulQA from {path}: {error}. Install lm-eval>=0.4.13, or take preset=six"
        ) from error
    if rendered.count("Q: ") != 7 or not rendered.endswith("Q: ?\nA:"):
        raise DataError(f"{path} does not hold six solved questions and an open one any more; take preset=six")
    return partial(_render, template)


def _render(template: Any, question: str) -> str:
    return str(template.render(question=question))


def _chat(tokenizer: Any) -> Prompt:
    if not getattr(tokenizer, "chat_template", None):
        raise ModelError("preset 'chat' needs a tokenizer with a chat template; this one has none: take preset=none")

    def context(question: str) -> str:
        turns = [{"role": "user", "content": question}]
        return str(tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True))

    return Prompt(preset="chat", context=context, delimiter=_chat_delimiter(tokenizer))


def _chat_delimiter(tokenizer: Any) -> str:
    """What the template writes between its cue and the assistant's words: a space, a line, nothing."""
    asked = [{"role": "user", "content": "QUESTION"}]
    answered = [*asked, {"role": "assistant", "content": "ANSWER"}]
    cue = str(tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True))
    whole = str(tokenizer.apply_chat_template(answered, tokenize=False))
    if not whole.startswith(cue) or "ANSWER" not in whole[len(cue) :]:
        return ""  # the template writes past turns differently from the cue (some drop a reasoning part)
    return whole[len(cue) : whole.index("ANSWER", len(cue))]


_PRESETS: dict[str, Callable[[], Callable[[str], str]]] = {"none": _plain, "six": _six, "truthfulqa": _truthfulqa}
