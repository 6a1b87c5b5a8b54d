"""What makes a base model answer: dialogs, preferences, their training, and rounds of it all."""

from __future__ import annotations

from herdbook.stages import StageKind, Takes, register

register(
    StageKind(
        name="dialogs",
        help="Reads dialogs from files of any form, answered requests and preferences: checked, one form, each once.",
        settings="herdbook.posttrain.settings:DialogsSettings",
        function="herdbook.posttrain.gather:gather",
        takes={
            "requests": Takes("requests", required=False, many=True, folder="requests"),
            "preferences": Takes("preferences", required=False, many=True),
        },
        gives="dialogs",
        either=("requests", "preferences", "files"),
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
        takes={
            "model": Takes("model"),
            "preferences": Takes("preferences", many=True),
            "unseen": Takes("preferences", required=False, many=True),
        },
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
        help="Lets a model learn from its own answers, scored while it learns: online DPO, GRPO or PPO.",
        settings="herdbook.posttrain.rl_settings:RlSettings",
        function="herdbook.posttrain.rl:rl",
        takes={
            "model": Takes("model"),
            "requests": Takes("requests", folder="requests"),
            "known": Takes("dialogs", required=False, many=True),
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
            "known": Takes("dialogs", required=False, many=True),
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
            "known": Takes("dialogs", required=False, many=True),
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
