"""Compiled code computes what the model's own modules compute, and each token's result alone, bit for bit."""

from __future__ import annotations

import platform
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from herdbook.inference import native
from herdbook.inference.decode import Batch, Eager
from herdbook.inference.engine import Engine, Sampling
from herdbook.inference.native import Native, build, native_runner, unfit
from herdbook.inference.sampler import Sampler
from herdbook.model.cache import KVPool
from herdbook.model.quantized import SCHEMES
from herdbook.model.rounded import RoundedLinear
from herdbook.model.transformer import Transformer
from herdbook.settings import UserError
from tests.support.models import SHAPES, rounded_model, tiny_model
from tests.support.tokenizers import byte_tokenizer

needs_compiler = pytest.mark.skipif(not shutil.which("g++"), reason="no g++ on this machine")
ODD: dict[str, dict[str, Any]] = {
    "odd widths": {"dim": 37, "heads": 3, "kv_heads": 1, "head_dim": 14, "ffn_dim": 51, "vocab_size": 101},
    "many queries of one key": {"dim": 76, "heads": 19, "kv_heads": 1, "head_dim": 32, "ffn_dim": 96},
    "wide": {"dim": 256, "heads": 2, "kv_heads": 1, "head_dim": 128, "ffn_dim": 320, "layers": 1},
    "deep": {"dim": 64, "heads": 4, "kv_heads": 2, "head_dim": 80, "ffn_dim": 130, "layers": 3},
}
BLOCKS: dict[str, Any] = {"dim": 64, "heads": 4, "kv_heads": 2, "ffn_dim": 96, "vocab_size": 131}
ROUNDED = ["int8 odd widths", "int8 wide", "int4 blocks", "int4 wide"]
DYNAMIC = ["int8_dynamic odd widths", "int8_dynamic wide"]


def compiled(model: Transformer, blocks: int = 20) -> Native:
    pool = KVPool(model.config, blocks, dtype=model.embedding.weight.dtype)
    runner = native_runner(model, pool, "yes")
    assert runner is not None
    return runner


def batch_of(tables: list[list[int]], pasts: list[int], news: list[list[int]]) -> Batch:
    """New tokens of each sequence, all of them wanted."""
    width = max(map(len, tables))
    tokens = [token for new in news for token in new]
    return Batch(
        np.array(tokens, np.int32),
        np.array([len(new) for new in news], np.int32),
        np.array(pasts, np.int32),
        np.array([[*table, *[0] * (width - len(table))] for table in tables], np.int32),
        np.arange(len(tokens), dtype=np.int32),
    )


def made(shape: str, dtype: torch.dtype = torch.float32) -> Transformer:
    """A model of a shape; of one called `int8 …` or `int4 …` the matrices are rounded."""
    name, _, rest = shape.partition(" ")
    if name not in SCHEMES:
        return tiny_model(**{**SHAPES, **ODD}[shape]).to(dtype)
    return rounded_model(tiny_model(**{**SHAPES, **ODD, "blocks": BLOCKS}[rest]).to(dtype), name)


@needs_compiler
@pytest.mark.parametrize("shape", [*SHAPES, *ODD, *ROUNDED])
@torch.inference_mode()
def test_logits_equal_the_models_own(shape: str) -> None:
    model = made(shape)
    runner, eager = compiled(model), Eager(model, KVPool(model.config, 20))
    rng = random.Random(0)
    tables = [[3, 9, 2, 11], [1, 7, 0, 5], [4, 6, 8, 10]]
    lengths = [0, 0, 0]
    for counts in ([33, 1, 18], [1, 5, 0], [1, 1, 1], [1, 1, 30]):
        going = sorted((i for i in range(3) if counts[i]), key=lambda i: counts[i])
        news = [[rng.randrange(97) for _ in range(counts[i])] for i in going]
        batch = batch_of([tables[i] for i in going], [lengths[i] for i in going], news)
        got, want = (run.head(run(batch)) for run in (runner, eager))
        assert (got - want).abs().max() < 2e-5 * want.abs().max()
        lengths = [length + count for length, count in zip(lengths, counts, strict=True)]
    assert (runner.pool.keys - eager.pool.keys).abs().max() < 1e-5
    assert (runner.pool.values - eager.pool.values).abs().max() < 1e-5


