"""The rules by which e-mail addresses, phone numbers, card numbers and IP addresses are told from other text."""

import ipaddress
import re
import sys
from collections.abc import Iterator, Sequence
from functools import cache

Span = tuple[int, int]  # start and end, in characters

FULL_WIDTH = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}

_AT = r"(?:@|\s?[\[(]\s?at\s?[\])]\s?)"
_DOT = r"(?:\.|\s?[\[(]\s?(?:dot|punkt)\s?[\])]\s?)"
_LABEL = r"[^\W_](?:[\w-]{0,61}[^\W_])?"
EMAIL = re.compile(
    rf"(?<![\w.%+/=-])[\w%+'-]+(?:{_DOT}[\w%+'-]+)*{_AT}{_LABEL}(?:{_DOT}{_LABEL})*{_DOT}[^\W\d_]{{2,24}}(?![\w@-])",
    re.IGNORECASE,
)
EMAIL_HINT = re.compile(r"@|[\[(]\s?at\s?[\])]", re.IGNORECASE)
# Set aside for examples by RFC 2606; nobody has an address there.
NO_ONES = re.compile(r"(?:^|[.@])(?:example\.(?:com|org|net|edu)|[\w-]+\.(?:example|test|invalid|localhost))$", re.I)

IPV4 = re.compile(r"(?<![\w.:/-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-])(?!\.\d)")
IPV6 = re.compile(r"(?<![\w:.])[23][0-9a-f]{3}(?::[0-9a-f]{0,4}){2,7}(?![\w:])", re.IGNORECASE)
NUMBERING = re.compile(
    r"(?:\b(?:version|release|section|chapter|clause|build|table|figure|ver|fig|sec|v)|§)\.?:?\s?$", re.IGNORECASE
)

CARD = re.compile(r"(?<![\w.,+-])\d(?:[ -]?\d){12,18}(?![\w-])(?![.,]\d)")
CODE = re.compile(r"[ -]\d{2,4}$")
CARD_GROUPS = ((4, 4, 4, 4), (4, 6, 5), (4, 6, 4), (4, 4, 4, 4, 3))
# Issuers' first digits, and how many digits their numbers have.
ISSUERS = (
    (re.compile(r"4"), (13, 16)),  # Visa
    (re.compile(r"5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720"), (16,)),  # Mastercard
    (re.compile(r"3[47]"), (15,)),  # American Express
    (re.compile(r"6011|64[4-9]|65"), (16, 19)),  # Discover
    (re.compile(r"35(?:2[89]|[3-8])"), (16,)),  # JCB
    (re.compile(r"30[0-5]|3[689]"), (14,)),  # Diners Club
    (re.compile(r"62"), (16, 17, 18, 19)),  # UnionPay
    (re.compile(r"5018|5020|5038|5893|6304|6759|676[1-3]"), (16, 18, 19)),  # Maestro
)

DECIMAL = re.compile(r"(?<![\d.])\d{1,3}\.\d{5,}")

# A package asked only where there are enough digits close together: it takes a hundred times longer than looking.
PHONE_HINT = re.compile(r"\d(?:[^\w\n]{0,3}\d){6}")
PHONE_WORD = re.compile(
    r"\b(?:phone|tel|telephone|mobile|cell|cellphone|fax|call|calls|called|text|texts|dial|ring|sms|whatsapp|number|"
    r"contact|reach|handy|telefon|tél|tel[ée]fono)\b[^\w\n]*(?:\w+[^\w\n]+){0,4}$",
    re.IGNORECASE,
)
WORD_REACH = 60  # characters before a number in which such a word may stand


def one_for_one(text: str) -> str:
    """Write full-width letters, digits and signs as plain ones; every character keeps its place."""
    return text if text.isascii() else text.translate(FULL_WIDTH)


def emails(text: str) -> list[Span]:
    """Find e-mail addresses, also those written with [at] and [dot]."""
    if not EMAIL_HINT.search(text):
        return []
    return [match.span() for match in EMAIL.finditer(text) if not NO_ONES.search(match.group())]


