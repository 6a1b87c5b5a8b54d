"""Constraints that code can check, by the names and arguments of IFEval (Zhou et al. 2023, table 1), and a few of ours.

Each checker takes the answer and the constraint's arguments, and says whether the answer keeps to it. Where IFEval
leans on libraries of its own we say so: languages are told by fastText, sentences and words are counted by pattern.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from herdbook.settings import UserError

Check = Callable[..., bool]
CHECKS: dict[str, Check] = {}
"""Every constraint by its id."""

SENTENCE_END = re.compile(r"[.!?。！？]+[\"'”’)\]]*(?=\s|$)")
ABBREVIATIONS = re.compile(r"\b(?:mr|mrs|ms|dr|prof|st|vs|etc|e\.g|i\.e|[a-z])\.$", re.IGNORECASE)
FENCE = re.compile(r"^```(?:json)?\s*(.*?)\s*(?:```)?$", re.IGNORECASE | re.DOTALL)
SURELY, LEAST_LETTERS = 0.5, 60  # probability and length from which a text counts as not English


def constraint(name: str) -> Callable[[Check], Check]:
    """Register a checker under its id."""

    def add(check: Check) -> Check:
        CHECKS[name] = check
        return check

    return add


def followed(answer: str, one: Mapping[str, Any]) -> bool:
    """Whether an answer keeps to a constraint `{"id": …, arguments}`; an empty answer keeps to none.

    Raises UserError for an unknown id or arguments that do not belong to it.
    """
    name = one.get("id")
    if name not in CHECKS:
        raise UserError(f"no constraint is called {name!r}; there are {', '.join(CHECKS)}")
    given = {key: value for key, value in one.items() if key != "id" and value is not None}
    try:
        return bool(answer.strip()) and CHECKS[name](answer, **given)
    except TypeError as error:
        raise UserError(f"constraint {name} with {given}: {error}") from None


def loosely(answer: str, one: Mapping[str, Any]) -> bool:
    """IFEval's loose judgement: also without the first or the last line, or both, and each without asterisks."""
    lines = answer.split("\n")
    parts = [answer, *("\n".join(cut).strip() for cut in (lines[1:], lines[:-1], lines[1:-1]))]
    return any(followed(text, one) for part in parts for text in (part, part.replace("*", "")))


def holds(count: int, relation: str, wanted: int) -> bool:
    """`count` against `wanted` by one of IFEval's relations, or ours for limits that include the number."""
    match relation:
        case "at least":
            return count >= wanted
        case "less than":
            return count < wanted
        case "at most":
            return count <= wanted
    raise UserError(f"relation {relation!r}; there are at least, less than and at most")


def words(text: str) -> list[str]:
    """Runs of letters, digits and underscores."""
    return re.findall(r"\w+", text)


def sentences(text: str) -> list[str]:
    """A text's sentences: they end in a full stop, question or exclamation mark before a blank."""
    found: list[str] = []
    start = 0
    for match in SENTENCE_END.finditer(text):
        if not ABBREVIATIONS.search(text[start : match.end()]):
            found.append(text[start : match.end()].strip())
            start = match.end()
    return [sentence for sentence in (*found, text[start:].strip()) if re.search(r"\w", sentence)]


def language_of(text: str) -> tuple[str, float]:
    """The likeliest language of a text (ISO 639-1) and its probability; ("", 0) where there is nothing to judge by."""
    from herdbook.corpus.language import identify

    return identify(text.lower())


def may_be_english(text: str) -> bool:
    """Whether nothing speaks against English; of a few words with names in them nothing can be said."""
    found, probability = language_of(text)
    return found in ("", "en") or probability < SURELY or sum(map(str.isalpha, text)) < LEAST_LETTERS


@constraint("keywords:existence")
def existence(answer: str, keywords: Iterable[str]) -> bool:
    """Every keyword is there, in any case, also within a word."""
    return all(re.search(re.escape(word), answer, re.IGNORECASE) for word in keywords)


@constraint("keywords:frequency")
def frequency(answer: str, keyword: str, frequency: int, relation: str) -> bool:
    """The keyword occurs so often."""
    return holds(len(re.findall(re.escape(keyword), answer, re.IGNORECASE)), relation, frequency)


@constraint("keywords:forbidden_words")
def forbidden_words(answer: str, forbidden_words: Iterable[str]) -> bool:
    """None of these stands there as a word of its own."""
    return not any(re.search(rf"\b{re.escape(word)}\b", answer, re.IGNORECASE) for word in forbidden_words)


@constraint("keywords:letter_frequency")
def letter_frequency(answer: str, letter: str, let_frequency: int, let_relation: str) -> bool:
    """The letter occurs so often, in either case."""
    return holds(answer.lower().count(letter.lower()), let_relation, let_frequency)


@constraint("language:response_language")
def response_language(answer: str, language: str) -> bool:
    """The answer's language, as fastText tells it, is this one (ISO 639-1)."""
    return language_of(answer)[0] in ("", language.split("-")[0].lower())


@constraint("length_constraints:number_sentences")
def number_sentences(answer: str, num_sentences: int, relation: str) -> bool:
    """So many sentences."""
    return holds(len(sentences(answer)), relation, num_sentences)


@constraint("length_constraints:number_words")
def number_words(answer: str, num_words: int, relation: str) -> bool:
    """So many words."""
    return holds(len(words(answer)), relation, num_words)


@constraint("length_constraints:number_paragraphs")
def number_paragraphs(answer: str, num_paragraphs: int) -> bool:
    """Exactly so many paragraphs between `***`; an empty one counts only against the answer, unless at an end."""
    parts = re.split(r"\s?\*\*\*\s?", answer)
    if any(not part.strip() for part in parts[1:-1]):
        return False
    return sum(bool(part.strip()) for part in parts) == num_paragraphs


