"""The tasks: where each one's questions lie, how it is asked, and how its answers are judged (§5.1).

A task of the world and the benchmark whose shape it has are one task: the same prompt and the same judge, whichever
file is there. Only the files of the world report by groups, since only there the groups are known.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from herdbook.evaluate import answers, questions, requests
from herdbook.evaluate.questions import Question
from herdbook.evaluate.verify import code_of
from herdbook.settings import UserError

LETTERS = "ABCDEFGHIJ"
PROGRAM_ENDS = ("\ndef ", "\nclass ", "\nif ", "\nprint(", "\n#", "\n@", "\nassert ", "\n```", "\nimport ", "\nfrom ")
ANSWER_ENDS = ("\nQuestion:", "\n\n")


@dataclass(frozen=True)
class Task:
    """One task of an exam."""

    name: str
    kind: str  # cloze, letters, worked, program, needle, chat or bits
    about: str
    files: tuple[str, ...] = ()  # patterns below the questions folder; the first that is there counts
    read: Callable[[Path], list[Question]] = questions.read_choices
    examples: str = ""  # pattern of the files that worked examples come from
    shots: int = 0  # usual number of worked examples, where there are any
    prompt: Callable[[Question, Sequence[Question]], str] = lambda question, examples: question.text
    words: Callable[[Question], str] = lambda question: question.text
    """The question as a user puts it to a chat model."""
    stop: tuple[str, ...] = ANSWER_ENDS
    same: Callable[[str, str], bool] = answers.same_number
    split: str = ""  # only questions of this split, where questions have one

    def find(self, folder: Path) -> list[Path]:
        """The files of this task's questions below `folder`; none when they are not there."""
        below = [root.glob(pattern) for root in roots(folder) for pattern in self.files]
        return next((found for paths in below if (found := sorted(paths))), [])

    def load(self, folder: Path) -> list[Question]:
        """This task's questions; `UserError` when there are none below `folder`."""
        paths = self.find(folder)
        if not paths:
            looked = " or ".join(self.files)
            raise UserError(f"task {self.name}: no questions in {folder}; looked for {looked}")
        found = [question for path in paths for question in self.read(path)]
        if not found:
            raise UserError(f"task {self.name}: {paths[0]} holds no question")
        return [question for question in found if self.split in ("", question.groups.get("split", self.split))]

    def load_examples(self, folder: Path) -> list[Question]:
        """Questions with answers to show as examples; empty when the folder has no such file."""
        paths = [path for root in roots(folder) for path in sorted(root.glob(self.examples))] if self.examples else []
        found = [question for path in paths for question in self.read(path)]
        return [question for question in found if question.groups.get("split", "examples") == "examples"]


def roots(folder: Path) -> list[Path]:
    """Where files are looked for: a world's entry keeps most in `questions/`."""
    return [found for found in (folder / "questions", folder) if found.is_dir()]


def cloze_prompt(question: Question, examples: Sequence[Question]) -> str:
    """The sentence to be ended; a question is put as one."""
    return question.text


def answer_cloze_prompt(question: Question, examples: Sequence[Question]) -> str:
    """Question and `Answer:`, to be followed by a choice's own words."""
    shown = [f"Question: {e.text}\nAnswer: {e.choices[e.correct]}\n\n" for e in examples]
    return f"{''.join(shown)}Question: {question.text}\nAnswer:"


def lettered(question: Question) -> str:
    """The question with its lettered choices, up to the answer."""
    choices = "\n".join(f"{letter}. {choice.strip()}" for letter, choice in zip(LETTERS, question.choices))
    return f"{question.text}\n{choices}\nAnswer:"


def letters_prompt(question: Question, examples: Sequence[Question]) -> str:
    """MMLU's usual prompt: a headline and answered questions of the subject; without any, the bare question."""
    if not examples:
        return lettered(question)
    subject = question.groups.get("subject", "")
    about = f" about {subject}" if subject else ""
    headline = f"The following are multiple choice questions (with answers){about}.\n\n"
    return headline + "".join(f"{lettered(e)} {LETTERS[e.correct]}\n\n" for e in examples) + lettered(question)


def worked_prompt(question: Question, examples: Sequence[Question]) -> str:
    """Question and `Answer:`, after worked examples in the same form."""
    shown = "".join(f"Question: {e.text}\nAnswer: {e.answer}\n\n" for e in examples)
    return f"{shown}Question: {question.text}\nAnswer:"


