"""Growing text equals the whole text decoded at once and cut at the first stop, however the bytes are split."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from herdbook.inference.text import GrowingText


def grow(data: bytes, cuts: list[int], stops: list[str]) -> tuple[GrowingText, list[str]]:
    text, pieces, start = GrowingText(stops), [], 0
    for cut in [*sorted({cut % (len(data) + 1) for cut in cuts}), len(data)]:
        pieces.append(text.feed(data[start:cut]))
        start = cut
    return text, [*pieces, text.finish()]


@settings(max_examples=200, deadline=None)
@given(st.text("ab\n é€🐄", max_size=30), st.lists(st.integers(0, 200), max_size=30))
def test_characters_arrive_whole(text: str, cuts: list[int]) -> None:
    got, pieces = grow(text.encode(), cuts, [])
    assert "".join(pieces) == got.text == text
    assert all("\ufffd" not in piece for piece in pieces)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=30), st.lists(st.integers(0, 200), max_size=30))
def test_broken_bytes_become_replacements_as_when_decoded_whole(data: bytes, cuts: list[int]) -> None:
    assert "".join(grow(data, cuts, [])[1]) == data.decode("utf-8", errors="replace")


@settings(max_examples=300, deadline=None)
@given(
    st.text("abc🐄", max_size=30),
    st.lists(st.text("abc🐄", min_size=1, max_size=4), max_size=3),
    st.integers(1, 4),
)
def test_text_ends_before_the_first_stop_even_over_tokens(text: str, stops: list[str], size: int) -> None:
    data = text.encode()
    got, pieces = grow(data, list(range(0, len(data), size)), stops)
    # The stop that is complete first ends it; of those complete at one time, the one that begins first.
    want, stopped = text, False
    ends = sorted({text.find(stop) + len(stop) for stop in stops if stop in text})
    if ends:
        fed = 0
        for at in [*range(size, len(data), size), len(data)]:
            seen = data[:at].decode("utf-8", errors="ignore")
            found = [seen.find(stop) for stop in stops if stop in seen]
            fed = at
            if found:
                want, stopped = text[: min(found)], True
                break
        assert fed
    assert "".join(pieces) == got.text == want
    assert got.stopped == stopped


def test_only_what_may_become_a_stop_is_held_back() -> None:
    text = GrowingText(["\nQuestion:"])
    assert text.feed(b"42\n") == "42"
    assert text.feed(b"Quest") == ""
    assert text.feed(b"s are") == "\nQuests are"
    assert text.feed(b"\nQuestion: next") == ""
    assert text.stopped and text.text == "42\nQuests are"
