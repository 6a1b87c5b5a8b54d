"""Layers of rounded matrices compute what their numbers say, worked out in numpy, whatever product they use."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from herdbook.model.quantized import SCHEMES, Scheme, quantize, round_inputs
from herdbook.model.rounded import FEW, Int4Linear, Int8Linear, RoundedLinear, rounded_linear

SHAPES = [(128, 64), (192, 256), (100, 96)]
TOKENS = [1, 3, 16, FEW + 1]


def made(name: str, shape: tuple[int, int], dtype: torch.dtype, group: int = 32) -> tuple[RoundedLinear, np.ndarray]:
    """A layer, and the matrix that it stands for in float64."""
    scheme = replace(SCHEMES[name], group=group) if SCHEMES[name].group else SCHEMES[name]
    weight = torch.from_numpy(np.random.default_rng(1).standard_normal(shape).astype(np.float32)) * shape[1] ** -0.5
    values, scale = quantize(weight, scheme, dtype)
    wide = scale.double().numpy().repeat(shape[1] // scale.shape[1], axis=1)
    return rounded_linear(values, scale, scheme, dtype), values.double().numpy() * wide


def inputs(tokens: int, width: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    drawn = np.random.default_rng(tokens).standard_normal((tokens, width)) * 3
    return torch.from_numpy(drawn.astype(np.float32)).to(dtype)


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", ["int8", "int4"])
def test_weight_only_products_are_those_of_the_meant_matrix(name: str, shape: tuple[int, int], tokens: int) -> None:
    layer, meant = made(name, shape, torch.float32)
    x = inputs(tokens, shape[1])
    assert np.abs(layer(x).double().numpy() - x.double().numpy() @ meant.T).max() < 5e-5
    assert np.abs(layer.dense(torch.float32).double().numpy() - meant).max() < 1e-6


@pytest.mark.parametrize("name", ["int8", "int4"])
def test_in_bfloat16_they_err_no_more_than_dense_products_do(name: str) -> None:
    layer, meant = made(name, (192, 256), torch.bfloat16)
    x = inputs(5, 256, torch.bfloat16)
    exact = x.double().numpy() @ meant.T
    dense = torch.nn.functional.linear(x, torch.from_numpy(meant).bfloat16()).double().numpy()
    ours = layer(x)
    assert ours.dtype == torch.bfloat16
    assert np.abs(ours.double().numpy() - exact).max() < 2 * np.abs(dense - exact).max() + 1e-3


@pytest.mark.parametrize("tokens", TOKENS)
@pytest.mark.parametrize("name", ["int8_dynamic", "fp8"])
def test_products_with_rounded_activations_are_exact_sums(name: str, tokens: int) -> None:
    layer, meant = made(name, (192, 256), torch.float32)
    x = inputs(tokens, 256)
    x[0, 5] = 4000.0  # beyond the bound of float8
    rounded, scale = round_inputs(x, SCHEMES[name])
    exact = (rounded.double().numpy() * scale.double().numpy()) @ meant.T
    size = np.abs(exact).max(-1, keepdims=True)
    assert (np.abs(layer(x).double().numpy() - exact) < 1e-6 * size).all()


def test_float8_products_are_those_of_the_product_that_torch_has() -> None:
    layer, _ = made("fp8", (192, 256), torch.float32)
    rounded, scale = round_inputs(inputs(32, 256), SCHEMES["fp8"])
    try:
        theirs = torch._scaled_mm(
            rounded, layer.values.t(), scale, layer.scale.t().contiguous(), out_dtype=torch.float32
        )
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"this build has no float8 product on a CPU: {str(error)[:80]}")
    assert (layer(inputs(32, 256)) - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("name", SCHEMES)
def test_a_token_does_not_depend_on_its_neighbours(name: str) -> None:
    layer, _ = made(name, (192, 256), torch.float32, group=64)
    x = inputs(16, 256)
    together = layer(x)
    for row in range(16):
        assert (layer(x[row : row + 1]) - together[row]).abs().max() < 1e-5
    assert torch.equal(layer(x.view(2, 8, 256)), together.view(2, 8, -1))


def test_matrices_stay_small_in_memory() -> None:
    dense = 192 * 256 * 4
    for name, least in {"int8": 3.9, "int4": 5.2, "int8_dynamic": 3.9, "fp8": 3.9}.items():
        layer, _ = made(name, (192, 256), torch.float32)
        assert dense / sum(buffer.nbytes for buffer in layer.buffers()) > least, name


def test_scales_per_group_of_8_bits_are_multiplied_too() -> None:
    grouped = replace(SCHEMES["int8"], group=32)
    weight = inputs(10, 64)
    values, scale = quantize(weight, grouped)
    layer = rounded_linear(values, scale, grouped, torch.float32)
    assert isinstance(layer, Int8Linear) and not layer.plain
    assert (layer(torch.eye(64)) - weight.t()).abs().max() < 0.1


def test_four_weights_of_four_bits_share_a_word() -> None:
    scheme = Scheme(4, group=32)
    values = torch.from_numpy(np.random.default_rng(0).integers(-8, 8, (5, 160)).astype(np.int8))
    layer = rounded_linear(values, torch.ones(5, 5), scheme, torch.float32)
    assert isinstance(layer, Int4Linear) and layer.plain
    for row in range(5):
        for k in range(160):
            at = k // 128 * 64 + k % 32 * 2
            word = int(layer.octets[row, at]) + 256 * int(layer.octets[row, at + 1])
            assert (word >> k % 128 // 32 * 4) % 16 - 8 == values[row, k]
    assert torch.equal(layer.dense(torch.float32), values.float())
    uneven = rounded_linear(values[:, :40], torch.ones(5, 1), Scheme(4), torch.float32)
    assert isinstance(uneven, Int4Linear) and not uneven.plain
    assert torch.equal(uneven.dense(torch.float32), values[:, :40].float())
