"""Adapters as peft reads and writes them: adapter_config.json and adapter_model.safetensors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from herdbook.files import read_json, write_json
from herdbook.model.huggingface import BLOCK_NAMES, EXPERT_NAMES, their_module
from herdbook.model.lora_settings import TARGETS, LoraSettings
from herdbook.model.stored import write_weights
from herdbook.model.transformer import Transformer
from herdbook.settings import UserError

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX = "base_model.model."
PARTS = {"lora_a": "lora_A", "lora_b": "lora_B"}
ROWS = "token_adapter.trainable_tokens_delta"  # the rows themselves, in spite of its name
UNKNOWN = {
    "use_dora": "DoRA", "rank_pattern": "ranks that differ", "alpha_pattern": "alphas that differ",
    "modules_to_save": "modules trained whole", "lora_bias": "biases",
}  # fmt: skip


def their_targets(settings: LoraSettings, mixture: bool = False) -> list[str]:
    """Hugging Face's names of the matrices with adapters."""
    names = {ours.rpartition(".")[2]: name.rpartition(".")[2] for ours, name in BLOCK_NAMES.items()}
    return sorted(
        {EXPERT_NAMES.get(target, names[target]) if mixture else names[target] for target in settings.targets}
    )


def save_adapter(
    weights: Mapping[str, Tensor],  # of adapters and of tokens' rows, as `lora.trained` names them
    settings: LoraSettings,
    base: Path,
    folder: Path,
    mixture: bool = False,
    task: str = "CAUSAL_LM",
    tokens: Sequence[int] = (),  # whose rows are among the weights
) -> None:
    """Write a folder that `peft.PeftModel.from_pretrained` puts upon the model of `base`."""
    named: dict[str, Tensor] = {}
    for name, weight in weights.items():
        module, _, part = name.rpartition(".")
        assert part in PARTS or part == "rows", f"{name} is no adapter's"
        stored = weight.detach().to(device="cpu", dtype=torch.float32).contiguous()
        theirs = ROWS if part == "rows" else f"{PARTS[part]}.weight"
        named[f"{PREFIX}{their_module(module)}.{theirs}"] = stored
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).unlink(missing_ok=True)  # a folder without it is unfinished
    draft = folder / f".{WEIGHTS}.tmp"
    write_weights(named, draft)
    draft.replace(folder / WEIGHTS)
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": task,
        "base_model_name_or_path": str(base),
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "target_modules": their_targets(settings, mixture),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    rows = [name.removesuffix(".rows") for name in weights if name.endswith(".rows")]
    if rows:
        config["trainable_token_indices"] = {their_module(name).rpartition(".")[2]: list(tokens) for name in rows}
    write_json(folder / CONFIG, config)


def load_adapter(folder: Path, model: Transformer) -> tuple[dict[str, Tensor], LoraSettings, list[int]]:
    """The weights of peft's folder by our names, its settings, and the tokens whose rows are among the weights.

    UserError for what is no plain LoRA of the model.
    """
    path = folder / CONFIG
    if not path.is_file():
        raise UserError(f"{folder}: no {CONFIG} here; an adapter is a folder that peft has written")
    config = read_json(path)
    if config.get("peft_type") != "LORA" or config.get("bias", "none") != "none":
        raise UserError(
            f"{path}: peft_type {config.get('peft_type')!r} with bias {config.get('bias')!r}, need plain LORA"
        )
    for key, told in UNKNOWN.items():
        if config.get(key):
            raise UserError(f"{path}: {key} asks for {told}, which is not supported; merge it with peft")
    try:
        stored = load_file(folder / WEIGHTS)
    except (SafetensorError, FileNotFoundError) as error:
        raise UserError(f"{folder / WEIGHTS}: {error}") from None
    named = {
        f"{PREFIX}{their_module(name)}.{part}.weight": f"{name}.{ours}"
        for name, module in model.named_modules()
        if name.startswith("blocks.") and name.rpartition(".")[2] in TARGETS and isinstance(module, torch.nn.Linear)
        for ours, part in PARTS.items()
    }
    named |= {f"{PREFIX}{their_module(name)}.{ROWS}": f"{name}.rows" for name in ("embedding", "head")}
    tokens = _tokens(config.get("trainable_token_indices"), path)
    strange = [name for name in stored if name not in named]
    if strange:
        raise UserError(f"{folder}: {strange[0]} is of no matrix that this model has")
    weights = {named[name]: weight.float() for name, weight in stored.items()}
    rank = int(config["r"])
    alpha = float(config["lora_alpha"]) * (rank**0.5 if config.get("use_rslora") else 1.0)
    targets = {name.split(".")[-2] for name in weights if not name.endswith(".rows")}
    kept = tuple(target for target in TARGETS if target in targets)
    settings = LoraSettings(rank=rank, alpha=alpha, dropout=float(config.get("lora_dropout", 0)), targets=kept)
    return weights, settings, tokens


def _tokens(named: Any, path: Path) -> list[int]:
    """The tokens whose rows an adapter holds: of the embedding, and the same ones of the head where it is another."""
    lists = list(named.values()) if isinstance(named, dict) else [named] if named else []
    if any(one != lists[0] for one in lists):
        raise UserError(f"{path}: trainable_token_indices differ between embedding and head, which is not supported")
    return lists[0] if lists else []
