"""The commands: parse, call, print. What they do is decided elsewhere.

Exit codes: 0 done, 1 a stage failed, 2 a mistake of the user's (told in a line), 130 Ctrl-C, 143 SIGTERM.
"""

from __future__ import annotations

import json
import os
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from herdbook import __version__, console
from herdbook.cli_generate import generate
from herdbook.cli_plan import plan, scale
from herdbook.options import DEFAULT_BOOK, BookOption, PartsOption, StagesOption, TensorOption
from herdbook.settings import UserError


class Guarded(TyperGroup):
    """The commands, with users' mistakes told in a line instead of a traceback (HERDBOOK_DEBUG=1 shows it)."""

    def invoke(self, ctx: Any) -> Any:
        from herdbook.run import Ended, StageFailed

        try:
            return super().invoke(ctx)
        except (UserError, StageFailed) as error:
            if os.environ.get("HERDBOOK_DEBUG"):
                raise
            console.err.print(f"herdbook: {error}", markup=False)
            raise typer.Exit(2 if isinstance(error, UserError) else 1) from None
        except KeyboardInterrupt as error:
            console.err.print("herdbook: ended before it was done", markup=False)
            raise typer.Exit(error.code if isinstance(error, Ended) else 130) from None
        except BrokenPipeError:  # the reader of a pipe (`| head`) has left
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None


app = typer.Typer(
    cls=Guarded,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Raises a herd of Llama-3-style models from raw web pages, and keeps its book.",
)


def version(asked: bool) -> None:
    """Print the version and end."""
    if asked:
        console.out.print(f"herdbook {__version__}")
        raise typer.Exit


