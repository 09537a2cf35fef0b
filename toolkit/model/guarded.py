"""Tokens are drawn so that the text they spell never holds what a guard objects to.

What is judged is the text, as it would be returned, and not the tokens: no other way to cut a phrase into tokens gets
past. Of the tokens in the order in which they would be drawn, the first that leads to no objection is taken, which is
what masking all others would give, but asks the guard about one token where masking asks about the vocabulary.

A listed word may be the beginning of a longer, innocent one ("ass" of "assistant"): it may stand at the end of a text
that goes on. Should the model then end the word, the text goes back to where the word began, and no listed phrase may
be even begun there a second time.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from transformers import LogitsProcessor, StoppingCriteria

from .returned_text import HALF_CHARACTER, TextReader
from .text_guard import TextGuard

MOST_REWINDS = 8
"After this many the completion goes on without them: no listed word is begun anymore, as part of a longer one or not."


@dataclass
class Draft:
    """A completion under way.

    Attributes:
        seed: of its random stream.
        room: tokens it may have.
        ids: tokens so far; no text up to any of them holds a decided objection.
        text: theirs.
        pending: where in the text an objection begins that may still pass; None: there is none.
        barred: places of the text where no objection may begin, whatever may follow.
        refused: draws that the guard refused.
        rewinds: how often the text went back.
        is_done: whether it is complete, or cannot go on.
        is_stuck: whether the model wants to end a word to which the guard objects.
    """

    seed: int
    room: int
    ids: list[int] = field(default_factory=list)
    text: str = ""
    pending: int | None = None
    barred: set[int] = field(default_factory=set)
    refused: int = 0
    rewinds: int = 0
    is_done: bool = False
    is_stuck: bool = False

    @property
    def own_seed(self) -> int:
        """Seed of the present attempt: a text that went back does not repeat its draws."""
        return random.Random(f"{self.seed} {self.rewinds}").getrandbits(62) if self.rewinds else self.seed

    def rewind(self, guard: TextGuard, reader: TextReader) -> None:
        """Go back to the longest text that ends before the objection, which is barred from now on."""
        place = self.pending or 0
        while self.ids and len(self.text) > place:
            self.ids.pop()
            self.text = reader.decode(self.ids)
        self.barred.add(place)
        self.rewinds += 1
        self.is_done = self.is_stuck = False
        self.pending = next((found.start for found in guard.objections(self.text)), None)


class GuardedChoice(LogitsProcessor):
    """Puts the first acceptable token of every row in front.

    Args:
        guard: objects to texts.
        drafts: one per row, brought up to date with every token.
        choosers: the steps of sampling; the highest score after them is the draw.
        reader: gives the text of ids.
    """

    def __init__(
        self, guard: TextGuard, drafts: Sequence[Draft], choosers: Sequence[LogitsProcessor], reader: TextReader
    ) -> None:
        self.guard, self.drafts, self.choosers, self.reader = guard, drafts, choosers, reader

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        """Choose from scores (B, V)."""
        drawn = scores
        for chooser in self.choosers:
            drawn = chooser(input_ids, drawn)
        first = drawn.argmax(dim=-1).tolist()
        for row, draft in enumerate(self.drafts):
            if draft.is_done:
                continue
            token = self._extend(draft, first[row], drawn[row], scores[row])
            if token != first[row]:
                drawn = drawn.clone() if drawn is scores else drawn  # type: ignore[assignment]
                drawn[row, token] = torch.inf
        return drawn

    def _extend(self, draft: Draft, first: int, drawn: Tensor, raw: Tensor) -> int:
        """Add a token to a draft, or mark it as done; what is returned for a draft that cannot go on is not read."""
        if self._accept(draft, first):
            return first
        if draft.pending is not None:
            draft.is_stuck = draft.is_done = True
            return first
        for token in _others(first, drawn, raw):
            if self._accept(draft, token):
                return token
        draft.is_done = True  # whatever came next would be objected to
        while draft.ids and self.guard.objections(self.reader.read(draft.ids)[0]):
            draft.ids.pop()
        return first

    def _accept(self, draft: Draft, token: int) -> bool:
        """Add a token unless the text with it is objected to."""
        whole = self.reader.decode_next(draft.ids, draft.text, token)
        text, has_ended = self.reader.cut(whole, has_end=token in self.reader.ends)
        is_final = has_ended or len(draft.ids) + 1 >= draft.room
        # The first bytes of a character are no character yet, and end no word.
        found = self.guard.objections(text if is_final else text.rstrip(HALF_CHARACTER))
        is_strict = is_final or draft.rewinds >= MOST_REWINDS
        if any(is_strict or not one.may_pass or one.start in draft.barred for one in found):
            draft.refused += 1
            return False
        draft.ids, draft.text, draft.pending = [*draft.ids, token], whole, found[-1].start if found else None
        draft.is_done = is_final
        return True


class DoneDrafts(StoppingCriteria):
    """Ends the rows whose drafts are done."""

    def __init__(self, drafts: Sequence[Draft]) -> None:
        self.drafts = drafts

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **kwargs: object) -> torch.BoolTensor:
        """Tell for each row of (B, T) whether it is finished."""
        is_done = [draft.is_done for draft in self.drafts]
        return torch.tensor(is_done, device=input_ids.device)  # type: ignore[return-value]


def _others(first: int, drawn: Tensor, raw: Tensor) -> Iterator[int]:
    """Tokens in the order in which they would be drawn, then those that sampling had left out, the likeliest first."""
    order = drawn.argsort(descending=True).tolist()
    n_drawn = int((drawn > -torch.inf).sum())
    yield from (token for token in order[:n_drawn] if token != first)
    rest = sorted(order[n_drawn:], key=raw.tolist().__getitem__, reverse=True)
    yield from (token for token in rest if raw[token] > -torch.inf)
