"""Models called by name, to talk to, to serve or to examine: those of the book, and any Hugging Face folder.

A model of the book is examined as a stage of its own, so that the result is kept, has a pedigree and is not measured
twice. Its questions and held-out pages are those of its own ancestors where no others are given.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from herdbook.book import Book, Entry, Parent
from herdbook.check import validate
from herdbook.marked import Problem, parse_value
from herdbook.run import ended_by_signals, make_task, run_task
from herdbook.settings import Settings, UserError
from herdbook.stages import KINDS, load

EXAM = "evaluate"
GROUPS = {
    "layout": ("tensor_parallel", "pipeline_parallel", "micro_batches"),
    "sampling": ("max_tokens", "temperature", "top_k", "top_p", "min_p", "stop", "seed", "logprobs"),
}
"""Options that together are one setting, where a command has it."""


def find_model(name: str, book: Book) -> tuple[Path, Entry | None]:
    """The Hugging Face folder that `name` means, and its entry when it is in the book.

    A folder with a model in it goes before an entry of the same name.
    """
    for folder in (Path(name), Path(name) / "model"):
        if (folder / "config.json").is_file() or (folder / "params.json").is_file():
            return folder, None
    if Path(name).is_dir() and (os.sep in name or not book.folder.is_dir()):
        raise UserError(f"{name} holds no model: there is no config.json in it or in its folder 'model'")
    giving = frozenset(kind.name for kind in KINDS.values() if kind.gives == "model")
    entry = book.resolve(name, "model", giving)
    return book.folder_of(entry) / "model", entry


def talk(name: str, book: Book, **given: Any) -> None:
    """Lead a conversation with a model in the terminal; `given` are its settings (`ChatSettings`)."""
    folder, _ = find_model(name, book)
    settings = make_settings(load("herdbook.inference.chat:ChatSettings"), given)
    engine = load("herdbook.inference.engine:Engine").load(folder, layout=settings.layout)
    try:
        load("herdbook.inference.chat:chat")(engine, settings)
    finally:
        engine.close()


def serve(models: Sequence[str], book: Book, **given: Any) -> None:
    """Serve models over HTTP until a signal; `given` are the server's settings (`ServeSettings`)."""
    sources = []
    for name in models:
        folder, entry = find_model(name, book)
        shown = name if entry else folder.resolve().parent.name if folder.name == "model" else folder.resolve().name
        line = " ← ".join(one.name for one in (entry, *ancestors(entry, book))) if entry else ""
        aliases = (entry.name, entry.id) if entry else (name,)
        sources.append(load("herdbook.inference.server.serve:Source")(shown, folder, line, aliases))
    if given.get("draft") is not None:
        given["draft"] = find_model(given["draft"], book)[0]
    settings = make_settings(load("herdbook.inference.server.settings:ServeSettings"), given)
    load("herdbook.inference.server.serve:serve")(sources, settings)


def generate(name: str, book: Book, prompts: Path, out: Path, **given: Any) -> dict[str, Any]:
    """Have a model answer a folder of prompts; `given` are settings (`GenerateSettings`); figures come back."""
    folder, _ = find_model(name, book)
    settings = make_settings(load("herdbook.inference.fleet:GenerateSettings"), given)
    if not prompts.exists():
        raise UserError(f"{prompts}: no such file or folder; it should hold prompts as .jsonl or .parquet")
    with ended_by_signals():
        figures: dict[str, Any] = load("herdbook.inference.fleet:generate")(folder, prompts, out, settings)
    return figures


def examine(name: str, book: Book, **given: Any) -> tuple[list[str], Entry | None]:
    """The table of results for a model, and the entry that holds them; `given` are settings of the exam."""
    kind = KINDS[EXAM]
    folder, model = find_model(name, book)
    settings = make_settings(kind.settings_class(), given)
    if load("herdbook.inference.ranks:follows")(settings.layout):  # the first rank alone reads and writes the book
        load("herdbook.inference.ranks:load_spread")(folder, settings.layout, settings.device)
    if model is None:
        metrics = load("herdbook.evaluate.run:evaluate_folder")(folder, **dict(settings))
        return load("herdbook.evaluate.table:results_table")(metrics).splitlines(), None
    inputs = {"model": [Parent(stage=model.stage, id=model.id)]}
    for ancestor in ancestors(model, book):
        gives = KINDS[ancestor.kind].gives if ancestor.kind in KINDS else ""
        if gives in kind.takes and gives not in inputs and not (gives == "world" and given.get("data")):
            inputs[gives] = [Parent(stage=ancestor.stage, id=ancestor.id)]
    with ended_by_signals():
        entry = run_task(book, make_task(book, f"{model.stage}-exam", kind, settings, inputs))
    return (book.folder_of(entry) / "table.md").read_text(encoding="utf-8").splitlines(), entry


def ancestors(entry: Entry, book: Book) -> Iterator[Entry]:
    """Every ancestor that is still in the book, the nearest first."""
    seen, left = {entry.id}, [entry]
    while left:
        for parents in left.pop(0).inputs.values():
            for parent in parents:
                found = None if parent.id in seen else book.find(parent.id)
                seen.add(parent.id)
                if found:
                    yield found
                    left.append(found)


def make_settings(wanted: type[Settings], given: dict[str, Any]) -> Any:
    """Settings from options of the command line (None was not given); UserError tells every mistake in them."""
    problems: list[Problem] = []
    values = {key: value for key, value in given.items() if value is not None}
    for group, names in GROUPS.items():
        if group in wanted.model_fields and (found := {name: values.pop(name) for name in names if name in values}):
            values[group] = found
    node = parse_value(json.dumps(values, default=str), "command line", problems)  # JSON is YAML
    assert node is not None
    settings = validate("option", node, node.bare(), wanted, "this command", problems)
    if settings is None or problems:
        raise UserError("\n".join(map(str, problems)))
    return settings
