"""From samples to figures: each task's headline and its groups, every share with its 95 % interval."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from herdbook.evaluate.intervals import mean, pass_at_k, proportion
from herdbook.evaluate.scoring import Sample

Metrics = dict[str, dict[str, Any]]


def share(samples: Sequence[Sample], mark: str = "right") -> Any:
    """The share of samples with that mark, and its interval."""
    return proportion(sum(bool(sample[mark]) for sample in samples), len(samples))


def grouped(samples: Sequence[Sample], key: str) -> dict[Any, list[Sample]]:
    """Samples by the value of one group, in the groups' order; those without it are left out."""
    values = {sample["group"][key] for sample in samples if key in sample["group"]}
    ordered = sorted(values, key=lambda value: (isinstance(value, str), value))
    return {value: [s for s in samples if s["group"].get(key) == value] for value in ordered}


def choice_metrics(name: str, samples: list[Sample]) -> Metrics:
    """Accuracy by summed likelihood, per token and per byte; by hops, else by exposures in English; by language."""
    chance = sum(1 / len(sample["choices"]) for sample in samples) / len(samples)
    metrics: Metrics = {
        name: {
            "accuracy": share(samples),
            "accuracy_per_token": share(samples, "right_per_token"),
            "accuracy_per_byte": share(samples, "right_per_byte"),
            "chance": chance,
        }
    }
    languages = grouped(samples, "language")
    english = [sample for sample in samples if sample["group"].get("language", "en") == "en"]
    hops = grouped(samples, "hops")
    by = {**(hops or grouped(english, "exposures")), **(languages if len(languages) > 1 else {})}
    metrics |= {f"{name}_{value}": {"accuracy": share(own)} for value, own in by.items()}
    subjects = grouped(samples, "subject")
    if len(subjects) > 1:
        accuracies = {str(subject).replace(".", " "): share(own) for subject, own in subjects.items()}
        metrics[name]["mean_of_subjects"] = sum(figure["value"] for figure in accuracies.values()) / len(accuracies)
        metrics[name]["subjects"] = accuracies
    return metrics


def worked_metrics(name: str, samples: list[Sample]) -> Metrics:
    """Accuracy, and by language or by steps; one and two steps are pooled too, since the aim names them together."""
    metrics: Metrics = {name: {"accuracy": share(samples)}}
    metrics |= {f"{name}_{value}": {"accuracy": share(own)} for value, own in grouped(samples, "language").items()}
    steps = grouped(samples, "steps")
    metrics |= {f"problems_{value}": {"accuracy": share(own)} for value, own in steps.items()}
    short = [*steps.get(1, []), *steps.get(2, [])]
    if short:
        metrics["problems_1_2"] = {"accuracy": share(short)}
    return metrics


def program_metrics(name: str, samples: list[Sample], ks: Sequence[int]) -> Metrics:
    """pass@k for every k that the number of samples allows."""
    figures: dict[str, Any] = {}
    for k in ks:
        if k > samples[0]["samples"]:
            continue
        if samples[0]["samples"] == 1:
            figures["pass_at_1"] = share(samples, "passed")
        else:
            figures[f"pass_at_{k}"] = mean([pass_at_k(s["samples"], s["passed"], k) for s in samples])
    return {name: figures}


def needle_metrics(name: str, samples: list[Sample]) -> Metrics:
    """Share found: of all, at each length, at each depth, and in every cell of the heat map."""
    lengths, depths = grouped(samples, "length"), grouped(samples, "depth")
    cells = {
        f"length_{length}": {
            f"depth_{100 * depth:g}".replace(".", "_"): share(cell) for depth, cell in grouped(own, "depth").items()
        }
        for length, own in lengths.items()
    }
    metrics: Metrics = {name: {"accuracy": share(samples), "cells": cells}}
    metrics |= {f"{name}_{length}": {"accuracy": share(own)} for length, own in lengths.items()}
    metrics[f"{name}_longest"] = {"accuracy": share(lengths[max(lengths)])}
    for depth, own in depths.items():
        metrics[name][f"at_depth_{100 * depth:g}".replace(".", "_")] = share(own)
    return metrics


METRICS: dict[str, Callable[..., Metrics]] = {
    "cloze": choice_metrics,
    "letters": choice_metrics,
    "worked": worked_metrics,
    "program": program_metrics,
    "needle": needle_metrics,
}
