"""What a dialog is about (§4.2.3): rows say so, a classifier learns it from those that do, or a judge is asked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from herdbook.corpus.quality.linear import Linear, fit
from herdbook.posttrain.judging import Prompts, ask, read_verdict
from herdbook.posttrain.select_settings import JudgeSettings, TopicSettings
from herdbook.posttrain.shown import Row, shown, words_of
from herdbook.posttrain.writer import Writer
from herdbook.settings import UserError
from herdbook.tokens.texts import draw


def set_topics(
    rows: Sequence[Row], settings: TopicSettings, judge: Writer | None, asking: JudgeSettings
) -> dict[str, Any]:
    """Give each row its `topic` (empty where nobody knows); returns figures: how many of each, the accuracy."""
    figures: dict[str, Any] = {}
    for row in rows:
        row["topic"] = str(row.get(settings.column) or row.get("topic") or "")
    unknown = [row for row in rows if not row["topic"]]
    if settings.by == "linear" and unknown:
        figures |= _learn(rows, unknown, settings)
    elif settings.by == "judge":
        assert judge is not None
        prompts, count = Prompts(asking.prompts), Counter[str]()
        names = "\n".join(f"- {name}" for name in settings.names)
        read = read_verdict(*(name.lower() for name in settings.names))
        texts = [prompts.fill("topic", dialog=shown(row), topics=names) for row in rows]
        named = {name.lower(): name for name in settings.names}
        for row, topic in zip(rows, ask(judge, texts, read, count, asking.max_tokens), strict=True):
            row["topic"] = named[topic] if topic else row["topic"]
        figures["judge"] = dict(count)
    figures["dialogs"] = dict(Counter(row["topic"] or "unknown" for row in rows).most_common(30))
    return figures


def _learn(rows: Sequence[Row], unknown: Sequence[Row], settings: TopicSettings) -> dict[str, Any]:
    """Name the topic of rows without one as a classifier of the others does; it is measured on those held out."""
    known = [row for row in rows if row["topic"]]
    names = sorted({row["topic"] for row in known})
    if len(names) < 2:
        raise UserError(
            f"topic: to learn from, dialogs must have at least two different values in the column {settings.column!r}; "
            f"they have {', '.join(names) or 'none'}"
        )
    texts = [words_of(row) for row in known]
    truth = np.array([names.index(row["topic"]) for row in known], dtype=np.int64)
    apart = np.array([draw(text, "topic") < settings.heldout for text in texts])
    figures: dict[str, Any] = {"learnt_from": len(known), "heldout": int(apart.sum())}
    if apart.any() and not apart.all():
        learner = fit([text for text, out in zip(texts, apart) if not out], truth[~apart], len(names), settings.linear)
        said = learner.probabilities([text for text, out in zip(texts, apart) if out]).argmax(axis=1)
        figures["accuracy"] = float((said == truth[apart]).mean())
    classifier: Linear = fit(texts, truth, len(names), settings.linear)
    probabilities = classifier.probabilities([words_of(row) for row in unknown])
    for row, chances in zip(unknown, probabilities, strict=True):
        row["topic"], row["topic_probability"] = names[int(chances.argmax())], round(float(chances.max()), 4)
    return figures
