"""Long contexts from repositories of code (§4.3.4): a file is taken out, and its dependents and itself are asked for.

A repository is what lies below one folder of the documents' addresses. Its key files are those that at least `least`
others import. Nobody has to write anything: the truth is in the import statements, read by the parser.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from herdbook.posttrain.shown import Row
from herdbook.posttrain.synthesis.code_languages import block
from herdbook.posttrain.synthesis.desk import Desk, assistant, need, user
from herdbook.posttrain.synthesis.text_settings import RepositorySettings
from herdbook.tokens.texts import document_files, draw

ASK = "The file {path} is missing here. Which of these files import it? Name them, one a line."
ASK_FILE = "Write {path} as these files need it."


def make(settings: RepositorySettings, desk: Desk) -> tuple[list[Row], dict[str, Any]]:
    """Dialogs over repositories without one of their files, and how many key files there are."""
    repositories = read_repositories(desk.documents)
    need(list(repositories), "repository is fed no documents that are Python files with an address")
    keys = [
        (name, path, users)
        for name, files in sorted(repositories.items())
        for path, users in sorted(dependents(files).items())
        if len(users) >= settings.least
    ]
    chosen = desk.chosen(keys, lambda one: f"{one[0]}/{one[1]}", settings)
    rows = [
        row for name, path, users in chosen if (row := dialog(name, repositories[name], path, users, settings, desk))
    ]
    figures = {"repositories": len(repositories), "key_files": len(keys), "too_long": len(chosen) - len(rows)}
    return rows, figures


def read_repositories(entries: Sequence[Path]) -> dict[str, dict[str, str]]:
    """The Python files of documents by their first folder, each by its path below it."""
    import pyarrow.parquet as pq

    found: dict[str, dict[str, str]] = {}
    for entry in entries:
        for file in document_files(entry):
            if "url" not in pq.read_schema(file).names:
                continue
            table = pq.read_table(file, columns=["url", "text"])
            for url, text in zip(table["url"].to_pylist(), table["text"].to_pylist(), strict=True):
                path = PurePosixPath(str(url).partition("://")[2] or str(url))
                if path.suffix == ".py" and len(path.parts) > 1 and text:
                    found.setdefault(path.parts[0], {})["/".join(path.parts[1:])] = text
    return found


def dependents(files: Mapping[str, str]) -> dict[str, list[str]]:
    """Of each file of a repository the files that import it, in order."""
    known = modules(files)
    found: dict[str, set[str]] = {}
    for path, text in files.items():
        for name in imported(path, text):
            if (target := meant(known.get(name, {}), path)) and target != path:
                found.setdefault(target, set()).add(path)
    return {path: sorted(users) for path, users in found.items()}


def modules(files: Mapping[str, str]) -> dict[str, dict[str, str]]:
    """Dotted names that files can be imported by: of each the file, by the folder that Python must look in for it.

    These are the repository itself and every folder that holds packages and is none, such as `src`.
    """
    packages = {path.rpartition("/")[0] for path in files if path.rpartition("/")[2] == "__init__.py"}
    roots = {""} | {folder.rpartition("/")[0] for folder in packages} - packages
    found: dict[str, dict[str, str]] = {}
    for root in sorted(roots):
        for path in files:
            if not root or path.startswith(f"{root}/"):
                found.setdefault(module_of(path[len(root) :].removeprefix("/")), {})[root] = path
    return found


def meant(candidates: Mapping[str, str], importer: str) -> str | None:
    """The file among those of one name that a file imports: the nearest around it; None where nothing tells."""
    if len(candidates) == 1:
        return next(iter(candidates.values()))
    around = [root for root in candidates if not root or importer.startswith(f"{root}/")]
    return candidates[max(around, key=len)] if around else None


def module_of(path: str) -> str:
    """The dotted name that a file is imported by."""
    name = path.removesuffix(".py").replace("/", ".")
    return name.removesuffix(".__init__")


def imported(path: str, text: str) -> Iterator[str]:
    """All modules that a file may import by its statements; none where it is no Python."""
    try:
        nodes = list(ast.walk(ast.parse(text)))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return
    package = module_of(path).split(".") if path.endswith("__init__.py") else module_of(path).split(".")[:-1]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}".lstrip(".") for alias in node.names)


def dialog(
    name: str, files: Mapping[str, str], path: str, users: Sequence[str], settings: RepositorySettings, desk: Desk
) -> Row | None:
    """Both questions about one missing file; None where its dependents alone are longer than the context."""
    room = settings.characters - sum(len(shown(one, files[one])) for one in users)
    if room < 0 or len(files[path]) > settings.answer:
        return None
    others = sorted(
        set(files) - {path, *users}, key=lambda one: (draw(f"{path}/{one}", f"repository-{desk.seed}"), one)
    )
    context = list(users)
    for one in others:
        if len(shown(one, files[one])) <= room:
            context.append(one)
            room -= len(shown(one, files[one]))
    text = "".join(shown(one, files[one]) for one in sorted(context))
    messages = [
        user(f"{text}{ASK.format(path=path)}"),
        assistant("\n".join(users)),
        user(ASK_FILE.format(path=path)),
        assistant(block("python", files[path])),
    ]
    return {"id": f"{name}/{path}", "task": "long_context", "messages": messages, "characters": len(text)}


def shown(path: str, text: str) -> str:
    """A file as it stands in the context."""
    return f"# {path}\n{text.strip()}\n\n"
