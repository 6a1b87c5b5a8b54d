"""How well reward models judge: pairs of unseen requests told apart, and best of 16 beside chance and the oracle.

    python benchmarks/posttrain_reward.py CHAT WORLD --pairs ENTRY … [--seeds 0 1 2] [--likelihood 5] [--steps 120]

CHAT is the policy that the reward models go on from and whose answers they judge, WORLD an entry with requests, each
ENTRY preferences for training requests. Test requests get 16 answers each, once; the simulated annotator judges four
pairs of each. What was drawn and judged is kept in --work, each seed's figures in --out, so a killed run goes on.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from common import RESULTS, command_line, machine, print_table, write_result

from herdbook.files import read_json
from herdbook.posttrain.annotators import Simulated
from herdbook.posttrain.asking import Drawer, read_requests, verdicts
from herdbook.posttrain.collect import pairs_of, preference
from herdbook.posttrain.preference_settings import RewardSettings
from herdbook.posttrain.reading import Reading
from herdbook.posttrain.reward import RewardModel, reward
from herdbook.posttrain.round_settings import CollectSettings, SampleSettings
from herdbook.posttrain.rows import write_rows
from herdbook.posttrain.sample import pick, worth
from herdbook.train.machine import prepare
from herdbook.train.tuning import model_folder

RESULT = RESULTS / "posttrain_reward.json"
ANSWERS, PAIRS = 16, 4


def read() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("chat", type=Path)
    parser.add_argument("world", type=Path)
    parser.add_argument("--pairs", type=Path, nargs="+", required=True)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--likelihood", type=float, default=5.0)
    parser.add_argument("--peak-lr", type=float, default=3e-4)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=RESULT)
    return parser.parse_args()


def answered(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Test requests, each with its answers, whether they ended, and their verdicts."""
    asking = SampleSettings(split="test", limit=options.requests, answers=ANSWERS, max_tokens=96)
    requests = read_requests(options.world, asking)
    file = options.work / "drawn.jsonl"
    drawer = Drawer(model_folder(options.chat), asking, "sample")
    drawn = drawer.draw_all([(request, request["messages"]) for request in requests], ANSWERS, file)
    judged = verdicts(requests, [row["answers"] for row in drawn])
    return [
        {"request": request, "answers": row["answers"], "ended": row["ended"], "verdicts": true}
        for request, row, true in zip(requests, drawn, judged, strict=True)
    ]


def test_pairs(rows: list[dict[str, Any]], folder: Path) -> None:
    """An entry of preferences for the test requests: what a simulated annotator says of pairs of their answers."""
    drawn = [{"model": "chat", "answers": row["answers"], "ended": row["ended"]} for row in rows]
    pairs = [pair for row, own in zip(rows, drawn, strict=True) for pair in pairs_of(row["request"], [own], PAIRS)]
    known = {row["request"]["id"]: dict(zip(row["answers"], row["verdicts"], strict=True)) for row in rows}
    true = [[known[pair.request["id"]][answer] for answer in pair.answers] for pair in pairs]
    judged = Simulated(CollectSettings().taste, 1).annotate(pairs, true)
    found = [preference(pair, one, 1) for pair, one in zip(pairs, judged, strict=True) if one is not None]
    write_rows(folder / "preferences" / "preferences.jsonl", found)


def best_of(judge: RewardModel, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the answers that a judge picks are worth; see `sample.worth`."""
    said = [[answer for answer in dict.fromkeys(row["answers"]) if answer] for row in rows]
    prompts, tools = [row["request"]["messages"] for row in rows], [row["request"].get("tools") for row in rows]
    scored, settings, found = judge.score(prompts, said, tools), SampleSettings(), []
    for row, own, scores in zip(rows, said, scored, strict=True):
        value = dict(zip(own, scores, strict=True))
        row = {**row, "task": row["request"]["task"], "rewards": [value.get(answer) for answer in row["answers"]]}
        names = ("answers", "ended", "rewards", "verdicts")
        found.append({**row, "best": pick(settings, row["request"]["id"], *(row[name] for name in names))})
    return worth(found)


def main() -> None:
    options = read()
    prepare(1)
    rows = answered(options)
    test_pairs(rows, options.work / "unseen")
    key = f"likelihood {options.likelihood:g}" if options.likelihood else "head at the last token"
    result = read_json(options.out) if options.out.is_file() else {"runs": {}}
    command = command_line().replace(str(options.chat), "CHAT").replace(str(options.world), "WORLD")
    for place, entry in enumerate(options.pairs):
        command = command.replace(str(entry), f"PAIRS{place + 1}")
    result |= {"machine": machine(), "requests": len(rows)}
    if "start" not in result:  # the policy's own likelihood, untrained
        result["start"] = {"best_of": best_of(RewardModel(*policy(options.chat), Reading(1.0)), rows)}
    runs = result["runs"].setdefault(
        key, {"command": command.replace(str(options.work), "WORK").replace(str(options.out), "OUT"), "seeds": {}}
    )
    for seed in options.seeds:
        if str(seed) in runs["seeds"]:
            continue
        settings = RewardSettings(
            likelihood=options.likelihood, peak_lr=options.peak_lr, steps=options.steps, length=512, rows=4, seed=seed,
            warmup=10, heldout=0.0, checkpoint_every=0, tensorboard=False, threads=1,
        )  # fmt: skip
        out = options.work / f"judge-{options.likelihood:g}-{options.steps}-{seed}"
        figures = reward(settings, options.chat, options.pairs, out, unseen=[options.work / "unseen"])
        kept = {name: figures[name] for name in ("loss", "steps", "tokens", "preferences", "unseen")}
        runs["seeds"][str(seed)] = {**kept, "best_of": best_of(RewardModel.load(out), rows)}
        write_result(options.out, result)
    print_table(["judge", "seed", "unseen pairs", "above longest", "above likelihood", "gap closed"], lines(result))
    write_result(options.out, result)


def policy(chat: Path) -> tuple[Any, Any]:
    """The policy's model and tokenizer."""
    from herdbook.model.huggingface import load_model
    from herdbook.tokens.tokenizer import Tokenizer

    folder = model_folder(chat)
    return load_model(folder), Tokenizer.load(folder)


def lines(result: dict[str, Any]) -> list[list[str]]:
    """A row of the table for each judge."""

    def shown(figure: dict[str, float]) -> str:
        return f"{figure['value']:.3f} ({figure['low']:.3f} to {figure['high']:.3f}, n={figure['n']})"

    found = [["policy's likelihood, untrained", "", "", "", "", shown(result["start"]["best_of"]["gap_closed"])]]
    for name, run in result["runs"].items():
        for seed, one in run["seeds"].items():
            told = [shown(one["unseen"][key]) for key in ("accuracy", "above_longest", "above_likelihood")]
            found.append([name, seed, *told, shown(one["best_of"]["gap_closed"])])
    return found


if __name__ == "__main__":
    main()
