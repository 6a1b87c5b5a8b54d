"""Small stage kinds for tests of the book: they write little files slowly, count their runs and fail on demand.

`python -m tests.support.fakes run …` is the command `herdbook` with these kinds in it.
"""

from __future__ import annotations

import errno
import json
import os
import time
from pathlib import Path
from typing import Any, Literal

from herdbook.settings import InputPath, Settings, UserError
from herdbook.stages import KINDS, StageKind, Takes, register
from herdbook.steps import Step


class Nested(Settings):
    """Settings within settings."""

    width: int = 8
    """How wide."""

    depth: int | None = None
    """How deep."""


class Source(Settings):
    """One folder or file to read."""

    path: InputPath
    """Where it lies."""

    format: Literal["text", "warc"] = "text"
    """How it is written."""


class RawSettings(Settings):
    """Settings of `fake-raw`."""

    seed: int = 1
    """Seed of everything."""

    lines: int = 3
    """Lines to write."""

    sources: tuple[Source, ...] = ()
    """What to read besides."""


class SlowSettings(Settings):
    """Settings of `fake-slow`."""

    steps: int
    """Steps to take."""

    seconds: float = 0.0
    """Time of one step."""

    rate: float = 1e-3
    """A number with an exponent."""

    model: Nested = Nested()
    """The model's shape."""

    start: str | Nested | None = None
    """A name or a shape."""

    optimizer: Literal["adamw", "muon"] = "adamw"
    """Which optimizer."""

    mix: dict[str, float] | None = None
    """Weights by name."""

    fail: Literal["user", "bug", "disk", "hidden-disk", "interrupt", "memory"] | None = None
    """How to fail after half of the steps."""


def make_raw(settings: RawSettings, out: Path, pages: list[Path] | None = None) -> dict[str, Any]:
    """Write `lines` lines, not in order of anything."""
    assert not any(out.iterdir()), "a kind that does not resume must find an empty folder"
    (out / "pages.txt").write_text("".join(f"{settings.seed * number}\n" for number in range(settings.lines)))
    _count(out, "raw")
    return {"pages": settings.lines, "defects": {"url": {"recall": 0.9}, "near": {"recall": 1.0}}}


def make_slow(settings: SlowSettings, raw: Path, start: Path | None, out: Path) -> dict[str, Any]:
    """A sum by steps, one file per step, going on from the last whole file."""
    total, first = 0, 0
    for file in sorted(out.glob("step-*")):
        total, first = int(file.read_text()), int(file.name[5:]) + 1
    _count(out, "slow")
    for step in range(first, settings.steps):
        if settings.fail and step == settings.steps // 2:
            _fail(settings.fail)
        time.sleep(settings.seconds)
        total += step * step
        temporary = out / f".{step}"
        temporary.write_text(str(total))
        temporary.replace(out / f"step-{step:06d}")
    (out / "model").write_text(str(total))
    return {"total": total, "accuracy": {"value": 0.75, "low": 0.7, "high": 0.8, "n": 4}, "loss": float("nan")}


class MeetSettings(Settings):
    """Settings of `fake-meet`."""

    place: str
    """Folder in which the stages leave their marks."""

    name: str
    """This stage's mark."""

    wait_for: tuple[str, ...] = ()
    """Marks without which it does not end."""

    fail: bool = False
    """Fail when all marks are there."""


def make_meet(settings: MeetSettings, out: Path, raw: Path | None = None) -> dict[str, Any]:
    """Leave a mark, wait until others have left theirs, and say with how many threads."""
    place = Path(settings.place)
    place.mkdir(parents=True, exist_ok=True)
    (place / settings.name).write_text(f"{os.getpid()}")
    print(f"met name={settings.name}", flush=True)
    end = time.monotonic() + 30
    while not all((place / name).exists() for name in settings.wait_for):
        assert time.monotonic() < end, f"{settings.name} waited in vain"
        time.sleep(0.01)
    if settings.fail:
        raise ZeroDivisionError("as it was told")
    (out / "pages.txt").write_text(settings.name)
    return {"threads": int(os.environ.get("OMP_NUM_THREADS", 0)), "devices": os.environ.get("CUDA_VISIBLE_DEVICES", "")}


def _fail(how: str) -> None:
    if how == "user":
        raise UserError("there are no documents to train on; loosen the rules")
    if how == "disk":
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    if how == "hidden-disk":
        raise RuntimeError("writer failed: No space left on device (os error 28)")
    if how == "interrupt":
        raise KeyboardInterrupt
    if how == "memory":
        raise MemoryError
    raise ZeroDivisionError("division by zero in\nthe middle")


