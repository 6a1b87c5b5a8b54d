"""Rejection sampling against chains whose answers have known probabilities, and against brute force."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from herdbook.model.huggingface import save_model
from herdbook.model.reward import RewardConfig
from herdbook.model.transformer import Transformer
from herdbook.posttrain.asking import Drawer, chance, prompt_ids, read_requests, with_system
from herdbook.posttrain.round_settings import AskSettings, SampleSettings
from herdbook.posttrain.sample import pick, sample, worth
from herdbook.settings import UserError
from tests.support.chains import digits, write_chain, write_requests
from tests.support.models import tiny_config
from tests.support.tokenizers import byte_tokenizer

SHARES = {"7": 0.25, "3": 0.45, "5": 0.3}
ENDS = 0.8


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_chain(tmp_path_factory.mktemp("chain"), digits(SHARES, ENDS))


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_requests(tmp_path_factory.mktemp("world"), 400)


def settings(**changes: Any) -> SampleSettings:
    return SampleSettings(**{"pick": "verdict", "answers": 4, "max_tokens": 3, "kept_back": 0.0, **changes})


def rows_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_what_is_drawn_and_found_follows_from_the_chains_probabilities(
    tmp_path: Path, chain: Path, requests: Path
) -> None:
    figures = sample(settings(), {"chain": chain}, requests, tmp_path)
    right = SHARES["7"] * ENDS  # "7" and its end; "70" and "700" are wrong
    assert figures["random"]["low"] <= right <= figures["random"]["high"]
    oracle = 1 - (1 - right) ** 4
    assert figures["oracle"]["low"] <= oracle <= figures["oracle"]["high"]
    assert figures["best"] == figures["oracle"] and figures["gap_closed"]["value"] == 1
    ended = 1 - (1 - ENDS) ** 2  # the end is the second or third token, or never comes
    assert figures["ended"]["low"] <= ended <= figures["ended"]["high"]
    assert figures["answers"] == 1600 and figures["answers_per_second"] > 0


def test_dialogs_hold_the_best_answers_behind_what_was_asked(tmp_path: Path, chain: Path, requests: Path) -> None:
    sample(settings(limit=50), {"chain": chain}, requests, tmp_path)
    samples = {row["id"]: row for row in rows_of(tmp_path / "samples.jsonl")}
    asked = {row["id"]: row for row in read_requests(requests, settings(limit=50))}
    assert list(samples) == list(asked) and len(samples) == 50
    dialogs = rows_of(tmp_path / "dialogs" / "dialogs.jsonl")
    assert dialogs
    for dialog in dialogs:
        row = samples[dialog["id"]]
        assert dialog["messages"][:-1] == asked[dialog["id"]]["messages"]
        assert dialog["messages"][-1] == {"role": "assistant", "content": row["answers"][row["best"]]}
        assert row["ended"][row["best"]]
        assert dialog["verdict"] == max(v for v, e in zip(row["verdicts"], row["ended"], strict=True) if e)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dialogs", "samples.jsonl"]


def test_an_answer_that_ran_out_of_room_has_no_reward_and_may_be_longer_than_the_judge_holds(
    tmp_path: Path, chain: Path
) -> None:
    tokenizer = byte_tokenizer()
    world = write_requests(tmp_path / "world", 10)
    (prompt,) = {
        len(prompt_ids(tokenizer, row, row["messages"])) for row in read_requests(world, settings())
    }  # of all as long
    shape = RewardConfig.of(tiny_config(vocab_size=tokenizer.vocab_size, max_length=prompt + 2))
    judge = Transformer(shape)
    judge.initialize(0)
    save_model(judge, tmp_path / "judge", bos_id=tokenizer.bos_id, eos_ids=[tokenizer.eot_id], pad_id=tokenizer.eos_id)
    tokenizer.save(tmp_path / "judge")
    (tmp_path / "out").mkdir()
    sample(settings(pick="both", max_tokens=2), {"chain": chain}, world, tmp_path / "out", tmp_path / "judge")
    rows = rows_of(tmp_path / "out" / "samples.jsonl")
    pairs = [(ended, reward) for row in rows for ended, reward in zip(row["ended"], row["rewards"], strict=True)]
    assert {ended for ended, _ in pairs} == {True, False}
    assert all((reward is not None) == ended for ended, reward in pairs)


def test_keep_right_drops_what_no_answer_was_right_for(tmp_path: Path, chain: Path, requests: Path) -> None:
    figures = sample(settings(limit=80, keep="right"), {"chain": chain}, requests, tmp_path)
    dialogs = rows_of(tmp_path / "dialogs" / "dialogs.jsonl")
    assert {dialog["messages"][-1]["content"] for dialog in dialogs} == {"7"}
    right = [row for row in rows_of(tmp_path / "samples.jsonl") if max(row["verdicts"]) == 1.0]
    assert len(dialogs) == figures["dialogs"] == len(right) < 80


def test_each_task_goes_to_the_model_that_the_route_names(tmp_path: Path, chain: Path) -> None:
    sure = write_chain(tmp_path / "sure", digits({"8": 1.0}, 1.0))
    world = write_requests(write_requests(tmp_path / "world", 10), 10, value=8, task="program")
    both, out = {"general": chain, "expert": sure}, tmp_path / "out"
    out.mkdir()
    sample(settings(route={"program": "expert"}), both, world, out)
    for row in rows_of(out / "samples.jsonl"):
        assert (set(row["answers"]) == {"8"}) == (row["task"] == "program")
    with pytest.raises(UserError, match=r"'exprt'.*general, expert"):
        sample(settings(route={"program": "exprt"}), both, world, tmp_path)


def test_a_killed_run_is_continued_to_the_same_samples(tmp_path: Path, chain: Path, requests: Path) -> None:
    chosen = settings(limit=60, rows=8)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    whole.mkdir()
    cut.mkdir()
    sample(chosen, {"chain": chain}, requests, whole)
    asked = [(row, row["messages"]) for row in read_requests(requests, chosen)]
    file = cut / "drawn.0.jsonl"
    Drawer(chain, chosen, "sample").draw_all(asked[:32], chosen.answers, file)
    file.write_bytes(file.read_bytes() + b'\n{"key": "problem-40", "value": {"answers": ["7"], "en')
    figures = sample(chosen, {"chain": chain}, requests, cut)
    assert (cut / "samples.jsonl").read_bytes() == (whole / "samples.jsonl").read_bytes()
    assert figures["answers"] == 240


ROW = st.lists(
    st.tuples(st.sampled_from("abc"), st.booleans(), st.floats(-3, 3), st.sampled_from([0.0, 0.5, 1.0])), min_size=1
)


@given(ROW, st.sampled_from(["reward", "verdict", "both"]))
def test_the_pick_is_the_best_of_those_that_ended(row: list[tuple[str, bool, float, float]], how: Any) -> None:
    answers, ended, rewards, true = map(list, zip(*row, strict=True))
    place = pick(SampleSettings(pick=how), "x", answers, ended, rewards, true)  # type: ignore[arg-type]
    able = [item for item in row if item[1]]
    if not able:
        assert place == -1
        return
    assert ended[place]
    keys: dict[str, Any] = {"reward": lambda i: i[2], "verdict": lambda i: i[3], "both": lambda i: (i[3], i[2])}
    assert keys[how](row[place]) == max(map(keys[how], able))


ANSWERS = st.lists(st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.booleans()), min_size=2, max_size=5)


@given(st.lists(ANSWERS, min_size=1, max_size=20))
def test_worth_is_what_brute_force_counts(table: list[list[tuple[float, bool]]]) -> None:
    table = [[*row, (0.5, True)] for row in table]  # the last one ended and is picked
    columns = [{"verdicts": [v for v, _ in row], "ended": [e for _, e in row]} for row in table]
    found = worth(
        [{"task": "a", "answers": ["x"] * len(row), "best": len(row) - 1, **c} for row, c in zip(table, columns)]
    )
    picked = [0.5 for _ in table]
    by_chance = [sum(v for v, _ in row) / len(row) for row in table]
    oracle = [max(v for v, ended in row if ended) for row in table]
    for name, values in (("best", picked), ("random", by_chance), ("oracle", oracle)):
        assert found[name]["value"] == pytest.approx(np.mean(values)) and found[name]["n"] == len(table)
    room = sum(oracle) - sum(by_chance)
    if room > 1e-9:
        assert found["gap_closed"]["value"] == pytest.approx((sum(picked) - sum(by_chance)) / room)


def test_gates_and_training_share_no_request_and_limits_draw_by_the_seed(requests: Path) -> None:
    free = {row["id"] for row in read_requests(requests, AskSettings(kept_back=0.2))}
    held = {row["id"] for row in read_requests(requests, AskSettings(kept_back=0.2), held=True)}
    assert not free & held and len(free | held) == 400 and 50 < len(held) < 110
    limited = [{row["id"] for row in read_requests(requests, AskSettings(limit=40, seed=seed))} for seed in (1, 2, 1)]
    assert limited[0] == limited[2] != limited[1] and len(limited[0]) == 40


def test_system_prompts_are_drawn_where_a_request_has_none(requests: Path) -> None:
    asked = read_requests(requests, AskSettings())
    systems = ("Be short.", "Be kind.", "Be exact.")
    drawn = [with_system(request, systems, 3)[0]["content"] for request in asked]
    counts = [drawn.count(text) / len(drawn) for text in systems]
    assert sum(counts) == pytest.approx(1) and all(0.2 < share < 0.47 for share in counts)
    own = {"id": "x", "messages": [{"role": "system", "content": "mine"}, {"role": "user", "content": "hi"}]}
    assert with_system(own, systems, 3) == own["messages"]
    assert len({chance("a", number) for number in range(100)}) == 100


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{"id": 3, "messages": [{"role": "user", "content": "a"}]}', "row 1.*'id'"),
        ('{"id": "a", "messages": []}', "row 1.*'messages'"),
        ('{"id": "a", "messages": [{"role": "assistant", "content": "a"}]}', "row 1.*nothing is asked"),
        ('{"id": "a", "messages": [{"role": "user", "content": "a"}]}\n' * 2, "row 2.*second request.*'a'"),
        ('{"id": "a"', "row 1.*not JSON"),
        ("", "no requests are left"),
    ],
)
def test_what_is_no_request_is_told_with_its_row(tmp_path: Path, row: str, words: str) -> None:
    (tmp_path / "train.jsonl").write_text(row)
    with pytest.raises(UserError, match=words):
        read_requests(tmp_path, AskSettings())


def test_picking_by_reward_needs_a_reward_model(tmp_path: Path, chain: Path, requests: Path) -> None:
    with pytest.raises(UserError, match="no reward model"):
        sample(settings(pick="reward"), {"chain": chain}, requests, tmp_path)