@app.callback()
def options(
    _version: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """What stands before the command."""


@app.command()
def run(
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change: STAGE.SETTING=VALUE …")] = None,
    book: BookOption = DEFAULT_BOOK,
    only: Annotated[
        list[str] | None, typer.Option(help="Run this stage and those it stands on; may be given again.")
    ] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Most stages run side by side, those that can be.")] = 1,
    check: Annotated[bool, typer.Option("--check", help="Check the recipe, say what would run, and end.")] = False,
    engine: Annotated[
        Literal["native", "ray"] | None,
        typer.Option(help="Where curation runs: on this machine, or on the Ray cluster of RAY_ADDRESS."),
    ] = None,
) -> None:
    """Run a recipe: what is in the book is kept, what was begun is continued, the rest is run."""
    from herdbook import run as running
    from herdbook.book import Book
    from herdbook.budget import budgets, check_memory
    from herdbook.recipe import read_recipe
    from herdbook.report.budget import budget_lines
    from herdbook.report.summary import STYLES, next_step, plan_table, summary
    from herdbook.report.text import command, show

    if engine:
        os.environ["HERDBOOK_ENGINE"] = engine
    checked = read_recipe(recipe, overrides or ())
    kept = Book(book)
    found = budgets(checked, running.chosen(checked, only or ()))
    if check:
        show([*plan_table(running.plan(checked, kept, only or ()), kept), *budget_lines(found)])
    check_memory(found)
    if check:
        return
    try:
        entries = running.run_recipe(checked, kept, only or (), jobs)
    except KeyboardInterrupt as error:
        words = [command(), "run", str(recipe), *(overrides or ())]
        words += [part for name in only or () for part in ("--only", name)]
        words += ["--jobs", str(jobs)] if jobs > 1 else []
        words += ["--book", str(book)] if book != DEFAULT_BOOK else []
        console.err.print(f"herdbook: ended early; to go on where it was: {shlex.join(words)}", markup=False)
        raise typer.Exit(error.code if isinstance(error, running.Ended) else 130) from None
    aims = [aim for aim in checked.aims if not only or not aim.astray(entries)]
    show(summary(aims, entries, next_step(kept, entries, book != DEFAULT_BOOK)), STYLES)


@app.command()
def deploy(
    scheduler: Annotated[Literal["slurm", "kubernetes"], typer.Argument(help="What starts the machines.")],
    recipe: Annotated[Path, typer.Argument(help="The recipe, a YAML file.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="Settings to change: STAGE.SETTING=VALUE …")] = None,
    machines: Annotated[int | None, typer.Option(min=1, help="How many; the recipe's own number if left out.")] = None,
    book: Annotated[str, typer.Option("--book", help="The book, as every machine sees it.")] = "/book",
    env: Annotated[list[str] | None, typer.Option(help="A variable for the run: NAME=VALUE; may be repeated.")] = None,
    time: Annotated[str, typer.Option(help="Slurm: the time limit; training goes on in the next job.")] = "24:00:00",
    partition: Annotated[str, typer.Option(help="Slurm: the partition.")] = "",
    image: Annotated[str, typer.Option(help="Kubernetes: an image that has herdbook.")] = "herdbook:latest",
    claim: Annotated[str, typer.Option(help="Kubernetes: the volume claim that holds the book.")] = "herdbook",
) -> None:
    """Print what a scheduler takes to run a recipe on many machines: `… > job.sh; sbatch job.sh`."""
    from herdbook import deploy as deploying
    from herdbook.budget import budgets, check_memory
    from herdbook.recipe import read_recipe

    checked = read_recipe(recipe, overrides or ())
    check_memory(budgets(checked))
    job = deploying.job_of(checked, overrides or (), book, machines, env or ())
    made = deploying.slurm(job, time, partition) if scheduler == "slurm" else deploying.kubernetes(job, image, claim)
    typer.echo(made, nl=False)


@app.command("show")
def show_entries(
    entry: Annotated[
        str | None, typer.Argument(help="An entry: its name, the beginning of its id, or a stage.")
    ] = None,
    book: BookOption = DEFAULT_BOOK,
) -> None:
    """Show the herd, or one entry of it in full."""
    from herdbook.book import Book
    from herdbook.report import herd
    from herdbook.report.text import show

    kept = Book(book)
    if entry is not None:
        found = kept.resolve(entry)
        show(herd.one(found, str(kept.folder_of(found))))
        return
    if not book.is_dir():
        raise UserError(f"there is no book {book}; 'herdbook run RECIPE' begins one, --book names another")
    entries, damaged = kept.entries()
    show(herd.herd(entries))
    for name in kept.unfinished():
        console.out.print(f"unfinished: {name} (the same 'herdbook run' goes on with it)", markup=False)
    if damaged:
        raise UserError("\n".join(map(str, damaged.values())))


@app.command()
def pedigree(
    entry: Annotated[str, typer.Argument(help="An entry: its name, the beginning of its id, or a stage.")],
    book: BookOption = DEFAULT_BOOK,
) -> None:
    """Show an entry's ancestors, back to the raw pages, and the settings they were given."""
    from herdbook.book import Book
    from herdbook.report import herd
    from herdbook.report.text import show

    kept = Book(book)
    show(herd.pedigree(kept.resolve(entry), kept))


@app.command()
def kinds(
    kind: Annotated[str | None, typer.Argument(help="One kind, to see its settings.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the JSON Schema instead.")] = False,
) -> None:
    """Show the kinds of stages, or the settings of one."""
    from herdbook.report import kinds as report
    from herdbook.report.text import show
    from herdbook.schema import suggest
    from herdbook.stages import KINDS

    if kind is not None and kind not in KINDS:
        raise UserError(f"there is no kind {kind!r}{suggest(kind, KINDS)}")
    if as_json:
        typer.echo(json.dumps(report.schema(KINDS[kind] if kind else None), indent=2))
    else:
        show(report.one_kind(KINDS[kind]) if kind else report.all_kinds())


@app.command()
def chat(
    model: Annotated[str, typer.Argument(help="A model folder, an entry's name, or a stage of the book.")],
    book: BookOption = DEFAULT_BOOK,
    temperature: Annotated[float | None, typer.Option(help="0 always takes the likeliest token.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer, tokens.")] = None,
    system: Annotated[str | None, typer.Option(help="What the model is told before the dialog.")] = None,
    mode: Annotated[str | None, typer.Option(help="chat, raw (goes on with the text), or auto.")] = None,
    seed: Annotated[int | None, typer.Option(help="Makes a conversation repeatable.")] = None,
    tensor_parallel: TensorOption = None,
    pipeline_parallel: StagesOption = None,
) -> None:
    """Talk to a model in the terminal."""
    from herdbook.book import Book
    from herdbook.models import talk

    talk(
        model,
        Book(book),
        temperature=temperature,
        max_tokens=max_tokens,
        system=system,
        mode=mode,
        seed=seed,
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pipeline_parallel,
    )


@app.command()
def serve(
    models: Annotated[list[str], typer.Argument(help="Model folders, entries' names, or stages of the book.")],
    book: BookOption = DEFAULT_BOOK,
    host: Annotated[str | None, typer.Option(help="Address to listen on; 127.0.0.1 if left out.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 8000 if left out, 0 takes a free one.")] = None,
    api_key: Annotated[
        str | None, typer.Option(envvar="HERDBOOK_API_KEY", help="Key that every request must bring.")
    ] = None,
    name: Annotated[list[str] | None, typer.Option(help="Host name it may be called by; may be given again.")] = None,
    rows: Annotated[int | None, typer.Option(help="Most answers of a model written at once.")] = None,
    queue: Annotated[int | None, typer.Option(help="Most answers that wait besides; more get 429.")] = None,
    prompt_tokens: Annotated[int | None, typer.Option(help="Longest prompt, tokens.")] = None,
    body_bytes: Annotated[int | None, typer.Option(help="Largest body of a request, bytes.")] = None,
    drain_seconds: Annotated[float | None, typer.Option(help="Time to finish answers after SIGTERM, seconds.")] = None,
    device: Annotated[str | None, typer.Option(help="Device of the models, such as cpu or cuda:1.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32 or bfloat16.")] = None,
    threads: Annotated[int | None, typer.Option(help="Threads of a CPU's matrix products.")] = None,
    guess: Annotated[str | None, typer.Option(help="no, or ngrams: several tokens a step.")] = None,
    backend: Annotated[str | None, typer.Option(help="own, or vllm: what runs the models.")] = None,
    draft: Annotated[str | None, typer.Option(help="A smaller model that guesses several tokens a step.")] = None,
    tensor_parallel: TensorOption = None,
    pipeline_parallel: StagesOption = None,
    micro_batches: PartsOption = None,
    log_requests: Annotated[bool, typer.Option("--log-requests", help="Write a log line per request.")] = False,
) -> None:
    """Serve models over HTTP as OpenAI's interface has it, with a chat page."""
    from herdbook.book import Book
    from herdbook.models import serve as serving

    serving(
        models,
        Book(book),
        host=host,
        port=port,
        api_key=api_key,
        names=name or None,
        rows=rows,
        queue=queue,
        prompt_tokens=prompt_tokens,
        body_bytes=body_bytes,
        drain_seconds=drain_seconds,
        device=device,
        dtype=dtype,
        threads=threads,
        guess=guess,
        backend=backend,
        draft=draft,
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pipeline_parallel,
        micro_batches=micro_batches,
        log_requests=log_requests,
    )


app.command()(generate)


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help="A model folder, an entry's name, or a stage of the book.")],
    tasks: Annotated[
        str, typer.Option(help="Tasks by name, with commas; all whose questions are there if left out.")
    ] = "",
    data: Annotated[Path | None, typer.Option(help="Folder of question files; a book's model has its world's.")] = None,
    limit: Annotated[int | None, typer.Option(help="Most questions per task.")] = None,
    tensor_parallel: TensorOption = None,
    pipeline_parallel: StagesOption = None,
    micro_batches: PartsOption = None,
    book: BookOption = DEFAULT_BOOK,
) -> None:
    """Examine a model and print its figures with 95 % intervals."""
    from herdbook.book import Book
    from herdbook.models import examine
    from herdbook.report.text import show

    kept = Book(book)
    names = [name.strip() for name in tasks.split(",") if name.strip()]
    layout = {
        "tensor_parallel": tensor_parallel,
        "pipeline_parallel": pipeline_parallel,
        "micro_batches": micro_batches,
    }
    lines, entry = examine(model, kept, tasks=names, data=data, limit=limit, **layout)
    show(lines)
    if entry:
        show([f"kept as {entry.name}: {kept.folder_of(entry)}"])


