"""What makes and grows base models."""

from __future__ import annotations

from herdbook.stages import StageKind, Takes, register

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
