"""The form in which a model was asked while it was trained: chat messages, or plain text around a question."""

from dataclasses import dataclass
from pathlib import Path

from ..toolkit.data.rows import read_rows
from ..toolkit.errors import SettingsError
from ..toolkit.files import read_json
from ..toolkit.stage import RECORD
from .model_source import RUN, ModelSource

FORM = "prompt_form.json"
"""The file of an exported folder that keeps the form."""


@dataclass(frozen=True)
class PromptForm:
    """How to ask a model."""

    is_chat: bool
    """Chat messages under the tokenizer's template; else plain text."""
    template: str | None = None
    """Plain text with `{question}` in it; None: what is typed is the whole prompt."""

    def as_text(self) -> str:
        """In words, for people."""
        if self.is_chat:
            return "chat messages"
        return f"plain text, {self.template!r}" if self.template else "plain text"


def prompt_form(source: ModelSource) -> PromptForm:
    """Find out how a model is to be asked: as the rows of its run are, else as its exported folder says, else by chat.

    Raises:
        DataError: the run's rows cannot be read.
    """
    kept = Path(source.base) / FORM
    if source.run is None:
        return PromptForm(**read_json(kept)) if kept.is_file() else PromptForm(is_chat=True)
    record = read_json(source.run / RUN)
    folder = source.run / next(iter(record["stages"].values()))["folder"]
    data = source.run / read_json(folder / RECORD)["artifacts"]["data"]
    first = read_rows(data / "demonstrations.jsonl", limit=1)[0]["prompt"]
    if not isinstance(first, str):
        return PromptForm(is_chat=True)
    preset = record["settings"]["eval"]["preset"]
    return PromptForm(is_chat=False, template=preset if "{question}" in preset else None)


def given_form(text: str) -> PromptForm:
    """The form that a user names: `chat`, `plain`, or a text with `{question}` in it.

    Raises:
        SettingsError: neither.
    """
    if text in ("chat", "plain"):
        return PromptForm(is_chat=text == "chat")
    if "{question}" not in text:
        raise SettingsError(
            [f"--template: got {text!r}, wanted chat, plain, or a text with {{question}} in it"], "the command line"
        )
    return PromptForm(is_chat=False, template=text)
