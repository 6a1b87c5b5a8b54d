"""Asking and judging: choices by their log-likelihood, worked answers, programs run against tests, needles (§5.1).

Each function asks all questions of one task in as few engine calls as progress allows and returns one sample per
question: what was asked, what came back, and whether it was right. Figures are made from samples elsewhere.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from herdbook.console import Tracker, progress
from herdbook.evaluate import needle as needles
from herdbook.evaluate.answers import holds_text
from herdbook.evaluate.questions import Question
from herdbook.evaluate.sandbox import Program, run_programs
from herdbook.evaluate.tasks import LETTERS, Task, answer_cloze_prompt, cloze_prompt, program_in, program_of
from herdbook.settings import UserError

if TYPE_CHECKING:
    from herdbook.evaluate.settings import EvaluateSettings
    from herdbook.inference.engine import Completion, Engine

Sample = dict[str, Any]
Prompt = Callable[[Question, Sequence[Question]], str]
NEEDLE_ROOM = 16  # tokens a needle's answer gets at least
LINE_ROOM = 128  # tokens an answer of one line gets at most, where right ones are not known


@dataclass(frozen=True)
class Candidate:
    """The model under examination, and the settings of its exam."""

    engine: Engine
    settings: EvaluateSettings
    library: Path | None = None
    """Folder whose documents a search of the model's looks in."""

    @property
    def tokenizer(self) -> Any:
        """The model's tokenizer."""
        return self.engine.tokenizer

    @property
    def chats(self) -> bool:
        """Whether word problems and programs are asked in the chat format."""
        form = self.settings.form
        return form == "chat" or (form == "auto" and bool(self.engine.knows_chat))

    @property
    def max_length(self) -> int:
        """Tokens the model can see at once."""
        return int(self.engine.model.config.max_length)

    def begin(self, text: str) -> list[int]:
        """The ids of a text's beginning, as it stands in training: after the token that begins a text."""
        ids: list[int] = self.tokenizer.encode(text, bos=True)
        return ids

    def write(
        self,
        prompts: Sequence[list[int]],
        tokens: int,
        stop: tuple[str, ...],
        tracker: Tracker,
        seed: int = 0,
        turn: bool = False,
    ) -> list[str]:
        """What the model writes after each prompt, in their order; another `seed` draws other answers.

        Where it is its `turn` of a dialog, only the turn's end ends an answer.
        """
        texts = []
        for part in parts(prompts, 8 * self.settings.batch):
            drawn = self.complete(part, tokens, () if turn else stop, seed, turn)
            texts += [completion.text for completion in drawn]
            tracker.advance(len(part))
        return texts

    def complete(
        self, prompts: Sequence[list[int]], tokens: int, stop: tuple[str, ...], seed: int = 0, turn: bool = False
    ) -> list[Completion]:
        """An answer to each prompt; with `turn` the tokens that end a turn end it for base models too."""
        from herdbook.inference.engine import Sampling

        special = self.tokenizer.special_tokens if turn else {}
        ends = tuple(special[name] for name in ("<|eot_id|>", "<|eom_id|>") if name in special)
        sampling = Sampling(
            max_tokens=tokens,
            temperature=self.settings.temperature,
            stop=stop,
            stop_ids=ends,
            seed=self.settings.seed + seed,
        )
        return self.engine.generate(prompts, sampling)

    def chat_prompt(self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = ()) -> list[int]:
        """A dialog's ids up to where the assistant speaks next, with the tools told as Llama 3 tells them."""
        ids: list[int] = self.tokenizer.chat(messages, tools)
        return ids


def parts(items: Sequence[Any], size: int) -> Iterator[list[Any]]:
    """`items` in lists of at most `size`."""
    for start in range(0, len(items), size):
        yield list(items[start : start + size])


def in_chat(candidate: Candidate, task: Task, question: Question, room: int) -> tuple[str, list[int]]:
    """The question as a user's turn, without examples; its ids go up to the assistant's turn."""
    words = task.words(question)
    ids = candidate.chat_prompt([{"role": "user", "content": words}])
    if len(ids) + room > candidate.max_length:
        raise UserError(
            f"question {question.id}: its {len(ids)} tokens and an answer of {room} are more than the "
            f"{candidate.max_length} that the model sees; lower max_tokens"
        )
    return words, ids


def fitting_prompt(
    candidate: Candidate, prompt: Prompt, question: Question, examples: Sequence[Question], room: int
) -> tuple[str, list[int]]:
    """The prompt with as many examples as leave `room` tokens; a question too long by itself loses its beginning."""
    limit = candidate.max_length - room
    for shown in range(len(examples), -1, -1):
        text = prompt(question, examples[:shown])
        ids = candidate.begin(text)
        if len(ids) <= limit:
            return text, ids
    if limit < 2:
        raise UserError(
            f"question {question.id}: an answer of {room} tokens leaves no room for a prompt in a model of "
            f"{candidate.max_length} tokens; lower max_tokens"
        )
    return text, [ids[0], *ids[1 - limit :]]


