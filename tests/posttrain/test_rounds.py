"""The rounds: who feeds whom in them; and a tiny herd that goes through two, and is killed in a third."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import tests.support.fakes  # noqa: F401  (registers the kinds)
from herdbook import run
from herdbook.book import Book, Entry
from herdbook.model.huggingface import save_model
from herdbook.posttrain.asking import read_requests
from herdbook.posttrain.round_settings import CollectSettings, RoundsSettings, SampleSettings
from herdbook.posttrain.rounds import steps
from herdbook.recipe import Recipe, read_recipe
from herdbook.steps import Step
from tests.support.models import tiny_model
from tests.support.tokenizers import byte_tokenizer

GIVEN = {"model": ("base",), "requests": ("world",), "dialogs": ("world",), "preferences": ("people",)}


def expanded(given: dict[str, tuple[str, ...]] = GIVEN, **settings: Any) -> dict[str, Step]:
    return {step.name: step for step in steps("chat", RoundsSettings(**settings), given)}


def test_reward_and_sft_begin_from_the_base_and_answers_come_from_the_best_model_so_far() -> None:
    found = expanded(rounds=3)
    for number in (1, 2, 3):
        here = f"chat.round{number}"
        best = "chat.start" if number == 1 else f"chat.round{number - 1}.gate"
        assert found[f"{here}.reward"].inputs["model"] == found[f"{here}.sft"].inputs["model"] == ["base"]
        assert found[f"{here}.collect"].inputs["model"][0] == best
        assert found[f"{here}.sample"].inputs == {"model": [best], "requests": ["world"], "reward": [f"{here}.reward"]}
        assert found[f"{here}.preference"].inputs["model"] == [f"{here}.sft"]
        gate = found[f"{here}.gate"].inputs
        assert gate["previous"] == [best] and gate["model"] == gate["trained"] == [f"{here}.preference"]
    assert found["chat.round3.collect"].inputs["model"] == ["chat.round2.gate", "chat.round2.sft"]
    assert found["chat"].inputs == {"gates": [f"chat.round{number}.gate" for number in (1, 2, 3)]}


def test_the_reward_model_learns_from_all_rounds_and_preferences_from_the_latest() -> None:
    found = expanded(rounds=4, latest=2, samples=1)
    collects = [f"chat.round{number}.collect" for number in (1, 2, 3, 4)]
    assert found["chat.round4.reward"].inputs["preferences"] == ["people", *collects]
    assert found["chat.round4.preference"].inputs["preferences"] == collects[2:]
    assert found["chat.round4.sft"].inputs["dialogs"] == ["world", "chat.round4.sample"]
    assert len({found[f"chat.round{number}.sample"].settings["seed"] for number in (1, 2, 3, 4)}) == 4


def test_reward_and_sft_begin_from_the_best_model_so_far_where_told() -> None:
    found = expanded(rounds=2, reward_from="tuned", sft_from="tuned")
    assert found["chat.round1.reward"].inputs["model"] == found["chat.round1.sft"].inputs["model"] == ["chat.start"]
    assert found["chat.round2.reward"].inputs["model"] == ["chat.round1.gate"]
    assert expanded(reward_from="tuned")["chat.round2.sft"].inputs["model"] == ["base"]


def test_all_steps_agree_on_what_is_kept_back_for_gates() -> None:
    steps = expanded(rounds=2, kept_back=0.25).values()
    told = {step.kind: step.settings.get("kept_back") for step in steps}
    assert told == {
        **dict.fromkeys(("sft", "collect", "sample", "gate"), 0.25),
        **dict.fromkeys(("reward", "preference", "rounds")),
    }


def test_rounds_of_another_seed_ask_and_draw_anew(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"""stages:
  world: {{kind: fake-requests}}
  base: {{kind: adopt, path: "{tmp_path}"}}
  chat: {{kind: posttrain, from: {{model: base, requests: world, dialogs: world}}, rounds: 2}}
