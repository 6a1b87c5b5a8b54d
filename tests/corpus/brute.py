"""Deciding written plainly, for a crawl that fits in memory: what deciding by shards must equal to the document."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from herdbook.corpus.divergence import (
    CLEAR,
    DOUBT,
    LEAST_DOCUMENTS,
    LEAST_TOKENS,
    standard_excess,
)
from herdbook.corpus.measure import BUCKETS
from herdbook.corpus.minhash import band_keys
from herdbook.corpus.rules import active_rules
from herdbook.corpus.settings import CurateSettings
from herdbook.corpus.words import TOKENS

CROSS = {"divergence_kl", "divergence_excess", "language_evidence", "duplicate_url_newer", "duplicate_exact_better"}
CROSS |= {"duplicate_near_similarity", "lines_words_left", "domain_blocked", "domain_adult"}
CROSS |= {"domain_adult_share", "domain_personal_share"}


class Brute:
    """Decides about the measured shards of a folder; `dropped` has the rule of each document, or None."""

    def __init__(self, measured: Path, settings: CurateSettings) -> None:
        self.rows = pa.concat_tables([pq.read_table(f) for f in sorted(measured.glob("*.parquet"))]).to_pylist()
        self.settings, self.of = settings, dict[int, int]()
        self.dropped: list[str | None] = [None] * len(self.rows)
        self.repeated: set[tuple[str, int, int]] = set()

        def better(index: int) -> tuple[Any, ...]:
            row = self.rows[index]
            quality = float(row[settings.duplicates.prefer]) if settings.duplicates.prefer else 0.0
            return quality, row["date"], row["length_words"], -index

        self.best_first = sorted(range(len(self.rows)), key=better, reverse=True)
        self.place = {index: place for place, index in enumerate(self.best_first)}
        for rule in active_rules(settings.rules, settings.thresholds, settings.off):
            values = self.column(rule.column, rule.threshold)
            for index, value in values.items():
                beyond = value > rule.threshold if rule.above is not None else value < rule.threshold
                if self.dropped[index] is None and beyond:
                    self.dropped[index] = rule.name

    def column(self, name: str, threshold: float) -> dict[int, float]:
        """A column's value by document, where it has one."""
        if name not in CROSS:
            return {index: row[name] for index, row in enumerate(self.rows) if row[name] is not None}
        alive = [index for index, rule in enumerate(self.dropped) if rule is None]
        worded = [index for index in alive if self.rows[index]["length_words"] > 0]
        if name.startswith("divergence"):
            return self.divergence(alive)[name == "divergence_excess"]
        if name == "language_evidence":
            counts = defaultdict(int)
            for row in self.rows:
                counts[row["language"]] += row["language_probability"] >= CLEAR
            rare = {word for word, count in counts.items() if count < LEAST_DOCUMENTS and word != "code"}
            return {i: r["language_probability"] / (3 if r["language"] in rare else 1) for i, r in enumerate(self.rows)}
        if name == "lines_words_left":
            return self.lines(alive)
        if name.startswith("domain_"):
            return self.domains(name)
        if name == "duplicate_near_similarity":
            return self.near(worded, threshold)
        key = "duplicate_url_key" if name == "duplicate_url_newer" else "duplicate_exact_key"
        first: dict[int, int] = {}
        for index in sorted(worded, key=self.place.__getitem__):
            keeper = first.setdefault(self.rows[index][key], index)
            if keeper != index:
                self.of[index] = keeper
        return {index: float(first[self.rows[index][key]] != index) for index in worded}

    def domains(self, name: str) -> dict[int, float]:
        pages = defaultdict(list)
        for index, row in enumerate(self.rows):
            pages[row["url"].split("/")[2]].append(index)
        if name in ("domain_blocked", "domain_adult"):
            return dict.fromkeys(range(len(self.rows)), 0.0)
        measure, least = ("pii_share", 0.02) if name == "domain_personal_share" else ("adult_share", 0.01)
        shares = {}
        for inside in pages.values():
            share = sum(self.rows[index][measure] > least for index in inside) / len(inside)
            shares |= dict.fromkeys(inside, share) if len(inside) >= 5 else {}
        return shares

    def likeness(self, left: int, right: int) -> tuple[float, bool]:
        """How similar two documents are, and whether that was told by their signatures."""
        signed = [np.frombuffer(self.rows[index]["duplicate_signature"], "<u4") for index in (left, right)]
        estimate = float((signed[0] == signed[1]).mean())
        error = np.sqrt(self.threshold * (1 - self.threshold) / len(signed[0]))
        if abs(estimate - self.threshold) >= self.settings.duplicates.doubtful * error:
            return estimate, True
        sets = []
        for index in (left, right):
            words = TOKENS.findall(self.rows[index]["text"].lower())
            size = min(self.settings.measure.shingle_words, len(words))
            sets.append({tuple(words[start : start + size]) for start in range(len(words) - size + 1)})
        return len(sets[0] & sets[1]) / len(sets[0] | sets[1]), False

    def near(self, worded: list[int], threshold: float) -> dict[int, float]:
        self.threshold = threshold
        signed = np.stack([np.frombuffer(self.rows[i]["duplicate_signature"], "<u4") for i in worded] or [np.zeros(16)])
        buckets = defaultdict(list)
        for number, keys in enumerate(band_keys(signed.astype(np.uint32), self.settings.duplicates.band_rows).tolist()):
            for key in keys:
                buckets[key].append(number)
        place = [self.place[i] for i in worded]
        edges = set()
        for members in buckets.values():
            hub = min(members, key=place.__getitem__)
            edges |= {(hub, o) for o in members if self.likeness(worded[hub], worded[o])[0] > threshold}
        pairs = np.array(sorted(edges)).reshape(-1, 2)
        graph = coo_matrix((np.ones(len(pairs)), (pairs[:, 0], pairs[:, 1])), shape=(len(worded), len(worded)))
        found: dict[int, float] = {}
        groups = defaultdict(list)
        for number, label in enumerate(connected_components(graph, directed=False)[1]):
            groups[label].append(number)
        for group in groups.values():
            stay: list[int] = []
            for member in sorted(group, key=place.__getitem__):
                likeness = [self.likeness(worded[other], worded[member]) for other in stay]
                if any(clear and value > threshold for value, clear in likeness):
                    likeness = [(value * clear, clear) for value, clear in likeness]
                values = [value for value, _ in likeness]
                if values and max(values) > threshold:
                    found[worded[member]] = max(values)
                    self.of[worded[member]] = worded[stay[int(np.argmax(values))]]
                else:
                    stay.append(member)
        return found

    def divergence(self, alive: list[int]) -> tuple[dict[int, float], dict[int, float]]:
        bits: dict[int, float] = {}
        cross: dict[int, float] = {}
        excess: dict[int, float] = {}
        for language in {row["language"] for row in self.rows} - {"", "code"}:
            inside = [i for i in alive if self.rows[i]["language"] == language]
            judged = [i for i in inside if sum(self.rows[i]["divergence_counts"]) >= LEAST_TOKENS]
            if min(len(inside), len(judged)) < LEAST_DOCUMENTS:
                continue
            counts = []
            for row in (self.rows[i] for i in judged):
                own = zip(row["divergence_tokens"], row["divergence_counts"])
                counts.append(np.bincount([token for token, count in own for _ in range(count)], minlength=BUCKETS))
            totals = np.sum(counts, axis=0)
            for index, own in zip(judged, counts):
                rest = (totals - own + 1) / (totals.sum() - own.sum() + BUCKETS)
                share = own[own > 0] / own.sum()
                bits[index] = float((share * np.log2(share / rest[own > 0])).sum())
                cross[index] = float(-(share * np.log2(rest[own > 0])).sum())
            found = standard_excess(np.array([cross[i] for i in judged]), np.array([own.sum() for own in counts]))
            excess |= zip(judged, (found * len(judged) / (len(judged) + DOUBT)).tolist())
        return bits, excess

    def lines(self, alive: list[int]) -> dict[int, float]:
        settings, order = self.settings.duplicates, defaultdict(int)
        bucket = {}
        for index in alive:
            language = self.rows[index]["language"]
            bucket[index] = (language, order[language] // settings.line_bucket)
            order[language] += 1
        seen = defaultdict(set)
        for index in alive:
            for value in self.rows[index]["lines_hashes"]:
                if value:
                    seen[*bucket[index], value].add(index)
        self.repeated = {key for key, documents in seen.items() if self.often(documents)}
        left = {}
        for index in alive:
            row = self.rows[index]
            gone = [(*bucket[index], value) in self.repeated for value in row["lines_hashes"]]
            if any(gone):
                left[index] = sum(words for words, away in zip(row["lines_words"], gone) if not away)
        self.bucket = bucket
        return left

    def often(self, documents: set[int]) -> bool:
        hosts = [self.rows[index]["url"].split("/")[2] for index in documents]
        settings = self.settings.duplicates
        within = len(hosts) > settings.line_site_documents and len(set(hosts)) == 1
        return len(hosts) > settings.line_documents or within

    def texts(self) -> dict[str, str]:
        """The kept documents' texts by id."""
        found = {}
        for index, row in enumerate(self.rows):
            if self.dropped[index] is None:
                kept = [
                    line
                    for line, value in zip(row["text"].split("\n"), row["lines_hashes"])
                    if (*self.bucket.get(index, ("", 0)), value) not in self.repeated
                ]
                changed = len(kept) < len(row["lines_hashes"])
                found[row["id"]] = "\n".join(kept).strip("\n") if changed else row["text"]
        return found
