"""Dialogs of several sets as packed rows: batches are a pure function of (seed, step), as in pre-training.

A dialog is a document: it begins with the begin-of-text token, and no token looks into another dialog. Targets are
the assistant's contents and the tokens that end them; all else is read, not learnt.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from herdbook.console import log
from herdbook.posttrain.asking import is_kept_back
from herdbook.posttrain.dialogs import Dialog, encode, read_dialogs
from herdbook.posttrain.settings import SftSettings
from herdbook.settings import UserError
from herdbook.tokens.batches import HeldOut
from herdbook.tokens.memory import token_set, token_sets
from herdbook.tokens.shards import TokenSet, TokenSets
from herdbook.tokens.texts import is_heldout
from herdbook.tokens.tokenizer import Tokenizer
from herdbook.train.phased import PhasedBatches
from herdbook.train.phases import Plan


@dataclass
class DialogSets:
    """Sets of dialogs as tokens, and what was met on the way."""

    sets: TokenSets
    figures: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Of each set: dialogs, how many are too long, cut off or kept back for gates, tokens, answer tokens."""


def read_sets(folders: Mapping[str, Path], tokenizer: Tokenizer, settings: SftSettings) -> DialogSets:
    """Each named entry's dialogs as tokens, held-out ones apart; UserError names the first bad row."""
    sets, figures = {}, {}
    for name, folder in folders.items():
        sets[name], figures[name] = _read_set(folder, tokenizer, settings)
        log("dialogs", set=name, **figures[name])
        if not len(sets[name]["train"]):
            left = f" of at most length={settings.length} tokens" if figures[name]["too_long"] else ""
            raise UserError(f"{folder}: no dialog{left} to train on in the set {name!r}")
    first = next(iter(folders.values()))
    return DialogSets(token_sets(first, sets, tokenizer), figures)


def _read_set(folder: Path, tokenizer: Tokenizer, settings: SftSettings) -> tuple[dict[str, TokenSet], dict[str, Any]]:
    kept: dict[str, list[Any]] = {"train": [], "heldout": []}
    counts = {"dialogs": 0, "too_long": 0, "cut_off": 0, "kept_back": 0}
    for dialog in read_dialogs(folder):
        if is_kept_back(request_of(dialog), settings.kept_back):
            counts["kept_back"] += 1
            continue
        if dialog.columns.get("ended") is False:  # an answer that ran out of room would teach not to end
            counts["cut_off"] += 1
            continue
        tokens = encode(tokenizer, dialog, settings.answers == "last")
        long = len(tokens.ids) > settings.length
        counts["too_long"] += long
        if long and settings.packing == "whole":
            continue
        counts["dialogs"] += 1
        kept["heldout" if is_heldout(dialog.key, settings.heldout) else "train"].append(tokens)
    found = {
        split: token_set([one.ids for one in part], [one.answer for one in part], [one.bytes for one in part])
        for split, part in kept.items()
    }
    train = found["train"]
    assert train.counted is not None
    sizes = {"heldout": len(found["heldout"]), "tokens": len(train.tokens), "answer_tokens": int(train.counted.sum())}
    return found, counts | sizes


def request_of(dialog: Dialog) -> str:
    """The id of the request that a dialog answers: what its column `request` says, else its own."""
    return str(dialog.columns.get("request") or dialog.columns.get("id"))


def resolved(settings: SftSettings, sets: TokenSets) -> SftSettings:
    """The settings with `steps` and `mix` where they are to be found from the data: so many passes over each set."""
    check_names(settings, sets)
    passes = settings.passes
    if passes is None:
        return settings
    times = {name: (settings.times or {}).get(name, 1.0) for name in sets.names}
    trial = settings.model_copy(update={"steps": 1, "epochs": None, "mix": dict.fromkeys(sets.names, 1.0)})
    tables = PhasedBatches(sets, Plan.of(trial), settings.seed, settings.packing).runs[0].tables
    rows = {name: passes * times[name] * table.count for name, table in tables.items()}
    steps = max(1, math.ceil(sum(rows.values()) / (settings.rows * settings.accumulate) - 1e-9))
    return settings.model_copy(update={"steps": steps, "epochs": None, "mix": rows})


def check_names(settings: SftSettings, sets: TokenSets) -> None:
    """UserError for a set that mix or times names and no stage gives."""
    for setting in ("mix", "times"):
        for name, value in (getattr(settings, setting) or {}).items():
            if name not in sets.names:
                raise UserError(f"{setting}: there is no set {name!r}; the sets are {', '.join(sets.names)}")
            if not (math.isfinite(value) and value >= 0):
                raise UserError(f"{setting}: {name!r} has {value}; it must be a number of at least 0")


def held_out(batches: PhasedBatches, limit: int | None) -> Iterator[tuple[str, HeldOut]]:
    """Each set's held-out dialogs, about `limit` tokens over all of them."""
    names = [name for name in batches.names if len(batches.sets.sets[name]["heldout"])]
    for name in names:
        yield name, batches.heldout(name, None if limit is None else max(1, limit // len(names)))