app.command()(plan)
app.command()(scale)


@app.command()
def why(
    url: Annotated[str, typer.Argument(help="The address of a page.")],
    entry: Annotated[str | None, typer.Option(help="The documents to look in; all of the book's if left out.")] = None,
    book: BookOption = DEFAULT_BOOK,
) -> None:
    """Tell what was measured of a page, and which rule kept or dropped it."""
    from herdbook.book import Book
    from herdbook.report.herd import why_lines
    from herdbook.report.text import show

    show(why_lines(url, Book(book), entry))


@app.command()
def page(
    entry: Annotated[str, typer.Argument(help="An entry of documents: its name, an id's beginning, or a stage.")],
    out: Annotated[Path | None, typer.Option(help="Where to write the page; ENTRY.html if left out.")] = None,
    funnel: Annotated[Path | None, typer.Option(help="Write the funnel as a PNG picture too.")] = None,
    book: BookOption = DEFAULT_BOOK,
) -> None:
    """Write what a curation kept and dropped, and why, as one HTML page."""
    from herdbook.book import Book
    from herdbook.report.herd import write_curation
    from herdbook.report.text import show

    show(write_curation(entry, Book(book), out, funnel))


def main() -> None:
    """The command `herdbook`."""
    app()


if __name__ == "__main__":
    main()
