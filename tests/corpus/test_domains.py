"""Domains as they are registered, lists in the forms people keep them, and redaction of what is found."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from herdbook.corpus.curate import curate
from herdbook.corpus.domains import above, adult_domains, domain_of, host_of, parse_list, read_lists
from herdbook.corpus.personal import NAMES, count_personal
from herdbook.corpus.redact import PLACEHOLDERS, redact
from herdbook.corpus.rules import DEFAULT_RULES
from herdbook.corpus.settings import CurateSettings, DomainSettings, SourceSettings
from herdbook.settings import UserError
from tests.corpus.test_patterns import FOUND, IDENTITIES, SECRETS


@pytest.mark.parametrize(
    ("url", "host", "domain"),
    [
        ("https://www.a.example.co.uk:8080/x", "www.a.example.co.uk", "example.co.uk"),
        ("http://user:word@News.Example.ORG./?q", "news.example.org", "example.org"),
        ("https://example.org", "example.org", "example.org"),
        ("https://81.2.69.142/x", "81.2.69.142", "81.2.69.142"),
        ("http://[2a00:1450::200e]:80/", "[2a00:1450::200e]", "[2a00:1450::200e]"),
        ("python/os.py", "", ""),
    ],
)
def test_an_address_has_a_host_and_a_domain(url: str, host: str, domain: str) -> None:
    assert host_of(url) == host and domain_of(host) == domain


def test_a_host_lies_in_all_domains_above_it() -> None:
    assert list(above("a.b.example.org")) == ["a.b.example.org", "b.example.org", "example.org"]


def test_lists_are_read_plain_as_addresses_and_as_hosts_files(tmp_path: Path) -> None:
    text = "# remarks\n\nexample.org # why\nhttps://www.bad.example/path\n"
    text += "0.0.0.0 ads.example.com\n127.0.0.1 localhost\n*.wide.example\n"
    assert set(parse_list(text, "list")) == {"example.org", "bad.example", "ads.example.com", "wide.example"}
    (tmp_path / "list.txt").write_text("fine.example\nnot a/domain\n")
    with pytest.raises(UserError, match=r"list\.txt, line 2: 'not a/domain' is no domain"):
        read_lists([tmp_path / "list.txt"])
    with pytest.raises(UserError, match="can't be read"):
        read_lists([tmp_path / "none.txt"])
    assert {"pornhub.com", "xvideos.com"} < adult_domains()


@given(st.lists(st.sampled_from([text for text, _ in FOUND] + IDENTITIES + SECRETS), min_size=1, max_size=6))
def test_nothing_is_found_any_more_once_it_is_redacted(items: list[str]) -> None:
    text = "\n".join(items)
    clean = redact(text, NAMES)
    assert not any(count_personal(clean).values())
    assert sum(clean.count(sign) for sign in PLACEHOLDERS.values()) == sum(count_personal(text).values())


def test_only_the_kinds_asked_for_are_replaced() -> None:
    text = "Write to anna@example.org or call +44 7700 900123 now."
    assert redact(text, ["emails"]) == "Write to <EMAIL> or call +44 7700 900123 now."
    assert redact(text, []) == text


def test_a_changed_list_decides_anew_without_measuring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [{"url": f"https://{n}.example/x", "text": f"About {n}. " * 30} for n in ("one", "two")]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    blocked = tmp_path / "blocked.txt"
    blocked.write_text("one.example\n")
    rules = tuple(rule for rule in DEFAULT_RULES if rule.column == "domain_blocked")
    sources = (SourceSettings(path=tmp_path / "a.jsonl"),)
    settings = CurateSettings(sources=sources, domains=DomainSettings(blocked=(blocked,)), rules=rules, workers=1)

    def kept() -> list[str]:
        curate(settings, [], tmp_path / "out")
        return pq.read_table(tmp_path / "out" / "documents")["url"].to_pylist()

    assert kept() == ["https://two.example/x"]
    monkeypatch.setattr("herdbook.corpus.measure.measure", None)
    blocked.write_text("one.example\ntwo.example # this one too\n")
    assert kept() == []
    blocked.write_text("# none\n")
    assert len(kept()) == 2
