"""Everything that is measured of one document, as columns; decisions come later, over columns alone (§3.1).

Text is cut into words once; repetition, MinHash, adult words and token statistics all work on that. Statistics of
prose leave code lines out: a program repeats itself and names no language, and is right to.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash

from herdbook.corpus.decode import bad_share, decode
from herdbook.corpus.extract import extract
from herdbook.corpus.heuristics import COLUMNS, heuristics
from herdbook.corpus.language import Languages, languages
from herdbook.corpus.minhash import shingles, signature
from herdbook.corpus.patterns import ADULT, count_adult
from herdbook.corpus.personal import count_personal
from herdbook.corpus.read import RawPage
from herdbook.corpus.repetition import repetition
from herdbook.corpus.repositories import is_generated, is_vendored
from herdbook.corpus.settings import MeasureSettings
from herdbook.corpus.urls import canonical
from herdbook.corpus.words import Words, cut, hash_words

VERSION = 12
"""Raised when a measurement changes its meaning, so that older measurements are not taken for new ones."""

NUMBER = re.compile(r"\d+")
ONLY_DIGITS = bytes(code if chr(code) in "0123456789" else ord(" ") for code in range(256))
"""Bytes that leave a text's digits in place, and spaces for the rest."""
WORD = re.compile(r"[^\W_]+")
BUCKETS = 1 << 14
"""Buckets of the token distribution, a power of two; a word's bucket is its hash modulo this."""
LEAST_HITS = 3
"""Adult words or items of personal data below this number count as none in the shares the rules read."""
LINE_NUMBERS = 3
"""Numbers from which a line is data and never looked up as boilerplate."""
MIN_LINE_CHARACTERS = 15
"""Letters a line needs to be looked up as boilerplate; shorter ones are labels that prose and tables share."""


def document_text(page: RawPage) -> tuple[str, str, list[str], list[str], str]:
    """A page's title, encoding, lines, kinds of lines (extract.py) and what it was: html, text or code."""
    if isinstance(page.content, bytes):
        content, encoding = decode(page.content, page.charset, page.kind == "html")
    else:
        content, encoding = page.content.encode("utf-8", "replace").decode(), "utf-8"
    if page.kind == "html":
        found = extract(content)
        return found.title, encoding, found.lines, found.kinds, "html"
    lines = content.replace("\r\n", "\n").replace("\r", "\n").strip("\n").rstrip().split("\n")
    return "", encoding, lines, ["c" if page.kind == "code" else "t"] * len(lines), page.kind


def measure(page: RawPage, source: str, settings: MeasureSettings) -> dict[str, Any]:
    """All columns of one page."""
    title, encoding, lines, kinds, kind = document_text(page)
    text = "\n".join(lines)
    prose = text if "c" not in kinds else "\n".join([line for line, k in zip(lines, kinds) if k != "c"])
    words = cut(prose)
    prose_words = words.flat
    prose_hashes = hash_words(prose_words)
    hashes, count = prose_hashes, len(prose_words)
    if prose is not text:
        code_words = cut("\n".join([line for line, k in zip(lines, kinds) if k == "c"])).flat
        hashes, count = np.concatenate([prose_hashes, hash_words(code_words)]), count + len(code_words)
    spoken = languages(prose, settings.language_characters)
    if kind == "code" or len(prose_words) < 5 <= count:
        spoken = Languages("code", 1.0)
    row: dict[str, Any] = {
        "id": xxhash.xxh3_64_hexdigest(f"{source}\n{page.key}".encode()),
        "url": page.url,
        "source": source,
        "date": page.date,
        "text": text,
        "language": spoken.language,
        "title": title,
        "kind": kind,
        "language_probability": spoken.probability,
        "language_second": spoken.second,
        "language_second_share": spoken.second_share,
        "encoding_name": encoding,
        "encoding_bad_share": bad_share(prose, words.beyond),
        "length_characters": len(text),
        "length_words": count,
        "length_lines": len([1 for line in lines if line and not line.isspace()]),
        "code_licence": page.licence or "",
        "code_share": 1.0 - len(prose) / len(text) if text else 0.0,
    }
    unspaced = words.unspaced and _unspaced(prose_words[:2000])
    row.update(repetition(prose_hashes, prose, 2 if unspaced else 1))
    row.update(heuristics(prose, words, spoken.language, not unspaced))
    row.update(code_columns(page, text) if kind == "code" else dict.fromkeys(CODE_COLUMNS))
    row.update(safety(prose, words))
    row["duplicate_url_key"] = xxhash.xxh3_64_intdigest(canonical(page.url).encode("utf-8", "replace")) - 2**63
    row["duplicate_exact_key"] = xxhash.xxh3_64_intdigest(hashes.tobytes()) - 2**63
    items = shingles(hashes, settings.shingle_words)
    row["duplicate_signature"] = signature(items, settings.minhash_permutations).tobytes()
    row["divergence_tokens"], row["divergence_counts"] = bucket_counts(prose_hashes)
    row["lines_hashes"] = line_hashes(lines, kinds, words)
    row["lines_words"] = line_words(lines, kinds, kind)
    return row


