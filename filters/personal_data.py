"""E-mail addresses, phone numbers, card numbers and IP addresses are found in texts, to drop the text or hide them."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from ..toolkit.errors import SettingsError
from .base import Limit, Verdict, decide
from .personal_rules import Span, cards, emails, ip_addresses, known_regions, one_for_one, phones

Kind = Literal["card", "email", "ip_address", "phone"]
KINDS: tuple[Kind, ...] = get_args(Kind)
REGIONS = ("US", "GB")


@dataclass(frozen=True)
class PersonalDatum:
    """One piece of personal data in a text."""

    start: int
    "Its first character."

    end: int
    "The character after its last."

    kind: Kind
    "What it is."


@dataclass(frozen=True)
class Redacted:
    """A text without its personal data."""

    text: str
    "The text with the kind of each, in capitals and brackets, in its place: `[EMAIL]`."

    found: tuple[PersonalDatum, ...]
    "What was hidden, by its place in the original."


@dataclass(frozen=True, kw_only=True)
class PersonalDataFilter:
    """Drops texts that hold personal data that a rule can tell: e-mail, phone, card and IP addresses.

    Score: how many pieces of the kind that there is most of (each kind is measured by itself). The default, none
    allowed, is ours; https://arxiv.org/abs/2402.00159 drops documents with more than five pieces and hides those of the
    others, which is `max_found=5` followed by `redact`. Names, postal addresses, birthdays, and numbers of accounts and
    documents are not implemented: they need a model that reads, and then errors of another kind come in.

    Rules: e-mail by form, reserved example domains left out; phone numbers by the package phonenumbers (valid ones of
    the given regions, and of all countries where they begin with +; not free ones, which firms have), bare digits
    only behind a word such as "call";
    card numbers by length, issuer's prefix, grouping and check digit; public IP addresses, not those of private
    networks and not version numbers. docs/filters.md has precision and recall measured.

    Raises:
        SettingsError: kinds or regions that do not exist, or a negative bound.
    """

    kinds: tuple[Kind, ...] = KINDS
    "What is looked for."

    regions: tuple[str, ...] = REGIONS
    "Countries (ISO 3166, two letters) whose phone numbers are known without their + and country code."

    max_found: int = 0
    "A text with more pieces of one kind is dropped."

    name: str = "personal_data"
    "Names the filter in recipes and reports."

    def __post_init__(self) -> None:
        faults = [f"kinds: got {kind!r}, wanted some of {', '.join(KINDS)}" for kind in self.kinds if kind not in KINDS]
        if not self.kinds:
            faults.append(f"kinds: got none, wanted at least one of {', '.join(KINDS)}")
        unknown = [region for region in self.regions if region not in known_regions()]
        faults += [f"regions: got {region!r}, wanted a country such as US, GB or DE" for region in unknown]
        if self.max_found < 0:
            faults.append(f"max_found: got {self.max_found}, wanted 0 or more")
        if faults:
            raise SettingsError(faults, "the personal-data filter")

    @property
    def limits(self) -> tuple[Limit, ...]:
        """The bounds that stored scores are decided by; each reason has the name of its kind."""
        return tuple(Limit(kind, "above", self.max_found, kind) for kind in self.kinds)

    def judge(self, texts: Sequence[str]) -> list[Verdict]:
        """Give one verdict for each text; its span is the first piece of the kind that decides."""
        return [self._verdict(text) for text in texts]

    def find(self, text: str) -> list[PersonalDatum]:
        """Find all pieces of personal data, from left to right, none over another."""
        return find_personal_data(text, kinds=self.kinds, regions=self.regions)

    def _verdict(self, text: str) -> Verdict:
        found = self.find(text)
        counts = Counter(one.kind for one in found)
        verdict = decide({kind: float(counts[kind]) for kind in self.kinds}, self.limits)
        if not found:
            return verdict
        first = next((one for one in found if one.kind == verdict.reason), found[0])
        # The kind, not the datum: reports repeat what was matched.
        return verdict._replace(span=(first.start, first.end), matched=first.kind)


def find_personal_data(
    text: str, *, kinds: Sequence[Kind] = KINDS, regions: Sequence[str] = REGIONS
) -> list[PersonalDatum]:
    """Find personal data in a text.

    Args:
        text: any text.
        kinds: what is looked for.
        regions: see `PersonalDataFilter`.

    Returns:
        from left to right, none over another; where two kinds claim the same characters, the one that is surer.
    """
    left = one_for_one(text)
    finders: dict[Kind, Callable[[str], list[Span]]] = {  # the surest first
        "email": emails,
        "ip_address": ip_addresses,
        "card": cards,
        "phone": lambda text: phones(text, regions),
    }
    found: list[PersonalDatum] = []
    for kind, find in finders.items():
        # Again without what was found: a number hides the one beside it.
        while kind in kinds and (spans := find(left)):
            found += [PersonalDatum(start, end, kind) for start, end in spans]
            left = _without(left, spans)
    return sorted(found, key=lambda one: one.start)


def _without(text: str, spans: Sequence[Span]) -> str:
    """Break the text where something was found; every other character keeps its place."""
    parts, done = [], 0
    for start, end in sorted(spans):
        parts += [text[done:start], "\n" * (end - start)]
        done = end
    return "".join([*parts, text[done:]])


def redact(text: str, *, kinds: Sequence[Kind] = KINDS, regions: Sequence[str] = REGIONS) -> Redacted:
    """Hide personal data: each piece becomes its kind in capitals and brackets, `[PHONE]`.

    Args:
        text: any text.
        kinds: what is hidden.
        regions: see `PersonalDataFilter`.
    """
    found = find_personal_data(text, kinds=kinds, regions=regions)
    parts, done = [], 0
    for one in found:
        parts += [text[done : one.start], f"[{one.kind.upper()}]"]
        done = one.end
    return Redacted("".join([*parts, text[done:]]), tuple(found))
