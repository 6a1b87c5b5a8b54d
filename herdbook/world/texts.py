"""Texts of pages that ought to be dropped: spam, adult words, personal data, gibberish.

All people and numbers are drawn at random; card and account numbers carry valid check digits (Luhn, ISO 13616),
because good detectors ask for them, and lie in ranges that issuers keep for tests where such ranges exist.
"""

from __future__ import annotations

import base64
import random
import string

from herdbook.world import filler
from herdbook.world.article import Block


def _paragraphs(*texts: str) -> tuple[Block, ...]:
    return tuple(Block("paragraph", text=text) for text in texts)


_GOODS = (
    "watches|sunglasses|running shoes|phone cases|handbags|insurance|"
    "printer ink|sofa covers|hair growth oil|casino bonus"
)
_OFFERS = (
    "buy cheap {x} online|best {x} discount outlet|{x} free shipping worldwide|"
    "order {x} now lowest price|top rated {x} sale today"
)


def spam(draw: random.Random) -> tuple[str, tuple[Block, ...]]:
    """(title, blocks) of a page that says the same few phrases many times."""
    goods = draw.choice(_GOODS.split("|"))
    offers = [offer.format(x=goods) for offer in draw.sample(_OFFERS.split("|"), 2)]
    brand = "".join(draw.choices(string.ascii_lowercase, k=6))
    texts = []
    for _ in range(draw.randint(3, 6)):
        phrases = [f"{draw.choice(offers)} {brand}" for _ in range(draw.randint(8, 16))]
        texts.append(" ".join(phrases) + ".")
    texts.insert(1, filler.sentence(draw))
    return f"{goods.title()} {brand} {draw.randint(10, 99)}", _paragraphs(*texts)


_ADULT = (
    "Free {a} {b} videos and {c} {d} online now.|Watch hot {c} {d} in {a} {b} clips, new every day.|"
    "Hundreds of {a} {d} galleries with {c} {b} pictures, adults only.|"
    "Join live {b} chat with {c} {d} tonight, xxx rated, 18+.|"
    "The biggest {a} tube: {c} {b}, {a} {d}, nude webcams and more porn."
)
_ADULT_WORDS = {
    "a": "porn|xxx|sex|hardcore|erotic|nsfw",
    "b": "sex|nude|webcam|striptease|fetish|erotica",
    "c": "horny|naked|sexy|nude|kinky|busty",
    "d": "milfs|babes|escorts|pornstars|camgirls|strippers",
}


def adult(draw: random.Random) -> tuple[str, tuple[Block, ...]]:
    """(title, blocks) of a page full of adult words; nothing is described."""

    def line() -> str:
        words = {slot: draw.choice(choices.split("|")) for slot, choices in _ADULT_WORDS.items()}
        return draw.choice(_ADULT.split("|")).format(**words)

    texts = [" ".join([line(), filler.sentence(draw), line()]) for _ in range(draw.randint(4, 9))]
    return f"Hot {draw.choice(_ADULT_WORDS['d'].split('|'))} xxx {draw.randint(1, 999)}", _paragraphs(*texts)


def luhn_digit(digits: str) -> str:
    """The check digit which makes `digits` + it pass the Luhn test."""
    total = 0
    for place, digit in enumerate(reversed(digits)):
        value = int(digit) * (2 if place % 2 == 0 else 1)
        total += value - 9 if value > 9 else value
    return str(-total % 10)


def card_number(draw: random.Random) -> str:
    """A card number of 16 digits in groups of four, in an issuer's test range."""
    digits = draw.choice(("411111", "555555", "400000")) + "".join(draw.choices(string.digits, k=9))
    digits += luhn_digit(digits)
    return " ".join(digits[start : start + 4] for start in range(0, 16, 4))


_IBAN_DIGITS = {"DE": 18, "ES": 20, "AT": 16, "BE": 12, "CH": 17}


def iban(draw: random.Random) -> str:
    """An account number by ISO 13616 in groups of four, with valid check digits (mod 97)."""
    country = draw.choice(sorted(_IBAN_DIGITS))
    account = "".join(draw.choices(string.digits, k=_IBAN_DIGITS[country]))
    letters = "".join(str(ord(letter) - 55) for letter in country)
    check = 98 - int(account + letters + "00") % 97
    whole = f"{country}{check:02d}{account}"
    return " ".join(whole[start : start + 4] for start in range(0, len(whole), 4))


