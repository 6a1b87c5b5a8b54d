"""Canonical addresses: two spellings of one page are equal, two pages are not, and canonical is final."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from herdbook.corpus.urls import canonical


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/a/b?x=1&y=2",
        "http://EXAMPLE.org/a/b/?y=2&x=1",
        "https://www.example.org:443/a/./c/../b?x=1&y=2&utm_source=mail",
        "https://example.org/a/b?x=1&y=2#part",
        "https://example.org/%61/b/index.html?x=1&y=2&fbclid=zz",
    ],
)
def test_spellings_of_one_page_are_equal(url: str) -> None:
    assert canonical(url) == "//example.org/a/b?x=1&y=2"


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ("https://a.org/x", "https://a.org/X"),
        ("https://a.org/?id=1", "https://a.org/?id=2"),
        ("https://a.org/", "https://b.org/"),
        ("https://a.org:8080/", "https://a.org/"),
        ("folder/a.txt", "folder/b.txt"),
    ],
)
def test_different_pages_stay_different(left: str, right: str) -> None:
    assert canonical(left) != canonical(right)


URLS = st.builds(
    "{}://{}{}/{}{}{}".format,
    st.sampled_from(["http", "https", "HTTP"]),
    st.sampled_from(["www.a.org", "a.ORG", "b.example", "bücher.example", "[::1]", "127.0.0.1"]),
    st.sampled_from(["", ":80", ":443", ":8080", ":99999", ":x"]),
    st.text(alphabet="ab./%?é;=&#2F ", max_size=20),
    st.sampled_from(["", "?utm_source=a&b=1", "?b=&a", "index.html", "/index.html/index.html"]),
    st.sampled_from(["", "#x", "/", "//"]),
)


@given(st.one_of(URLS, st.text(max_size=40)))
def test_canonical_is_final_and_never_raises(url: str) -> None:
    once = canonical(url)
    assert canonical(once) == once
