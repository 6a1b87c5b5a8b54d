"""datatrove on the same pages, in its own environment: the pipeline its users write, on one core.

WARC reader, trafilatura, language filter, Gopher repetition and quality filters, PII formatter, MinHash signatures. The
filters judge every page and let it pass, as ours measures every page; a filter that fails a page stops looking at
it, which we do not take from it. Run by curate_measure.py.

    python benchmarks/peers/datatrove_measure.py FOLDER LANGUAGE_MODEL
"""

from __future__ import annotations

import json
import sys
import tempfile
from typing import Any

from datatrove.data import Document
from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature
from datatrove.pipeline.extractors import Trafilatura
from datatrove.pipeline.filters import GopherQualityFilter, GopherRepetitionFilter
from datatrove.pipeline.filters.base_filter import BaseFilter
from datatrove.pipeline.formatters import PIIFormatter
from datatrove.pipeline.readers import WarcReader
from datatrove.utils.hashing import HashConfig
from fasttext.FastText import _FastText

from benchmarks.common import processor_time


class Language(BaseFilter):
    """What datatrove's LanguageFilter does with `label_only`, on fasttext-predict, which is easier to install.

    The model is the one that ours uses, smaller than the one datatrove would download.
    """

    name = "Language"

    def __init__(self, path: str) -> None:
        super().__init__()
        self.model = _FastText(path)

    def filter(self, doc: Document) -> bool:
        """Name the language of the whole text, all languages scored, as datatrove asks for them."""
        labels, scores = self.model.predict(doc.text.replace("\n", " "), k=-1)
        pairs = {label.split("__")[2]: float(score) for label, score in zip(labels, scores)}
        doc.metadata["language"], doc.metadata["language_score"] = max(pairs.items(), key=lambda pair: pair[1])
        return True


def passing(step: Any) -> Any:
    """The filter, judging every page and dropping none."""
    judge = step.filter
    step.filter = lambda doc: (judge(doc), True)[1]
    return step


def main() -> None:
    """Run the pipeline over a folder of WARC files and print what it took."""
    folder, model = sys.argv[1:]
    with tempfile.TemporaryDirectory() as out:
        read = WarcReader(folder, glob_pattern="*.warc.gz")
        steps = [
            Trafilatura(timeout=10),
            Language(model),
            passing(GopherRepetitionFilter()),
            passing(GopherQualityFilter()),
            PIIFormatter(),
        ]
        config = MinhashConfig(num_buckets=14, hashes_per_bucket=8, hash_config=HashConfig(precision=32))
        signatures = MinhashDedupSignature(f"{out}/signatures", config=config)
        signatures.word_tokenizer.word_tokenize("Loaded before the clock starts, as ours is.")
        counts = {"documents": 0, "signed": 0}

        def counted(documents: Any, name: str) -> Any:
            for document in documents:
                counts[name] += 1
                yield document

        with processor_time() as spent:
            documents = counted(read.run(rank=0, world_size=1), "documents")
            for step in steps:
                documents = step.run(documents, rank=0, world_size=1)
            signatures.run(counted(documents, "signed"), rank=0, world_size=1)
    if 2 * counts["signed"] < counts["documents"]:
        sys.exit(f"only {counts['signed']} of {counts['documents']} pages came through; is trafilatura whole here?")
    print(json.dumps({**spent, **counts}))


if __name__ == "__main__":
    main()
