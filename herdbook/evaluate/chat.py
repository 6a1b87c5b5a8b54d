"""Asking in the chat format: one turn for each request, and errands with tools to their end (§5.1, §4.3.5).

A base model is asked in the same format; that is what fine-tuning is held against. An answer has ended when the model
ended its turn by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from herdbook.console import Tracker, progress
from herdbook.evaluate.constraints import loosely
from herdbook.evaluate.questions import Question
from herdbook.evaluate.refusals import does_not_know, refuses
from herdbook.evaluate.scoring import Candidate, Sample, parts
from herdbook.evaluate.tasks import Task
from herdbook.evaluate.toolbox import Corpus, Toolbox
from herdbook.evaluate.verify import Verdict, verify_all, well_formed
from herdbook.settings import UserError
from herdbook.tokens.tools import read_calls

TURNS = 5  # most times a model may call tools before it answers
GRAM = 4  # words in a row that an answer should not say again and again


@dataclass(frozen=True)
class Answer:
    """One turn of the model."""

    text: str
    ended: bool
    tokens: int


def answer_all(candidate: Candidate, questions: Sequence[Question], room: int, tracker: Tracker) -> list[Answer]:
    """The model's next turn for each; a prompt that fills the model's context gets an empty one that never ended."""
    dialogs = [(q.request["messages"], q.request.get("tools", ())) for q in questions]
    return turns(candidate, dialogs, room, tracker)


def turns(
    candidate: Candidate, dialogs: Sequence[tuple[list[dict[str, Any]], Sequence[Any]]], room: int, tracker: Tracker
) -> list[Answer]:
    """The model's next turn in each dialog `(messages, tools)`, at most `room` tokens."""
    answers: list[Answer] = []
    for part in parts(dialogs, 8 * candidate.settings.batch):
        prompts = [candidate.chat_prompt(messages, tools) for messages, tools in part]
        fitting = [ids for ids in prompts if len(ids) < candidate.engine.limit]
        drawn = iter(candidate.complete(fitting, room, (), turn=True))
        for ids in prompts:
            completion = next(drawn) if len(ids) < candidate.engine.limit else None
            answers.append(
                Answer("", False, 0)
                if completion is None
                else Answer(completion.text.strip(), completion.finish_reason == "stop", len(completion.token_ids))
            )
        tracker.advance(len(part))
    return answers


def room_of(candidate: Candidate, questions: Sequence[Question]) -> int:
    """Tokens an answer may take: half again as many as the longest reference, where all are known."""
    most = min(candidate.settings.max_tokens, candidate.max_length // 2)
    known = [q.answer for q in questions]
    if not all(known):
        return most
    longest = max(len(candidate.tokenizer.encode(answer)) for answer in sorted(known, key=len)[-20:])
    return min(most, longest * 3 // 2 + 16)


def repeats(text: str) -> bool:
    """Whether half of an answer's runs of four words have been said before in it."""
    words = text.split()
    grams = [tuple(words[at : at + GRAM]) for at in range(len(words) - GRAM + 1)]
    return len(grams) >= 2 * GRAM and len(set(grams)) * 2 <= len(grams)


def ask_requests(
    candidate: Candidate, task: Task, questions: Sequence[Question], examples: list[Question]
) -> list[Sample]:
    """One sample per request: the answer, its verdict, whether it ended, refused or did not know."""
    room = room_of(candidate, questions)
    with progress(task.name, len(questions), "requests") as tracker:
        answers = answer_all(candidate, questions, room, tracker)
    verdicts = verify_all([q.request for q in questions], [a.text for a in answers], candidate.settings.sandbox)
    samples = [sample_of(*row) for row in zip(questions, answers, verdicts)]
    solve_errands(candidate, task, questions, answers, samples, room)
    return samples


def sample_of(question: Question, answer: Answer, verdict: Verdict) -> Sample:
    """What is written down about one answer."""
    refused, unknown = refuses(answer.text), does_not_know(answer.text)
    sample: Sample = {
        "id": question.id,
        "messages": question.request["messages"],
        "output": answer.text,
        "answer": question.answer,
        "right": verdict.correct,
        "score": verdict.score,
        "why": verdict.why,
        "ended": answer.ended,
        "refused": refused,
        "unknown": unknown,
        "wrong": not verdict.correct and not refused and not unknown,
        "repeats": repeats(answer.text),
        "tokens": answer.tokens,
        "group": question.groups,
    }
    formed = well_formed(question.request, answer.text)
    if formed is not None:
        sample["formed"] = formed
    check = question.request["check"]
    if check["kind"] == "constraints":
        wishes = [holds for name, holds in verdict.parts.items() if name != "holds"]
        sample["followed"] = all(wishes)
        sample["wishes"] = wishes
        sample["loose"] = [loosely(answer.text, one) for one in check["constraints"]]
    return sample


def solve_errands(
    candidate: Candidate,
    task: Task,
    questions: Sequence[Question],
    answers: Sequence[Answer],
    samples: list[Sample],
    room: int,
) -> None:
    """Let the model go on with what its calls gave, until it answers; marks samples with `solved`.

    Errands are requests that call tools and say what they come to (`final`), from their first step.
    """
    errands = [at for at, q in enumerate(questions) if "final" in q.request and q.request.get("step", 1) == 1]
    if not errands:
        return
    toolbox = Toolbox(library_of(candidate), candidate.settings.sandbox)
    dialogs = {at: list(questions[at].request["messages"]) for at in errands}
    texts = {at: answers[at].text for at in errands}
    going = list(errands)
    with progress(f"{task.name} errands", None, "turns") as tracker:
        for _ in range(TURNS):
            called = []
            for at in going:
                names = [tool["function"]["name"] for tool in questions[at].request["tools"]]
                calls = read_calls(texts[at], names)
                if calls:
                    called.append((at, calls))
            given = iter(toolbox.run([call for _, calls in called for call in calls]))
            for at, calls in called:
                results = "\n".join(next(given) for _ in calls)
                dialogs[at] += [
                    {"role": "assistant", "content": texts[at]},
                    {"role": "ipython", "content": results},
                ]
            going = [at for at, _ in called]
            if not going:
                break
            again = turns(candidate, [(dialogs[at], questions[at].request["tools"]) for at in going], room, tracker)
            texts |= {at: answer.text for at, answer in zip(going, again)}
    verdicts = verify_all([{"id": questions[at].id, "check": questions[at].request["final"]} for at in errands],
                          [texts[at] for at in errands])  # fmt: skip
    for at, verdict in zip(errands, verdicts):
        used = len(dialogs[at]) > len(questions[at].request["messages"])
        samples[at] |= {"solved": verdict.correct and used, "errand": [*dialogs[at], texts[at]]}


def library_of(candidate: Candidate) -> Corpus | None:
    """What `search` looks in: the documents of the folder that the questions came from, where it has any."""
    if candidate.library is None:
        return None
    try:
        return Corpus.load(candidate.library)
    except UserError:
        return None