"""
    )
    plain, third = (read_recipe(path, words).stages for words in ((), ("seed=3",)))
    seeds = {name: (plain[name].settings.seed, stage.settings.seed) for name, stage in third.items() if "." in name}  # type: ignore[attr-defined]
    assert seeds["chat.round2.sample"] == (2, 3002) and seeds["chat.round1.collect"] == (1, 3001)
    assert seeds["chat.round2.sft"] == seeds["chat.start"] == (0, 3)


def test_rounds_ask_other_requests_until_all_were_asked(tmp_path: Path) -> None:
    ids = [f"r{number}" for number in range(20)]
    rows = [{"id": one, "messages": [{"role": "user", "content": "?"}]} for one in ids]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = expanded(rounds=6)
    asked: dict[str, list[set[str]]] = {"sample": [], "collect": []}
    for kind, of in (("sample", SampleSettings), ("collect", CollectSettings)):
        for number in range(1, 7):
            told = found[f"chat.round{number}.{kind}"].settings
            asked[kind].append(
                {row["id"] for row in read_requests(tmp_path, of(**{**told, "limit": 4, "kept_back": 0}))}
            )
    for sets in asked.values():
        assert all(len(one) == 4 for one in sets) and set.union(*sets[:5]) == set(ids)
        assert sets[5] == sets[0]
    assert asked["sample"] != asked["collect"]
    whole = SampleSettings(**{**found["chat.round1.sample"].settings, "limit": 12, "kept_back": 0})
    assert {row["id"] for row in read_requests(tmp_path, whole)} == set.union(*asked["sample"][:3])


def test_members_of_other_seeds_are_averaged() -> None:
    found = expanded(rounds=1, members={"reward": 2, "preference": 3})
    rewards = ["chat.round1.reward1", "chat.round1.reward2"]
    assert found["chat.round1.reward_average"].inputs == {"reward": rewards}
    assert [found[name].settings["seed"] for name in rewards] == [1, 2]
    assert found["chat.round1.sample"].inputs["reward"] == ["chat.round1.reward_average"]
    tuned = [f"chat.round1.preference{member}" for member in (1, 2, 3)]
    gate = found["chat.round1.gate"].inputs
    assert gate["model"] == ["chat.round1.preference_average"] and gate["trained"] == tuned
    assert found["chat.round1.preference_average"].inputs == {"model": tuned}


def test_more_rounds_leave_the_first_ones_as_they_are() -> None:
    two, three = expanded(rounds=2), expanded(rounds=3)
    assert {name: three[name] for name in two if name != "chat"} == {n: s for n, s in two.items() if n != "chat"}


def test_without_written_dialogs_the_first_answers_are_the_bases() -> None:
    found = expanded({"model": ("base",), "requests": ("world",)}, rounds=1)
    assert "chat.start" not in found and found["chat.round1.collect"].inputs["model"] == ["base"]
    assert "previous" not in found["chat.round1.gate"].inputs


RECIPE = """\
stages:
  asked: {{kind: fake-requests, count: 80}}
  base: {{kind: adopt, path: "{folder}"}}
  chat:
    kind: posttrain
    from: {{model: base, requests: asked, dialogs: asked}}
    rounds: 2
    sft: {{rows: 4, length: 128, steps: 25, peak_lr: 0.01, warmup: 2, tensorboard: false}}
    reward: {{rows: 4, length: 256, steps: 12, peak_lr: 0.01, warmup: 2, heldout: 0.2, tensorboard: false}}
    preference: {{rows: 4, length: 256, steps: 4, peak_lr: 0.001, warmup: 0, heldout: 0, tensorboard: false}}
    collect: {{taste: {{slips: 0}}, max_tokens: 4, draws: 8}}
    sample: {{max_tokens: 4, answers: 8}}
    round1: {{sample: {{pick: both, keep: right}}}}
    kept_back: 0.3
    gate: {{max_tokens: 4, fall: 0.5}}
    round2: {{preference: {{steps: 8, checkpoint_every: 2}}}}
