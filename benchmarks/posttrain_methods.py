"""Methods of learning from preferences at equal generations, and DPO with and without its mask and its NLL share.

    python benchmarks/posttrain_methods.py START WORLD JUDGE --work FOLDER [--seeds 1 2 3] [--only methods mask]

START is a fine-tuned model entry, WORLD an entry with requests, JUDGE a reward model's entry. Every method has the same
number of answers by START, or by the model it has become: offline ones learn from the pairs that the simulated
annotator makes of them, online ones from scores by the verifiers (`verdict`) or by JUDGE (`reward`). Judged by the same
test requests at temperature 0: true scores and JUDGE's, each paired with START's answer. What is in FOLDER is not done
again.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from common import RESULTS, command_line, machine, print_table, write_result

from herdbook.evaluate.intervals import mean
from herdbook.evaluate.run import evaluate_folder
from herdbook.posttrain.collect import collect
from herdbook.posttrain.preference import preference
from herdbook.posttrain.preference_settings import PreferenceSettings
from herdbook.posttrain.reward import RewardModel
from herdbook.posttrain.rl import rl
from herdbook.posttrain.rl_settings import RlSettings
from herdbook.posttrain.round_settings import CollectSettings
from herdbook.posttrain.rows import read_rows

RESULT = RESULTS / "posttrain_methods.json"
DRAWS, ANSWERS = 4, 8  # of a request, offline and online
COMMON: dict[str, Any] = {"length": 512, "threads": 1, "tensorboard": False, "checkpoint_every": 0, "warmup": 5}
OFFLINE = {"peak_lr": 3e-4, "rows": 4, "epochs": 3, "heldout": 0.0}
ONLINE = {"peak_lr": 1e-4, "requests_per_step": 16, "answers": ANSWERS, "max_tokens": 96, "schedule": "constant"}
OWN: dict[str, dict[str, Any]] = {"dpo": {"peak_lr": 3e-4}, "grpo": {}, "ppo": {"updates": 2}}
METHODS: dict[str, dict[str, Any]] = {
    **{f"offline {loss}": {**OFFLINE, "loss": loss} for loss in ("dpo", "ipo", "kto", "cpo")},
    **{
        f"online {method} by {score}": {**ONLINE, "method": method, "score": score, **more}
        for score in ("verdict", "reward")
        for method, more in OWN.items()
    },
}
MASK: dict[str, dict[str, Any]] = {
    f"mask {'on' if on else 'off'}, nll {nll}": {
        **OFFLINE, "loss": "dpo", "peak_lr": 1e-3, "mask": "format" if on else "none", "nll_weight": nll
    }
    for on in (False, True)
    for nll in (0.0, 0.05, 0.2, 1.0)
}  # fmt: skip
PARTS = {"methods": METHODS, "mask": MASK}


def train(name: str, options: argparse.Namespace, seed: int, out: Path) -> dict[str, Any]:
    """Train one variant, whole, and return its figures."""
    how = {**COMMON, **PARTS["methods" if name in METHODS else "mask"][name], "seed": seed}
    out.mkdir(parents=True, exist_ok=True)
    if name.startswith("online"):
        how["steps"] = options.answers // (how["requests_per_step"] * ANSWERS) * how.get("updates", 1)
        return rl(RlSettings.model_validate(how), options.start, options.world, out, options.judge)
    pairs = options.work / f"pairs.{seed}"
    if not (pairs / "preferences").is_dir():
        asked = {"limit": options.answers // DRAWS, "draws": DRAWS, "max_tokens": 96, "seed": seed}
        pairs.mkdir(parents=True, exist_ok=True)
        collect(CollectSettings.model_validate(asked), {"start": options.start}, options.world, pairs)
    return preference(PreferenceSettings.model_validate(how), options.start, [pairs], out)


def examine(model: Path, options: argparse.Namespace, out: Path) -> None:
    """Let a model answer the test requests and JUDGE score the answers: `out`/answers.json, one row a request."""
    evaluate_folder(model, ["chat"], options.world, options.limit, out=out / "exam")
    rows = [row for _, row in read_rows(out / "exam" / "samples" / "chat.jsonl")]
    asked = [row for row in rows if row["messages"][-1]["role"] != "assistant" and row["group"]["task"] != "tool"]
    judge = RewardModel.load(options.judge)
    found = judge.score([row["messages"] for row in asked], [[row["output"].strip() or "…"] for row in asked])
    rewards = {row["id"]: each[0] for row, each in zip(asked, found, strict=True)}
    kept = ("id", "score", "ended", "repeats", "tokens")
    told = [{**{key: row[key] for key in kept}, "reward": rewards.get(row["id"])} for row in rows]
    (out / "answers.json").write_text(json.dumps(told))


def compared(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> dict[str, Any]:
    """Figures of one exam, and its differences from the start's, question by question."""
    assert [row["id"] for row in before] == [row["id"] for row in after]
    found: dict[str, Any] = {}
    for key, name in (("score", "score"), ("reward", "reward"), ("ended", "ended"), ("repeats", "repetition")):
        pairs = [
            (float(old[key]), float(new[key])) for old, new in zip(before, after, strict=True) if new[key] is not None
        ]
        found[name] = mean([new for _, new in pairs])
        found[f"{name}_change"] = mean([new - old for old, new in pairs])
    found["tokens"] = mean([float(row["tokens"]) for row in after])
    return found


