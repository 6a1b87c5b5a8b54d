"""National identity, tax and social-security numbers of a dozen countries, told by their check digits (§3.1.1).

A number without a form of its own (nine or eleven digits say little) counts only after a word that announces it.
"""

from __future__ import annotations

import re
from datetime import date

_FORMS = (
    r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])"  # United States
    r"|(?<![\w.])\d{3}\.\d{3}\.\d{3}-\d{2}(?!\d)"  # Brazil
    r"|(?<![\w-])(?:\d{8}|[XYZ]\d{7})-?[A-HJ-NP-TV-Z](?![\w-])"  # Spain
    r"|(?<!\w)[A-Z]{6}\d{2}[A-EHLMPRST]\d{2}[A-Z]\d{3}[A-Z](?!\w)"  # Italy
    r"|(?<!\w)[12] ?\d{2} ?(?:0[1-9]|1[0-2]) ?\d{2} ?\d{3} ?\d{3} ?\d{2}(?!\w)"  # France
    r"|(?<!\w)[1-9]\d{5}(?:19|20)\d{2}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])\d{3}[\dX](?!\w)"  # China
    r"|(?<![\w-])\d{6}[+A-]\d{3}[0-9A-FHJ-NPR-Y](?![\w-])"  # Finland
    r"|(?<![\w-])(?:\d{2})?\d{6}[-+]\d{4}(?![\w-])"  # Sweden
)
_ANNOUNCED = (
    r"(?:PESEL|BSN|burgerservicenummer|Steuer-?(?:ID|Identifikationsnummer)|IdNr|CPF|Aadhaar|SIN|NHS)"
    r"\b[^\d\n]{0,20}(?P<it>\d[\d ]{7,13}\d)(?!\d)"
)
IDENTITY = re.compile(rf"{_FORMS}|(?i:\b{_ANNOUNCED})")


def is_identity(hit: str) -> bool:
    """Whether the check digits of one of the countries hold for what has the form of a number."""
    if hit[0] in "PpBbSsIiCcAaNn" and (announced := re.match(r"(?i)[a-z][a-z-]+", hit)) and re.search(r"[^\w]", hit):
        digits = re.sub(r"\D", "", hit)
        return any(check(digits) for check in _BY_NAME[announced.group().lower()[:3]])
    compact = hit.replace(" ", "")
    return any(form.fullmatch(compact) and check(compact) for form, check in _BY_FORM)


def _weighted(digits: str, weights: tuple[int, ...]) -> int:
    return sum(int(digit) * weight for digit, weight in zip(digits, weights))


def us(number: str) -> bool:
    """Social security: ranges that are given out (there is no check digit)."""
    area, group, serial = number.split("-")
    return area not in ("000", "666") and area < "900" and group != "00" and serial != "0000"


def brazil(number: str) -> bool:
    """CPF: two digits mod 11."""
    digits = re.sub(r"\D", "", number)
    if len(digits) != 11 or len(set(digits)) == 1:
        return False
    first = _weighted(digits, tuple(range(10, 1, -1))) * 10 % 11 % 10
    second = _weighted(digits, tuple(range(11, 1, -1))) * 10 % 11 % 10
    return digits[9:] == f"{first}{second}"


def spain(number: str) -> bool:
    """DNI and NIE: a letter mod 23."""
    body = number.replace("-", "")
    value = int(body[:-1].translate(str.maketrans("XYZ", "012")))
    return "TRWAGMYFPDXBNJZSQVHLCKE"[value % 23] == body[-1]


_ODD = dict(zip("0123456789", (1, 0, 5, 7, 9, 13, 15, 17, 19, 21))) | dict(
    zip(
        "ABCDEFGHIJKLMNOPQRSTUVWXYZ",
        (1, 0, 5, 7, 9, 13, 15, 17, 19, 21, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23),
    )
)


def italy(number: str) -> bool:
    """Codice fiscale: a letter mod 26, odd places by a table."""
    even = sum(int(c) if c.isdigit() else ord(c) - 65 for c in number[1:15:2])
    return chr(65 + (sum(_ODD[c] for c in number[0:15:2]) + even) % 26) == number[15]


