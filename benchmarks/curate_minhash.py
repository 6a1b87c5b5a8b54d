"""MinHash beside datatrove: signatures per core-second from text, error of the estimate, near duplicates found.

Both take signatures of 112 permutations over runs of five words of the same real texts, each in its own process, in
turns. The error is held against exact similarity on pairs of a text and an edited copy. What curation drops as near
duplicates, at a Jaccard similarity of .8 or more, is held against what dropping by all pairs, counted exactly, leaves:
once as curation does it, with doubtful pairs counted, and once by estimates alone.

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
FAMILIES = 120
"""Texts whose copies are compared with all others."""
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
        from herdbook.corpus.minhash import shingles, signature
        from herdbook.corpus.words import TOKENS, hash_words

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


def families(texts: list[str]) -> list[list[list[str]]]:
    """For every text its words and those of its edited copies."""
    from herdbook.corpus.words import TOKENS

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
            family.append(copy)
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


def exact_similarities(flat: list[np.ndarray]) -> Any:
    """Jaccard similarity of all pairs of sets that have anything in common, as a sparse table."""
    from scipy.sparse import csr_matrix

    _, columns = np.unique(np.concatenate(flat), return_inverse=True)
    sizes = np.array([len(items) for items in flat])
    table = csr_matrix((np.ones(len(columns), np.int32), columns, np.concatenate([[0], sizes.cumsum()])))
    shared = (table @ table.T).tocoo()
    likeness = shared.data / (sizes[shared.row] + sizes[shared.col] - shared.data)
    return csr_matrix((likeness, (shared.row, shared.col)), shape=(len(flat), len(flat)))


def dropped_by_brute_force(exact: Any, lengths: np.ndarray) -> set[int]:
    """What goes when the longest, then the first, stays, and another goes if it nearly repeats one that stays."""
    gone: set[int] = set()
    stays = np.zeros(len(lengths), dtype=bool)
    for document in np.lexsort((np.arange(len(lengths)), -lengths)):
        row = exact[document]
        if (stays[row.indices] & (row.data >= NEAR)).any():
            gone.add(int(document))
        else:
            stays[document] = True
    return gone


def curated(documents: list[list[str]], doubtful: list[float], folder: Path) -> list[dict[int, int]]:
    """What curation drops as near duplicates and what stays for each, once for each width of doubt."""
    import contextlib
    import io

    import pyarrow.parquet as pq

    from herdbook.corpus.curate import curate
    from herdbook.corpus.settings import CurateSettings

    with open(folder / "in.jsonl", "w", encoding="utf-8") as file:
        for number, words in enumerate(documents):
            row = {"url": f"https://made.example/{number}", "text": " ".join(words)}
            file.write(json.dumps(row) + "\n")
    found = []
    for errors in doubtful:
        settings = CurateSettings.model_validate(
            {
                "sources": [{"path": str(folder / "in.jsonl")}],
                "workers": 1,
                "engine": "native",
                "measure": {"minhash_permutations": PERMUTATIONS, "shingle_words": WORDS},
                "duplicates": {"band_rows": ROWS, "doubtful": errors},
                "rules": [
                    {"name": "near", "column": "duplicate_near_similarity", "above": float(np.nextafter(NEAR, 0))}
                ],
            }
        )
        with contextlib.redirect_stdout(io.StringIO()):
            curate(settings, [], folder)
        table = pq.read_table(folder / "measurements", columns=["id", "url", "dropped_by", "duplicate_of"])
        rows = [int(url.rpartition("/")[2]) for url in table["url"].to_pylist()]
        by_id = dict(zip(table["id"].to_pylist(), rows))
        pairs = zip(rows, table["dropped_by"].to_pylist(), table["duplicate_of"].to_pylist())
        found.append({row: by_id[of] for row, rule, of in pairs if rule})
    return found


def quality(texts: list[str]) -> dict[str, Any]:
    """Error of the estimate; recall and precision of what curation drops, doubtful pairs counted or not."""
    from herdbook.corpus.minhash import shingles, signature
    from herdbook.corpus.words import hash_words

    words = families(texts)
    sets = [[np.unique(shingles(hash_words(copy), WORDS)) for copy in family] for family in words]
    signatures = [np.stack([signature(items, PERMUTATIONS) for items in family]) for family in sets]
    exact = exact_similarities([items for family in sets[:FAMILIES] for items in family])
    documents = [copy for family in words[:FAMILIES] for copy in family]
    true = dropped_by_brute_force(exact, np.array([len(words) for words in documents]))
    result: dict[str, Any] = {"estimate": estimate_errors(sets, signatures), "documents": len(documents)}
    result |= {"near_duplicates": len(true)}
    with tempfile.TemporaryDirectory() as folder:
        for name, found in zip(("counted", "estimated"), curated(documents, [3.0, 0.0], Path(folder))):
            right = len(true & found.keys())
            near = sum(exact[row, of] >= NEAR for row, of in found.items())
            result[name] = {
                "recall": right / len(true), "precision": right / len(found), "pairs_near": near / len(found)
            }  # fmt: skip
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
        one = found[name]
        print(
            f"dropped, {name}: recall {one['recall']:.4f}, precision {one['precision']:.4f} (aims {AIMS['recall']}, "
            f"{AIMS['precision']}), truly near what stayed {one['pairs_near']:.4f}, n={found['near_duplicates']}"
        )
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
