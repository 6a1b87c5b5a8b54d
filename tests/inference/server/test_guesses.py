"""Served models whose tokens a smaller one guesses: the same answers, and figures that tell what it was worth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import openai
import pytest
import torch

from herdbook.inference.engine import Engine, Sampling
from herdbook.inference.quantize import quantize_folder
from herdbook.inference.server.serve import Source, load, load_draft
from herdbook.inference.server.settings import ServeSettings
from herdbook.model.huggingface import save_model
from herdbook.model.quantized import SCHEMES
from herdbook.settings import UserError
from tests.support.models import tiny_model
from tests.support.servers import Running
from tests.support.tokenizers import byte_tokenizer

TOKENIZER = byte_tokenizer()
PROMPTS = ["Once upon", "A cow", "The third prompt"]


def saved(folder: Path, seed: int = 0, tokenizer: Any = TOKENIZER) -> Path:
    model = tiny_model(seed, vocab_size=tokenizer.vocab_size, dim=64, ffn_dim=128, max_length=256)
    save_model(model, folder, bos_id=tokenizer.bos_id, eos_ids=[tokenizer.eos_id])
    tokenizer.save(folder)
    return folder


def test_a_quantised_model_with_a_quantised_draft_answers_as_alone(tmp_path: Path) -> None:
    saved(tmp_path / "whole")
    quantize_folder(tmp_path / "whole", tmp_path / "int8", SCHEMES["int8"])
    quantize_folder(tmp_path / "whole", tmp_path / "int4", replace(SCHEMES["int4"], group=32))
    settings = ServeSettings(draft=tmp_path / "int4", port=0, dtype="float32")
    served = load(Source("m", tmp_path / "int8"), settings, load_draft(settings))
    engine = Engine.load(tmp_path / "int8", dtype=torch.float32)
    sampling = Sampling(max_tokens=40, temperature=0.8, seed=4, ignore_end=True)
    want = [engine.generate([prompt], sampling)[0].text for prompt in PROMPTS]
    with Running({"m": served.engine}) as running:
        client = openai.OpenAI(base_url=f"http://127.0.0.1:{running.port}/v1", api_key="-")
        more = {"max_tokens": 40, "temperature": 0.8, "seed": 4, "extra_body": {"ignore_eos": True}}
        # One at a time, since on a CPU tokens are guessed for a single answer only.
        got = [client.completions.create(model="m", prompt=prompt, **more).choices[0].text for prompt in PROMPTS]
        assert got == want
        text = running.service.metrics.text().decode()
    figures = {
        name: float(line.split()[-1])
        for line in text.splitlines()
        for name in ("guessed_total", "guessed_right_total")
        if line.startswith(f'herdbook_{name}{{model="m"}}')
    }
    assert figures["guessed_total"] > figures["guessed_right_total"] > 0.3 * figures["guessed_total"]


def test_a_draft_of_another_tokenizer_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "model")
    saved(tmp_path / "draft", tokenizer=byte_tokenizer(("moo",)))
    settings = ServeSettings(draft=tmp_path / "draft", dtype="float32")
    with pytest.raises(UserError, match="the draft model has another tokenizer"):
        load(Source("m", tmp_path / "model"), settings, load_draft(settings))


def test_guesses_come_from_one_place() -> None:
    with pytest.raises(ValueError, match="guesses come from one of them"):
        ServeSettings(draft=Path("small"), guess="ngrams")
