"""Models from elsewhere, against what transformers makes of the same files."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from herdbook.book import Book
from herdbook.recipe import read_recipe
from herdbook.run import run_recipe
from herdbook.settings import UserError
from herdbook.train.adopt import AdoptSettings, adopt
from tests.model.test_meta import draw, write
from tests.support.tokenizers import byte_tokenizer


def theirs(folder: Path, vocabulary: int = 267) -> LlamaForCausalLM:
    torch.manual_seed(3)
    config = LlamaConfig(
        vocab_size=vocabulary, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=128, torch_dtype="bfloat16",
    )  # fmt: skip
    model = LlamaForCausalLM(config).to(torch.bfloat16)
    model.save_pretrained(folder)
    byte_tokenizer().save(folder)
    return model.eval()


def test_a_hugging_face_model_joins_the_herd(tmp_path: Path) -> None:
    """As a stage of a recipe; its weights are the very same, in the precision they had."""
    theirs(tmp_path / "theirs")
    peer = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs").eval()
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"stages:\n  base: {{kind: adopt, path: '{tmp_path / 'theirs'}'}}\n")
    book = Book(tmp_path / "book")
    entry = run_recipe(read_recipe(recipe), book)["base"]
    assert entry.metrics["vocab_size"] == 267 and entry.sources["path"].path == str(tmp_path / "theirs")
    found = AutoModelForCausalLM.from_pretrained(book.folder_of(entry) / "model").eval()
    assert found.dtype == torch.bfloat16
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(found(tokens).logits, peer(tokens).logits)


def test_metas_files_join_too(tmp_path: Path) -> None:
    weights = draw(2)
    folder = tmp_path / "meta"
    folder.mkdir()
    write(folder, weights, 2, 2, 0)
    words = weights["tok_embeddings.weight"].shape[0]
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(UserError, match="tokenizer"):
        adopt(AdoptSettings(path=folder), out)
    byte_tokenizer().save(tmp_path / "words")
    with pytest.raises(UserError, match=f"267 tokens and the model's embedding {words} rows"):
        adopt(AdoptSettings(path=folder, tokenizer=tmp_path / "words"), out)
    assert not list(out.iterdir())


def test_what_is_no_llama_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    folder = tmp_path / "theirs"
    theirs(folder)
    (folder / "model.safetensors").rename(folder / "other.bin")
    with pytest.raises(UserError):
        adopt(AdoptSettings(path=folder), out)
    theirs(folder, vocabulary=200)
    with pytest.raises(UserError, match="267 tokens and the model's embedding 200 rows"):
        adopt(AdoptSettings(path=folder), out)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["GPT2LMHeadModel"]}))
    with pytest.raises(UserError):
        adopt(AdoptSettings(path=folder), out)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match="holds no model"):
        adopt(AdoptSettings(path=folder), out)
    assert not list(out.iterdir())
