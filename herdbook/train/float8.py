"""Products in float8 (§6.2 has it for inference; Micikevicius et al. 2022 for training), by torchao.

Inputs, weights and gradients of a block's matrices are scaled and rounded to 8 bits just before each product; weights,
their gradients' sums and optimizer state stay fp32, and all else is as with bf16. Embedding, head, routers and experts
(whose rows are too few and too uneven) are left alone. A CPU has no such products: there they are emulated, which is
slow and only for trying out.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import torch
from torch import nn

from herdbook.settings import UserError

Scales = Literal["rowwise", "tensorwise"]
UNIT = 16  # what both sides of a matrix have to divide by
OLDEST = (8, 9)  # compute capability of the first GPUs that have such products
MATRICES = ("query", "key", "value", "output", "gate", "up", "down")


def to_float8(model: Any, scales: Scales, device: torch.device, cuts: int = 1) -> None:
    """Let the blocks' matrices be multiplied in float8; `cuts` is how many ranks will share each matrix.

    Weights and their names stay. Raises UserError where torchao is missing, the device has no such products, or no
    matrix has sides that divide by 16 (times `cuts`).
    """
    problem = lacking(torch.cuda.get_device_capability(device) if device.type == "cuda" else None)
    if problem is not None:
        raise UserError(problem)
    try:
        from torchao.float8 import Float8LinearConfig, convert_to_float8_training
    except ImportError as error:
        raise UserError(f"precision=float8 needs torchao ({error}); install herdbook[float8]") from error
    chosen = [name for name, module in model.named_modules() if _fits(name, module, UNIT * cuts)]
    if not chosen:
        raise UserError(
            f"precision=float8: no matrix of the blocks has sides that are multiples of {UNIT * cuts} "
            f"(dim={model.config.dim}, ffn_dim={model.config.ffn_dim}); use precision=bf16"
        )
    config = dataclasses.replace(Float8LinearConfig.from_recipe_name(scales), emulate=device.type != "cuda")
    convert_to_float8_training(model, config=config, module_filter_fn=lambda module, name: name in set(chosen))


def lacking(capability: tuple[int, int] | None) -> str | None:
    """What keeps a GPU of this compute capability from float8, None where nothing does (None is a CPU, emulating)."""
    if capability is None or capability >= OLDEST:
        return None
    have, need = (".".join(map(str, one)) for one in (capability, OLDEST))
    return (
        f"precision=float8 needs a GPU of compute capability {need} or later (Ada, Hopper), this one has {have}; "
        "use precision=bf16"
    )


def _fits(name: str, module: nn.Module, unit: int) -> bool:
    if not isinstance(module, nn.Linear) or not name.startswith("blocks.") or ".experts." in name:
        return False
    sides = module.in_features % unit == module.out_features % unit == 0
    return name.rsplit(".", 1)[1] in MATRICES and sides
