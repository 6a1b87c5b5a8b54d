"""Models as Hugging Face folders: what we raise loads in `from_pretrained`, vLLM and llama.cpp, and theirs in ours.

A folder is whole when its config.json is there: saving takes the old one away first and puts the new one
last, so a kill in between leaves a folder that says it is unfinished instead of a mixture of two models.
Both the older and the newer spelling of the RoPE settings are written, and either is read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from herdbook.files import read_json, sync_folder, write_json
from herdbook.model.compressed import StoredLinear, dense_weights, read_schemes
from herdbook.model.config import ModelConfig, RopeScaling
from herdbook.model.quantized import FLOAT8, Scheme
from herdbook.model.reward import RewardConfig
from herdbook.model.rounded import RoundedLinear, rounded_linear
from herdbook.model.stored import INDEX, file_names, shards, stored_weights, write_weights
from herdbook.model.transformer import Transformer
from herdbook.settings import UserError

ARCHITECTURES = {"LlamaForCausalLM": "llama", "MixtralForCausalLM": "mixtral"}
"""Architectures we run, and their `model_type`; a mixture of experts is a Mixtral without sliding window."""
REWARD_ARCHITECTURES = {"LlamaForSequenceClassification": "llama", "MixtralForSequenceClassification": "mixtral"}
"""Those of reward models, whose head gives one number."""
ROUNDED_TYPES = (torch.int8, torch.int32, FLOAT8)
OUTER_NAMES = {"embedding": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
BLOCK_NAMES = {
    "attention_norm": "input_layernorm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.o_proj",
    "feed_forward_norm": "post_attention_layernorm",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj",
    "feed_forward.down": "mlp.down_proj",
    "feed_forward.router": "block_sparse_moe.gate",
}
EXPERT_NAMES = {"gate": "w1", "down": "w2", "up": "w3"}


def theirs(name: str, config: ModelConfig | None = None) -> str:
    """Hugging Face's name of one of our parameters; a reward model, known by its config, has another head."""
    module, _, leaf = name.rpartition(".")
    if module == "head" and isinstance(config, RewardConfig):
        return f"score.{leaf}"
    return f"{their_module(module)}.{leaf}"


def their_module(name: str) -> str:
    """Hugging Face's name of one of our modules that has parameters."""
    if name in OUTER_NAMES:
        return OUTER_NAMES[name]
    _, layer, rest = name.split(".", 2)
    if rest.startswith("feed_forward.experts."):
        _, _, expert, part = rest.split(".")
        return f"model.layers.{layer}.block_sparse_moe.experts.{expert}.{EXPERT_NAMES[part]}"
    return f"model.layers.{layer}.{BLOCK_NAMES[rest]}"


def config_to_json(
    config: ModelConfig,
    dtype: torch.dtype,
    bos_id: int | None,
    eos_ids: Sequence[int],
    pad_id: int | None = None,  # what transformers tells an answer's last token by
) -> dict[str, Any]:
    """What config.json says of a model."""
    rope: dict[str, Any] = {"rope_type": "default"}
    if config.rope_scaling is not None:
        scaling = config.rope_scaling
        rope = {
            "rope_type": "llama3",
            "factor": scaling.factor,
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_length,
        }
    precision = str(dtype).removeprefix("torch.")
    reward = isinstance(config, RewardConfig)
    family = "Mixtral" if config.experts else "Llama"
    architecture = f"{family}For{'SequenceClassification' if reward else 'CausalLM'}"
    labels = {"id2label": {"0": "reward"}, "label2id": {"reward": 0}}
    mixture = {
        "num_local_experts": config.experts,
        "num_experts_per_tok": config.experts_per_token,
        "router_aux_loss_coef": config.router_loss,
        "sliding_window": None,
    }
    return {
        "architectures": [architecture],
        "model_type": family.lower(),
        "vocab_size": config.vocab_size,
        "hidden_size": config.dim,
        "intermediate_size": config.ffn_dim,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_width,
        "hidden_act": "silu",
        "attention_bias": False,
        "mlp_bias": False,
        "attention_dropout": 0.0,
        "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_length,
        "rope_theta": config.rope_theta,
        "rope_scaling": rope if config.rope_scaling else None,
        "rope_parameters": {**rope, "rope_theta": config.rope_theta},
        "tie_word_embeddings": config.tied_embeddings,
        "bos_token_id": bos_id,
        "eos_token_id": _one_or_many(eos_ids),
        "dtype": precision,
        "torch_dtype": precision,
        "use_cache": True,
        **(mixture if config.experts else {}),
        **(labels if reward else {}),
        **({} if pad_id is None else {"pad_token_id": pad_id}),
    }


