"""What makes documents and tokens of raw pages, and the known world they may come from."""

from __future__ import annotations

from herdbook.stages import StageKind, Takes, register

register(
    StageKind(
        name="world",
        help="Generates the known world: a crawl whose every fact and flaw is known, and questions about it.",
        settings="herdbook.world.settings:WorldSettings",
        function="herdbook.world.crawl:write_world",
        gives="world",
        also=("requests", "dialogs"),
        headline=("pages", "articles"),
    )
)
register(
    StageKind(
        name="curate",
        help="Turns pages into documents: read, extract, measure, decide by rules, deduplicate.",
        settings="herdbook.corpus.settings:CurateSettings",
        function="herdbook.report.curation:curate",
        takes={
            "pages": Takes("world", required=False, many=True),
            "quality": Takes("quality", required=False, many=True),
        },
        gives="documents",
        resumes=True,
        either=("pages", "sources"),
        headline=("documents.read", "documents.kept"),
    )
)
register(
    StageKind(
        name="quality",
        help="Trains classifiers of documents from labels: how good they are, whether code or reasoning, which topic.",
        settings="herdbook.corpus.quality.settings:QualitySettings",
        function="herdbook.corpus.quality.train:train_quality",
        takes={"documents": Takes("documents", many=True), "world": Takes("world", required=False)},
        gives="quality",
        headline=("*.accuracy", "*.auc"),
    )
)
register(
    StageKind(
        name="score",
        help="Applies classifiers to documents: scores and ranks as columns, and rules over them.",
        settings="herdbook.corpus.quality.settings:ScoreSettings",
        function="herdbook.corpus.quality.score:score",
        takes={"documents": Takes("documents", many=True), "quality": Takes("quality", many=True)},
        gives="documents",
        resumes=True,
        headline=("documents.read", "documents.kept"),
    )
)
register(
    StageKind(
        name="contamination",
        help="Searches documents for questions of benchmarks, marks them in columns and drops them by rule.",
        settings="herdbook.corpus.benchmarks:ContaminationSettings",
        function="herdbook.corpus.contamination:contamination",
        takes={
            "documents": Takes("documents", many=True),
            "world": Takes("world", required=False, argument="questions", folder="questions"),
        },
        gives="documents",
        either=("world", "folder", "benchmarks"),
        headline=("documents.read", "documents.kept"),
    )
)
register(
    StageKind(
        name="mix",
        help="Puts documents together by group, topic, language and source, within limits of how often one is read.",
        settings="herdbook.corpus.mix_settings:MixSettings",
        function="herdbook.corpus.mix:mix",
        takes={"documents": Takes("documents", many=True, keyed=True)},
        gives="documents",
        headline=("mb", "mix.*.reached"),
    )
)
register(
    StageKind(
        name="audit",
        help="Holds the documents curated from a world against that world's truth.",
        settings="herdbook.world.audit:AuditSettings",
        function="herdbook.world.audit:audit",
        takes={"world": Takes("world"), "documents": Takes("documents")},
        gives="results",
        headline=("extraction_f1",),
    )
)
register(
    StageKind(
        name="tokenizer",
        help="Trains a byte-level BPE tokenizer with the Llama 3 split pattern and special tokens.",
        settings="herdbook.tokens.train:TokenizerSettings",
        function="herdbook.tokens.train:train_tokenizer",
        takes={"documents": Takes("documents", many=True)},
        gives="tokenizer",
        headline=("vocab_size", "bytes_per_token"),
    )
)
register(
    StageKind(
        name="pack",
        help="Writes documents as token shards, one set per feeding stage, with held-out documents apart.",
        settings="herdbook.tokens.pack:PackSettings",
        function="herdbook.tokens.pack:pack",
        takes={"documents": Takes("documents", many=True, keyed=True), "tokenizer": Takes("tokenizer")},
        gives="tokens",
        headline=("*.train.tokens",),
    )
)