@constraint("length_constraints:nth_paragraph_first_word")
def nth_paragraph_first_word(answer: str, num_paragraphs: int, nth_paragraph: int, first_word: str) -> bool:
    """So many paragraphs between empty lines, and the n-th begins with this word."""
    parts = re.split(r"\n\n", answer)
    if sum(bool(part.strip()) for part in parts) != num_paragraphs or nth_paragraph > len(parts):
        return False
    part = parts[nth_paragraph - 1].strip()
    if not part:
        return False
    first = re.split(r"[.,?!'\"]", part.split()[0].lstrip("'\""))[0]
    return first.lower() == first_word.lower()


@constraint("detectable_content:number_placeholders")
def number_placeholders(answer: str, num_placeholders: int) -> bool:
    """At least so many `[placeholders]`."""
    return len(re.findall(r"\[.*?\]", answer)) >= num_placeholders


@constraint("detectable_content:postscript")
def postscript(answer: str, postscript_marker: str) -> bool:
    """A postscript begins with this marker; blanks within `P.P.S` and `P.S.` do not matter."""
    pattern = {"P.P.S": r"p\.\s?p\.\s?s", "P.S.": r"p\.\s?s\."}.get(
        postscript_marker, re.escape(postscript_marker.lower())
    )
    return re.search(pattern, answer.lower()) is not None


@constraint("detectable_format:number_bullet_lists")
def number_bullet_lists(answer: str, num_bullets: int) -> bool:
    """Exactly so many lines that begin with `* ` or `-`."""
    stars = re.findall(r"^\s*\*[^*].*$", answer, re.MULTILINE)
    dashes = re.findall(r"^\s*-.*$", answer, re.MULTILINE)
    return len(stars) + len(dashes) == num_bullets


@constraint("detectable_format:constrained_response")
def constrained_response(answer: str) -> bool:
    """One of the three set answers is given."""
    return any(f"My answer is {word}." in answer for word in ("yes", "no", "maybe"))


@constraint("detectable_format:number_highlighted_sections")
def number_highlighted_sections(answer: str, num_highlights: int) -> bool:
    """At least so many stretches `*like this*`."""
    single = [text for text in re.findall(r"\*([^\n*]*)\*", answer) if text.strip()]
    double = [text for text in re.findall(r"\*\*([^\n*]*)\*\*", answer) if text.strip()]
    return len(single) + len(double) >= num_highlights


@constraint("detectable_format:multiple_sections")
def multiple_sections(answer: str, section_spliter: str, num_sections: int) -> bool:
    """At least so many sections headed by this word and a number."""
    return len(re.findall(rf"{re.escape(section_spliter)}\s?\d+", answer)) >= num_sections


def read_json_answer(answer: str) -> Any:
    """The JSON of an answer, in a code block or bare; None when it is none."""
    found = FENCE.match(answer.strip())
    try:
        return json.loads(found.group(1) if found else answer)
    except (ValueError, RecursionError):
        return None


@constraint("detectable_format:json_format")
def json_format(answer: str) -> bool:
    """The whole answer is JSON, in a code block or bare."""
    return read_json_answer(answer) is not None


@constraint("detectable_format:json_keys")
def json_keys(answer: str, keys: Iterable[str]) -> bool:
    """Ours: the whole answer is a JSON object with exactly these keys."""
    found = read_json_answer(answer)
    return isinstance(found, dict) and set(found) == set(keys)


@constraint("detectable_format:title")
def title(answer: str) -> bool:
    """There is a `<<title>>`."""
    return any(text.strip("<> \t") for text in re.findall(r"<<[^\n]+>>", answer))


@constraint("combination:repeat_prompt")
def repeat_prompt(answer: str, prompt_to_repeat: str) -> bool:
    """The answer begins with the request, word for word."""
    return answer.strip().lower().startswith(prompt_to_repeat.strip().lower())


@constraint("combination:two_responses")
def two_responses(answer: str) -> bool:
    """Two different answers, parted by six asterisks."""
    parts = answer.split("******")
    if any(not part.strip() for part in parts[1:-1]):
        return False
    found = [part.strip() for part in parts if part.strip()]
    return len(found) == 2 and found[0] != found[1]


@constraint("change_case:capital_word_frequency")
def capital_word_frequency(answer: str, capital_frequency: int, capital_relation: str) -> bool:
    """So many words all in capitals."""
    capitals = [word for word in re.findall(r"[^\W_]+(?:[-'’.][^\W_]+)*", answer) if word.isupper()]
    return holds(len(capitals), capital_relation, capital_frequency)


@constraint("change_case:english_capital")
def english_capital(answer: str) -> bool:
    """English, all in capitals."""
    return answer.isupper() and may_be_english(answer)


@constraint("change_case:english_lowercase")
def english_lowercase(answer: str) -> bool:
    """English, no capital letter."""
    return answer.islower() and may_be_english(answer)


@constraint("punctuation:no_comma")
def no_comma(answer: str) -> bool:
    """No comma."""
    return "," not in answer


@constraint("startend:end_checker")
def end_checker(answer: str, end_phrase: str) -> bool:
    """The answer ends with exactly these words, quotation marks around it aside."""
    return answer.strip().strip('"').lower().endswith(end_phrase.strip().lower())


@constraint("startend:begin_checker")
def begin_checker(answer: str, begin_phrase: str) -> bool:
    """Ours: the answer begins with exactly these words."""
    return answer.strip().strip('"').lower().startswith(begin_phrase.strip().lower())


@constraint("startend:quotation")
def quotation(answer: str) -> bool:
    """The whole answer stands in double quotation marks."""
    text = answer.strip()
    return len(text) > 1 and text[0] == text[-1] == '"'
