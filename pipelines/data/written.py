"""A prompt as a person wrote it, with all that people said of it."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from .templates import Kind, Pair

Text = Any
"""Text, or a list of chat messages."""


@dataclass
class Written:
    """One prompt before any template.

    Attributes:
        kind: which of the three.
        place: the row that it came from, as `file, row 1`.
        user: who wrote it, as the source says; None where it does not.
        prompt: of a plain prompt or one for a use case; else empty.
        instruction: of a few-shot prompt; else empty.
        pairs: the few-shot prompt's queries and responses.
        use_case: what the prompt is for; else empty.
        demonstrations: completions that people wrote.
        rankings: each a list of completions, their ranks, and whether a simulated labeler gave them.
        comparisons: each a chosen and a rejected completion, and the same.
        ratings: each a completion and its number, and the same.
        n_rows: how many rows of the sources it stands for.
        n_answered: how many of those a person answered.
        n_unclear: how many of those who saw it called it unclear, broken or personal.
    """

    kind: Kind
    place: str
    user: str | None = None
    prompt: Text = ""
    instruction: str = ""
    pairs: list[Pair] = field(default_factory=list)
    use_case: str = ""
    demonstrations: list[Text] = field(default_factory=list)
    rankings: list[tuple[list[Text], list[int], bool]] = field(default_factory=list)
    comparisons: list[tuple[Text, Text, bool]] = field(default_factory=list)
    ratings: list[tuple[Text, float, bool]] = field(default_factory=list)
    n_rows: int = 1
    n_answered: int = 0
    n_unclear: int = 0

    @property
    def is_chat(self) -> bool:
        """Whether the prompt is a list of messages."""
        return not isinstance(self.prompt, str)

    @property
    def is_labelled(self) -> bool:
        """Whether a person wrote or judged a completion."""
        has_pair = any(response for _, response in self.pairs)
        return has_pair or bool(self.demonstrations or self.rankings or self.comparisons or self.ratings)

    @property
    def texts(self) -> list[str]:
        """What the person wrote, part by part, without templates or the system message of a chat."""
        if self.kind == "few_shot":
            return [self.instruction, *(query for query, _ in self.pairs)]
        if isinstance(self.prompt, str):
            return [self.prompt]
        return [str(one["content"]) for one in self.prompt if one["role"] not in ("system", "developer")]

    @property
    def key(self) -> str:
        """Equal for prompts that differ in case and white space alone."""
        return folded(self.texts)

    @property
    def questions(self) -> list[str]:
        """What is asked: the prompt, or the queries, or the user's turns, without what others may well have too."""
        if self.kind == "few_shot":
            return [query for query, _ in self.pairs]
        return [str(one["content"]) for one in self.prompt if one["role"] == "user"] if self.is_chat else self.texts

    def absorb(self, other: "Written") -> None:
        """Take over what was said of the same prompt in another row."""
        self.pairs = list(dict.fromkeys([*self.pairs, *other.pairs]))
        self.use_case = self.use_case or other.use_case
        self.user = other.user if self.user is None else self.user
        self.demonstrations += [one for one in other.demonstrations if one not in self.demonstrations]
        self.rankings += other.rankings
        self.comparisons += other.comparisons
        self.ratings += other.ratings
        self.n_rows += other.n_rows
        self.n_answered += other.n_answered
        self.n_unclear += other.n_unclear


def folded(texts: Iterable[str]) -> str:
    """Texts as one, without case, and with one space for all white space."""
    return " ".join(" ".join(texts).split()).casefold()


def plain(text: Text) -> str:
    """Text, or the contents of messages one under the other."""
    return text if isinstance(text, str) else "\n\n".join(str(one["content"]) for one in text)


def completions_of(written: Written) -> Sequence[str]:
    """Every completion of a prompt, as plain text."""
    found = [*written.demonstrations, *(text for texts, _, _ in written.rankings for text in texts)]
    found += [text for chosen, rejected, _ in written.comparisons for text in (chosen, rejected)]
    found += [text for text, _, _ in written.ratings]
    return [*map(plain, found), *(response for _, response in written.pairs)]
