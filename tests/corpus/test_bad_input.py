"""Whatever is bad about the input: documents in are kept, dropped or quarantined, and each loss says why."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from herdbook.corpus import curate as curation
from herdbook.corpus.quality.endpoint import Asker
from herdbook.corpus.quality.rubrics import Rubric
from herdbook.corpus.quality.settings import EndpointSettings, HeadSettings, QualitySettings
from herdbook.corpus.quality.train import train_quality
from herdbook.corpus.settings import CurateSettings, SourceSettings
from tests.corpus.crawls import GONE, bad_sources
from tests.corpus.fake_endpoint import Answer, page_of, serving


def accounted(out: Path, counts: dict[str, int]) -> list[dict[str, Any]]:
    """The lines of quarantine, once all figures are seen to agree with what was written."""
    assert counts["read"] == counts["kept"] + counts["dropped"] + counts["quarantined"]
    kept, measured = (
        sum(pq.read_metadata(file).num_rows for file in (out / name).glob("*.parquet"))
        for name in ("documents", "measurements")
    )
    losses = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert (kept, measured, len(losses)) == (counts["kept"], counts["kept"] + counts["dropped"], counts["quarantined"])
    return losses


def test_everything_bad_at_once_costs_nothing_good_and_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept, reasons = bad_sources(tmp_path / "in")
    prepare = curation.prepare

    def planned(*arguments: Any) -> None:
        (tmp_path / "in" / GONE).unlink()
        prepare(*arguments)

    monkeypatch.setattr(curation, "prepare", planned)
    settings = {"workers": 1, "sources": [{"path": str(tmp_path / "in")}], "measure": {"max_text_mb": 2}}
    counts = curation.curate(CurateSettings.model_validate(settings), [], tmp_path)["documents"]
    losses = accounted(tmp_path, counts)
    left = list(reasons)
    for loss in losses:
        left.remove(next((reason for reason in left if reason in loss["reason"]), f"nothing like {loss}"))
    assert left == [] and counts["kept"] == kept
    assert all(loss["file"] and loss["offset"] >= 0 for loss in losses)


def test_a_page_that_cannot_be_measured_is_quarantined_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from herdbook.corpus import measure

    rows = [{"text": f"page {word}"} for word in ("one", "two", "three")]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    repetition = measure.repetition

    def fails(hashes: Any, text: str, unit: int = 1) -> Any:
        if "two" in text:
            raise RecursionError("too deep")
        return repetition(hashes, text, unit)

    monkeypatch.setattr(measure, "repetition", fails)
    settings = CurateSettings(workers=1, rules=(), sources=(SourceSettings(path=tmp_path / "in.jsonl"),))
    counts = curation.curate(settings, [], tmp_path / "out")["documents"]
    (loss,) = accounted(tmp_path / "out", counts)
    assert counts["kept"] == 2 and loss["reason"] == "could not be measured (RecursionError: too deep)"


def test_documents_asked_about_are_labelled_nonsense_or_failed(tmp_path: Path) -> None:
    """An endpoint that is slow, cut off, out of order and talks nonsense, all at once."""
    texts = {f"d{number}": f"Page number {number} about {'mills' if number % 2 else 'spam'}." for number in range(80)}

    def badly(body: dict[str, Any], count: int) -> Answer:
        number = int(page_of(body).split()[2])
        if number % 10 == 3:
            return "I would rather not say."
        if number % 10 == 7:
            return 400
        if count % 9 == 4:
            return [None, 503, 0.4][count % 3]
        return f"Grade: {4 if number % 2 else 0}"

    (tmp_path / "in.jsonl").write_text(
        "".join(json.dumps({"text": text, "id": id}) + "\n" for id, text in texts.items())
    )
    curate = CurateSettings(workers=1, rules=(), sources=(SourceSettings(path=tmp_path / "in.jsonl"),))
    assert curation.curate(curate, [], tmp_path / "corpus")["documents"]["kept"] == 80
    with serving(badly) as server:
        endpoint = EndpointSettings(
            base_url=server.url, model="judge", cache=str(tmp_path / "c"), pause=0.01, timeout=0.2, tries=6
        )
        _, bill = Asker(endpoint, Rubric("general")).ask(texts)
        heads = {"general": HeadSettings(rubric="general")}
        settings = QualitySettings(heads=heads, endpoint=endpoint, sample=80)
        found = train_quality(settings, [tmp_path / "corpus"], None, tmp_path / "heads")["general"]
    assert bill.asked == 80 == bill.labelled + bill.nonsense + bill.failed
    assert (bill.nonsense, bill.failed) == (8, 8) and bill.retries > 0
    assert found["documents"] == 64 and Counter(found["labelling"])["cached"] == 64
    counts = curation.curate(curate, [], tmp_path / "scored", quality=[tmp_path / "heads"])["documents"]
    assert accounted(tmp_path / "scored", counts) == [] and counts["kept"] == 80
