"""Learning from answers that the model gives while it learns: online DPO (Guo et al. 2024), GRPO (Shao et al. 2024)
and PPO (Schulman et al. 2017, with a reward model as Ouyang et al. 2022 have it).

It is the same loop: a batch's source asks the model itself (`rollouts`), and the objectives are those of `preference`
and `rl_objectives`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from herdbook.files import read_json, write_text
from herdbook.model.huggingface import load_model, read_config
from herdbook.posttrain.preference import PreferenceObjective
from herdbook.posttrain.preference_settings import PreferenceSettings
from herdbook.posttrain.rl_objectives import ActorCritic, Grpo, Ppo, Watched, policy_of
from herdbook.posttrain.rl_settings import RlSettings
from herdbook.posttrain.rollouts import DrawnBatches
from herdbook.settings import UserError

if TYPE_CHECKING:
    from herdbook.tokens.tokenizer import Tokenizer


def rl(
    settings: RlSettings,
    model: Path,
    requests: Path,
    out: Path,
    reward: Path | None = None,
    known: Sequence[Path] = (),
) -> dict[str, Any]:
    """Train `model` on its own answers to the training requests; writes `out`/model, a folder that chats.

    What dialogs of `known` ask is not asked.

    Goes on from what a killed run left in `out`. Returns the loop's figures, how many `requests` were asked, how many
    were `too_long` for the model, how many answers were drawn (`answers`), and the mean `reward` and share `ended` of
    those of the first and of the last tenth of the steps. UserError when there is nothing to score by.
    """
    from herdbook.posttrain.asking import read_requests
    from herdbook.posttrain.reward import RewardModel
    from herdbook.posttrain.round_settings import AskSettings
    from herdbook.tokens.tokenizer import Tokenizer
    from herdbook.train.loop import train
    from herdbook.train.machine import prepare
    from herdbook.train.tuning import begin, export, model_folder, trained_share

    if settings.score == "reward" and reward is None:
        raise UserError("score is reward, and no reward model feeds this stage; feed one, or score by verdict")
    prepare(settings.threads)
    folder = model_folder(model)
    tokenizer = Tokenizer.load(folder)
    ask = AskSettings(tasks=settings.tasks, limit=settings.limit, kept_back=settings.kept_back, seed=settings.seed)
    read = read_requests(requests, ask, known=known)
    asked = with_room(read, tokenizer, read_config(folder).max_length)
    if settings.score == "verdict" and not all(request.get("check") for request in asked):
        raise UserError("score is verdict, and some requests carry no check; leave their tasks out, or score by reward")
    settings = resolved(settings, len(asked), out)
    policy = begin(settings, folder, None)
    judge = RewardModel.load(reward, policy.embedding.weight.device) if settings.score == "reward" and reward else None
    trained = ActorCritic(policy, critic_of(settings, folder, reward)) if settings.method == "ppo" else policy
    batches = DrawnBatches(settings, trained, tokenizer, asked, judge, out)
    figures = train(trained, Watched(objective_of(settings)), batches, settings, out)
    export(policy_of(trained), tokenizer, out / "model", None, settings.export_dtype)
    drawn = -(-settings.total_steps // settings.steps_per_rollout) * settings.requests_per_step * settings.answers
    counts = {"requests": len(asked), "too_long": len(read) - len(asked), "answers": drawn}
    return {**figures, **trained_share(policy), **counts, **ends_of_run(out)}


def with_room(requests: list[Any], tokenizer: Tokenizer, room: int) -> list[Any]:
    """The requests behind whose prompt a model of `room` tokens can still answer; UserError where there are none."""
    from herdbook.posttrain.asking import prompt_ids

    found = [one for one in requests if len(prompt_ids(tokenizer, one, one["messages"])) < room]
    if not found:
        raise UserError(f"all {len(requests)} requests are longer than the {room} tokens that the model holds")
    return found


def resolved(settings: RlSettings, requests: int, out: Path) -> RlSettings:
    """The settings with `steps` where passes over the requests say how long the run is, and with one precision.

    What is known of drawn answers is found outside the loop's steps and must be found in their precision, so it is
    chosen here, and written down: a resumed run must not choose anew.
    """
    from herdbook.train.machine import faster_precision, own_device

    if settings.passes is not None:
        rollouts = max(1, round(settings.passes * requests / settings.requests_per_step))
        steps = rollouts * settings.steps_per_rollout
        told = {"steps": steps, "epochs": None, "warmup": min(settings.warmup, steps // 10)}
        settings = settings.model_copy(update=told)
    if settings.precision != "auto":
        return settings
    file = out / "precision"
    if not file.is_file():
        out.mkdir(parents=True, exist_ok=True)
        write_text(file, faster_precision(own_device()) + "\n")
    return settings.model_copy(update={"precision": file.read_text().strip()})


def critic_of(settings: RlSettings, folder: Path, reward: Path | None) -> Any:
    """PPO's value model before its first step: the reward model, or the policy where none feeds the stage.

    The head is drawn anew where that has one of words.
    """
    from herdbook.model.reward import RewardConfig
    from herdbook.tokens.tokenizer import Tokenizer
    from herdbook.train.alone import alone
    from herdbook.train.tuning import model_folder, whole_model

    begun = folder if reward is None else model_folder(reward)
    if Tokenizer.load(begun).hash != Tokenizer.load(folder).hash:
        raise UserError(
            f"{begun} has another tokenizer than {folder}, and ppo's value model, which begins as it, reads the "
            "policy's tokens; train a reward model from the same base"
        )
    gives_numbers = read_json(begun / "config.json")["architectures"][0].endswith("SequenceClassification")
    if gives_numbers:
        return alone(load_model(begun, dtype=torch.float32, reward=True), settings)
    return alone(whole_model(begun, RewardConfig.of(read_config(begun)), settings.seed), settings)


def objective_of(settings: RlSettings) -> Any:
    """What is minimised."""
    if settings.method == "grpo":
        return Grpo(settings.strength, settings.clip_ratio)
    if settings.method == "ppo":
        return Ppo(settings.clip_ratio, settings.value_clip, settings.value_weight)
    # The end of an answer is its own to learn here: one that does not end is scored for it.
    how = {"loss": "dpo", "mask": "none", "beta": settings.strength, "nll_weight": settings.nll_weight}
    return PreferenceObjective(PreferenceSettings.model_validate({**how, "steps": 1}))


def ends_of_run(out: Path) -> dict[str, dict[str, float]]:
    """Means over the first and the last tenth of the steps."""
    from herdbook.train.metrics import read_metrics

    records = read_metrics(out / "metrics.jsonl")
    tenth = max(1, len(records) // 10)
    parts = {"first": records[:tenth], "last": records[-tenth:]}
    names = [name for name in ("reward", "best_reward", "ended", "kl", "clipped", "value_error") if name in records[0]]
    return {part: {name: _mean([one[name] for one in some]) for name in names} for part, some in parts.items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)
