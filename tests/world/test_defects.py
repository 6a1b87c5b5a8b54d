"""Pages with a label have what the label says, measured by other means than those that made it."""

from __future__ import annotations

import random
import re
from collections import Counter
from itertools import pairwise
from urllib.parse import urlsplit

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from herdbook.settings import UserError
from herdbook.world import filler, texts
from herdbook.world.article import Article, Block
from herdbook.world.defects import EXPECTED, DefectSettings, cut_characters, edit_words, lose_characters, misdeclare
from herdbook.world.library import articles
from herdbook.world.pages import Page, Planner
from herdbook.world.settings import WorldSettings
from tests.support.worlds import tiny_pages


def pages_of(kind: str) -> list[Page]:
    found = [page for page in tiny_pages() if page.defect == kind]
    assert len(found) >= 4
    return found


def words(text: str) -> list[str]:
    return re.findall(r"\w+", text.lower())


def levenshtein(ours: list[str], theirs: list[str]) -> int:
    row = list(range(len(theirs) + 1))
    for i, a in enumerate(ours, 1):
        before, row[0] = row[0], i
        for j, b in enumerate(theirs, 1):
            before, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, before + (a != b))
    return row[-1]


def test_every_kind_of_defect_is_there_and_most_pages_have_none() -> None:
    counts = Counter(page.defect for page in tiny_pages())
    assert set(counts) == set(EXPECTED)
    assert min(counts.values()) >= 4
    assert counts[""] > len(tiny_pages()) / 2


def test_the_default_world_has_enough_of_each_kind_for_statistics() -> None:
    # 4,000 articles are fewer than the default world has.
    assert all(DefectSettings().pages(kind, 4_000) >= 60 for kind in EXPECTED if kind)
    assert DefectSettings(thin=0).pages("thin", 4_000) == 0


def test_a_world_too_small_for_its_defects_says_so() -> None:
    found = list(articles(WorldSettings.tiny()))[:30]
    with pytest.raises(UserError, match=r"articles are left for .* pages"):
        Planner(DefectSettings(least=20, mirrored_site=0), found, 1).plan()


def test_every_article_stands_once_without_label_or_with_a_label_that_is_kept() -> None:
    good = Counter(page.article.slug for page in tiny_pages() if EXPECTED[page.defect] == "kept")
    assert good == Counter(article.slug for article in articles(WorldSettings.tiny()))


@given(st.integers(0, 2**32), st.integers(1, 15))
@settings(max_examples=40, deadline=None)
def test_edits_change_as_many_words_as_asked(seed: int, edits: int) -> None:
    draw = random.Random(seed)
    text = "\n".join(filler.paragraph(draw, "en", 2) for _ in range(4))
    changed = edit_words(draw, text, edits, ["zzz", "yyy", "xxx", "www"])
    distance = levenshtein(text.split(), changed.split())
    assert max(1, edits - 1) <= distance <= edits
    assert changed.count("\n") == text.count("\n")


def test_near_duplicates_differ_by_their_edit_rate() -> None:
    rates = set()
    for page in pages_of("near_duplicate"):
        assert page.original is not None
        ours, theirs = page.article.clean_text().split(), page.original.article.clean_text().split()
        wished = (0.01, 0.03, 0.05)[page.variant % 3]
        rates.add(wished)
        measured = levenshtein(ours, theirs) / len(theirs)
        assert measured == pytest.approx(page.edit_rate, abs=0.006)
        assert page.edit_rate == pytest.approx(wished, abs=0.5 / len(theirs) + 1e-9) or page.edit_rate == 1 / len(
            theirs
        )
        assert page.url != page.original.url
    assert rates == {0.01, 0.03, 0.05}


def test_exact_and_mirrored_copies_have_the_text_of_their_original() -> None:
    for page in pages_of("exact_duplicate") + pages_of("mirrored_site"):
        assert page.original is not None
        assert page.article.clean_text() == page.original.article.clean_text()
        assert page.url != page.original.url


def test_a_mirror_holds_the_whole_site_at_the_same_paths() -> None:
    copies = pages_of("mirrored_site")
    (site,) = {page.original.article.site for page in copies if page.original}
    (mirror,) = {page.article.site for page in copies}
    assert site != mirror
    there = {urlsplit(page.url)[2:4] for page in tiny_pages() if page.article.site == site}
    assert there == {urlsplit(page.url)[2:4] for page in copies}


def test_url_duplicates_are_earlier_visits() -> None:
    changed = 0
    for page in pages_of("url_duplicate"):
        assert page.original is not None
        assert page.url == page.original.url
        assert page.crawled < page.original.crawled
        changed += page.article.clean_text() != page.original.article.clean_text()
    assert changed == len(pages_of("url_duplicate")) // 2