def read_in_pieces(runner: Native, tokens: list[int], sizes: list[int], others: int) -> Tensor:
    """Logits of all tokens, read in pieces of these sizes among `others` sequences."""
    parts, at = [], 0
    for size in sizes:
        neighbours = [[n + 1, at % 7, 5] for n in range(others)]
        tables = [[n + 10] for n in range(others)]
        tables += [[7, 3, 0, 1]]
        batch = batch_of(tables, [0] * others + [at], [*neighbours, tokens[at : at + size]])
        parts.append(runner.head(runner(batch))[-size:])
        at += size
    return torch.cat(parts)


@needs_compiler
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("shape", ["grouped", "odd widths", "wide", *ROUNDED, *DYNAMIC])
def test_a_tokens_result_is_the_same_to_the_bit_in_any_company(shape: str, dtype: torch.dtype) -> None:
    model = made(shape, dtype)
    rng = random.Random(1)
    tokens = [rng.randrange(97) for _ in range(60)]
    want = read_in_pieces(compiled(model), tokens, [60], 0)
    for sizes, others in (([1] * 60, 0), ([7, 1, 1, 51], 3), ([59, 1], 9), ([20, 20, 20], 1)):
        assert torch.equal(read_in_pieces(compiled(model), tokens, sizes, others), want)


@needs_compiler
@pytest.mark.parametrize("shape", ["grouped", "odd widths", "wide"])
def test_bfloat16_is_as_near_to_the_truth_as_torchs(shape: str) -> None:
    rounded = tiny_model(**{**SHAPES, **ODD}[shape]).bfloat16()
    tokens = [(7 * n) % 97 for n in range(60)]
    with torch.inference_mode():
        theirs = rounded(torch.tensor([tokens]))[0].float()
        got = read_in_pieces(compiled(rounded), tokens, [40, 1, 19], 2)
        truth = rounded.float()(torch.tensor([tokens]))[0]  # the same rounded weights, nothing else rounded
    error, torchs = ((x - truth).square().mean().sqrt() for x in (got, theirs))
    assert error < 1.2 * torchs
    assert error < 0.05 * truth.std()


@needs_compiler
@pytest.mark.parametrize("inputs", [256, 37, 320])
@torch.inference_mode()
def test_products_with_rounded_inputs_are_the_layers_own(inputs: int) -> None:
    # Of a whole model's logits little can be said: a largest number that is negative lies at a tie (-127.5), and falls
    # to either side with the last bit before it. So one layer, the head, for the same inputs, ties among them.
    model = rounded_model(tiny_model(dim=inputs, heads=1, kv_heads=1, head_dim=32, vocab_size=203), "int8_dynamic")
    hidden = torch.randn(31, inputs, generator=torch.Generator().manual_seed(0)) * torch.logspace(-4, 4, 31)[:, None]
    hidden[3] = 0
    hidden[4] = -hidden[5].abs()  # every largest number at a tie
    hidden[6] = hidden[6].round() * 0.5
    runner = compiled(model)
    want = model.head(hidden)
    for rows in (range(31), range(3, 5), range(9, 10)):
        got = runner.head(hidden[list(rows)])
        assert (got - want[list(rows)]).abs().max() <= 1e-6 * want.abs().max()
        assert torch.allclose(got, want[list(rows)], rtol=1e-6, atol=1e-30)


@needs_compiler
@pytest.mark.parametrize("shape", [*ROUNDED, *DYNAMIC])
def test_rounded_matrices_in_bfloat16_are_as_near_to_the_truth_as_torchs(shape: str) -> None:
    tokens = [(7 * n) % 97 for n in range(60)]
    with torch.inference_mode():
        half = made(shape, torch.bfloat16)
        theirs = half(torch.tensor([tokens]))[0].float()
        got = read_in_pieces(compiled(half), tokens, [40, 1, 19], 2)
        truth = half.float()
        for label, module in list(truth.named_modules()):
            if isinstance(module, RoundedLinear):  # the same numbers, multiplied as a dense matrix
                dense = torch.nn.Linear(module.in_features, module.out_features, bias=False)
                dense.weight.data = module.dense(torch.float32)
                truth.set_submodule(label, dense)
        truth_logits = truth(torch.tensor([tokens]))[0]
    error, torchs = ((x - truth_logits).square().mean().sqrt() for x in (got, theirs))
    assert error < 1.2 * torchs
    assert error < 0.05 * truth_logits.std()


@needs_compiler
def test_threads_change_nothing() -> None:
    runner = compiled(tiny_model())
    tokens = list(range(60))
    want = read_in_pieces(runner, tokens, [60], 4)
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            assert torch.equal(read_in_pieces(runner, tokens, [1, 59], 2), want)
    finally:
        torch.set_num_threads(before)