def read_config(folder: Path, reward: bool = False) -> ModelConfig:
    """The shape a folder's config.json tells; UserError when it is no Llama or Mixtral we can run exactly.

    A reward model's is read where one is asked for, and only there: it can't foretell, nor others score.
    """
    path, raw = Path(folder) / "config.json", read_raw_config(folder)
    runnable = REWARD_ARCHITECTURES if reward else ARCHITECTURES
    architectures = raw.get("architectures") or [a for a, kind in runnable.items() if kind == raw.get("model_type")]
    if not set(architectures) & set(runnable):
        known = " or ".join(runnable)
        raise UserError(f"{path}: architecture is {architectures or raw.get('model_type')}, need {known}")
    if reward and len(raw.get("id2label") or {"0": ""}) != 1:
        raise UserError(f"{path} tells of {len(raw['id2label'])} labels; a reward model has one, its score")
    only: dict[str, Any] = {"attention_bias": False, "mlp_bias": False, "hidden_act": "silu"}
    if raw.get("model_type") == "mixtral":
        only["sliding_window"] = None
    for key, wanted in only.items():
        if raw.get(key, wanted) != wanted:
            raise UserError(f"{path}: {key} is {raw[key]!r}; only {wanted!r} is supported")
    try:
        config = _config_from(raw, path)
        return RewardConfig.of(config) if reward else config
    except KeyError as error:
        raise UserError(f"{path} lacks the key {error}") from error
    except ValidationError as error:
        raise UserError(f"{path} describes no model that can be built: {error}") from error


def read_raw_config(folder: Path) -> dict[str, Any]:
    """config.json as it stands; UserError when there is none, or it is no JSON."""
    path = Path(folder) / "config.json"
    if not path.is_file():
        raise UserError(f"{folder} is not a model folder: it has no config.json")
    try:
        return dict(read_json(path))
    except json.JSONDecodeError as error:
        raise UserError(f"{path} is not JSON: {error}") from error


def _config_from(raw: dict[str, Any], path: Path) -> ModelConfig:
    rope = {**(raw.get("rope_scaling") or {}), **(raw.get("rope_parameters") or {})}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "llama3"):
        raise UserError(f"{path}: RoPE of type {kind!r} is not supported, only 'default' and 'llama3'")
    scaling = None
    if kind == "llama3":
        scaling = RopeScaling(
            factor=rope["factor"],
            low_freq_factor=rope["low_freq_factor"],
            high_freq_factor=rope["high_freq_factor"],
            original_max_length=rope["original_max_position_embeddings"],
        )
    heads = raw["num_attention_heads"]
    head_dim = raw.get("head_dim")
    if head_dim is not None and head_dim * heads == raw["hidden_size"]:
        head_dim = None
    # The fall-backs are Hugging Face's own, for files that leave a key out.
    return ModelConfig(
        vocab_size=raw["vocab_size"],
        dim=raw["hidden_size"],
        layers=raw["num_hidden_layers"],
        heads=heads,
        kv_heads=raw.get("num_key_value_heads") or heads,
        ffn_dim=raw["intermediate_size"],
        head_dim=head_dim,
        rope_theta=rope.get("rope_theta", raw.get("rope_theta", 10_000.0)),
        rope_scaling=scaling,
        norm_eps=raw.get("rms_norm_eps", 1e-6),
        max_length=raw.get("max_position_embeddings", 2048),
        tied_embeddings=raw.get("tie_word_embeddings", False),
        **(_mixture_from(raw) if raw.get("model_type") == "mixtral" else {}),
    )