def test_repeated_lines_stand_on_many_pages_and_in_no_truth() -> None:
    pages = pages_of("repeated_lines")
    counts = Counter(line for page in pages for line in page.boilerplate)
    assert min(counts.values()) >= 4 and max(counts.values()) >= 7
    truth = "\n".join(page.article.clean_text() for page in tiny_pages())
    assert not any(line in truth for line in counts)


def test_spam_repeats_its_phrases() -> None:
    for page in pages_of("ngram_spam"):
        tokens = words(page.article.clean_text())
        grams = Counter(zip(*(tokens[start:] for start in range(5))))
        assert sum(count for count in grams.values() if count > 1) / grams.total() > 0.5


def test_adult_pages_are_dense_with_adult_words_and_no_other_page_is() -> None:
    listed = {
        "porn",
        "xxx",
        "sex",
        "nude",
        "naked",
        "horny",
        "nsfw",
        "erotic",
        "hardcore",
        "babes",
        "webcam",
        "webcams",
        "adults",
    }
    for page in tiny_pages():
        tokens = words(page.article.clean_text())
        density = sum(word in listed for word in tokens) / max(1, len(tokens))
        assert density > 0.05 if page.defect == "adult" else density == 0


def luhn(number: str) -> bool:
    digits = [int(digit) for digit in number if digit.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return (sum(doubled) + sum(digits[-1::-2])) % 10 == 0


@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_card_and_account_numbers_have_valid_check_digits(seed: int) -> None:
    draw = random.Random(seed)
    card, account = texts.card_number(draw), texts.iban(draw).replace(" ", "")
    assert luhn(card) and len(card) == 19
    turned = account[4:] + account[:4]
    assert int("".join(str(int(letter, 36)) for letter in turned)) % 97 == 1
    assert len(account) == {"DE": 22, "ES": 24, "AT": 20, "BE": 16, "CH": 21}[account[:2]]


def test_personal_data_is_dense() -> None:
    for page in pages_of("personal_data"):
        text = page.article.clean_text()
        assert len(re.findall(r"\S+@[\w.]+", text)) >= 8
        assert luhn("4111 1111 1111 1111") and not luhn("4111 1111 1111 1112")


def test_gibberish_has_word_pairs_that_no_good_page_has() -> None:
    good: set[tuple[str, str]] = set()
    for page in tiny_pages():
        if EXPECTED[page.defect] == "kept":
            tokens = words(page.article.clean_text())
            good.update(pairwise(tokens))
    for page in pages_of("gibberish"):
        tokens = words(page.article.clean_text())
        pairs = list(pairwise(tokens))
        assert sum(pair in good for pair in pairs) / len(pairs) < 0.1
    assert {page.variant for page in pages_of("gibberish")} == {0, 1, 2, 3}


@pytest.mark.parametrize("variant", range(3))
def test_a_misdeclared_charset_can_be_told_from_the_bytes(variant: int) -> None:
    page = "<p>Größe, mañana, perché: drei Wörter, élève, Österreich.</p>"
    body, declared, _ = misdeclare(random.Random(1), page, variant)
    assert body.decode(declared or "utf-8", "replace") != page
    true = ("utf-8", "windows-1252", "utf-16-le" if body[1] == 0 else "utf-16-be")[variant]
    assert body.decode(true) == page


@pytest.mark.parametrize("variant", range(4))
def test_lost_characters_are_lost(variant: int) -> None:
    draw = random.Random(2)
    text = filler.paragraph(draw, "de", 12)
    broken = lose_characters(random.Random(3), text, variant)
    assert sum(ours != theirs for ours, theirs in zip(broken, text)) / len(text) > 0.02
    for codec in ("windows-1252", "latin-1", "utf-16-le"):
        assert broken.encode(codec, "ignore").decode("utf-8", "ignore") != text


def test_cut_characters_lose_every_second_byte() -> None:
    assert cut_characters("für é".encode()) == b"f\xc3r \xc3"


def test_lying_pages_declare_another_language() -> None:
    pages = pages_of("lying_language")
    assert all(page.declared_language not in ("", page.article.language) for page in pages)
    assert {page.article.language == "en" for page in pages} == {True, False}


def test_dropped_pages_with_their_own_text_tell_no_fact() -> None:
    named = {
        word for page in tiny_pages() for fact in page.article.facts[:1] for word in page.article.title.split() if fact
    }
    assert named
    for page in tiny_pages():
        if EXPECTED[page.defect] in ("dropped", "quarantined"):
            assert page.article.facts == ()


def test_filler_hardly_ever_says_the_same_twice() -> None:
    draw = random.Random(5)
    for language in filler.LANGUAGES:
        said = [filler.sentence(draw, language) for _ in range(500)]
        assert len(set(said)) > 490


def test_articles_without_words_to_edit_are_not_edited() -> None:
    with pytest.raises(ValueError, match="too few"):
        edit_words(random.Random(1), "one two three", 3, ["four"])
    assert Article("a", "b", "c", "en", "code", "tutorial", (Block("code", text="x = 1"),)).clean_text() == "c\nx = 1"