def france(number: str) -> bool:
    """NIR: two digits, 97 less the rest mod 97."""
    return int(number[13:]) == 97 - int(number[:13]) % 97


def china(number: str) -> bool:
    """Resident identity: ISO 7064 mod 11-2."""
    weights = tuple(pow(2, 17 - place, 11) for place in range(17))
    return "10X98765432"[_weighted(number, weights) % 11] == number[17]


def _is_day(day: str, month: str) -> bool:
    try:
        date(2000, int(month), int(day))
    except ValueError:
        return False
    return True


def finland(number: str) -> bool:
    """Henkilötunnus: a character mod 31 after a day of birth."""
    mark = "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(number[:6] + number[7:10]) % 31]
    return _is_day(number[:2], number[2:4]) and mark == number[10]


def sweden(number: str) -> bool:
    """Personnummer: Luhn over ten digits after a day of birth."""
    digits = re.sub(r"\D", "", number)[-10:]
    doubled = [int(d) * (2 - place % 2) for place, d in enumerate(digits)]
    return _is_day(digits[4:6], digits[2:4]) and sum(sum(divmod(value, 10)) for value in doubled) % 10 == 0


def poland(digits: str) -> bool:
    """PESEL: mod 10."""
    return len(digits) == 11 and (_weighted(digits, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3)) + int(digits[10])) % 10 == 0


def netherlands(digits: str) -> bool:
    """BSN: the eleven test."""
    return len(digits) == 9 and len(set(digits)) > 1 and _weighted(digits, (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0


def germany(digits: str) -> bool:
    """Tax identification: ISO 7064 mod 11,10."""
    if len(digits) != 11 or digits[0] == "0":
        return False
    product = 10
    for digit in digits[:10]:
        total = (int(digit) + product) % 10 or 10
        product = total * 2 % 11
    return (11 - product) % 10 == int(digits[10])


def canada(digits: str) -> bool:
    """Social insurance: Luhn over nine digits."""
    doubled = [int(d) * (1 + place % 2) for place, d in enumerate(digits)]
    return len(digits) == 9 and sum(sum(divmod(value, 10)) for value in doubled) % 10 == 0


def britain(digits: str) -> bool:
    """NHS number: mod 11."""
    return len(digits) == 10 and (11 - _weighted(digits, tuple(range(10, 1, -1))) % 11) % 11 == int(digits[9])


_TURN = (1, 5, 7, 6, 2, 8, 3, 0, 9, 4)


def _dihedral(one: int, two: int) -> int:
    """Product in the dihedral group of ten elements."""
    if one < 5:
        return (one + two) % 5 if two < 5 else (one + two - 5) % 5 + 5
    return (one - 5 - two) % 5 + 5 if two < 5 else (one - two) % 5


def india(digits: str) -> bool:
    """Aadhaar: Verhoeff."""
    if len(digits) != 12 or digits[0] in "01":
        return False
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit)
        for _ in range(place % 8):
            value = _TURN[value]
        total = _dihedral(total, value)
    return total == 0


_BY_FORM = tuple(
    (re.compile(form), check)
    for form, check in (
        (r"\d{3}-\d{2}-\d{4}", us),
        (r"\d{3}\.\d{3}\.\d{3}-\d{2}", brazil),
        (r"(?:\d{8}|[XYZ]\d{7})-?[A-Z]", spain),
        (r"[A-Z]{6}\d{2}[A-Z]\d{2}[A-Z]\d{3}[A-Z]", italy),
        (r"[12]\d{14}", france),
        (r"\d{17}[\dX]", china),
        (r"\d{6}[+A-]\d{3}[0-9A-Y]", finland),
        (r"(?:\d{2})?\d{6}[-+]\d{4}", sweden),
    )
)
_BY_NAME = {
    "pes": (poland,), "bsn": (netherlands,), "bur": (netherlands,), "ste": (germany,), "idn": (germany,),
    "cpf": (brazil,), "aad": (india,), "sin": (canada,), "nhs": (britain,),
}  # fmt: skip
