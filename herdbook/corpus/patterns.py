"""Personal data and adult words, found by patterns that check what they find (§3.1.1).

A number is a card or an account only when its check digits say so; what merely looks like one is left alone.
"""

from __future__ import annotations

import re
from importlib import resources

EMAIL = re.compile(r"(?<![\w.+-])[\w.+-]{1,64}@(?:[\w-]{1,63}\.)+[a-zA-Z]{2,24}\b")
PHONE = re.compile(
    r"(?<![\w./:+-])(?:\+\d{1,3}[\s.-]?)?(?:\(\d{1,5}\)[\s.-]?)?\d{2,5}(?:[\s.-]\d{2,7}){1,4}(?![\w/:]|[.-]\d)"
    r"|(?<![\w+])\+\d{9,14}\b"
)
DATE = re.compile(
    r"^(?:\d{4}[.-]\d{1,2}[.-]\d{1,2}|\d{1,2}[.-]\d{1,2}[.-]\d{2,4}|\d{4}\s?-\s?\d{4}|\d{1,3}(?:[\s.]\d{3})+"
    r"|\d+\.\d+(?:\.\d+)*|\d{1,4}-\d{1,4}|\d{4}[\s.-]\d{2})$"
)
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?:\s?[A-Z0-9]{4}){2,7}(?:\s?[A-Z0-9]{1,3})?\b")
CARD = re.compile(r"(?<![\d.-])\d{4}(?:[ -]?\d{4}){2}[ -]?\d{1,7}(?![\d.-])")
IPV4 = re.compile(r"(?<![\d.])\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}(?![\d.])")
NATIONAL = re.compile(r"(?<![\d-])(?:\d{3}-\d{2}-\d{4})(?![\d-])")
STREET = re.compile(
    r"\b\d{1,5}\s+(?:[A-Z][\w'.-]+\s+){1,3}(?:Street|St|Avenue|Ave|Road|Rd|Lane|Ln|Drive|Dr|Boulevard|Blvd|Way|Court|Ct|Place|Pl)\b"
    r"|\b[A-ZÄÖÜ][\wäöüß-]+(?:straße|strasse|weg|gasse|platz|allee)\s+\d{1,4}\b|\b(?:rue|calle|via|avenida)\s+(?:[\w'-]+\s+){1,4}\d{1,4}\b"
)
DIGIT = re.compile(r"\d")


def count_personal(text: str) -> dict[str, int]:
    """How many of each kind of personal data a text holds: emails, phones, cards, ibans, ips, ids, addresses."""
    counts = {"emails": len(EMAIL.findall(text)) if "@" in text else 0}
    # All the rest has digits in it, which most lines have not.
    text = "\n".join(line for line in text.split("\n") if DIGIT.search(line))
    cards = [hit for hit in CARD.findall(text) if luhn(hit)]
    counts["cards"] = len(cards)
    counts["ibans"] = sum(valid_iban(hit) for hit in IBAN.findall(text))
    counts["ips"] = sum(is_public_address(hit) for hit in IPV4.findall(text))
    ids = NATIONAL.findall(text)
    counts["ids"] = len(ids)
    counts["phones"] = sum(is_phone(hit) for hit in PHONE.findall(text) if hit not in cards and hit not in ids)
    counts["addresses"] = len(STREET.findall(text))
    return counts


def is_phone(hit: str) -> bool:
    """Whether a run of digit groups is a telephone number and not a date, an amount or a version."""
    digits = sum(c.isdigit() for c in hit)
    if not 8 <= digits <= 15 or DATE.match(hit):
        return False
    return hit[0] in "+(0" or bool(re.match(r"\d{3}[\s.-]\d{3,4}([\s.-]\d{3,4})?$", hit))


def is_public_address(hit: str) -> bool:
    """Whether four numbers are an address of the internet, not a private one or something else with dots."""
    parts = [int(part) for part in hit.split(".")]
    private = parts[0] in (0, 10, 127, 255) or parts[:2] == [192, 168] or (parts[0] == 172 and 16 <= parts[1] < 32)
    return max(parts) < 256 and not private


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
    compact = number.replace(" ", "").upper()
    if not 15 <= len(compact) <= 34:
        return False
    return int("".join(str(int(c, 36)) for c in compact[4:] + compact[:4])) % 97 == 1


def _words(name: str) -> frozenset[str]:
    lines = resources.files("herdbook.corpus").joinpath(name).read_text(encoding="utf-8").splitlines()
    return frozenset(line.strip().lower() for line in lines if line.strip() and not line.startswith("#"))


ADULT = _words("adult_words.txt")
"""Words of adult sites in a dozen languages; a page is judged by their share, never by one of them."""


def count_adult(words: list[str]) -> int:
    """How many of the lower-case words are adult words."""
    return sum(word in ADULT for word in words)
