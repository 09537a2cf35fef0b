"""Text that nobody vouches for, made safe to show: escaped, its invisible characters visible, its length folded."""

import re
import unicodedata
from collections.abc import Sequence

from markupsafe import Markup, escape

# Characters that HTML forbids, that cannot be encoded, or that change how their neighbours are shown
# without being seen themselves: controls, lone surrogates, direction marks, zero-width characters, noncharacters.
# Zero-width joiners stay: emoji and several scripts need them.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ufffe\uffff\ud800-\udfff\U000e0000-\U000e007f]"
)

FOLD_AT = 700  # characters shown before the rest is folded away
_FOLD_LINES = 14
_AROUND_SPAN = 220  # characters shown on each side of a marked span


def _picture(match: re.Match[str]) -> str:
    code = ord(match[0])
    if code < 0x20:
        return chr(0x2400 + code)  # the control pictures of Unicode: NUL is shown as one character
    return f"\N{MATHEMATICAL LEFT ANGLE BRACKET}U+{code:04X}\N{MATHEMATICAL RIGHT ANGLE BRACKET}"


def plain(text: str) -> str:
    """`text` with every invisible or forbidden character replaced by a visible name such as ⟨U+202E⟩."""
    return _INVISIBLE.sub(_picture, text)


def _spelled(match: re.Match[str]) -> str:
    code = ord(match[0])
    name = unicodedata.name(match[0], "control character")
    return f'<span class="control" title="U+{code:04X} {name.lower()}">{_picture(match)}</span>'


def marked(text: str) -> Markup:
    """`text` escaped for HTML, each invisible character as a labelled box."""
    return Markup(_INVISIBLE.sub(_spelled, str(escape(text))))  # escaped in this very line


def passage(text: str, span: Sequence[int] | None = None) -> Markup:
    """`text` as HTML: escaped, `span` highlighted, long text folded.

    Args:
        text: any text at all.
        span: start and end (exclusive) of the characters to highlight; the fold then leaves its surroundings open.

    Returns:
        Inline markup with `<details>` for the folded parts; nothing of the text is left out.
    """
    if not text:
        return Markup('<span class="none">(empty)</span>')
    start, end = _window(text, span)
    before = _fold(text, 0, start, span, "before")
    after = _fold(text, end, len(text), span, "after")
    return before + _piece(text, start, end, span) + after


def _window(text: str, span: Sequence[int] | None) -> tuple[int, int]:
    """The part of `text` that stays open; the whole of it when folding would save little."""
    if span is None:
        start, end = 0, _cut(text, FOLD_AT)
    else:
        start = max(0, span[0] - _AROUND_SPAN)
        end = min(len(text), span[1] + _AROUND_SPAN, span[0] + FOLD_AT)
    slack = FOLD_AT // 4
    return (0 if start <= slack else start), (len(text) if _is_short(text[end:], slack) else end)


def _is_short(rest: str, slack: int) -> bool:
    return len(rest) <= slack and rest.count("\n") < _FOLD_LINES


def _cut(text: str, limit: int) -> int:
    """A place to fold near `limit`, at a blank if one is close, and after at most a few lines."""
    end = min(len(text), limit)
    newlines = [match.end() for match in re.finditer("\n", text[:end])]
    if len(newlines) > _FOLD_LINES:
        return newlines[_FOLD_LINES - 1]
    blank = max(text.rfind(" ", end - 60, end), text.rfind("\n", end - 60, end)) if end < len(text) else -1
    return blank if blank > 0 else end


def _piece(text: str, start: int, end: int, span: Sequence[int] | None) -> Markup:
    """`text[start:end]` escaped, the part of `span` that falls in it inside `<mark>`."""
    if span is None or span[1] <= start or span[0] >= end:
        return marked(text[start:end])
    low, high = max(start, span[0]), min(end, span[1])
    highlight = Markup("<mark>{}</mark>").format(marked(text[low:high]))
    return marked(text[start:low]) + highlight + marked(text[high:end])


def _fold(text: str, start: int, end: int, span: Sequence[int] | None, side: str) -> Markup:
    if start >= end:
        return Markup("")
    label = f"{end - start:,} characters before" if side == "before" else f"Show all {len(text):,} characters"
    return Markup('<details class="fold"><summary>{}</summary>{}</details>').format(
        f"Show {label}" if side == "before" else label, _piece(text, start, end, span)
    )
