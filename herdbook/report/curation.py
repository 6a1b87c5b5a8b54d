"""The page of a curation: one HTML file with nothing from elsewhere, not even a script.

Everything that came from a crawl is hostile until escaped: addresses are text and never links, control characters are
shown as such, and a content policy forbids the browser to load or run anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from herdbook.corpus.rules import Rule
from herdbook.corpus.why import printable
from herdbook.files import write_text
from herdbook.report.curation_data import EXCERPT, Curation, Histogram, Sample, gather

PAGE = "curation.html"
URL_CHARACTERS = 300
LANGUAGES = 40
STYLE = """
:root { color-scheme: light dark; --ink: #1d1d1f; --soft: #6a6a70; --paper: #fff; --line: #d9d9de; --kept: #2f7d5b;
  --dropped: #c26a3d; --limit: #b3263e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8ea; --soft: #9b9ba3; --paper: #17171a; --line: #38383e;
  --kept: #58b58b; --dropped: #e2935f; --limit: #ff7187; } }
* { box-sizing: border-box; } body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper);
  margin: 0 auto; padding: 1rem; max-width: 68rem; overflow-wrap: anywhere; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.5rem; font-size: 1.25rem; border-bottom: 1px solid var(--line); }
.wide { overflow-x: auto; } table { border-collapse: collapse; width: 100%; font-size: .92rem; }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid var(--line); white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: normal; overflow-wrap: normal;
  min-width: 9.5rem; } th { color: var(--soft); font-weight: 600; }
.soft { color: var(--soft); font-size: .88rem; } .charts { display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(18rem, 100%), 1fr)); }
figure { margin: 0; min-width: 0; } figcaption { font-size: .88rem; }
svg { width: 100%; height: auto; display: block; } svg text { fill: var(--soft); font: 10px system-ui, sans-serif; }
.kept { fill: var(--kept); } .dropped { fill: var(--dropped); } .axis { stroke: var(--line); }
.limit { stroke: var(--limit); stroke-dasharray: 4 3; } svg text.mark { fill: var(--limit); }
.key { display: inline-block; width: .8em; height: .8em; margin: 0 .2em 0 .8em; }
.key.kept { background: var(--kept); } .key.dropped { background: var(--dropped); }
pre { white-space: pre-wrap; font-size: .82rem; border-left: 3px solid var(--line); padding-left: .7rem;
  margin: .3rem 0; max-height: 16rem; overflow: auto; } details { margin: .5rem 0; } summary { cursor: pointer; }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


def safe(value: object, most: int | None = None) -> str:
    """Text from anywhere as HTML text: control characters made visible, cut to `most` characters, escaped."""
    text = printable(str(value), keep="\n")
    return escape(text if most is None or len(text) <= most else text[:most] + "…", quote=True)


def curate(settings: Any, pages: list[Path], out: Path, quality: Sequence[Path] = ()) -> dict[str, Any]:
    """Curate (corpus/curate.py), then write the page into the entry."""
    from herdbook.corpus.curate import curate as curating

    figures = curating(settings, pages, out, quality)
    write_page(out, out / PAGE, "Curation")
    return figures


def write_page(entry: Path, target: Path, title: str) -> Curation:
    """Write the page of the curation in the folder `entry`; returns what it shows."""
    found = gather(entry)
    write_text(target, render(found, title))
    return found


