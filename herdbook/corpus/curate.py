"""Curation from end to end: cut the input into shards, measure them in processes, decide, write what is kept (§3.1).

A measured shard is a file of its own, published by rename, so a killed run measures only what is missing; and
deciding again with other thresholds measures nothing.
"""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait as wait_for
from pathlib import Path
from typing import Any

from herdbook import console
from herdbook.corpus.engine import Engine, Native
from herdbook.corpus.funnel import funnel_rows, funnel_table, metrics
from herdbook.corpus.read import RawPage, Shard, Skipped, plan, read_shard
from herdbook.corpus.reuse import prepare
from herdbook.corpus.settings import CurateSettings, MeasureSettings, SourceSettings
from herdbook.corpus.warc import Loss
from herdbook.files import read_json, write_json, write_text
from herdbook.settings import UserError

__all__ = ["CurateSettings", "curate", "decide_again"]

ENGINE_VARIABLE = "HERDBOOK_ENGINE"
"""What `herdbook run --engine` sets: the engine of curations whose settings leave it open."""
WRITERS = 4
"""Most shards of documents this machine writes at a time; each is wholly in memory meanwhile."""
RETRIES = 2
"""How often a shard is given to another process after one died with it."""


def curate(settings: CurateSettings, pages: list[Path], out: Path, quality: Sequence[Path] = ()) -> dict[str, Any]:
    """Curate the crawls in the folders `pages` and the settings' sources into `out`; continues what is there.

    Classifiers in the folders `quality` are applied where a page is measured. Returns the figures of the funnel.
    Raises UserError when there is nothing to read.
    """
    started, out = time.monotonic(), out.absolute()
    if classifiers := (*settings.measure.quality, *quality):
        whole = tuple(path.absolute() for path in classifiers)
        measure = settings.measure.model_copy(update={"quality": whole})
        settings = settings.model_copy(update={"measure": measure})
    if settings.measure.quality:
        from herdbook.corpus.quality.score import check_heads

        check_heads(list(settings.measure.quality))  # told before anything is measured
    sources = [SourceSettings(path=folder, format="warc", name="pages") for folder in pages] + list(settings.sources)
    shards = plan([_whole(source) for source in sources], settings.measure)
    folder = out / "measured"
    prepare(out, shards, settings.measure)
    _measure_all(folder, shards, settings)
    measured = time.monotonic() - started
    figures = decide_again(settings, out)
    figures["seconds"] = {"measure": measured, "decide": time.monotonic() - started - measured}
    return figures


def _whole(source: SourceSettings) -> SourceSettings:
    """The source with its whole path, as workers on other nodes stand in other folders."""
    return source.model_copy(update={"path": source.path.absolute()}) if source.path else source


def decide_again(settings: CurateSettings, out: Path) -> dict[str, Any]:
    """Apply the rules to what `out` holds measured, and write documents, measurements, funnel and quarantine anew."""
    from herdbook.corpus.decide import Deciding
    from herdbook.corpus.measured import Measured
    from herdbook.corpus.publish import write_documents

    out = out.absolute()
    measured = Measured((out / "measured").glob("*.parquet"))
    if not measured.shards:
        raise UserError(f"{out}: nothing measured here to decide about; curate first")
    notes = [read_json(shard.with_suffix(".json")) for shard in measured.shards]
    losses = [loss for note in notes for loss in note["losses"]]
    _tell_losses(losses, measured.count)
    work = out / ".decided"
    engine = _engine(settings, work / ".engine")
    decision = Deciding(measured, settings, engine, work).decide()
    written = write_documents(measured, decision, out, engine, min(settings.workers or free_cores(), WRITERS))
    write_text(out / "quarantine.jsonl", "".join(json.dumps(loss, ensure_ascii=False) + "\n" for loss in losses))
    skipped: Counter[str] = sum((Counter(note["skipped"]) for note in notes), Counter())
    rows = funnel_rows(decision, measured.numbers("length_characters"), len(losses), written)
    write_json(out / "funnel.json", {"rules": rows, "passed_over": dict(skipped.most_common()), **written})
    write_json(out / "rules.json", [rule.model_dump() for rule in decision.rules])
    console.out.print(funnel_table(rows, skipped))
    return metrics(rows, skipped, measured.languages, decision, written)


def _tell_losses(losses: list[dict[str, Any]], pages: int) -> None:
    """Say what went to quarantine and why; UserError when that was all there was."""
    reasons = Counter(loss["reason"] for loss in losses)
    if losses and not pages:
        first = losses[0]
        where = f"{first['source']}, {first['file']} at byte {first['offset']}"
        more = f", and {len(losses) - 1} more like it" if len(losses) > 1 else ""
        raise UserError(
            f"nothing could be read: {where}: {first['reason']}{more}; "
            "give another path, or `format` where the name misleads"
        )
    for reason, count in reasons.most_common(3):
        console.log("quarantined", count=count, reason=reason)


