"""Settings of quality classifiers: where labels come from, how a head learns, what is scored. They import no engine."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from herdbook.corpus.rules import Rule, check_rules
from herdbook.settings import InputPath, Settings, UserError

WorldLabel = Literal["good", "code", "reasoning", "genre", "language"]
RubricName = Literal["general", "code", "reasoning", "topic"]


class EndpointSettings(Settings):
    """A chat model behind an OpenAI-compatible address, and how patiently it is asked."""

    base_url: str
    """Address up to `/v1`, for example `http://localhost:8000/v1`."""

    model: str
    """The model's name as the endpoint knows it."""

    api_key_env: str | None = None
    """Name of the environment variable that holds the key; the key itself never stands in a recipe."""

    parallel: int = Field(default=8, ge=1, le=512)
    """Requests in flight at a time."""

    timeout: float = Field(default=60.0, gt=0)
    """Seconds to wait for one answer."""

    tries: int = Field(default=5, ge=1)
    """How often one request is sent before it counts as failed; pauses double, or are as long as the endpoint asks."""

    pause: float = Field(default=1.0, gt=0)
    """Seconds before the second try."""

    nonsense_tries: int = Field(default=2, ge=1)
    """How often a document is asked about before answers without a grade count as none."""

    give_up: int = Field(default=8, ge=1)
    """Failed documents in a row after which the endpoint counts as down."""

    excerpt: int = Field(default=3000, ge=200)
    """Characters of a document that are shown, two thirds from its start and one from its end."""

    max_tokens: int = Field(default=300, ge=1)
    """Most tokens of an answer."""

    price_in: float = Field(default=0.0, ge=0)
    """Price of a million tokens of questions, in any currency."""

    price_out: float = Field(default=0.0, ge=0)
    """Price of a million tokens of answers."""

    budget: float | None = Field(default=None, gt=0)
    """Most to spend in one run; what is labelled by then is trained on."""

    cache: str | None = None
    """Folder of answers already paid for; by default `herdbook/labels` in the user's cache folder."""


class LinearSettings(Settings):
    """A linear classifier on hashed words and word pairs, as fastText's is."""

    buckets: int = Field(default=1 << 18, ge=2, le=1 << 24)
    """Buckets that words and word pairs are hashed into."""

    word_ngrams: int = Field(default=2, ge=1, le=5)
    """Longest run of words that is a feature."""

    words: int = Field(default=1000, ge=10)
    """Words of a document that are looked at, half from its start and half from its end."""

    penalty: float = Field(default=1e-4, ge=0)
    """Weight of the squared norm of the weights, per training document."""

    iterations: int = Field(default=100, ge=1)
    """Most steps of L-BFGS."""


class EncoderSettings(Settings):
    """A transformer encoder that learns to classify (needs the extra `encoder`, and better a GPU)."""

    model: str
    """Folder or name of an encoder, for example `distilroberta-base`."""

    length: int = Field(default=512, ge=8)
    """Tokens of a document that are looked at."""

    rows: int = Field(default=16, ge=1)
    """Documents per step."""

    epochs: float = Field(default=3.0, gt=0)
    """Passes over the training documents."""

    lr: float = Field(default=3e-5, gt=0)
    """Highest learning rate; it rises over a tenth of the steps and falls to 0."""


class HeadSettings(Settings):
    """One classifier: what it learns from, and how."""

    file: InputPath | None = None
    """Labels as JSONL or Parquet: rows with `id` (of these documents) or `url` or `text`, and `label`."""

    label_field: str = "label"
    """Key or column of the label in `file`: a number (a grade), true or false, or the name of a class."""

    world: WorldLabel | None = None
    """Truth of the known world that feeds the stage: good pages, pages with code, with reasoning, their genre."""

    rubric: RubricName | InputPath | None = None
    """Rubric a chat model is asked with: one of ours by name, or a file of your own that holds `{text}`."""

    topics: tuple[str, ...] = ()
    """Classes the rubric `topic` offers; ours when not given."""

    good_from: float = 3.0
    """Grades from this number on are good; true and 1 of labels that know only two are good anyway."""

    encoder: str | EncoderSettings | None = None
    """Learn an encoder (its folder or name, or settings) instead of the linear classifier."""

    linear: LinearSettings = LinearSettings()
    """The linear classifier's settings."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        given = [name for name in ("file", "world", "rubric") if getattr(self, name) is not None]
        if len(given) != 1:
            said = " and ".join(given) or "none of them"
            raise UserError(f"a head learns from exactly one of `file`, `world` and `rubric`; given: {said}")
        return self


class QualitySettings(Settings):
    """Classifiers of documents, one per head."""

    heads: dict[str, HeadSettings] = Field(min_length=1)
    """Head → what it learns from; `general` gives the column `quality_general`, classes give the head's own name."""

    endpoint: EndpointSettings | None = None
    """The chat model asked by heads with a rubric."""

    sample: int = Field(default=5000, ge=1)
    """Most documents a chat model is asked about, chosen by a hash of their id."""

    dropped_too: bool = False
    """Learn from the documents that curation dropped as well, where the labels know them."""

    heldout: float = Field(default=0.2, gt=0, lt=1)
    """Share of the labelled documents kept for measuring, chosen by a hash of their id."""

    seed: int = 0
    """Seed of the choices by hash and of an encoder's training."""

    @model_validator(mode="after")
    def _can_ask(self) -> Self:
        for name, head in self.heads.items():
            if not name.replace("_", "").isalnum() or name != name.lower() or not name.isascii():
                raise UserError(f"a head's name becomes a column's: lower-case letters, digits and '_', not {name!r}")
            if head.rubric is not None and self.endpoint is None:
                raise UserError(
                    f"head {name!r} has a rubric and nobody to ask; give `endpoint` with base_url and model"
                )
        return self


class ScoreSettings(Settings):
    """Scores of documents as columns, and rules over them."""

    rank_by: str | None = None
    """Score that `quality_rank` is made of, by default the first one; the rank is a percentile within the language."""

    rank_least: int = Field(default=20, ge=1)
    """Languages with fewer documents have no ranks."""

    rules: tuple[Rule, ...] = ()
    """Rules in order, for example `{name: low_quality, column: quality_rank, below: 0.1}`; without any all are kept."""

    thresholds: dict[str, float] = Field(default_factory=dict)
    """Other thresholds for the rules that read a column."""

    off: tuple[str, ...] = ()
    """Names of rules (or of columns they read) to switch off."""

    workers: int | None = Field(default=None, ge=1)
    """Processes that score; by default one per free processor core."""

    @model_validator(mode="after")
    def _known_names(self) -> Self:
        check_rules(self.rules, self.thresholds, self.off)
        return self
