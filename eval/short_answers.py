"""Short answers held against references as SQuAD v2 does: exact match, and F1 of the words they share."""

import re
import string
from collections import Counter
from collections.abc import Sequence

_ARTICLES = re.compile(r"\b(?:a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(answer: str) -> str:
    """`answer` in small letters without punctuation, articles and double spaces.

    Source: the evaluation script of SQuAD v2 (Rajpurkar, Jia & Liang 2018, https://arxiv.org/abs/1806.03822).
    """
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(answer: str, references: Sequence[str]) -> float:
    """1 where the answer is one of the references after normalisation, else 0."""
    return float(any(normalised(answer) == normalised(reference) for reference in references))


def answer_f1(answer: str, references: Sequence[str]) -> float:
    """F1 of shared words with the nearest reference; no answer agrees with no answer alone."""
    return max(
        (_f1(normalised(answer).split(), normalised(reference).split()) for reference in references), default=0.0
    )


def _f1(first: list[str], second: list[str]) -> float:
    if not first or not second:
        return float(first == second)
    shared = (Counter(first) & Counter(second)).total()
    return 2 * shared / (len(first) + len(second))
