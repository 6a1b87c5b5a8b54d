"""Losses of preferences, with their gradients, against TRL's own code in float64, and in the limits."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from herdbook.posttrain.losses import PAIR_LOSSES, Likelihood, kto, log_odds

PAIRS = 7


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def sides() -> list[Likelihood]:
    """Chosen and rejected answers of different lengths."""
    found = []
    for seed in (0, 10):
        length = torch.randint(3, 20, (PAIRS,), generator=torch.Generator().manual_seed(seed)).double()
        policy = (-length * drawn(seed + 1, PAIRS).abs()).requires_grad_()
        found.append(Likelihood(policy, -length * drawn(seed + 2, PAIRS).abs(), length))
    return found


class Told:
    """What stands for a model in TRL's trainers: it tells the log-probabilities of tokens that it was given."""

    training = True

    def __init__(self, per_token: Tensor) -> None:
        self.per_token = per_token

    def __call__(self, **inputs: Any) -> Any:
        zeros = torch.zeros_like(self.per_token)
        return SimpleNamespace(
            log_probs=self.per_token, entropy=zeros, mean_logits=zeros, is_top1=zeros.bool(), loss=zeros.sum()
        )


def stub_of(**values: Any) -> Any:
    """What stands for one of TRL's trainers in one process, with these attributes."""
    from collections import defaultdict
    from unittest.mock import MagicMock

    stub = MagicMock()
    values = {"aux_loss_enabled": False, "precompute_ref_logps": True, "_tp_size": 1, **values}
    values["_metrics"] = {"train": defaultdict(list)}
    for name, value in values.items():
        setattr(stub, name, value)
    stub.accelerator.gather_for_metrics = stub.accelerator.gather = lambda value: value
    stub.accelerator.device = torch.device("cpu")
    return stub


def per_token_of(answers: Likelihood) -> tuple[Tensor, Tensor]:
    """(N, T + 1) which tokens are of each answer, behind a prompt of one token, and (N, T) equal parts of its sum."""
    mask = torch.arange(int(answers.length.max())) < answers.length.unsqueeze(1)
    mask = torch.cat([torch.zeros(len(mask), 1, dtype=torch.bool), mask], dim=1)
    return mask, mask[:, 1:] * (answers.policy / answers.length).unsqueeze(1)


def together(*sides: Likelihood) -> Likelihood:
    return Likelihood(*(torch.cat(parts) for parts in zip(*((s.policy, s.reference, s.length) for s in sides))))


def trls_dpo(kind: str, chosen: Likelihood, rejected: Likelihood, beta: float) -> Tensor:
    """The mean loss that TRL's DPOTrainer finds for these answers."""
    from trl import DPOTrainer

    mask, per_token = per_token_of(together(chosen, rejected))
    stub = stub_of(
        ld_alpha=None, f_divergence_type="reverse_kl", loss_types=[kind], loss_weights=[1.0], beta=beta,
        label_smoothing=0.0, use_weighting=False,
    )  # fmt: skip
    inputs = {
        "input_ids": torch.zeros(mask.shape, dtype=torch.int64),
        "attention_mask": torch.ones(mask.shape, dtype=torch.int64),
        "completion_mask": mask.long(),
        "ref_chosen_logps": chosen.reference,
        "ref_rejected_logps": rejected.reference,
    }
    found: Tensor = DPOTrainer._compute_loss(stub, Told(per_token), inputs, False)
    return found


def trls_cpo(kind: str, chosen: Likelihood, rejected: Likelihood, beta: float) -> Tensor:
    from trl.experimental.cpo import CPOTrainer
    from trl.experimental.orpo import ORPOTrainer

    device = SimpleNamespace(device=torch.device("cpu"))
    if kind == "orpo":
        stub: Any = SimpleNamespace(beta=beta, accelerator=device)
        return -ORPOTrainer.odds_ratio_loss(stub, chosen.mean, rejected.mean)[0].mean()
    simpo = kind == "simpo"
    stub = SimpleNamespace(
        beta=beta, alpha=0.0, label_smoothing=0.0, accelerator=device, simpo_gamma=0.7,
        loss_type="simpo" if simpo else "sigmoid",
    )  # fmt: skip
    given = (chosen.mean, rejected.mean) if simpo else (chosen.policy, rejected.policy)
    return CPOTrainer.cpo_loss(stub, *given)[0].mean()


