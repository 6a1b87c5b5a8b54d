"""Questions about the world, in the shapes of known benchmarks, with known answers.

Questions about memory (facts, chains) ask what pages tell, by exposure group; questions about skill (problems,
programs, needles, quizzes) are made of combinations that no page holds. Wrong choices are values that the same
attribute has elsewhere in the same group, so that being often told does not give a value away; the right one stands
equally often in each position.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

from herdbook.files import write_text
from herdbook.world.chronicles import question_needles
from herdbook.world.facts import (
    ATTRIBUTES,
    COLOURS,
    INSTRUMENTS,
    PRODUCTS,
    WORKPLACES,
    Chain,
    Entity,
    EntityKind,
    Fact,
    Register,
    find_chains,
    make_register,
)
from herdbook.world.languages import language_facts, question_form, translate
from herdbook.world.lessons import kept_for_questions, quiz_item
from herdbook.world.names import part_random
from herdbook.world.paraphrases import QUESTION_FORMS
from herdbook.world.phrasebook import STORIES
from herdbook.world.problems import question_problems
from herdbook.world.programs import humaneval_item, question_programs
from herdbook.world.settings import EXPOSURES, LANGUAGES, WorldSettings
from herdbook.world.tellings import phrase_of, told_chains

FACTS_A_KIND = 67  # per exposure group: about 200 questions each
LANGUAGE_FACTS = 60
CHAINS_A_HOP = 150
PROBLEMS_A_STEP = 200
MGSM_A_LANGUAGE = 50
PROGRAMS = 66
NEEDLES = 100
QUIZ_A_SUBJECT = 30
QUIZ_A_SKILL = 25
QUIZ_SUBJECTS = ("addition", "subtraction", "multiplication", "comparison")

Row = dict[str, Any]


def pick(random: Random, items: Sequence[Any], count: int) -> list[Any]:
    """`count` of the items, or all of them where there are fewer, in random order."""
    return random.sample(list(items), min(count, len(items)))


def some(settings: WorldSettings, count: int) -> int:
    """The share of a full number of questions that the settings ask for, at least two."""
    return max(2, round(count * settings.questions))


class Positions:
    """Deals the right answer's position: each of four equally often."""

    def __init__(self, random: Random) -> None:
        self.random = random
        self.left: list[int] = []

    def place(self, right: str, wrong: Sequence[str]) -> tuple[list[str], int]:
        """The four choices, and where the right one stands."""
        if not self.left:
            self.left = self.random.sample(range(4), 4)
        at = self.left.pop()
        choices = list(wrong)
        choices.insert(at, right)
        return choices, at


def wrong_values(random: Random, pool: Iterable[str], right: str, subject: Entity) -> list[str]:
    """Three other values; none of them is the subject's own name or says something true about it."""
    others = sorted(set(pool) - {right, subject.name} - set(subject.attributes.values()))
    return random.sample(others, 3)


def value_pool(register: Register, kind: EntityKind, attribute: str, exposures: int) -> list[str]:
    """An attribute's values in one exposure group; where these are too few, in all; else what they could have been."""
    for values in (register.values(kind, attribute, exposures), register.values(kind, attribute)):
        if len(values) >= 7:
            return values
    same_type = {"birthplace": "place", "home": "place", "teacher": "person", "keeper": "person"}
    named = same_type.get(attribute, "animal" if attribute in ("sire", "dam") else "")
    if named:
        return sorted({*values, *(entity.name for entity in register.entities if entity.kind == named)})
    if attribute.endswith("year"):
        return sorted({*values, *(str(int(value) + shift) for value in values for shift in (-7, -3, 4, 9))})
    common = {"workplace": WORKPLACES, "instrument": INSTRUMENTS, "product": PRODUCTS, "colour": COLOURS}
    rivers_and_regions = (*register.values("place", "river"), *register.values("place", "region"))
    return sorted({*values, *common.get(attribute, rivers_and_regions)})


def cloze(template: str, subject: str) -> str:
    """A telling cut before its value."""
    return template[: template.index("{v}")].format(s=subject).rstrip()


def balanced_facts(random: Random, register: Register, a_kind: int) -> Iterator[Fact]:
    """About 200 facts of each exposure group, equally many of each kind of entity."""
    for exposures in EXPOSURES:
        for kind in ("person", "place", "animal"):
            facts = [f for f in register.facts() if f.subject.kind == kind and f.subject.exposures == exposures]
            yield from pick(random, facts, a_kind)


def fact_questions(settings: WorldSettings, register: Register) -> Iterator[Row]:
    """Cloze questions about facts, in English and in the other languages."""
    random = part_random(settings.seed, "fact questions")
    positions = Positions(random)
    a_kind, a_language = some(settings, FACTS_A_KIND), some(settings, LANGUAGE_FACTS)
    asked = [(fact, "en", fact.subject.exposures) for fact in balanced_facts(random, register, a_kind)]
    for language in LANGUAGES:
        asked += [(fact, language, 10) for fact in pick(random, language_facts(settings, register), a_language)]
    for fact, language, exposures in asked:
        key = (fact.subject.kind, fact.attribute)
        form = QUESTION_FORMS[key] if language == "en" else question_form(fact, language)
        wrong = wrong_values(random, value_pool(register, *key, fact.subject.exposures), fact.value, fact.subject)
        choices, at = positions.place(fact.value, wrong)
        group = {"exposures": exposures, "kind": key[0], "attribute": key[1], "language": language}
        yield {
            "id": fact.id if language == "en" else f"{fact.id}@{language}",
            "question": cloze(form, fact.subject.name),
            "choices": [f" {translate(choice, language) if language != 'en' else choice}" for choice in choices],
            "answer": at,
            "group": group,
        }