@needs_compiler
@pytest.mark.slow
@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors have other levels")
@pytest.mark.parametrize("level", ["x86-64", "x86-64-v3", "x86-64-v4"])
def test_processors_with_narrower_vectors_compute_the_same(
    level: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if level == "x86-64-v4" and "avx512bw" not in Path("/proc/cpuinfo").read_text():
        pytest.skip("this processor has no such vectors")
    monkeypatch.setattr(
        native, "FLAGS", tuple(f"-march={level}" if flag.startswith("-march") else flag for flag in native.FLAGS)
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    build.cache_clear()
    try:
        for inputs in (37, 320):
            test_products_with_rounded_inputs_are_the_layers_own(inputs)
        for shape in [*SHAPES, *ODD, *ROUNDED]:
            test_logits_equal_the_models_own(shape)
        for shape in ["grouped", "odd widths", *ROUNDED, *DYNAMIC]:
            for dtype in (torch.float32, torch.bfloat16):
                test_a_tokens_result_is_the_same_to_the_bit_in_any_company(shape, dtype)
    finally:
        build.cache_clear()


def test_models_that_compiled_code_cannot_run_say_why() -> None:
    assert unfit(tiny_model()) is None
    assert unfit(tiny_model(experts=4)) == "a mixture of experts"
    assert unfit(tiny_model().half()) == "weights are torch.float16"
    odd = tiny_model()
    odd.blocks[1].feed_forward.up = torch.nn.Sequential(odd.blocks[1].feed_forward.up)
    assert unfit(odd) == "blocks.1.feed_forward.up is Sequential"
    mixed = tiny_model()
    mixed.head.bfloat16()
    assert unfit(mixed) == "head.weight is of another type or layout"
    engine = Engine(tiny_model(experts=4, vocab_size=267), byte_tokenizer())  # auto: as it is
    assert isinstance(engine.runner, Eager)
    with pytest.raises(UserError, match="cannot be compiled: a mixture of experts"):
        native_runner(tiny_model(experts=4), engine.pool, "yes")


def test_without_a_compiler_the_model_runs_as_it_is(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    build.cache_clear()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("CXX", str(tmp_path / "none"))
    try:
        engine = Engine(tiny_model(vocab_size=267), byte_tokenizer())
        assert isinstance(engine.runner, Eager)
        assert engine.generate([[1, 2]], Sampling(max_tokens=3))[0].token_ids
        assert capsys.readouterr().err.count("compiled=no") == 1
        with pytest.raises(UserError, match="cannot be compiled"):
            Engine(tiny_model(vocab_size=267), byte_tokenizer(), compile="yes")
    finally:
        build.cache_clear()


def test_another_source_or_processor_is_another_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    first = native.library_path("g++")
    assert first == native.library_path("g++") != native.library_path("clang++")
    shutil.copytree(native.SOURCES, tmp_path / "csrc")
    with open(tmp_path / "csrc" / "vectors.h", "a") as file:
        file.write("\n")
    monkeypatch.setattr(native, "SOURCES", tmp_path / "csrc")
    assert native.library_path("g++") != first


@needs_compiler
@pytest.mark.parametrize("vocabulary", [5, 16, 300, 4099])
@pytest.mark.parametrize("spread", [0.0, 0.3, 3.0])
def test_compiled_draws_are_the_samplers(vocabulary: int, spread: float) -> None:
    runner = compiled(tiny_model())
    rng = random.Random(vocabulary)
    rows = 400
    samplings = [
        Sampling(
            temperature=rng.choice([0, 0.3, 1.0, 2.5, 1e-6]),
            top_k=rng.choice([0, 0, 1, 7, 2000]),
            top_p=rng.choice([1.0, 1.0, 0.9, 0.3, 1e-6]),
            min_p=rng.choice([0.0, 0.0, 0.05, 1.0]),
        )
        for _ in range(rows)
    ]
    logits = spread * torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(1))
    logits[::7, 1] = float("-inf")
    if spread:
        logits[::5, 0] = 9.0
    keys = [rng.randrange(2**63) for _ in range(rows)]
    plain = Sampler(samplings, keys, "cpu").draw(logits, list(range(rows)))
    got = Sampler(samplings, keys, "cpu", runner.draw).draw(logits, list(range(rows)))
    # Equal logits have no order of their own; else a draw may differ only where chance falls on a border's rounding.
    same = (got == plain) | ((spread == 0) & torch.isfinite(logits[range(rows), got]))
    assert (~same).sum() <= 1
    greedy = torch.tensor([sampling.temperature == 0 for sampling in samplings])
    assert torch.equal(got[greedy], plain[greedy])
