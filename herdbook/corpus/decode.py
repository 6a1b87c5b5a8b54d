"""Bytes of a page to Unicode, whatever its headers claim.

Order of trust: byte order mark; UTF-8 that decodes (chance hits are next to impossible beyond ASCII); then what the
page declares against what its bytes look like, the more readable reading winning.
"""

from __future__ import annotations

import codecs
import re

from herdbook.corpus.language import identify
from herdbook.corpus.words import beyond_ascii

META = re.compile(rb"<(?:meta|\?xml)[^>]{0,200}?(?:charset|encoding)\s*=\s*[\"']?\s*([\w.:-]{2,40})", re.IGNORECASE)
BOMS = ((b"\xef\xbb\xbf", "utf-8"), (b"\xff\xfe", "utf-16-le"), (b"\xfe\xff", "utf-16-be"))
TAGS = re.compile(r"<(?:script|style)\b.*?</(?:script|style)>|<[^>]*>", re.DOTALL | re.IGNORECASE)

# What the web means by these names (WHATWG).
ALIASES = {
    "iso-8859-1": "windows-1252",
    "latin-1": "windows-1252",
    "latin1": "windows-1252",
    "us-ascii": "windows-1252",
    "ascii": "windows-1252",
    "iso-8859-9": "windows-1254",
    "iso-8859-11": "cp874",
    "tis-620": "cp874",
    "windows-874": "cp874",
    "gb2312": "gb18030",
    "gbk": "gb18030",
    "shift_jis": "cp932",
    "shift-jis": "cp932",
    "x-sjis": "cp932",
    "ks_c_5601-1987": "cp949",
    "euc-kr": "cp949",
    "utf8": "utf-8",
}

# UTF-8 read as a single-byte code page: a lead byte's letter, then continuation bytes' signs. Letters such as š and œ
# are continuation bytes too, but real neighbours of accented letters, so the first sign must be none.
_SIGN = "\u0080-\u00a9\u00ab-\u00b9\u00bb-\u00bf‚„…†‡ˆ‰‹‘’“”•–—˜™›€"
_TAIL = _SIGN + "ŒœŠšŽžŸƒªº "
_CYRILLIC_TAIL = _SIGN + "ЂЃѓЉЊЌЋЏђљњќћџЎўЈҐЁЄЇІіґё№єјЅѕї"
_GREEK_TAIL = "ѓ‚„…†‡€‰‹‘’“”•–—™"
MOJIBAKE = re.compile(
    f"[Â-ïðРСГвп锟](?:(?<=Ã)[{_TAIL}]|(?<=[Â-Ù])[{_SIGN}]|(?<=[à-ï])[{_SIGN}][{_TAIL}]"
    f"|(?<=ð)[Ÿ\u0090-\u009f][{_TAIL}]{{2}}|(?<=[РС])[{_CYRILLIC_TAIL}](?:[РС][{_CYRILLIC_TAIL}]){{2,}}"
    f"|(?<=Г)[{_GREEK_TAIL}](?:Г[{_GREEK_TAIL}])+|(?<=в)Ђ|(?<=п)їЅ|(?<=锟)斤拷)"
)
LEADS, TAILS = (
    frozenset([*map(chr, range(0xC2, 0xF1)), *"РСГвп锟"]),
    frozenset(f"{_TAIL}{_CYRILLIC_TAIL}{_GREEK_TAIL}斤"),
)
"""The first and the second characters of these; a text without has none."""
_CONTROLS = [0xFFFD, *range(0x80, 0x85), *range(0x86, 0xA0), *range(0xFDD0, 0xFDF0), 0xFFFE, 0xFFFF]
CONTROLS = frozenset(map(chr, _CONTROLS))
"""Beyond ASCII, characters that no text has;"""
SOUND = bytes([*b"\t\n\f\r", *range(0x20, 0x7F)])
"""and within it, those that texts have."""
# A capital with an accent inside a word of small letters: half of a two-byte character whose other half is gone.
CAPITALS = frozenset(letter for letter in map(chr, range(0xC0, 0x250)) if letter.isupper())
_CAPITALS = "".join(sorted(CAPITALS))
INNER_CAPITAL = re.compile(f"[{_CAPITALS}](?<=[a-zß-öø-ÿ].)(?![A-Z{_CAPITALS}])")
INNER_QUESTION = re.compile(r"\?(?<=[a-zß-öø-ÿ].)(?=[a-zß-öø-ÿ])(?![a-z_]+=)")
# Latin letters read as UTF-16 one byte off land where the low byte is zero, as one in 256 of real characters does; the
# ideographic space, 一 and 가 lie there too, and are common.
SHIFTED = frozenset(chr(high << 8) for high in range(0x21, 0xD8) if high not in (0x30, 0x4E, 0xAC))
BEYOND_ASCII = re.compile(r"[^\x00-\x7f]")
FAR_EAST = re.compile(r"[\u2100-\ud7ff\uf900-\ufaff]")
NON_LETTER_RUN = re.compile(r"(?<=\w)[¡-¿×÷](?=\w)")