"""


def recipe(folder: Path) -> Recipe:
    """A base model that was taught nothing, and how it is to be taught."""
    base = folder / "raw"
    tokenizer = byte_tokenizer(("assistant", "user", "problem", "how many are"))
    model = tiny_model(vocab_size=tokenizer.vocab_size, max_length=256)
    model.initialize(0)
    save_model(model, base, bos_id=tokenizer.bos_id, eos_ids=[tokenizer.eos_id])
    tokenizer.save(base)
    path = folder / "recipe.yaml"
    path.write_text(RECIPE.format(folder=base))
    return read_recipe(path)


def figures(entries: dict[str, Entry]) -> str:
    """What came out, without times."""
    timed = ("seconds", "per_second", "goodput", "mfu", "peak", "memory")

    def plain(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if not any(word in key for word in timed)}
        return value

    return json.dumps({name: [entry.id, plain(entry.metrics)] for name, entry in entries.items()}, indent=1)


@pytest.fixture(scope="module")
def herd(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Entry]]:
    folder = tmp_path_factory.mktemp("herd")
    return folder, run.run_recipe(recipe(folder), Book(folder / "book"))


def test_two_rounds_teach_a_tiny_model_the_right_answer(herd: tuple[Path, dict[str, Entry]]) -> None:
    _, entries = herd
    start = entries["chat.round1.collect"].metrics["score"]["value"]
    assert 0.1 < start < 0.7  # it learnt from annotators who are wrong half of the time
    assert entries["chat.round2.reward"].metrics["heldout"]["accuracy"]["value"] >= 0.75  # of 14 pairs
    sampled = entries["chat.round2.sample"].metrics
    assert sampled["best"]["value"] > sampled["random"]["value"]
    with_verdicts = entries["chat.round1.sample"].metrics
    assert with_verdicts["best"] == with_verdicts["oracle"]
    assert (
        with_verdicts["random"]["value"] < with_verdicts["by_reward"]["best"]["value"] <= with_verdicts["best"]["value"]
    )
    assert entries["chat"].metrics["score"]["value"] > 0.9 and entries["chat"].metrics["ended"]["value"] > 0.9
    assert entries["chat"].metrics["by"]["r2"]["passed"] == 1.0


@pytest.mark.slow
def test_a_run_killed_in_every_step_of_round_three_goes_on_to_the_same_result(
    herd: tuple[Path, dict[str, Entry]], tmp_path: Path
) -> None:
    folder, _ = herd
    words = ["chat.rounds=3", "chat.round3.preference.steps=8", "chat.round3.preference.checkpoint_every=2"]
    book, calm = tmp_path / "book", tmp_path / "calm"
    for one in (book, calm):
        shutil.copytree(folder / "book", one)
    whole = run.run_recipe(read_recipe(folder / "recipe.yaml", words), Book(calm))
    command = [sys.executable, "-m", "tests.support.fakes", "run", str(folder / "recipe.yaml"), *words]
    for step in ("collect", "reward", "sample", "sft", "preference", "gate"):
        work = book / ".work" / f"{step}-{whole[f'chat.round3.{step}'].id[:12]}"
        begun = subprocess.Popen([*command, "--book", str(book)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 300
        while not any(work.glob("checkpoints/*/.metadata" if step == "preference" else "*")):
            assert begun.poll() is None and time.monotonic() < end
            time.sleep(0.002)
        begun.send_signal(signal.SIGKILL)
        begun.wait()
    again = run.run_recipe(read_recipe(folder / "recipe.yaml", words), Book(book))
    assert figures(again) == figures(whole)
    assert all(again[f"chat.round3.{step}"].attempts > 1 for step in ("collect", "reward", "sample", "preference"))
    weights = [one / whole["chat"].name / "model" / "model.safetensors" for one in (book, calm)]
    assert weights[0].read_bytes() == weights[1].read_bytes()
