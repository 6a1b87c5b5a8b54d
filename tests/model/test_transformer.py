"""The decoder: packed rows equal loose documents, cached steps equal the whole, drawing is reproducible."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from herdbook.model import attention
from herdbook.model.cache import KVPool
from herdbook.model.config import PRESETS, ModelConfig, RopeScaling, preset
from herdbook.model.documents import Documents
from herdbook.model.rope import frequencies
from herdbook.model.transformer import Transformer
from herdbook.settings import UserError
from tests.support.models import SHAPES, tiny_config, tiny_model


def random_tokens(*shape: int, seed: int = 0) -> Tensor:
    return torch.randint(0, 97, shape, generator=torch.Generator().manual_seed(seed))


rows_of_runs = st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=5), min_size=1, max_size=3)


def ids_of(rows: list[list[int]]) -> Tensor:
    """Document ids of rows given as run lengths, padded to equal length with a document of its own."""
    time = max(map(sum, rows))
    filled = [[i % 2 for i, run in enumerate(row) for _ in range(run)] + [9] * (time - sum(row)) for row in rows]
    return torch.tensor(filled)


@settings(max_examples=40, deadline=None)
@given(rows_of_runs)
def test_documents_are_the_maximal_runs(rows: list[list[int]]) -> None:
    ids = ids_of(rows)
    documents = Documents.from_ids(ids)
    spans, positions = [], torch.zeros_like(ids)
    for row, line in enumerate(ids.tolist()):
        start = 0
        for at in range(1, len(line) + 1):
            positions[row, at - 1] = at - 1 - start
            if at == len(line) or line[at] != line[at - 1]:
                spans.append((row, start, at))
                start = at
    assert documents.spans == spans
    assert torch.equal(documents.positions, positions)
    assert documents.borders.tolist() == [0] + [r * ids.shape[1] + e for r, _, e in spans]
    assert documents.mean_attended == pytest.approx(documents.mask.sum().item() / ids.numel())
    for row, start, end in spans:
        assert documents.mask[row, 0, start:end, start:end].equal(torch.ones(end - start, end - start).tril().bool())
    assert documents.mask.sum() == sum((e - s) * (e - s + 1) // 2 for _, s, e in spans)


@settings(max_examples=25, deadline=None)
@given(rows_of_runs)
def test_packed_rows_equal_loose_documents(rows: list[list[int]]) -> None:
    model, ids = tiny_model(), ids_of(rows)
    tokens = random_tokens(*ids.shape)
    documents = Documents.from_ids(ids)
    with torch.no_grad():
        packed = model(tokens, documents)
        for row, start, end in documents.spans:
            loose = model(tokens[row : row + 1, start:end])[0]
            assert (packed[row, start:end] - loose).abs().max() < 1e-5


def test_no_gradient_crosses_a_document_border() -> None:
    model = tiny_model()
    tokens = random_tokens(1, 20)
    documents = Documents.from_lengths([7, 13])
    rotation = model.rope.rotation(documents.positions)
    embedded = model.embedding(tokens).detach().requires_grad_(True)
    x = embedded
    for block in model.blocks:
        x = block(x, rotation, documents)
    x[0, 9].sum().backward()
    assert embedded.grad is not None
    moved = embedded.grad[0].abs().sum(-1) > 0
    assert moved.tolist() == [False] * 7 + [True] * 3 + [False] * 10


@pytest.mark.parametrize("kv_heads", [1, 2, 4])
def test_every_way_to_attend_gives_the_same(kv_heads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(1)
    query = torch.randn(2, 24, 4, 8, generator=generator, requires_grad=True)
    key = torch.randn(2, 24, kv_heads, 8, generator=generator, requires_grad=True)
    value = torch.randn(2, 24, kv_heads, 8, generator=generator, requires_grad=True)
    documents = Documents.from_ids(ids_of([[3, 1, 8, 12], [5, 19]]))
    scores = torch.einsum("bthd,bshd->bhts", query, key.repeat_interleave(4 // kv_heads, 2)) / 8**0.5
    weights = scores.masked_fill(~documents.mask, float("-inf")).softmax(-1)
    want = torch.einsum("bhts,bshd->bthd", weights, value.repeat_interleave(4 // kv_heads, 2))
    want_grad = torch.autograd.grad(want.square().sum(), (query, key, value))

    def varlen(
        q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int, *, window_size: Any
    ):
        assert window_size == (-1, 0) and cu_q.dtype == torch.int32 and max_q == max_k == 19 and q.shape == k.shape
        out = torch.zeros_like(q)
        for start, end in zip(cu_q.tolist()[:-1], cu_q.tolist()[1:], strict=True):
            parts = (x[start:end].transpose(0, 1) for x in (q, k, v))
            out[start:end] = F.scaled_dot_product_attention(*parts, is_causal=True).transpose(0, 1)
        return out

    def grouped(*args: Any, window_size: Any, enable_gqa: bool = False) -> Tensor:
        q, k, v, *borders = args
        assert enable_gqa == (k.shape[1] < 4) and k.shape[1] == kv_heads
        return varlen(q, *(x.repeat_interleave(4 // kv_heads, 1) for x in (k, v)), *borders, window_size=window_size)

    ways = {
        "variable length, grouped": attention._variable_length(grouped, query, key, value, documents),
        "per document": attention.attend(query, key, value, documents),
        "mask": attention._causal(query, key, value, documents.mask),
        "variable length": attention._variable_length(varlen, query, key, value, documents),
    }
    for way, got in ways.items():
        assert (got - want).abs().max() < 1e-5, way
        for ours, reference in zip(
            torch.autograd.grad(got.square().sum(), (query, key, value)), want_grad, strict=True
        ):
            assert (ours - reference).abs().max() < 1e-4, way


@pytest.mark.parametrize("shape", SHAPES)
def test_cached_pieces_equal_the_whole(shape: str) -> None:
    """Three sequences, their blocks scattered over the pool, read in pieces of different sizes."""
    model = tiny_model(**SHAPES[shape])
    tokens = random_tokens(3, 40)
    pool = KVPool(model.config, 17, block=8)
    pool.keys.fill_(30.0)  # left over from others: must not be looked at
    pool.values.fill_(30.0)
    tables = [[16, 0, 8, 3, 5], [1, 2, 4, 6, 7], [15, 9, 14, 10, 13]]
    got: list[list[Tensor]] = [[], [], []]
    steps = [
        ((0, 17), (0, 1), (0, 8)),
        ((17, 18), (1, 2), (8, 9)),
        ((18, 40), (2, 30), (9, 10)),
        (None, (30, 40), None),
    ]
    with torch.no_grad():
        for spans in [*steps, (None, None, (10, 40))]:
            going = sorted((i for i in range(3) if spans[i]), key=lambda i: spans[i][1] - spans[i][0])
            new = torch.cat([tokens[i, slice(*spans[i])] for i in going])
            counts = [spans[i][1] - spans[i][0] for i in going]
            step = pool.step([tables[i] for i in going], [spans[i][0] for i in going], counts)
            for i, logits in zip(going, model(new.unsqueeze(0), past=step)[0].split(counts), strict=True):
                got[i].append(logits)
        assert (torch.stack([torch.cat(parts) for parts in got]) - model(tokens)).abs().max() < 1e-5


def test_sequences_of_one_step_may_share_blocks() -> None:
    model, tokens = tiny_model(), random_tokens(1, 21)[0]
    pool = KVPool(model.config, 4, block=8)
    with torch.no_grad():
        # The second looks at the two blocks that the first fills in the same pass.
        step = pool.step([[0, 1, 2], [0, 1, 3]], [0, 16], [19, 5])
        got = model(torch.cat([tokens[:19], tokens[16:]]).unsqueeze(0), past=step)[0]
        whole = model(tokens.unsqueeze(0))[0]
    assert (got[:19] - whole[:19]).abs().max() < 1e-5 and (got[19:] - whole[16:]).abs().max() < 1e-5


def test_a_table_too_short_says_so() -> None:
    model = tiny_model()
    with pytest.raises(ValueError, match="17 tokens need 3 blocks of 8; a table has 2"):
        KVPool(model.config, 2, block=8).step([[0, 1]], [16], [1])


def test_drawing_is_a_function_of_the_seed() -> None:
    first, second = Transformer(tiny_config()), Transformer(tiny_config())
    torch.manual_seed(1)
    first.initialize(5)
    torch.manual_seed(2)
    second.initialize(5)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    second.initialize(6)
    assert not torch.equal(first.head.weight, second.head.weight)


def test_drawn_weights_have_the_stated_size() -> None:
    config = ModelConfig(vocab_size=500, dim=256, layers=8, heads=4, kv_heads=2, ffn_dim=512)
    model = Transformer(config)
    model.initialize(0)
    block = model.blocks[3]
    assert model.embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)
    assert block.attention.query.weight.std().item() == pytest.approx(256**-0.5, rel=0.05)
    assert block.feed_forward.down.weight.std().item() == pytest.approx(512**-0.5 / 4, rel=0.05)
    tokens = random_tokens(2, 64)
    loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.item() == pytest.approx(torch.tensor(500.0).log().item(), abs=0.15)


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("llama3-8b", 8_030_261_248),
        ("llama3-70b", 70_553_706_496),
        ("llama3-405b", 405_853_388_800),
        ("llama3.1-8b", 8_030_261_248),
        ("llama3.2-1b", 1_235_814_400),
        ("llama3.2-3b", 3_212_749_824),
        ("llama2-7b", 6_738_415_616),
        ("llama2-13b", 13_015_864_320),
        ("llama2-70b", 68_976_648_192),
    ],
)
def test_presets_have_the_published_number_of_weights(name: str, count: int) -> None:
    assert preset(name).parameters() == count


@pytest.mark.parametrize("shape", SHAPES)
def test_weights_are_counted_as_they_are(shape: str) -> None:
    model = tiny_model(**SHAPES[shape])
    assert model.config.parameters() == sum(weight.numel() for weight in model.parameters())


def test_small_presets_are_as_big_as_they_say() -> None:
    for name, count in (("1m", 1e6), ("10m", 1e7), ("50m", 5e7)):
        assert PRESETS[name].parameters() == pytest.approx(count, rel=0.1)


def test_flops_equal_those_torch_counts() -> None:
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    model, time = tiny_model(), 32
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):  # it cannot see into fused kernels
        model(random_tokens(2, time)).sum().backward()
    assert counter.get_total_flops() == model.config.flops_per_token(time) * 2 * time


def test_an_unknown_preset_is_answered_with_the_known_ones() -> None:
    with pytest.raises(UserError, match="llama3-8b"):
        preset("llama-8b")


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"kv_heads": 3}, "kv_heads=3"), ({"dim": 30}, "dim=30"), ({"head_dim": 7}, "is odd"), ({"layers": 0}, "layers")],
)
def test_impossible_shapes_are_refused(changes: dict[str, int], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        tiny_config(**changes)


def test_stretched_frequencies_follow_the_rule() -> None:
    scaling = RopeScaling(factor=8, low_freq_factor=1, high_freq_factor=4, original_max_length=8192)
    plain, got = frequencies(5e5, 128).tolist(), frequencies(5e5, 128, scaling).tolist()
    for f, g in zip(plain, got, strict=True):
        wave = 2 * 3.141592653589793 / f
        smooth = (8192 / wave - 1) / 3
        want = f if wave < 2048 else f / 8 if wave > 8192 else (1 - smooth) * f / 8 + smooth * f
        assert g == pytest.approx(want, rel=1e-5)


def test_casting_the_model_leaves_the_angles_alone() -> None:
    model = tiny_model().to(torch.bfloat16)
    cos, _ = model.rope.rotation(torch.tensor([[100_003]]))
    want = torch.cos(torch.tensor(100_003.0) * frequencies(5e5, 8))
    assert cos.dtype == torch.float32 and torch.equal(cos.flatten(), want)


def test_autocast_trains_with_finite_gradients() -> None:
    model = tiny_model()
    with torch.autocast("cpu", torch.bfloat16):
        model(random_tokens(1, 20), Documents.from_lengths([8, 12])).float().logsumexp(-1).sum().backward()
    assert all(w.grad is not None and torch.isfinite(w.grad).all() for w in model.parameters())
