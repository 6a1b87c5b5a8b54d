"""The kinds of stages: what each is called, what it takes and gives, and which function does it.

Functions and settings are named as text and imported when needed, so that `herdbook show` need not wait for
torch. A new kind is one more entry here; no other file of the top row knows a kind by name.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from herdbook.settings import Settings, UserError


@dataclass(frozen=True)
class Takes:
    """One input of a kind."""

    gives: str
    """What the feeding stage must give."""

    required: bool = True
    """Whether the stage can run without it."""

    many: bool = False
    """Whether several stages may feed it; the function then gets a list."""

    keyed: bool = False
    """Whether the function gets a mapping from stage name to folder, so that names matter (only with `many`)."""

    argument: str | None = None
    """The function's keyword when it differs from the input's name."""

    folder: str = ""
    """The folder within the entry that is handed over."""


@dataclass(frozen=True)
class StageKind:
    """A kind of stage: `function(settings, **inputs, out)` returns its metrics, or `expand` names its steps."""

    name: str
    help: str
    settings: str
    gives: str
    function: str = ""
    takes: dict[str, Takes] = field(default_factory=dict)

    expand: str = ""
    """Instead of a function: `expand(name, settings, inputs)` returns the ordinary stages it becomes (`Step`s)."""

    also: tuple[str, ...] = ()
    """What else its entry holds, each in a folder of that name: it can feed stages that take these."""

    resumes: bool = False
    """Whether the function goes on from what a killed run left in `out`; others start with an empty folder."""

    either: tuple[str, ...] = ()
    """Inputs or settings of which at least one must be given."""

    keys_from: dict[str, str] = field(default_factory=dict)
    """Settings whose keys are the names that feed the stage behind an input: setting → input."""

    headline: tuple[str, ...] = ()
    """Dotted patterns of the metrics that `herdbook show` prints for an entry."""

    def can_give(self, wanted: str) -> bool:
        """Whether an entry of this kind holds what a stage takes."""
        return wanted == self.gives or wanted in self.also

    def settings_class(self) -> type[Settings]:
        """The class of this kind's settings (imports its module)."""
        found = load(self.settings)
        assert isinstance(found, type) and issubclass(found, Settings), f"{self.settings} is not a Settings class"
        return found

    def load_function(self) -> Callable[..., dict[str, Any]]:
        """The function that does the stage (imports its module)."""
        return load(self.function)


def load(name: str) -> Any:
    """What `module:attribute` names."""
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


KINDS: dict[str, StageKind] = {}


