"""Models that learn from their own answers: GRPO's loss against TRL, exact resume, and a reward that rises."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from herdbook.model.documents import Documents
from herdbook.model.huggingface import load_model
from herdbook.posttrain.preference_batches import CONTENT, FORMAT, Answer, AnswerBatches, Example
from herdbook.posttrain.rl import DrawnBatch, DrawnBatches, Grpo, rl
from herdbook.posttrain.rl_settings import RlSettings
from herdbook.settings import UserError
from herdbook.tokens.tokenizer import Tokenizer
from herdbook.train.metrics import read_metrics
from herdbook.train.nats import token_nats
from tests.posttrain.test_losses import stub_of


def settings(**changes: Any) -> RlSettings:
    quick: dict[str, Any] = {
        "length": 128,
        "steps": 4,
        "warmup": 0,
        "peak_lr": 1e-3,
        "precision": "fp32",
        "threads": 1,
        "tensorboard": False,
        "schedule": "constant",
        "peak_flops": 1e10,
        "checkpoint_every": 0,
        "score": "verdict",
        "requests_per_step": 3,
        "answers": 4,
        "max_tokens": 8,
        "kept_back": 0.0,
        "method": "grpo",
    }
    return RlSettings(**{**quick, **changes})


@pytest.fixture
def requests(tmp_path: Path) -> Path:
    """Requests that any answer with a digit in it satisfies."""
    folder = tmp_path / "requests"
    folder.mkdir()
    rows = [
        {"id": str(n), "task": "number", "messages": [{"role": "user", "content": f"{n}?"}], "reference": "1",
         "check": {"kind": "text", "values": list("0123456789abcdef")}, "split": "train", "difficulty": 1}
        for n in range(7)
    ]  # fmt: skip
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def drawn_batch(vocabulary: int) -> tuple[DrawnBatch, list[Example]]:
    generator = np.random.default_rng(0)
    examples = [
        Example(
            generator.integers(0, vocabulary, 5 + group, np.uint32),
            tuple(
                Answer(
                    np.array([7, *generator.integers(0, vocabulary, size)], np.uint32),
                    np.array([CONTENT] * (size - 1) + [FORMAT], np.uint8),
                    float(rank),
                )
                for size, rank in zip((4, 9, 6), generator.normal(size=3))
            ),
        )
        for group in range(2)
    ]
    rows = AnswerBatches(examples, 64, 1)
    plain = rows.assemble([rows.row(number) for number in range(rows.table.count)], 0)
    return DrawnBatch(**vars(plain)), examples


@pytest.mark.slow  # importing that trainer takes half a minute
def test_grpos_loss_and_gradient_are_trls(base: Path) -> None:
    from trl import GRPOTrainer

    model, other = (load_model(base / "model", dtype=torch.float64) for _ in range(2))
    with torch.no_grad():
        other.head.weight.add_(0.01 * torch.randn(other.head.weight.shape, generator=torch.Generator().manual_seed(1)))
    batch, examples = drawn_batch(model.config.vocab_size)

    def logprobs(which: Any, example: Example, answer: Answer) -> torch.Tensor:
        ids = torch.from_numpy(np.concatenate([example.trunk, answer.ids]).astype(np.int64))
        logits = which(ids.unsqueeze(0)).log_softmax(-1)[0, :-1]
        return logits.gather(1, ids[1:, None])[:, 0][-len(answer.kinds) :]

    def padded(which: Any) -> torch.Tensor:
        each = [logprobs(which, example, answer) for example in examples for answer in example.answers]
        return torch.nn.utils.rnn.pad_sequence(each, batch_first=True)

    theirs = padded(model)
    lengths = torch.tensor([len(answer.kinds) for example in examples for answer in example.answers])
    mask = (torch.arange(theirs.shape[1]) < lengths.unsqueeze(1)).long()
    told: dict[str, Any] = {
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "importance_sampling_level": "token",
        "beta": 0.3,
        "loss_type": "grpo",
        "epsilon_low": 0.2,
        "epsilon_high": 0.2,
        "use_vllm": False,
        "current_gradient_accumulation_steps": 1,
        "_entropy_bonus_enabled": False,
    }
    stub = stub_of(_get_per_token_logps_and_entropies=lambda *a, **k: (theirs, torch.zeros_like(theirs), None), **told)
    stub.args.delta, stub.args.use_bias_correction_kl = None, False
    inputs = {
        "prompt_ids": torch.zeros(len(lengths), 1, dtype=torch.int64),
        "prompt_mask": torch.ones(len(lengths), 1, dtype=torch.int64),
        "completion_ids": torch.zeros(mask.shape, dtype=torch.int64),
        "completion_mask": mask,
        "advantages": torch.tensor([answer.rank for example in examples for answer in example.answers]).double(),
        "ref_per_token_logps": padded(other).detach(),
    }
    wanted = GRPOTrainer._compute_loss(stub, None, inputs)
    (grad,) = torch.autograd.grad(wanted, [model.blocks[0].attention.key.weight])
    nats = torch.zeros(batch.targets.shape, dtype=torch.float64)
    batch.reference_nats = nats
    with torch.no_grad():
        hidden = other.hidden(batch.tokens, Documents.from_ids(batch.document_ids)).flatten(0, 1)
        batch.reference_nats = token_nats(hidden, other.head.weight, batch.targets.flatten()).view(nats.shape)
    ours = Grpo(0.3)(model, batch)
    assert ours.count == len(lengths)
    torch.testing.assert_close(ours.total / ours.count, wanted, rtol=1e-6, atol=1e-6)
    (mine,) = torch.autograd.grad(ours.total / ours.count, [model.blocks[0].attention.key.weight])
    torch.testing.assert_close(mine, grad, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("method", ["dpo", "grpo"])
def test_answers_that_are_rewarded_become_likelier(tmp_path: Path, base: Path, requests: Path, method: str) -> None:
    how = settings(
        method=method, steps=20, peak_lr=3e-3, requests_per_step=8, answers=12, max_tokens=20, nll_weight=0.0
    )
    found = rl(how, base, requests, tmp_path / "out")
    records = read_metrics(tmp_path / "out" / "metrics.jsonl")
    rewards = [record["reward"] for record in records]
    assert sum(rewards[-5:]) > sum(rewards[:5]) + 0.5
    assert records[0]["kl"] == pytest.approx(0.0, abs=1e-4) and records[-1]["kl"] != 0.0
    assert found["last"]["reward"] == pytest.approx(sum(rewards[-2:]) / 2)


def test_adapters_learn_from_what_the_model_with_them_says(tmp_path: Path, base: Path, requests: Path) -> None:
    how = settings(
        steps=20, peak_lr=3e-2, requests_per_step=8, answers=12, max_tokens=20, lora={"rank": 4, "chat_tokens": True}
    )
    found = rl(how, base, requests, tmp_path / "out")
    rewards = [record["reward"] for record in read_metrics(tmp_path / "out" / "metrics.jsonl")]
    assert sum(rewards[-5:]) > sum(rewards[:5]) + 0.5
    model, before = load_model(tmp_path / "out" / "model"), load_model(base / "model")
    assert torch.equal(model.norm.weight, before.norm.weight)
    assert not torch.equal(model.blocks[0].attention.query.weight, before.blocks[0].attention.query.weight)
    assert 0 < found["trained_share"] < 0.5 and (tmp_path / "out" / "adapter" / "adapter_config.json").is_file()


@pytest.mark.parametrize("method", ["dpo", "grpo"])
def test_a_run_that_was_killed_draws_and_learns_the_same(
    tmp_path: Path, base: Path, requests: Path, method: str
) -> None:
    how = settings(method=method, steps=4, checkpoint_every=2, keep_checkpoints=9)
    rl(how, base, requests, tmp_path / "out")
    whole = load_model(tmp_path / "out" / "model")
    shutil.rmtree(tmp_path / "out" / "checkpoints" / "step-00000004")
    rl(how, base, requests, tmp_path / "out")
    again = load_model(tmp_path / "out" / "model")
    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), again.parameters(), strict=True))
    assert not torch.equal(whole.embedding.weight, load_model(base / "model").embedding.weight)


def test_online_dpo_takes_the_best_and_the_worst_and_nothing_of_equals(base: Path, requests: Path) -> None:
    model, tokenizer = load_model(base / "model"), Tokenizer.load(base / "model")
    rows = [json.loads(line) for line in (requests / "train.jsonl").read_text().splitlines()]
    batches = DrawnBatches(settings(method="dpo"), model, tokenizer, rows, None)
    assert [len({row["id"] for row in batches.asked(step)}) for step in range(2)] == [3, 3]
    trunk = np.arange(4, dtype=np.uint32)
    answers = [Answer(np.arange(n, n + 3, dtype=np.uint32), np.ones(2, np.uint8), float("nan")) for n in range(4)]
    (example,) = batches._examples(trunk, answers, torch.tensor([0.2, 0.9, -1.0, 0.5]))
    assert [(int(one.ids[0]), one.rank) for one in example.answers] == [(1, 1.0), (2, 0.0)]
    assert batches._examples(trunk, answers, torch.full((4,), 0.3)) == []
    empty = batches._batch([], torch.zeros(1, 4), torch.ones(1, 4, dtype=torch.bool))
    assert len(empty) == 1 and (empty.groups < 0).all()


def test_what_cannot_be_is_told(tmp_path: Path, base: Path, requests: Path) -> None:
    with pytest.raises(UserError, match="no reward model feeds this stage"):
        rl(settings(score="reward"), base, requests, tmp_path / "out")
    with pytest.raises(ValidationError, match="rl answers and learns in one process"):
        settings(parallel={"shard": 2})
    with pytest.raises(ValidationError, match="leave out phases, accumulate"):
        settings(accumulate=2)
    (requests / "train.jsonl").write_text(
        json.dumps({"id": "1", "messages": [{"role": "user", "content": "?"}]}) + "\n"
    )
    with pytest.raises(UserError, match="some requests carry no check"):
        rl(settings(), base, requests, tmp_path / "out")
