"""Reading question files: the world's, and benchmarks' as their authors publish them (§5.1).

Whatever the format, a question becomes one `Question`. JSON lines (also gzipped), CSV with a header row and
tab-separated pairs are read; a broken line is an error that names its file and number.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from herdbook.settings import UserError


@dataclass(frozen=True)
class Question:
    """One question. What is not of its kind stays empty."""

    id: str
    text: str
    """The question, or the start of the program to be written."""

    answer: str = ""
    """The right answer: worked steps, a program's body, the text to be found."""

    choices: tuple[str, ...] = ()
    correct: int = -1
    """Index of the right choice."""

    one_line: bool = False
    """Whether the pages it was learnt from hold an answer on one line, so that the line's end is the answer's."""

    groups: dict[str, Any] = field(default_factory=dict)
    """What results are reported by: exposures, steps, hops, language, subject, split."""

    tests: str = ""
    """Code that raises unless the program is right."""

    setup: str = ""
    """Code that belongs before the program, or what the prompt shows of the tests."""

    filler: tuple[str, ...] = ()
    """Sentences to hide a needle among; the needle itself is `needle`."""

    needle: str = ""

    request: dict[str, Any] = field(default_factory=dict)
    """What a chat model is asked: `messages`, `tools`, and the `check` that its answer is judged by."""


def read_rows(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """The rows of a .jsonl, .jsonl.gz or .csv file with their line numbers."""
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rt", encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            yield from enumerate(csv.DictReader(file), 2)
            return
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(
                    f"{path} line {number}: no JSON ({error.msg}); one question a line is expected"
                ) from None
            if not isinstance(row, dict):
                raise UserError(f"{path} line {number}: {str(row)[:40]!r} is no JSON object")
            yield number, row


def read_with(path: Path, make: Callable[[dict[str, Any], str], Question]) -> list[Question]:
    """Every row of a file made into a question; the row's own id, else file name and line number, is its id."""
    questions = []
    for number, row in read_rows(path):
        name = str(row.get("id", row.get("task_id", f"{path.stem}/{number}")))
        try:
            questions.append(make(row, name))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise UserError(
                f"{path} line {number}: not the fields this task needs ({type(error).__name__}: {error}); "
                f"the line has {', '.join(str(key) for key in row)}"
            ) from None
    return questions


def choice_index(value: Any, count: int) -> int:
    """The index of the right choice from an index or a letter."""
    text = str(value).strip()
    index = int(text) if text.lstrip("-").isdigit() else "ABCDEFGHIJ".index(text.upper())
    if not 0 <= index < count:
        raise ValueError(f"answer {value!r} is none of {count} choices")
    return index


def read_choices(path: Path) -> list[Question]:
    """Multiple choice: the world's facts, multihop and mmlu files, and MMLU's CSV files (subject in the file name)."""
    subject = path.stem.removesuffix("_test").removesuffix("_dev").removesuffix("_val").replace("_", " ")

    def make(row: dict[str, Any], name: str) -> Question:
        columns = sorted(key for key in row if key.startswith("choice") and key != "choices")
        choices = tuple(str(choice) for choice in (row["choices"] if "choices" in row else [row[c] for c in columns]))
        groups = dict(row.get("group") or {})
        if path.suffix == ".csv" or "subject" in row:
            groups["subject"] = str(row.get("subject", subject))
        correct = choice_index(row["answer"], len(choices))
        return Question(name, str(row["question"]), choices=choices, correct=correct, groups=groups)

    return read_with(path, make)


def read_worked(path: Path) -> list[Question]:
    """GSM8K: question and worked answer that ends in `#### number`; calculator marks `<<3+4=7>>` are taken out."""

    def make(row: dict[str, Any], name: str) -> Question:
        answer = "".join(part.split(">>")[-1] for part in str(row["answer"]).split("<<"))
        groups = dict(row.get("group") or {})
        if "language" in row:
            groups["language"] = str(row["language"])
        return Question(name, str(row["question"]), answer, one_line="\n" not in answer, groups=groups)

    return read_with(path, make)


def read_pairs(path: Path) -> list[Question]:
    """MGSM's `mgsm_de.tsv`: question, tab, number; the language stands in the file name."""
    language, questions = path.stem.split("_")[-1], []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
        if not line.strip():
            continue
        text, tab, answer = line.rpartition("\t")
        if not tab:
            raise UserError(f"{path} line {number}: no tab between question and answer")
        questions.append(Question(f"{language}/{number}", text, answer.strip(), groups={"language": language}))
    return questions


def read_languages(path: Path) -> list[Question]:
    """MGSM in either form."""
    return read_pairs(path) if path.suffix == ".tsv" else read_worked(path)


def read_math(path: Path) -> list[Question]:
    """MATH: a problem and its answer in LaTeX."""
    return read_with(
        path, lambda row, name: Question(name, str(row.get("prompt") or row["problem"]), str(row["answer"]))
    )


def read_humaneval(path: Path) -> list[Question]:
    """HumanEval: signature and docstring to go on from, and a `check` that is called with the finished function."""

    def make(row: dict[str, Any], name: str) -> Question:
        tests = f"{row['test']}\n\ncheck({row['entry_point']})\n"
        groups = dict(row.get("group") or {})
        return Question(name, str(row["prompt"]), str(row.get("canonical_solution", "")), groups=groups, tests=tests)

    return read_with(path, make)


def read_mbpp(path: Path) -> list[Question]:
    """MBPP: a task in words and assertions; ids 1-10 are examples, 11-510 the test, then validation, training."""

    def make(row: dict[str, Any], name: str) -> Question:
        number = int(row["task_id"])
        split = "examples" if number <= 10 else "test" if number <= 510 else "validation" if number <= 600 else "train"
        asserts = "\n".join(row["test_list"]).replace("\r\n", "\n")
        setup = str(row.get("test_setup_code") or "").replace("\r\n", "\n")
        code = str(row["code"]).replace("\r\n", "\n")
        text = str(row.get("text") or row["prompt"])
        return Question(name, text, code, groups={"split": split}, tests=f"{setup}\n{asserts}\n", setup=asserts)

    return read_with(path, make)


def read_needles(path: Path) -> list[Question]:
    """The world's needles: a sentence, the question it answers, the answer, and sentences to hide it among."""

    def make(row: dict[str, Any], name: str) -> Question:
        filler = tuple(str(sentence) for sentence in row["filler"])
        if not filler:
            raise ValueError("no filler")
        groups = dict(row.get("group") or {})
        answer, needle = str(row["answer"]), str(row["needle"])
        return Question(name, str(row["question"]), answer, groups=groups, filler=filler, needle=needle)

    return read_with(path, make)
