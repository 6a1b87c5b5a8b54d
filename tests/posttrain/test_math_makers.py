"""Worked mathematics: step scores against counted truth, tree search against brute force over a whole tree of steps."""

from __future__ import annotations

import itertools
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from herdbook.posttrain.rows import write_rows
from herdbook.posttrain.synthesis.math import by_majority
from herdbook.posttrain.synthesis.math_settings import WorkedSettings
from herdbook.posttrain.synthesis.settings import SynthesizeSettings
from herdbook.posttrain.synthesis.stage import synthesize
from herdbook.posttrain.synthesis.steps import StepTree, split_steps
from herdbook.posttrain.synthesis.tree import Search, Steps, run
from tests.corpus.fake_endpoint import Answer
from tests.posttrain.scripted import scripted

SPLIT = WorkedSettings().split


@given(st.text(alphabet="ab1.! \n#", max_size=40))
def test_steps_joined_are_the_solution(text: str) -> None:
    steps = split_steps(text, SPLIT)
    assert "".join(steps) == (text if text.strip() else "")
    assert all(step.strip() for step in steps)


def test_a_worked_solution_falls_into_its_sentences() -> None:
    assert split_steps("25 tickets. 25 - 2.5 = 22.5. #### 22.5", SPLIT) == (
        "25 tickets.",
        " 25 - 2.5 = 22.5.",
        " #### 22.5",
    )


STEPS = "abc"
CHANCE = {"a": 0.6, "b": 0.3, "c": 0.1}
RIGHT = {("c", "c", "a"), ("c", "b", "a"), ("a", "a", "a"), ("b", "c", "c")}


def exact(before: Steps) -> float:
    """By enumeration: the chance that an end drawn behind these steps is right."""
    return sum(
        float(np.prod([CHANCE[step] for step in rest]))
        for rest in itertools.product(STEPS, repeat=3 - len(before))
        if (*before, *rest) in RIGHT
    )


def test_a_step_is_worth_the_chance_of_a_right_end_behind_it() -> None:
    draw = np.random.default_rng(0)
    tree, many = StepTree(), 3000
    prefixes = [steps for depth in range(3) for steps in itertools.product(STEPS, repeat=depth)]
    for before in prefixes:
        for _ in range(many):
            rest = tuple(draw.choice(list(STEPS), 3 - len(before), p=list(CHANCE.values())))
            tree.add((*before, *map(str, rest)), (*before, *rest) in RIGHT, len(before))
    for before in prefixes:
        node, truth = tree.at(before), exact(before)
        assert node.ends >= many
        assert node.score == pytest.approx(truth, abs=4.5 * (truth * (1 - truth) / node.ends) ** 0.5 + 1e-9)


def test_pairs_are_the_best_and_the_worst_next_step_by_brute_force() -> None:
    draw = np.random.default_rng(1)
    tree = StepTree()
    seen: dict[Steps, list[bool]] = {}
    for _ in range(400):
        steps = tuple(map(str, draw.choice(list(STEPS), 3)))
        right = bool(draw.random() < exact(steps[:1]) * 3)
        tree.add(steps, right, 0)
        for depth in range(4):
            seen.setdefault(steps[:depth], []).append(right)
    wanted = set()
    for before in seen:
        means = {s: np.mean(seen[(*before, s)]) for s in STEPS if len(seen.get((*before, s), ())) >= 10}
        if means and max(means.values()) - min(means.values()) >= 0.2:
            wanted.add((before, max(means, key=lambda s: (means[s], s)), min(means, key=lambda s: (means[s], s))))
    found = {(before, better, worse) for before, better, worse, _ in tree.pairs(0.2, 10)}
    assert found == wanted and len(found) >= 2


