"""A blocklist objects to listed phrases while a model writes, by the same rules by which it filters."""

from dataclasses import dataclass

from ..toolkit.model.text_guard import Objection
from .blocklist import Blocklist


@dataclass(frozen=True)
class BlocklistGuard:
    """Keeps listed words and phrases out of what a model writes: `generate(..., guard=BlocklistGuard(patterns))`.

    Words are found as `BlocklistFilter` finds them: folded, as whole words, in any tokens. A list knows no meaning,
    and the model says what it means in other words, or in a spelling that the list does not see; how much the tone of
    a model changes by this has to be measured (`tunewell eval`).
    """

    patterns: Blocklist
    "The list."

    leetspeak: bool = False
    "Whether digits and symbols inside words are read as letters too."

    def objections(self, text: str) -> list[Objection]:
        """Find the listed phrases in a text; one at its end may pass if a letter behind it would hide it."""
        hits = self.patterns.find(text, leetspeak=self.leetspeak)
        if not hits:
            return []
        # The list itself is asked: a last word that goes on is another word, but not where boundaries do not count.
        longer = self.patterns.find(text + "a", leetspeak=self.leetspeak)
        decided = {(hit.start, hit.end) for hit in longer if hit.end <= len(text)}
        pending = {(hit.start, hit.end) for hit in hits} - decided
        return [Objection(*span, may_pass=span in pending) for span in sorted(decided | pending)]
