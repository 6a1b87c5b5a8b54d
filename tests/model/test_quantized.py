"""Rounding to 8 and 4 bits against formulas written out in numpy, and against compressed-tensors' own functions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from herdbook.model.quantized import SCHEMES, dequantize, pack, quantize, round_inputs, round_numbers, unpack
from herdbook.settings import UserError

GROUPED = {name: replace(scheme, group=32) if scheme.group else scheme for name, scheme in SCHEMES.items()}


def matrix(rows: int = 24, columns: int = 96, seed: int = 0, spread: float = 1.0) -> torch.Tensor:
    """Normal weights whose rows differ in size, one row of zeros among them."""
    drawn = np.random.default_rng(seed).standard_normal((rows, columns)) * spread
    drawn *= np.exp(np.linspace(-6, 3, rows))[:, None]
    drawn[rows // 2] = 0
    return torch.from_numpy(drawn.astype(np.float32))


def float8_values() -> np.ndarray:
    """Every number that e4m3 has (sign, 4 bits of exponent with bias 7, 3 of mantissa), from its definition."""
    found = []
    for exponent in range(16):
        for mantissa in range(8):
            if (exponent, mantissa) != (15, 7):  # that is no number
                scale = 2.0 ** (max(exponent, 1) - 7)
                found.append(scale * (mantissa / 8 + (exponent > 0)))
    return np.array(sorted({sign * value for value in found for sign in (-1, 1)}))


def nearest_float8(numbers: np.ndarray) -> np.ndarray:
    """The nearest of them; of two as near, the one whose last mantissa bit is 0."""
    values = float8_values()
    above = np.searchsorted(values, numbers).clip(1, len(values) - 1)
    low, high = values[above - 1], values[above]
    middle = (low + high) / 2  # exact in float64
    even = np.round(low / (high - low)) % 2 == 0
    return np.where((numbers < middle) | ((numbers == middle) & even), low, high).clip(-448, 448)


def test_float8_is_rounded_as_its_definition_says() -> None:
    values = float8_values()
    assert len(values) == 253 and values.max() == 448
    middles = (values[1:] + values[:-1]) / 2  # ties, and numbers just beside them
    drawn = np.random.default_rng(1).standard_normal(20_000) * np.exp(np.random.default_rng(2).uniform(-9, 7, 20_000))
    numbers = np.concatenate([values, middles, np.nextafter(middles, 1e9), np.nextafter(middles, -1e9), drawn, [1e6]])
    numbers = numbers.astype(np.float32).astype(np.float64)
    found = round_numbers(torch.from_numpy(numbers).float(), SCHEMES["fp8"]).double().numpy()
    assert np.array_equal(found, nearest_float8(numbers))


@pytest.mark.parametrize(("name", "half", "low", "high"), [("int8", 127.5, -128, 127), ("int4", 7.5, -8, 7)])
def test_whole_numbers_are_rounded_as_written_out(name: str, half: float, low: int, high: int) -> None:
    weight, scheme = matrix(), GROUPED[name]
    values, scale = quantize(weight, scheme)
    parts = weight.numpy().reshape(24, -1, scheme.group or 96)
    by_hand = np.abs(parts).max(-1) / np.float32(half)
    by_hand[by_hand == 0] = np.finfo(np.float32).eps
    assert np.array_equal(scale.numpy(), by_hand)
    wanted = np.clip(np.rint(parts / by_hand[..., None]), low, high).reshape(24, 96)
    assert np.array_equal(values.numpy(), wanted)
    assert values.min() == low and values.max() == high  # the whole range is used


@pytest.mark.parametrize("name", SCHEMES)
def test_no_weight_moves_by_more_than_half_a_step(name: str) -> None:
    weight, scheme = matrix(), GROUPED[name]
    values, scale = quantize(weight, scheme)
    moved = (dequantize(values, scale) - weight).abs()
    each = scale.repeat_interleave(96 // scale.shape[1], dim=1)
    if scheme.floating:  # a step of a float8 is at most 1/8 of it, and never below 2**-9
        step = (weight.abs() / 8).maximum(each * 2**-9)
    else:
        step = each
    assert (moved <= step / 2 * (1 + 1e-5)).all()
    assert (moved > step / 8).any()  # and it does move


@pytest.mark.parametrize("name", SCHEMES)
def test_searching_a_scale_never_rounds_worse_and_mostly_better(name: str) -> None:
    weight, scheme = matrix(spread=0.02), GROUPED[name]

    def errors(search: int) -> torch.Tensor:
        values, scale = quantize(weight, scheme, search=search)
        return (dequantize(values, scale) - weight).square().unflatten(1, (scale.shape[1], -1)).sum(-1)

    plain, searched = errors(1), errors(12)
    assert (searched <= plain * (1 + 1e-5)).all()
    assert searched.sum() <= plain.sum() * (0.95 if name == "int4" else 1)


def test_rows_in_blocks_are_rounded_like_rows_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = quantize(matrix(), GROUPED["int4"], search=4)
    monkeypatch.setattr("herdbook.model.quantized.AT_ONCE", 5 * 96)
    assert all(torch.equal(a, b) for a, b in zip(whole, quantize(matrix(), GROUPED["int4"], search=4)))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_packed_numbers_come_back(data: st.DataObject) -> None:
    bits = data.draw(st.sampled_from([4, 8]))
    rows, columns = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 70))
    end = 2 ** (bits - 1)
    drawn = data.draw(st.lists(st.integers(-end, end - 1), min_size=rows * columns, max_size=rows * columns))
    values = torch.tensor(drawn, dtype=torch.int8).view(rows, columns)
    packed = pack(values, bits)
    assert packed.shape == (rows, -(-columns * bits // 32)) and packed.dtype == torch.int32
    assert torch.equal(unpack(packed, bits, columns), values)
    # Bit by bit: number i begins at bit i * bits of its row, lowest first.
    for row, words in zip(values.tolist(), packed.tolist(), strict=True):
        line = sum((word & 0xFFFFFFFF) << (32 * place) for place, word in enumerate(words))
        assert [(line >> (bits * i)) % 2**bits - end for i in range(columns)] == row


def test_each_token_is_rounded_by_its_own_scale_up_to_the_bound() -> None:
    x = matrix(6, 40, seed=3) * 50
    x[4, 7], x[5] = 5000.0, 0.0
    scheme = SCHEMES["fp8"]
    rounded, scale = round_inputs(x, scheme)
    largest = np.minimum(np.abs(x.numpy()).max(-1, keepdims=True), 1200)
    by_hand = largest / np.float32(448)
    by_hand[by_hand == 0] = np.finfo(np.float32).eps
    assert np.array_equal(scale.numpy(), by_hand)
    wanted = nearest_float8((x.numpy() / by_hand).astype(np.float64).clip(-448, 448))
    assert np.array_equal(rounded.double().numpy(), wanted)
    assert rounded[4, 7].float() * scale[4] == 1200  # cut to the bound
    alone = round_inputs(x[2:3], scheme)
    assert torch.equal(alone[0].float(), rounded[2:3].float()) and torch.equal(alone[1], scale[2:3])


def their_arguments(name: str) -> Any:
    from compressed_tensors.quantization import QuantizationArgs

    scheme = GROUPED[name]
    strategy = {"strategy": "group", "group_size": scheme.group} if scheme.group else {"strategy": "channel"}
    return QuantizationArgs(num_bits=scheme.bits, type="float" if scheme.floating else "int", **strategy)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", SCHEMES)
def test_rounding_is_that_of_compressed_tensors(name: str, dtype: torch.dtype) -> None:
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.quantization.lifecycle.forward import dequantize as their_dequantize
    from compressed_tensors.quantization.lifecycle.forward import quantize as their_quantize
    from compressed_tensors.quantization.utils import calculate_qparams

    weight, scheme, arguments = matrix(), GROUPED[name], their_arguments(name)
    values, scale = quantize(weight, scheme, dtype)
    parts = weight.unflatten(1, (scale.shape[1], -1))
    theirs, _ = calculate_qparams(parts.amin(-1), parts.amax(-1), arguments)
    if dtype == torch.float32:
        assert torch.equal(scale, theirs)
    their_values = their_quantize(weight, scale.float(), None, arguments, dtype=values.dtype)
    assert torch.equal(values.float(), their_values.float())
    assert torch.equal(dequantize(values, scale), their_dequantize(values, scale, None, arguments))


@pytest.mark.parametrize("name", ["fp8", "int8_dynamic"])
def test_activations_are_rounded_as_by_compressed_tensors(name: str) -> None:
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.quantization import QuantizationArgs
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize
    from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp

    kind = "float" if name == "fp8" else "int"
    arguments = QuantizationArgs(num_bits=8, type=kind, strategy="token", dynamic=True)
    x = matrix(6, 40, seed=5)
    scale, zero = compute_dynamic_scales_and_zp(x[None], arguments, torch.nn.Linear(1, 1))
    rounded, ours = round_inputs(x, SCHEMES[name])
    assert torch.equal(ours, scale[0])
    assert torch.equal(rounded.float() * ours, fake_quantize(x[None], scale, zero, arguments)[0])


@pytest.mark.parametrize("bits", [4, 8])
def test_packing_is_that_of_compressed_tensors(bits: int) -> None:
    pytest.importorskip("compressed_tensors")
    from compressed_tensors.compressors.pack_quantized import pack_to_int32, unpack_from_int32

    end = 2 ** (bits - 1)
    values = torch.from_numpy(np.random.default_rng(0).integers(-end, end, (7, 75)).astype(np.int8))
    assert torch.equal(pack(values, bits), pack_to_int32(values, bits))
    assert torch.equal(unpack(pack(values, bits), bits, 75), unpack_from_int32(pack(values, bits), bits, values.shape))


def test_groups_that_do_not_come_out_even_are_told() -> None:
    with pytest.raises(UserError, match=r"model\.x has 96 inputs, which groups of 128 don't divide; take group=32"):
        quantize(matrix(), SCHEMES["int4"], name="model.x")
    with pytest.raises(UserError, match="no group of 32 or more fits; take scheme int8"):
        quantize(matrix(columns=40), SCHEMES["int4"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_no_numbers_are_refused(bad: float) -> None:
    weight = matrix()
    weight[3, 3] = bad
    with pytest.raises(UserError, match=r"model\.x holds infinite numbers or numbers that are none"):
        quantize(weight, SCHEMES["int8"], name="model.x")
