"""A mixture of experts is Mixtral's function, begins as the dense model it was made of, and spreads its tokens."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from torch import Tensor

from herdbook.model.config import ModelConfig
from herdbook.model.experts import Experts, imbalance
from herdbook.model.huggingface import load_model, save_model
from herdbook.model.upcycle import upcycle
from herdbook.settings import UserError
from herdbook.tokens.batches import Batch
from herdbook.train.gradients import OneProcess, judged
from herdbook.train.objective import NextToken
from herdbook.train.recompute import recompute
from tests.support.models import SHAPES, tiny_config, tiny_model

TOKENS = torch.randint(0, 97, (3, 40), generator=torch.Generator().manual_seed(7))
MIXTURE: dict[str, Any] = {"experts": 8, "experts_per_token": 2}


def lively_mixture(**changes: Any) -> Any:
    """A mixture whose router decides: its weights are far from even."""
    model = tiny_model(**MIXTURE, **changes)
    with torch.no_grad():
        for block in model.blocks:
            block.feed_forward.router.weight.mul_(3)  # type: ignore[union-attr]
    return model


@pytest.mark.parametrize("shape", ["grouped", "stretched", "wide heads"])
def test_logits_and_gradients_equal_transformers_mixtral(shape: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = lively_mixture(**SHAPES[shape])
    save_model(model, tmp_path, bos_id=1, eos_ids=[2])
    peer = AutoModelForCausalLM.from_pretrained(tmp_path, local_files_only=True).eval()
    assert type(peer).__name__ == "MixtralForCausalLM"
    ours, theirs = model(TOKENS), peer(TOKENS).logits
    assert theirs.std() > 0.5
    assert (ours - theirs).abs().max() < 1e-5
    targets = TOKENS[:, 1:].flatten()
    for logits in (ours, theirs):
        torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets).backward()
    wanted = dict(peer.named_parameters())
    for layer, block in enumerate(model.blocks):
        router = wanted[f"model.layers.{layer}.mlp.gate.weight"].grad
        assert router.abs().max() > 1e-4
        assert (block.feed_forward.router.weight.grad - router).abs().max() < 1e-5
    assert (model.embedding.weight.grad - wanted["model.embed_tokens.weight"].grad).abs().max() < 1e-5


def test_a_saved_mixture_loads_again_and_from_transformers_own_folder(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = lively_mixture()
    save_model(model, tmp_path / "ours", bos_id=1, eos_ids=[2])
    names = load_file(tmp_path / "ours" / "model.safetensors")
    assert "model.layers.1.block_sparse_moe.experts.7.w2.weight" in names
    peer = AutoModelForCausalLM.from_pretrained(tmp_path / "ours", local_files_only=True)
    peer.save_pretrained(tmp_path / "theirs")
    for folder in ("ours", "theirs"):
        again = load_model(tmp_path / folder)
        assert again.config == model.config
        with torch.no_grad():
            assert torch.equal(again(TOKENS), model(TOKENS))


@pytest.mark.parametrize("per_token", [1, 2, 4])
def test_an_upcycled_model_begins_as_the_dense_one(per_token: int) -> None:
    dense = tiny_model(seed=3)
    model = upcycle(dense, 4, per_token, 0.01, seed=1)
    chosen = {int(i) for block in model.blocks for i in block.feed_forward.router(torch.randn(64, 32)).argmax(-1)}
    assert chosen == {0, 1, 2, 3}
    with torch.no_grad():
        assert (model(TOKENS) - dense(TOKENS)).abs().max() < 1e-5
    assert sum(w.numel() for w in model.parameters()) == model.config.parameters()


def test_a_mixture_is_not_upcycled_again() -> None:
    with pytest.raises(UserError, match="has 8 experts already"):
        upcycle(tiny_model(**MIXTURE), 4, 2, 0.01, seed=1)


def test_each_token_gets_its_best_experts_by_brute_force() -> None:
    torch.manual_seed(0)
    layer = Experts(tiny_config(experts=5, experts_per_token=3))
    x = torch.randn(2, 7, 32)
    with torch.no_grad():
        found = layer(x)
    for row in range(2):
        for place in range(7):
            token = x[row, place]
            shares = (layer.router.weight @ token).softmax(0).tolist()
            best = sorted(range(5), key=lambda e: -shares[e])[:3]
            total = sum(shares[e] for e in best)
            wanted = sum(shares[e] / total * layer.experts[str(e)](token) for e in best)
            assert (found[row, place] - wanted).abs().max() < 1e-5


def test_imbalance_is_least_when_even_and_most_when_one_expert_takes_all() -> None:
    even = torch.full((8, 4), 0.25)
    assert imbalance(even, torch.tensor([4, 4, 4, 4]), 2) == pytest.approx(2.0)
    one = torch.zeros(8, 4)
    one[:, 0] = 1.0
    assert imbalance(one, torch.tensor([8, 0, 0, 0]), 1) == pytest.approx(4.0)


def test_the_routers_loss_is_that_of_transformers_and_is_felt_when_learning_only() -> None:
    """Loss and gradients as if the mean over layers of the imbalance were a term of the objective's loss."""
    from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

    model, plain = lively_mixture(router_loss=0.5), lively_mixture(router_loss=0.0)
    batch = Batch(TOKENS, torch.roll(TOKENS, -1, 1), torch.zeros_like(TOKENS))
    scores: list[Tensor] = []
    for block in plain.blocks:
        block.feed_forward.router.register_forward_hook(lambda module, args, output: scores.append(output))
    task = NextToken()(plain, batch)
    uneven = sum(load_balancing_loss_func((one,), 8, 2) for one in scores) / len(scores)
    assert 2.0 < uneven < 8.0
    (task.total + 0.5 * uneven * task.count).backward()
    alone, uneven = task.total.detach(), uneven.detach()
    sums = OneProcess().gradients(model, NextToken(), [batch], nullcontext)
    assert float(sums.metrics["task_loss"]) == pytest.approx(float(alone), rel=1e-6)
    assert float(sums.metrics["imbalance"]) == pytest.approx(float(uneven) * task.count, rel=1e-6)
    assert float(sums.total) == pytest.approx(float(alone + 0.5 * uneven * task.count), rel=1e-6)
    for (name, weight), other in zip(model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(weight.grad, other.grad, rtol=1e-5, atol=1e-4, msg=name)
    with torch.no_grad():
        assert float(judged(model, NextToken(), batch)) == pytest.approx(float(alone), rel=1e-6)


def test_what_recomputing_leaves_is_counted_once() -> None:
    model, again = lively_mixture(router_loss=0.5), lively_mixture(router_loss=0.5)
    batch = Batch(TOKENS, torch.roll(TOKENS, -1, 1), torch.zeros_like(TOKENS))
    for block in again.blocks:
        recompute(block, "full")
    wanted, found = (OneProcess().gradients(one, NextToken(), [batch], nullcontext) for one in (model, again))
    assert found.total == wanted.total
    for weight, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(weight.grad, other.grad)
    with torch.no_grad():
        assert judged(again, NextToken(), batch) == judged(model, NextToken(), batch)


def test_only_the_chosen_experts_count_as_work() -> None:
    dense, sparse = tiny_config(), tiny_config(**MIXTURE)
    per_expert, router = 3 * 32 * 48, 32 * 8
    assert sparse.matmul_parameters() - dense.matmul_parameters() == 2 * (per_expert + router)
    assert sparse.parameters() - dense.parameters() == 2 * (7 * per_expert + router)


def test_fewer_experts_than_a_token_needs_is_refused() -> None:
    with pytest.raises(ValidationError, match="experts=1 is less than experts_per_token=2"):
        ModelConfig(vocab_size=8, dim=8, layers=1, heads=1, kv_heads=1, ffn_dim=8, experts=1)
