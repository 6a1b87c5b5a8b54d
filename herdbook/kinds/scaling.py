"""Scaling laws."""

from __future__ import annotations

from herdbook.stages import StageKind, Takes, register

register(
    StageKind(
        name="ladder",
        help="Trains models of several sizes for several budgets of compute, and fits scaling laws to them.",
        settings="herdbook.scaling.ladder:LadderSettings",
        expand="herdbook.scaling.ladder:steps",
        takes={
            "tokens": Takes("tokens"),
            "world": Takes("world", required=False),
            "known": Takes("results", required=False, many=True, keyed=True),
        },
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
            "known": Takes("results", required=False, many=True, keyed=True),
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
register(
    StageKind(
        name="mixes",
        help="Trains a small model for each of several data mixes, and chooses the mix for a longer run by a law.",
        settings="herdbook.scaling.mixing:MixesSettings",
        expand="herdbook.scaling.mixing:steps",
        takes={"tokens": Takes("tokens")},
        gives="mix",
    )
)
register(
    StageKind(
        name="mix_law",
        help="Fits a law of every token set's loss to models trained on several mixes, and chooses a mix.",
        settings="herdbook.scaling.mixing:ChoiceSettings",
        function="herdbook.scaling.mixing:choose",
        takes={"model": Takes("model", many=True, keyed=True)},
        gives="mix",
        headline=("mix.*", "loss.value", "error"),
    )
)
