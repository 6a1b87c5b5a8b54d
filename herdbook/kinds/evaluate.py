"""What examines models and rounds their matrices."""

from __future__ import annotations

from herdbook.stages import StageKind, Takes, register

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