class Toy:
    """Problems whose one right solution is known; a uniform writer, and a process reward that knows the truth."""

    def __init__(self, problems: int, depth: int, branches: int, seed: int) -> None:
        self.draw = np.random.default_rng(seed)
        self.depth, self.names = depth, [str(number) for number in range(branches)]
        self.truth = [tuple(self.draw.choice(self.names, depth)) for _ in range(problems)]

    def ends(self, starts: list[tuple[int, Steps]], turn: int) -> list[Steps]:
        return [(*start, *map(str, self.draw.choice(self.names, self.depth - len(start)))) for _, start in starts]

    def right(self, ends: list[tuple[int, Steps]]) -> list[bool]:
        return [steps == self.truth[place] for place, steps in ends]

    def value(self, beginnings: list[tuple[int, Steps]]) -> list[float]:
        good = []
        for place, steps in beginnings:
            wrong = next((n for n, step in enumerate(steps) if step != self.truth[place][n]), len(steps))
            good.append(wrong / self.depth if wrong == len(steps) else 0.0)
        return good


def test_the_search_finds_what_brute_force_over_all_leaves_finds_and_drawing_as_often_does_not() -> None:
    toy = Toy(40, 4, 4, 0)
    leaves = list(itertools.product(toy.names, repeat=4))
    best = [max(leaves, key=lambda leaf, place=place: toy.value([(place, leaf)])[0]) for place in range(40)]  # type: ignore[misc]
    searches = [Search(explore=0.1, widen=2.0) for _ in range(40)]
    ends = run(searches, 96, toy.ends, toy.right, toy.value)
    led = sum(search.best == one for search, one in zip(searches, best))
    plain = sum(toy.truth[place] in toy.ends([(place, ())] * (ends // 40), 0) for place in range(40))
    assert led >= 34 and plain <= 17, (led, plain, ends)


def test_where_nothing_was_worth_anything_whole_solutions_are_drawn() -> None:
    toy = Toy(1, 3, 3, 1)
    search = Search(1.0, 1.0)
    starts: list[Steps] = []

    def draw(asked: list[tuple[int, Steps]], turn: int) -> list[Steps]:
        starts.extend(start for _, start in asked)
        return toy.ends(asked, turn)

    run([search], 30, draw, lambda ends: [False] * len(ends))
    assert starts == [()] * 30
    run([search], 30, draw, lambda ends: [False] * len(ends), toy.value)
    assert len({len(start) for start in starts[30:]}) > 1


def test_every_simulation_counts_on_its_way_and_nowhere_else() -> None:
    toy = Toy(1, 3, 3, 1)
    log: list[tuple[Steps, Steps, float]] = []

    class Logged(Search):
        def learn(self, start: Steps, steps: Steps, right: bool, worth: float) -> None:
            log.append((start, steps, worth))
            super().learn(start, steps, right, worth)

    search = Logged(1.0, 1.0)
    run([search], 60, toy.ends, toy.right, toy.value, enough=99)
    counts, sums = Counter[Steps](), Counter[Steps]()
    for start, steps, worth in log:
        for depth in range(len(start) + 2):
            counts[steps[:depth]] += 1
            sums[steps[:depth]] += worth  # type: ignore[assignment]

    def walk(node: Any, steps: Steps) -> None:
        assert (node.visits, node.value) == (counts.pop(steps), pytest.approx(sums[steps]))
        for step, below in node.below.items():
            walk(below, (*steps, step))

    walk(search.root, ())
    assert not counts and len(log) == 60


def test_an_end_that_was_cut_off_adds_no_step_and_is_never_right() -> None:
    search = Search(1.0, 1.0)
    search.learn((), ("a", "b"), False, 0.0)
    run([search], 3, lambda starts, turn: [() for _ in starts], lambda ends: [True] * len(ends))
    assert search.root.visits == 4 and not search.right and list(search.root.below) == ["a"]


def test_the_majority_decides_where_nobody_knows() -> None:
    ends = [("#### 3",), ("it is 3",), ("3.0",), ("#### 4",), ()]
    assert by_majority(ends, 0.6) == [True, True, True, False, False]
    assert by_majority(ends, 0.7) == [False] * 5 and by_majority([()], 0.5) == [False]


def problem(number: int, **more: Any) -> dict[str, Any]:
    check = {"kind": "number", "value": str(number + 9)}
    messages = [{"role": "user", "content": f"{number} + 4 + 5?"}]
    return {"id": f"p{number}", "task": "problem", "messages": messages, "check": check, "split": "train", **more}


def worker(messages: list[dict[str, Any]], seed: int) -> Answer:
    """Adds in two steps; errs in the first step at seeds that 4 divides, in the second at those that leave 1."""
    if "Verdict" in messages[0]["content"]:
        return "Verdict: invalid" if "#### 12" in messages[0]["content"] else "Verdict: valid"
    number = int(re.match(r"\d+", messages[0]["content"])[0])  # type: ignore[index]
    told = len(messages) > 2
    said = messages[-1]["content"] if messages[-1]["role"] == "assistant" else ""
    first = number + (4 if seed % 4 or told else 3)
    if said:
        first = int(re.search(r"= (\d+)\.", said)[1])  # type: ignore[index]
    last = first + (6 if seed % 4 == 1 and not told else 5)
    if said.count("=") == 2:
        return f" #### {re.findall('= ([0-9]+)', said)[1]}"
    rest = f" {first} + 5 = {last}. #### {last}"
    return rest if said else f"{number} + 4 = {first}." + rest


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_solutions_are_kept_by_their_end_gone_through_and_mistakes_mended(tmp_path: Path) -> None:
    write_rows(tmp_path / "requests" / "train.jsonl", [problem(number) for number in range(1, 5)])
    with scripted(worker, tmp_path) as (_, endpoint):
        settings = SynthesizeSettings(
            judge={"endpoint": endpoint}, math={"solutions": 4, "keep": 2, "verify": True, "mistakes": "writer"}
        )
        figures = synthesize(settings, None, [], tmp_path / "requests", None, tmp_path / "out")["math"]
    assert (figures["right"], figures["solved"], figures["cut_off"]) == (0.5, 1, 0)
    assert figures["verified"] == {"valid_of_right": 0.75, "valid_of_wrong": 0.75}  # it dislikes any 12
    assert figures["mistakes"] == {"wrong": 4, "mended": 4}
    rows = {row["id"]: row["messages"] for row in rows_of(tmp_path / "out" / "dialogs" / "math.jsonl")}
    assert set(rows) == {f"math/p{n}/0" for n in (1, 2, 4)} | {f"math/p{n}/mistake" for n in range(1, 5)}
    assert rows["math/p1/0"][-1]["content"] == "1 + 4 = 5. 5 + 5 = 10. #### 10"
    mistake = rows["math/p1/mistake"]
    assert [message["role"] for message in mistake] == ["user", "assistant", "user", "assistant"]
    assert [message.get("weight") for message in mistake] == [None, 0, None, None]
    assert mistake[1]["content"].endswith("#### 9") and mistake[3]["content"].endswith("#### 10")


def test_steps_are_scored_as_counting_the_scripted_errors_scores_them(tmp_path: Path) -> None:
    write_rows(tmp_path / "requests" / "train.jsonl", [problem(3)])
    with scripted(worker, tmp_path) as (_, endpoint):
        settings = SynthesizeSettings(
            judge={"endpoint": endpoint}, steps={"solutions": 3, "rollouts": 8, "margin": 0.5}, seed=0
        )
        figures = synthesize(settings, None, [], tmp_path / "requests", None, tmp_path / "out")["steps"]
    # Solutions of seeds 0 (first step wrong), 1 (second wrong), 2; rollouts of seeds 1 to 8, of which 1 and 5 err.
    stepwise = {row["completions"][-1]: row for row in rows_of(tmp_path / "out" / "stepwise" / "steps.jsonl")}
    assert stepwise[" #### 11"]["scores"] == [pytest.approx(2 / 9, abs=1e-4), 0, 0]  # where two mistakes cancel
    behind_first = (1 + 6) / (2 + 8)  # of the solutions one is right, of the rollouts six
    assert stepwise[" #### 12"]["scores"] == [pytest.approx(behind_first), 1, 1]
    assert stepwise[" #### 13"]["scores"] == [pytest.approx(behind_first), 0, 0]
    assert stepwise[" #### 13"]["labels"] == [True, False, False]
    pairs = rows_of(tmp_path / "out" / "preferences" / "steps.jsonl")
    chosen = {(row["chosen"][0]["content"], row["rejected"][0]["content"]) for row in pairs}
    assert ("3 + 4 = 7. 7 + 5 = 12.", "3 + 4 = 7. 7 + 5 = 13.") in chosen
    assert figures["pairs"] == len(pairs) and figures["solutions"] == 3


def test_hard_problems_are_searched_and_easy_ones_are_not(tmp_path: Path) -> None:
    write_rows(tmp_path / "requests" / "train.jsonl", [problem(1), problem(2)])

    def slow(messages: list[dict[str, Any]], seed: int) -> Answer:
        easy = messages[0]["content"].startswith("1")
        return worker(messages, 2 if easy else 0 if seed < 1003 else 2)

    with scripted(slow, tmp_path) as (_, endpoint):
        settings = SynthesizeSettings(
            judge={"endpoint": endpoint}, tree={"tries": 2, "simulations": 16, "compare": True}
        )
        figures = synthesize(settings, None, [], tmp_path / "requests", None, tmp_path / "out")
    assert {name: figures["tree"][name] for name in ("problems", "hard", "solved")} == {
        "problems": 2, "hard": 1, "solved": 1,
    }  # fmt: skip
    # Drawing whole solutions, the fourth round is the first whose seed is right.
    assert (figures["tree"]["ends_by_drawing"], figures["tree"]["solved_by_drawing"]) == (4, 1)
    rows = rows_of(tmp_path / "out" / "dialogs" / "tree.jsonl")
    assert rows[0]["messages"][-1]["content"] == "2 + 4 = 6. 6 + 5 = 11. #### 11"


def test_words_and_code_are_kept_where_the_code_runs_and_both_come_to_the_right_end(tmp_path: Path) -> None:
    def code(lines: str) -> str:
        return f"```python\n{lines}\n```\n"

    answers = {
        "right": f"Pens first.\n{code('pens = 3 * 4')}Now less 2.\n{code('print(pens - 2)')}So it is 10.\n#### 10",
        "plain": "3 * 4 = 12. 12 - 2 = 10. #### 10",
        "broken": f"{code('print(pens - 2)')}#### 10",
        "other": f"{code('print(3 * 4 - 3)')}#### 10",  # its code says something else than its words
        "wrong": f"{code('print(3 * 4)')}#### 12",
        "loops": f"{code('while True: pass')}#### 10",
        "rust": "```rust\nprintln!(10)\n```\n#### 10",
    }

    def writer(messages: list[dict[str, Any]], seed: int) -> Answer:
        name = messages[-1]["content"].split(":", 1)[0]
        assert "block of code" in messages[-1]["content"]
        if name == "lone":  # one of four has code that runs, and the others end elsewhere: no majority
            return f"#### {seed}" if seed % 4 else answers["right"]
        return answers["right" if name.startswith("vote") and seed % 4 else name.removeprefix("vote-")]

    rows = [
        {
            "id": name,
            "task": "problem",
            "messages": [{"role": "user", "content": f"{name}: 3 boxes of 4 pens, 2 are lost."}],
            **({} if name in ("vote-wrong", "lone") else {"check": {"kind": "number", "value": "10"}}),
            "split": "train",
        }
        for name in [*answers, "vote-wrong", "lone"]
    ]
    write_rows(tmp_path / "requests" / "train.jsonl", rows)
    with scripted(writer, tmp_path) as (_, endpoint):
        settings = SynthesizeSettings(judge={"endpoint": endpoint}, interleaved={"seconds": 1, "agree": 0.5})
        figures = synthesize(settings, None, [], tmp_path / "requests", None, tmp_path / "out")["interleaved"]
    assert figures["problems"] == 9 and figures["solutions"] == 36 and figures["with_code"] == 25
    assert figures["ran"] == 17 and figures["agreed"] == 13  # neither broken nor loops; not other
    kept = [json.loads(line) for line in (tmp_path / "out" / "dialogs" / "interleaved.jsonl").open()]
    assert [row["id"] for row in kept] == ["interleaved/right/0", "interleaved/vote-wrong/0"]
    assert [row["request"] for row in kept] == ["right", "vote-wrong"]
    assert all(row["messages"][-1]["content"] == answers["right"] for row in kept)
    assert figures["solved"] == 2
