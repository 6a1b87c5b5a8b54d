"""Personal data is found by patterns that check; what only looks like it is left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herdbook.corpus.patterns import ADULT, count_adult, count_personal, luhn, valid_iban

FOUND = [
    ("write to anna.b+x@mail.example.org today", "emails"),
    ("card 4111 1111 1111 1111 exp", "cards"),
    ("IBAN DE89 3704 0044 0532 0130 00.", "ibans"),
    ("IBAN GB82WEST12345698765432", "ibans"),
    ("from 81.2.69.142 at noon", "ips"),
    ("SSN 078-05-1120", "ids"),
    ("call +44 7700 900123 or", "phones"),
    ("call (212) 555-0123 now", "phones"),
    ("tel. 030 23125 456", "phones"),
    ("lives at 12 Mill Lane, 40210", "addresses"),
    ("wohnt Hafenweg 7, Bremen", "addresses"),
]


@pytest.mark.parametrize(("text", "kind"), FOUND)
def test_each_kind_is_found_once(text: str, kind: str) -> None:
    counts = count_personal(text)
    assert counts[kind] == 1 and sum(counts.values()) == 1


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112", "DE89 3704 0044 0532 0130 01", "version 2.6.32 of 127.0.0.1", "2024-05-17",
        "1820 - 1901", "price 1 200 000", "3.14159 26535", "§12.3.4", "pages 100-200", "def f(x): return x@y",
    ],
)  # fmt: skip
def test_what_only_looks_like_it_is_left_alone(text: str) -> None:
    assert not any(count_personal(text).values())


@given(st.integers(10**12, 10**18 - 1))
def test_a_changed_digit_breaks_the_check(number: int) -> None:
    digits = str(number)
    good = next(digits + str(d) for d in range(10) if luhn(digits + str(d)) or len(set(digits + str(d))) < 2)
    changed = good[:3] + str((int(good[3]) + 1) % 10) + good[4:]
    assert not (luhn(good) and luhn(changed))


def test_account_numbers_are_checked() -> None:
    assert valid_iban("DE89370400440532013000") and not valid_iban("DE89370400440532013001")


@given(st.text(max_size=200))
def test_text_without_digits_or_at_signs_holds_nothing_personal(text: str) -> None:
    counts = count_personal(text)
    if "@" not in text:
        assert counts["emails"] == 0
    if not any(character.isnumeric() for character in text):
        assert not any(count for kind, count in counts.items() if kind != "emails")


def test_adult_words_are_lower_case_words_and_everyday_words_are_not_among_them() -> None:
    assert all(word == word.lower().strip() and " " not in word for word in ADULT)
    assert not ADULT & {"sexual", "breast", "cock", "bitch", "bite", "cum", "nue", "ass", "mare", "stallion"}
    assert count_adult(["free", "xxx", "porn", "and", "bread"]) == 2
