"""Models whose every answer has a known probability: a decoder without blocks' effect is a chain over tokens.

Embeddings are the unit vectors, blocks add nothing, and the head holds log-probabilities: what comes next depends on
the last token alone, by the table that was given.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch

from herdbook.model.config import ModelConfig
from herdbook.model.huggingface import save_model
from herdbook.model.transformer import Transformer
from herdbook.tokens.tokenizer import Tokenizer
from tests.support.tokenizers import byte_tokenizer

END = "<|eot_id|>"
Law = dict[str, dict[str, float]]


def chain(law: Law, tokenizer: Tokenizer, max_length: int = 256) -> Transformer:
    """The decoder of `law`: last character → next character (or `END`) → probability."""
    size = tokenizer.vocab_size + tokenizer.vocab_size % 2
    shape = {"dim": size, "layers": 1, "heads": 1, "kv_heads": 1, "head_dim": 2, "ffn_dim": 2, "norm_eps": 1e-12}
    model = Transformer(ModelConfig(vocab_size=tokenizer.vocab_size, max_length=max_length, **shape))  # type: ignore[arg-type]
    ids = {text: tokenizer.eot_id if text == END else tokenizer.encode(text)[0] for text in {*law, *_seen(law)}}
    table = torch.full((tokenizer.vocab_size, tokenizer.vocab_size), -100.0)
    for last, after in law.items():
        for text, share in after.items():
            table[ids[last], ids[text]] = max(math.log(share) if share else -100.0, -100.0)
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_() if weight.ndim == 2 else weight.fill_(1.0)
        model.embedding.weight.copy_(torch.eye(tokenizer.vocab_size, size))
        model.head.weight[:, : tokenizer.vocab_size] = table.T / size**0.5  # a normed unit vector is sqrt(size) long
    return model


def _seen(law: Law) -> set[str]:
    return {text for after in law.values() for text in after}


def write_chain(folder: Path, law: Law) -> Path:
    """The folder of a chain that was taught to end its turns."""
    tokenizer = byte_tokenizer()
    model = chain(law, tokenizer)
    save_model(model, folder / "model", bos_id=tokenizer.bos_id, eos_ids=[tokenizer.eos_id, tokenizer.eot_id])
    tokenizer.save(folder / "model")
    return folder


def digits(shares: dict[str, float], ends: float = 0.8) -> Law:
    """A law that answers with one of the characters, then ends, or else adds zeros until it ends."""
    ending = {END: ends, "0": 1 - ends}
    return {"\n": shares, **dict.fromkeys(shares, ending), "0": ending}


def write_requests(folder: Path, count: int, value: int = 7, split: str = "train", task: str = "problem") -> Path:
    """Requests whose right answer is a number."""
    (folder / "requests").mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "id": f"{task}-{number}",
            "task": task,
            "messages": [{"role": "user", "content": f"{task}: how many are {number}?"}],
            "reference": str(value),
            "check": {"kind": "number", "value": str(value)},
            "split": split,
            "difficulty": 1,
        }
        for number in range(count)
    ]
    with open(folder / "requests" / f"{split}.jsonl", "a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    return folder
