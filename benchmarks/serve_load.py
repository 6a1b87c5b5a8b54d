"""A server under load: many clients at once, malformed requests, clients that vanish.

Starts `herdbook serve` on a random model in a process of its own and asks it from this one. Every answer is compared
with what an engine of its own gives for the same prompt and seed, so that a lost or mixed-up one is seen.

    python benchmarks/serve_load.py [--clients 64] [--requests 2000] [--malformed 10000] [--vanishing 1000]
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from herdbook.inference.engine import Engine, Sampling
from herdbook.machine import machine
from herdbook.model.config import ModelConfig
from herdbook.model.huggingface import save_model
from herdbook.model.transformer import Transformer
from herdbook.tokens.tokenizer import Tokenizer, special_names

RESULTS = Path(__file__).parent / "results"
TOKENS = 32  # of each answer
WRONG: list[tuple[str, Any]] = [
    ("prompt", {}),
    ("prompt", [[]]),
    ("prompt", [10**6]),
    ("temperature", "hot"),
    ("temperature", -1),
    ("top_p", 0),
    ("n", 1.5),
    ("n", 10**6),
    ("stop", [""]),
    ("seed", "x"),
    ("logit_bias", {"a": 1}),
    ("logprobs", True),
    ("model", "none"),
    ("guided_regex", "("),
    ("stream_options", {}),
]


def make_model(folder: Path) -> None:
    """A random model (dim 256, 4 layers, 512 tokens) and a tokenizer of bytes."""
    tokenizer = Tokenizer({bytes([value]): value for value in range(256)}, special_names(256))
    config = ModelConfig(
        vocab_size=tokenizer.vocab_size, dim=256, layers=4, heads=4, kv_heads=2, ffn_dim=768, max_length=1024
    )
    model = Transformer(config)
    model.initialize(0)
    save_model(model, folder, bos_id=tokenizer.bos_id, eos_ids=[tokenizer.eos_id])
    tokenizer.save(folder)


def body(place: int, **more: Any) -> dict[str, Any]:
    """The request of this number."""
    prompt = f"request {place}: " + "word " * (place % 23)
    return {"prompt": prompt, "max_tokens": TOKENS, "seed": place, "ignore_eos": True, **more}


async def stream(port: int, place: int) -> tuple[str, float, float]:
    """Text, seconds to the first token, seconds to the end, of one streamed answer."""
    start = time.perf_counter()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    data = json.dumps(body(place, stream=True)).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: {len(data)}\r\n"
    writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + data)
    first, text = 0.0, []
    async for line in reader:
        if line.startswith(b"data: {"):
            read = json.loads(line[6:])
            if "error" in read:
                raise RuntimeError(read["error"]["message"])
            first = first or time.perf_counter() - start
            text.append(read["choices"][0]["text"])
    writer.close()
    return "".join(text), first, time.perf_counter() - start


async def load(port: int, clients: int, requests: int) -> tuple[dict[int, str], list[float], list[float], float]:
    """The answers to `requests` requests from `clients` at once, times to first token and to the end, all seconds."""
    texts: dict[int, str] = {}
    firsts, ends = [], []
    left = iter(range(requests))

    async def client() -> None:
        for place in left:
            texts[place], first, end = await stream(port, place)
            firsts.append(first)
            ends.append(end)

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return texts, firsts, ends, time.perf_counter() - start


def malform(chance: random.Random) -> bytes:
    """A body that must be refused."""
    whole = json.dumps(body(1)).encode()
    match chance.randrange(5):
        case 0:
            return whole[: chance.randrange(1, len(whole))]
        case 1:
            return bytes(chance.randrange(256) for _ in range(chance.randrange(1, 60))) + b"{"
        case 2:
            field, value = chance.choice(WRONG)
            return json.dumps(body(1, **{field: value})).encode()
        case 3:
            return json.dumps(body(1, **{f"field{chance.randrange(99)}": 1})).encode()
        case _:
            return json.dumps(body(1, max_tokens=chance.randrange(1025, 10**9))).encode()


def send_malformed(port: int, count: int, connections: int = 8) -> dict[str, int]:
    """How often each status came back, over several connections at once."""

    def send(number: int) -> Counter[str]:
        chance, seen = random.Random(number), Counter[str]()
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        for _ in range(number, count, connections):
            connection.request("POST", "/v1/completions", malform(chance), {"Content-Type": "application/json"})
            response = connection.getresponse()
            response.read()
            seen[str(response.status)] += 1
        connection.close()
        return seen

    with ThreadPoolExecutor(connections) as pool:
        return dict(sum(pool.map(send, range(connections)), Counter[str]()))


async def vanish(port: int, count: int) -> None:
    """Clients that leave a long answer: every second one after it has begun, the others within 50 ms of asking."""
    chance = random.Random(1)
    limit = asyncio.Semaphore(32)

    async def one(place: int) -> None:
        async with limit:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            data = json.dumps(body(place, stream=bool(place % 2), max_tokens=800)).encode()
            head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(data)}\r\n"
            writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + data)
            await writer.drain()
            if place % 2:
                await reader.readuntil(b"data: ")  # its answer has begun
            await asyncio.sleep(chance.random() * 0.05)
            writer.close()

    await asyncio.gather(*(one(place) for place in range(count)))


def figures(port: int) -> dict[str, float]:
    """The server's own figures."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return {line.rsplit(" ", 1)[0]: float(line.rsplit(" ", 1)[1]) for line in lines if not line.startswith("#")}


