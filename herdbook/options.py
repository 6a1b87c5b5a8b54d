"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DEFAULT_BOOK = Path("book")
TensorOption = Annotated[int | None, typer.Option("--tensor-parallel", help="Processes that share each matrix.")]
StagesOption = Annotated[int | None, typer.Option("--pipeline-parallel", help="Processes that share the layers.")]
PartsOption = Annotated[int | None, typer.Option("--micro-batches", help="Parts of a batch for a pipeline's stages.")]
BookOption = Annotated[
    Path, typer.Option("--book", envvar="HERDBOOK_BOOK", help="The book: the folder of finished stages.")
]
