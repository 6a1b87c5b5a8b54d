"""Curation from end to end on a crawl with one page of everything: each rule takes its page, and nothing is lost."""

from __future__ import annotations

import json
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from herdbook.corpus.curate import curate, decide_again
from herdbook.corpus.rules import DEFAULT_RULES
from herdbook.corpus.settings import CurateSettings, DomainSettings, MeasureSettings
from herdbook.corpus.why import why
from herdbook.settings import UserError
from tests.corpus.crawls import html, members, record

_NOUNS = (
    "mill river wheel stone bridge miller village orchard boat lantern winter summer barn horse letter market road hill"
)
_VERBS = "stands turns carries keeps holds follows leaves meets crosses lights guards feeds"
_RARE = (
    "assembly quantum parliament gasoline violin treaty enzyme mortgage dolphin keyboard senate volcano "
    "pharmacy anthem catalog democracy elevator festival glacier helicopter insurance jungle kidney "
    "laboratory magnet neutron opera penguin quarry referee satellite telescope umbrella vaccine "
    "warehouse xylophone yacht zebra algebra bacteria cathedral diploma embassy fraction goddess harvest "
    "icon jury kernel lawyer "
)
NOUNS, VERBS, RARE = _NOUNS.split(), _VERBS.split(), _RARE.split()
FEW = NOUNS[:15] + VERBS[:10]
COOKIE = "Please note that this valley archive is kept by volunteers in their spare time."


def prose(draw: random.Random, sentences: int = 14) -> list[str]:
    def noun() -> str:
        return draw.choice(NOUNS)

    return [
        f"The {noun()} near the {noun()} {draw.choice(VERBS)} the {noun()} of the old {noun()} "
        f"and {draw.choice(VERBS)} a {noun()} for {noun()} number {draw.randint(2, 9999)}."
        for _ in range(sentences)
    ]


def page(name: str, *paragraphs: str, date: str = "2024-05-01T00:00:00Z", host: str = "a.example") -> bytes:
    return record(f"https://{host}/{name}", html(*paragraphs, title=f"About {name}"), date=date)


def people(draw: random.Random) -> list[str]:
    """Paragraphs with e-mail addresses after every sentence."""

    def address() -> str:
        return f"{draw.choice(NOUNS)}@{draw.choice(NOUNS)}.org"

    return [f"{line} Ask {address()} or {address()}." for line in prose(draw)]


def adult(draw: random.Random) -> list[str]:
    return [*prose(draw, 6), "It shows porn of milfs, camgirls and xxx."]


def by_one_rule(draw: random.Random) -> list[bytes]:
    """Pages that only one of several rules of the same name drops, and domains that go as a whole."""
    phrases = [" ".join(draw.sample(NOUNS + VERBS, 6)) for _ in range(30)] * 4
    draw.shuffle(phrases)
    passage = prose(draw, 7)
    short = [draw.choice(("The mill.", "A river.", "Old stone.", "One wheel.")) for _ in range(40)]
    lines = [
        part for number, line in enumerate(prose(draw, 10)) for part in (line, *short[number * 4 : number * 4 + 4])
    ]
    return [
        page("blocked", *prose(draw), host="www.blocked.example"),
        page("listed", *prose(draw), host="de.pornhub.com"),
        *(page(f"dim-{n}", *(adult(draw) if n < 4 else prose(draw)), host=f"{n}.dim.example") for n in range(6)),
        *(page(f"club-{n}", *(people(draw) if n < 4 else prose(draw)), host="club.example.co.uk") for n in range(6)),
        page("phrases", *[" ".join(phrases[start : start + 10]) for start in range(0, 120, 10)]),
        page("lines", *lines),
        page("passage", *prose(draw, 4), *passage, *prose(draw, 3), *passage, *passage),
    ]


