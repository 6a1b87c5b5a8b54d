"""A model on several ranks gives the tokens and likelihoods of transformers, and of one process."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist

from herdbook.evaluate.bits import document_nats
from herdbook.inference.decode import Batch
from herdbook.inference.engine import Engine, Sampling
from herdbook.inference.layout import Layout, check_layout
from herdbook.inference.parallel import SpreadModel, follow
from herdbook.inference.pipeline import Member, micro_batches
from herdbook.inference.quantize import quantize_folder
from herdbook.inference.ranks import join
from herdbook.inference.speculative import SpeculativeEngine
from herdbook.model.huggingface import load_model, save_model
from herdbook.model.quantized import SCHEMES
from herdbook.model.rounded import RoundedLinear
from herdbook.settings import UserError
from tests.support.models import SHAPES, tiny_config, tiny_model, tiny_peer
from tests.support.ranks import RankFailed, run_ranks
from tests.support.tokenizers import byte_tokenizer

TOKENIZER = byte_tokenizer()
SIZE = {"vocab_size": TOKENIZER.vocab_size, "layers": 3}  # 267 words: 2 ranks do not divide them
RANDOM = random.Random(0)
PROMPTS = [[TOKENIZER.bos_id, *(RANDOM.randrange(256) for _ in range(n))] for n in (3, 17, 0, 40, 9, 25)]
ENDS = [[5, 6], [7], [1, 2, 3], [9], [], [200]]
ASKED = Sampling(max_tokens=12, logprobs=2, prompt_logprobs=1)


def saved(folder: Path, seed: int = 0, **changes: Any) -> Path:
    save_model(tiny_model(seed, **{**SIZE, **changes}), folder, bos_id=TOKENIZER.bos_id, eos_ids=[TOKENIZER.eos_id])
    return folder


def answers(engine: Engine) -> dict[str, Any]:
    """What an engine makes of all that can be asked of it."""
    drawn = Sampling(max_tokens=9, temperature=1.0, top_p=0.9, seed=3, stop_ids=tuple(range(0, 256, 16)))
    documents = [np.array(prompt) for prompt in PROMPTS if len(prompt) > 1]
    return {
        "greedy": engine.generate(PROMPTS, ASKED),
        "drawn": [one.token_ids for one in engine.generate(PROMPTS * 2, drawn)],
        "scores": engine.score(PROMPTS, ENDS),
        "nats": document_nats(engine.model, documents, 32, 0.5),
    }


def on_ranks(folder: Path, layout: Layout, work: Any, kind: type[Engine] = Engine, **options: Any) -> Any:
    """On every rank: `work` of an engine over all of them, on the first one; the others follow."""
    member = join(folder, layout, "cpu", None)
    if member.place.rank > 0:
        follow(member)
        return [tuple(weight.shape) for weight in member.share.parameters()]
    engine = kind(SpreadModel(member), TOKENIZER, [], **options)
    try:
        return work(engine)
    finally:
        engine.close()


def spread(
    folder: Path, work: Any = answers, kind: type[Engine] = Engine, *, options: Any = None, **layout: int
) -> Any:
    """What the first of a layout's ranks gives."""
    asked = Layout(**layout)
    return run_ranks(asked.ranks, lambda: on_ranks(folder, asked, work, kind, **(options or {})))[0]


def assert_same(got: dict[str, Any], want: dict[str, Any]) -> None:
    for one, other in zip(got["greedy"], want["greedy"], strict=True):
        assert (one.token_ids, one.text, one.finish_reason) == (other.token_ids, other.text, other.finish_reason)
        pairs = [*zip(one.logprobs, other.logprobs, strict=True)]
        pairs += [*zip(one.prompt_logprobs[1:], other.prompt_logprobs[1:], strict=True)]
        for mine, theirs in pairs:
            assert abs(mine.logprob - theirs.logprob) < 1e-4
            assert [token for token, _ in mine.top] == [token for token, _ in theirs.top]
    assert got["drawn"] == want["drawn"]
    assert [(s.tokens, s.greedy) for s in got["scores"]] == [(s.tokens, s.greedy) for s in want["scores"]]
    assert np.allclose([s.logprob for s in got["scores"]], [s.logprob for s in want["scores"]], atol=1e-4)
    assert np.allclose(got["nats"], want["nats"], atol=1e-3)