def _mixture_from(raw: dict[str, Any]) -> dict[str, Any]:
    return {
        "experts": raw.get("num_local_experts", 8),
        "experts_per_token": raw.get("num_experts_per_tok", 2),
        "router_loss": raw.get("router_aux_loss_coef", 0.001),
    }


def save_model(
    model: Transformer,
    folder: Path,
    *,
    dtype: torch.dtype = torch.float32,
    bos_id: int | None,
    eos_ids: Sequence[int],
    pad_id: int | None = None,
    shard_bytes: int = 5_000_000_000,
) -> None:
    """Write weights (as `dtype`), config.json and generation_config.json to `folder`, sharded above `shard_bytes`.

    Other files in the folder, a tokenizer's for example, are left alone. UserError for a model that was loaded with
    its matrices rounded.
    """
    folder = Path(folder)
    if any(isinstance(module, RoundedLinear) for module in model.modules()):
        raise UserError(f"{folder}: the model to save is quantised; save the one it was made from, or load it dense")
    folder.mkdir(parents=True, exist_ok=True)
    weights = {theirs(name, model.config): weight.detach() for name, weight in model.named_parameters()}
    groups = shards(weights, dtype.itemsize, shard_bytes)
    drafts = [folder / f".{name}.{os.getpid()}.tmp" for name in file_names(len(groups))]
    try:
        for draft, group in zip(drafts, groups, strict=True):
            write_weights({name: weights[name].to(dtype=dtype, device="cpu").contiguous() for name in group}, draft)
        size = sum(weight.numel() for weight in weights.values()) * dtype.itemsize
        publish(folder, drafts, groups, size, config_to_json(model.config, dtype, bos_id, eos_ids, pad_id))
    finally:
        for draft in drafts:
            draft.unlink(missing_ok=True)


def publish(
    folder: Path,
    drafts: list[Path],
    groups: list[list[str]],
    size: int,
    config: dict[str, Any],
    generation: dict[str, Any] | None = None,  # None: the tokens that config names
) -> None:
    """Put finished files of weights in place of a folder's old ones; `groups` are the weights' names in each."""
    names = file_names(len(drafts))
    (folder / "config.json").unlink(missing_ok=True)
    for old in (*folder.glob("model*.safetensors"), folder / INDEX):
        old.unlink(missing_ok=True)
    for draft, name in zip(drafts, names, strict=True):
        draft.replace(folder / name)
    sync_folder(folder)
    if len(names) > 1:
        where = {weight: name for name, group in zip(names, groups, strict=True) for weight in group}
        write_json(folder / INDEX, {"metadata": {"total_size": size}, "weight_map": where})
    if generation is None:
        tokens = {key: config.get(key) for key in ("bos_token_id", "eos_token_id")}
        generation = {"_from_model_config": False, **tokens}
    write_json(folder / "generation_config.json", generation)
    write_json(folder / "config.json", config)


def _one_or_many(ids: Sequence[int]) -> int | list[int] | None:
    """Token ids as Hugging Face writes them: a number when there is one, a list when there are several."""
    return None if not ids else ids[0] if len(ids) == 1 else list(ids)


