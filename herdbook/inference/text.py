"""From drawn tokens to text as it grows: characters split over tokens are waited for, stop texts looked for."""

from __future__ import annotations

import codecs
from collections.abc import Sequence


class GrowingText:
    """The text of one answer, fed token by token.

    `text` is what is certain to belong to the answer: what could still turn out to be the beginning of a stop
    text, or of a character whose bytes are not all there, is held back until the next token or `finish`.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self.stops = [stop for stop in stops if stop]
        self.decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self.text = ""
        self.held = ""
        self.stopped = False

    def feed(self, data: bytes) -> str:
        """Take the bytes of the next token; returns the piece that became certain."""
        return self._take(self.decoder.decode(data), final=False)

    def finish(self) -> str:
        """No more tokens come: returns all that was held back (an unfinished character as U+FFFD)."""
        return self._take(self.decoder.decode(b"", final=True), final=True)

    def _take(self, new: str, final: bool) -> str:
        if self.stopped:
            return ""
        self.held += new
        found = [at for at in (self.held.find(stop) for stop in self.stops) if at >= 0]
        if found:
            self.stopped = True
            piece, self.held = self.held[: min(found)], ""
        else:
            keep = 0 if final else self._suspicious()
            cut = len(self.held) - keep
            piece, self.held = self.held[:cut], self.held[cut:]
        self.text += piece
        return piece

    def _suspicious(self) -> int:
        """How many last characters may be the beginning of a stop text."""
        longest = min(len(self.held), max((len(stop) - 1 for stop in self.stops), default=0))
        for size in range(longest, 0, -1):
            if any(stop.startswith(self.held[-size:]) for stop in self.stops):
                return size
        return 0
