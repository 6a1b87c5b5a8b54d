"""Settings of drawing answers, of collecting preferences, and of the rounds. They import no torch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from herdbook.corpus.quality.settings import EndpointSettings
from herdbook.settings import Settings, UserError


class AskSettings(Settings):
    """Which requests a model is asked, and how its answers are drawn."""

    split: Literal["train", "test"] = "train"
    """Which of the requests' files is read."""

    tasks: tuple[str, ...] | None = None
    """Only requests of these tasks; all when not given."""

    limit: int | None = Field(default=None, gt=0)
    """Most requests, drawn by the seed; all when not given."""

    part: int = Field(default=1, ge=1)
    """Which `limit` requests in the order drawn: the first ones, the second, …; after the last it begins anew."""

    order: int | None = None
    """Seed of that order; `seed` when not given. Stages of one order and other parts ask other requests."""

    kept_back: float = Field(default=0.1, ge=0, lt=1)
    """Share of the training requests that gates judge by and nothing else sees, chosen by a hash of their ids."""

    temperature: float = Field(default=1.0, ge=0)
    """Logits are divided by it; 0 takes the likeliest token always."""

    top_p: float = Field(default=1.0, gt=0, le=1)
    """Draw among the fewest likeliest tokens whose probabilities reach this sum."""

    max_tokens: int = Field(default=256, gt=0)
    """Longest answer, tokens."""

    seed: int = 0
    """Chooses the requests, their system prompts, and among the possible answers."""

    rows: int = Field(default=64, gt=0)
    """Answers written at once."""

    device: str | None = None
    """Device of the models, such as cpu or cuda:1; an accelerator where there is one."""


class SampleSettings(AskSettings):
    """How the best of many answers to a request is found (§4.2.2)."""

    answers: int = Field(default=16, ge=1)
    """Answers drawn to each request; the paper draws 10 to 30."""

    systems: tuple[str, ...] = ()
    """System prompts; each request without one of its own gets one by chance, or none when this is empty."""

    route: dict[str, str] = Field(default_factory=dict)
    """Task → feeding stage whose model answers its requests; all others go to the first model."""

    pick: Literal["reward", "verdict", "both"] = "reward"
    """The best answer is that of the highest reward, of the highest verdict, or of the highest reward of those."""

    keep: Literal["all", "right"] = "all"
    """Which best answers become dialogs: all, or those that no verifier finds wrong."""

    top: float = Field(default=1.0, gt=0, le=1)
    """Share of each task's best answers that become dialogs, those of the highest rewards."""


class TasteSettings(Settings):
    """The simulated annotator: who sees how right an answer is, has a taste, and errs (§4.1.1).

    As set here the same annotator, asked again about the demo's pairs, chooses the same answer in three of four, as
    people do, and in nine of ten where the answer was found better or significantly better.
    """

    noise: float = Field(default=0.03, ge=0)
    """Standard deviation of what is added by chance to the worth of an answer, whose rightness is 0 to 1."""

    slips: float = Field(default=0.05, ge=0, le=0.5)
    """Share of pairs whose answers' rightness the annotator takes the wrong way round."""

    length: float = -0.15
    """Worth of twice the length; negative likes short answers."""

    form: float = 0.15
    """Worth of being ended properly and of not repeating itself."""

    strengths: tuple[float, float, float] = (0.6, 0.35, 0.15)
    """Least differences in worth for significantly better, better and slightly better; the rest is marginal."""

    edits: float = Field(default=0.1, ge=0, le=1)
    """Share of pairs without a right answer to which the annotator writes the ideal one."""

    @model_validator(mode="after")
    def _falling(self) -> TasteSettings:
        if not self.strengths[0] >= self.strengths[1] >= self.strengths[2] >= 0:
            raise UserError(f"strengths must fall, as 0.6, 0.35, 0.15 do, not {self.strengths}")
        return self


class PageSettings(Settings):
    """The page on which people say which of two answers is better."""

    port: int = Field(default=8100, ge=0, le=65535)
    """Port on 127.0.0.1; 0 takes a free one."""


class CollectSettings(AskSettings):
    """How preferences are collected (§4.1.1)."""

    draws: int = Field(default=4, ge=2)
    """Answers drawn to a request, shared by the models; the first two that differ make a pair."""

    pairs: int = Field(default=1, ge=1)
    """Most pairs that a request's answers make; the same words stand in one of them only."""

    annotator: Literal["world", "judge", "people"] = "world"
    """Who judges: the simulated annotator, a chat model behind an address, or people on a local page."""

    taste: TasteSettings = TasteSettings()
    """Of the simulated annotator."""

    judge: EndpointSettings | None = None
    """Of the chat model that judges."""

    page: PageSettings = PageSettings()
    """Of the page for people."""

    round: int = Field(default=1, ge=1)
    """Round that the preferences are marked with."""

    @model_validator(mode="after")
    def _judge_known(self) -> CollectSettings:
        if self.annotator == "judge" and self.judge is None:
            raise UserError("annotator is judge, so give judge: {base_url: …, model: …}")
        return self


class GateSettings(AskSettings):
    """What a round's model must keep to become the next one; else the one before it stays."""

    temperature: float = Field(default=0.0, ge=0)
    """Logits are divided by it; 0 takes the likeliest token always."""

    fall: float = Field(default=0.05, ge=0, le=1)
    """Most that the score of a task may fall, by the near end of the difference's 95 % interval."""

    ended: float = Field(default=0.9, ge=0, le=1)
    """Least share of answers that end within `max_tokens`."""

    slope: tuple[float, float] | None = None
    """Bounds of the change in the chosen answers' log-probability over the preference training; none when not given."""


class Members(Settings):
    """How many models of other seeds a step trains and averages."""

    reward: int = Field(default=1, ge=1)
    """Of the reward model."""

    sft: int = Field(default=1, ge=1)
    """Of the fine-tuned model."""

    preference: int = Field(default=1, ge=1)
    """Of the model trained on preferences."""


class RoundsSettings(Settings):
    """The rounds of post-training (§4.1): in each reward model, rejection sampling, SFT, preferences, gate."""

    rounds: int = Field(default=6, ge=1)
    """How many."""

    members: Members = Members()
    """Models trained and averaged in each step."""

    latest: int = Field(default=2, ge=1)
    """Rounds whose preferences a round's preference training learns from, the latest ones; the reward model: all."""

    samples: int = Field(default=1, ge=1)
    """Rounds whose sampled dialogs a round's SFT learns from, the latest ones."""

    reward_from: Literal["base", "tuned"] = "base"
    """What a reward model begins from: the pre-trained model, as in the paper, or the best fine-tuned one so far."""

    sft_from: Literal["base", "tuned"] = "base"
    """What a round's fine-tuning begins from: the pre-trained model, as in the paper, or the best one so far."""

    kept_back: float = Field(default=0.1, ge=0, lt=1)
    """Share of the training requests that gates judge by; no step learns from them, nor from dialogs of their ids."""

    seed: int = Field(default=0, ge=0)
    """Seed of the whole: rounds of other seeds ask other requests and draw other answers."""


class RoundsEndSettings(Settings):
    """The end of the rounds has nothing to set."""
