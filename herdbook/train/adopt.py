"""The `adopt` stage: a model that was raised elsewhere joins the herd, checked whole, as an entry with its origin."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from herdbook.settings import InputPath, Settings, UserError

COPIED = ("*.safetensors", "*.json", "*.jinja", "tokenizer.model", "LICENSE*", "USE_POLICY*", "NOTICE*")


class AdoptSettings(Settings):
    """Which model joins the herd."""

    path: InputPath
    """Its folder: Hugging Face's layout of a Llama, or Meta's with params.json."""

    tokenizer: InputPath | None = None
    """A folder or file with its tokenizer, where the model's folder has none."""


def adopt(settings: AdoptSettings, out: Path) -> dict[str, Any]:
    """Write `out`/model, which all later stages take as a model of the herd's own.

    Returns parameters, vocab_size and context. Weights keep their precision, quantised ones their form. Raises
    UserError when the folder holds no Llama, a weight is missing or of another shape, or there is no tokenizer, or one
    with more tokens than the model knows.
    """
    from herdbook.model.huggingface import checked_weights, read_config
    from herdbook.model.meta import load_meta
    from herdbook.tokens.tokenizer import Tokenizer

    folder, target = settings.path, out / "model"
    tokenizer = Tokenizer.load(settings.tokenizer or folder)
    if (folder / "config.json").is_file():
        import torch

        from herdbook.model.transformer import Transformer

        config = read_config(folder)
        _check_vocabulary(folder, config.vocab_size, tokenizer.vocab_size)
        with torch.device("meta"):
            blank = Transformer(config)
        for _ in checked_weights(folder, blank):
            pass
        target.mkdir(parents=True)
        for pattern in COPIED:
            for path in sorted(folder.glob(pattern)):
                shutil.copyfile(path, target / path.name)
        if settings.tokenizer is not None or not (target / "tokenizer.json").is_file():
            tokenizer.save(target)
    elif (folder / "params.json").is_file():
        from herdbook.model.huggingface import save_model

        model = load_meta(folder)
        config = model.config
        _check_vocabulary(folder, config.vocab_size, tokenizer.vocab_size)
        target.mkdir(parents=True)
        tokenizer.save(target)
        dtype = model.embedding.weight.dtype
        save_model(model, target, dtype=dtype, bos_id=tokenizer.bos_id, eos_ids=[tokenizer.eos_id])
    else:
        raise UserError(f"{folder} holds no model: there is neither config.json nor params.json in it")
    return {
        "parameters": config.parameters(),
        "vocab_size": config.vocab_size,
        "context": config.max_length,
    }


def _check_vocabulary(folder: Path, rows: int, tokens: int) -> None:
    if tokens > rows:
        raise UserError(
            f"{folder}: the tokenizer has {tokens} tokens and the model's embedding {rows} rows; give the model's own "
            "tokenizer"
        )
