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
from typing import Any

from herdbook.corpus.identities import IDENTITY, is_identity
from herdbook.corpus.secrets import PRIVATE_KEY, QUOTED, SECRET, STARTS, TOKEN_START, is_secret, may_hold_secret
from herdbook.corpus.words import Words, cut

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
_ENGLISH = "Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Boulevard|Blvd|Way|Court|Ct|Place|Pl"
ENGLISH_WORDS = frozenset(_ENGLISH.lower().split("|"))
# Each begins with a character and looks back from it, so that most places are passed over without a try.
ENGLISH_STREET = re.compile(rf"\d(?<!\w\d)\d{{0,4}}\s+(?:[A-Z][\w'.-]+\s+){{1,3}}(?:{_ENGLISH})\b")
GERMAN_STREET = re.compile(rf"[A-ZÄÖÜ](?<!\w.)[\wäöüß-]+(?:{'|'.join(_GERMAN)})\s+\d{{1,4}}\b")
_NUMBERED = r"\s+(?:[\w'-]+\s+){1,4}\d{1,4}\b"
ROMANCE_STREET = re.compile(rf"\b(?:{'|'.join(_ROMANCE)}){_NUMBERED}")
ROMANCE_STREETS = {word: re.compile(rf"{word}(?<!\w{word}){_NUMBERED}") for word in _ROMANCE}
"""Each word's own, which is quicker: it tells whether the other one has anything to find."""
_SPACED = bytes(code for code in range(256) if chr(code) in ".()+-" or (chr(code).isspace() and chr(code) != "\n"))
SHAPES = bytes.maketrans(
    bytes(range(48, 58)) + bytes(range(65, 91)) + _SPACED, b"0" * 10 + b"A" * 26 + b" " * len(_SPACED)
)
"""Digits as 0, capitals as A, spaces and signs between groups of digits as a space."""
MARKED_SHAPES = (
    re.compile(rb"0(?:(?: {0,2}0){6}|0{0,2} 0{1,3} 0{1,3} 0|0{5}A000|0A00A)"),
    re.compile(rb"::?[0a-fA]{1,4}:"),
    re.compile(b"@"),
)
"""What a line has in it, in shapes, that holds anything but an address of a street or a token; most lines have none.
Each begins with one character, which is looked for at the speed of memory."""
ENGLISH_SHAPE = re.compile(rb"0{1,5}[ \n?]+A")
LONG = 20
"""Characters without a space between them that a token or a quoted secret has at least."""
LONG_QUOTED = re.compile(f"[\"'][A-Za-z0-9+/_=-]{{{LONG}}}")


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


def _having(pattern: str) -> Callable[[str], bool]:
    search = re.compile(pattern).search
    return lambda whole: search(whole) is not None


def _any_of(words: Iterable[str]) -> Callable[[str], bool]:
    known = tuple(words)
    return lambda whole: any(word in whole for word in known)


KINDS = (
    Kind("emails", EMAIL, _always, _with("@")),
    Kind("secrets", SECRET, is_secret, may_hold_secret),
    Kind("secrets", PRIVATE_KEY, _always, _with("PRIVATE KEY")),
    Kind("cards", CARD, luhn, _having(r"\d[\d -]{11}")),
    Kind("ibans", IBAN, valid_iban, _always),
    Kind("ids", IDENTITY, is_identity, _having(r"\d[\d .+A-Z-]{7}")),
    Kind("ips", IPV4, is_public_address, _having(r"\d\.\d{1,3}\.\d{1,3}\.\d")),
    Kind("ips", IPV6, is_public_address, _with(":")),
    Kind("phones", PHONE, is_phone, _always),
    Kind("addresses", ENGLISH_STREET, _always, _always),
    Kind("addresses", GERMAN_STREET, _always, _any_of(_GERMAN)),
    Kind("addresses", ROMANCE_STREET, _always, _any_of(word + space for word in _ROMANCE for space in " \t\n\xa0")),
)
"""In the order in which they claim their characters: a card number is no telephone number."""
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


def count_personal(text: str, words: Words | None = None) -> dict[str, int]:
    """How many of each kind of personal data a text holds; `words` are the text's, where they are cut already."""
    counts = dict.fromkeys(NAMES, 0)
    words = words or cut(text)
    for digit in words.digits:  # those of other scripts count as ours
        text = text.replace(digit, str(int(digit)))
    shapes = text.encode("latin-1", "replace").translate(SHAPES)
    marks: list[tuple[Any, re.Pattern[Any]]] = [(shapes, pattern) for pattern in MARKED_SHAPES]
    long = " ".join([piece for piece in words.pieces if len(piece) >= LONG])
    if LONG_QUOTED.search(long) or any(start in long for start in STARTS):
        marks += [(text, QUOTED), (text, TOKEN_START)]
    if marked := marked_lines(text, marks):
        for name, _, _ in find_personal(marked, NAMES[:-1]):
            counts[name] += 1
    if b"0" in shapes:
        counts["addresses"] = count_streets(text, shapes, words)
    if "PRIVATE KEY" in text:
        counts["secrets"] += sum(1 for _ in PRIVATE_KEY.finditer(text))
    return counts


def count_streets(text: str, shapes: bytes, words: Words) -> int:
    """How many street addresses a text holds."""
    count = end = 0
    for shape in () if words.vocabulary.isdisjoint(ENGLISH_WORDS) else ENGLISH_SHAPE.finditer(shapes):
        if shape.start() >= end and (match := ENGLISH_STREET.match(text, shape.start())):
            count, end = count + 1, match.end()
    if any(ending in text for ending in _GERMAN):
        count += sum(1 for _ in GERMAN_STREET.finditer(text))
    if any(ROMANCE_STREETS[word].search(text) for word in words.vocabulary.intersection(_ROMANCE)):
        count += sum(1 for _ in ROMANCE_STREET.finditer(text))
    return count


def marked_lines(
    text: str,
    marks: Iterable[tuple[Any, re.Pattern[Any]]],  # the text or its shapes, and what to look for in it
) -> str:
    """The lines of a text in which there is one of the marks."""
    starts = {}
    for place, pattern in marks:
        match = pattern.search(place)
        while match:
            start, end = text.rfind("\n", 0, match.start()) + 1, text.find("\n", match.start())
            starts[start] = end if end >= 0 else len(text)
            match = pattern.search(place, end) if end >= 0 else None
    return "\n".join([text[start:end] for start, end in sorted(starts.items())])