def render(found: Curation, title: str) -> str:
    """The whole page."""
    rows = found.funnel["rules"]
    body = [
        f"<h1>{safe(title)}</h1>",
        f"<p>{rows[0]['left']:,} pages read = {rows[-1]['left']:,} kept + {sum(found.dropped.values()):,} dropped by "
        f"rules + {rows[1]['dropped']:,} in quarantine. {found.funnel.get('lines_removed', 0):,} repeated lines were "
        "removed from the kept.</p>",
        "<h2>Funnel</h2>",
        _funnel_plot(rows),
        _funnel_table(rows),
        _passed_over(found.funnel.get("passed_over", {})),
        "<h2>Measurements</h2><p class=soft>Documents by value; dashed, each rule's threshold. Values beyond the scale "
        "are in the outermost bars.<span class='key kept'></span>kept<span class='key dropped'></span>dropped</p>",
        "<div class=charts>" + "".join(_figures(found)) + "</div>",
        "<h2>Samples</h2>",
        *_samples(found),
        "<h2>Languages</h2>",
        _languages(found.languages),
        "<h2>Duplicates</h2>",
        *_duplicates(found),
        "<h2>Quarantine</h2>",
        *_quarantine(found),
    ]
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{safe(title)}</title><style>{STYLE}</style>"
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n' + "\n".join(body) + "\n</body></html>\n"


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are HTML already."""
    head = "".join(f"<th>{heading}</th>" for heading in headings)
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>\n" for row in rows)
    return f"<div class=wide><table><tr>{head}</tr>\n{lines}</table></div>"


def _funnel_table(rows: list[dict[str, Any]]) -> str:
    read = max(rows[0]["left"], 1)
    cells = []
    for row in rows:
        numbers = [f"{row[key]:,}" for key in ("dropped", "left", "left_characters")]
        cells.append((safe(row["rule"]), *numbers[:2], f"{row['left'] / read:.1%}", numbers[2]))
    return _table(("rule", "dropped", "left", "share of read", "characters left"), cells)


def _funnel_plot(rows: list[dict[str, Any]]) -> str:
    read, height = max(rows[0]["left"], 1), 20
    bars = []
    for place, row in enumerate(rows):
        y, left, gone = place * height, 480 * row["left"] / read, 480 * row["dropped"] / read
        bars.append(
            f'<text x="150" y="{y + 13}" text-anchor="end">{safe(row["rule"], 28)}</text>'
            f'<rect class="kept" x="158" y="{y + 3}" width="{left:.1f}" height="13"/>'
            f'<rect class="dropped" x="{158 + left:.1f}" y="{y + 3}" width="{gone:.1f}" height="13"/>'
            f'<text x="{163 + left + gone:.1f}" y="{y + 13}">{row["left"] / read:.1%}</text>'
        )
    label = "Share of the pages left after each rule"
    return f'<svg viewBox="0 0 700 {len(rows) * height}" role="img" aria-label="{label}">{"".join(bars)}</svg>'


def _passed_over(counts: dict[str, int]) -> str:
    if not counts:
        return ""
    said = ", ".join(f"{safe(reason, 80)} {count:,}" for reason, count in list(counts.items())[:20])
    return f"<p class=soft>Passed over as no pages: {said}</p>"


def _figures(found: Curation) -> list[str]:
    """A histogram per measurement, those that rules read first."""
    read = list(dict.fromkeys(rule.column for rule in found.rules))
    names = [name for name in read if name in found.histograms]
    names += [name for name in found.histograms if name not in read]
    return [_figure(n, found.histograms[n], [r for r in found.rules if r.column == n]) for n in names]


def _figure(name: str, histogram: Histogram, rules: list[Rule]) -> str:
    low, high = float(histogram.edges[0]), float(histogram.edges[-1])
    # The scale reaches out to thresholds: one that no document comes near is worth seeing.
    first, last = min([low, *(r.threshold for r in rules)]), max([high, *(r.threshold for r in rules)])

    def x(value: float) -> float:
        return 10 + 300 * (value - first) / (last - first)

    # Square roots: the few that a rule takes must be seen beside the many it leaves.
    total = np.sqrt(histogram.kept + histogram.dropped)
    top, parts = max(float(total.max()), 1.0), []
    for place, (kept, dropped) in enumerate(zip(histogram.kept.tolist(), histogram.dropped.tolist())):
        if kept + dropped:
            left, right = x(float(histogram.edges[place])), x(float(histogram.edges[place + 1]))
            tall = 90 * float(total[place]) / top
            share = tall * kept / (kept + dropped)
            for kind, y, size in (("kept", 110 - share, share), ("dropped", 110 - tall, tall - share)):
                if size:
                    box = f'width="{max(right - left - 0.5, 0.5):.1f}" height="{size:.1f}"'
                    parts.append(f'<rect class="{kind}" x="{left:.1f}" y="{y:.1f}" {box}/>')
    for rule in rules:
        at, anchor = x(rule.threshold), "end" if x(rule.threshold) > 200 else "start"
        sign = ">" if rule.above is not None else "<"
        parts.append(
            f'<line class="limit" x1="{at:.1f}" x2="{at:.1f}" y1="8" y2="110"/><text class="mark" x="{at:.1f}" y="8" '
            f'text-anchor="{anchor}">{safe(rule.name, 30)} {safe(sign)} {rule.threshold:g}</text>'
        )
    ends = f'<text x="10" y="122">{first:.4g}</text><text x="310" y="122" text-anchor="end">{last:.4g}</text>'
    note = f" <span class=soft>({histogram.missing:,} not measured)</span>" if histogram.missing else ""
    axis = '<line class="axis" x1="10" x2="310" y1="110" y2="110"/>'
    picture = f'<svg viewBox="0 0 320 126" role="img" aria-label="{safe(name)}">{axis}{"".join(parts)}{ends}</svg>'
    return f"<figure><figcaption>{safe(name)}{note}</figcaption>{picture}</figure>"


def _samples(found: Curation) -> list[str]:
    order = ["", *dict.fromkeys(rule.name for rule in found.rules)]
    parts = []
    for name in order:
        shown = found.samples.get(name, [])
        if not shown:
            continue
        title = f"dropped by {safe(name)}: {found.dropped[name]:,}" if name else "kept"
        items = "".join(_sample(sample) for sample in shown)
        parts.append(f"<details{'' if name else ' open'}><summary>{title}</summary>{items}</details>")
    return parts or ["<p>No documents.</p>"]


def _sample(sample: Sample) -> str:
    reading = f" · {safe(sample.value)}" if sample.value else ""
    about = f"{safe(sample.url, URL_CHARACTERS)} · {safe(sample.language, 20)}{reading}"
    return f"<p class=soft>{about}</p><pre>{safe(sample.text, EXCERPT)}</pre>"


def _languages(languages: dict[str, list[int]]) -> str:
    ordered = sorted(languages.items(), key=lambda item: (-sum(item[1]), item[0]))
    shown = [(safe(name, 20), f"{kept:,}", f"{dropped:,}") for name, (kept, dropped) in ordered[:LANGUAGES]]
    rest = [counts for _, counts in ordered[LANGUAGES:]]
    if rest:
        kept, dropped = (sum(column) for column in zip(*rest))
        shown.append((f"{len(rest)} others", f"{kept:,}", f"{dropped:,}"))
    return _table(("language", "kept", "dropped"), shown)


def _duplicates(found: Curation) -> list[str]:
    if not found.clusters:
        return ["<p>None were found.</p>"]
    groups = sum(found.cluster_sizes.values())
    parts = [f"<p>{groups:,} documents stayed in the place of others. The largest groups:</p>"]
    for gone, kept, members in found.clusters:
        items = "".join(f"<li>{safe(url, URL_CHARACTERS)}</li>" for url in members)
        more = f"<li>and {gone - len(members):,} more</li>" if gone > len(members) else ""
        stayed = f"{gone:,} dropped for {safe(kept, URL_CHARACTERS)}"
        parts.append(f"<details><summary>{stayed}</summary><ul class=soft>{items}{more}</ul></details>")
    return parts


def _quarantine(found: Curation) -> list[str]:
    if not found.reasons:
        return ["<p>Nothing was lost.</p>"]
    parts = [_table(("reason", "times"), [(safe(r, 200), f"{n:,}") for r, n in found.reasons.most_common()])]
    for loss in found.losses:
        said = f"{loss.get('file')}, offset {loss.get('offset')}: {loss.get('reason')} {loss.get('url') or ''}"
        parts.append(f"<p class=soft>{safe(said, 600)}</p>")
    return parts


def funnel_png(funnel: dict[str, Any], target: Path) -> None:
    """The funnel as a picture for a text to show."""
    from matplotlib.figure import Figure

    rows = funnel["rules"]
    read = max(rows[0]["left"], 1)
    figure = Figure(figsize=(8, 0.32 * len(rows) + 0.8), layout="constrained")
    axes = figure.subplots()
    left = [100 * row["left"] / read for row in rows]
    axes.barh(range(len(rows)), left, color="#2f7d5b", label="left")
    axes.barh(range(len(rows)), [100 * r["dropped"] / read for r in rows], left=left, color="#c26a3d", label="dropped")
    axes.set_yticks(range(len(rows)), [row["rule"] for row in rows])
    axes.invert_yaxis()
    axes.set_xlabel("% of the pages read")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2)
    figure.savefig(target, dpi=150, format="png")