TRL = {
    "dpo": lambda *given: trls_dpo("sigmoid", *given),
    "ipo": lambda *given: trls_dpo("ipo", *given),
    **{name: lambda *given, name=name: trls_cpo(name, *given) for name in ("cpo", "simpo", "orpo")},
}


@pytest.mark.parametrize("name", PAIR_LOSSES)
def test_losses_of_pairs_and_their_gradients_are_trls(name: str, sides: list[Likelihood]) -> None:
    policies = [side.policy for side in sides]
    ours = PAIR_LOSSES[name](*sides, 0.3, 0.7).mean()
    theirs = TRL[name](*sides, 0.3)
    # TRL computes the odds ratio in float32.
    tolerance = 1e-5 if name == "orpo" else 1e-12
    torch.testing.assert_close(ours, theirs.to(ours.dtype), rtol=tolerance, atol=tolerance)
    grads = [torch.autograd.grad(loss, policies) for loss in (ours, theirs)]
    torch.testing.assert_close(grads[0], grads[1], rtol=tolerance, atol=tolerance)


def test_ktos_loss_and_its_gradient_are_trls(sides: list[Likelihood]) -> None:
    from trl.experimental.kto import KTOTrainer

    answers, mismatched = together(*sides), drawn(20, 5)
    desirable = torch.arange(2 * PAIRS) % 3 > 0
    mask, per_token = per_token_of(answers)
    stub = stub_of(
        calculate_KL=True, loss_type="kto", beta=0.3, desirable_weight=1.5, undesirable_weight=0.5,
        _compute_kl_logps=lambda model, batch: mismatched + 0.4, _total_train_tokens=0,
    )  # fmt: skip
    batch = {
        "label": desirable,
        "input_ids": torch.zeros(mask.shape, dtype=torch.int64),
        "attention_mask": torch.ones(mask.shape, dtype=torch.int64),
        "completion_mask": mask.long(),
        "ref_logps": answers.reference,
        "ref_KL_logps": mismatched,
    }
    theirs = KTOTrainer._compute_loss(stub, Told(per_token), batch, False)
    ours = kto(answers, desirable, torch.tensor(0.4, dtype=torch.float64), 0.3, (1.5, 0.5)).mean()
    torch.testing.assert_close(ours, theirs)
    grads = [torch.autograd.grad(loss, [side.policy for side in sides]) for loss in (ours, theirs)]
    torch.testing.assert_close(grads[0], grads[1])


def test_log_odds_are_exact_at_both_ends() -> None:
    from fractions import Fraction
    from math import exp, log

    logprob = torch.tensor([-1e-9, -0.1, -0.6931, -0.6932, -5.0, -80.0], dtype=torch.float64)
    found = log_odds(logprob)
    assert found[0].item() == pytest.approx(-log(1e-9), rel=1e-7)
    for one, odds in zip(logprob[1:-1].tolist(), found[1:-1].tolist()):
        assert odds == pytest.approx(log(Fraction(exp(one)) / (1 - Fraction(exp(one)))), rel=1e-10)
    assert found[-1].item() == -80.0
    certain = torch.zeros(1, requires_grad=True)
    log_odds(certain).sum().backward()
    assert torch.isfinite(log_odds(certain)).all() and torch.isfinite(certain.grad).all()


def test_a_model_that_is_its_reference_has_dpos_loss_of_log_two(sides: list[Likelihood]) -> None:
    same = [Likelihood(side.policy, side.policy.detach(), side.length) for side in sides]
    torch.testing.assert_close(PAIR_LOSSES["dpo"](*same, 0.1, 0.0), torch.full((PAIRS,), 2.0).double().log())
    (grad,) = torch.autograd.grad(PAIR_LOSSES["dpo"](*same, 0.1, 0.0).sum(), same[0].policy)
    assert F.relu(-grad).gt(0).all()  # the chosen answer is made likelier
