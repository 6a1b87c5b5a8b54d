"""Models that begin, and end, in parts: as one process draws them, reads them and writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from herdbook.model.config import ModelConfig
from herdbook.model.huggingface import load_model, save_model
from herdbook.model.transformer import Transformer
from herdbook.train.export import save_spread
from herdbook.train.start import drawn_model, joined, loaded_model
from herdbook.train.topology import ParallelSettings
from tests.support.models import tiny_config, tiny_model
from tests.support.ranks import run_ranks
from tests.train.support import tiny_settings

UNTIED = {"layers": 3, "kv_heads": 4}


def written(folder: Path, topology: dict[str, Any], config: ModelConfig, start: Path | None) -> None:
    parallel = joined(ParallelSettings(**topology))
    assert parallel is not None
    settings = tiny_settings(seed=3)
    model = drawn_model(parallel, config, settings) if start is None else loaded_model(parallel, start, settings)
    save_spread(parallel.ranks, model, folder, bos_id=1, eos_ids=[2], shard_bytes=20_000)


def assert_same(folder: Path, wanted: Transformer) -> None:
    found = load_model(folder)
    assert found.config == wanted.config
    for (name, weight), other in zip(wanted.named_parameters(), found.parameters(), strict=True):
        assert torch.equal(weight, other), name


@pytest.mark.parametrize(
    ("topology", "shape"),
    [
        ({"shard": 2, "tensor": 2}, {"tied_embeddings": True, "kv_heads": 2}),
        ({"tensor": 2, "pipeline": 2}, UNTIED),
        ({"shard": 2, "expert": 2, "pipeline": 2}, {"experts": 4, "tied_embeddings": True}),
    ],
)
def test_drawn_read_and_written_in_parts_equals_whole(
    tmp_path: Path, topology: dict[str, Any], shape: dict[str, Any]
) -> None:
    config, lively = tiny_config(**shape), tiny_model(5, **shape)
    save_model(lively, tmp_path / "start", bos_id=1, eos_ids=[2])
    whole = Transformer(config)
    whole.initialize(3)
    run_ranks(4, both, tmp_path, topology, config)
    assert_same(tmp_path / "drawn", whole)
    assert_same(tmp_path / "read", lively)
    files = sorted((tmp_path / "read").glob("*.safetensors"))
    assert len(files) > 2
    assert sum(len(load_file(file)) for file in files) == len(list(whole.parameters()))
    for name in ("config.json", "generation_config.json"):
        assert (tmp_path / "read" / name).read_text() == (tmp_path / "start" / name).read_text()


def both(folder: Path, topology: dict[str, Any], config: ModelConfig) -> None:
    written(folder / "drawn", topology, config, None)
    written(folder / "read", topology, config, folder / "start")