def ip_addresses(text: str) -> list[Span]:
    """Find public IP addresses of both versions; a numbering such as "section 1.2.3.4" is none."""
    found = [match for match in IPV4.finditer(text) if not _is_numbering(text, match.start())]
    found += IPV6.finditer(text) if "::" in text or text.count(":") >= 7 else ()
    return sorted(match.span() for match in found if _is_public(match.group()))


def cards(text: str) -> list[Span]:
    """Find card numbers: an issuer's prefix and length, grouped as on a card or not at all, with its check digit."""
    found = []
    for match in CARD.finditer(text):
        # Behind the number may stand when it expires, or its check code.
        ends = [match.end(), *(match.start() + one.start() for one in CODE.finditer(match.group()))]
        if (end := next((end for end in ends if _is_card(text[match.start() : end])), None)) is not None:
            found.append((match.start(), end))
    return found


def phones(text: str, regions: Sequence[str]) -> list[Span]:
    """Find valid phone numbers: with + of any country, without it of the given ones."""
    if not PHONE_HINT.search(text):
        return []
    others = (*IPV4.finditer(text), *CARD.finditer(text), *DECIMAL.finditer(text))
    is_taken = bytearray(len(text))
    for start, end in (match.span() for match in others if _cannot_be_a_phone(match.group())):
        is_taken[start:end] = b"\1" * (end - start)
    found: list[Span] = []
    for start, end in sorted(set(_phone_matches(text, regions)), key=lambda span: (span[0], -span[1])):
        if not any(is_taken[start:end]) and _looks_like_a_phone(text, start, end):
            is_taken[start:end] = b"\1" * (end - start)
            found.append((start, end))
    return found


@cache
def known_regions() -> frozenset[str]:
    """Countries that the package knows."""
    import phonenumbers

    return frozenset(phonenumbers.SUPPORTED_REGIONS)


def _phone_matches(text: str, regions: Sequence[str]) -> Iterator[Span]:
    # Loaded with the first number: its tables take a while.
    import phonenumbers

    for region in regions or (None,):
        for match in phonenumbers.PhoneNumberMatcher(
            text, region, leniency=phonenumbers.Leniency.VALID, max_tries=sys.maxsize
        ):
            # Numbers of firms and help lines are nobody's.
            if phonenumbers.number_type(match.number) not in _shared_types():
                # "(+44 20 7946 0321)": of a pair of brackets around the number the package takes one.
                is_open = match.raw_string.startswith("(") and ")" not in match.raw_string
                yield match.start + is_open, match.end


@cache
def _shared_types() -> frozenset[int]:
    from phonenumbers import PhoneNumberType as Type

    return frozenset((Type.TOLL_FREE, Type.PREMIUM_RATE, Type.SHARED_COST, Type.UAN, Type.VOICEMAIL))


def _looks_like_a_phone(text: str, start: int, end: int) -> bool:
    """Digits in a row may be anything; they are a phone number behind a word that says so."""
    number = text[start:end]
    if not number.isdigit():
        return True
    return PHONE_WORD.search(text, max(0, start - WORD_REACH), start) is not None


def _cannot_be_a_phone(number: str) -> bool:
    """Whether what looks like an address, a card or a decimal number is too much like it to be a phone number."""
    return "." in number or sum(char.isdigit() for char in number) > 15


def _is_numbering(text: str, at: int) -> bool:
    """Whether a word such as "section" stands before a place."""
    return NUMBERING.search(text, max(0, at - 12), at) is not None


def _is_public(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    return found.is_global and not found.is_multicast


def _is_card(number: str) -> bool:
    groups = tuple(map(len, re.split("[ -]", number)))
    digits = re.sub("[ -]", "", number)
    is_issued = any(prefix.match(digits) and len(digits) in lengths for prefix, lengths in ISSUERS)
    return is_issued and (len(groups) == 1 or groups in CARD_GROUPS) and has_check_digit(digits)


def has_check_digit(digits: str) -> bool:
    """Whether the last digit is the one that Luhn's formula gives (ISO/IEC 7812-1)."""
    doubled = (divmod(2 * int(digit), 10) for digit in digits[-2::-2])
    return (sum(map(int, digits[::-2])) + sum(tens + ones for tens, ones in doubled)) % 10 == 0
