"""The `select` stage (§4.2.3): dialogs are measured, then chosen by what was measured, then mixed.

Steps in order: topic, quality, difficulty, duplicates, mix. `measured.jsonl` holds every dialog that came in with all
its columns and why it went, so each choice can be looked up; `dialogs/` has one file per group. Answers of judges and
rewards are kept while the stage runs, so a killed one goes on from there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import xxhash

from herdbook.console import log
from herdbook.posttrain import likeness, quality, sft_mix, topics
from herdbook.posttrain.dialogs import read_dialog
from herdbook.posttrain.memory import Memory
from herdbook.posttrain.rows import read_rows, write_rows
from herdbook.posttrain.select_settings import SelectSettings
from herdbook.posttrain.shown import Row
from herdbook.posttrain.writer import make_writer
from herdbook.settings import UserError


def select(
    settings: SelectSettings, dialogs: dict[str, Path], model: Path | None, out: Path, reward: Path | None = None
) -> dict[str, Any]:
    """Write `out`/dialogs and `out`/measured.jsonl; returns the funnel, the mix and what each measure found.

    Raises UserError when a rule needs a judge and there is none, and when nothing is left.
    """
    steps = (settings.topic.by, settings.difficulty.by, "judge" if settings.quality.judge else "")
    asks = "judge" in steps or "model" in steps
    writer = make_writer(model, settings.judge.endpoint, out) if asks else None
    if asks and writer is None:
        raise UserError("select: a rule asks a judge; feed the stage a model, or give judge.endpoint")
    rows, broken = read_all(dialogs)
    funnel: dict[str, int] = {"read": len(rows) + sum(broken.values()), "whole": len(rows)}
    figures: dict[str, Any] = {"broken": dict(broken)}
    figures["topic"] = topics.set_topics(rows, settings.topic, writer, settings.judge)
    if reward is not None:
        # Imported late: rules without a reward model need no torch.
        from herdbook.posttrain.reward import RewardModel

        quality.set_rewards(rows, RewardModel.load(reward), Memory(out / "kept" / "rewards.jsonl"), settings.believe)
    if settings.quality.judge:
        assert writer is not None
        figures["grades"] = quality.set_grades(rows, settings.quality, writer, settings.judge, settings.believe)
    figures["votes"] = quality.set_quality(rows, settings.quality)
    kept = _step("good", rows, lambda row: row["quality_good"], funnel)
    memory = Memory(out / "kept" / "ratios.jsonl")
    figures["difficulty"] = quality.set_difficulty(kept, settings.difficulty, writer, settings.judge, memory)
    figures["duplicates"] = likeness.set_duplicates(kept, settings.duplicates)
    kept = _step("different", kept, lambda row: row["duplicate_of"] is None, funnel)
    if settings.mix is not None:
        figures["mix"] = sft_mix.set_mix(kept, settings.mix, settings.seed)
        kept = _step("mixed", kept, lambda row: row["copies"] > 0, funnel)
    if not kept:
        raise UserError(f"select: no dialog is left; of each step were left: {_told(funnel)}")
    figures["dialogs"] = _write(rows, kept, out)
    log("selected", **funnel, dialogs=figures["dialogs"])
    return {"funnel": funnel, **figures, **({"judge": writer.figures()} if writer else {})}


def read_all(dialogs: dict[str, Path]) -> tuple[list[Row], Counter[str]]:
    """All rows with id and `stage`, each id once, and how many rows were no dialog, by what was wrong."""
    rows: dict[str, Row] = {}
    broken: Counter[str] = Counter()
    for stage, entry in dialogs.items():
        for where, row in read_rows(entry, "dialogs"):
            try:
                dialog = read_dialog(row, where)
            except UserError as error:
                if not broken:
                    log("broken", row=str(error))
                broken["no dialog"] += 1
                continue
            if dialog.messages[-1]["role"] != "assistant":
                broken["no answer at its end"] += 1
                continue
            found = {"stage": stage, **dialog.row}
            found["id"] = str(row.get("id") or xxhash.xxh3_128_hexdigest(repr(dialog.messages).encode())[:16])
            if found["id"] in rows and rows[found["id"]]["messages"] != found["messages"]:
                found["id"] = f"{stage}/{found['id']}"
            if found["id"] in rows:
                broken["again"] += 1
                continue
            rows[found["id"]] = found
    return list(rows.values()), broken


def _step(name: str, rows: Sequence[Row], stays: Callable[[Row], bool], funnel: dict[str, int]) -> list[Row]:
    """The rows that stay; the others are told why they went."""
    kept = []
    for row in rows:
        if stays(row):
            kept.append(row)
        else:
            row["dropped"] = f"not {name}"
    funnel[name] = len(kept)
    return kept


def _write(rows: Sequence[Row], kept: Sequence[Row], out: Path) -> int:
    """Write what was measured, and what is kept, group by group; returns how many dialogs there are to learn from."""
    write_rows(out / "measured.jsonl", rows)
    written = 0
    for group in sorted({row.get("group") or "dialogs" for row in kept}):
        some = [row for row in kept if (row.get("group") or "dialogs") == group]
        most = max(row.get("copies", 1) for row in some)
        again = [row for number in range(most) for row in some if row.get("copies", 1) > number]
        written += write_rows(out / "dialogs" / f"{group}.jsonl", again)
    return written


def _told(funnel: dict[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in funnel.items())
