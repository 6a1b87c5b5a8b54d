"""The `synthesize` stage: each maker that is given writes `dialogs/MAKER.jsonl` and its figures (§4.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from herdbook.console import log
from herdbook.posttrain.judging import Prompts
from herdbook.posttrain.rows import write_rows
from herdbook.posttrain.shown import Row
from herdbook.posttrain.synthesis import (
    code,
    code_languages,
    interleaved,
    long_context,
    math,
    repository,
    steps,
    tools,
    wording,
)
from herdbook.posttrain.synthesis.desk import Desk
from herdbook.posttrain.synthesis.settings import SynthesizeSettings
from herdbook.posttrain.writer import make_writer
from herdbook.settings import UserError

MAKERS: dict[str, Callable[[Any, Desk], tuple[list[Row], dict[str, Any]]]] = {
    "code": code.make,
    "translate": code_languages.translate,
    "explain": code_languages.explain,
    "math": math.make,
    "interleaved": interleaved.make,
    "steps": steps.make,
    "tree": math.tree,
    "tools": tools.make,
    "long": long_context.make,
    "repository": repository.make,
    "languages": wording.translate,
    "steer": wording.steer,
}
"""Each maker gives its dialogs and its figures."""


def synthesize(
    settings: SynthesizeSettings,
    model: Path | None,
    documents: Sequence[Path],
    requests: Path | None,
    judge: Path | None,
    out: Path,
    reward: Path | None = None,
) -> dict[str, Any]:
    """Write `out`/dialogs; returns how many dialogs there are and each maker's figures.

    The writer is the model, or the endpoint where no model is fed; the judge is its own model, the endpoint, or the
    writer. Raises UserError when there is nobody to write, or a maker has nothing to work on.
    """
    endpoint = settings.judge.endpoint
    writer = make_writer(model, endpoint if model is None else None, out)
    if writer is None:
        raise UserError("synthesize: nobody writes; feed the stage a model, or give judge.endpoint")
    referee = make_writer(judge, endpoint, out, "judge") or writer
    desk = Desk(
        writer, referee, Prompts(settings.judge.prompts), requests, list(documents), out, settings.seed,
        settings.judge.max_tokens, scorer_of(reward),
    )  # fmt: skip
    figures: dict[str, Any] = {}
    total = 0
    for name, maker in settings.makers.items():
        desk.asked.clear()
        rows, figures[name] = MAKERS[name](maker, desk)
        found = [_named(row, name, desk) for row in rows]
        figures[name]["dialogs"] = write_rows(out / "dialogs" / f"{name}.jsonl", found)
        total += len(found)
        log("made", maker=name, dialogs=len(found))
    if not total:
        raise UserError(
            f"synthesize: no maker kept a dialog ({figures}); the model may be too weak for what is asked of it"
        )
    return {"dialogs": total, **figures, "judge": dict(desk.count)}


def _named(row: Row, maker: str, desk: Desk) -> Row:
    """A maker's row with the names of what it came from."""
    request = desk.request_of(str(row["id"]))
    told = {} if request is None else {"request": request}
    return {**row, "id": f"{maker}/{row['id']}", "source": f"synthesis/{maker}", **told}


def scorer_of(reward: Path | None) -> Any:
    """The reward model of an entry, or None."""
    if reward is None:
        return None
    from herdbook.posttrain.reward import RewardModel

    return RewardModel.load(reward)
