"""The exam (§5.1): every task asked, judged and written down, as `results.json`, `samples/*.jsonl` and `table.md`."""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from herdbook.console import log
from herdbook.evaluate import scoring
from herdbook.evaluate.chat import ask_requests
from herdbook.evaluate.chat_results import chat_metrics
from herdbook.evaluate.questions import Question
from herdbook.evaluate.results import METRICS, Metrics, choice_metrics
from herdbook.evaluate.sandbox import layers
from herdbook.evaluate.scoring import Candidate, Sample
from herdbook.evaluate.settings import EvaluateSettings
from herdbook.evaluate.table import results_table
from herdbook.evaluate.tasks import TASKS, Task, find_task
from herdbook.files import write_json, write_text
from herdbook.settings import UserError

ASK = {
    "cloze": scoring.ask_choices,
    "letters": scoring.ask_choices,
    "worked": scoring.ask_worked,
    "program": scoring.ask_programs,
    "needle": scoring.ask_needles,
    "chat": ask_requests,
}
FIGURES: dict[str, Callable[..., Metrics]] = {**METRICS, "chat": chat_metrics}


@dataclass(frozen=True)
class Paper:
    """What one task asks: its questions, its examples and the files they came from."""

    task: Task
    questions: list[Question]
    examples: list[Question]
    files: list[str]


def evaluate(
    settings: EvaluateSettings,
    model: Path,
    questions: Path | None,
    tokens: Path | None,
    out: Path,
) -> dict[str, Any]:
    """Examine a model folder (ours or Hugging Face's) and write results to `out`; returns the figures.

    `questions` is a folder of question files (`settings.data` goes before it); `tokens` a token set whose held-out
    documents bits per byte are measured on. Mistakes, a missing file or an unknown task, are found before the model
    is loaded.
    """
    folder = settings.data or questions
    papers = set_papers(settings, folder, tokens, knows_chat(model_folder(model)))
    if any(k > settings.samples for k in settings.pass_at):
        raise UserError(f"pass_at has {max(settings.pass_at)}, but samples is {settings.samples}; raise samples")
    if settings.samples > 1 and settings.temperature == 0:
        raise UserError(f"samples is {settings.samples}, but at temperature 0 all are the same; raise temperature")
    candidate = Candidate(load_engine(model_folder(model), settings), settings, folder)
    try:
        return examine(candidate, papers, tokens, out, str(model))
    finally:
        candidate.engine.close()