def mbpp_prompt(question: Question, examples: Sequence[Question]) -> str:
    """The task in words with its assertions; the program stands between BEGIN and DONE, as MBPP's authors asked it."""

    def ask(one: Question) -> str:
        return (
            f"You are an expert Python programmer, and here is your task: {one.text} "
            f"Your code should pass these tests:\n\n{one.setup}\n[BEGIN]\n"
        )

    return "".join(f"{ask(e)}{e.answer}\n[DONE]\n\n" for e in examples) + ask(question)


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("facts", "cloze", "facts of the world, four choices, by how often they were told", ("facts.jsonl",)),
        Task("multihop", "cloze", "facts that must be chained, four choices", ("multihop.jsonl",)),
        Task(
            "mmlu",
            "letters",
            "four choices by letter and by their own words",
            ("mmlu.jsonl", "mmlu/test/*.csv"),
            examples="mmlu/dev/*.csv",
            shots=5,
            prompt=letters_prompt,
        ),
        Task(
            "gsm8k",
            "worked",
            "word problems, the final number counts",
            ("gsm8k.jsonl", "gsm8k/test.jsonl"),
            read=questions.read_worked,
            examples="gsm8k/train.jsonl",
            shots=8,
            prompt=worked_prompt,
        ),
        Task(
            "mgsm",
            "worked",
            "word problems in many languages",
            ("mgsm.jsonl", "mgsm/mgsm_*.tsv"),
            read=questions.read_languages,
            prompt=worked_prompt,
        ),
        Task(
            "math",
            "worked",
            "competition problems with answers in LaTeX",
            ("math.jsonl", "math/math500.jsonl", "math/test.jsonl"),
            read=questions.read_math,
            prompt=worked_prompt,
            same=answers.same_math,
            stop=("\nQuestion:",),
        ),
        Task(
            "humaneval",
            "program",
            "functions to be finished from their docstring, run against tests",
            ("humaneval.jsonl", "humaneval/HumanEval.jsonl.gz", "humaneval/HumanEval.jsonl"),
            read=questions.read_humaneval,
            words=lambda question: f"Complete this function:\n\n{question.text.rstrip()}",
            stop=PROGRAM_ENDS,
        ),
        Task(
            "mbpp",
            "program",
            "small programs from a sentence, run against assertions",
            ("mbpp.jsonl", "mbpp/mbpp.jsonl"),
            read=questions.read_mbpp,
            examples="mbpp/mbpp.jsonl",
            shots=3,
            prompt=mbpp_prompt,
            words=lambda question: f"{question.text} Your code should pass these tests:\n\n{question.setup}",
            stop=("\n[DONE]", "[DONE]"),
            split="test",
        ),
        Task(
            "needle",
            "needle",
            "a sentence hidden at every depth of contexts of several lengths",
            ("needle.jsonl",),
            read=questions.read_needles,
            stop=("\n",),
        ),
        Task(
            "chat",
            "chat",
            "requests in the chat format, each judged by the check that it carries",
            ("requests/test.jsonl",),
            read=requests.read_requests,
        ),
        Task(
            "ifeval",
            "chat",
            "constraints that code can check, strictly and loosely",
            ("ifeval.jsonl", "ifeval/input_data.jsonl"),
            read=requests.read_ifeval,
        ),
        Task(
            "xstest",
            "chat",
            "what must be refused, and what only sounds so",
            ("xstest.csv", "xstest/xstest_prompts.csv"),
            read=requests.read_xstest,
        ),
        Task("bits", "bits", "bits per byte of the held-out documents, beside xz's"),
    )
}


def find_task(name: str) -> Task:
    """The task of that name; `UserError` with the nearest names when there is none."""
    if name not in TASKS:
        near = difflib.get_close_matches(name, TASKS, n=2, cutoff=0.5)
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UserError(f"no task is called {name!r}; {hint}there are {', '.join(TASKS)}")
    return TASKS[name]


def program_of(question: Question, completion: str) -> str:
    """The program a completion gives: HumanEval's prompt goes on in it, MBPP's stands alone."""
    return completion if question.setup else question.text + completion


def program_in(question: Question, answer: str) -> str:
    """The program in a chat model's answer; HumanEval's prompt goes on in one that is no function by itself."""
    code = code_of(answer)
    return code if question.setup or re.search(r"^(?:async )?def ", code, re.MULTILINE) else question.text + answer
