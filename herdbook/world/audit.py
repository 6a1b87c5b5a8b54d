"""Curation held against the truth of the world: text, language, and every kind of defect.

Recall of a kind: of its pages, the share that did not get through. For duplicates: of the copies, the share whose
cluster kept exactly one member (of visits to one address: the latest). Precision of a kind: of the pages dropped by
the rules that answer for it, the share rightly dropped by them; pages that ought to go for another reason are left
out of it, for dropping them is neither a merit of these rules nor a loss. Duplicate rules are wrong
about a member of a cluster only when they took all of it. Kinds that are good pages have meanings of their own, told
at `good_kinds`. A figure that has nothing to count is absent.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from herdbook.console import out as console
from herdbook.console import progress
from herdbook.files import write_json, write_text
from herdbook.settings import Settings
from herdbook.world.defects import EDIT_RATES, EXPECTED
from herdbook.world.figures import Figure, Overlap, foreign_words_right, mean, overlap, share, spaced_words
from herdbook.world.judge import Fate, Ledger

POOR = 0.8  # word F1 below which a page is shown among the mistakes


class AuditSettings(Settings):
    """Which rules of curation answer for which kind of defect."""

    rules: dict[str, tuple[str, ...]] = {  # noqa: RUF012 (pydantic copies defaults)
        "url_duplicate": ("url_duplicate",),
        "exact_duplicate": ("exact_duplicate",),
        "near_duplicate": ("near_duplicate",),
        "mirrored_site": ("exact_duplicate", "near_duplicate"),
        "ngram_spam": ("ngram_repetition",),
        "adult": ("adult_words",),
        "personal_data": ("personal_data",),
        "gibberish": ("token_divergence", "language_unknown", "few_words"),
        "broken_encoding": ("broken_encoding",),
        "thin": ("too_short", "line_repeated"),
    }
    """Kind of defect → names of the rules that answer for it (or beginnings of names, before a dot)."""

    mistakes: int = Field(1_000, ge=0)
    """Most pages written to `samples/mistakes.jsonl`."""


def answers(dropped_by: str, rules: Iterable[str]) -> bool:
    """Whether one of the rules, or a part of it named after a dot, dropped the page."""
    return any(dropped_by == rule or dropped_by.startswith(rule + ".") for rule in rules)


def caught(fate: Fate) -> bool:
    """Whether a page of a kind that ought to go did not get through."""
    if EXPECTED[fate.defect] != "deduplicated":
        return not fate.kept
    if fate.defect == "url_duplicate":
        return not fate.kept and any(page.kept for page in fate.cluster if page.truth["keep"])
    return fate.survivors == 1


def rule_precision(fates: list[Fate], kind: str, rules: dict[str, tuple[str, ...]]) -> Figure | None:
    """Share of the pages dropped by the kind's rules that these rules are there for; see the module's beginning."""
    mine = {other for other, names in rules.items() if set(names) & set(rules[kind])}
    copies = {name for other, names in rules.items() if EXPECTED[other] == "deduplicated" for name in names}
    right = wrong = 0
    for fate in fates:
        if fate.kept or not answers(fate.dropped_by, rules[kind]):
            continue
        if EXPECTED[kind] == "deduplicated" and fate.cluster:
            # A cluster that is gone altogether is the fault of the duplicate rules only when they took all of it.
            spared = any(page.kept or not answers(page.dropped_by, copies) for page in fate.cluster)
            right, wrong = right + spared, wrong + (not spared)
        elif fate.defect in mine and EXPECTED[kind] != "deduplicated":
            right += 1
        elif not fate.rightly_dropped:
            wrong += 1
    return share(right, right + wrong)


def bad_kinds(fates: list[Fate], rules: dict[str, tuple[str, ...]]) -> dict[str, dict[str, Any]]:
    """Pages, recall and precision of each kind that ought not to get through; for near duplicates also by edit rate."""
    figures: dict[str, dict[str, Any]] = {}
    for kind in rules:
        pages = [fate for fate in fates if fate.defect == kind]
        recall = share(sum(map(caught, pages)), len(pages))
        figures[kind] = present(pages=len(pages), recall=recall, precision=rule_precision(fates, kind, rules))
    edited = [fate for fate in fates if fate.defect == "near_duplicate"]
    for place, rate in enumerate(EDIT_RATES):
        some = [fate for fate in edited if fate.truth["variant"] % len(EDIT_RATES) == place]
        figures.get("near_duplicate", {}).update(
            present(**{f"recall_{rate:.0%}": share(sum(map(caught, some)), len(some))})
        )
    return figures


def good_kinds(ledger: Ledger) -> dict[str, dict[str, Any]]:
    """Pages, recall and precision of the kinds of defect that are good pages, and of truncated records.

    wrong_charset: share kept; of those, share whose words beyond ASCII are right. lying_language: share kept with its
    true language; of the kept pages said to be in another language than they declare, share that lie. repeated_lines:
    of the boilerplate lines of kept pages, share gone; of all lines gone from these pages, share that was
    boilerplate. truncated_record: share in quarantine; of quarantine's lines, share that are such records.
    """
    fates = ledger.fates
    charset = [fate for fate in fates if fate.defect == "wrong_charset"]
    read = [fate for fate in charset if fate.kept]
    right = sum(foreign_words_right(fate.text, fate.truth["clean_text"]) for fate in read)
    lying = [fate for fate in fates if fate.defect == "lying_language"]
    unmasked = sum(fate.kept and fate.language == fate.truth["language"] for fate in lying)
    disputed = [fate for fate in fates if fate.rightly_kept and fate.language != fate.truth["declared_language"]]
    lined = [fate for fate in fates if fate.defect == "repeated_lines"]
    gone, stayed, lost = 0, 0, 0
    for fate in lined:
        if fate.kept:
            there, missing = lines_kept(fate.text, fate.truth["boilerplate"])
            gone, stayed = gone + missing, stayed + there
            lost += lines_kept(fate.text, fate.truth["clean_text"].split("\n"))[1]
    truncated = sum(fate.defect == "truncated_record" for fate in fates)
    found, listed = ledger.quarantined()
    return {
        "wrong_charset": present(
            pages=len(charset), recall=share(len(read), len(charset)), precision=share(right, len(read))
        ),
        "lying_language": present(
            pages=len(lying),
            recall=share(unmasked, len(lying)),
            precision=share(sum(fate.defect == "lying_language" for fate in disputed), len(disputed)),
        ),
        "repeated_lines": present(
            pages=len(lined), recall=share(gone, gone + stayed), precision=share(gone, gone + lost)
        ),
        "truncated_record": present(pages=truncated, recall=share(found, truncated), precision=share(found, listed)),
    }


def present(**fields: Any) -> dict[str, Any]:
    """The fields that have a value."""
    return {key: value for key, value in fields.items() if value is not None}


def lines_kept(text: str, lines: Iterable[str]) -> tuple[int, int]:
    """(lines whose words stand in the text, in order and unbroken; lines that don't); lines without words don't
    count."""
    words = spaced_words(text)
    wanted = [spaced for line in lines if (spaced := spaced_words(line)).strip()]
    there = sum(line in words for line in wanted)
    return there, len(wanted) - there


def text_figures(fates: list[Fate]) -> tuple[dict[str, Any], dict[str, Overlap]]:
    """How well the text of rightly kept pages came through, and the overlap of each by its record id."""
    overlaps: dict[str, Overlap] = {}
    counts = dict.fromkeys(("code", "code_all", "math", "math_all", "lines", "lines_all"), 0)
    with progress("audit: compare texts", len(fates), "pages") as bar:
        for fate in fates:
            truth = fate.truth
            overlaps[truth["record_id"]] = overlap(fate.text, truth["clean_text"])
            for kind in ("code", "math"):
                counts[kind] += sum(piece.strip("\n") in fate.text for piece in truth[kind])
                counts[f"{kind}_all"] += len(truth[kind])
            there, missing = lines_kept(fate.text, truth["clean_text"].split("\n"))
            counts["lines"] += there
            counts["lines_all"] += there + missing
            bar.advance()
    genres = sorted({fate.truth["genre"] for fate in fates})
    by_genre = {
        genre: mean([overlaps[fate.truth["record_id"]].f1 for fate in fates if fate.truth["genre"] == genre])
        for genre in genres
    }
    values = list(overlaps.values())
    figures = present(
        extraction_f1=mean([value.f1 for value in values]),
        extraction_precision=mean([value.precision for value in values]),
        extraction_recall=mean([value.recall for value in values]),
        extraction_by_genre=present(**by_genre),
        code_kept=share(counts["code"], counts["code_all"]),
        math_kept=share(counts["math"], counts["math_all"]),
        content_lines_kept=share(counts["lines"], counts["lines_all"]),
    )
    return figures, overlaps


def mistakes(ledger: Ledger, overlaps: dict[str, Overlap]) -> Iterator[dict[str, Any]]:
    """Pages where curation and truth disagree, worst kind first."""

    def found(name: str, holds: Callable[[Fate], bool]) -> Iterator[dict[str, Any]]:
        for fate in ledger.fates:
            if holds(fate):
                truth = fate.truth
                row = {
                    key: truth[key] for key in ("url", "date", "defect", "variant", "edit_rate", "language", "genre")
                }
                yield {"mistake": name, "dropped_by": fate.dropped_by, **row, "language_found": fate.language}

    def poor(fate: Fate) -> bool:
        return fate.truth["record_id"] in overlaps and overlaps[fate.truth["record_id"]].f1 < POOR

    yield from found("lost", lambda fate: not fate.measured and fate.defect != "truncated_record")
    yield from found("wrongly dropped", lambda fate: fate.measured and not fate.kept and not fate.rightly_dropped)
    yield from found("wrongly kept", lambda fate: fate.kept and not fate.rightly_kept)
    yield from found("wrong language", lambda fate: fate.rightly_kept and fate.language != fate.truth["language"])
    yield from found("poor text", poor)


def audit(settings: AuditSettings, world: Path, documents: Path, out: Path) -> dict[str, Any]:
    """Hold the documents of a curate entry against the truth of the world they were made from.

    Writes `results.json` (all figures), `table.md` and `samples/mistakes.jsonl` into `out` and gives the figures.
    Raises UserError where the entries are not what they should be.
    """
    ledger = Ledger(world, documents)
    fates = ledger.fates
    right = [fate for fate in fates if fate.rightly_kept]
    kept = sum(fate.kept for fate in fates)
    good = [fate for fate in fates if fate.truth["keep"]]
    text, overlaps = text_figures(right)
    kinds = {**bad_kinds(fates, settings.rules), **good_kinds(ledger)}
    figures = {
        **text,
        **present(
            language_accuracy=share(sum(fate.language == fate.truth["language"] for fate in right), len(right)),
            kept_precision=share(len(right), kept),
            kept_recall=share(sum(fate.kept or fate.rightly_dropped for fate in good), len(good)),
            facts_kept=share(
                sum(len(fate.truth["facts"]) for fate in right), sum(len(fate.truth["facts"]) for fate in good)
            ),
        ),
        "lost": sum(not fate.measured and fate.defect != "truncated_record" for fate in fates),
        "unknown": ledger.unknown,
        "defects": {kind: kinds[kind] for kind in EXPECTED if kind in kinds},
    }
    write_json(out / "results.json", figures)
    table = table_of(figures)
    write_text(out / "table.md", table)
    (out / "samples").mkdir(exist_ok=True)
    rows = list(mistakes(ledger, overlaps))[: settings.mistakes]
    write_text(out / "samples" / "mistakes.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    console.print(table, markup=False)
    return figures


def _cell(figure: Figure | None) -> str:
    return f"{figure['value']:.3f} ({figure['low']:.3f}–{figure['high']:.3f})" if figure else "–"


def table_of(figures: dict[str, Any]) -> str:
    """The figures as two Markdown tables."""
    lines = ["| curation against truth | value (95 % interval) | n |", "|---|---|---|"]
    for name, figure in figures.items():
        if isinstance(figure, dict) and "value" in figure:
            lines.append(f"| {name} | {_cell(figure)} | {figure['n']} |")
        elif isinstance(figure, int):
            lines.append(f"| pages {name} | {figure} | |")
    lines += ["", "| defect | pages | recall | precision |", "|---|---|---|---|"]
    for kind, values in figures["defects"].items():
        lines.append(
            f"| {kind} | {values['pages']} | {_cell(values.get('recall'))} | {_cell(values.get('precision'))} |"
        )
        for name in sorted(name for name in values if name.startswith("recall_")):
            lines.append(f"| – {name.removeprefix('recall_')} edited | {values[name]['n']} | {_cell(values[name])} | |")
    return "\n".join(lines) + "\n"
