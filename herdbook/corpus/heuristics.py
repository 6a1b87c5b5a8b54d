"""What the rules of Gopher, C4 and FineWeb read of a text, measured in one go over its lines and words (§3.1.1).

They are prose's rules: code lines are left out, and so is what has no meaning for a script without spaces.
"""

from __future__ import annotations

import re
from functools import cache
from importlib import resources

from herdbook.corpus.words import Words

BULLETS = ("- ", "* ", "• ", "‣ ", "◦ ", "▪ ", "– ", "· ", "●", "○", "■", "□")
BULLET = frozenset(bullet[0] for bullet in BULLETS)
ENDS = frozenset(".!?…\"'”’»)。！？」』）।؟۔")
"""What a line of prose ends with, in any script."""
SENTENCE_END = re.compile(r"\.(?<=\w.)\.*(?=[\s\"'”’)\]»]|$)")
SPOKEN_ENDS = "!?؟۔"
"""What ends a sentence as a full stop does."""
FULL_ENDS = frozenset("。！？।")
FULL_END = re.compile(f"[{''.join(FULL_ENDS)}](?<=\\w.)")
"""These need nothing behind them."""
SHORT_LINE = 30
"""Characters up to which FineWeb calls a line short."""
COLUMNS = (
    "heuristic_word_length",
    "heuristic_longest_word",
    "heuristic_symbols",
    "heuristic_lettered_words",
    "heuristic_stop_words",
    "heuristic_bullet_lines",
    "heuristic_ellipsis_lines",
    "heuristic_ended_lines",
    "heuristic_short_lines",
    "heuristic_lines_per_word",
    "heuristic_repeated_line_characters",
    "heuristic_sentences",
    "heuristic_curly_brackets",
    "heuristic_lorem_ipsum",
)


@cache
def stop_words() -> dict[str, frozenset[str]]:
    """Words no text of a language does without, by language."""
    lines = resources.files("herdbook.corpus").joinpath("stop_words.txt").read_text(encoding="utf-8").splitlines()
    pairs = (line.partition(":") for line in lines if line.strip() and not line.startswith("#"))
    return {language.strip(): frozenset(words.split()) for language, _, words in pairs}


def heuristics(
    prose: str,
    words: Words,
    language: str,
    spaced: bool,
) -> dict[str, float | None]:
    """The columns of a text without code; None where there is nothing to measure."""
    lines = [line for piece in prose.split("\n") if (line := piece.strip())]
    widths = list(map(len, words.pieces))
    if not lines or not words.flat:
        return dict.fromkeys(COLUMNS)
    count = len(lines)
    lengths = list(map(len, lines))
    first = dict(zip(lines, lengths))
    stops = stop_words().get(language)
    ellipses = prose.count("…") + prose.count("...")
    ended = sum(line.endswith(("…", "...")) for line in lines) if ellipses else 0
    return {
        "heuristic_word_length": sum(widths) / len(widths) if spaced else None,
        "heuristic_longest_word": float(max(widths)),
        "heuristic_symbols": max(prose.count("#"), ellipses) / len(words.flat),
        "heuristic_lettered_words": words.lettered / len(widths) if spaced else None,
        "heuristic_stop_words": float(len(stops.intersection(words.vocabulary))) if stops and spaced else None,
        "heuristic_bullet_lines": len([1 for line in lines if line[0] in BULLET and line.startswith(BULLETS)]) / count,
        "heuristic_ellipsis_lines": ended / count,
        "heuristic_ended_lines": len([1 for line in lines if line[-1] in ENDS]) / count,
        "heuristic_short_lines": len([1 for length in lengths if length <= SHORT_LINE]) / count,
        "heuristic_lines_per_word": (count - 1) / len(words.flat),
        "heuristic_repeated_line_characters": 1.0 - sum(first.values()) / sum(lengths),
        "heuristic_sentences": float(sentences(prose, words.beyond)),
        "heuristic_curly_brackets": float(prose.count("{")),
        "heuristic_lorem_ipsum": float("lorem ipsum" in words.lowered),
    }


def sentences(prose: str, beyond: frozenset[str]) -> int:
    """How many sentences of a text end; `beyond` are its different characters beyond ASCII."""
    count = 0 if FULL_ENDS.isdisjoint(beyond) else len(FULL_END.findall(prose))
    for end in SPOKEN_ENDS:
        prose = prose.replace(end, ".")
    return count + len(SENTENCE_END.findall(prose))
