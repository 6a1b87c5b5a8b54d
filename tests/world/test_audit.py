"""The audit gives one everywhere for a perfect curation, and exactly the expected figure for each thing spoilt."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.stats import binomtest

from herdbook.settings import UserError
from herdbook.world.audit import AuditSettings, audit
from herdbook.world.defects import EXPECTED
from herdbook.world.figures import mean, overlap, share
from tests.support.worlds import tiny_truth, tiny_world

RULES = AuditSettings().rules
GOOD = ("wrong_charset", "lying_language", "repeated_lines")


class Curation:
    """A perfect curation of the tiny world, to be spoilt and then audited."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.kept: dict[str, dict[str, Any]] = {}
        self.dropped: dict[str, dict[str, Any]] = {}
        self.quarantine: list[dict[str, Any]] = []
        for row in tiny_truth():
            about = {"url": row["url"], "date": row["date"]}
            if row["keep"]:
                self.kept[row["record_id"]] = {**about, "text": row["clean_text"], "language": row["language"]}
            elif row["expected"] == "quarantined":
                self.quarantine.append({"url": row["url"], "reason": "cut"})
            else:
                self.dropped[row["record_id"]] = {**about, "dropped_by": RULES[row["defect"]][0]}

    def keep(self, row: dict[str, Any]) -> None:
        """Let a page through."""
        about = self.dropped.pop(row["record_id"])
        self.kept[row["record_id"]] = {
            "url": about["url"], "date": about["date"], "text": row["clean_text"], "language": row["language"]
        }  # fmt: skip

    def drop(self, row: dict[str, Any], rule: str) -> None:
        """Drop a page."""
        about = self.kept.pop(row["record_id"])
        self.dropped[row["record_id"]] = {"url": about["url"], "date": about["date"], "dropped_by": rule}

    def audit(self, **settings: Any) -> dict[str, Any]:
        """The figures."""
        documents, out = self.folder / "entry", self.folder / "out"
        for folder in (documents / "documents", documents / "measurements", out):
            folder.mkdir(parents=True, exist_ok=True)
        kept = list(self.kept.values())
        measured = [{"url": row["url"], "date": row["date"], "dropped_by": None} for row in kept]
        pq.write_table(pa.Table.from_pylist(kept), documents / "documents" / "0.parquet")
        table = pa.Table.from_pylist(measured + list(self.dropped.values()))
        pq.write_table(table, documents / "measurements" / "0.parquet")
        lines = "".join(json.dumps(line) + "\n" for line in self.quarantine)
        (documents / "quarantine.jsonl").write_text(lines)
        return audit(AuditSettings(**settings), tiny_world(), documents, out)

    def mistakes(self) -> list[dict[str, Any]]:
        """What the audit showed as mistakes."""
        return [json.loads(line) for line in (self.folder / "out/samples/mistakes.jsonl").read_text().splitlines()]


@pytest.fixture
def curation(tmp_path: Path) -> Curation:
    return Curation(tmp_path)


def rows(defect: str) -> list[dict[str, Any]]:
    return [row for row in tiny_truth() if row["defect"] == defect]


def original(row: dict[str, Any]) -> dict[str, Any]:
    return next(other for other in tiny_truth() if other["record_id"] == row["duplicate_of"])