def load_model(
    folder: Path,
    *,
    dtype: torch.dtype | None = None,
    device: torch.device | str = "cpu",
    rounded: bool = False,
    reward: bool = False,
) -> Transformer:
    """The model of a Hugging Face folder; `dtype` None keeps the stored precision.

    Quantised matrices are turned back into dense ones, which can be trained on; with `rounded` they stay as they are,
    and are multiplied as their scheme says. With `reward` it is a reward model that is loaded. UserError when the
    architecture is another one, or a weight is missing, of another shape, or one too many.
    """
    folder = Path(folder)
    config = read_config(folder, reward)
    with torch.device("meta"):
        model = Transformer(config)
        schemes = find_schemes(folder, model) if rounded else {}
        for name, scheme in schemes.items():
            matrix = model.get_submodule(name)
            assert isinstance(matrix, nn.Linear)
            model.set_submodule(name, StoredLinear(matrix.out_features, matrix.in_features, scheme))
    exact = tuple(f"{name}." for name in schemes)  # scales are converted when they are laid out
    found = {
        name: weight.to(
            dtype=weight.dtype if dtype is None or name.startswith(exact) else dtype, device=device, copy=True
        )
        for name, weight in checked_weights(folder, model)
    }
    assign(model, found)
    for name, scheme in schemes.items():
        stored = model.get_submodule(name)
        assert isinstance(stored, StoredLinear)
        layer = rounded_linear(stored.values(), stored.weight_scale, scheme, model.embedding.weight.dtype)
        model.set_submodule(name, layer)
    return model


def find_schemes(folder: Path, model: Transformer) -> dict[str, Scheme]:
    """Which of the model's linear layers the folder has quantised, by our name, and how."""
    names = {
        their_module(name): name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and not (name == "head" and model.config.tied_embeddings)
    }
    schemes = read_schemes(read_raw_config(folder), names, folder / "config.json")
    return {names[name]: scheme for name, scheme in schemes.items()}


def checked_weights(folder: Path, model: Transformer) -> Iterator[tuple[str, Tensor]]:
    """Every weight of `model` as the folder has it, by our name, one at a time; UserError as `load_model`.

    What the folder has quantised comes dense, but where the model has a `StoredLinear`.
    """
    config = model.config
    wanted = {
        theirs(name, config): (name, weight) for name, weight in (*model.named_parameters(), *model.named_buffers())
    }
    stored: Iterator[tuple[str, Tensor]] = stored_weights(folder)
    if not any(isinstance(module, StoredLinear) for module in model.modules()):
        schemes = find_schemes(folder, model)
        stored = dense_weights(stored, {their_module(name): scheme for name, scheme in schemes.items()})
    found = set()
    for name, weight in stored:
        if name.endswith("rotary_emb.inv_freq") or (config.tied_embeddings and name == "lm_head.weight"):
            continue
        if name not in wanted:
            raise UserError(f"{folder} holds a weight a Llama decoder does not have: {name} {tuple(weight.shape)}")
        ours, blank = wanted[name]
        if weight.shape != blank.shape:
            shapes = f"{tuple(weight.shape)}, but config.json asks for {tuple(blank.shape)}"
            raise UserError(f"{folder}: {name} has shape {shapes}")
        if blank.dtype in ROUNDED_TYPES and weight.dtype != blank.dtype:
            raise UserError(f"{folder}: {name} holds {weight.dtype}, but config.json asks for {blank.dtype}")
        found.add(ours)
        yield ours, weight
    missing = [name for name, (ours, _) in wanted.items() if ours not in found]
    if missing:
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise UserError(f"{folder} lacks {len(missing)} weights: {', '.join(missing[:5])}{more}")


def assign(model: Transformer, weights: dict[str, Tensor]) -> None:
    """Make `weights` (by our names, all of them) the parameters of a model built without storage."""
    if model.config.tied_embeddings:
        weights = {**weights, "head.weight": weights["embedding.weight"]}
    model.load_state_dict(weights, assign=True)
    for weight in model.parameters():
        weight.requires_grad_(True)
    if model.config.tied_embeddings:
        assert isinstance(model.embedding, nn.Embedding)
        model.head.weight = model.embedding.weight
