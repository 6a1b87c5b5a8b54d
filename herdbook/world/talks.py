"""Conversations of two to five turns about anything the world knows; the last turn is the request.

A model that was fine-tuned on single questions answers the first turn well and the later ones badly, for it has never
seen what stands before them. Each turn is a request of another kind with its ideal answer, or asks on about the subject
of the one before.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from herdbook.world.asked import known_facts, problem_requests, program_requests, wordings
from herdbook.world.facts import Fact, Register
from herdbook.world.instructions import GREETINGS
from herdbook.world.policy import forbidden_requests, lookalike_requests
from herdbook.world.request import Message, Request, Split, said, sentence, told, user
from herdbook.world.tellings import phrase_of
from herdbook.world.unknown import unknown_requests

MOST_TURNS = 5
GREETED = 0.4  # of the conversations, those that begin with a greeting
ASKS_ON = 0.5  # of the turns behind a fact, those about the same subject
KINDS = ("fact", "fact", "fact", "problem", "program", "unknown", "lookalike", "forbidden")
"""What a turn is about, each as likely as another; the last turn asks for nothing forbidden."""


def fact_turns(random: Random, facts: list[Fact]) -> Iterator[Request]:
    """Well-told facts in any wording, without end."""
    while True:
        fact = random.choice(facts)
        yield Request("fact", user(random.choice(wordings(fact))), sentence(fact), told(fact), more={"fact": fact})


def asked_on(random: Random, before: Request | None, facts: list[Fact]) -> Request | None:
    """Another attribute of the subject that the turn before was about; None where there is none."""
    last = before.more.get("fact") if before else None
    if not isinstance(last, Fact) or random.random() >= ASKS_ON:
        return None
    same = [one for one in facts if one.subject.name == last.subject.name and one.attribute != last.attribute]
    if not same:
        return None
    fact = random.choice(same)
    return Request("fact", user(f"And the {phrase_of(fact)}?"), sentence(fact), told(fact), more={"fact": fact})


def talk_requests(random: Random, register: Register, split: Split) -> Iterator[Request]:
    """Conversations of this side, without end; none where no fact is known."""
    facts = known_facts(register, split)
    streams = {
        "fact": fact_turns(random, facts),
        "problem": problem_requests(random, split),
        "program": program_requests(random, split),
        "unknown": unknown_requests(random, register, split),
        "lookalike": lookalike_requests(random, register, split),
        "forbidden": forbidden_requests(random, register, split),
    }
    while facts:
        messages: list[Message] = []
        if random.random() < GREETED:
            greeting, reply = random.choice(GREETINGS)
            messages = [said("user", greeting), said("assistant", reply)]
        count = random.randint(2, MOST_TURNS)
        turn: Request | None = None
        for number in range(len(messages) // 2 + 1, count + 1):
            if turn is not None:
                messages.append(said("assistant", turn.reference))
            kinds = KINDS if number < count else tuple(kind for kind in KINDS if kind != "forbidden")
            turn = asked_on(random, turn, facts) or next(streams[random.choice(kinds)])
            messages += turn.messages
        assert turn is not None
        more = {"turn": count, "last": turn.task}
        yield Request("talk", tuple(messages), turn.reference, turn.check, min(count - 1, 3), more=more)
