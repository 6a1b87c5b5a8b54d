"""The stage kind `quality`: labels in, a folder with one classifier per head out, measured on documents held out.

What is held out is chosen by a hash of the text, so equal texts are on one side, and the same ones on every run.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from herdbook.console import log
from herdbook.console import out as console
from herdbook.corpus.quality import encoder, linear
from herdbook.corpus.quality.figures import judge
from herdbook.corpus.quality.labels import Documents, Labelled, as_classes, draw, from_file, from_model, from_world
from herdbook.corpus.quality.settings import EncoderSettings, HeadSettings, LinearSettings, QualitySettings
from herdbook.files import read_json, write_json
from herdbook.settings import UserError

FORMAT = 1
Classifier = linear.Linear | encoder.Encoder


class Head:
    """A learnt classifier with its name and classes."""

    def __init__(self, name: str, classes: list[str], classifier: Classifier) -> None:
        self.name, self.classes, self.classifier = name, classes, classifier

    @property
    def graded(self) -> bool:
        """Whether it says how good a document is, and not which class it belongs to."""
        return self.classes == ["bad", "good"]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it gives; the first is its answer."""
        return (f"quality_{self.name}",) if self.graded else (self.name, f"{self.name}_probability")

    def score(self, texts: list[str], seen: dict[str, Any] | None = None) -> dict[str, Any]:
        """Its columns for some documents; `seen` is handed on to the next head for the same texts."""
        if isinstance(self.classifier, linear.Linear):
            chances = self.classifier.probabilities(texts, seen)
        else:
            chances = self.classifier.probabilities(texts)
        if self.graded:
            return {self.columns[0]: chances[:, 1]}
        best = chances.argmax(axis=1) if len(texts) else np.zeros(0, np.int64)
        return {self.name: [self.classes[index] for index in best], self.columns[1]: chances.max(axis=1, initial=0.0)}

    def save(self, folder: Path, figures: dict[str, Any]) -> None:
        """Write it into `folder`; `head.json` comes last."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        self.classifier.save(folder)
        is_linear = isinstance(self.classifier, linear.Linear)
        note = {"format": FORMAT, "name": self.name, "classes": self.classes, "figures": figures}
        note |= {"classifier": "linear" if is_linear else "encoder"}
        write_json(folder / "head.json", note | {"settings": self.classifier.settings.model_dump()})


def load_heads(model: Path) -> list[Head]:
    """All heads of a model folder; UserError where there are none or one is damaged."""
    found = []
    for path in sorted(model.glob("*/head.json")):
        try:
            note = read_json(path)
            if note["classifier"] == "linear":
                settings = LinearSettings(**note["settings"])
                classifier: Classifier = linear.Linear.load(path.parent, settings)
            else:
                classifier = encoder.Encoder.load(path.parent, EncoderSettings(**note["settings"]))
            found.append(Head(note["name"], note["classes"], classifier))
        except (OSError, ValueError, KeyError, TypeError, ValidationError) as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"{path.parent}: the classifier is damaged ({error}); train it again") from None
    if not found:
        raise UserError(f"{model}: no classifier here; give the entry of a quality stage")
    return found


def train_quality(settings: QualitySettings, documents: list[Path], world: Path | None, out: Path) -> dict[str, Any]:
    """Train every head into `out/<head>`; returns the figures of each on held-out documents, and the labels' cost."""
    held = Documents(documents, settings.dropped_too)
    metrics: dict[str, Any] = {}
    for name, head in settings.heads.items():
        labelled, extra = label(name, head, settings, held, world)
        metrics[name] = train_head(name, head, settings, labelled, out / name) | extra
    return metrics


def label(
    name: str, head: HeadSettings, settings: QualitySettings, documents: Documents, world: Path | None
) -> tuple[Labelled, dict[str, Any]]:
    """A head's labelled texts, and what they cost."""
    what, extra = f"head {name!r}", {}
    if head.file is not None:
        labels, found = from_file(head.file, head.label_field, documents)
    elif head.world is not None:
        if world is None:
            raise UserError(
                f"{what} learns from the world's truth, and no world feeds the stage; add 'from: {{world: …}}'"
            )
        labels, found = from_world(world, head.world, documents)
    else:
        assert settings.endpoint is not None
        labels, found, bill = from_model(head, settings.endpoint, documents, settings.sample, settings.seed)
        extra = {"labelling": bill.metrics()}
    return as_classes(labels, found, head.good_from, what), extra


def train_head(
    name: str, head: HeadSettings, settings: QualitySettings, labelled: Labelled, folder: Path
) -> dict[str, Any]:
    """Learn one head, measure it, write it."""
    test = held_out(labelled, settings.heldout, f"heldout-{settings.seed}")
    train = np.setdiff1d(np.arange(len(labelled.texts)), test)
    if not len(test):
        raise UserError(f"head {name!r}: {len(labelled.texts)} labelled documents are too few to hold some out")
    texts = [labelled.texts[row] for row in train]
    classes = len(labelled.classes)
    if head.encoder is None:
        classifier: Classifier = linear.fit(texts, labelled.truth[train], classes, head.linear)
    else:
        chosen = EncoderSettings(model=head.encoder) if isinstance(head.encoder, str) else head.encoder
        classifier = encoder.fit(texts, labelled.truth[train], classes, chosen, settings.seed)
    figures = judge(classifier.probabilities([labelled.texts[i] for i in test]), labelled.truth[test], labelled.classes)
    shares = np.bincount(labelled.truth, minlength=classes) / len(labelled.truth)
    figures |= {"labels": labelled.found, "documents": len(labelled.texts), "heldout": len(test)}
    if classes == 2:
        figures["good_share"] = float(shares[1])
    Head(name, labelled.classes, classifier).save(folder, figures)
    _tell(name, figures)
    return figures


def held_out(labelled: Labelled, share: float, purpose: str) -> np.ndarray:
    """Rows held out, in order: this share of each class, those whose texts draw the lowest numbers."""
    drawn = np.array([draw(text, purpose) for text in labelled.texts])
    chosen = []
    for index in range(len(labelled.classes)):
        rows = np.flatnonzero(labelled.truth == index)
        count = min(max(1, round(share * len(rows))), len(rows) - 1)
        chosen.append(rows[np.argsort(drawn[rows], kind="stable")[: max(count, 0)]])
    return np.sort(np.concatenate(chosen))


def _tell(name: str, figures: dict[str, Any]) -> None:
    parts = []
    for key in ("accuracy", "auc"):
        if found := figures.get(key):
            parts.append(f"{key} {found['value']:.3f} ({found['low']:.3f}–{found['high']:.3f})")
    console.print(f"head {name}: {', '.join(parts)} on {figures['heldout']:,} held-out documents", markup=False)
    log("head", name=name, documents=figures["documents"], heldout=figures["heldout"], guess=figures["guess"])
