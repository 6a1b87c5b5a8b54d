"""The gate at the end of a round: the new model becomes the next one only if nothing it could do was lost.

Both models answer the same requests, which no training has seen. A task's score must not have fallen, answers must
end, and the preference training must not have pushed the chosen answers' likelihood out of its bounds.
"""

from __future__ import annotations

import os
import shutil
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from herdbook.console import log
from herdbook.evaluate.intervals import Figure, mean, proportion
from herdbook.files import read_json, write_json
from herdbook.posttrain.asking import Drawer, Request, read_requests, verdicts
from herdbook.posttrain.round_settings import GateSettings
from herdbook.settings import UserError

SLOPE = "chosen_logprob_slope"
"""Figure of the preference training that `slope` bounds."""


def gate(
    settings: GateSettings,
    model: Path,
    previous: Path | None,
    requests: Path,
    trained: list[Path] | None,
    out: Path,
) -> dict[str, Any]:
    """Give `model` on as `out`/model if it passes, else `previous`; returns the figures of `model`,
    `passed`, and under `given` those of the one that was given on.

    `model` and `previous` are entries; `trained` are the preference trainings' entries. Without `previous` scores
    cannot fall. UserError when the model does not pass and there is none before it.
    """
    asked = read_requests(requests, settings, held=settings.split == "train" and settings.kept_back > 0)
    new = examine(settings, model, asked, out / "answers.new.jsonl")
    old = examine(settings, previous, asked, out / "answers.previous.jsonl") if previous is not None else None
    slopes = [slope for folder in trained or [] if (slope := slope_of(folder)) is not None]
    lost = failures(settings, new, old, slopes)
    passed = not lost
    if not passed and previous is None:
        raise UserError(f"the first model does not pass its gate: {'; '.join(lost)}")
    log("gate", passed=passed, **({} if passed else {"why": "; ".join(lost)}))
    kept = model if passed or previous is None else previous
    for file in out.glob("answers.*.jsonl"):
        file.unlink()
    link_tree(kept / "model" if (kept / "model").is_dir() else kept, out / "model")
    given = figures(new if passed or old is None else old, None)
    found = figures(new, old) | {"passed": float(passed), "given": given, "slopes": slopes, "failures": lost}
    write_json(out / "gate.json", found)
    return found


Scores = dict[str, tuple[list[float], list[bool]]]
"""Task → what each answer is worth, and whether it ended."""


def examine(settings: GateSettings, model: Path, asked: list[Request], file: Path) -> Scores:
    """What a model's answers to the requests are worth, by task."""
    rows = Drawer(model, settings, "gate").draw_all([(item, item["messages"]) for item in asked], 1, file, "gate")
    true = verdicts(asked, [row["answers"] for row in rows])
    scores: Scores = defaultdict(lambda: ([], []))
    for request, row, worths in zip(asked, rows, true, strict=True):
        values, ended = scores[str(request.get("task"))]
        ended.append(bool(row["ended"] and row["ended"][0]))
        if request.get("check"):
            values.append(worths[0] or 0.0 if worths else 0.0)
    return dict(scores)


def failures(settings: GateSettings, new: Scores, old: Scores | None, slopes: Sequence[float]) -> list[str]:
    """What the new model lost, in words; empty when it passes."""
    found = []
    for task, (values, _) in new.items():
        change = difference(values, old[task][0]) if old is not None else None
        if change is not None and change["high"] < -settings.fall:
            found.append(f"{task} fell by {-change['value']:.3f} ({-change['high']:.3f} at least)")
    ended = [whole for _, own in new.values() for whole in own]
    if sum(ended) < settings.ended * len(ended):
        found.append(f"{sum(ended)} of {len(ended)} answers ended")
    if settings.slope is not None:
        low, high = settings.slope
        found += [
            f"chosen log-probability changed by {slope:.4g} a step" for slope in slopes if not low <= slope <= high
        ]
    return found


def difference(new: Sequence[float], old: Sequence[float]) -> Figure | None:
    """The mean change of a score, question by question, with its 95 % interval; None without questions."""
    return mean([one - other for one, other in zip(new, old, strict=True)]) if new else None


def figures(new: Scores, old: Scores | None) -> dict[str, Any]:
    """Scores by task and over all, the change since the model before, and the share of answers that end."""

    def together(scores: Scores) -> list[float]:
        return [value for values, _ in scores.values() for value in values]

    found: dict[str, Any] = {}
    ended = [whole for _, own in new.values() for whole in own]
    if together(new):
        found["score"] = mean(together(new))
        found["tasks"] = {task: mean(values) for task, (values, _) in new.items() if values}
    found["ended"] = proportion(sum(ended), len(ended))
    if old is not None and together(new):
        found["change"] = difference(together(new), together(old))
        found["changes"] = {task: difference(own[0], old[task][0]) for task, own in new.items() if own[0]}
    return found


def slope_of(entry: Path) -> float | None:
    """The chosen answers' change in log-probability per step in a preference training; None where it has none."""
    file = entry / "entry.json"
    value = read_json(file)["metrics"].get(SLOPE) if file.is_file() else None
    value = value.get("value") if isinstance(value, dict) else value
    return None if value is None else float(value)


def link_tree(source: Path, target: Path) -> None:
    """A copy of a folder that shares its files' bytes where the file system can: entries never change."""

    def link(one: str, other: str) -> str:
        try:
            os.link(one, other)
        except OSError:
            shutil.copy2(one, other)
        return other

    if target.exists():
        shutil.rmtree(target)
    shutil.copytree(source, target, copy_function=link)