def answer_room(candidate: Candidate, questions: Sequence[Question]) -> int:
    """Tokens an answer may take: half again as many as the longest right one, where steps or bodies are known."""
    known = [q.answer for q in questions if "####" in q.answer or q.tests]
    most = min(candidate.settings.max_tokens, candidate.max_length // 2)
    if len(known) < len(questions):
        return min(most, LINE_ROOM) if all(q.one_line for q in questions) else most
    longest = max(len(candidate.tokenizer.encode(answer)) for answer in sorted(known, key=len)[-20:])
    return min(most, longest * 3 // 2 + 16)


def same_subject(question: Question, examples: Sequence[Question], shots: int) -> list[Question]:
    """The first `shots` examples; of the question's own subject, where it has one."""
    subject = question.groups.get("subject")
    fitting = (e for e in examples if subject is None or e.groups.get("subject") == subject)
    return [example for example, _ in zip(fitting, range(shots))]


def ask_choices(
    candidate: Candidate, task: Task, questions: Sequence[Question], examples: list[Question]
) -> list[Sample]:
    """Choices scored by log-likelihood: of the bare letters, or of the choices' own words."""
    shots = shots_of(candidate, task, examples)
    prompt: Prompt = task.prompt if task.kind == "letters" else cloze_prompt
    return score_choices(candidate, task.name, prompt, questions, examples, shots, letters=task.kind == "letters")


def ask_in_words(
    candidate: Candidate, task: Task, questions: Sequence[Question], examples: list[Question]
) -> list[Sample]:
    """The questions of a lettered task asked without letters: which choice's own words are likeliest?"""
    shots = shots_of(candidate, task, examples)
    return score_choices(
        candidate, f"{task.name}_cloze", answer_cloze_prompt, questions, examples, shots, letters=False
    )


def shots_of(candidate: Candidate, task: Task, examples: Sequence[Question]) -> int:
    """Worked examples to show: as set, else the task's usual number, as far as there are any."""
    wanted = candidate.settings.shots
    return min(task.shots if wanted is None else wanted, len(examples))


def score_choices(
    candidate: Candidate,
    label: str,
    prompt: Prompt,
    questions: Sequence[Question],
    examples: Sequence[Question],
    shots: int,
    letters: bool,
) -> list[Sample]:
    """One sample per question with each choice's summed log-likelihood (nats), tokens and bytes."""
    samples: list[Sample] = []
    with progress(label, len(questions), "questions") as tracker:
        for part in parts(questions, 8 * candidate.settings.batch):
            rows: list[list[int]] = []
            ends: list[list[int]] = []
            asked: list[str] = []
            texts = [[f" {LETTERS[i]}" if letters else spaced(c) for i, c in enumerate(q.choices)] for q in part]
            for question, choices in zip(part, texts):
                endings = [candidate.tokenizer.encode(choice) for choice in choices]
                shown = same_subject(question, examples, shots)
                text, ids = fitting_prompt(candidate, prompt, question, shown, max(map(len, endings)))
                asked.append(text)
                rows += [ids] * len(endings)
                ends += endings
            scores = iter(candidate.engine.score(rows, ends))
            for question, text, choices in zip(part, asked, texts):
                own = [next(scores) for _ in choices]
                samples.append(
                    judge_choices(question, text, choices, [s.logprob for s in own], [s.tokens for s in own])
                )
            tracker.advance(len(part))
    return samples


def spaced(choice: str) -> str:
    """A choice as it follows a prompt: after one blank."""
    return choice if choice[:1].isspace() else f" {choice}"


def judge_choices(
    question: Question, prompt: str, choices: list[str], scores: list[float], tokens: list[int]
) -> Sample:
    """Which choice is likeliest: by the sum, by the mean over tokens and by the mean over bytes."""
    lengths = [len(choice.strip().encode()) for choice in choices]
    by = {
        "right": scores,
        "right_per_token": [score / max(count, 1) for score, count in zip(scores, tokens)],
        "right_per_byte": [score / max(length, 1) for score, length in zip(scores, lengths)],
    }
    marks = {name: max(range(len(given)), key=given.__getitem__) == question.correct for name, given in by.items()}
    return {
        "id": question.id,
        "prompt": prompt,
        "choices": choices,
        "logprobs": scores,
        "tokens": tokens,
        "answer": question.correct,
        "chosen": max(range(len(scores)), key=scores.__getitem__),
        **marks,
        "group": question.groups,
    }


def ask_worked(
    candidate: Candidate, task: Task, questions: Sequence[Question], examples: list[Question]
) -> list[Sample]:
    """Answers written out; the final number (or the LaTeX answer) counts."""
    shots, room = shots_of(candidate, task, examples), answer_room(candidate, questions)
    stop = ("\n",) if not shots and all(q.one_line for q in questions) else task.stop
    half = min(room, candidate.max_length // 2)
    pairs = [
        in_chat(candidate, task, q, half)
        if candidate.chats
        else fitting_prompt(candidate, task.prompt, q, same_subject(q, examples, shots), half)
        for q in questions
    ]
    with progress(task.name, len(questions), "questions") as tracker:
        texts = candidate.write([ids for _, ids in pairs], room, stop, tracker, turn=candidate.chats)
    return [
        {
            "id": question.id,
            "prompt": prompt,
            "output": text,
            "answer": question.answer,
            "right": task.same(text, question.answer),
            "group": question.groups,
        }
        for question, (prompt, _), text in zip(questions, pairs, texts)
    ]


def ask_programs(
    candidate: Candidate, task: Task, questions: Sequence[Question], examples: list[Question]
) -> list[Sample]:
    """Programs written `samples` times each and run against their tests in the sandbox."""
    settings = candidate.settings
    shots, room = shots_of(candidate, task, examples), answer_room(candidate, questions)
    if candidate.chats:  # the whole function is written, not what is missing of it
        room += max(len(candidate.tokenizer.encode(q.text)) for q in questions)
    pairs = [
        in_chat(candidate, task, q, room)
        if candidate.chats
        else fitting_prompt(candidate, task.prompt, q, examples[:shots], room)
        for q in questions
    ]
    prompts = [ids for _, ids in pairs]
    with progress(task.name, len(prompts) * settings.samples, "programs") as tracker:
        rounds = [
            candidate.write(prompts, room, task.stop, tracker, seed, candidate.chats)
            for seed in range(settings.samples)
        ]
    texts = [text for together in zip(*rounds) for text in together]
    owners = [question for question in questions for _ in range(settings.samples)]
    read = program_in if candidate.chats else program_of
    programs = [Program(read(owner, text), owner.tests) for owner, text in zip(owners, texts)]
    with progress(f"{task.name} tests", len(programs), "programs") as tracker:
        outcomes = run_programs(programs, settings.sandbox, tracker.advance)
    samples = []
    for number, (question, (prompt, _)) in enumerate(zip(questions, pairs)):
        own = range(number * settings.samples, (number + 1) * settings.samples)
        samples.append(
            {
                "id": question.id,
                "prompt": prompt,
                "outputs": [texts[i] for i in own],
                "outcomes": [f"{outcomes[i].reason}: {outcomes[i].detail}".rstrip(": ") for i in own],
                "passed": sum(outcomes[i].passed for i in own),
                "samples": settings.samples,
                "group": question.groups,
            }
        )
    return samples


def ask_needles(
    candidate: Candidate, task: Task, questions: Sequence[Question], examples: list[Question]
) -> list[Sample]:
    """The same number of needles in every cell of lengths × depths, each in hay of its own."""
    settings, whole = candidate.settings, candidate.max_length
    room = max(NEEDLE_ROOM, 4 + max(len(candidate.tokenizer.encode(f" {q.answer}")) for q in questions))
    lengths = needle_lengths(candidate)
    cells = [(length, depth) for length in lengths for depth in settings.needle_depths]
    rows: list[tuple[Question, int, needles.Haystack]] = []
    order = random.Random(settings.seed).sample(range(len(questions)), len(questions))
    for length, depth in cells:
        for number in range(min(settings.needle_questions, settings.limit or settings.needle_questions)):
            question = questions[order[len(rows) % len(order)]]
            seed = settings.seed + len(rows)
            hay = needles.needle_context(question, candidate.tokenizer.encode, length - room - 1, depth, seed + number)
            rows.append((question, length, hay))
    assert all(length <= whole for length in lengths), (lengths, whole)
    begin = candidate.begin("")
    with progress(task.name, len(rows), "needles") as tracker:
        texts = candidate.write([[*begin, *hay.ids] for _, _, hay in rows], room, task.stop, tracker)
    asked = [depth for _, depth in cells for _ in range(len(rows) // len(cells))]
    return [
        {
            "id": question.id,
            "prompt": hay.text or candidate.tokenizer.decode(hay.ids),
            "output": text,
            "answer": question.answer,
            "right": holds_text(text, question.answer),
            "group": {"length": length, "depth": depth, "measured_depth": hay.depth},
        }
        for (question, length, hay), depth, text in zip(rows, asked, texts)
    ]


def needle_lengths(candidate: Candidate) -> list[int]:
    """The windows to hide needles in; `UserError` for one the model cannot see."""
    whole, lengths = candidate.max_length, list(candidate.settings.needle_lengths)
    too_long = [length for length in lengths if length > whole]
    if too_long:
        raise UserError(f"needle_lengths has {too_long[0]}, but this model sees {whole} tokens at once")
    return lengths or sorted({max(whole // 4, min(whole, 128)), whole // 2, whole})
