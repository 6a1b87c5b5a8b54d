"""Personal data and secrets in a text: where they stand, kind by kind (§3.1.1).

What looks like a number of some kind counts only when its check digits, its ranges or the word before it say so. One
function finds; counting (measure.py) and redacting (redact.py) both go by it, so that what is counted is what is
replaced.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address, IPv6Address

from herdbook.corpus.identities import IDENTITY, is_identity
from herdbook.corpus.secrets import PRIVATE_KEY, QUOTED, SECRET, STARTS, TOKEN_START, is_secret, may_hold_secret

EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.)+[a-zA-Z]{2,24}\b")
PHONE = re.compile(
    r"(?<![\w./:+-])(?:\+\d{1,3}[ \xa0.-]?)?(?:\(\d{1,5}\)[ \xa0.-]?)?\d{2,5}(?:[ \xa0.-]\d{2,7}){1,4}(?![\w/:]|[.-]\d)"
    r"|(?<![\w+])\+\d{9,14}\b"
)
DATE = re.compile(
    r"^(?:\d{4}[.-]\d{1,2}[.-]\d{1,2}|\d{1,2}[.-]\d{1,2}[.-]\d{2,4}|\d{4}\s?-\s?\d{4}|\d{1,3}(?:[\s.]\d{3})+"
    r"|\d+\.\d+(?:\.\d+)*|\d{1,4}-\d{1,4}|\d{4}[\s.-]\d{2})$"
)
GROUPED = re.compile(r"\d{3}[\s.-]\d{3,4}([\s.-]\d{3,4})?$")
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?:[ \xa0]?[A-Z0-9]{4}){2,7}(?:[ \xa0]?[A-Z0-9]{1,3})?\b")
CARD = re.compile(r"(?<![\d.-])\d{4}(?:[ -]?\d{4}){2}[ -]?\d{1,7}(?![\d.-])|(?<![\d.-])3[47]\d\d[ -]?\d{6}[ -]?\d{5}\b")
IPV4 = re.compile(r"(?<![\w.-])\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?![\w.]*\d)")
IPV6 = re.compile(r"(?<![\w:.])(?:[0-9a-fA-F]{1,4}:){2,7}(?::?[0-9a-fA-F]{1,4}){1,7}(?![\w:])")
_GERMAN = ["straße", "strasse", "weg", "gasse", "platz", "allee"]
_ROMANCE = ["rue", "calle", "via", "avenida"]
# Each begins with a character and looks back from it, so that most places are passed over without a try.
ENGLISH_STREET = re.compile(
    r"\d(?<!\w\d)\d{0,4}\s+(?:[A-Z][\w'.-]+\s+){1,3}"
    r"(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Boulevard|Blvd|Way|Court|Ct|Place|Pl)\b"
)
GERMAN_STREET = re.compile(rf"[A-ZÄÖÜ](?<!\w.)[\wäöüß-]+(?:{'|'.join(_GERMAN)})\s+\d{{1,4}}\b")
ROMANCE_STREET = re.compile(r"\b(?:rue|calle|via|avenida)\s+(?:[\w'-]+\s+){1,4}\d{1,4}\b")
DIGIT = re.compile(r"\d")
MARK = re.compile(r"\d[\d \xa0.()+-]{5}|::?[0-9a-fA-F]{1,4}:|\d\d[A-Z]\d\d[A-Z]|@")
"""What a line has in it that holds anything but an address of a street or a token; most lines have none."""


@dataclass(frozen=True)
class Kind:
    """One kind of personal data: its shape, what confirms it, and what has to stand in a text for it to be there."""

    name: str
    shape: re.Pattern[str]
    confirms: Callable[[str], bool]
    gate: Callable[[str], bool]


def is_phone(hit: str) -> bool:
    """Whether a run of digit groups is a telephone number and not a date, an amount or a version."""
    digits = sum(c.isdigit() for c in hit)
    if not 8 <= digits <= 15 or DATE.match(hit):
        return False
    return hit[0] in "+(0" or bool(GROUPED.match(hit))


def is_public_address(hit: str) -> bool:
    """Whether four numbers, or groups of hexadecimal ones, are an address of the internet and not a private one."""
    try:
        return (IPv6Address(hit) if ":" in hit else IPv4Address(hit)).is_global
    except AddressValueError:
        return False


def luhn(number: str) -> bool:
    """Whether the digits of a card number pass the Luhn check."""
    digits = [int(c) for c in number if c.isdigit()]
    if not 13 <= len(digits) <= 19 or len(set(digits)) < 2:
        return False
    total = 0
    for place, digit in enumerate(reversed(digits)):
        total += digit if place % 2 == 0 else sum(divmod(2 * digit, 10))
    return total % 10 == 0


def valid_iban(number: str) -> bool:
    """Whether an account number passes ISO 7064's mod-97 check."""
    compact = re.sub(r"\s", "", number).upper()
    if not 15 <= len(compact) <= 34:
        return False
    return int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1