_FIRST = "Anna|Bruno|Clara|David|Elif|Franz|Greta|Hugo|Ida|Jonas|Karin|Luca|Marta|Nils|Olga|Paul|Rosa|Sven|Tara|Yusuf"
_LAST = (
    "Abend|Brook|Costa|Dahl|Engel|Fuchs|Garcia|Hansen|Ivanov|Jansen|Keller|Lopez|Moreau|"
    "Novak|Olsen|Petit|Rossi|Silva|Weber"
)
_STREETS = (
    "Mill Lane|Station Road|Hafenweg|Rue du Port|Calle Mayor|Via Roma|Oak Avenue|Church Street|Lindenallee|Harbour Row"
)


_POSTS = ("example.com", "mail.example.org", "post.example.net")


def _person(draw: random.Random) -> dict[str, str]:
    first, last = draw.choice(_FIRST.split("|")), draw.choice(_LAST.split("|"))
    number = draw.randint(1, 999)
    phones = (
        f"+44 7700 900{draw.randint(0, 999):03d}",
        f"+1 212-555-01{draw.randint(0, 99):02d}",
        f"+49 30 23125 {draw.randint(0, 999):03d}",
        f"({draw.randint(201, 989)}) 555-01{draw.randint(0, 99):02d}",
    )
    return {
        "name": f"{first} {last}",
        "mail": f"{first}.{last}{number}@{draw.choice(_POSTS)}".lower(),
        "phone": draw.choice(phones),
        "address": f"{draw.randint(1, 240)} {draw.choice(_STREETS.split('|'))}, {draw.randint(10000, 99999)}",
        "born": f"{draw.randint(1, 28):02d}.{draw.randint(1, 12):02d}.{draw.randint(1945, 2005)}",
        "iban": iban(draw),
        "card": card_number(draw),
    }


def personal_data(draw: random.Random) -> tuple[str, tuple[Block, ...]]:
    """(title, blocks) of a page that lists people with addresses and numbers: as a table, as lines or as paragraphs."""
    people = [_person(draw) for _ in range(draw.randint(8, 25))]
    title = f"{draw.choice(('Members', 'Customers', 'Orders', 'Participants', 'Leads'))} {draw.randint(100, 9999)}"
    opening = Block("paragraph", text=filler.paragraph(draw, sentences=2))
    form = draw.randrange(3)
    if form == 0:
        keys = ("name", "mail", "phone", "iban", "card")
        rows = (tuple(key.title() for key in keys), *(tuple(person[key] for key in keys) for person in people))
        return title, (opening, Block("table", items=rows))
    if form == 1:
        lines = tuple(
            (f"{one['name']}, {one['address']}, {one['mail']}, {one['phone']}, {one['card']}",) for one in people
        )
        return title, (opening, Block("list", items=lines))
    texts = [
        f"{one['name']}, born {one['born']}, lives at {one['address']}; call {one['phone']} "
        f"or write to {one['mail']}. IBAN {one['iban']}."
        for one in people
    ]
    return title, (opening, *_paragraphs(*texts))


def gibberish(draw: random.Random, variant: int) -> tuple[str, tuple[Block, ...]]:
    """(title, blocks) without sense.

    Variants: 0 random letters, 1 few rare words over and over in random order, 2 words drawn evenly, 3 encoded bytes.
    """

    def letters() -> str:
        return "".join(draw.choices("qxzjvkwypbghfmcrlt", k=draw.randint(3, 11)))

    vocabulary = filler.words()
    rare = [letters() for _ in range(25)]
    weights = [1 / rank for rank in range(1, 26)]
    texts = []
    for _ in range(draw.randint(4, 8)):
        count = draw.randint(40, 70)
        if variant % 4 == 0:
            texts.append(" ".join(letters() for _ in range(count)))
        elif variant % 4 == 1:
            texts.append(" ".join(draw.choices(rare, weights, k=count)))
        elif variant % 4 == 2:
            texts.append(" ".join(draw.choices(vocabulary, k=count)))
        else:
            blob = base64.b64encode(draw.randbytes(count * 4)).decode()
            texts.append(" ".join(blob[start : start + 60] for start in range(0, len(blob), 60)))
    return " ".join(letters() for _ in range(3)), _paragraphs(*texts)
