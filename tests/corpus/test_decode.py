"""Bytes to text: right whatever a page declares, and damage beyond repair is measured."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herdbook.corpus.decode import bad_share, decode

TEXTS = {
    "ru": "Быстрая коричневая лиса прыгает через ленивую собаку и убегает в далёкий лес за рекой, где живут её друзья.",
    "de": "Größere Übungen für Anfänger: die Mädchen können schöne Lieder hören, weil sie früh aufstehen müssen.",
    "fr": "Les élèves ont préféré étudier la leçon d'été près de la forêt où naît un très léger brouillard à l'aube.",
    "el": "Η γρήγορη καφέ αλεπού πηδά πάνω από το τεμπέλικο σκυλί και τρέχει προς το δάσος πίσω από το ποτάμι.",
    "ja": "素早い茶色の狐がのろまな犬を飛び越えて、川の向こうの森へ走っていきました。そこには友達が住んでいます。",
    "zh": "敏捷的棕色狐狸跳过了懒惰的狗，然后跑进了河对岸的森林，它的朋友们都住在那里，每天都很快乐。",
    "cs": "Příliš žluťoučký kůň úpěl ďábelské ódy, když se přihlásil do systému a nemohl najít žádnou cestu zpět.",
}
CASES = [
    ("ru", "cp1251"), ("ru", "koi8-r"), ("ru", "iso-8859-5"), ("ru", "utf-16"), ("de", "cp1252"), ("fr", "iso-8859-1"),
    ("el", "iso-8859-7"), ("ja", "shift_jis"), ("ja", "euc-jp"), ("zh", "gb18030"), ("cs", "cp1250"), ("ru", "utf-8"),
    ("de", "utf-16-le"), ("ru", "utf-16-be"),
]  # fmt: skip


@pytest.mark.parametrize(("language", "encoding"), CASES)
@pytest.mark.parametrize("declared", [None, "utf-8", "iso-8859-1", "no-such-charset"])
def test_the_declared_charset_may_lie(language: str, encoding: str, declared: str | None) -> None:
    page = f"<html><head><title>x</title></head><body><p>{TEXTS[language] * 3}</p></body></html>"
    text, _ = decode(page.encode(encoding), declared)
    assert text == page


@pytest.mark.parametrize("language", list(TEXTS))
def test_sound_text_has_no_bad_characters(language: str) -> None:
    assert bad_share(TEXTS[language]) == 0.0


@pytest.mark.parametrize(
    ("language", "wrong"), [("ru", "cp1251"), ("ru", "latin-1"), ("de", "cp1252"), ("fr", "latin-1"), ("el", "cp1252")]
)
def test_utf_8_read_as_a_code_page_is_measured(language: str, wrong: str) -> None:
    assert bad_share(TEXTS[language].encode().decode(wrong, "replace")) > 0.02


def test_lost_characters_are_measured() -> None:
    assert bad_share(TEXTS["de"].encode("cp1252").decode("utf-8", "replace")) > 0.05


def test_common_characters_of_the_far_east_are_sound() -> None:
    assert bad_share("一个人一天一次。가다가 가게에 가서 나가다.") == 0.0


def test_capitals_and_quotes_beyond_ascii_are_sound_wherever_they_stand() -> None:
    assert bad_share("A CONSTITUIÇÃO é à “prova” de razões, e há “mais” – diz São João.") == 0.0
    assert bad_share("Řekl „ší“, Škoda; «Пушкин» и Святая, Рыба — всё.") == 0.0


def test_cut_and_shifted_characters_are_measured() -> None:
    for text in (TEXTS["de"], TEXTS["fr"]):
        data = text.encode()
        cut = bytes(b for i, b in enumerate(data) if not (0x80 <= b < 0xC0 and data[i - 1] >= 0xC0))
        assert bad_share(decode(cut)[0]) > 0.01
    off = (b" " + ("a stretch of text read one byte off".encode("utf-16-le"))[:-1]).decode("utf-16-le")
    assert bad_share("The rest is sound. " + off) > 0.2


@given(st.binary(max_size=400), st.sampled_from([None, "utf-8", "idna", "hex", "utf-7", "punycode", "\0", "undefined"]))
def test_no_bytes_make_decoding_raise(data: bytes, declared: str | None) -> None:
    text, _ = decode(data, declared)
    assert isinstance(text, str)
