"""Who and what is let in, how much at once, what happens when clients vanish, and how the server ends."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import openai
import pytest

from herdbook.inference.engine import Engine
from herdbook.inference.server.serve import listen
from herdbook.inference.server.settings import ServeSettings
from herdbook.model.huggingface import save_model
from herdbook.settings import UserError
from tests.support.servers import TOKENIZER, Running, chat_engine

LONG = {"model": "base", "prompt": "x", "max_tokens": 3000, "ignore_eos": True}


def long_engine() -> Engine:
    return chat_engine(1, taught=False, max_length=4096)


def test_a_key_is_asked_for_where_it_protects() -> None:
    with Running({"base": chat_engine(1, taught=False)}, api_key="sesame") as server:
        for wrong in ("none", "sesam", "sesame2", "", "ключ"):
            headers = {"Authorization": f"Bearer {wrong}".encode().decode("latin-1")}
            status, answer_headers, body = server.ask("/v1/models", headers=headers)
            assert status == 401 and body["error"]["code"] == "invalid_api_key"
            assert answer_headers["www-authenticate"] == "Bearer"
        assert server.ask("/v1/completions", {"prompt": "x"})[0] == 401
        assert server.ask("/metrics")[0] == 401 and server.ask("/health")[0] == 200
        with pytest.raises(openai.AuthenticationError, match="wants its API key"):
            server.openai("other").models.list()
        assert [model.id for model in server.openai("sesame").models.list()] == ["base"]


def test_a_local_server_answers_to_its_own_names_only(server: Running) -> None:
    status, _, body = server.ask("/v1/models", headers={"Host": "evil.example:8000"})
    assert status == 403 and "evil.example" in body["error"]["message"]
    for name in (f"localhost:{server.port}", "127.0.0.1", "[::1]:80"):
        assert server.ask("/v1/models", headers={"Host": name})[0] == 200
    with Running({"base": chat_engine(1, taught=False)}, names=("cow.example",)) as other:
        assert other.ask("/health", headers={"Host": "cow.example"})[0] == 200
        assert other.ask("/health")[0] == 403


def test_what_does_not_fit_is_told_with_the_numbers(server: Running) -> None:
    client = server.openai()
    with pytest.raises(openai.BadRequestError, match=r"has 601 tokens; base holds 512") as told:
        client.completions.create(model="base", prompt="x" * 600)
    assert told.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError, match=r"has 101 tokens and the answer may have 500: together 601"):
        client.completions.create(model="base", prompt="x" * 100, max_tokens=500)
    with Running({"base": chat_engine(1, taught=False)}, prompt_tokens=10, body_bytes=2000) as small:
        with pytest.raises(openai.BadRequestError, match="has 12 tokens; this server takes at most 10"):
            small.openai().completions.create(model="base", prompt="x" * 11)
        with pytest.raises(openai.APIStatusError, match="larger than the 2,000 bytes") as large:
            small.openai().completions.create(model="base", prompt="x" * 3000)
        assert large.value.status_code == 413
        with socket.create_connection(("127.0.0.1", small.port)) as raw:  # a body whose size is not told beforehand
            raw.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n")
            raw.sendall(b"Transfer-Encoding: chunked\r\n\r\n" + b"3e8\r\n" + b"x" * 1000 + b"\r\n")
            raw.sendall((b"3e8\r\n" + b"x" * 1000 + b"\r\n") * 2)
            assert raw.recv(100).startswith(b"HTTP/1.1 413")


def test_too_much_at_once_is_refused_and_room_comes_back() -> None:
    with Running({"base": long_engine()}, rows=1, queue=1) as server:
        client = server.openai()
        streams = [client.completions.create(**without(LONG), stream=True, extra_body=IGNORE) for _ in range(2)]
        next(iter(streams[0]))
        with pytest.raises(openai.RateLimitError, match="2 answers are under way") as refused:
            client.completions.create(model="base", prompt="x", max_tokens=1)
        assert 1 <= int(refused.value.response.headers["retry-after"]) <= 60
        with pytest.raises(openai.BadRequestError, match="3 answers are asked for at once"):
            client.completions.create(model="base", prompt="x", max_tokens=1, n=3)
        assert "herdbook_refused_total" in server.ask("/metrics")[2]
        for stream in streams:
            stream.close()
        server.wait(lambda: server.service.idle)
        assert client.completions.create(model="base", prompt="x", max_tokens=1).usage.completion_tokens == 1


IGNORE = {"ignore_eos": True}


def without(body: dict[str, Any]) -> dict[str, Any]:
    """The fields that the official client knows."""
    return {key: value for key, value in body.items() if key not in IGNORE}


@pytest.mark.parametrize("stream", [False, True])
def test_who_vanishes_frees_all_he_held(stream: bool) -> None:
    engine = long_engine()
    with Running({"base": engine}, rows=4) as server:
        for _ in range(6):
            with socket.create_connection(("127.0.0.1", server.port)) as raw:
                data = json.dumps({**LONG, "n": 3, "stream": stream}).encode()
                head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
                raw.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + data)
                server.wait(lambda: server.service.loads["base"].running > 0)
            server.wait(lambda: server.service.idle and server.service.loads["base"].running == 0)
            assert server.service.loads["base"].waiting == 0 and server.service.loads["base"].blocks_used == 0
        assert server.service.flying == {"base": 0}
        cancelled = server.ask("/metrics")[2]
        assert 'herdbook_answers_total{model="base",reason="cancelled"} 18.0' in cancelled


def test_a_signal_lets_answers_end_and_nothing_new_begin() -> None:
    with Running({"base": chat_engine(1, taught=False, max_length=4096)}) as server:
        client = server.openai()
        stream = client.completions.create(model="base", prompt="x", max_tokens=400, stream=True, extra_body=IGNORE)
        next(iter(stream))
        server.server.handle_exit(signal.SIGTERM, None)
        with pytest.raises(openai.InternalServerError, match="shutting down") as refused:
            client.completions.create(model="base", prompt="x")
        assert refused.value.status_code == 503 and "retry-after" in refused.value.response.headers
        assert server.ask("/health")[::2] == (503, {"status": "draining"})
        assert [chunk.choices[0].finish_reason for chunk in stream][-1] == "length"
        server.thread.join(10)
        assert not server.thread.is_alive()


def test_draining_has_an_end() -> None:
    with Running({"base": chat_engine(1, taught=False, max_length=40_000)}, drain_seconds=0.2) as server:
        body = {"model": "base", "prompt": "x", "max_tokens": 39_000}
        stream = server.openai().completions.create(**body, stream=True, extra_body=IGNORE)
        server.server.handle_exit(signal.SIGTERM, None)
        with pytest.raises(openai.APIError, match="shutting down"):
            list(stream)
        server.thread.join(10)
        assert not server.thread.is_alive()


def test_a_failing_engine_fails_its_requests_and_goes_on(capsys: pytest.CaptureFixture[str]) -> None:
    engine = chat_engine(1, taught=False)
    with Running({"base": engine}) as server:
        step, engine.step = engine.step, lambda: 1 // 0  # type: ignore[method-assign, assignment, return-value]
        with pytest.raises(openai.InternalServerError, match="the server's log says why"):
            server.openai().completions.create(model="base", prompt="x")
        engine.step = step  # type: ignore[method-assign]
        got = server.openai().completions.create(model="base", prompt="x", max_tokens=3, extra_body=IGNORE)
        assert got.usage.completion_tokens == 3 and engine.workload.blocks_used == 0
        assert 'herdbook_engine_failures_total{model="base"} 1.0' in server.ask("/metrics")[2]
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_figures_count_what_happened(server: Running) -> None:
    def figure(name: str) -> float:
        lines = server.ask("/metrics")[2].splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    names = ('herdbook_generated_tokens_total{model="base"}', 'herdbook_prompt_tokens_total{model="base"}')
    before = [figure(name) for name in names]
    server.openai().completions.create(model="base", prompt="four", max_tokens=7, temperature=0, extra_body=IGNORE)
    assert [figure(name) for name in names] == [before[0] + 7, before[1] + 5]
    assert figure("herdbook_first_token_seconds_count") >= 1 and figure("herdbook_blocks{") > 0


def test_a_taken_address_is_told_in_a_line() -> None:
    with listen(ServeSettings(port=0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match=f"cannot listen on 127.0.0.1 port {port}"):
            listen(ServeSettings(port=port))


def test_the_command_serves_and_ends_well_on_sigterm(tmp_path: Path) -> None:
    engine = chat_engine(0)
    save_model(engine.model, tmp_path / "tiny", bos_id=TOKENIZER.bos_id, eos_ids=sorted(engine.stop_ids))
    TOKENIZER.save(tmp_path / "tiny")
    command = [sys.executable, "-m", "herdbook", "serve", str(tmp_path / "tiny"), "--port", "0"]
    environment = {**os.environ, "HERDBOOK_API_KEY": "sesame", "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        killer = threading.Timer(180, process.kill)
        killer.start()
        line = process.stdout.readline()
        assert line.startswith("serving tiny at http://127.0.0.1:")
        url = line.split(" at ")[1].split(",")[0].strip()
        client = openai.OpenAI(base_url=url, api_key="sesame", max_retries=20)
        got = client.completions.create(model="tiny", prompt="Once", max_tokens=5, temperature=0)
        assert got.choices[0].text == engine.generate(["Once"]).pop(0).text[: len(got.choices[0].text)]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
        killer.cancel()
