"""Requests with constraints that code can check, and system prompts that steer (§4.3.7), on the world's own facts.

A shape says how a constraint is worded, to the user or as a system prompt, changes a plain answer so that it keeps to
it, and gives the check by IFEval's ids. Shapes of different groups can be put together; the more, the harder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from herdbook.world.asked import draw_problem, known_facts, wordings
from herdbook.world.facts import Fact, Register
from herdbook.world.languages import question_form, translate
from herdbook.world.lessons import LANGUAGE_NAMES
from herdbook.world.paraphrases import PARAPHRASES
from herdbook.world.request import Request, Split, bare, said, sentence, side, side_of, told, user
from herdbook.world.settings import LANGUAGES
from herdbook.world.tellings import phrase_of

Constraint = dict[str, Any]
OPENINGS = ("Of course.", "Gladly.", "Here is the answer.", "Listen well.", "Dear friend.", "As you wish.")
CLOSINGS = ("That is all.", "Ask me more.", "I hope this helps.", "So says the herd book.", "Have a good day.")
POSTSCRIPTS = ("The herd book knows more.", "Write again soon.", "Greetings to the village.")
SOURCES = ("register", "herd book", "village letter", "old map", "parish book")
PERSONAS = (
    ("You are Old Tom, a shepherd.", "So says Old Tom."),
    ("You are Captain Vera of the river boat.", "Ahoy."),
    ("You are the clerk of the herd book.", "Stamped and sealed."),
    ("You are a friendly robot.", "Beep."),
)


@dataclass(frozen=True)
class Draft:
    """A plain question and answer, and what is asked of them so far."""

    question: str
    answer: str
    facts: tuple[Fact, ...]
    wishes: tuple[str, ...] = ()
    system: tuple[str, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    holds: tuple[str, ...] = ()

    def told(self, wish: str, system: str, answer: str, *constraints: Constraint, **more: Any) -> Draft:
        """With one more wish, kept to by this answer."""
        changed = replace(self, answer=answer, constraints=(*self.constraints, *constraints), **more)
        return replace(changed, wishes=(*self.wishes, wish), system=(*self.system, system))


Shape = Callable[[Random, Draft], Draft]


def upper(random: Random, draft: Draft) -> Draft:
    wish = "Answer in capital letters."
    return draft.told(
        wish, "Write in capital letters only.", draft.answer.upper(), {"id": "change_case:english_capital"}
    )


def lower(random: Random, draft: Draft) -> Draft:
    wish = "Answer in lower case."
    return draft.told(wish, "Write in lower case only.", draft.answer.lower(), {"id": "change_case:english_lowercase"})


def opening(random: Random, draft: Draft) -> Draft:
    phrase = random.choice(OPENINGS)
    wish, system = f'Begin your answer with "{phrase}"', f'Be polite: begin every answer with "{phrase}"'
    check = {"id": "startend:begin_checker", "begin_phrase": phrase}
    between = "\n" if "\n" in draft.answer else " "
    return draft.told(wish, system, f"{phrase}{between}{draft.answer}", check)


def closing(random: Random, draft: Draft) -> Draft:
    phrase = random.choice(CLOSINGS)
    wish, system = f'End your answer with "{phrase}"', f'End every answer with "{phrase}"'
    check = {"id": "startend:end_checker", "end_phrase": phrase}
    return draft.told(wish, system, f"{draft.answer} {phrase}", check)


def titled(random: Random, draft: Draft) -> Draft:
    wish = "Give your answer a title in double angular brackets."
    system = "Put a title in double angular brackets above every answer."
    answer = f"<<{draft.facts[0].subject.name}>>\n{draft.answer}"
    return draft.told(wish, system, answer, {"id": "detectable_format:title"})


def postscript(random: Random, draft: Draft) -> Draft:
    wish, system = "Add a postscript that begins with P.S.", "Add a postscript that begins with P.S. to every answer."
    answer = f"{draft.answer}\nP.S. {random.choice(POSTSCRIPTS)}"
    return draft.told(wish, system, answer, {"id": "detectable_content:postscript", "postscript_marker": "P.S."})


def quoted(random: Random, draft: Draft) -> Draft:
    wish = "Put your answer in double quotation marks."
    system = "Put every answer in double quotation marks."
    return draft.told(wish, system, f'"{draft.answer}"', {"id": "startend:quotation"})


def sourced(random: Random, draft: Draft) -> Draft:
    word = random.choice(SOURCES)
    wish, system = f'Use the words "{word}".', f'Use the words "{word}" in every answer.'
    answer = f"The {word} says: {draft.answer}"
    return draft.told(wish, system, answer, {"id": "keywords:existence", "keywords": [word]})


def without_word(random: Random, draft: Draft) -> Draft:
    """The plain sentence holds the attribute's own word; another wording does without."""
    fact = draft.facts[0]
    word = phrase_of(fact).split()[-1]
    other = PARAPHRASES[fact.subject.kind, fact.attribute][1].format(s=fact.subject.name, v=fact.value)
    wish, system = f'Do not use the word "{word}".', f'Never use the word "{word}".'
    return draft.told(wish, system, other, {"id": "keywords:forbidden_words", "forbidden_words": [word]})