def settle(port: int, seconds: float = 30.0) -> dict[str, float]:
    """The figures once nothing runs any more."""
    end = time.monotonic() + seconds
    while True:
        now = figures(port)
        busy = [now[name] for name in now if name.startswith(("herdbook_running{", "herdbook_waiting{"))]
        if not any(busy) or time.monotonic() > end:
            return now
        time.sleep(0.1)


def measure(port: int, process: int, args: argparse.Namespace, engine: Engine) -> dict[str, Any]:
    """All figures."""
    import psutil

    def done(what: str) -> None:
        print(f"  {time.strftime('%H:%M:%S')} {what}", file=sys.stderr, flush=True)

    done("serving")
    memory = psutil.Process(process)
    asyncio.run(load(port, 8, 32))  # warm
    cpu = sum(memory.cpu_times()[:2])
    texts, firsts, ends, seconds = asyncio.run(load(port, args.clients, args.requests))
    cpu = sum(memory.cpu_times()[:2]) - cpu
    done("answered")
    checked = range(0, args.requests, max(1, args.requests // args.checked))
    sampling = [Sampling(max_tokens=TOKENS, temperature=1.0, seed=place, ignore_end=True) for place in checked]
    alone = engine.generate([str(body(place)["prompt"]) for place in checked], sampling)
    wrong = sum(texts[place] != one.text for place, one in zip(checked, alone, strict=True))
    done("compared")
    idle_memory = memory.memory_info().rss
    refused = send_malformed(port, args.malformed)
    done("refused")
    asyncio.run(vanish(port, args.vanishing))
    after = settle(port)
    used = {
        name: value
        for name, value in after.items()
        if name.startswith(("herdbook_running{", "herdbook_waiting{", "herdbook_blocks_used{"))
    }
    again = asyncio.run(stream(port, 0))[0]
    return {
        "load_average": os.getloadavg(),  # 1, 5, 15 minutes: what else the machine did meanwhile
        "clients": args.clients,
        "requests": args.requests,
        "answered": len(texts),
        "checked": len(checked),
        "mixed_up": wrong,
        "seconds": seconds,
        "requests_per_second": len(texts) / seconds,
        "tokens_per_second": len(texts) * TOKENS / seconds,
        "server_cpu_seconds": cpu,
        "first_token_seconds": {f"p{q}": float(np.percentile(firsts, q)) for q in (50, 90, 99)},
        "end_seconds": {f"p{q}": float(np.percentile(ends, q)) for q in (50, 90, 99)},
        "malformed": {"sent": args.malformed, "statuses": refused},
        "vanished": {
            "clients": args.vanishing,
            "cancelled": sum(
                v for n, v in after.items() if n.startswith("herdbook_answers_total") and "cancelled" in n
            ),
            "left": used,
            "memory_grown_bytes": memory.memory_info().rss - idle_memory,
        },
        "same_answer_afterwards": again == texts[0],
    }


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--malformed", type=int, default=10_000)
    parser.add_argument("--vanishing", type=int, default=1000)
    parser.add_argument("--checked", type=int, default=2000, help="answers compared with an engine of its own")
    parser.add_argument("--threads", type=int, default=1, help="of the server's matrix products")
    parser.add_argument("--out", type=Path, default=RESULTS / "serve_load.json")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "loaded"
        make_model(folder)
        command = [sys.executable, "-m", "herdbook", "serve", str(folder), "--port", "0", "--dtype", "float32"]
        command += ["--threads", str(args.threads)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"}
        ) as process:
            assert process.stdout is not None
            try:
                port = int(process.stdout.readline().split("http://127.0.0.1:")[1].split("/")[0])
                import torch

                engine = Engine.load(folder, dtype=torch.float32)
                result = {"machine": machine(), **measure(port, process.pid, args, engine)}
            finally:
                process.send_signal(signal.SIGTERM)
            result["exit_code"] = process.wait(60)
    args.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
