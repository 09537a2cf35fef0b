"""Which prompts stay: each once, the clear ones, and no more than so many of one user."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from .templates import Templates
from .unclear import text_of, why_unclear
from .written import Written, folded


@dataclass(frozen=True)
class Dropped:
    """A prompt that was left out.

    Attributes:
        prompt: the prompt.
        reason: in one word of a few.
        detail: what decided, where the reason does not say it all.
    """

    prompt: Written
    reason: str
    detail: str = ""


def merge_equal(prompts: Iterable[Written]) -> list[Written]:
    """Make one of prompts that differ in case and white space alone; what was said of each is kept."""
    found: dict[tuple[bool, bool, str], Written] = {}
    for one in prompts:
        # An empty one is like no other, so that each is dropped and counted by itself.
        key = (one.kind == "few_shot", one.is_chat, one.key or f"\0{one.place}")
        first = found.setdefault(key, one)
        if first is not one:
            first.absorb(one)
    return list(found.values())


def drop_unclear(
    prompts: Sequence[Written], templates: Templates, most_words: int
) -> tuple[list[Written], list[Dropped]]:
    """Drop prompts that people marked as unclear and nobody answered, and those that rules tell."""
    kept, dropped = [], []
    for one in prompts:
        if one.n_unclear > one.n_answered:
            detail = f"{one.n_unclear} of {one.n_unclear + one.n_answered} who saw it"
            dropped.append(Dropped(one, "marked_unclear", detail))
        elif reason := _unclear(one, templates, most_words):
            dropped.append(Dropped(one, reason))
        else:
            kept.append(one)
    return kept, dropped


def drop_common_prefixes(prompts: Sequence[Written], characters: int) -> tuple[list[Written], list[Dropped]]:
    """Of prompts that begin alike, keep one: a labelled one before others, else the first.

    The paper looks for a long common prefix (https://arxiv.org/abs/2203.02155, section 3.2) and names no length.

    Args:
        prompts: no two of them equal.
        characters: so many, counted without case and with one space for all white space, are a long prefix; prompts
            that are shorter are told apart by what they are.
    """
    first: dict[str, Written] = {}
    for one in prompts:
        prefix = folded(one.texts)[:characters]
        if prefix not in first or (one.is_labelled and not first[prefix].is_labelled):
            first[prefix] = one
    kept = [one for one in prompts if first[folded(one.texts)[:characters]] is one]
    dropped = [
        Dropped(one, "common_prefix", f"as {other.place}")
        for one in prompts
        if (other := first[folded(one.texts)[:characters]]) is not one
    ]
    return kept, dropped


def limit_users(prompts: Sequence[Written], most: int, seed: int) -> tuple[list[Written], list[Dropped]]:
    """Keep so many prompts of each user, labelled ones before others; among those a hash decides.

    Prompts of nobody known are not limited.
    """
    counts: Counter[str] = Counter()
    stays = set()
    for one in sorted(prompts, key=lambda one: (not one.is_labelled, share_of(seed, one.key))):
        if one.user is None or counts[one.user] < most:
            stays.add(id(one))
            counts[one.user or ""] += 1
    kept = [one for one in prompts if id(one) in stays]
    return kept, [Dropped(one, "over_user_limit") for one in prompts if id(one) not in stays]


def share_of(seed: int, text: str) -> float:
    """A number from 0 up to 1 that a text has under a seed."""
    digest = hashlib.sha256(f"{seed}\x1f{text}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8]) / 2**64


def _unclear(one: Written, templates: Templates, most_words: int) -> str | None:
    if one.kind != "few_shot":
        reason = why_unclear(text_of(one.prompt), most_words)
        # "22" asks for nothing by itself, but may well answer a question in the middle of a chat.
        return None if reason == "no_words" and len(one.texts) > 1 else reason
    if not one.instruction.strip():
        return "empty"
    if not any(query for query, _ in one.pairs):
        return "no_query"
    shown = templates.query.format(query=one.pairs[0][0])
    pairs = " ".join(response for _, response in one.pairs)
    return why_unclear(f"{one.instruction}\n{pairs}\n{shown}", most_words)