def on_ray(settings: CurateSettings) -> bool:
    """Whether curation runs on a Ray cluster."""
    if settings.engine != "auto":
        return settings.engine == "ray"
    return os.environ.get(ENGINE_VARIABLE, "ray" if os.environ.get("RAY_ADDRESS") else "native") == "ray"


def _engine(settings: CurateSettings, folder: Path) -> Engine:
    if not on_ray(settings):
        return Native(folder)
    from herdbook.corpus import cluster

    return cluster.dataframes(folder)


def free_cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _measure_all(folder: Path, shards: list[Shard], curation: CurateSettings) -> None:
    settings, workers = curation.measure, curation.workers or free_cores()
    missing = [(number, shard) for number, shard in enumerate(shards) if not _target(folder, number).is_file()]
    with console.progress("measuring", sum(shard.size for shard in shards) / 1e6, "MB") as tracker:
        tracker.advance(sum(shard.size for shard in shards) / 1e6 - sum(shard.size for _, shard in missing) / 1e6)
        if on_ray(curation):
            _measure_on_ray(folder, missing, settings, tracker)
            return
        if workers == 1 or len(missing) == 1:
            for number, shard in missing:
                tracker.note(pages=measure_shard(shard, settings, _target(folder, number)))
                tracker.advance(shard.size / 1e6)
            return
        for attempt in range(RETRIES + 1):
            try:
                _measure_parallel(folder, missing, settings, workers, tracker)
                return
            except BrokenProcessPool:
                missing = [(n, s) for n, s in missing if not _target(folder, n).is_file()]
                console.log("worker_died", shards_left=len(missing), attempt=attempt + 1)
        names = ", ".join(sorted({shard.files[0] for _, shard in missing}))
        raise UserError(f"measuring processes died {RETRIES + 1} times on {names}; lower `workers` if memory ran out")


def _measure_on_ray(
    folder: Path, missing: list[tuple[int, Shard]], settings: MeasureSettings, tracker: console.Tracker
) -> None:
    from herdbook.corpus import cluster

    calls = ((shard, settings, _target(folder, number)) for number, shard in missing)
    for _, (shard, _, target), pages in cluster.spread(measure_shard, calls):
        if not target.is_file():
            raise UserError(f"{target} was measured on another node and is not seen here; all nodes must see the book")
        tracker.note(pages=pages)
        tracker.advance(shard.size / 1e6)


def _measure_parallel(
    folder: Path, missing: list[tuple[int, Shard]], settings: MeasureSettings, workers: int, tracker: console.Tracker
) -> None:
    pages = 0
    count = min(workers, len(missing)) or 1
    with ProcessPoolExecutor(count, mp_context=get_context("spawn"), initializer=_worker) as pool:
        waiting = {pool.submit(measure_shard, s, settings, _target(folder, n)): s for n, s in missing}
        try:
            while waiting:
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    shard = waiting.pop(future)
                    pages += future.result()
                    tracker.note(pages=pages)
                    tracker.advance(shard.size / 1e6)
        except BaseException:
            for process in list((pool._processes or {}).values()):
                process.terminate()  # what they have not published is measured again; a shard may take a minute
            raise


def _worker() -> None:
    """A worker ends with the process that started it, however that ended; Ctrl-C is that one's to answer."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait_for([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _target(folder: Path, number: int) -> Path:
    return folder / f"{number:05d}.parquet"


def measure_shard(shard: Shard, settings: MeasureSettings, target: Path) -> int:
    """Measure one shard and publish it as `target` (and what was lost as a JSON file beside it); returns its pages."""
    import pyarrow.parquet as pq

    from herdbook.corpus.measure import as_table, measure

    rows: list[dict[str, Any]] = []
    losses: list[dict[str, Any]] = []
    skipped: Counter[str] = Counter()
    for item in read_shard(shard, settings):
        if isinstance(item, RawPage):
            try:
                rows.append(measure(item, shard.source, settings))
                continue
            except Exception as error:  # one page must not cost the others; what went wrong stands in quarantine
                item = Loss(item.key, 0, f"could not be measured ({type(error).__name__}: {error})", item.url)
        if isinstance(item, Skipped):
            skipped[item.reason] += 1
        else:
            loss = {"file": item.file, "offset": item.offset, "reason": item.reason, "url": item.url}
            losses.append({"source": shard.source} | loss)
    write_json(target.with_suffix(".json"), {"losses": losses, "skipped": dict(skipped), "pages": len(rows)})
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    words = ["source", "language", "kind", "date", "encoding_name"]  # few different ones
    table = as_table(rows, settings)
    if settings.quality:
        from herdbook.corpus.quality.score import judged

        table = judged(table, settings.quality)
    pq.write_table(table, temporary, compression="zstd", compression_level=1, use_dictionary=words)
    temporary.replace(target)
    return len(rows)
