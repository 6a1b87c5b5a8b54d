"""Columns of a document's domain: whether a list names it, and how many of its pages are of a kind (§3.1.1).

A domain much of which is personal data or adult words goes as a whole, the pages too that show little of it. Lists and
shares are looked at when deciding, so that another list measures nothing anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from importlib import resources
from pathlib import Path

import numpy as np

from herdbook.corpus.columns import Columns, View, provides
from herdbook.corpus.urls import host_of
from herdbook.settings import UserError

DOMAIN = re.compile(r"(?:[\w-]{1,63}\.)+[\w-]{2,63}")
NUMBERED = re.compile(r"[\d.]+|\[.*")
SECOND = frozenset(("ac", "co", "com", "edu", "gob", "gov", "gouv", "mil", "ne", "net", "nom", "or", "org", "sch"))
"""Second levels that countries give out domains under, like example.co.uk."""


def domain_of(host: str) -> str:
    """The part of a host that somebody registered."""
    if NUMBERED.fullmatch(host):
        return host
    labels = host.split(".")
    size = 3 if len(labels) > 2 and len(labels[-1]) == 2 and labels[-2] in SECOND else 2
    return ".".join(labels[-size:])


def above(host: str) -> Iterator[str]:
    """A host and the domains it lies in."""
    labels = host.split(".")
    return (".".join(labels[start:]) for start in range(max(len(labels) - 1, 1)))


@cache
def adult_domains() -> frozenset[str]:
    """The default list."""
    text = resources.files("herdbook.corpus").joinpath("adult_domains.txt").read_text(encoding="utf-8")
    return frozenset(parse_list(text, "adult_domains.txt"))


def parse_list(text: str, name: str) -> Iterator[str]:
    """Domains of a list: one a line, as such, as an address or as a line of a hosts file; `#` begins a remark."""
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        domain = host_of(words[-1]) or words[-1].lower().strip(".").removeprefix("*.")
        domain = domain.removeprefix("www.")
        if domain in ("localhost", "local", "broadcasthost") or NUMBERED.fullmatch(domain):
            continue
        if not DOMAIN.fullmatch(domain):
            raise UserError(f"{name}, line {number}: {line.strip()!r} is no domain; write one like example.org a line")
        yield domain


def read_lists(paths: Iterable[Path]) -> frozenset[str]:
    """The domains of the user's files."""
    found: set[str] = set()
    for path in paths:
        try:
            found.update(parse_list(path.read_text(encoding="utf-8"), str(path)))
        except (OSError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: can't be read as a list of domains ({error})") from error
    return frozenset(found)


@provides("domain_blocked", "domain_adult", "domain_pages", "domain_personal_share", "domain_adult_share")
def domains(view: View) -> Columns:
    """What is known of each document's domain, from all measured pages of it, kept or not."""
    settings, measured = view.settings.domains, view.measured
    blocked = read_lists(settings.blocked)
    adult = read_lists(settings.adult) | (adult_domains() if settings.default_adult else frozenset())
    numbers: dict[str, int] = {}
    listed: dict[str, tuple[bool, bool]] = {}
    number = np.full(measured.count, -1, dtype=np.int64)
    columns = {name: np.zeros(measured.count) for name in ("domain_blocked", "domain_adult")}
    for rows, table in measured.parts("url"):
        for row, url in enumerate(table["url"].to_pylist(), rows.start):
            host = host_of(url or "")
            if not host:
                continue
            if host not in listed:
                parents = list(above(host))
                listed[host] = any(p in blocked for p in parents), any(p in adult for p in parents)
            columns["domain_blocked"][row], columns["domain_adult"][row] = listed[host]
            number[row] = numbers.setdefault(domain_of(host), len(numbers))
    known = number >= 0
    pages = np.bincount(number[known], minlength=len(numbers))
    columns["domain_pages"] = _per_page(number, pages.astype(float))
    for column, measure, least in (
        ("domain_personal_share", "pii_share", settings.personal_page),
        ("domain_adult_share", "adult_share", settings.adult_page),
    ):
        dense = measured.numbers(measure) > least
        share = np.bincount(number[known], weights=dense[known], minlength=len(numbers)) / np.maximum(pages, 1)
        columns[column] = _per_page(number, np.where(pages >= settings.least_pages, share, np.nan))
    return columns


def _per_page(number: np.ndarray, values: np.ndarray) -> np.ndarray:
    """A domain's value for each of its pages (N,), NaN for pages without a domain."""
    return np.append(values, np.nan)[number]
