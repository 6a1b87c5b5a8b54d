"""vLLM behind our interface, by a stand-in for vLLM's: the same settings give the same results as our engine."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import openai
import pytest
import torch

from herdbook.inference.backends import choose_backend, load_engine
from herdbook.inference.engine import Engine, Sampling
from herdbook.inference.fleet import GenerateSettings
from herdbook.inference.fleet_worker import EngineWorker
from herdbook.inference.layout import Layout
from herdbook.inference.prompts import cut_parts
from herdbook.inference.request import Completion
from herdbook.inference.server.serve import Source, load
from herdbook.inference.server.settings import ServeSettings
from herdbook.inference.vllm_engine import Forms, VLLMEngine
from herdbook.model.huggingface import save_model
from herdbook.settings import UserError
from tests.support import fake_vllm
from tests.support.models import tiny_model
from tests.support.servers import Running
from tests.support.tokenizers import byte_tokenizer

TOKENIZER = byte_tokenizer()
PROMPTS = ["The cow", "A", [TOKENIZER.bos_id, 5, 6, 7]]
SETTINGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "logprobs": {"logprobs": 3, "prompt_logprobs": 2},
    "only the prompt": {"max_tokens": 0, "prompt_logprobs": 0},
    "presence": {"presence_penalty": 1.9, "max_tokens": 60},
    "frequency": {"frequency_penalty": 1.5, "max_tokens": 60},
    "repetition": {"repetition_penalty": 1.8, "max_tokens": 60},
    "bias": {"logit_bias": {65: 30.0}},
    "end": {"stop_ids": (65, 66), "logit_bias": {65: 50.0}},
    "the folder's end": {"logit_bias": {40: 50.0}},
    "no end": {"ignore_end": True, "max_tokens": 40, "logit_bias": {TOKENIZER.eos_id: 50.0}},
    "stop text": {"stop": ("never", "B", ""), "logit_bias": {65: 10.0, 66: 10.0}, "frequency_penalty": 1.0},
    "one at most": {"temperature": 0.7, "top_k": 1},
    "sure ones": {"temperature": 0.7, "top_p": 1e-6},
    "likely ones": {"temperature": 0.7, "min_p": 1.0},
}
ENDING = ("end", "the folder's end", "stop text")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    model = tiny_model(3, vocab_size=TOKENIZER.vocab_size, max_length=256)
    save_model(model, made, bos_id=TOKENIZER.bos_id, eos_ids=[TOKENIZER.eos_id, TOKENIZER.eot_id, 40])
    TOKENIZER.save(made)
    return made


@pytest.fixture
def theirs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> VLLMEngine:
    fake_vllm.install(monkeypatch)
    return VLLMEngine.load(folder)


def rounded(completion: Completion) -> Any:
    """A completion with its log-probabilities to five places."""

    def places(found: Any) -> Any:
        return found and [
            one and (one.token, round(one.logprob, 5), [(token, round(value, 5)) for token, value in one.top])
            for one in found
        ]

    told = completion.text, completion.token_ids, completion.finish_reason
    return *told, places(completion.logprobs), places(completion.prompt_logprobs)


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_and_results_mean_the_same(name: str, folder: Path, theirs: VLLMEngine) -> None:
    sampling = Sampling(**{"max_tokens": 12, **SETTINGS[name]})
    want = Engine.load(folder, device="cpu").generate(PROMPTS, sampling)
    assert [rounded(one) for one in theirs.generate(PROMPTS, sampling)] == [rounded(one) for one in want]
    assert name not in ENDING or {one.finish_reason for one in want} == {"stop"}
    for prompt, one in zip(PROMPTS, want, strict=True):
        assert "".join(theirs.stream(prompt, sampling)) == one.text
    assert theirs.workload.running == 0 and not theirs.llm.llm_engine.names


def test_scores_are_the_same(folder: Path, theirs: VLLMEngine) -> None:
    engine = Engine.load(folder, device="cpu")
    prompts = [[256, 1, 2], [256], [256, 9], [256, 9]]
    ends = [[3, 4], [7], [], engine.generate([[256, 9]], Sampling(max_tokens=3))[0].token_ids]
    want, got = engine.score(prompts, ends), theirs.score(prompts, ends)
    assert [(one.tokens, one.greedy) for one in got] == [(one.tokens, one.greedy) for one in want]
    assert [one.logprob for one in got] == pytest.approx([one.logprob for one in want], abs=1e-4)
    assert want[3].greedy and not want[0].greedy


def test_seeds_and_numbers_choose_answers(theirs: VLLMEngine) -> None:
    drawn = Sampling(max_tokens=9, temperature=1.0, seed=3)
    answers = theirs.generate(["Moo"] * 4, drawn)
    assert len({tuple(one.token_ids) for one in answers}) == 4
    assert theirs.generate(["Moo"] * 2, drawn, [2, 0]) == [answers[2], answers[0]]
    assert theirs.generate(["Moo"], drawn.model_copy(update={"seed": 4})) != answers[:1]


@pytest.mark.parametrize(
    ("form", "good"),
    [
        (Forms().choice(["red cow", "blue"]), lambda text: text in ("red cow", "blue")),
        (Forms().regex("[0-9]{3}"), lambda text: text.isdigit() and len(text) == 3),
        (Forms().lark('start: "moo" "!"'), lambda text: text == "moo!"),
        (Forms().json_schema({"type": "boolean"}), lambda text: text in ("true", "false")),
    ],
)
def test_answers_keep_to_forms(form: Any, good: Any, theirs: VLLMEngine) -> None:
    assert good(theirs.generate(["x"], Sampling(max_tokens=40, constraint=form))[0].text)


def test_cancelling_and_cutting_short(theirs: VLLMEngine) -> None:
    long, short = (theirs.submit([256, at], Sampling(max_tokens=20, ignore_end=True)) for at in (1, 2))
    theirs.step()
    theirs.cancel(long)
    while short.finish is None:
        assert theirs.step()
    assert len(short.ids) == 20 and len(long.ids) < 20 and long.finish is None and theirs.step() == []
    pieces = theirs.stream("x", Sampling(max_tokens=20, ignore_end=True))
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    assert not theirs.at_work and not theirs.llm.llm_engine.names


def test_the_server_answers_by_vllm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm.install(monkeypatch)
    served = load(Source("m", folder), ServeSettings(backend="vllm"))
    engine = Engine.load(folder, device="cpu")
    with Running({"m": served.engine}) as running:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{running.port}/v1", api_key="-")
        made = client.completions.create(model="m", prompt=["The cow", "A"], max_tokens=9, temperature=0)
        want = engine.generate(["The cow", "A"], Sampling(max_tokens=9))
        assert [one.text for one in made.choices] == [one.text for one in want]
        schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
        schema["additionalProperties"] = False
        form: Any = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
        messages: Any = [{"role": "user", "content": "hi"}]
        told = client.chat.completions.create(model="m", messages=messages, response_format=form, max_tokens=40)
        assert set(json.loads(told.choices[0].message.content or "")) == {"a"}
        assert client.models.list().data[0].id == "m"


def test_a_fleet_answers_by_vllm(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm.install(monkeypatch)
    file = tmp_path / "asked.jsonl"
    file.write_text("".join(json.dumps({"prompt": prompt}) + "\n" for prompt in PROMPTS))
    settings = GenerateSettings(n=2, sampling=Sampling(max_tokens=8), backend="vllm", token_ids=True)
    told = {"model": str(folder), "out": str(tmp_path), "engines": 1, "gpus": 0, "parent": 0}
    worker = EngineWorker(json.dumps({**told, "settings": settings.model_dump(mode="json")}))
    assert isinstance(worker.engine, VLLMEngine)
    worker.publish(cut_parts([file], 9)[0])
    rows = [json.loads(line) for line in (tmp_path / "part-000000.jsonl").read_text().split("\n") if line]
    want = Engine.load(folder, device="cpu").generate(PROMPTS, Sampling(max_tokens=8))
    assert [row["answers"][1]["token_ids"] for row in rows] == [one.token_ids for one in want]


def test_options_reach_vllm(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vllm.install(monkeypatch)
    layout = Layout(tensor_parallel=4, pipeline_parallel=2)
    load_engine(folder, "vllm", dtype="bfloat16", rows=7, layout=layout)
    options = fake_vllm.LLM.made[-1]
    assert (options["tensor_parallel_size"], options["pipeline_parallel_size"]) == (4, 2)
    assert (options["model"], options["dtype"], options["max_num_seqs"]) == (str(folder), "bfloat16", 7)


def test_auto_takes_vllm_where_it_is_and_has_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_backend("auto", None) == "own"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_backend("auto", None) == "own"
    fake_vllm.install(monkeypatch)
    assert choose_backend("auto", None) == choose_backend("auto", "cuda") == "vllm"
    assert choose_backend("auto", "cpu") == choose_backend("own", None) == "own"


def test_what_vllm_cannot_do_is_told(folder: Path, theirs: VLLMEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="vLLM refuses the request: presence_penalty must be in"):
        theirs.generate(["x"], Sampling(presence_penalty=3.0))
    with pytest.raises(UserError, match="vLLM keeps to forms that it makes itself"):
        theirs.generate(["x"], Sampling(constraint=object()))
    with pytest.raises(UserError, match="prompt 1 has 300 tokens"):
        theirs.generate(["x", [256] * 300])
    with pytest.raises(UserError, match="vLLM chooses its devices itself"):
        VLLMEngine.load(folder, device="cuda:1")
    with pytest.raises(UserError, match="vLLM cuts its batches itself"):
        VLLMEngine.load(folder, layout=Layout(pipeline_parallel=2, micro_batches=4))
    with pytest.raises(ValueError, match="backend=vllm knows no guesses"):
        ServeSettings(backend="vllm", guess="ngrams")
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"pip install 'herdbook\[vllm\]'"):
        load_engine(folder, "vllm")
