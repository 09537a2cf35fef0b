"""Pairs of words that name the same thing of two groups, such as she and he."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import DataError
from ..model.tokens import encode_plain

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

GENDER = Path(__file__).parent / "lists" / "gender.txt"
Pair = tuple[str, str]


def read_pairs(path: str | Path | None = None) -> tuple[Pair, ...]:
    """Read pairs, two words a line, lines that begin with # left out; without a path the bundled list of gender.

    Raises:
        DataError: every line that is no pair, and every word that has two counterparts.
    """
    path = Path(path or GENDER).expanduser()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the word pairs {path}: {error}") from error
    pairs: list[Pair] = []
    faults: list[str] = []
    for number, line in enumerate(lines, start=1):
        words = line.lower().replace(",", " ").split()
        if not words or words[0].startswith("#"):
            continue
        if len(words) != 2 or not all(word.isalpha() for word in words):
            faults.append(f"line {number}: got {line.strip()!r}, wanted two words of letters")
        else:
            pairs.append((words[0], words[1]))
    return checked(pairs, str(path), faults)


def checked(pairs: Sequence[Pair], where: str, faults: Sequence[str] = ()) -> tuple[Pair, ...]:
    """Refuse pairs that contradict each other; a pair that is there twice is taken once.

    Raises:
        DataError: there is none, a word is its own counterpart, or has two.
    """
    found, counterpart = list(faults), dict[str, str]()
    for first, second in pairs:
        if first == second:
            found.append(f"{first!r} is its own counterpart")
        for word, other in ((first, second), (second, first)):
            if counterpart.setdefault(word, other) != other:
                found.append(f"{word!r} has two counterparts, {counterpart[word]!r} and {other!r}: keep one")
    if not pairs and not found:
        found.append("it holds no pair")
    if found:
        raise DataError(f"the word pairs {where} cannot be used:\n" + "\n".join(f"  - {fault}" for fault in found))
    return tuple(dict.fromkeys(pairs))


@dataclass(frozen=True)
class TokenPairs:
    """Pairs of which each word is one token, and those that are not."""

    first: tuple[int, ...]
    second: tuple[int, ...]
    left_out: tuple[Pair, ...]

    def warning(self) -> str | None:
        """A sentence about the pairs that are left out."""
        if not self.left_out:
            return None
        some = ", ".join("/".join(pair) for pair in self.left_out[:5])
        return (
            f"{len(self.left_out)} word pairs are left out, because one of their words is not a single token of this "
            f"tokenizer: {some}{', ...' if len(self.left_out) > 5 else ''}"
        )


def token_pairs(pairs: Sequence[Pair], tokenizer: "PreTrainedTokenizerBase") -> TokenPairs:
    """The token of each word as it stands within a sentence, behind a space.

    Raises:
        DataError: no pair is left.
    """
    ids = {word: word_token(word, tokenizer) for pair in pairs for word in pair}
    kept = [pair for pair in pairs if ids[pair[0]] is not None and ids[pair[1]] is not None]
    if not kept:
        raise DataError(
            f"none of {len(pairs)} word pairs consists of single tokens of this tokenizer, such as "
            f"{'/'.join(pairs[0]) if pairs else 'none'}: give pairs of commoner words (mitigations.pairs=FILE)"
        )
    first, second = (tuple(int(ids[pair[side]] or 0) for pair in kept) for side in (0, 1))
    return TokenPairs(first, second, tuple(pair for pair in pairs if pair not in kept))


def word_token(word: str, tokenizer: "PreTrainedTokenizerBase") -> int | None:
    """The token of a word behind a space; None when the word is several tokens or is not in the vocabulary."""
    ids = encode_plain(tokenizer, f" {word}")
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        return None
    return ids[0]
