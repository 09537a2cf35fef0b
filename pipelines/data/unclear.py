"""Prompts that nobody could answer are told by rules, each with its reason."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

Reason = Literal["empty", "no_words", "garbled", "placeholder", "nothing_follows", "too_long"]
MOST_WORDS = 1000
MOST_GARBLED = 0.02  # share of characters

# Slots of a form that was sent without being filled in. Braces, or brackets alone, would hit code and mark-up.
PLACEHOLDER = re.compile(
    r"""\[\s*(?:insert|your|enter|add|paste|fill\ in|name\ of)\b[^\]\n]{0,60}\]
      | <\s*(?:insert|your|enter|paste)\b[^>\n]{0,60}>
      | \blorem\ ipsum\b | ^\s*(?:todo|tbd|test|asdf+|xxx+)\W*$""",
    re.IGNORECASE | re.VERBOSE,
)
# "Summarise the following article:" and then no article.
NOTHING_FOLLOWS = re.compile(
    r"\b(?:the|this|these|those)\s+(?:\w+\s+){0,2}(?:following|below)\b[^:\n]{0,80}:\s*$"
    r"|\b(?:the\s+)?following\b[^:.?!\n]{0,60}:\s*$|\b(?:here|below)\s+(?:is|are)\b[^:\n]{0,60}:\s*$",
    re.IGNORECASE,
)
LETTER = re.compile(r"[^\W\d_]")


def why_unclear(text: str, most_words: int = MOST_WORDS) -> Reason | None:
    """Tell why nobody could answer a prompt; None for one that is clear, as far as rules can tell.

    The rules are ours, and narrow: they find prompts that are broken, not those that are vague, for which people mark
    them on the page of `tunewell collect`. Bounds: the paper drops prompts of more than 1,000 tokens
    (https://arxiv.org/abs/2203.02155, appendix C); here words are counted, since no tokenizer is known yet.

    Args:
        text: the prompt as a model would read it.
        most_words: a longer one is too long.
    """
    words = len(text.split())
    if not words:
        return "empty"
    if not LETTER.search(text) and not re.search(r"\d\s*[-+*/x\u00d7\u00f7=^]\s*\d", text):  # a sum can be answered
        return "no_words"
    if _garbled(text) > MOST_GARBLED * len(text):
        return "garbled"
    if PLACEHOLDER.search(text):
        return "placeholder"
    if NOTHING_FOLLOWS.search(text):
        return "nothing_follows"
    return "too_long" if words > most_words else None


def text_of(prompt: str | Sequence[Mapping[str, Any]]) -> str:
    """What is judged: a text, or the last message of a chat, which is what is asked."""
    return prompt if isinstance(prompt, str) else str(prompt[-1]["content"])


def _garbled(text: str) -> int:
    """Characters that say that bytes were lost or misread: replacement, control, private use, UTF-8 read as Latin-1."""
    lost = sum(one == "\ufffd" or "\ue000" <= one <= "\uf8ff" or (one < " " and one not in "\n\r\t") for one in text)
    return lost + 2 * len(re.findall(r"[ÂÃ][\u0080-\u00bf]|â€", text))