def _count(out: Path, what: str) -> None:
    """Note in the file that HERDBOOK_TEST_RUNS names that a function was run."""
    if path := os.environ.get("HERDBOOK_TEST_RUNS"):
        with open(path, "a") as file:
            file.write(f"{what} {out.name}\n")


def make_named(settings: Nested, raws: dict[str, Path], out: Path) -> dict[str, Any]:
    """Copy what each named stage wrote."""
    for name, folder in raws.items():
        (out / name).write_text((folder / "pages.txt").read_text())
    return {"sets": len(raws)}


class RequestsSettings(Settings):
    """Settings of `fake-requests`."""

    count: int = 40
    """Requests of each file."""

    wrong: float = 0.5
    """Share of the written dialogs whose answer is wrong."""


def make_requests(settings: RequestsSettings, out: Path) -> dict[str, Any]:
    """Requests whose right answer is 7, and dialogs as annotators would have written them who often say 3."""
    from tests.support.chains import write_requests

    for split in ("train", "test"):
        write_requests(out, settings.count, split=split)
    rows = [json.loads(line) for line in (out / "requests" / "train.jsonl").read_text().splitlines()]
    (out / "dialogs").mkdir()
    with open(out / "dialogs" / "train.jsonl", "w") as file:
        for number, row in enumerate(rows):
            said = "3" if number * 0.618 % 1 < settings.wrong else "7"
            messages = [*row["messages"], {"role": "assistant", "content": said}]
            file.write(json.dumps({"id": row["id"], "task": row["task"], "messages": messages}) + "\n")
    return {"requests": len(rows)}


class RoundsSettings(Settings):
    """Settings of `fake-rounds`."""

    rounds: int = 2
    """How many rounds."""


def expand_rounds(name: str, settings: Settings, inputs: dict[str, tuple[str, ...]]) -> list[Step]:
    """In each round two sums go on from the last round's; the last of all is the written stage."""
    assert isinstance(settings, RoundsSettings)
    if settings.rounds < 1:
        raise UserError(f"rounds is {settings.rounds}; one is the least")
    steps: list[Step] = []
    for number in range(1, settings.rounds + 1):
        before = {"model": [steps[-1].name]} if steps else {}
        fed = {"raw": list(inputs["raw"]), **before}
        steps.append(Step(f"{name}.round{number}.add", "fake-slow", fed, "add", {"steps": number}))
        fed = {"raw": list(inputs["raw"]), "model": [steps[-1].name]}
        steps.append(Step(f"{name}.round{number}.more", "fake-slow", fed, "add", {"steps": 3}))
    return [*steps, Step(name, "fake-slow", {"raw": list(inputs["raw"]), "model": [steps[-1].name]}, "", {"steps": 4})]


FAKES = (
    StageKind(
        name="fake-requests",
        help="Writes requests and dialogs.",
        settings="tests.support.fakes:RequestsSettings",
        function="tests.support.fakes:make_requests",
        gives="requests",
        also=("dialogs",),
    ),
    StageKind(
        name="fake-rounds",
        help="Adds squares in rounds.",
        settings="tests.support.fakes:RoundsSettings",
        expand="tests.support.fakes:expand_rounds",
        gives="fake-model",
        takes={"raw": Takes("fake-pages")},
    ),
    StageKind(
        name="fake-meet",
        help="Waits for others.",
        settings="tests.support.fakes:MeetSettings",
        function="tests.support.fakes:make_meet",
        gives="fake-pages",
        takes={"raw": Takes("fake-pages", required=False)},
    ),
    StageKind(
        name="fake-raw",
        help="Writes pages.",
        settings="tests.support.fakes:RawSettings",
        function="tests.support.fakes:make_raw",
        gives="fake-pages",
        takes={"pages": Takes("fake-pages", required=False, many=True)},
    ),
    StageKind(
        name="fake-slow",
        help="Adds squares.",
        settings="tests.support.fakes:SlowSettings",
        function="tests.support.fakes:make_slow",
        gives="fake-model",
        takes={"raw": Takes("fake-pages"), "model": Takes("fake-model", required=False, argument="start")},
        resumes=True,
        headline=("total", "accuracy"),
    ),
    StageKind(
        name="fake-named",
        help="Copies pages by name.",
        settings="tests.support.fakes:Nested",
        function="tests.support.fakes:make_named",
        gives="fake-sets",
        takes={"raws": Takes("fake-pages", many=True, keyed=True)},
    ),
)
for fake in FAKES:
    if fake.name not in KINDS:
        register(fake)

if __name__ == "__main__":
    from herdbook.cli import main

    main()