def bucket_counts(hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Buckets (B,) uint16 that words (W,) uint64 fall into, and how many fall into each (B,) int32."""
    buckets = (hashes & np.uint64(BUCKETS - 1)).astype(np.uint16)
    buckets.sort()
    last = np.ones(len(buckets), dtype=bool)
    np.not_equal(buckets[1:], buckets[:-1], out=last[:-1])
    ends = np.flatnonzero(last).astype(np.int32)
    counts = ends + np.int32(1)
    counts[1:] -= counts[:-1].copy()
    return buckets[ends], counts


def _unspaced(words: list[str]) -> bool:
    """Whether most words are single characters of a script without spaces."""
    return sum(len(word) == 1 and word > "\u0e00" for word in words) > 0.5 * len(words)


CODE_COLUMNS = ("code_generated", "code_vendored", "code_permissive")


def code_columns(page: RawPage, text: str) -> dict[str, float | None]:
    """1 or 0: whether a program wrote a file of code, whether it is others', whether its licence is permissive."""
    licensed = None if page.licence is None else float(page.licence == "permissive")
    marks = float(is_generated(text)), float(is_vendored(page.url)), licensed
    return dict(zip(CODE_COLUMNS, marks))


def safety(text: str, words: Words) -> dict[str, float]:
    """Counts and shares of adult words and of personal data."""
    total = max(len(words.flat), 1)
    adult = 0 if ADULT.isdisjoint(words.vocabulary) else count_adult(words.flat)
    # Once or twice proves nothing, however short the page.
    row: dict[str, float] = {"adult_words": adult, "adult_share": adult / total if adult >= LEAST_HITS else 0.0}
    personal = count_personal(text, words)
    row.update({f"pii_{name}": count for name, count in personal.items()})
    row["pii_items"] = sum(personal.values())
    row["pii_share"] = row["pii_items"] / total if row["pii_items"] >= LEAST_HITS else 0.0
    return row


def normal_line(line: str) -> str:
    """A line as repeated lines are compared: without case and punctuation. Numbers stay, they say something."""
    return " ".join(WORD.findall(line.lower()))


def line_hashes(
    lines: list[str],
    kinds: list[str],
    words: Words,  # of the lines that are no code
) -> np.ndarray:  # (lines,) int64
    """A hash per line; 0 for lines that are never taken for boilerplate.

    Those are code, table rows, the page's heading, short labels, and lines with several numbers: they carry data.
    """
    values = [0] * len(lines)
    prose = (index for index, kind in enumerate(kinds) if kind != "c")
    for index, pieces in zip(prose, words.lines):
        line = lines[index]
        if kinds[index] != "t" or len(line) < MIN_LINE_CHARACTERS:
            continue
        # Where characters stand for words, a line is compared by its runs of them.
        normal = normal_line(line) if words.unspaced and not line.isascii() else " ".join(pieces)
        if len(normal) < MIN_LINE_CHARACTERS:
            continue
        data = normal.encode()
        numbers = NUMBER.findall(normal) if words.digits else data.translate(ONLY_DIGITS).split()
        if len(numbers) < LINE_NUMBERS:
            values[index] = xxhash.xxh3_64_intdigest(data) - 2**63
    return np.array(values, dtype=np.int64)


def line_words(lines: list[str], kinds: list[str], kind: str) -> np.ndarray:
    """Words (lines,) int32 of each line; extraction sets one space between those of a line that is no code."""
    if kind == "html":
        counts = [len(line.split()) if k == "c" else line.count(" ") + 1 for line, k in zip(lines, kinds)]
    else:
        counts = [len(line.split()) for line in lines]
    return np.array(counts, dtype=np.int32)


def as_table(rows: list[dict[str, Any]], settings: MeasureSettings) -> pa.Table:
    """Measured rows as a table whose types are the same for every shard, an empty one too."""
    return pa.Table.from_pylist(rows, schema=schema(settings))


def schema(settings: MeasureSettings) -> pa.Schema:
    """Names and types of all columns."""
    kinds: dict[str, pa.DataType] = dict.fromkeys(
        (
            "id",
            "url",
            "source",
            "date",
            "language",
            "language_second",
            "title",
            "kind",
            "encoding_name",
            "code_licence",
        ),
        pa.string(),
    )
    kinds |= {"text": pa.large_string(), "language_probability": pa.float64(), "language_second_share": pa.float64()}
    kinds |= dict.fromkeys(("encoding_bad_share", "code_share"), pa.float64())
    kinds |= dict.fromkeys(("length_characters", "length_words", "length_lines"), pa.int64())
    kinds |= {name: pa.float64() for name in repetition(np.zeros(0, np.uint64), "")}
    kinds |= dict.fromkeys((*COLUMNS, *CODE_COLUMNS), pa.float64())
    kinds |= {name: pa.float64() if name.endswith("share") else pa.int64() for name in safety("", cut(""))}
    kinds |= {"duplicate_url_key": pa.int64(), "duplicate_exact_key": pa.int64()}
    kinds |= {"duplicate_signature": pa.binary(4 * settings.minhash_permutations)}
    kinds |= {"divergence_tokens": pa.list_(pa.uint16()), "divergence_counts": pa.list_(pa.int32())}
    kinds |= {"lines_hashes": pa.list_(pa.int64()), "lines_words": pa.list_(pa.int32())}
    return pa.schema(list(kinds.items()))