def crawl_records() -> list[bytes]:
    draw = random.Random(7)
    records = []
    for number in range(60):
        lines = prose(draw)
        records.append(page(f"good-{number}", *lines[:7], *([COOKIE] if number < 9 else []), *lines[7:]))
    one, two, three = (prose(draw) for _ in range(3))
    edited = " ".join(three).split()
    for place in range(5, len(edited), 25):
        edited[place] = "changed"
    letters = ["".join(draw.choices("qxzjvkwp", k=draw.randint(4, 9))) for _ in range(120)]
    records += [
        page("url", *one),
        page("url?utm_source=mail", *prose(draw), date="2020-01-01T00:00:00Z"),
        page("exact-1", *two),
        record("https://b.example/exact-2", html(*two, title="About exact-1")),
        page("near-1", " ".join(three)),
        page("near-2", " ".join(edited)),
        page("spam", "buy cheap watches online now at the best price " * 40),
        page("adult", *adult(draw)),
        page("people", *people(draw)),
        *by_one_rule(draw),
        page("few", *[" ".join(draw.choices(FEW, [1 / n for n in range(1, 26)], k=45)) for _ in range(4)]),
        page("noise", " ".join(letters[:60]), " ".join(letters[60:])),
        page("words", *[" ".join(draw.sample(RARE, 40)) for _ in range(4)]),
        page("broken", *[f"{line} n\x80ar \ufffd\ufffd" for line in prose(draw)]),
        page("short", "Nothing much."),
        page("only-lines", COOKIE, *["One line of its own that is not long."]),
    ]
    words = " ".join(prose(draw)).split()
    records += [page("told", " ".join(words)), page("told-again", " ".join(draw.sample(words, len(words))))]
    return records


RECORDS = crawl_records()