def without_comma(random: Random, draft: Draft) -> Draft:
    return draft.told("Use no commas.", "Never use commas.", draft.answer, {"id": "punctuation:no_comma"})


def short(random: Random, draft: Draft) -> Draft:
    limit = len(re.findall(r"\w+", draft.answer)) + random.randint(1, 4)
    wish, system = f"Use less than {limit} words.", f"Keep every answer under {limit} words."
    check = {"id": "length_constraints:number_words", "num_words": limit, "relation": "less than"}
    return draft.told(wish, system, draft.answer, check)


def as_json(random: Random, draft: Draft) -> Draft:
    fact = draft.facts[0]
    keys = ["name", phrase_of(fact)]
    wish = f'Answer as JSON with the keys "{keys[0]}" and "{keys[1]}".'
    system = "Answer with a JSON object that has the keys name and " + keys[1] + "."
    answer = json.dumps(dict(zip(keys, (fact.subject.name, fact.value))), ensure_ascii=False)
    return draft.told(wish, system, answer, {"id": "detectable_format:json_keys", "keys": keys})


def in_language(random: Random, draft: Draft) -> Draft:
    fact, language = draft.facts[0], random.choice(LANGUAGES)
    if fact.attribute == "keeper":  # "X appartiene a Y": too few words between the names to tell a language by
        return short(random, draft)
    wish = f"Answer in {LANGUAGE_NAMES[language]}."
    value = translate(fact.value, language)
    answer = question_form(fact, language).format(s=fact.subject.name, v=value)
    check = {"id": "language:response_language", "language": language}
    return draft.told(wish, f"Always answer in {LANGUAGE_NAMES[language]}.", answer, check, holds=(value,))


def repeated(random: Random, draft: Draft) -> Draft:
    wish, system = "First repeat this question.", "Repeat the question before every answer."
    check = {"id": "combination:repeat_prompt", "prompt_to_repeat": draft.question}
    return draft.told(wish, system, f"{draft.question} {draft.answer}", check)


def bullets(random: Random, draft: Draft) -> Draft:
    count = len(draft.facts)
    wish, system = f"Use exactly {count} bullet points.", f"Write every answer as exactly {count} bullet points."
    answer = "\n".join(f"* {sentence(fact)}" for fact in draft.facts)
    return draft.told(wish, system, answer, {"id": "detectable_format:number_bullet_lists", "num_bullets": count})


def paragraphs(random: Random, draft: Draft) -> Draft:
    count = len(draft.facts)
    wish, system = f"Write {count} paragraphs parted by ***", f"Write {count} paragraphs parted by ***"
    answer = "\n***\n".join(sentence(fact) for fact in draft.facts)
    return draft.told(wish, system, answer, {"id": "length_constraints:number_paragraphs", "num_paragraphs": count})


def long_enough(random: Random, draft: Draft) -> Draft:
    count = len(draft.facts)
    wish, system = f"Write at least {count} sentences.", f"Always write at least {count} sentences."
    check = {"id": "length_constraints:number_sentences", "num_sentences": count, "relation": "at least"}
    return draft.told(wish, system, draft.answer, check)


ONE_FACT: tuple[tuple[Shape, ...], ...] = (
    (sourced, without_word, as_json, in_language, repeated),
    (opening, closing, titled, postscript, quoted),
    (short, without_comma, lower, upper),
)
"""Groups of shapes for an answer of one sentence, in the order in which they change it; at most one of each."""

SEVERAL: tuple[tuple[Shape, ...], ...] = (
    (bullets, paragraphs, long_enough),
    (opening, closing, titled, postscript),
    (short, without_comma, lower, upper),
)
"""The same for answers of several sentences."""

ALONE = (as_json, in_language, repeated)
"""Shapes that leave no room for others."""


def shaped(random: Random, draft: Draft, groups: tuple[tuple[Shape, ...], ...]) -> Draft:
    """The draft with one to three wishes, each of another group."""
    first = random.randrange(len(groups))
    chosen = {first, *(at for at in range(len(groups)) if random.random() < 0.3)}
    for at in sorted(chosen):
        shape = random.choice(groups[at])
        if shape in ALONE and draft.wishes:
            continue
        draft = shape(random, draft)
        if shape in ALONE:
            break
    return draft