def values(figures: dict[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    """Every figure with an interval, by its path."""
    for key, value in figures.items():
        if isinstance(value, dict) and "value" in value:
            yield f"{path}{key}", value["value"]
        elif isinstance(value, dict):
            yield from values(value, f"{path}{key}.")


def test_a_perfect_curation_scores_one_everywhere(curation: Curation) -> None:
    figures = curation.audit()
    found = dict(values(figures))
    assert set(found.values()) == {1.0}
    kinds = [kind for kind in EXPECTED if kind]
    assert {f"defects.{kind}.{side}" for kind in kinds for side in ("recall", "precision")} <= set(found)
    assert figures["lost"] == figures["unknown"] == 0
    assert {kind: figures["defects"][kind]["pages"] for kind in kinds} == {kind: len(rows(kind)) for kind in kinds}
    assert curation.mistakes() == []
    assert json.loads((curation.folder / "out/results.json").read_text()) == figures
    assert "| near_duplicate |" in (curation.folder / "out/table.md").read_text()


def spoilt(figures: dict[str, Any]) -> set[str]:
    return {path for path, value in values(figures) if value < 1.0}


@pytest.mark.parametrize("kind", [kind for kind, then in EXPECTED.items() if then == "dropped"])
def test_a_bad_page_let_through_costs_its_kind_recall(curation: Curation, kind: str) -> None:
    curation.keep(rows(kind)[0])
    figures = curation.audit()
    assert spoilt(figures) == {f"defects.{kind}.recall", "kept_precision"}
    assert figures["defects"][kind]["recall"]["value"] == pytest.approx(1 - 1 / len(rows(kind)))
    assert figures["kept_precision"]["value"] == pytest.approx(1 - 1 / len(curation.kept))
    assert [(row["mistake"], row["url"]) for row in curation.mistakes()] == [("wrongly kept", rows(kind)[0]["url"])]


def test_a_good_page_dropped_costs_the_rule_precision(curation: Curation) -> None:
    copied = {row["duplicate_of"] for row in tiny_truth()}
    good = next(row for row in rows("") if row["record_id"] not in copied and row["facts"])
    curation.drop(good, "adult_words")
    figures = curation.audit()
    assert spoilt(figures) == {"defects.adult.precision", "kept_recall", "facts_kept"}
    assert figures["defects"]["adult"]["precision"]["value"] == pytest.approx(1 - 1 / (len(rows("adult")) + 1))
    total = sum(row["keep"] for row in tiny_truth())
    assert figures["kept_recall"]["value"] == pytest.approx(1 - 1 / total)
    facts = sum(len(row["facts"]) for row in tiny_truth() if row["keep"])
    assert figures["facts_kept"]["value"] == pytest.approx(1 - len(good["facts"]) / facts)


def test_a_bad_page_dropped_for_another_reason_costs_nothing(curation: Curation) -> None:
    row = rows("gibberish")[0]
    curation.dropped[row["record_id"]]["dropped_by"] = "too_short"
    figures = curation.audit()
    assert spoilt(figures) == set()
    assert figures["defects"]["gibberish"]["precision"]["n"] == len(rows("gibberish")) - 1
    assert figures["defects"]["thin"]["precision"]["n"] == len(rows("thin"))


@pytest.mark.parametrize("kind", ["exact_duplicate", "near_duplicate", "mirrored_site"])
def test_it_is_all_one_which_member_of_a_cluster_survives(curation: Curation, kind: str) -> None:
    copy = rows(kind)[0]
    curation.keep(copy)
    curation.drop(original(copy), RULES[kind][0])
    assert spoilt(curation.audit()) == set()


def test_of_visits_to_one_address_the_latest_must_survive(curation: Curation) -> None:
    copy = rows("url_duplicate")[0]
    curation.keep(copy)
    curation.drop(original(copy), "url_duplicate")
    assert curation.audit()["defects"]["url_duplicate"]["recall"]["value"] == 1 - 1 / len(rows("url_duplicate"))


def test_two_survivors_of_a_cluster_cost_recall_and_none_costs_precision_too(curation: Curation) -> None:
    both, none = rows("near_duplicate")[0], rows("near_duplicate")[1]
    curation.keep(both)
    curation.drop(original(none), "near_duplicate")
    figures = curation.audit()
    count = len(rows("near_duplicate"))
    assert figures["defects"]["near_duplicate"]["recall"]["value"] == pytest.approx(1 - 2 / count)
    # The rule dropped all copies but one, and one original; the cluster that is gone makes two of them wrong.
    assert figures["defects"]["near_duplicate"]["precision"]["value"] == pytest.approx(1 - 2 / count)
    assert figures["kept_precision"]["value"] == pytest.approx(1 - 1 / len(curation.kept))
    assert {row["mistake"] for row in curation.mistakes()} == {"wrongly kept", "wrongly dropped"}
    assert len(curation.mistakes()) == 3


def test_an_original_dropped_by_another_rule_is_not_held_against_the_duplicate_rule(curation: Curation) -> None:
    curation.drop(original(rows("url_duplicate")[0]), "token_divergence")
    figures = curation.audit()["defects"]
    assert figures["url_duplicate"]["precision"]["value"] == 1.0
    assert figures["url_duplicate"]["recall"]["value"] == 1 - 1 / len(rows("url_duplicate"))
    assert figures["gibberish"]["precision"]["value"] < 1.0


def test_near_duplicates_are_told_apart_by_edit_rate(curation: Curation) -> None:
    strong = [row for row in rows("near_duplicate") if row["variant"] % 3 == 2]
    curation.keep(strong[0])
    figures = curation.audit()["defects"]["near_duplicate"]
    assert figures["recall_5%"]["value"] == pytest.approx(1 - 1 / len(strong))
    assert figures["recall_1%"]["value"] == figures["recall_3%"]["value"] == 1.0


def test_lines_left_in_cost_recall_and_lines_lost_cost_precision(curation: Curation) -> None:
    first, second = rows("repeated_lines")[:2]
    curation.kept[first["record_id"]]["text"] += "\n" + first["boilerplate"][0]
    lines = second["clean_text"].split("\n")
    lost = next(line for line in lines if len(line.split()) > 6 and second["clean_text"].count(line) == 1)
    curation.kept[second["record_id"]]["text"] = "\n".join(line for line in lines if line != lost)
    figures = curation.audit()["defects"]["repeated_lines"]
    total = sum(len(row["boilerplate"]) for row in rows("repeated_lines"))
    assert figures["recall"]["value"] == pytest.approx(1 - 1 / total)
    assert figures["precision"]["value"] == pytest.approx((total - 1) / total)


def test_a_wrong_language_costs_accuracy_and_believing_a_liar_its_recall(curation: Curation) -> None:
    liar, honest = rows("lying_language")[0], rows("")[0]
    curation.kept[liar["record_id"]]["language"] = liar["declared_language"]
    curation.kept[honest["record_id"]]["language"] = "sv"
    figures = curation.audit()
    count = len(rows("lying_language"))
    assert figures["defects"]["lying_language"]["recall"]["value"] == pytest.approx(1 - 1 / count)
    assert figures["defects"]["lying_language"]["precision"]["value"] == pytest.approx((count - 1) / count)
    assert figures["language_accuracy"]["value"] == pytest.approx(1 - 2 / len(curation.kept))


def test_a_charset_read_wrong_costs_precision_and_a_page_given_up_recall(curation: Curation) -> None:
    garbled, given_up = rows("wrong_charset")[:2]
    text = garbled["clean_text"].encode().decode("windows-1252", "replace")
    curation.kept[garbled["record_id"]]["text"] = text
    curation.drop(given_up, "broken_encoding")
    figures = curation.audit()["defects"]
    count = len(rows("wrong_charset"))
    assert figures["wrong_charset"]["recall"]["value"] == pytest.approx(1 - 1 / count)
    assert figures["wrong_charset"]["precision"]["value"] == pytest.approx(1 - 1 / (count - 1))
    assert figures["broken_encoding"]["precision"]["value"] == pytest.approx(1 - 1 / (len(rows("broken_encoding")) + 1))


def test_quarantine_is_held_against_the_truncated_records(curation: Curation) -> None:
    curation.quarantine.pop()
    curation.quarantine.append({"url": "https://elsewhere.example/", "reason": "cut"})
    curation.quarantine[0]["url"] = None
    lost = rows("thin")[0]
    del curation.dropped[lost["record_id"]]
    figures = curation.audit()
    count = len(rows("truncated_record"))
    assert figures["defects"]["truncated_record"]["recall"]["value"] == pytest.approx(1 - 1 / count)
    assert figures["defects"]["truncated_record"]["precision"]["value"] == pytest.approx(1 - 1 / count)
    assert figures["lost"] == 1
    assert curation.mistakes()[0]["mistake"] == "lost"


def test_code_and_math_are_held_to_the_character(curation: Curation) -> None:
    spoilers = {"code": ("    ", "  "), "math": ("\\", "")}
    for kind, (old, new) in spoilers.items():
        pieces = [(row, piece) for row in tiny_truth() if row["keep"] for piece in row[kind]]
        changed = next(row for row, piece in pieces if old in piece)
        text = curation.kept[changed["record_id"]]["text"]
        curation.kept[changed["record_id"]]["text"] = text.replace(old, new)
        lost = sum(old in piece for piece in changed[kind])
        assert curation.audit()[f"{kind}_kept"]["value"] == pytest.approx(1 - lost / len(pieces))


def test_extraction_f1_is_the_mean_over_good_kept_pages(curation: Curation) -> None:
    row = next(row for row in rows("") if row["genre"] == "news")
    curation.kept[row["record_id"]]["text"] = ""
    figures = curation.audit()
    assert figures["extraction_f1"]["value"] == pytest.approx(1 - 1 / len(curation.kept))
    assert "poor text" in {mistake["mistake"] for mistake in curation.mistakes()}


def test_pages_the_world_does_not_know_are_counted_and_left_out(curation: Curation) -> None:
    curation.kept["else"] = {"url": "file:///a.py", "date": None, "text": "x", "language": "en"}
    figures = curation.audit()
    assert figures["unknown"] == 1
    assert spoilt(figures) == set()


def test_without_dates_an_address_means_its_latest_visit(curation: Curation) -> None:
    for row in curation.kept.values():
        row["date"] = None
    assert curation.audit()["defects"]["url_duplicate"]["recall"]["value"] == 1.0


def test_word_overlap_is_that_of_multisets() -> None:
    found = overlap("the cat sat", "the cat the mat")
    assert (found.precision, found.recall) == (2 / 3, 2 / 4)
    assert found.f1 == pytest.approx(2 * (2 / 3) * (1 / 2) / (2 / 3 + 1 / 2))
    assert overlap("", "").f1 == 1.0 and overlap("", "a").f1 == 0.0


@pytest.mark.parametrize(("hits", "total"), [(0, 5), (3, 5), (5, 5), (97, 104)])
def test_intervals_are_wilsons(hits: int, total: int) -> None:
    figure = share(hits, total)
    peer = binomtest(hits, total).proportion_ci(0.95, method="wilson")
    assert figure is not None
    assert (figure["low"], figure["high"]) == pytest.approx((peer.low, peer.high), abs=1e-6)
    assert share(0, 0) is None and mean([]) is None


def test_entries_of_the_wrong_kind_are_refused(curation: Curation, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"truth\.parquet is missing"):
        audit(AuditSettings(), tmp_path, tmp_path, tmp_path)
    with pytest.raises(UserError, match=r"no \*\.parquet in"):
        audit(AuditSettings(), tiny_world(), tmp_path, tmp_path)
