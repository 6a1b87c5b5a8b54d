"""What is minimised over answers the model gave itself, against TRL and token by token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from herdbook.model.documents import Documents
from herdbook.model.huggingface import load_model
from herdbook.posttrain.preference_batches import CONTENT, FORMAT, Answer, AnswerBatches, Example
from herdbook.posttrain.rl_objectives import ActorCritic, DrawnBatch, Grpo, Ppo, nats_of
from tests.posttrain.test_losses import stub_of


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


def perturbed(base: Path, seed: int, size: float = 0.01) -> Any:
    """The base with another head, in float64."""
    model = load_model(base / "model", dtype=torch.float64)
    with torch.no_grad():
        noise = torch.randn(model.head.weight.shape, generator=torch.Generator().manual_seed(seed))
        model.head.weight.add_(size * noise)
    return model


def logprobs(model: Any, example: Example, answer: Answer) -> torch.Tensor:
    """(n,) of an answer's targets, from the logits of the dialog alone."""
    ids = torch.from_numpy(np.concatenate([example.trunk, answer.ids]).astype(np.int64))
    logits = model(ids.unsqueeze(0)).log_softmax(-1)[0, :-1]
    return logits.gather(1, ids[1:, None])[:, 0][-len(answer.kinds) :]


def with_nats(batch: DrawnBatch, name: str, model: Any) -> None:
    with torch.no_grad():
        setattr(batch, name, nats_of(model, batch, Documents.from_ids(batch.document_ids)))


@pytest.mark.slow  # importing that trainer takes half a minute
@pytest.mark.parametrize("method", ["grpo", "ppo"])
def test_clipped_losses_and_their_gradients_are_trls(base: Path, method: str) -> None:
    from trl import GRPOTrainer

    model, other, old = load_model(base / "model", dtype=torch.float64), perturbed(base, 1), perturbed(base, 2)
    batch, examples = drawn_batch(model.config.vocab_size)

    def padded(which: Any) -> torch.Tensor:
        each = [logprobs(which, example, answer) for example in examples for answer in example.answers]
        return torch.nn.utils.rnn.pad_sequence(each, batch_first=True)

    theirs = padded(model)
    answers = [answer for example in examples for answer in example.answers]
    lengths = torch.tensor([len(answer.kinds) for answer in answers])
    mask = (torch.arange(theirs.shape[1]) < lengths.unsqueeze(1)).long()
    advantages = torch.tensor([answer.rank for answer in answers]).double().unsqueeze(1).expand(mask.shape).clone()
    if method == "ppo":  # one for each token, not for each answer
        advantages += torch.randn(mask.shape, generator=torch.Generator().manual_seed(3)).double()
    told: dict[str, Any] = {
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "importance_sampling_level": "token",
        "beta": 0.3 if method == "grpo" else 0.0,
        "loss_type": "grpo" if method == "grpo" else "bnpo",
        "epsilon_low": 0.1,
        "epsilon_high": 0.1,
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
        "advantages": advantages,
        "old_per_token_logps": padded(old).detach(),
        "ref_per_token_logps": padded(other).detach(),
    }
    wanted = GRPOTrainer._compute_loss(stub, None, inputs)
    (grad,) = torch.autograd.grad(wanted, [model.blocks[0].attention.key.weight])
    with_nats(batch, "reference_nats", other)
    with_nats(batch, "old_nats", old)
    lay(batch, "advantages", [row[: len(one.kinds)] for row, one in zip(advantages, answers)])
    if method == "grpo":
        ours = Grpo(0.3, 0.1)(model, batch)
        assert ours.count == len(lengths)
    else:
        batch.old_values, batch.returns = torch.zeros(batch.targets.shape), torch.ones(batch.targets.shape)
        critic = perturbed(base, 4)
        ours = Ppo(0.1, 0.2, 0.0)(ActorCritic(model, critic), batch)
        assert ours.count == int(lengths.sum())
    assert 0 < float(ours.metrics["clipped"]) < ours.count  # so the clipping takes part, and not everywhere
    torch.testing.assert_close(ours.total / ours.count, wanted, rtol=1e-6, atol=1e-6)
    (mine,) = torch.autograd.grad(ours.total / ours.count, [model.blocks[0].attention.key.weight])
    torch.testing.assert_close(mine, grad, rtol=1e-5, atol=1e-7)


def lay(batch: DrawnBatch, name: str, each: list[torch.Tensor]) -> None:
    """Write what is known of each answer's targets where these lie in the rows, slot by slot."""
    laid = torch.zeros(batch.targets.shape, dtype=torch.float64)
    for row, slot in (batch.groups >= 0).nonzero().tolist():
        place = (batch.document_ids[row] == -1 - slot).nonzero().squeeze(1)[:-1]
        laid[row, place] = each[int(batch.numbers[row, slot])].double()
    setattr(batch, name, laid)


def test_ppos_loss_is_that_of_each_token_alone(base: Path) -> None:
    model, other, old = load_model(base / "model", dtype=torch.float64), perturbed(base, 1), perturbed(base, 2)
    critic = load_model(base / "model", dtype=torch.float64)
    critic.head = torch.nn.Linear(critic.config.dim, 1, bias=False, dtype=torch.float64)
    batch, examples = drawn_batch(model.config.vocab_size)
    answers = [(example, answer) for example in examples for answer in example.answers]
    draw = np.random.default_rng(5)
    known = {
        name: [torch.from_numpy(draw.normal(size=len(answer.kinds))) for _, answer in answers]
        for name in ("advantages", "old_values", "returns")
    }
    for name, each in known.items():
        lay(batch, name, each)
    with_nats(batch, "reference_nats", other)
    with_nats(batch, "old_nats", old)
    ours = Ppo(0.1, 0.3, 0.7)(ActorCritic(model, critic), batch)
    total = error = 0.0
    clipped = 0
    with torch.no_grad():
        for number, (example, answer) in enumerate(answers):
            ids = torch.from_numpy(np.concatenate([example.trunk, answer.ids]).astype(np.int64)).unsqueeze(0)
            values = critic(ids)[0, -len(answer.ids) : -1, 0].tolist()
            new, before = (logprobs(which, example, answer).tolist() for which in (model, old))
            for token, value in enumerate(values):
                advantage, was, came = (float(known[name][number][token]) for name in known)
                ratio = np.exp(new[token] - before[token])
                bounded = min(max(ratio, 0.9), 1.1)
                clipped += bounded * advantage < ratio * advantage
                near = min(max(value, was - 0.3), was + 0.3)
                error += max((value - came) ** 2, (near - came) ** 2) / 2
                total -= min(ratio * advantage, bounded * advantage)
    assert ours.count == sum(len(answer.kinds) for _, answer in answers)
    assert float(ours.total) == pytest.approx(total + 0.7 * error, rel=1e-6)
    assert float(ours.metrics["value_error"]) == pytest.approx(error, rel=1e-6)
    assert float(ours.metrics["clipped"]) == clipped > 0
