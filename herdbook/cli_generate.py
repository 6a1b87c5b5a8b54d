"""The command `generate`: parse, call, print."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer

from herdbook import console
from herdbook.options import DEFAULT_BOOK, BookOption, PartsOption, StagesOption, TensorOption


def generate(
    model: Annotated[str, typer.Argument(help="A model folder, an entry's name, or a stage of the book.")],
    prompts: Annotated[Path, typer.Argument(help="A folder or file of prompts or dialogs: .jsonl or .parquet.")],
    out: Annotated[Path, typer.Argument(help="Where the answers go; what is there already is not done again.")],
    book: BookOption = DEFAULT_BOOK,
    n: Annotated[int | None, typer.Option("-n", help="Answers to each prompt.")] = None,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer, tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 always takes the likeliest token.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw among the likeliest that reach this sum.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw among so many likeliest tokens.")] = None,
    stop: Annotated[list[str] | None, typer.Option(help="A text that ends an answer; may be given again.")] = None,
    seed: Annotated[int | None, typer.Option(help="Chooses among the possible answers.")] = None,
    logprobs: Annotated[bool, typer.Option("--logprobs", help="Keep each token's log-probability.")] = False,
    token_ids: Annotated[bool, typer.Option("--token-ids", help="Keep each answer's tokens.")] = False,
    part: Annotated[int | None, typer.Option(help="Prompts that are finished or begun anew together.")] = None,
    engines: Annotated[int | None, typer.Option(help="Engines at work; one per group of GPUs if left out.")] = None,
    rows: Annotated[int | None, typer.Option(help="Most answers that an engine writes at once.")] = None,
    backend: Annotated[str | None, typer.Option(help="own, vllm, or auto: vllm where it is, with GPUs.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda.")] = None,
    dtype: Annotated[str | None, typer.Option(help="auto, float32 or bfloat16.")] = None,
    tensor_parallel: TensorOption = None,
    pipeline_parallel: StagesOption = None,
    micro_batches: PartsOption = None,
    engine: Annotated[
        Literal["native", "ray"] | None,
        typer.Option(help="Where engines run: on this machine, or on the Ray cluster of RAY_ADDRESS."),
    ] = None,
) -> None:
    """Have a model answer a file or folder of prompts, by as many engines as there are devices."""
    from herdbook.book import Book
    from herdbook.models import generate as generating

    if engine:
        os.environ["HERDBOOK_ENGINE"] = engine
    figures = generating(
        model,
        Book(book),
        prompts,
        out,
        n=n,
        max_tokens=max_tokens,
        temperature=temperature,
        top_p=top_p,
        top_k=top_k,
        stop=stop or None,
        seed=seed,
        logprobs=0 if logprobs else None,
        token_ids=token_ids,
        part=part,
        engines=engines,
        rows=rows,
        backend=backend,
        device=device,
        dtype=dtype,
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pipeline_parallel,
        micro_batches=micro_batches,
    )
    console.out.print(" ".join(f"{key}={console.format_value(value)}" for key, value in figures.items()), markup=False)
