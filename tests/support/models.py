"""Tiny models for tests: ours, and transformers' of the same shape."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import nn

from herdbook.model.config import ModelConfig, RopeScaling
from herdbook.model.quantized import SCHEMES, quantize
from herdbook.model.rounded import rounded_linear
from herdbook.model.transformer import Transformer

SHAPES: dict[str, dict[str, Any]] = {
    "grouped": {"heads": 4, "kv_heads": 2},
    "grouped tied": {"heads": 4, "kv_heads": 1, "tied_embeddings": True},
    "one to one": {"heads": 4, "kv_heads": 4},
    "stretched": {
        "heads": 4,
        "kv_heads": 2,
        "max_length": 256,
        "rope_theta": 10_000.0,
        "rope_scaling": RopeScaling(factor=4, low_freq_factor=1, high_freq_factor=4, original_max_length=64),
    },
    "wide heads": {"heads": 2, "kv_heads": 1, "head_dim": 32},
}


def tiny_config(**changes: Any) -> ModelConfig:
    """A decoder small enough to run in milliseconds."""
    shape: dict[str, Any] = {
        "vocab_size": 97,
        "dim": 32,
        "layers": 2,
        "heads": 4,
        "kv_heads": 2,
        "ffn_dim": 48,
        "max_length": 128,
    }
    return ModelConfig(**{**shape, **changes})


def tiny_model(seed: int = 0, **changes: Any) -> Transformer:
    """A randomly drawn tiny decoder with lively logits: embeddings and norms far from their tame start."""
    model = Transformer(tiny_config(**changes))
    model.initialize(seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.copy_(1 + 0.2 * torch.randn(weight.shape, generator=generator))
            elif name.startswith(("embedding", "head")):
                weight.mul_(15)
    return model


def rounded_model(model: Transformer, name: str, group: int = 32) -> Transformer:
    """The model with all its matrices but the head of a tied one rounded, in place."""
    scheme = replace(SCHEMES[name], group=group) if SCHEMES[name].group else SCHEMES[name]
    for label, module in list(model.named_modules()):
        if isinstance(module, nn.Linear) and not (label == "head" and model.config.tied_embeddings):
            values, scale = quantize(module.weight, scheme, module.weight.dtype)
            model.set_submodule(label, rounded_linear(values, scale, scheme, module.weight.dtype))
    return model


def tiny_peer(seed: int = 0, **changes: Any) -> Any:
    """transformers' LlamaForCausalLM of the same shape as `tiny_config(**changes)`, randomly drawn."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = tiny_config(**changes)
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": config.rope_theta}
    if config.rope_scaling is not None:
        rope = {
            "rope_type": "llama3",
            "rope_theta": config.rope_theta,
            "factor": config.rope_scaling.factor,
            "low_freq_factor": config.rope_scaling.low_freq_factor,
            "high_freq_factor": config.rope_scaling.high_freq_factor,
            "original_max_position_embeddings": config.rope_scaling.original_max_length,
        }
    torch.manual_seed(seed)
    peer = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.dim,
            intermediate_size=config.ffn_dim,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            num_key_value_heads=config.kv_heads,
            head_dim=config.head_width,
            max_position_embeddings=config.max_length,
            rms_norm_eps=config.norm_eps,
            rope_parameters=rope,
            tie_word_embeddings=config.tied_embeddings,
            bos_token_id=1,
            eos_token_id=2,
            initializer_range=0.2,
        )
    )
    return peer.eval()
