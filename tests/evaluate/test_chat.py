"""Chat models in the exam: with models whose every answer is known, so that every figure is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from herdbook.evaluate import run
from herdbook.evaluate.chat import repeats
from herdbook.evaluate.questions import Question
from herdbook.evaluate.requests import read_ifeval, read_requests, read_xstest
from herdbook.evaluate.run import evaluate, knows_chat, set_papers
from herdbook.evaluate.settings import EvaluateSettings
from herdbook.evaluate.tasks import find_task, program_in
from herdbook.evaluate.verify import verify_all
from herdbook.model.huggingface import save_model
from herdbook.settings import UserError
from herdbook.tokens.tokenizer import Tokenizer
from herdbook.world.facts import make_register
from herdbook.world.requests import write_requests
from herdbook.world.settings import WorldSettings
from tests.evaluate.toy import ByteTokenizer, ToyEngine
from tests.support.models import tiny_model
from tests.support.shared import shared

BENCHMARKS = "data/benchmarks"


class ChatTokenizer(ByteTokenizer):
    """Bytes, with roles in brackets; `|` ends a turn."""

    special_tokens = {"<|eot_id|>": ord("|")}  # noqa: RUF012

    def chat(self, messages: list[dict[str, str]], tools: list[dict[str, Any]]) -> list[int]:
        told = json.dumps(tools) if tools else ""
        text = "".join(f"[{message['role']}]{message['content']}|" for message in messages)
        return [self.bos_id, *self.encode(f"{told}{text}[assistant]")]


class ChatEngine(ToyEngine):
    """Writes what `reply` says to a dialog; `|` ends the turn, as far as it is asked to."""

    def __init__(self, reply: Callable[[str], str], max_length: int = 8192) -> None:
        super().__init__({}, reply, max_length)
        self.tokenizer, self.knows_chat = ChatTokenizer(), True

    def generate(self, prompts: Any, sampling: Any) -> Any:
        assert sampling.stop == () and sampling.stop_ids == (ord("|"),)
        found = super().generate(prompts, sampling)
        for completion in found:
            text, bar, _ = completion.text.partition("|")
            completion.text, completion.finish_reason = text, "stop" if bar else "length"
        return found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("world")
    settings = WorldSettings.tiny().model_copy(update={"people": 60, "places": 60, "animals": 60, "requests": 0.1})
    write_requests(settings, make_register(settings), folder)
    (folder / "questions").mkdir()
    return folder


def exam(
    engine: ToyEngine, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    monkeypatch.setattr(run, "load_engine", lambda folder, settings: engine)
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "out").mkdir()
    chosen = EvaluateSettings(**{"tasks": ("chat",), **settings})
    metrics = evaluate(chosen, tmp_path / "model", data, None, tmp_path / "out")
    samples = (tmp_path / "out" / "samples" / f"{chosen.tasks[0]}.jsonl").read_text().splitlines()
    return metrics, [json.loads(line) for line in samples]


def test_references_score_all_and_errands_are_solved(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [json.loads(line) for line in (world / "requests/test.jsonl").open(encoding="utf-8")]
    known = {
        ChatTokenizer().decode(ChatTokenizer().chat(row["messages"], row.get("tools", []))): row["reference"]
        for row in rows
    }
    library = [message["content"] for row in rows for message in row["messages"] if message["role"] == "ipython"]
    (world / "library.txt").write_text("\n".join(library))
    lost: set[str] = set()  # questions whose search found another sentence than the row's

    def reply(dialog: str) -> str:
        if dialog not in known:
            lost.add(dialog)
        return f"{known.get(dialog, '?')}|"

    engine = ChatEngine(reply)
    metrics, samples = exam(engine, world, tmp_path, monkeypatch)
    assert len(samples) == len(rows)
    assert metrics["chat"]["accuracy"]["value"] == metrics["chat"]["score"]["value"] == 1
    assert metrics["chat"]["ended"]["value"] == 1 and metrics["chat"]["repetition"]["value"] == 0
    assert metrics["refusal"]["violation"]["value"] == 0 == metrics["refusal"]["false_refusal"]["value"]
    assert metrics["refusal"]["violation"]["n"] == sum(row["task"] == "forbidden" for row in rows)
    assert metrics["chat_unknown"]["honest"]["value"] == 1 == metrics["chat_instruction"]["followed"]["value"]
    assert metrics["chat_tool"]["correct"]["value"] == 1
    kinds = [(row["check"]["kind"], "####" in (row["reference"] or "")) for row in rows]
    asked_for = sum(kind in ("program", "tool") or (kind == "number" and marked) for kind, marked in kinds)
    assert metrics["chat"]["formed"]["value"] == 1 and metrics["chat"]["formed"]["n"] == asked_for
    errands = [sample for sample in samples if "solved" in sample]
    for sample in errands:
        assert sample["solved"] or any(sample["messages"][-1]["content"] in dialog for dialog in lost)
    assert sum(sample["solved"] for sample in errands) > len(errands) / 2 > 4
    for times in (1, 10, 100):
        assert metrics[f"chat_fact_{times}"]["accuracy"]["value"] == 1
        assert metrics[f"chat_fact_{times}"]["wrong"]["value"] == 0


def test_a_model_that_always_refuses_and_one_that_never_ends(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metrics, samples = exam(ChatEngine(lambda dialog: "I can't help with that. " * 30), world, tmp_path, monkeypatch)
    assert metrics["refusal"]["violation"]["value"] == 0 and metrics["refusal"]["false_refusal"]["value"] == 1
    assert metrics["chat"]["ended"]["value"] == 0 and metrics["chat"]["repetition"]["value"] == 1
    assert metrics["chat_unknown"]["honest"]["value"] == 0
    right = sum(sample["group"]["task"] == "forbidden" for sample in samples)
    assert metrics["chat"]["accuracy"]["value"] == pytest.approx(right / len(samples))
    assert metrics["chat_fact"]["wrong"]["value"] == 0  # it claims nothing
    assert metrics["chat_tool"]["solved"]["value"] == 0 == metrics["chat"]["formed"]["value"]


def test_a_model_that_never_knows(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metrics, _ = exam(ChatEngine(lambda dialog: "I don't know.|"), world, tmp_path, monkeypatch, limit=120)
    assert metrics["chat_unknown"]["honest"]["value"] == 1 == metrics["refusal"]["violation"]["value"]
    assert metrics["chat_fact"]["not_known"]["value"] == 1 and metrics["chat_fact"]["accuracy"]["value"] == 0
    assert metrics["refusal"]["false_refusal"]["value"] == 0


def test_only_the_wanted_groups_are_asked(world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = {"task": ["fact", "unknown"], "exposures": ["1", "10"]}
    engine = ChatEngine(lambda dialog: "The sea.|")
    metrics, samples = exam(engine, world, tmp_path, monkeypatch, only=chosen)
    rows = [json.loads(line) for line in (world / "requests/test.jsonl").open(encoding="utf-8")]
    assert {sample["id"] for sample in samples} == {row["id"] for row in rows if row.get("exposures") in (1, 10)}
    assert metrics["chat"]["accuracy"]["value"] == 0 and all(sample["wrong"] for sample in samples)
    questions = [Question(str(n), "", groups={"task": "fact"}) for n in range(3)]
    with pytest.raises(UserError, match="no question has task facts; there are fact"):
        run.draw(questions, EvaluateSettings(only={"task": ["facts"]}))


def test_an_errand_answered_without_a_call_is_not_solved(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [json.loads(line) for line in (world / "requests/test.jsonl").open(encoding="utf-8")]
    errands = [row for row in rows if row.get("step") == 1]
    told = {row["messages"][0]["content"]: " ".join(_answer(row["final"])) for row in errands}
    reply = lambda dialog: next((said for asked, said in told.items() if asked in dialog), "?") + "|"  # noqa: E731
    metrics, samples = exam(ChatEngine(reply), world, tmp_path, monkeypatch)
    checked = verify_all([{"check": row["final"]} for row in errands], list(told.values()))
    assert all(verdict.correct for verdict in checked) and len(errands) > 9
    assert [sample["solved"] for sample in samples if "solved" in sample] == [False] * len(errands)
    assert metrics["chat_tool"]["solved"]["n"] == len(errands)


def _answer(check: dict[str, Any]) -> list[str]:
    return [check["value"]] if "value" in check else check.get("all") or check["values"]


def test_a_prompt_longer_than_the_context_is_a_wrong_answer(
    world: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ChatEngine(lambda dialog: "yes|", max_length=300)
    metrics, samples = exam(engine, world, tmp_path, monkeypatch, max_tokens=20, only={"task": ["fact", "tool"]})
    assert 0 < metrics["chat"]["ended"]["value"] < 1
    assert {sample["group"]["task"] for sample in samples if not sample["ended"]} == {"tool"}


def test_ifeval_and_xstest_are_read_as_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = shared(BENCHMARKS)
    prompts = read_ifeval(data / "ifeval/input_data.jsonl")
    assert len(prompts) == 541 and sum(len(q.request["check"]["constraints"]) for q in prompts) == 834
    safety = read_xstest(data / "xstest/xstest_prompts.csv")
    kinds = [q.request["check"]["kind"] for q in safety]
    assert (kinds.count("answered"), kinds.count("refusal")) == (250, 200)  # Röttger et al. 2024, table 1
    engine = ChatEngine(lambda dialog: "Sure, here is an answer, in full.|")
    metrics, samples = exam(engine, data, tmp_path, monkeypatch, tasks=("ifeval", "xstest"))
    assert metrics["xstest_refusal"]["violation"]["value"] == 1
    assert metrics["xstest_refusal"]["false_refusal"]["value"] == 0
    figures = metrics["ifeval"]
    commas = {sample["id"] for sample in samples if not sample["followed"]}
    assert figures["followed"]["value"] == pytest.approx(1 - len(commas) / 541)
    assert figures["followed"]["value"] < figures["followed_each"]["value"] and figures["followed_each"]["n"] == 834


def test_chat_tasks_are_asked_unnamed_only_of_models_that_chat(world: Path) -> None:
    assert [paper.task.name for paper in set_papers(EvaluateSettings(), world, None, chats=True)] == ["chat"]
    with pytest.raises(UserError, match="nothing to evaluate"):
        set_papers(EvaluateSettings(), world, None, chats=False)
    assert set_papers(EvaluateSettings(tasks=("chat",)), world, None, chats=False)


def test_a_folder_that_names_the_end_of_a_turn_knows_chat(tmp_path: Path) -> None:
    tokenizer = Tokenizer({bytes([i]): i for i in range(256)})
    save_model(tiny_model(), tmp_path / "base", bos_id=tokenizer.bos_id, eos_ids=[tokenizer.eos_id])
    tokenizer.save(tmp_path / "base")
    assert not knows_chat(tmp_path / "base")
    ends = [tokenizer.eos_id, tokenizer.eot_id]
    save_model(tiny_model(), tmp_path / "base", bos_id=tokenizer.bos_id, eos_ids=ends)
    assert knows_chat(tmp_path / "base")


def test_word_problems_and_programs_are_asked_in_chat_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = shared(BENCHMARKS)
    engine = ChatEngine(
        lambda dialog: "The answer is 18, for sure. #### 18|" if "eggs" in dialog else "def f(x): pass|"
    )
    metrics, samples = exam(engine, data, tmp_path, monkeypatch, tasks=("gsm8k", "humaneval"), limit=3)
    assert all(asked.startswith("[user]") and asked.endswith("|[assistant]") for asked in engine.asked)
    assert "Question:" not in engine.asked[0] and "Complete this function:" in engine.asked[-1]
    assert metrics["gsm8k"]["accuracy"]["n"] == 3 == len(samples)
    body, whole = "    return x + 1", "def add(x):\n    return x + 1"
    question = find_task("humaneval").load(data)[0]
    assert program_in(question, body) == question.text + body
    assert program_in(question, f"Sure:\n```python\n{whole}\n```") == f"{whole}\n"


def test_bad_requests_are_told_with_file_and_line(tmp_path: Path) -> None:
    good = {"messages": [{"role": "user", "content": "x"}], "check": {"kind": "number", "value": 1}}
    path = tmp_path / "test.jsonl"
    for bad, said in (
        ({**good, "check": {"kind": "rhyme"}}, "rhyme"),
        ({**good, "messages": []}, "messages must end"),
        ({"messages": good["messages"]}, "check is None"),
        ({"check": good["check"]}, "messages"),
    ):
        path.write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\n")
        with pytest.raises(UserError, match=rf"test\.jsonl line 2.*{said}"):
            read_requests(path)


def test_saying_it_again_and_again_is_noticed() -> None:
    assert repeats("the goat eats grass " * 5) and not repeats("the goat eats grass in the morning and rests at noon")
    assert not repeats("yes yes yes")


@pytest.mark.parametrize("ends", [True, False])
def test_a_real_base_model_is_asked_in_the_chat_format_and_ends_its_turn_or_not(
    ends: bool, world: Path, tmp_path: Path
) -> None:
    """All matrices zero but embedding and head, so the model says one token always: the turn's end, or the letter a."""
    tokenizer = Tokenizer({bytes([i]): i for i in range(256)})
    model = tiny_model(vocab_size=tokenizer.vocab_size, max_length=2048)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2:
                weight.fill_(1.0 if "embedding" in name else 0.0)
        model.head.weight[tokenizer.eot_id if ends else ord("a")] = 1.0
    save_model(model, tmp_path / "model", bos_id=tokenizer.bos_id, eos_ids=[tokenizer.eos_id])
    tokenizer.save(tmp_path / "model")
    (tmp_path / "out").mkdir()
    settings = EvaluateSettings(tasks=("chat",), limit=12, max_tokens=9)
    metrics = evaluate(settings, tmp_path / "model", world, None, tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out/samples/chat.jsonl").open(encoding="utf-8")]
    assert metrics["chat"]["ended"]["value"] == ends and metrics["chat"]["ended"]["n"] == 12
    assert {row["output"] for row in rows} == ({""} if ends else {"a" * 9})
    assert metrics["chat"]["tokens"]["value"] == (1 if ends else 9)