def variant(name: str, options: argparse.Namespace, seed: int) -> None:
    """Train and examine one variant, unless its folder says that it was done."""
    out = options.work / f"{name.replace(' ', '_').replace(',', '')}.{seed}"
    if (out / "answers.json").is_file():
        return
    figures = train(name, options, seed, out)
    kept = ("steps", "seconds", "answers", "first", "last", "chosen_logprob_slope", "preferences", "loss")
    (out / "figures.json").write_text(json.dumps({key: figures[key] for key in kept if key in figures}))
    examine(out / "model", options, out)
    print(name, seed, figures["seconds"], flush=True)


def show(figure: dict[str, float], sign: str = "+") -> str:
    """A figure with its interval."""
    return f"{figure['value']:{sign}.3f} ({figure['low']:{sign}.3f} – {figure['high']:{sign}.3f})"


def collected(options: argparse.Namespace) -> dict[str, Any]:
    """The figures of all that is in the work folder."""
    before = json.loads((options.work / "start" / "answers.json").read_text())
    found: dict[str, Any] = {"start": compared(before, before)}
    for part, variants in PARTS.items():
        for name in variants:
            for file in sorted(options.work.glob(f"{name.replace(' ', '_').replace(',', '')}.*/answers.json")):
                seed = file.parent.name.rpartition(".")[2]
                figures = json.loads((file.parent / "figures.json").read_text())
                one = {"part": part, **compared(before, json.loads(file.read_text())), "training": figures}
                found.setdefault(name, {})[f"seed_{seed}"] = one
    return found


def main() -> None:
    """Train, examine, print, write the result."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    for name, what in (("start", "fine-tuned model"), ("world", "requests"), ("judge", "reward model")):
        parser.add_argument(name, type=Path, help=f"the entry of the {what}")
    parser.add_argument("--work", type=Path, required=True, help="where what was trained is kept")
    parser.add_argument("--answers", type=int, default=2048, help="answers that every method has")
    parser.add_argument("--limit", type=int, default=1000, help="test requests")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1], help="seeds of drawing and training")
    parser.add_argument(
        "--only", nargs="*", default=list(PARTS), help="parts, or variants by name; none: what is there"
    )
    parser.add_argument("--out", type=Path, default=RESULT, help="where the result is written")
    options = parser.parse_args()
    if not (options.work / "start" / "answers.json").is_file():
        (options.work / "start").mkdir(parents=True, exist_ok=True)
        examine(options.start, options, options.work / "start")
    names = [name for part in options.only for name in PARTS.get(part, {part: {}})]
    for seed in options.seeds:
        for name in names:
            variant(name, options, seed)
    found = collected(options)
    rows = []
    for name, seeds in found.items():
        for seed, one in seeds.items() if name != "start" else [("", seeds)]:
            slope = one.get("training", {}).get("chosen_logprob_slope")
            score, ended, repeats = (f"{one[key]['value']:.3f}" for key in ("score", "ended", "repetition"))
            changes = [show(one["score_change"]), show(one["reward_change"])]
            steepness = "" if slope is None else f"{slope:+.4f}"
            rows.append([name, seed.removeprefix("seed_"), score, *changes, ended, repeats, steepness])
    print_table(["variant", "seed", "true score", "change", "judge's change", "ended", "repeats", "slope"], rows)
    command = command_line()
    for name in ("start", "world", "judge", "work"):
        command = command.replace(str(getattr(options, name)), name.upper())
    told = {"answers": options.answers, "requests": options.limit, "variants": found}
    write_result(options.out, {"command": command, "machine": machine(), **told})


if __name__ == "__main__":
    main()
