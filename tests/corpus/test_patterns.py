"""Personal data is found by patterns that check; what only looks like it is left alone."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herdbook.corpus.patterns import ADULT, count_adult
from herdbook.corpus.personal import KINDS, NAMES, count_personal, find_personal, luhn, valid_iban

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


IDENTITIES = [
    "123.456.789-09", "12345678Z", "X1234567L", "RSSMRA85T10A562S", "1 85 05 78 006 084 91", "11010519491231002X",
    "131052-308T", "19811218-9876", "PESEL 44051401359", "BSN: 111222333", "Steuer-ID 86095742719", "SIN 046 454 286",
    "NHS number 943 476 5919", "Aadhaar 2341 2341 2346",
]  # fmt: skip


@pytest.mark.parametrize("number", IDENTITIES)
def test_a_national_number_counts_only_with_its_check_digit(number: str) -> None:
    assert count_personal(f"known as {number} since")["ids"] == 1
    place = next(i for i in reversed(range(len(number))) if number[i].isdigit())
    broken = f"{number[:place]}{(int(number[place]) + 1) % 10}{number[place + 1 :]}"
    assert count_personal(f"known as {broken} since")["ids"] == 0


SECRETS = [
    "ghp_aB3dE5fG7hJ9kL1mN2pQ4rS6tU8vW0xY1zA2", "AKIAQ7RZ3XNMJ2LP5TWK", "xoxb-2847563910-Kd83jfPq92LxZm47",
    "AIzaSyD3kf92LmQx7Rt5Wv1Bn8Jh4Gc6Pz0aUeY", 'api_key = "Zk93hfQ2mXv7LpR4tWb8"', "sk-proj-q8Rk3Lx92MvTzB47HjWn",
    "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI0MjE5In0.k3Jx8Qm2Lr9Tz4Wb7Vn1Hp6Gd",
]  # fmt: skip


@pytest.mark.parametrize("secret", SECRETS)
def test_keys_and_tokens_are_found(secret: str) -> None:
    assert count_personal(f"use {secret} here") == {**dict.fromkeys(NAMES, 0), "secrets": 1}


@pytest.mark.parametrize(
    "text",
    [
        "AKIAIOSFODNN7EXAMPLE", "ghp_" + "x" * 36, 'token = "your-token-goes-here-please"', "sk-learn-and-more-things",
        "password: " + '"' + "a" * 24 + '"', "git commit 3f786850e387550fdab836ed7e6dc881de23001b",
    ],
)  # fmt: skip
def test_examples_of_keys_are_no_keys(text: str) -> None:
    assert count_personal(text)["secrets"] == 0


@pytest.mark.parametrize(
    ("text", "count"),
    [("at 2a00:1450:4001:82a::200e now", 1), ("::1 and fe80::1 and 2001:db8::5", 0), ("at 12:30:45 and a::b::c", 0)],
)
def test_addresses_of_the_internet_in_version_six(text: str, count: int) -> None:
    assert count_personal(text)["ips"] == count


@given(st.text(max_size=80), st.sampled_from([text for text, _ in FOUND] + IDENTITIES + SECRETS), st.text(max_size=80))
def test_items_never_overlap_and_stand_where_they_are_said_to(before: str, item: str, after: str) -> None:
    text = f"{before} {item} {after}"
    spans = sorted((start, end) for _, start, end in find_personal(text))
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))


@given(
    st.lists(
        st.sampled_from([t for t, _ in FOUND] + IDENTITIES + SECRETS + ["a line", "12 Mill", "x::y", "12345678Z"]),
        max_size=9,
    )
)
def test_looking_at_marked_lines_alone_finds_as_much_as_looking_at_all(lines: list[str]) -> None:
    text = "\n".join(lines)
    counts = dict.fromkeys(NAMES, 0)
    for name, _, _ in find_personal(text):
        counts[name] += 1
    assert count_personal(text) == counts


STREET_PARTS = [
    "12", "7 ", "123456", "A.5", "Mill", "Lane", "Oak", "Street", "Old\u2003Way", "3\u2003Hill", "5\nHigh", "rue",
    "via", "de la", "Altweg", "Hauptstraße",
]  # fmt: skip


@given(st.lists(st.sampled_from(STREET_PARTS), max_size=12).map(" ".join))
def test_streets_are_counted_as_their_patterns_find_them(text: str) -> None:
    found = sum(len(kind.shape.findall(text)) for kind in KINDS if kind.name == "addresses")
    assert count_personal(text)["addresses"] == found


def test_digits_of_other_scripts_count_as_ours() -> None:
    counts = count_personal("call +٤٤ ٧٧٠٠ ٩٠٠١٢٣ or go to ۱۲ Mill Lane")
    assert counts == {**dict.fromkeys(NAMES, 0), "phones": 1, "addresses": 1}


def test_a_private_key_is_one_secret() -> None:
    body = "\n".join(["MIIEpAIBAAKCAQEA3Tz2mr7SZiAMfQyuvBjM9OiJjRazXBZ1BjP5CE"] * 4)
    assert (
        count_personal(f"key:\n-----BEGIN RSA PRIVATE KEY-----\n{body}\n-----END RSA PRIVATE KEY-----\n")["secrets"]
        == 1
    )