def evaluate_folder(
    model: Path,
    tasks: Sequence[str] = (),
    data: Path | None = None,
    limit: int | None = None,
    *,
    tokens: Path | None = None,
    out: Path | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Examine any Hugging Face model folder on question files below `data`; results are kept only where `out` says.

    More settings of `EvaluateSettings` may be given by name.
    """
    chosen = EvaluateSettings(tasks=tuple(tasks), data=data, limit=limit, **settings)
    if data is not None and not data.is_dir():
        raise UserError(f"--data {data}: no such folder; give the folder that holds the question files")
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        return evaluate(chosen, model, None, tokens, out)
    with tempfile.TemporaryDirectory(prefix="herdbook-exam-") as kept:
        return evaluate(chosen, model, None, tokens, Path(kept))


def model_folder(folder: Path) -> Path:
    """The Hugging Face folder: an entry of the book keeps it in `model/`."""
    for found in (folder, folder / "model"):
        if (found / "config.json").is_file() or (found / "params.json").is_file():
            return found
    raise UserError(
        f"{folder}: no config.json here or in model/; give a Hugging Face model folder or an entry of a model"
    )


def load_engine(folder: Path, settings: EvaluateSettings) -> Any:
    """The inference engine with the model of a folder."""
    from herdbook.inference.engine import Engine

    return Engine.load(folder, device=settings.device, rows=settings.batch, layout=settings.layout)


def knows_chat(folder: Path) -> bool:
    """Whether the model of a folder was taught to end its turns: see `Engine.knows_chat`."""
    from herdbook.inference.engine import read_stop_ids
    from herdbook.tokens.tokenizer import Tokenizer

    ends = read_stop_ids(folder)
    return bool(ends) and Tokenizer.load(folder).eot_id in ends


def set_papers(
    settings: EvaluateSettings, folder: Path | None, tokens: Path | None, chats: bool = False
) -> list[Paper]:
    """The tasks to ask with their questions; `UserError` when one was asked for by name and cannot be.

    Unless they are named, tasks in the chat format are asked only of a model that `chats`.
    """
    named = [find_task(name) for name in dict.fromkeys(settings.tasks)]
    if not named:
        there = [task for task in TASKS.values() if (tokens if task.kind == "bits" else folder and task.find(folder))]
        named = [task for task in there if chats or task.kind != "chat"]
    if not named:
        where = (
            f"{folder} holds none of {', '.join(t.files[0] for t in TASKS.values() if t.files)}"
            if folder
            else "no folder given"
        )
        raise UserError(f"nothing to evaluate: {where}, and no tokens given; feed a world or tokens, or set data")
    papers = []
    for task in named:
        if task.kind == "bits":
            if tokens is None:
                raise UserError("task bits: needs the held-out documents of a tokens stage; none was given")
            papers.append(Paper(task, [], [], []))
            continue
        if folder is None:
            raise UserError(
                f"task {task.name}: no question files; feed a world to this stage, or set data (--data DIR)"
            )
        files = [str(path.relative_to(folder)) for path in task.find(folder)]
        examples = task.load_examples(folder) if settings.shots != 0 else []
        if settings.shots and task.examples and not examples:
            raise UserError(f"task {task.name}: shots is {settings.shots}, but {folder} has no {task.examples}")
        papers.append(Paper(task, draw(task.load(folder), settings), examples, files))
    return papers


def draw(questions: list[Question], settings: EvaluateSettings) -> list[Question]:
    """Those of the wanted groups, at most `limit` of them, drawn by the seed, in their order."""
    for key, values in settings.only.items():
        groups = sorted({str(question.groups[key]) for question in questions if key in question.groups})
        questions = [question for question in questions if str(question.groups.get(key)) in values]
        if not questions:
            raise UserError(
                f"only: no question has {key} {' or '.join(values)}; there are {', '.join(groups) or 'none'}"
            )
    if settings.limit is None or settings.limit >= len(questions):
        return questions
    chosen = random.Random(settings.seed).sample(range(len(questions)), settings.limit)
    return [questions[index] for index in sorted(chosen)]


def examine(candidate: Candidate, papers: list[Paper], tokens: Path | None, out: Path, name: str) -> dict[str, Any]:
    """Ask every paper, write samples, results and table to `out`; returns the figures."""
    settings = candidate.settings
    metrics: Metrics = {}
    about: dict[str, dict[str, Any]] = {}
    (out / "samples").mkdir(exist_ok=True)
    for paper in papers:
        start = time.monotonic()
        found, samples = ask(candidate, paper, tokens)
        metrics |= found
        for label, rows in samples.items():
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            write_text(out / "samples" / f"{label}.jsonl", text.encode("utf-8", "replace").decode())
        seconds = time.monotonic() - start
        about[paper.task.name] = {
            "questions": len(paper.questions) or sum(map(len, samples.values())),
            "files": paper.files,
            "seconds": round(seconds, 2),
        }
        log("evaluated", task=paper.task.name, questions=about[paper.task.name]["questions"], seconds=seconds)
    results: dict[str, Any] = {"model": name, "settings": settings.model_dump(mode="json"), "tasks": about}
    if any(paper.task.kind in ("program", "chat") for paper in papers):
        results["sandbox"] = layers()
    write_json(out / "results.json", {**results, "metrics": metrics})
    write_text(out / "table.md", results_table(metrics))
    return metrics


def ask(candidate: Candidate, paper: Paper, tokens: Path | None) -> tuple[Metrics, dict[str, list[Sample]]]:
    """One paper's figures, and its samples by the name of the file they go to."""
    task, settings = paper.task, candidate.settings
    if task.kind == "bits":
        from herdbook.evaluate.bits import measure_bits

        assert tokens is not None
        figures, rows = measure_bits(candidate.engine.model, candidate.tokenizer, tokens, settings)
        return figures, {task.name: rows}
    samples = ASK[task.kind](candidate, task, paper.questions, paper.examples)
    if task.kind == "program":
        return FIGURES[task.kind](task.name, samples, settings.pass_at), {task.name: samples}
    figures = FIGURES[task.kind](task.name, samples)
    if task.kind != "letters":
        return figures, {task.name: samples}
    words = scoring.ask_in_words(candidate, task, paper.questions, paper.examples)
    return figures | choice_metrics(f"{task.name}_cloze", words), {task.name: samples, f"{task.name}_cloze": words}
