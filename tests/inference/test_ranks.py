"""The other ranks are started by the command, answer with it, and end with it, however it ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import psutil
import pytest

from herdbook.inference import parallel
from herdbook.inference.engine import Engine, Sampling
from herdbook.inference.layout import Layout
from herdbook.inference.parallel import RanksLost, SpreadModel, follow
from herdbook.inference.ranks import join, load_spread
from herdbook.inference.server.errors import ApiError
from herdbook.inference.server.metrics import Metrics
from herdbook.inference.server.service import Ask, Service
from herdbook.model.huggingface import save_model
from herdbook.settings import UserError
from tests.inference.ranks_driver import PROMPTS
from tests.support.models import tiny_model
from tests.support.ranks import RankFailed, run_ranks
from tests.support.tokenizers import byte_tokenizer

TOKENIZER = byte_tokenizer()
SIZE = {"vocab_size": TOKENIZER.vocab_size, "layers": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("model")
    save_model(tiny_model(3, **SIZE), made, bos_id=TOKENIZER.bos_id, eos_ids=[TOKENIZER.eos_id])
    TOKENIZER.save(made)
    return made


@contextmanager
def driver(folder: Path, **layout: int) -> Iterator[tuple[subprocess.Popen[str], list[int]]]:
    words = [sys.executable, "-m", "tests.inference.ranks_driver", str(folder), json.dumps(layout)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    others: list[int] = []
    try:
        others = json.loads(process.stdout.readline())
        yield process, others
    finally:
        for left in (process.pid, *others):
            if psutil.pid_exists(left):
                os.kill(left, signal.SIGKILL)
        process.wait()


def ask(process: subprocess.Popen[str]) -> Any:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write("go\n")
    process.stdin.flush()
    return json.loads(process.stdout.readline())


def gone(pids: list[int], seconds: float = 20.0) -> bool:
    end = time.monotonic() + seconds
    while any(psutil.pid_exists(pid) and psutil.Process(pid).status() != "zombie" for pid in pids):
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def test_started_ranks_answer_and_one_that_is_lost_is_told(folder: Path) -> None:
    want = [one.token_ids for one in Engine.load(folder).generate(PROMPTS, Sampling(max_tokens=20))]
    with driver(folder, tensor_parallel=2) as (process, others):
        assert len(others) == 1
        assert ask(process) == want
        os.kill(others[0], signal.SIGINT)  # a terminal's Ctrl-C goes to all; the first rank decides
        assert ask(process) == want
        os.kill(others[0], signal.SIGKILL)
        assert "a rank has failed or is gone" in ask(process)
        assert "load it again" in ask(process)
        process.communicate(timeout=60)
        assert process.returncode == 0


@pytest.mark.slow
def test_ranks_end_with_the_first_one_that_is_killed(folder: Path) -> None:
    with driver(folder, pipeline_parallel=2) as (process, others):
        process.kill()
        assert gone(others)


def test_a_folder_that_lacks_a_weight_is_told_by_every_rank(folder: Path, tmp_path: Path) -> None:
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 4}))
    with pytest.raises(RankFailed, match=r"rank 0:(?s:.)*UserError(?s:.)*lacks 9 weights(?s:.)*rank 1:"):
        run_ranks(2, lambda: join(tmp_path, Layout(pipeline_parallel=2), "cpu", None))


def test_after_a_failed_pass_nothing_more_is_begun(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def work() -> list[str]:
        member = join(folder, Layout(tensor_parallel=2), "cpu", None)
        if member.place.rank:
            follow(member)
            return []
        engine = Engine(SpreadModel(member), TOKENIZER, [])
        monkeypatch.setattr(parallel, "tell", lambda *_: 1 / 0)
        said = []
        for _ in range(2):
            with pytest.raises(RanksLost) as told:
                engine.generate(PROMPTS, Sampling(max_tokens=2))
            said.append(str(told.value))
        monkeypatch.undo()
        parallel.tell(parallel.END)
        return said

    first, second = run_ranks(2, work)[0]
    assert "ZeroDivisionError" in first and "load it again" in second


def test_a_server_whose_ranks_are_lost_says_that_it_is_broken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(service: Service) -> list[str]:
        service.start()
        said = []
        for _ in range(2):
            with pytest.raises(ApiError) as told:
                async for _ in service.open("m", [Ask(PROMPTS[0], Sampling(max_tokens=2))]):
                    pass
            said.append(f"{told.value.status} {told.value}")
        service.stop()
        return said

    def work() -> list[str]:
        engine = Engine(SpreadModel(join(folder, Layout(), "cpu", None)), TOKENIZER, [])
        monkeypatch.setattr(parallel, "tell", lambda *_: 1 / 0)
        return asyncio.run(ask(Service({"m": engine}, 8, Metrics())))

    first, second = run_ranks(1, work)[0]
    assert first.startswith("500") and second.startswith("503") and "has failed" in second


def test_followers_end_when_the_first_rank_is_gone(folder: Path, tmp_path: Path) -> None:
    def work() -> None:
        member = join(folder, Layout(tensor_parallel=2), "cpu", None)
        if member.place.rank == 0:
            os._exit(1)
        follow(member)
        (tmp_path / "ended").touch()

    with pytest.raises(RankFailed):
        run_ranks(2, work)
    assert (tmp_path / "ended").exists()


@pytest.mark.parametrize(
    ("layout", "device", "said"),
    [
        ({"tensor_parallel": 3}, None, "tensor_parallel=3 does not divide"),
        ({"pipeline_parallel": 2}, "cuda:1", "each rank takes a device of its own"),
    ],
)
def test_what_cannot_be_is_told_before_a_process_is_started(
    layout: dict[str, int], device: str | None, said: str, folder: Path
) -> None:
    with pytest.raises(UserError, match=said):
        load_spread(folder, Layout(**layout), device)


def test_only_hugging_face_folders_lie_on_several_ranks(tmp_path: Path) -> None:
    (tmp_path / "params.json").write_text("{}")
    with pytest.raises(UserError, match="only Hugging Face folders are read on several ranks"):
        load_spread(tmp_path, Layout(tensor_parallel=2))


@pytest.mark.slow
def test_under_torchrun_the_first_rank_talks_and_the_others_follow(folder: Path) -> None:
    want = Engine.load(folder).generate(["Moo"], Sampling(max_tokens=8))[0]
    words = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "4", "-m", "herdbook", "chat"]
    words += [str(folder), "--tensor-parallel", "2", "--pipeline-parallel", "2", "--temperature", "0"]
    words += ["--max-tokens", "8"]
    done = subprocess.run(words, input="Moo\n", capture_output=True, text=True, timeout=300, check=True)
    shown = "".join(c for c in want.text if c.isprintable())
    assert shown in done.stdout and "8 tokens" in done.stdout
    assert done.stdout.count("parameters, context") == 1


@pytest.mark.slow
def test_a_server_over_two_ranks_answers_with_guesses_and_ends_well(folder: Path) -> None:
    want = Engine.load(folder).generate(["Moo"], Sampling(max_tokens=12))[0].text
    words = [sys.executable, "-m", "herdbook", "serve", str(folder), "--port", "0", "--tensor-parallel", "2"]
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(
        [*words, "--draft", str(folder)], stdout=subprocess.PIPE, text=True, env=environment
    ) as server:
        assert server.stdout is not None
        url = server.stdout.readline().split(" at ")[1].split(",")[0].strip()
        others = [child.pid for child in psutil.Process(server.pid).children()]
        client = openai.OpenAI(base_url=url, api_key="-", max_retries=20)
        made = client.completions.create(model=folder.name, prompt="Moo", max_tokens=12, temperature=0)
        assert made.choices[0].text == want and len(others) == 1
        server.send_signal(signal.SIGTERM)
        assert server.wait(60) == 0 and gone(others)
