"""The average of models trained on variants of data and settings (§4.1.5), held against its members on unseen answers.

The members are of one shape and, to have an average that means anything, of one ancestor: their weights lie in one
valley. Each dialog is paired with itself, so the difference has an interval over dialogs.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from herdbook.posttrain.settings import AverageSettings
from herdbook.settings import UserError

if TYPE_CHECKING:
    import numpy as np

    from herdbook.tokens.shards import TokenSet


def average(
    settings: AverageSettings, models: dict[str, Path], out: Path, dialogs: dict[str, Path] | None = None
) -> dict[str, Any]:
    """Write the mean of the named models, of any one architecture, as `out`/model.

    With dialogs (of which `heldout` are read), returns `bits_per_byte` of the average on their answers, of each of
    the `members`, of their mean and of the best one, and the differences with 95 % intervals over dialogs.
    """
    from herdbook.train.average import average_folders
    from herdbook.train.tuning import model_folder

    folders = [model_folder(folder) for folder in models.values()]
    shares = _shares(settings, list(models))
    _check_tokenizers(folders)
    average_folders(folders, shares, out / "model")
    figures: dict[str, Any] = {"averaged": len(folders)}
    return figures | (_judged(settings, models, dialogs, out) if dialogs else {})


def _shares(settings: AverageSettings, names: list[str]) -> list[float]:
    given = settings.weights or {}
    for name, value in given.items():
        if name not in names or not (math.isfinite(value) and value >= 0):
            raise UserError(f"weights: {name!r} has {value}; the models are {', '.join(names)}, a weight is at least 0")
    weights = [given.get(name, 1.0) for name in names]
    if sum(weights) <= 0:
        raise UserError("weights: all are 0, so there is no average")
    return [weight / sum(weights) for weight in weights]


def _check_tokenizers(folders: list[Path]) -> None:
    from herdbook.tokens.tokenizer import Tokenizer

    hashes = {folder: Tokenizer.load(folder).hash for folder in folders}
    first = hashes[folders[0]]
    for folder, found in hashes.items():
        if found != first:
            raise UserError(f"{folder} has another tokenizer than {folders[0]}: their embeddings mean different words")


def _judged(settings: AverageSettings, models: dict[str, Path], dialogs: dict[str, Path], out: Path) -> dict[str, Any]:
    from herdbook.console import log
    from herdbook.evaluate.intervals import ratio

    split = _heldout(settings, out / "model", dialogs)
    sizes = [float(size) for size in split.bytes]
    costs = {name: _bits(folder, split) for name, folder in models.items()}
    own = _bits(out, split)
    total = sum(sizes)
    members = {name: float(bits.sum()) / total for name, bits in costs.items()}
    best = min(members, key=lambda name: members[name])
    mean = sum(costs.values()) / len(costs)
    figures = {
        "bits_per_byte": float(own.sum()) / total,
        "members": members,
        "mean_member": sum(members.values()) / len(members),
        "best_member": members[best],
        "average_minus_mean": dict(ratio(list(own - mean), sizes)),
        "average_minus_best": dict(ratio(list(own - costs[best]), sizes)),
    }
    log("averaged", members=len(models), bits_per_byte=figures["bits_per_byte"], best=best, best_bits=members[best])
    return figures


def _heldout(settings: AverageSettings, model: Path, dialogs: dict[str, Path]) -> TokenSet:
    """All held-out dialogs that a row of the model holds, as one split."""
    from herdbook.model.huggingface import read_config
    from herdbook.posttrain.dialogs import encode, read_dialogs
    from herdbook.tokens.memory import token_set
    from herdbook.tokens.texts import is_heldout
    from herdbook.tokens.tokenizer import Tokenizer

    tokenizer, longest = Tokenizer.load(model), read_config(model).max_length
    held = [
        tokens
        for folder in dialogs.values()
        for dialog in read_dialogs(folder)
        if is_heldout(dialog.key, settings.heldout) and len((tokens := encode(tokenizer, dialog)).ids) <= longest
    ]
    if not held:
        raise UserError(
            f"the dialogs have none held out with heldout={settings.heldout}; raise it to judge the average"
        )
    return token_set([one.ids for one in held], [one.answer for one in held], [one.bytes for one in held])


def _bits(entry: Path, split: TokenSet) -> np.ndarray:
    """What each dialog's answers cost a model, in bits."""
    import torch

    from herdbook.evaluate.likelihood import counted_nats
    from herdbook.model.huggingface import load_model
    from herdbook.train.tuning import model_folder

    model = load_model(model_folder(entry), dtype=torch.float32).eval()
    return counted_nats(model, split) / math.log(2)