def known(name: str | None) -> str | None:
    """The codec for an encoding's name on the web, or None."""
    if not name:
        return None
    name = name.strip().lower()
    name = ALIASES.get(name, name)
    try:
        info = codecs.lookup(name)
    except (LookupError, ValueError):
        return None
    return info.name if getattr(info, "_is_text_encoding", True) else None


def bad_share(
    text: str,
    beyond: frozenset[str] | None = None,  # its different characters beyond ASCII, where they are known
) -> float:
    """Share of characters that no sound text has: replacement and control characters, UTF-8 read as a code page."""
    if not text:
        return 0.0
    plain = text.encode("ascii", "ignore")
    bad = len(plain.translate(None, SOUND))
    if "?" in text:
        bad += len(INNER_QUESTION.findall(text))
    if len(plain) == len(text):
        return bad / len(text)
    # What else is wrong is told by the few different characters beyond ASCII, before the text is searched.
    found = beyond_ascii(text) if beyond is None else beyond
    bad += sum(map(text.count, CONTROLS & found))
    if not LEADS.isdisjoint(found) and not (TAILS.isdisjoint(found) and "Ã" not in found):
        bad += sum(map(len, MOJIBAKE.findall(text)))
    if not CAPITALS.isdisjoint(found):
        bad += len(INNER_CAPITAL.findall(text))
    if off := SHIFTED & found:
        shifted = sum(map(text.count, off))
        if shifted > 0.2 * len(FAR_EAST.findall(text)):
            bad += shifted
    return bad / len(text)


def unmarked_utf16(data: bytes) -> str | None:
    """The byte order of UTF-16 without a mark, told by where its zero bytes lie; None if it is none."""
    sample = data[:2000]
    if len(sample) < 20:
        return None
    even, odd = sample[::2].count(0) / len(sample[::2]), sample[1::2].count(0) / len(sample[1::2])
    if max(even, odd) < 0.2 or min(even, odd) > 0.02:
        return None
    return "utf-16-be" if even > odd else "utf-16-le"


def decode(data: bytes, declared: str | None = None, html: bool = True) -> tuple[str, str]:
    """Text of a page and the encoding it was read with. `declared` is the HTTP charset. Never raises."""
    for mark, name in BOMS:
        if data.startswith(mark):
            return data[len(mark) :].decode(name, "replace"), name
    if b"\0" in data[:2000] and (order := unmarked_utf16(data)):
        return data.decode(order, "replace"), order
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        pass
    meta = META.search(data[:2048]) if html else None
    stated = known(meta.group(1).decode("ascii", "replace")) if meta else None
    names = [known(declared), stated, _detected(data), "utf-8"]
    if "windows-1252" not in names and "cp1252" not in names:
        names.append("cp1252")
    candidates: dict[str, str] = {}
    for name in dict.fromkeys(n for n in names if n):
        text = _read(data, name)
        if text is not None and text not in candidates.values():
            candidates[name] = text
    samples = {name: _sample(text, html) for name, text in candidates.items()}
    oddness = {name: _oddness(sample) for name, sample in samples.items()}
    first = next(iter(candidates))
    if oddness[first] < 0.02 and first == names[2]:
        return candidates[first], first  # declared (or nothing is), and the bytes look like it
    scores = {
        name: identify(sample, 1500)[1] * (1.0 - oddness[name]) - 0.01 * rank
        for rank, (name, sample) in enumerate(samples.items())
    }
    best = max(scores, key=lambda name: scores[name])
    return candidates[best], best


def _read(data: bytes, name: str) -> str | None:
    try:
        return data.decode(name, "replace")
    except (LookupError, UnicodeError):
        return None


def _detected(data: bytes) -> str | None:
    from resiliparse.parse.encoding import detect_encoding

    try:
        return known(detect_encoding(data, max_len=65536))
    except (MemoryError, ValueError):
        return None


def _sample(text: str, html: bool) -> str:
    """Some of a page's words, without tags."""
    sample = text[:60000]
    return " ".join((TAGS.sub(" ", sample) if html else sample).split())[:6000]


def _oddness(sample: str) -> float:
    """Share of the characters beyond ASCII that make no sense where they stand, 0 to 1; 1 for no text at all."""
    high = len(BEYOND_ASCII.findall(sample))
    odd = bad_share(sample) * len(sample) + len(NON_LETTER_RUN.findall(sample))
    return min(odd / max(high, 1), 1.0) if sample else 1.0
