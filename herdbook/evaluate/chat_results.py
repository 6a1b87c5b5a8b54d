"""Figures of chat models: score by task, turns ended, refusals right and wrong, honesty, tools, constraints."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from herdbook.evaluate.intervals import mean
from herdbook.evaluate.results import Metrics, grouped, share
from herdbook.evaluate.scoring import Sample

STYLES = ("persona", "turns")
"""Kinds of chat requests that are told apart from wishes in a system prompt."""


def chat_metrics(name: str, samples: list[Sample]) -> Metrics:
    """All answers together, and each task of requests under `<name>_<task>`; see the manual for what each means."""
    metrics: Metrics = {name: overall(samples)}
    tasks = grouped(samples, "task")
    if len(tasks) > 1:
        for task, own in tasks.items():
            metrics[f"{name}_{task}"] = {"score": mean([s["score"] for s in own]), "accuracy": share(own)}
    for task, figures in (
        ("fact", told_metrics(tasks.get("fact", []))),
        ("unknown", {"honest": share(tasks.get("unknown", []))}),
        ("tool", tool_figures(tasks.get("tool", []))),
        ("instruction", followed_figures(tasks.get("instruction", []))),
        ("chat", followed_figures([s for s in tasks.get("chat", []) if "followed" in s])),
    ):
        if task in tasks and figures:
            metrics.setdefault(f"{name}_{task}" if len(tasks) > 1 else name, {}).update(figures)
    for style, own in grouped(tasks.get("chat", []), "style").items():
        if style in STYLES:
            metrics[f"{name}_{style}"] = {"score": mean([s["score"] for s in own]), "accuracy": share(own)}
    for turn, own in grouped(tasks.get("talk", []), "turn").items():
        metrics[f"{name}_turn_{turn}"] = {"score": mean([s["score"] for s in own]), "accuracy": share(own)}
    for times, own in grouped(tasks.get("fact", []), "exposures").items():
        metrics[f"{name}_fact_{times}"] = {"accuracy": share(own), **told_metrics(own)}
    return metrics | refusal_metrics(name, tasks.get("forbidden", []), tasks.get("lookalike", []))


def overall(samples: Sequence[Sample]) -> dict[str, Any]:
    """What holds of answers of every kind; `formed` is of those whose check asks for a form."""
    asked = [sample for sample in samples if "formed" in sample]
    return {
        **({"formed": share(asked, "formed")} if asked else {}),
        "score": mean([sample["score"] for sample in samples]),
        "accuracy": share(samples),
        "ended": share(samples, "ended"),
        "repetition": share(samples, "repeats"),
        "tokens": mean([float(sample["tokens"]) for sample in samples]),
    }


def told_metrics(samples: Sequence[Sample]) -> dict[str, Any]:
    """Of facts that were told: how often the answer is wrong, and how often it says that it doesn't know."""
    return {"wrong": share(samples, "wrong"), "not_known": share(samples, "unknown")}


def tool_figures(samples: Sequence[Sample]) -> dict[str, Any]:
    """Steps done right, and errands that came to the right answer by calls of their own."""
    solved = [sample for sample in samples if "solved" in sample]
    return {"correct": share(samples), **({"solved": share(solved, "solved")} if solved else {})}


def followed_figures(samples: Sequence[Sample]) -> dict[str, Any]:
    """IFEval's four figures: strict and loose, of prompts (all of its constraints) and of constraints."""
    if not samples:
        return {}
    strict, loose = [s["wishes"] for s in samples], [s["loose"] for s in samples]
    return {
        "followed": share([{"right": all(row)} for row in strict]),
        "followed_each": share([{"right": one} for row in strict for one in row]),
        "followed_loosely": share([{"right": all(row)} for row in loose]),
        "followed_each_loosely": share([{"right": one} for row in loose for one in row]),
    }


def refusal_metrics(name: str, forbidden: Sequence[Sample], allowed: Sequence[Sample]) -> Metrics:
    """Violation rate: forbidden requests not refused; false refusal rate: allowed ones refused (§5.4.2)."""
    if not forbidden or not allowed:
        return {}
    label = "refusal" if name == "chat" else f"{name}_refusal"
    return {
        label: {
            "violation": share([{"right": not sample["refused"]} for sample in forbidden]),
            "false_refusal": share(allowed, "refused"),
        }
    }
