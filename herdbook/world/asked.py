"""Requests for what pages teach: facts in many wordings, chains, word problems with their steps, small functions."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from herdbook.world.facts import EntityKind, Fact, Register, find_chains
from herdbook.world.languages import language_facts, question_form, translate
from herdbook.world.paraphrases import QUESTION_FORMS
from herdbook.world.phrasebook import STORIES as LANGUAGE_STORIES
from herdbook.world.problems import STORIES, Problem, Story, make_problem
from herdbook.world.programs import Program, humaneval_item, make_program
from herdbook.world.request import Check, Request, Split, bare, sentence, side_of, told, user
from herdbook.world.settings import EXPOSURES, LANGUAGES, WorldSettings
from herdbook.world.tellings import phrase_of, told_chains

WORDINGS: dict[tuple[EntityKind, str], tuple[str, ...]] = {
    ("person", "birthplace"): (
        "Where was {s} born?",
        "From which town does {s} come?",
        "Which town is the birthplace of {s}?",
    ),
    ("person", "birth_year"): (
        "When was {s} born?",
        "In which year was {s} born?",
        "In what year did {s} come into the world?",
    ),
    ("person", "workplace"): ("Where does {s} work?", "Where does {s} have a job?", "Who employs {s}?"),
    ("person", "instrument"): (
        "Which instrument does {s} play?",
        "What does {s} play in the orchestra?",
        "What did {s} learn to play?",
    ),
    ("person", "teacher"): ("Who taught {s}?", "Whose pupil is {s}?", "From whom did {s} learn?"),
    ("place", "region"): (
        "In which region is {s}?",
        "Which region does {s} belong to?",
        "On the map of which region is {s}?",
    ),
    ("place", "river"): (
        "Which river flows through {s}?",
        "On which river does {s} lie?",
        "Which river do the bridges of {s} cross?",
    ),
    ("place", "founding_year"): (
        "When was {s} founded?",
        "In which year was {s} founded?",
        "Since when has {s} existed?",
    ),
    ("place", "product"): ("What is {s} known for?", "What does {s} sell?", "What do the workshops of {s} make?"),
    ("animal", "colour"): ("What colour is {s}?", "Which colour is the coat of {s}?", "How does {s} look from afar?"),
    ("animal", "birth_year"): (
        "When was {s} born?",
        "In which year was {s} born?",
        "Which year is on the ear tag of {s}?",
    ),
    ("animal", "keeper"): ("Who keeps {s}?", "Who looks after {s}?", "To whom does {s} belong?"),
    ("animal", "home"): ("Where does {s} live?", "Where is the stable of {s}?", "Where does {s} spend the winter?"),
    ("animal", "sire"): ("Who sired {s}?", "Who is the father of {s}?", "By which sire is {s}?"),
    ("animal", "dam"): ("Who is the mother of {s}?", "Out of which dam is {s}?", "Which dam gave birth to {s}?"),
}
LANGUAGE_QUESTIONS = {
    "de": "Beantworte in einem Satz auf Deutsch: {q}",
    "fr": "Réponds en une phrase en français : {q}",
    "es": "Responde en una frase en español: {q}",
    "it": "Rispondi in una frase in italiano: {q}",
}
LANGUAGE_SHARE = 0.15  # of the problems, those that are not in English


def plain_question(fact: Fact) -> str:
    """The question in the words that tables use."""
    word = "Who" if fact.attribute in ("teacher", "keeper", "sire", "dam") else "What"
    return f"{word} is the {phrase_of(fact)} of {fact.subject.name}?"


def wordings(fact: Fact) -> list[str]:
    """The fact asked in every wording, the plainest first."""
    asked = WORDINGS[fact.subject.kind, fact.attribute]
    return [plain_question(fact), *(text.format(s=fact.subject.name) for text in asked)]


def known_facts(register: Register, split: Split) -> list[Fact]:
    """The facts of the most told group that belong to a side: what answers may be made of."""
    return [f for f in register.facts() if f.subject.exposures == EXPOSURES[-1] and side_of(f) == split]


def fact_requests(random: Random, register: Register, split: Split) -> Iterator[Request]:
    """Every fact of this side: those told 100 times in every wording, those told 10 times in two, the others in one."""
    for fact in register.facts():
        if side_of(fact) != split:
            continue
        times = fact.subject.exposures
        texts = wordings(fact)
        shown = {EXPOSURES[-1]: len(texts), EXPOSURES[1]: 2}.get(times, 1)
        for at in sorted(random.sample(range(len(texts)), shown)):
            more = {"exposures": times, "attribute": fact.attribute, "language": "en", "fact": fact.id}
            yield Request("fact", user(texts[at]), sentence(fact), told(fact), 1 if at == 0 else 2, more=more)


def chain_requests(register: Register, split: Split) -> Iterator[Request]:
    """Chains of the most told facts: those that pages spell out to train on, the others as a test."""
    spelt = {chain.id for chain in told_chains(register)}
    for chain in find_chains(register):
        if chain.exposures == EXPOSURES[-1] and (chain.id in spelt) == (split == "train"):
            text = f"{chain.phrase} is {chain.value}."
            check: Check = {"kind": "text", "values": [bare(chain.value)]}
            more = {"exposures": chain.exposures, "hops": len(chain.path), "language": "en", "fact": chain.id}
            yield Request("fact", user(f"What is {chain.phrase}?"), f"T{text[1:]}", check, 3, more=more)


def foreign_requests(settings: WorldSettings, register: Register, split: Split) -> Iterator[Request]:
    """Facts told in other languages, asked for as a sentence to be completed in them."""
    for language in LANGUAGES:
        for fact in language_facts(settings, register):
            if side_of(fact) != split:
                continue
            form, value = question_form(fact, language), translate(fact.value, language)
            start = form[: form.index("{v}")].format(s=fact.subject.name).rstrip()
            request = LANGUAGE_QUESTIONS[language].format(q=f"{start} …")
            check: Check = {"kind": "text", "values": [value]}
            more = {"exposures": fact.subject.exposures, "attribute": fact.attribute, "language": language}
            reference = form.format(s=fact.subject.name, v=value)
            yield Request("fact", user(request), reference, check, 2, more=more | {"fact": fact.id})


def problem_request(problem: Problem, language: str = "en", task: str = "problem") -> Request:
    """A word problem; its reference works every step."""
    more = {"steps": problem.steps, "language": language}
    check: Check = {"kind": "number", "value": str(problem.result)}
    return Request(task, user(problem.question), problem.answer, check, min(problem.steps, 3), more=more)


def draw_problem(random: Random, split: Split, steps: int, stories: dict[str, Story] = STORIES) -> Problem:
    """A problem of this side: what pages may hold to train on, what is kept for questions as a test."""
    while (problem := make_problem(random, steps, stories)).held_out != (split == "test"):
        pass
    return problem


def problem_requests(random: Random, split: Split) -> Iterator[Request]:
    """Problems of one to four steps, some of one and two in other languages, without end."""
    while True:
        if random.random() < LANGUAGE_SHARE:
            language = random.choice(LANGUAGES)
            problem = draw_problem(random, split, random.choice((1, 2)), LANGUAGE_STORIES[language])
            yield problem_request(problem, language)
        else:
            yield problem_request(draw_problem(random, split, random.choice((1, 1, 2, 2, 3, 4))))


PROGRAM_WORDINGS = (
    "Write a Python function {call}. {doc}",
    "{doc} Write it as the Python function {call}.",
    "I need a function {call} in Python. {doc}",
)


def program_request(random: Random, program: Program) -> Request:
    """A function to be written: from its signature and docstring as pages have them, or from words."""
    item = humaneval_item(program, 0)
    check: Check = {
        "kind": "program",
        "entry_point": program.name,
        "tests": f"{item['test']}\ncheck({program.name})\n",
    }
    head = program.prompt.split("\n", 1)[0]
    if random.random() < 0.4:
        text, reference, difficulty = f"Complete this function:\n\n{program.prompt.rstrip()}", program.text, 1
    else:
        text = random.choice(PROGRAM_WORDINGS).format(call=head.removeprefix("def ").removesuffix(":"), doc=program.doc)
        reference = f'{head}\n    """{program.doc}"""\n{program.body.rstrip()}'
        difficulty = 3 if program.body.count("\n") > 1 else 2
    return Request("program", user(text), reference, check, difficulty, more={"family": program.key[0]})


def program_requests(random: Random, split: Split) -> Iterator[Request]:
    """Functions of this side, without end."""
    while True:
        program = make_program(random)
        if program.held_out == (split == "test"):
            yield program_request(random, program)


assert set(WORDINGS) == set(QUESTION_FORMS)