@pytest.mark.parametrize("shape", ["grouped tied", "one to one", "wide heads", "mixture"])
def test_tensor_parallel_answers_are_those_of_one_process(shape: str, tmp_path: Path) -> None:
    changes = {"experts": 4} if shape == "mixture" else SHAPES[shape]
    if changes.get("kv_heads") == 1:
        changes = {**changes, "kv_heads": 2}
    folder = saved(tmp_path, 3, **changes)
    want = answers(Engine(load_model(folder), TOKENIZER, []))
    assert_same(spread(folder, tensor_parallel=2), want)


def test_greedy_tokens_equal_transformers(tmp_path: Path) -> None:
    peer = tiny_peer(**SIZE)
    peer.save_pretrained(tmp_path)
    got = spread(tmp_path, tensor_parallel=2, pipeline_parallel=1)["greedy"]
    for prompt, completion in zip(PROMPTS, got, strict=True):
        ids = torch.tensor([prompt])
        with torch.no_grad():
            whole = torch.tensor([[*prompt, *completion.token_ids]])
            logprobs = peer(whole).logits[0].log_softmax(-1)
            out = peer.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, eos_token_id=None
            )
        assert completion.token_ids == out[0, len(prompt) :].tolist()
        for place, token in enumerate(completion.logprobs):
            assert abs(token.logprob - float(logprobs[len(prompt) - 1 + place, token.token])) < 1e-4


@pytest.mark.parametrize("parts", [1, 2, 4])
def test_pipeline_answers_are_those_of_one_process(parts: int, tmp_path: Path) -> None:
    folder = saved(tmp_path, 3, tied_embeddings=parts == 2)
    want = answers(Engine(load_model(folder), TOKENIZER, []))
    assert_same(spread(folder, pipeline_parallel=2, micro_batches=parts), want)


def test_small_caches_preemption_and_pieces_of_prompts_change_nothing(tmp_path: Path) -> None:
    folder = saved(tmp_path, 3)
    want = answers(Engine(load_model(folder), TOKENIZER, []))
    options = {"blocks": 9, "step_tokens": 7, "rows": 4}
    assert_same(spread(folder, pipeline_parallel=2, micro_batches=3, options=options), want)


@pytest.mark.slow
def test_stages_of_tensor_parallel_ranks(tmp_path: Path) -> None:
    folder = saved(tmp_path, 3)
    want = answers(Engine(load_model(folder), TOKENIZER, []))
    assert_same(spread(folder, tensor_parallel=2, pipeline_parallel=2), want)
    assert_same(spread(folder, tensor_parallel=2, pipeline_parallel=3, micro_batches=2), want)


def test_each_rank_has_its_part_of_weights_and_cache_alone(tmp_path: Path) -> None:
    folder = saved(tmp_path)

    def shapes(engine: Engine) -> Any:
        return tuple(engine.pool.keys.shape), engine.pool.blocks

    layout = Layout(tensor_parallel=2)
    (pool, blocks), follower = run_ranks(2, lambda: on_ranks(folder, layout, shapes, rows=2))
    assert pool == (3, blocks * 16, 1, 8)  # layers, places, one of two key heads, head width
    block = [(32,), (16, 32), (8, 32), (8, 32), (32, 16), (32,), (24, 32), (24, 32), (32, 24)]
    assert sorted(follower) == sorted([(134, 32), *block * 3, (32,), (134, 32)])


def test_stages_work_at_the_same_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second stage's first part and the first stage's second one wait for each other, so each runs within the
    other's time; were stages to take turns, neither would ever go on."""
    folder = saved(tmp_path)
    work = Member.work
    calls = [0, 0]

    def meeting(self: Member, x: torch.Tensor, part: Batch, cached: bool) -> torch.Tensor:
        stage, parts = self.place.stage, self.place.layout.parts
        number = calls[stage] % parts
        step, calls[stage] = calls[stage] // parts, calls[stage] + 1
        if number == 1 - stage:
            store = dist.distributed_c10d._get_default_store()
            store.set(f"{step}/{stage}", "")
            store.wait([f"{step}/{1 - stage}"])
        return work(self, x, part, cached)

    monkeypatch.setattr(Member, "work", meeting)
    want = Engine(load_model(folder), TOKENIZER, []).generate(PROMPTS, Sampling(max_tokens=5))
    got = spread(
        folder, lambda engine: engine.generate(PROMPTS, Sampling(max_tokens=5)), pipeline_parallel=2, micro_batches=2
    )
    assert [one.token_ids for one in got] == [one.token_ids for one in want]


