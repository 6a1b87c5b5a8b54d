"""MinHash beside datatrove: signatures per core-second from text, error of the estimate, near duplicates found.

Both take signatures of 112 permutations over runs of five words of the same real texts, each in its own process, in
turns. The error is held against exact similarity on pairs of a text and an edited copy; the near duplicates, at a
Jaccard similarity of .8 or more, against all pairs of the texts and their copies, counted exactly.

    HERDBOOK_PEERS=PYTHON python benchmarks/curate_minhash.py [--texts 600] [--repeats 3]
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import common
import numpy as np

RESULT = common.RESULTS / "curate_minhash.json"
CRAWL = common.SHARED / "web" / "debian-docs.warc.gz"
PERMUTATIONS, ROWS, WORDS, NEAR = 112, 4, 5, 0.8
AIMS = {"ratio": 20, "rmse": 0.034, "recall": 0.98, "precision": 0.99}
EDITS = (0.0, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3)


def write_texts(crawl: Path, count: int, path: Path) -> None:
    """Texts of English pages with at least 100 words, every k-th page of the crawl, as JSON lines."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    from herdbook.corpus.decode import decode
    from herdbook.corpus.extract import extract
    from herdbook.corpus.language import identify

    with crawl.open("rb") as stream, path.open("w", encoding="utf-8") as out:
        for record in ArchiveIterator(stream, record_types=WarcRecordType.response):
            text = extract(decode(record.reader.read())[0]).text
            if len(text.split()) >= 100 and identify(text)[0] == "en":
                out.write(json.dumps(text) + "\n")
                count -= 1
            if not count:
                return


def work(name: str, path: Path) -> None:
    """A contender: signatures of all texts, and what they took."""
    texts = [json.loads(line) for line in path.open(encoding="utf-8")]
    if name == "herdbook":
        from herdbook.corpus.measure import TOKENS, hash_words
        from herdbook.corpus.minhash import shingles, signature

        def sign(text: str) -> Any:
            return signature(shingles(hash_words(TOKENS.findall(text.lower())), WORDS), PERMUTATIONS)
    else:
        from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature

        step = MinhashDedupSignature(tempfile.mkdtemp(), MinhashConfig(n_grams=WORDS), language="eng")

        def sign(text: str) -> Any:
            return step.get_signature(step.get_shingles(text))

    sign(texts[0])
    started = time.process_time()
    for text in texts:
        sign(text)
    print(json.dumps({"cpu_seconds": time.process_time() - started, "texts": len(texts)}))


def families(texts: list[str]) -> list[list[np.ndarray]]:
    """For every text the shingles of it and of its edited copies."""
    from herdbook.corpus.measure import TOKENS, hash_words
    from herdbook.corpus.minhash import shingles

    draw = random.Random(0)
    pool = [word for text in texts[:50] for word in TOKENS.findall(text.lower())]
    found = []
    for text in texts:
        words = TOKENS.findall(text.lower())[:2000]
        family = []
        for rate in EDITS:
            copy = list(words)
            for place in draw.sample(range(len(copy)), round(rate * len(copy))):
                copy[place] = draw.choice(pool)
            family.append(np.unique(shingles(hash_words(copy), WORDS)))
        found.append(family)
    return found


def estimate_errors(sets: list[list[np.ndarray]], signatures: list[np.ndarray]) -> dict[str, float]:
    """Root mean square and mean of the estimate's error between each text and its copies."""
    from herdbook.corpus.minhash import jaccard, similarity

    errors = []
    for family, rows in zip(sets, signatures):
        exact = [jaccard(family[0], copy) for copy in family[1:]]
        errors += (similarity(np.repeat(rows[:1], len(exact), axis=0), rows[1:]) - exact).tolist()
    return {"rmse": float(np.sqrt(np.mean(np.square(errors)))), "bias": float(np.mean(errors)), "pairs": len(errors)}


def exact_pairs(flat: list[np.ndarray]) -> set[tuple[int, int]]:
    """All pairs of sets with a Jaccard similarity of `NEAR` or more, by counting what each two have in common."""
    from scipy.sparse import csr_matrix

    _, columns = np.unique(np.concatenate(flat), return_inverse=True)
    sizes = np.array([len(items) for items in flat])
    table = csr_matrix((np.ones(len(columns), np.int32), columns, np.concatenate([[0], sizes.cumsum()])))
    common_items = (table @ table.T).tocoo()
    a, b, shared = common_items.row, common_items.col, common_items.data
    near = (a < b) & (shared / (sizes[a] + sizes[b] - shared) >= NEAR)
    return set(zip(a[near].tolist(), b[near].tolist()))