def register(kind: StageKind) -> StageKind:
    """Add a kind; its name must be new."""
    if kind.name in KINDS:
        raise UserError(f"there is a kind {kind.name!r} already; give this one another name")
    KINDS[kind.name] = kind
    return kind


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
register(
    StageKind(
        name="adopt",
        help="Takes a Llama that was raised elsewhere into the herd, checked whole.",
        settings="herdbook.train.adopt:AdoptSettings",
        function="herdbook.train.adopt:adopt",
        gives="model",
        headline=("parameters", "context"),
    )
)
register(
    StageKind(
        name="pretrain",
        help="Trains a Llama-3-style model on token shards, from random weights or on from a model.",
        settings="herdbook.pretrain.settings:PretrainSettings",
        function="herdbook.pretrain.stages:pretrain",
        takes={"tokens": Takes("tokens"), "model": Takes("model", required=False, argument="start")},
        gives="model",
        resumes=True,
        either=("model",),
        keys_from={"mix": "tokens"},
        headline=("parameters", "tokens", "bits_per_byte"),
    )
)
register(
    StageKind(
        name="extend",
        help="Grows a model's context to a length, until short evaluations have recovered and needles are all found.",
        settings="herdbook.pretrain.settings:ExtendSettings",
        function="herdbook.pretrain.extend:extend",
        takes={
            "tokens": Takes("tokens"),
            "model": Takes("model", argument="start"),
            "world": Takes("world", argument="questions", folder="questions"),
        },
        gives="model",
        resumes=True,
        keys_from={"mix": "tokens"},
        headline=("tokens", "needle", "short_bits_per_byte"),
    )
)
register(
    StageKind(
        name="anneal",
        help="Lets the learning rate go to 0 on an up-sampled mix; the average of the last checkpoints is the model.",
        settings="herdbook.pretrain.settings:AnnealSettings",
        function="herdbook.pretrain.anneal:anneal",
        takes={"tokens": Takes("tokens"), "model": Takes("model", argument="start")},
        gives="model",
        resumes=True,
        keys_from={"mix": "tokens"},
        headline=("tokens", "bits_per_byte", "best_member"),
    )
)
register(
    StageKind(
        name="data_test",
        help="Tells what a token set is worth: anneals with 30 % of it and without it, and compares.",
        settings="herdbook.pretrain.settings:DataTestSettings",
        function="herdbook.pretrain.anneal:data_test",
        takes={"tokens": Takes("tokens"), "model": Takes("model", argument="start")},
        gives="results",
        resumes=True,
        keys_from={"mix": "tokens"},
        headline=("new_minus_usual.value",),
    )
)
register(
    StageKind(
        name="evaluate",
        help="Asks a model questions and scores the answers, with 95 % intervals.",
        settings="herdbook.evaluate.settings:EvaluateSettings",
        function="herdbook.evaluate.run:evaluate",
        takes={
            "model": Takes("model"),
            "world": Takes("world", required=False, argument="questions"),
            "tokens": Takes("tokens", required=False),
        },
        gives="results",
        either=("world", "tokens", "data"),
        headline=(
            "bits.bits_per_byte",
            "facts_100.accuracy",
            "problems_1_2.accuracy",
            "humaneval.pass_at_1",
            "chat.score",
            "chat.ended",
            "refusal.violation",
            "refusal.false_refusal",
        ),
    )
)
register(
    StageKind(
        name="quantize",
        help="Rounds a model's matrices to 8 or 4 bits, in a form that transformers loads, and judges it.",
        settings="herdbook.evaluate.quantize:QuantizeSettings",
        function="herdbook.evaluate.quantize:quantize",
        takes={
            "model": Takes("model"),
            "world": Takes("world", required=False, argument="questions", folder="questions"),
            "tokens": Takes("tokens", required=False),
        },
        gives="model",
        headline=("size.of_before", "change.*.bits_per_byte", "change.*.accuracy", "divergence.nats"),
    )
)
register(
    StageKind(
        name="change",
        help="Compares exams over the same questions, question by question, with intervals.",
        settings="herdbook.evaluate.change:ChangeSettings",
        function="herdbook.evaluate.change:change",
        takes={"before": Takes("results"), "after": Takes("results", many=True, keyed=True)},
        gives="results",
        headline=("*.*.accuracy", "*.*.score"),
    )
)
register(
    StageKind(
        name="dialogs",
        help="Reads dialogs from files of any known form and from answered requests: checked, in one form, each once.",
        settings="herdbook.posttrain.settings:DialogsSettings",
        function="herdbook.posttrain.gather:gather",
        takes={"requests": Takes("requests", required=False, many=True, folder="requests")},
        gives="dialogs",
        either=("requests", "files"),
        headline=("dialogs",),
    )
)
register(
    StageKind(
        name="sft",
        help="Fine-tunes a model on dialogs, of which only the answers are learnt; the result chats.",
        settings="herdbook.posttrain.settings:SftSettings",
        function="herdbook.posttrain.sft:sft",
        takes={"model": Takes("model", argument="start"), "dialogs": Takes("dialogs", many=True, keyed=True)},
        gives="model",
        resumes=True,
        keys_from={"mix": "dialogs", "times": "dialogs"},
        headline=("tokens", "nats_per_token", "bits_per_byte"),
    )
)
register(
    StageKind(
        name="preferences",
        help="Reads preferences from files of any known form: checked, in one form, each once.",
        settings="herdbook.posttrain.preference_settings:PreferencesSettings",
        function="herdbook.posttrain.gather_preferences:gather_preferences",
        gives="preferences",
        headline=("preferences",),
    )
)
register(
    StageKind(
        name="reward",
        help="Makes a pre-trained model a judge of answers: one number of each, learnt from which was preferred.",
        settings="herdbook.posttrain.preference_settings:RewardSettings",
        function="herdbook.posttrain.reward:reward",
        takes={"model": Takes("model"), "preferences": Takes("preferences", many=True)},
        gives="reward",
        resumes=True,
        headline=("tokens", "heldout.accuracy", "heldout.longest"),
    )
)
register(
    StageKind(
        name="preference",
        help="Teaches a model which of two answers people prefer (DPO and its rivals), after fine-tuning.",
        settings="herdbook.posttrain.preference_settings:PreferenceSettings",
        function="herdbook.posttrain.preference:preference",
        takes={"model": Takes("model"), "preferences": Takes("preferences", many=True)},
        gives="model",
        resumes=True,
        headline=("tokens", "heldout.accuracy", "heldout.reward_margin", "chosen_logprob_slope"),
    )
)
register(
    StageKind(
        name="rl",
        help="Lets a model learn from its own answers while it gives them (online DPO, GRPO), scored as it learns.",
        settings="herdbook.posttrain.rl_settings:RlSettings",
        function="herdbook.posttrain.rl:rl",
        takes={
            "model": Takes("model"),
            "requests": Takes("requests", folder="requests"),
            "reward": Takes("reward", required=False),
        },
        gives="model",
        resumes=True,
        headline=("tokens", "first.reward", "last.reward", "last.ended"),
    )
)
register(
    StageKind(
        name="select",
        help="Measures dialogs (topic, quality, difficulty, likeness), chooses by what was measured, and mixes them.",
        settings="herdbook.posttrain.select_settings:SelectSettings",
        function="herdbook.posttrain.select:select",
        takes={
            "dialogs": Takes("dialogs", many=True, keyed=True),
            "reward": Takes("reward", required=False),
            "model": Takes("model", required=False),
        },
        gives="dialogs",
        resumes=True,
        headline=("dialogs", "funnel.*"),
    )
)
register(
    StageKind(
        name="average",
        help="Averages the weights of models of one shape, and holds the result against its members on unseen answers.",
        settings="herdbook.posttrain.settings:AverageSettings",
        function="herdbook.posttrain.average:average",
        takes={
            "model": Takes("model", many=True, keyed=True, argument="models"),
            "dialogs": Takes("dialogs", required=False, many=True, keyed=True),
        },
        gives="model",
        keys_from={"weights": "model"},
        headline=("bits_per_byte", "mean_member", "best_member"),
    )
)
register(
    StageKind(
        name="sample",
        help="Rejection sampling: draws many answers to each request and keeps the best by reward or verdict.",
        settings="herdbook.posttrain.round_settings:SampleSettings",
        function="herdbook.posttrain.sample:sample",
        takes={
            "model": Takes("model", many=True, keyed=True, argument="models"),
            "requests": Takes("requests"),
            "reward": Takes("reward", required=False),
        },
        gives="dialogs",
        resumes=True,
        headline=("dialogs", "best", "random", "oracle", "gap_closed"),
    )
)
register(
    StageKind(
        name="average_reward",
        help="Averages the weights of reward models of one shape.",
        settings="herdbook.posttrain.settings:AverageSettings",
        function="herdbook.posttrain.average:average",
        takes={"reward": Takes("reward", many=True, keyed=True, argument="models")},
        gives="reward",
        keys_from={"weights": "reward"},
    )
)
register(
    StageKind(
        name="probe",
        help="Asks a model what it knows, and makes dialogs in which it declines what it gets wrong consistently.",
        settings="herdbook.posttrain.probe_settings:ProbeSettings",
        function="herdbook.posttrain.probe:probe",
        takes={
            "model": Takes("model"),
            "documents": Takes("documents", required=False, many=True),
            "requests": Takes("requests", required=False, folder="requests"),
            "judge": Takes("model", required=False),
        },
        gives="dialogs",
        resumes=True,
        either=("documents", "requests"),
        headline=("dialogs", "refuse", "known"),
    )
)
register(
    StageKind(
        name="collect",
        help="Collects preferences: two answers to each request, judged by the world, a chat model or people.",
        settings="herdbook.posttrain.round_settings:CollectSettings",
        function="herdbook.posttrain.collect:collect",
        takes={
            "model": Takes("model", many=True, keyed=True, argument="models"),
            "requests": Takes("requests"),
        },
        gives="preferences",
        resumes=True,
        headline=("preferences", "agreement", "score"),
    )
)
register(
    StageKind(
        name="gate",
        help="Gives a new model on if nothing it could do was lost, else the one before it.",
        settings="herdbook.posttrain.round_settings:GateSettings",
        function="herdbook.posttrain.gate:gate",
        takes={
            "model": Takes("model"),
            "previous": Takes("model", required=False),
            "requests": Takes("requests"),
            "trained": Takes("model", required=False, many=True),
        },
        gives="model",
        resumes=True,
        headline=("passed", "score", "change", "ended"),
    )
)
register(
    StageKind(
        name="rounds",
        help="Gives the last gate's model, with the figures of all rounds; `posttrain` ends in it.",
        settings="herdbook.posttrain.round_settings:RoundsEndSettings",
        function="herdbook.posttrain.rounds:rounds",
        takes={"gates": Takes("model", many=True)},
        gives="model",
        headline=("score", "ended"),
    )
)
register(
    StageKind(
        name="merge",
        help="Merges LoRA adapters in peft's format into the model they were trained beside.",
        settings="herdbook.posttrain.settings:MergeSettings",
        function="herdbook.posttrain.merge:merge_adapters",
        takes={"model": Takes("model", argument="start")},
        gives="model",
        headline=("matrices",),
    )
)
register(
    StageKind(
        name="synthesize",
        help="Makes dialogs that are checked: code that runs, mathematics with right ends, calls of tools, long texts.",
        settings="herdbook.posttrain.synthesis.settings:SynthesizeSettings",
        function="herdbook.posttrain.synthesis.stage:synthesize",
        takes={
            "reward": Takes("reward", required=False),
            "model": Takes("model", required=False),
            "documents": Takes("documents", required=False, many=True),
            "requests": Takes("requests", required=False, folder="requests"),
            "judge": Takes("model", required=False),
        },
        gives="dialogs",
        also=("preferences",),
        resumes=True,
        either=("documents", "requests"),
        headline=("dialogs", "*.dialogs"),
    )
)
register(
    StageKind(
        name="posttrain",
        help="Rounds of reward model, rejection sampling, SFT, preferences, averaging and a gate; a stage for each.",
        settings="herdbook.posttrain.round_settings:RoundsSettings",
        expand="herdbook.posttrain.rounds:steps",
        takes={
            "model": Takes("model"),
            "requests": Takes("requests"),
            "dialogs": Takes("dialogs", required=False, many=True),
            "preferences": Takes("preferences", required=False, many=True),
        },
        gives="model",
    )
)
register(
    StageKind(
        name="ladder",
        help="Trains models of several sizes for several budgets of compute, and fits scaling laws to them.",
        settings="herdbook.scaling.ladder:LadderSettings",
        expand="herdbook.scaling.ladder:steps",
        takes={"tokens": Takes("tokens"), "world": Takes("world", required=False)},
        gives="laws",
    )
)
register(
    StageKind(
        name="laws",
        help="Fits scaling laws to models that were trained, draws the curves, and forecasts a larger one.",
        settings="herdbook.scaling.fitting:LawsSettings",
        function="herdbook.report.scaling:laws",
        takes={
            "model": Takes("model", many=True, keyed=True),
            "results": Takes("results", required=False, many=True, keyed=True),
        },
        gives="laws",
        headline=("tokens_exponent", "forecast.loss", "forecast.parameters", "forecast.tokens"),
    )
)
register(
    StageKind(
        name="against",
        help="Holds a model against what its ladder forecast of it.",
        settings="herdbook.scaling.fitting:AgainstSettings",
        function="herdbook.scaling.fitting:against",
        takes={"laws": Takes("laws"), "model": Takes("model"), "results": Takes("results", required=False)},
        gives="results",
        headline=("loss.off", "score.off"),
    )
)
