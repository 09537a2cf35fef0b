"""A conversation with a model in the terminal: turns, the window they must fit, and text that streams."""

import unicodedata
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from jinja2 import TemplateError
from transformers import LogitsProcessor

from ..toolkit.errors import DataError
from ..toolkit.model.generation import Completion, Sampling, generate, window_of
from ..toolkit.model.text_guard import TextGuard
from .model_source import answering
from .prompt_form import PromptForm

if TYPE_CHECKING:
    from ..toolkit.mitigations.decoding import Erasure
    from ..toolkit.mitigations.gate_settings import GateSettings
    from ..toolkit.model.stack import ModelStack

Write = Callable[[str], None]
_STAND_INS = {"Zs": " ", "Zl": "\n", "Zp": "\n", "Cf": ""}  # by category
_SAFE_CONTROLS = "\n\t"


@dataclass(frozen=True)
class Answer:
    """What the model said."""

    text: str
    """The answer, without white space around it."""
    is_cut: bool
    """Whether it ran into the limit of new tokens."""
    forgotten: int
    """Earlier turns that no longer fitted the model's window and were left out of the prompt."""


@dataclass
class Conversation:
    """Turns with a model. Asked in plain text, it has no memory: every question stands alone, as in training."""

    stack: "ModelStack"
    form: PromptForm
    sampling: Sampling
    seed: int = 0
    system: str = ""
    """What the system message says; only under a chat template."""
    turns: list[dict[str, str]] = field(default_factory=list)
    """Messages so far, those of the system left out."""
    guard: TextGuard | None = None
    """Keeps listed phrases out of the answers; these then come whole, since a word begun may be taken back."""
    gate: "GateSettings | None" = None
    """The model judges its own answers, which then come whole; see `toolkit.mitigations.gate`."""
    erasure: "Erasure | None" = None
    """What the output layer does not get to read."""
    _asked: int = 0

    def ask(self, text: str, write: Write = lambda text: None) -> Answer:
        """Say something and get the answer, which becomes part of the conversation.

        Args:
            text: what the user says.
            write: called with each piece of the answer as it comes, made safe for a terminal.

        Raises:
            DataError: `text` alone does not fit the model's window.
        """
        ids, forgotten = self._prompt(text)
        self._asked += 1
        listener = _Listener(self.stack.tokenizer, len(ids), write)
        with answering(self.stack) as model, self.erasure.acting(self.stack.base) if self.erasure else nullcontext():
            done = self._gated(model, ids) if self.gate else self._plain(model, ids, listener)
        listener.finish(done.text)
        answer = done.text.strip()
        self.turns += [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        return Answer(printable(answer), not done.ended, forgotten)

    def retry(self, write: Write = lambda text: None) -> Answer | None:
        """Take the last answer back and ask again with another seed; None where nothing was asked yet."""
        if not self.turns:
            return None
        last = self.turns[-2]["content"]
        del self.turns[-2:]
        return self.ask(last, write)

    def reset(self) -> None:
        """Forget all turns."""
        self.turns.clear()

    def _plain(self, model: Any, ids: list[int], listener: "_Listener") -> Completion:
        return generate(
            model,
            self.stack.tokenizer,
            [ids],
            self.sampling,
            seeds=[self.seed + self._asked],
            logits_processors=[] if self.guard else [listener],
            guard=self.guard,
        )[0]

    def _gated(self, model: Any, ids: list[int]) -> Completion:
        """An answer behind the gate; what a user wrote can be no control token."""
        from ..toolkit.mitigations.control_tokens import without_control
        from ..toolkit.mitigations.gate import gated_generate

        assured: Any = self.gate
        asked = without_control(self.stack.tokenizer, ids)
        seeds = [self.seed + self._asked]
        (done,) = gated_generate(model, self.stack.tokenizer, [asked], self.sampling, assured, seeds=seeds)
        return Completion(done.ids, done.text, len(done.ids) < self.sampling.max_new_tokens)

    def _prompt(self, text: str) -> tuple[list[int], int]:
        """Token ids of the prompt, and how many of the oldest turns had to be left out for it to fit."""
        if not self.form.is_chat:
            whole = self.form.template.format(question=text) if self.form.template else text
            ids = [int(token) for token in self.stack.tokenizer(whole)["input_ids"]]
            return self._fitting(ids), 0
        for start in range(0, len(self.turns) + 1, 2):
            ids = self._chat_ids([*self.turns[start:], {"role": "user", "content": text}])
            if self._fits(ids):
                return ids, start
        return self._fitting(ids), len(self.turns)

    def _chat_ids(self, turns: Sequence[dict[str, str]]) -> list[int]:
        system = [{"role": "system", "content": self.system}] if self.system else []
        template: Any = self.stack.tokenizer.apply_chat_template
        try:
            text = template([*system, *turns], tokenize=False, add_generation_prompt=True)
        except TemplateError as error:
            raise DataError(
                f"the model's chat template refuses this conversation ({error}): leave --system out"
            ) from error
        return [int(token) for token in self.stack.tokenizer(text, add_special_tokens=False)["input_ids"]]

    def _fits(self, ids: Sequence[int]) -> bool:
        from ..toolkit.mitigations.gate_settings import room_needed

        window = window_of(self.stack.base)
        needed = room_needed(self.sampling, self.gate) if self.gate else self.sampling.max_new_tokens
        return window is None or len(ids) + needed <= window

    def _fitting(self, ids: list[int]) -> list[int]:
        if not ids:
            raise DataError("got an empty prompt, wanted some text")
        if not self._fits(ids):
            raise DataError(
                f"this takes {len(ids)} tokens, and with {self.sampling.max_new_tokens} for the answer that is more "
                f"than the model's window of {window_of(self.stack.base)}: say it in fewer words, or start again with "
                "a smaller --max-new-tokens"
            )
        return ids


def printable(text: str) -> str:
    """Text without control characters: a model could write escape sequences that a terminal obeys.

    What only joins or turns letters goes; for all else something stands in its place, so that no new word comes about.
    """
    return "".join(
        char if char.isprintable() or char in _SAFE_CONTROLS else _STAND_INS.get(unicodedata.category(char), "\ufffd")
        for char in text.replace("\r\n", "\n")
    )


class _Listener(LogitsProcessor):
    """Writes the text of the new tokens as they come; it changes no logits, so the answer is that of `generate`."""

    def __init__(self, tokenizer: Any, prompt_length: int, write: Write) -> None:
        self.tokenizer = tokenizer
        self.prompt_length = prompt_length
        self.write = write
        self.written = ""

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Called before each token is chosen, with all tokens so far (1, T)."""
        self._show(str(self.tokenizer.decode(input_ids[0, self.prompt_length :], skip_special_tokens=True)))
        return scores

    def finish(self, text: str) -> None:
        """Write what is left of the whole text."""
        self._show(text, is_whole=True)

    def _show(self, text: str, *, is_whole: bool = False) -> None:
        if not is_whole:
            text = text.rstrip("\ufffd")  # the rest of the character comes with the next token
        text = text.lstrip()
        if text.startswith(self.written) and len(text) > len(self.written):
            self.write(printable(text[len(self.written) :]))
            self.written = text