def test_guesses_are_checked_on_several_ranks(tmp_path: Path) -> None:
    folder = saved(tmp_path, 5)
    prompts = [prompt * 2 for prompt in PROMPTS[:3]]

    def work(engine: Any) -> Any:
        found = [one.token_ids for one in engine.generate(prompts, Sampling(max_tokens=30))]
        return found, getattr(engine, "tried", 0)

    want, _ = work(Engine(load_model(folder), TOKENIZER, []))
    got, tried = spread(folder, work, SpeculativeEngine, options={"rows_guessed": 8}, tensor_parallel=2)
    assert got == want and tried > 0


@pytest.mark.parametrize("scheme", ["int4", pytest.param("int8", marks=pytest.mark.slow)])
def test_quantised_folders_stay_so_on_every_rank(scheme: str, tmp_path: Path) -> None:
    saved(tmp_path / "a", 3, dim=64, ffn_dim=128)
    TOKENIZER.save(tmp_path / "a")
    kind = replace(SCHEMES[scheme], group=32) if SCHEMES[scheme].group else SCHEMES[scheme]
    quantize_folder(tmp_path / "a", tmp_path / "b", kind, parts=("attention", "feed_forward"))
    want = answers(Engine(load_model(tmp_path / "b", rounded=True), TOKENIZER, [], compile="no"))
    assert_same(spread(tmp_path / "b", tensor_parallel=2), want)
    rounded = run_ranks(2, lambda: count_rounded(tmp_path / "b", Layout(tensor_parallel=2)))
    assert rounded == [21, 21]


def count_rounded(folder: Path, layout: Layout) -> int:
    share = join(folder, layout, "cpu", None).share
    return sum(isinstance(module, RoundedLinear) for module in share.modules())


def test_groups_of_a_quantised_matrix_are_not_cut_apart(tmp_path: Path) -> None:
    saved(tmp_path / "a", 3, dim=64, ffn_dim=128)
    TOKENIZER.save(tmp_path / "a")
    kind = replace(SCHEMES["int4"], group=64)
    quantize_folder(tmp_path / "a", tmp_path / "b", kind, parts=("attention", "feed_forward"))
    with pytest.raises(
        RankFailed, match="quantised in groups of 64 of its 64 inputs, which tensor_parallel=2 would cut"
    ):
        run_ranks(2, lambda: count_rounded(tmp_path / "b", Layout(tensor_parallel=2)))


def test_micro_batches_hold_every_token_once_and_in_order() -> None:
    chance = np.random.default_rng(0)
    for count in (1, 2, 3, 5, 50):
        for whole in (False, True):
            counts = np.array([1, 1, 1, 9, 4, 2], np.int32)
            total = int(counts.sum())
            wanted = np.flatnonzero(chance.random(total) < 0.5).astype(np.int32)
            pasts, tables = np.arange(6, dtype=np.int32) * 10, np.arange(18, dtype=np.int32).reshape(6, 3)
            batch = Batch(np.arange(total, dtype=np.int32), counts, pasts, tables, wanted)
            parts = micro_batches(batch, count, whole)
            assert len(parts) <= count and all(len(part.tokens) == part.counts.sum() > 0 for part in parts)
            assert np.concatenate([part.tokens for part in parts]).tolist() == list(range(total))
            assert np.concatenate([part.tokens[part.wanted] for part in parts]).tolist() == wanted.tolist()
            places: dict[int, list[int]] = {row: [] for row in range(6)}
            for part in parts:
                for table, past, new in zip(part.tables, part.pasts, part.counts, strict=True):
                    places[table[0] // 3] += range(past, past + new)
            assert places == {row: list(range(10 * row, 10 * row + counts[row])) for row in range(6)}
            if whole:
                assert sum(len(part.counts) for part in parts) == 6
            elif count <= 3:
                assert max(len(part.tokens) for part in parts) <= -(-total // count)


@pytest.mark.parametrize(
    ("layout", "shape", "said"),
    [
        ({"tensor_parallel": 3}, {}, "tensor_parallel=3 does not divide the model's heads=4; 1, 2, 4 would"),
        ({"tensor_parallel": 4}, {}, "kv_heads=2; 1, 2 would"),
        ({"tensor_parallel": 2}, {"ffn_dim": 47}, "ffn_dim=47"),
        ({"pipeline_parallel": 4}, {"layers": 3}, "pipeline_parallel=4, but the model has 3 layers"),
    ],
)
def test_layouts_that_do_not_fit_are_told(layout: dict[str, int], shape: dict[str, int], said: str) -> None:
    with pytest.raises(UserError, match=said):
        check_layout(Layout(**layout), tiny_config(**shape))


def test_micro_batches_need_stages() -> None:
    with pytest.raises(ValueError, match="set pipeline_parallel too"):
        Layout(micro_batches=2)