def found_pairs(flat: list[np.ndarray], signatures: np.ndarray, counted: bool) -> set[tuple[int, int]]:
    """Pairs the bands bring together and the estimate, or where that is near `NEAR` a count, calls near duplicates."""
    from herdbook.corpus.minhash import band_keys, confirm, similarity

    pairs: set[tuple[int, int]] = set()
    for column in band_keys(signatures, ROWS).T:
        order = np.argsort(column, kind="stable")
        for rows in np.split(order, np.flatnonzero(np.diff(column[order])) + 1):
            ordered = np.sort(rows).tolist()
            pairs.update((a, b) for n, a in enumerate(ordered) for b in ordered[n + 1 :])
    together = np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)
    if counted:
        alike = confirm(together, signatures, flat.__getitem__, NEAR)
    else:
        alike = similarity(signatures[together[:, 0]], signatures[together[:, 1]])
    return set(map(tuple, together[alike >= NEAR].tolist()))


def quality(texts: list[str]) -> dict[str, Any]:
    """Error of the estimate; recall and precision of near duplicates by estimates, and with doubtful ones counted."""
    from herdbook.corpus.minhash import signature

    sets = families(texts)
    signatures = [np.stack([signature(items, PERMUTATIONS) for items in family]) for family in sets]
    flat = [items for family in sets[:120] for items in family]
    stacked = np.concatenate(signatures[:120])
    true = exact_pairs(flat)
    result: dict[str, Any] = {"estimate": estimate_errors(sets, signatures), "near_pairs": len(true)}
    for name, counted in (("estimated", False), ("counted", True)):
        found = found_pairs(flat, stacked, counted)
        result[name] = {"recall": len(true & found) / len(true), "precision": len(true & found) / len(found)}
    return result


def main() -> None:
    """Run the contenders in turn, print, write the result."""
    parser = common.options_parser(__doc__, RESULT, "CONTENDER", "TEXTS")
    parser.add_argument("--texts", type=int, default=600, help="texts whose signatures are timed")
    parser.add_argument("--crawl", type=Path, default=CRAWL, help="WARC file of real pages")
    options = parser.parse_args()
    if options.work:
        work(options.work[0], Path(options.work[1]))
        return
    peers, script = common.peers_python(), str(Path(__file__).resolve())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "texts.jsonl"
        write_texts(options.crawl, options.texts, path)
        texts = [json.loads(line) for line in path.open(encoding="utf-8")]
        contenders = {
            name: [str(python), script, "--work", name, str(path)]
            for name, python in (("herdbook", sys.executable), ("datatrove", peers))
        }
        runs = common.interleaved(contenders, options.repeats)
    rates = {name: common.spread([r["texts"] / r["cpu_seconds"] for r in found]) for name, found in runs.items()}
    ratio = rates["herdbook"]["median"] / rates["datatrove"]["median"]
    found = quality(texts)
    common.print_table(
        ["contender", "signatures/core-s"], [[name, f"{rate['median']:.0f}"] for name, rate in rates.items()]
    )
    estimate = found["estimate"]
    print(f"ours / datatrove {ratio:.1f}, aim {AIMS['ratio']}")
    print(f"estimate: RMSE {estimate['rmse']:.4f}, bias {estimate['bias']:+.4f}, n={estimate['pairs']}")
    for name in ("estimated", "counted"):
        print(f"near duplicates, {name}: recall {found[name]['recall']:.4f}, precision {found[name]['precision']:.4f}")
    result = {
        "command": common.command_line(),
        "machine": common.machine(),
        "versions": common.versions(sys.executable, ["rensa", "numpy"]) | common.versions(peers, ["datatrove"]),
        "n": len(texts),
        "repeats": options.repeats,
        "signatures_per_core_second": rates,
        "ratio": ratio,
        **found,
        "aims": AIMS,
    }
    common.write_result(options.out, result)


if __name__ == "__main__":
    main()
