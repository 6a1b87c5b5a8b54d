"""Quantised matrices on disk, in the format `compressed-tensors`, which transformers and vLLM read.

config.json's `quantization_config` says which linear layers are rounded, and how; each of them has tensors of its own
beside the others in the safetensors files. Weight-only schemes pack whole numbers into int32, the others keep int8
or float8. The bound of float8 activations (§6.2) has no place in the format: it stands beside it, under the name that
FBGEMM's format gives it, and others, which do not read it, scale by each token's true maximum.
Letters: N outputs, K inputs, G groups per row.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from herdbook.model.quantized import FLOAT8, Scheme, dequantize, pack, unpack
from herdbook.settings import UserError

KEY = "quantization_config"
BOUND_KEY = "activation_scale_ub"
LEAVES = ("weight", "weight_packed", "weight_scale", "weight_shape")


class StoredLinear(nn.Module):
    """The tensors of a rounded matrix as a folder has them; reads and writes, does not multiply."""

    weight_scale: Tensor  # (N, G)

    def __init__(self, outputs: int, inputs: int, scheme: Scheme, scale_dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.out_features, self.in_features, self.scheme = outputs, inputs, scheme
        if scheme.packed:
            words = -(-inputs * scheme.bits // 32)
            self.register_buffer("weight_packed", torch.empty(outputs, words, dtype=torch.int32))
            self.register_buffer("weight_shape", torch.empty(2, dtype=torch.int64))
        else:
            self.register_buffer(
                "weight", torch.empty(outputs, inputs, dtype=FLOAT8 if scheme.floating else torch.int8)
            )
        self.register_buffer("weight_scale", torch.empty(outputs, scheme.groups(inputs), dtype=scale_dtype))

    def values(self) -> Tensor:  # (N, K) int8 or float8
        """The rounded weights."""
        return stored_values(dict(self.named_buffers()), self.scheme, self.in_features)


def stored_tensors(
    values: Tensor,  # (N, K) int8 or float8
    scale: Tensor,  # (N, G)
    scheme: Scheme,
) -> dict[str, Tensor]:
    """What is stored of a rounded matrix, by the last part of its name."""
    if not scheme.packed:
        return {"weight": values, "weight_scale": scale}
    shape = torch.tensor(values.shape, dtype=torch.int64)
    return {"weight_packed": pack(values, scheme.bits), "weight_scale": scale, "weight_shape": shape}


def stored_values(tensors: dict[str, Tensor], scheme: Scheme, inputs: int) -> Tensor:  # (N, K) int8 or float8
    """The rounded weights of what is stored."""
    return unpack(tensors["weight_packed"], scheme.bits, inputs) if scheme.packed else tensors["weight"]


def format_of(scheme: Scheme) -> str:
    """The format's name for how a scheme's weights are stored."""
    return "pack-quantized" if scheme.packed else "float-quantized" if scheme.floating else "int-quantized"


def config_to_json(scheme: Scheme, ignore: list[str]) -> dict[str, Any]:
    """`quantization_config` of a model whose linear layers are all rounded but those that `ignore` names."""
    kind = "float" if scheme.floating else "int"
    both = {"num_bits": scheme.bits, "type": kind, "symmetric": True}
    strategy = {"strategy": "group", "group_size": scheme.group} if scheme.group else {"strategy": "channel"}
    group = {
        "targets": ["Linear"],
        "weights": {**both, **strategy, "dynamic": False},
        "input_activations": {**both, "strategy": "token", "dynamic": True} if scheme.inputs else None,
        "output_activations": None,
        "format": format_of(scheme),
    }
    return {
        "quant_method": "compressed-tensors",
        "format": format_of(scheme),
        "quantization_status": "compressed",
        "config_groups": {"group_0": group},
        "ignore": ignore,
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
        **({BOUND_KEY: scheme.bound} if scheme.bound is not None else {}),
    }


def read_schemes(raw: dict[str, Any], names: Iterable[str], path: Path) -> dict[str, Scheme]:
    """The scheme of each rounded linear layer among `names` (in the folder's spelling), by name; none when dense.

    Raises UserError for other formats, and for schemes we have no products for.
    """
    config = raw.get(KEY)
    if config is None:
        return {}
    method = config.get("quant_method")
    if method != "compressed-tensors":
        raise UserError(f"{path}: quantised by {method!r}; only compressed-tensors is read")
    if config.get("kv_cache_scheme"):
        raise UserError(f"{path}: its cache is quantised (kv_cache_scheme), which is not supported")
    ignore = config.get("ignore") or []
    found: dict[str, Scheme] = {}
    for label, group in config["config_groups"].items():
        scheme = _read_scheme(group, config, f"{path}: {KEY}.{label}")
        for name in names:
            if _matches(name, group["targets"]) and not _matches(name, ignore):
                found.setdefault(name, scheme)
    return found


def _matches(name: str, targets: Iterable[str]) -> bool:
    """Whether a linear layer is meant: by its class, its name, or a pattern."""
    return any(
        target in ("Linear", name) or (target.startswith("re:") and re.match(target[3:], name)) for target in targets
    )


def _read_scheme(group: dict[str, Any], config: dict[str, Any], where: str) -> Scheme:
    weights, inputs = group.get("weights") or {}, group.get("input_activations")
    floating = weights.get("type", "int") == "float"
    scheme = Scheme(
        bits=weights.get("num_bits", 8),
        floating=floating,
        group=weights.get("group_size") if weights.get("strategy") == "group" else None,
        inputs=inputs is not None,
        bound=config.get(BOUND_KEY) if floating else None,
    )
    wanted = {"symmetric": True, "dynamic": False}
    problems = [
        f"weights.{key} is {weights.get(key)!r}" for key in wanted if weights.get(key, wanted[key]) != wanted[key]
    ]
    if weights.get("strategy") not in ("channel", "group"):
        problems.append(f"weights.strategy is {weights.get('strategy')!r}")
    if scheme.bits not in ((8,) if floating or inputs else (4, 8)):
        problems.append(f"weights.num_bits is {scheme.bits}")
    if floating and not inputs:
        problems.append("float8 weights without float8 activations")
    if inputs and (
        (inputs.get("num_bits"), inputs.get("type")) != (scheme.bits, weights.get("type"))
        or inputs.get("strategy") != "token"
        or not inputs.get("dynamic")
        or scheme.group
    ):
        problems.append("activations are not rounded token by token to the weights' type")
    if group.get("output_activations"):
        problems.append("output_activations are quantised")
    if (group.get("format") or config.get("format")) != format_of(scheme):
        problems.append(f"format is {group.get('format') or config.get('format')!r}")
    if problems:
        raise UserError(
            f"{where}: {'; '.join(problems)}; what is read is what the quantize stage writes: "
            "fp8, int8, int8_dynamic and int4 with symmetric scales per row or group"
        )
    return scheme


def dense_weights(stored: Iterable[tuple[str, Tensor]], schemes: dict[str, Scheme]) -> Iterator[tuple[str, Tensor]]:
    """Stored tensors with every rounded matrix turned back into one `weight`, in its scale's precision."""
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in stored:
        module, _, leaf = name.rpartition(".")
        if module not in schemes or leaf not in LEAVES:
            yield name, tensor
            continue
        scheme, own = schemes[module], parts.setdefault(module, {})
        own[leaf] = tensor
        if len(own) == (3 if scheme.packed else 2):
            inputs = int(own["weight_shape"][1]) if scheme.packed else own["weight"].shape[1]
            yield f"{module}.weight", dequantize(stored_values(own, scheme, inputs), own["weight_scale"])
            del parts[module]
