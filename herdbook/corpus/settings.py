"""Settings of curation: what to read, how to measure it, and which rules decide (§3.1).

Light on purpose: the recipe reader imports this module without an engine or a parser behind it.
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from herdbook.corpus.rule_sets import with_sets
from herdbook.corpus.rules import DEFAULT_RULES, Rule, check_rules
from herdbook.settings import InputPath, Settings, UserError

SourceFormat = Literal["auto", "warc", "wet", "arc", "parquet", "arrow", "jsonl", "text", "code"]


class SourceSettings(Settings):
    """One place to read pages or documents from."""

    path: InputPath | None = None
    """File or folder to read."""

    url: str | None = None
    """Instead of a path: an address that fsspec knows, of a file or folder, for example `s3://bucket/crawl/`."""

    format: SourceFormat = "auto"
    """What the files are; `auto` goes by their names, and by their first bytes where a name says nothing."""

    name: str | None = None
    """What the column `source` says of these documents; by default the name of the path."""

    glob: str | None = None
    """Which files of a folder to read, for example `**/*.py`; by default all that the format can read."""

    text_field: str = "text"
    """Column or key that holds the text of Parquet, Arrow and JSONL rows."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if (self.path is None) == (self.url is None):
            raise UserError("a source needs exactly one of `path` and `url`")
        if self.url is not None and "://" not in self.url:
            raise UserError(f"url {self.url!r}: an address begins like s3://; write a file or folder as `path`")
        return self

    @property
    def place(self) -> str:
        """Where it is, as it was written."""
        return self.url or str(self.path)


class MeasureSettings(Settings):
    """Everything that changes a measurement; a change here reads all pages again."""

    max_page_mb: float = Field(default=8.0, gt=0)
    """Largest page in MB (10^6 bytes, uncompressed); a larger one goes to quarantine."""

    max_text_mb: float = Field(default=64.0, gt=0)
    """Largest plain-text document in MB (text files, JSONL and Parquet rows); a larger one goes to quarantine."""

    shard_mb: float = Field(default=4.0, gt=0)
    """MB of input (as stored) measured and published at a time; what a killed run may have to repeat."""

    language_characters: int = Field(default=360, ge=100)
    """Characters of a document the language identifier looks at, in stretches spread over the whole."""

    minhash_permutations: int = Field(default=112, ge=16, multiple_of=4)
    """Minima kept per document; more make the estimated similarity sharper and the columns wider."""

    shingle_words: int = Field(default=3, ge=1, le=10)
    """Words in a row that make one element of the set MinHash compares."""

    quality: tuple[InputPath, ...] = ()
    """Folders of classifiers whose scores are measured too; `quality` stages that feed the stage come on top."""


class SemanticSettings(Settings):
    """How documents that say the same in other words are found, where the rule `semantic_duplicate` is on."""

    encoder: InputPath | None = None
    """Folder of a Hugging Face encoder; by default words weighted by rarity and projected at random."""

    dimensions: int = Field(default=256, ge=8)
    """Width of the projected vectors; wider ones tell more apart."""

    cluster_documents: int = Field(default=1000, ge=2)
    """About how many documents a cluster has; only documents of one cluster are compared."""


class DuplicateSettings(Settings):
    """When two documents count as the same, and when a line counts as boilerplate."""

    prefer: str | None = None
    """Column by which the best of duplicates stays, like `quality_general`; else, and among equals, the newest."""

    band_rows: int = Field(default=4, ge=1, le=16)
    """Minima per band: documents equal in one whole band are compared; fewer find more distant pairs."""

    doubtful: float = Field(default=3.0, ge=0)
    """Standard errors within which of the threshold an estimated similarity is counted from both texts; 0: never."""

    line_documents: int = Field(default=6, ge=1)
    """A line standing in more than this many kept documents of a bucket is boilerplate and removed (§3.1.1)."""

    line_site_documents: int = Field(default=3, ge=1)
    """A line standing in more than this many kept documents of a bucket, all of one host, is boilerplate too."""

    line_bucket: int = Field(default=30_000_000, ge=1)
    """Documents per bucket in which lines are counted; a bucket never mixes languages."""

    semantic: SemanticSettings = SemanticSettings()
    """Documents that say the same in other words."""


class DomainSettings(Settings):
    """Which domains are dropped as a whole."""

    blocked: tuple[InputPath, ...] = ()
    """Files of domains whose pages are dropped: one a line, or in the form of a hosts file."""

    adult: tuple[InputPath, ...] = ()
    """Files of adult domains, beside the default list."""

    default_adult: bool = True
    """Use the small list of adult domains that comes with the project."""

    least_pages: int = Field(default=5, ge=1)
    """Pages below which a domain is not judged by their shares."""

    personal_page: float = Field(default=0.02, ge=0, le=1)
    """Share of personal data among a page's words above which it counts against its domain."""

    adult_page: float = Field(default=0.01, ge=0, le=1)
    """Share of adult words above which a page counts against its domain."""


Redactable = Literal["emails", "phones", "cards", "ibans", "ids", "ips", "addresses", "secrets"]


class CurateSettings(Settings):
    """Raw pages to documents: read, extract, measure, deduplicate, decide."""

    sources: tuple[SourceSettings, ...] = ()
    """What to read besides the pages of the stages that feed this one."""

    measure: MeasureSettings = MeasureSettings()
    """How pages are read and measured."""

    duplicates: DuplicateSettings = DuplicateSettings()
    """How duplicates and repeated lines are found."""

    rules: tuple[Rule, ...] = DEFAULT_RULES
    """The rules in order; a document is dropped by the first that holds."""

    rule_sets: tuple[Literal["gopher_quality", "gopher_repetition", "c4", "fineweb", "code"], ...] = ()
    """Heuristics by name, as rules added to `rules` before those that depend on other documents."""

    domains: DomainSettings = DomainSettings()
    """Lists of domains, and when a domain goes as a whole."""

    redact: tuple[Redactable, ...] = ()
    """Kinds of personal data replaced by placeholders in the documents written, for example `[emails, phones]`."""

    thresholds: dict[str, float] = Field(default_factory=dict)
    """Other thresholds for the rules that read a column, for example `{adult_share: 0.02}`."""

    off: tuple[str, ...] = ()
    """Names of rules (or of columns they read) to switch off, for example `[near_duplicate, line_repeated]`."""

    on: tuple[str, ...] = ()
    """Names of optional rules to switch on: `semantic_duplicate`."""

    engine: Literal["auto", "native", "ray"] = "auto"
    """This machine, or a Ray cluster; `auto` goes by `herdbook run --engine`, else by whether RAY_ADDRESS is set."""

    workers: int | None = Field(default=None, ge=1)
    """Processes that measure; by default one per free processor core."""

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        check_rules(self.all_rules, self.thresholds, self.off, self.on)
        return self

    @property
    def all_rules(self) -> tuple[Rule, ...]:
        """The rules in order, those of the sets among them."""
        return with_sets(self.rules, self.rule_sets)
