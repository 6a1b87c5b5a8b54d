"""The `merge` stage: adapters that others trained with peft become part of a model of ours, and it a model as any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from herdbook.posttrain.settings import MergeSettings


def merge_adapters(settings: MergeSettings, start: Path, out: Path) -> dict[str, Any]:
    """Write `start` with the adapters merged as `out`/model; returns how many `matrices` were changed.

    What the folder says beside its weights (tokens that end an answer, tokenizer, template) stays as it is.
    UserError for an adapter of another model, or of a kind that is not plain LoRA.
    """
    import shutil

    import torch

    from herdbook.files import read_json
    from herdbook.model.adapters import load_adapter
    from herdbook.model.huggingface import load_model, read_raw_config, save_model
    from herdbook.model.lora import merge
    from herdbook.train.tuning import model_folder

    folder, target = model_folder(start), out / "model"
    model = load_model(folder, dtype=torch.float32)
    changed: set[str] = set()
    for path in settings.adapters:
        weights, lora, tokens = load_adapter(path, model)
        merge(model, weights, lora, tokens)
        changed |= {name.rpartition(".")[0] for name in weights}
    target.mkdir(parents=True, exist_ok=True)
    for file in folder.iterdir():
        if file.is_file() and not file.name.endswith(".safetensors") and not file.name.endswith("config.json"):
            shutil.copy(file, target / file.name)
    if (folder / "tokenizer_config.json").is_file():
        shutil.copy(folder / "tokenizer_config.json", target)
    said = folder / "generation_config.json"
    ends = (read_json(said) if said.is_file() else read_raw_config(folder)).get("eos_token_id")
    eos_ids = [] if ends is None else [ends] if isinstance(ends, int) else ends
    dtype = torch.float32 if settings.export_dtype == "float32" else torch.bfloat16
    save_model(model, target, dtype=dtype, bos_id=read_raw_config(folder).get("bos_token_id"), eos_ids=eos_ids)
    return {"matrices": len(changed)}