def chain_pool(register: Register, chain: Chain) -> list[str]:
    """Values of the attribute that a chain ends in, of every kind of entity that has it."""
    end = chain.path[-1]
    kinds = [kind for kind, names in ATTRIBUTES.items() if end in names]
    return [value for kind in kinds for value in value_pool(register, kind, end, chain.exposures)]


def chain_questions(settings: WorldSettings, register: Register) -> Iterator[Row]:
    """Questions that need two or three told facts and are never answered by a page themselves, the best told first."""
    random = part_random(settings.seed, "chain questions")
    positions = Positions(random)
    told = {chain.id for chain in told_chains(register)}
    for hops in (2, 3):
        chains = [c for c in find_chains(register) if len(c.path) == hops and c.id not in told]
        random.shuffle(chains)
        chains.sort(key=lambda c: -c.exposures)
        for chain in chains[: some(settings, CHAINS_A_HOP)]:
            wrong = wrong_values(random, chain_pool(register, chain), chain.value, chain.start)
            choices, at = positions.place(chain.value, wrong)
            yield {
                "id": chain.id,
                "question": f"T{chain.phrase[1:]} is",
                "choices": [f" {choice}" for choice in choices],
                "answer": at,
                "group": {"hops": hops, "exposures": chain.exposures},
            }


def lettered_questions(settings: WorldSettings, register: Register) -> Iterator[Row]:
    """Four-choice questions about well-told facts and about skills, as MMLU asks them."""
    random = part_random(settings.seed, "lettered questions")
    positions = Positions(random)
    subjects: dict[EntityKind, str] = {"person": "people", "place": "places", "animal": "animals"}
    for kind, subject in subjects.items():
        known = [f for f in register.facts() if f.subject.kind == kind and f.subject.exposures == EXPOSURES[-1]]
        for fact in pick(random, known, some(settings, QUIZ_A_SUBJECT)):
            wrong = wrong_values(
                random, value_pool(register, kind, fact.attribute, fact.subject.exposures), fact.value, fact.subject
            )
            choices, at = positions.place(fact.value, wrong)
            text = f"What is the {phrase_of(fact)} of {fact.subject.name}?"
            yield {"question": text, "choices": choices, "answer": at, "subject": subject}
    seen: set[str] = set()
    count, full = dict.fromkeys(QUIZ_SUBJECTS, 0), some(settings, QUIZ_A_SKILL)
    while min(count.values()) < full:
        text, choices, right, subject = quiz_item(random)
        if count.get(subject, full) < full and text not in seen and kept_for_questions(text):
            seen.add(text)
            count[subject] += 1
            wrong = [choice for index, choice in enumerate(choices) if index != right]
            choices, at = positions.place(choices[right], wrong)
            yield {"question": text, "choices": choices, "answer": at, "subject": subject}


def gsm8k_questions(settings: WorldSettings) -> Iterator[Row]:
    """Held-out word problems with worked answers."""
    random = part_random(settings.seed, "problem questions")
    for problem in question_problems(random, some(settings, PROBLEMS_A_STEP)):
        yield {"question": problem.question, "answer": problem.answer, "group": {"steps": problem.steps}}


def mgsm_questions(settings: WorldSettings) -> Iterator[Row]:
    """Held-out problems of one and two steps in the other languages."""
    for language in LANGUAGES:
        random = part_random(settings.seed, f"problem questions {language}")
        for problem in question_problems(random, some(settings, MGSM_A_LANGUAGE) // 2, (1, 2), STORIES[language]):
            yield {"question": problem.question, "answer": problem.result, "language": language}


def needle_questions(settings: WorldSettings) -> Iterator[Row]:
    """Held-out needles with hay."""
    for number, (needle, hay) in enumerate(question_needles(settings, some(settings, NEEDLES))):
        yield {
            "id": f"needle-{number}",
            "needle": needle.sentence,
            "question": needle.question,
            "answer": needle.code,
            "filler": hay,
        }


def write_questions(settings: WorldSettings, folder: Path) -> dict[str, int]:
    """Write every question file into an existing folder; gives the number of questions in each, by its name."""
    register = make_register(settings)
    programs = question_programs(settings, some(settings, PROGRAMS))
    files: dict[str, Iterable[Row]] = {
        "facts": fact_questions(settings, register),
        "multihop": chain_questions(settings, register),
        "mmlu": lettered_questions(settings, register),
        "gsm8k": gsm8k_questions(settings),
        "mgsm": mgsm_questions(settings),
        "humaneval": (humaneval_item(program, number) for number, program in enumerate(programs)),
        "needle": needle_questions(settings),
    }
    counts = {}
    for name, questions in files.items():
        rows = [json.dumps(row, ensure_ascii=False) for row in questions]
        counts[name] = len(rows)
        write_text(folder / f"{name}.jsonl", "".join(f"{row}\n" for row in rows))
    return counts
