"""Sparse upcycling (Komatsuzaki et al. 2023): a dense model's feed-forwards become experts that begin equal."""

from __future__ import annotations

import zlib

import torch

from herdbook.model.config import ModelConfig
from herdbook.model.experts import ROUTER_DEVIATION
from herdbook.model.transformer import Transformer
from herdbook.settings import UserError


def upcycle(dense: Transformer, experts: int, per_token: int, router_loss: float, seed: int) -> Transformer:
    """A mixture of `experts` copies per block that computes what `dense` does; only its routers are drawn, from `seed`.

    Raises UserError when `dense` is a mixture already.
    """
    if dense.config.experts:
        raise UserError(f"the model to go on from has {dense.config.experts} experts already; leave `upcycle` out")
    changes = {"experts": experts, "experts_per_token": per_token, "router_loss": router_loss}
    model = Transformer(ModelConfig(**(dense.config.model_dump() | changes)))
    old = dict(dense.named_parameters())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith("feed_forward.router.weight"):
                generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{name}".encode()))
                drawn = torch.empty(weight.shape, device="cpu")
                weight.copy_(drawn.normal_(0.0, ROUTER_DEVIATION, generator=generator))
                continue
            block, found, rest = name.partition(".experts.")
            weight.copy_(old[f"{block}.{rest.split('.', 1)[1]}" if found else name])
    return model