def _with(text: str) -> Callable[[str], bool]:
    return lambda whole: text in whole


def _always(_: str) -> bool:
    return True


def _any_of(words: Iterable[str]) -> Callable[[str], bool]:
    known = tuple(words)
    return lambda whole: any(word in whole for word in known)


KINDS = (
    Kind("emails", EMAIL, _always, _with("@")),
    Kind("secrets", SECRET, is_secret, may_hold_secret),
    Kind("secrets", PRIVATE_KEY, _always, _with("PRIVATE KEY")),
    Kind("cards", CARD, luhn, _always),
    Kind("ibans", IBAN, valid_iban, _always),
    Kind("ids", IDENTITY, is_identity, _always),
    Kind("ips", IPV4, is_public_address, _always),
    Kind("ips", IPV6, is_public_address, _with(":")),
    Kind("phones", PHONE, is_phone, _always),
    Kind("addresses", ENGLISH_STREET, _always, _always),
    Kind("addresses", GERMAN_STREET, _always, _any_of(_GERMAN)),
    Kind("addresses", ROMANCE_STREET, _always, _any_of(word + space for word in _ROMANCE for space in " \t\n\xa0")),
)
"""In the order in which they claim their characters: a card number is no telephone number."""
STREETS = tuple(kind for kind in KINDS if kind.name == "addresses")
NAMES = tuple(dict.fromkeys(kind.name for kind in KINDS))


def find_personal(text: str, kinds: Iterable[str] = NAMES) -> Iterator[tuple[str, int, int]]:
    """(kind, start, end) of each item of the kinds asked for; no two overlap.

    Every kind but the last is looked for, asked or not, since one claims characters before another.
    """
    wanted, taken = set(kinds), bytearray(len(text))
    for kind in KINDS:
        if (kind.name == NAMES[-1] and kind.name not in wanted) or not kind.gate(text):
            continue
        mine = []
        for match in kind.shape.finditer(text):
            start, end = match.span(match.lastgroup or 0)  # a group is what an announcing word stands before
            if kind.confirms(match.group()) and not any(taken[start:end]):
                mine.append((start, end))
        for start, end in mine:
            taken[start:end] = bytes([1]) * (end - start)
            if kind.name in wanted:
                yield kind.name, start, end


def count_personal(text: str) -> dict[str, int]:
    """How many of each kind of personal data a text holds."""
    counts = dict.fromkeys(NAMES, 0)
    for name, _, _ in find_personal(marked_lines(text), NAMES[:-1]):
        counts[name] += 1
    if DIGIT.search(text):
        counts["addresses"] = sum(1 for kind in STREETS if kind.gate(text) for _ in kind.shape.finditer(text))
    if "PRIVATE KEY" in text:
        counts["secrets"] += sum(1 for _ in PRIVATE_KEY.finditer(text))
    return counts


def marked_lines(text: str) -> str:
    """The lines of a text that may hold something personal but street addresses, which has less to look at."""
    starts = {}
    patterns = [MARK, QUOTED] + ([TOKEN_START] if any(start in text for start in STARTS) else [])
    for pattern in patterns:
        match = pattern.search(text)
        while match:
            start, end = text.rfind("\n", 0, match.start()) + 1, text.find("\n", match.start())
            starts[start] = end if end >= 0 else len(text)
            match = pattern.search(text, end) if end >= 0 else None
    return "\n".join(text[start:end] for start, end in sorted(starts.items()))