@pytest.fixture(scope="module")
def crawl(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    parts = members(RECORDS)
    parts.insert(20, b"\x1f\x8b\x08\0\0\0\0\0\0\0damaged")
    (folder / "crawl.warc.gz").write_bytes(b"".join(parts))
    return folder


BLOCKED = Path(__file__).with_name("blocked.txt")
SETTINGS = CurateSettings(workers=1, domains=DomainSettings(blocked=(BLOCKED,)))


@pytest.fixture(scope="module")
def curated(crawl: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("documents")
    return out, curate(SETTINGS, [crawl], out)


def rows(out: Path, name: str) -> list[dict[str, Any]]:
    return pa.concat_tables([pq.read_table(f) for f in sorted((out / name).glob("*.parquet"))]).to_pylist()


WANTED = {
    "url?utm_source=mail": "url_duplicate",
    "exact-2": "exact_duplicate",
    "near-2": "near_duplicate",
    "spam": "ngram_repetition",
    "adult": "adult_words",
    "people": "personal_data",
    "blocked": "blocked_domain",
    "listed": "adult_domain",
    **{f"dim-{n}": "adult_words" if n < 4 else "adult_domain" for n in range(6)},
    **{f"club-{n}": "personal_data" if n < 4 else "personal_data_domain" for n in range(6)},
    "phrases": "ngram_repetition",
    "lines": "ngram_repetition",
    "passage": "ngram_repetition",
    "few": "few_words",
    "noise": "language_unknown",
    "words": "token_divergence",
    "broken": "broken_encoding",
    "short": "too_short",
    "only-lines": "line_repeated",
}


def test_each_rule_takes_the_page_made_for_it_and_no_other(curated: tuple[Path, dict[str, Any]]) -> None:
    dropped = {
        m["url"].rsplit("/", 1)[-1]: m["dropped_by"] for m in rows(curated[0], "measurements") if m["dropped_by"]
    }
    # Which of two equal pages stays is a matter of the order; one of each pair does.
    names = {name.replace("exact-1", "exact-2").replace("near-1", "near-2"): rule for name, rule in dropped.items()}
    assert names == WANTED


def test_what_came_in_is_kept_dropped_or_quarantined(curated: tuple[Path, dict[str, Any]]) -> None:
    out, figures = curated
    counts = figures["documents"]
    assert counts["read"] == len(RECORDS) + 1 == counts["kept"] + counts["dropped"] + counts["quarantined"]
    assert counts["kept"] == len(rows(out, "documents")) and counts["dropped"] == sum(figures["dropped"].values())
    assert len(rows(out, "measurements")) == counts["kept"] + counts["dropped"]
    quarantine = [json.loads(line) for line in (out / "quarantine.jsonl").read_text().splitlines()]
    assert len(quarantine) == counts["quarantined"] == 1 and quarantine[0]["file"] == "crawl.warc.gz"
    assert set(quarantine[0]) >= {"file", "offset", "reason"} and quarantine[0]["offset"] > 0
    funnel = json.loads((out / "funnel.json").read_text())["rules"]
    assert funnel[-1]["left"] == counts["kept"] and funnel[-1]["left_characters"] == figures["characters"]["kept"]


def test_documents_have_the_promised_columns_and_no_boilerplate(curated: tuple[Path, dict[str, Any]]) -> None:
    documents = rows(curated[0], "documents")
    assert {"id", "url", "source", "date", "text", "language", "length_words"} <= set(documents[0])
    assert len({d["id"] for d in documents}) == len(documents)
    assert not any(COOKIE in d["text"] for d in documents) and curated[1]["lines_removed"] >= 9
    assert all(d["language"] == "en" for d in documents)
    assert not {"duplicate_signature", "lines_hashes"} & set(documents[0])


ALIKE = {"exact_duplicate": ("near_duplicate",)}
"""Rules that must be off too before a rule's page is kept: an exact copy is a near one as well."""


@pytest.mark.parametrize(
    "number", range(len(DEFAULT_RULES)), ids=lambda n: f"{n}-{DEFAULT_RULES[n].name}-{DEFAULT_RULES[n].column}"
)
def test_each_rule_drops_what_no_other_rule_does(
    curated: tuple[Path, dict[str, Any]], tmp_path: Path, number: int
) -> None:
    (tmp_path / "measured").symlink_to(curated[0] / "measured")
    rule = DEFAULT_RULES[number]
    others = {"off": ALIKE.get(rule.name, ()), "on": (rule.name,) if rule.optional else ()}
    outcome = []
    for rules in (DEFAULT_RULES, DEFAULT_RULES[:number] + DEFAULT_RULES[number + 1 :]):
        decide_again(SETTINGS.model_copy(update={"rules": rules, **others}), tmp_path)
        outcome.append({m["id"]: m["dropped_by"] for m in rows(tmp_path, "measurements")})
    spared = {page for page, name in outcome[0].items() if name == rule.name and outcome[1][page] is None}
    assert spared, f"no page of the crawl needs the rule {rule.name} over {rule.column}; add one to crawl_records"


@pytest.mark.parametrize("name", list(dict.fromkeys(rule.name for rule in DEFAULT_RULES)))
def test_a_rule_switched_off_drops_nothing(curated: tuple[Path, dict[str, Any]], tmp_path: Path, name: str) -> None:
    (tmp_path / "measured").symlink_to(curated[0] / "measured")
    decide_again(SETTINGS.model_copy(update={"off": (name,)}), tmp_path)
    assert name not in {m["dropped_by"] for m in rows(tmp_path, "measurements")}


def test_deciding_again_measures_nothing(
    curated: tuple[Path, dict[str, Any]], crawl: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr("herdbook.corpus.measure.measure", never)
    figures = curate(SETTINGS.model_copy(update={"thresholds": {"length_words": 500.0}}), [crawl], curated[0])
    assert figures["dropped"]["too_short"] > 40
    assert curate(SETTINGS, [crawl], curated[0])["documents"] == curated[1]["documents"]


def test_other_ways_of_measuring_measure_anew(
    curated: tuple[Path, dict[str, Any]], crawl: Path, tmp_path: Path
) -> None:
    settings = SETTINGS.model_copy(update={"workers": 2, "measure": MeasureSettings(shard_mb=0.005)})
    figures = curate(settings, [crawl], tmp_path)
    assert figures["documents"] == curated[1]["documents"] and len(list((tmp_path / "measured").glob("*.parquet"))) > 2
    left, right = (sorted((d["id"], d["text"]) for d in rows(out, "documents")) for out in (tmp_path, curated[0]))
    assert left == right


def test_another_entry_of_the_book_takes_over_what_was_measured(
    curated: tuple[Path, dict[str, Any]], crawl: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = tmp_path / "corpus-1", tmp_path / ".work" / "curate-2"
    shutil.copytree(curated[0], first)  # as published; another run may still be at work on nothing
    (tmp_path / "tokens-1").mkdir()
    second.mkdir(parents=True)
    before = {path: path.read_bytes() for path in sorted(first.rglob("*")) if path.is_file()}
    monkeypatch.setattr("herdbook.corpus.measure.measure", None)
    settings = SETTINGS.model_copy(update={"thresholds": {"length_words": 310.0}})
    figures = curate(settings, [crawl], second)
    assert figures["dropped"]["too_short"] > 5 and figures["documents"]["read"] == curated[1]["documents"]["read"]
    assert before == {path: path.read_bytes() for path in sorted(first.rglob("*")) if path.is_file()}
    kept = {row["id"] for row in rows(second, "documents")}
    assert kept < {row["id"] for row in rows(first, "documents")}
    assert (second / "measured" / "00000.parquet").samefile(first / "measured" / "00000.parquet")


def test_a_killed_run_goes_on_and_ends_with_the_same_documents(
    curated: tuple[Path, dict[str, Any]], crawl: Path, tmp_path: Path
) -> None:
    code = (
        "import sys; from pathlib import Path; from herdbook.corpus.curate import *;"
        "from herdbook.corpus.settings import *;"
        "domains = DomainSettings(blocked=(Path(sys.argv[3]),));"
        "settings = CurateSettings(workers=1, domains=domains, measure=MeasureSettings(shard_mb=0.005));"
        "curate(settings, [Path(sys.argv[1])], Path(sys.argv[2]))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(crawl), str(tmp_path), str(BLOCKED)], stderr=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list(tmp_path.glob("measured/*.parquet")):
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    done = list(tmp_path.glob("measured/*.parquet"))
    stamps = {path: path.stat().st_mtime_ns for path in done}
    curate(SETTINGS.model_copy(update={"measure": MeasureSettings(shard_mb=0.005)}), [crawl], tmp_path)
    assert stamps and {path: path.stat().st_mtime_ns for path in done} == stamps
    left, right = (sorted((d["id"], d["text"]) for d in rows(out, "documents")) for out in (tmp_path, curated[0]))
    assert left == right


def test_why_tells_the_rule_the_value_and_what_stayed_instead(curated: tuple[Path, dict[str, Any]]) -> None:
    out = curated[0]
    spam = why(out, "https://a.example/spam")[0]
    assert spam.dropped_by == "ngram_repetition"
    check = next(c for c in spam.checks if c.verdict == "dropped")
    assert check.rule == "ngram_repetition" and check.value is not None and check.value > check.threshold
    assert "dropped by ngram_repetition" in "\n".join(spam.lines())
    pair = [item for name in ("near-1", "near-2") for item in why(out, f"https://a.example/{name}") if item.dropped_by]
    assert len(pair) == 1 and pair[0].duplicate_of in ("https://a.example/near-1", "https://a.example/near-2")
    visits = why(out, "http://www.a.example/url")
    assert [visit.dropped_by for visit in visits] == [None, "url_duplicate"]
    assert why(out, "https://a.example/good-3")[0].dropped_by is None
    with pytest.raises(UserError, match=r"nearest are .*good-33"):
        why(out, "https://a.example/god-33")
    with pytest.raises(UserError, match="no measurements"):
        why(out / "nowhere", "https://a.example/")


@pytest.mark.parametrize("content", [b"", b"no crawl at all " * 50, b"\x1f\x8b\x08" + b"\0" * 100])
def test_a_crawl_that_is_none_is_an_error_alone_and_quarantine_beside_a_good_one(
    tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "w").mkdir()
    (tmp_path / "w" / "bad.warc.gz").write_bytes(content)
    with pytest.raises(UserError, match=r"nothing could be read: pages, bad\.warc\.gz at byte 0: "):
        curate(SETTINGS, [tmp_path / "w"], tmp_path)
    assert not (tmp_path / "documents").exists()
    (tmp_path / "w" / "good.warc.gz").write_bytes(members([page("good", *prose(random.Random(1)))])[0])
    figures = curate(SETTINGS, [tmp_path / "w"], tmp_path)
    assert figures["documents"] == {"read": 2, "kept": 1, "dropped": 0, "quarantined": 1, "passed_over": 0}
    assert "quarantined count=1" in "".join(capsys.readouterr())


def test_a_page_of_fifty_megabytes_and_a_page_of_code_among_ordinary_ones(tmp_path: Path) -> None:
    source = tmp_path / "texts"
    source.mkdir()
    (source / "huge.txt").write_text("word " * 10_000_000)
    (source / "prog.py").write_text("def add(a, b):\n    return a + b\n\n\ndef sub(a, b):\n    return a - b\n" * 3)
    (source / "note.txt").write_text("\n".join(prose(random.Random(1))))
    settings = CurateSettings.model_validate(
        {"workers": 1, "sources": [{"path": str(source), "format": "text"}], "measure": {"max_text_mb": 20}}
    )
    out = tmp_path / "out"
    out.mkdir()
    figures = curate(settings, [], out)
    assert figures["documents"]["quarantined"] == 1 and figures["documents"]["kept"] == 2
    assert {d["url"] for d in rows(out, "documents")} == {"texts/prog.py", "texts/note.txt"}


@pytest.mark.parametrize(
    ("value", "says"),
    [
        ({"thresholds": {"adult_shares": 0.1}}, "did you mean 'adult_share'"),
        ({"off": ["near_duplicates"]}, "did you mean 'near_duplicate'"),
        ({"rules": [{"name": "x", "column": "y"}]}, "exactly one"),
        ({"rule": []}, "Extra inputs"),
    ],
)
def test_a_mistake_in_the_settings_is_named(value: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        CurateSettings.model_validate(value)


def test_a_rule_over_an_unknown_column_names_the_nearest(curated: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    (tmp_path / "measured").symlink_to(curated[0] / "measured")
    settings = CurateSettings.model_validate({"rules": [{"name": "x", "column": "length_word", "below": 3}]})
    with pytest.raises(UserError, match="did you mean 'length_words'"):
        decide_again(settings, tmp_path)