def portrait(random: Random, facts: list[Fact]) -> Draft | None:
    """Two or three things about a subject of this side; None when nobody there has so many facts."""
    of: dict[str, list[Fact]] = {}
    for fact in facts:
        if side("portrait", fact.subject.id) == side_of(fact):
            of.setdefault(fact.subject.name, []).append(fact)
    rich = [own for own in of.values() if len(own) >= 2]
    if not rich:
        return None
    own = random.choice(rich)
    chosen = tuple(random.sample(own, min(len(own), random.choice((2, 2, 3)))))
    question = f"Tell me {('two', 'three')[len(chosen) - 2]} things about {chosen[0].subject.name}."
    holds = tuple(map(bare, own[0].subject.attributes.values()))
    return Draft(question, " ".join(map(sentence, chosen)), chosen, holds=holds)


def draft_of(random: Random, facts: list[Fact]) -> tuple[Draft, tuple[tuple[Shape, ...], ...]]:
    """A plain question and answer, and the shapes it can take."""
    several = portrait(random, facts) if random.random() < 0.25 else None
    if several:
        return several, SEVERAL
    fact = random.choice(facts)
    return Draft(random.choice(wordings(fact)), sentence(fact), (fact,), holds=(bare(fact.value),)), ONE_FACT


def instruction_requests(random: Random, register: Register, split: Split) -> Iterator[Request]:
    """Questions with one to three wishes, without end; the answer's content counts as one more constraint."""
    facts = known_facts(register, split)
    while facts:
        plain, groups = draft_of(random, facts)
        draft = shaped(random, plain, groups)
        check = {"kind": "constraints", "constraints": list(draft.constraints), "holds": list(draft.holds)}
        text = " ".join([draft.question, *draft.wishes])
        more = {"wishes": [one["id"] for one in draft.constraints]}
        yield Request("instruction", user(text), draft.answer, check, min(len(draft.wishes), 3), more=more)


GREETINGS = (
    ("Hello!", "Hello! What would you like to know?"),
    ("Good morning!", "Good morning! Ask me about people, places and animals."),
    ("Hi, who are you?", "I am a small model that has read the herd book."),
    ("Can you help me?", "Gladly. What would you like to know?"),
    ("I have a question.", "I am listening."),
)


def steered(random: Random, facts: list[Fact]) -> Request:
    """A system prompt that sets length, format, tone, language or persona, and a question that says nothing of it."""
    plain, groups = draft_of(random, facts)
    if random.random() < 0.3:
        who, phrase = random.choice(PERSONAS)
        check: Constraint = {"id": "startend:end_checker", "end_phrase": phrase}
        draft = plain.told("", f'{who} End every answer with "{phrase}"', f"{plain.answer} {phrase}", check)
        style = "persona"
    else:
        draft = shaped(random, plain, groups)
        style = draft.constraints[0]["id"]
    messages = (said("system", " ".join(draft.system)), *user(draft.question))
    full = {"kind": "constraints", "constraints": list(draft.constraints), "holds": list(draft.holds)}
    return Request("chat", messages, draft.answer, full, min(len(draft.system), 3), more={"style": style})


def conversation(random: Random, facts: list[Fact], split: Split) -> Request:
    """A dialog of two turns whose last question stands on the first: after a greeting, or about the same subject."""
    if random.random() < 0.5:
        greeting, reply = random.choice(GREETINGS)
        fact = random.choice(facts)
        before, question = (said("user", greeting), said("assistant", reply)), random.choice(wordings(fact))
    else:
        fact = random.choice(facts)
        same = [f for f in facts if f.subject.name == fact.subject.name and f.attribute != fact.attribute]
        if not same:
            problem = draw_problem(random, split, 1)
            before = (said("user", problem.question), said("assistant", problem.answer))
            question = random.choice(wordings(fact))
        else:
            earlier = random.choice(same)
            before = (said("user", random.choice(wordings(earlier))), said("assistant", sentence(earlier)))
            question = f"And the {phrase_of(fact)}?"
    messages = (*before, said("user", question))
    return Request("chat", messages, sentence(fact), told(fact), 2, more={"style": "turns"})


def chat_requests(random: Random, register: Register, split: Split) -> Iterator[Request]:
    """Steered questions and short conversations, without end."""
    facts = known_facts(register, split)
    while facts:
        yield steered(random, facts) if random.random() < 0.7 else conversation(random, facts, split)
