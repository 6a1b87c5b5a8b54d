"""Models that learn from their own answers: what is known of each token, exact resume, a bandit solved."""

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
from herdbook.model.reward import RewardConfig
from herdbook.model.transformer import Transformer
from herdbook.posttrain.asking import prompt_ids, read_requests
from herdbook.posttrain.preference_batches import CONTENT, FORMAT, IGNORED
from herdbook.posttrain.preference_settings import RewardSettings
from herdbook.posttrain.reward import RewardModel, reward
from herdbook.posttrain.rl import critic_of, rl
from herdbook.posttrain.rl_objectives import ActorCritic, nats_of, policy_of, values_of
from herdbook.posttrain.rl_settings import RlSettings
from herdbook.posttrain.rollouts import DrawnBatches, Rollout
from herdbook.posttrain.round_settings import AskSettings
from herdbook.posttrain.settings import SftSettings
from herdbook.posttrain.sft import sft
from herdbook.settings import UserError
from herdbook.tokens.tokenizer import Tokenizer
from herdbook.train.metrics import read_metrics
from tests.support.chains import digits, write_chain, write_requests
from tests.support.models import tiny_config
from tests.support.tokenizers import byte_tokenizer


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


@pytest.fixture(scope="module")
def bandit(tmp_path_factory: pytest.TempPathFactory, base: Path) -> tuple[Path, Path]:
    """A model that answers with one of four letters by chance, and requests that one of them satisfies."""
    folder = tmp_path_factory.mktemp("bandit")
    asked = [[{"role": "user", "content": word}] for word in ("north", "south", "east", "west")]
    dialogs = [
        {"id": f"{number}-{letter}", "task": "pick", "source": "test",
         "messages": [*question, {"role": "assistant", "content": letter}]}
        for number, question in enumerate(asked) for letter in "abcd"
    ]  # fmt: skip
    requests = [
        {"id": str(number), "task": "pick", "messages": question, "reference": "c", "split": "train",
         "difficulty": 1, "check": {"kind": "text", "values": ["c"]}}
        for number, question in enumerate(asked)
    ]  # fmt: skip
    for name, rows in (("dialogs", dialogs), ("requests", requests)):
        (folder / name).mkdir()
        (folder / name / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    how = {"length": 128, "rows": 4, "steps": 40, "peak_lr": 1e-2, "warmup": 5, "checkpoint_every": 0}
    quick = {"precision": "fp32", "threads": 1, "tensorboard": False, "peak_flops": 1e10}
    sft(SftSettings(**how, **quick), {"pick": folder / "dialogs"}, base, folder / "start")
    return folder / "start", folder / "requests"


BANDITS: dict[str, dict[str, Any]] = {
    "dpo": {"nll_weight": 0.0, "steps": 24},
    "grpo": {"steps": 24},
    "grpo of several passes": {"updates": 2, "minibatches": 2, "steps": 32, "method": "grpo"},
    "ppo": {"steps": 32},
}


@pytest.mark.parametrize("name", list(BANDITS))
def test_a_bandit_is_solved(tmp_path: Path, bandit: tuple[Path, Path], name: str) -> None:
    start, requests = bandit
    more = {"method": name, "requests_per_step": 4, "answers": 8, "max_tokens": 4, "peak_lr": 3e-3, **BANDITS[name]}
    found = rl(settings(**more), start, requests, tmp_path / "out")
    records = read_metrics(tmp_path / "out" / "metrics.jsonl")
    assert records[0]["reward"] < 0.5 and found["last"]["reward"] > 0.8, [record["reward"] for record in records]
    kl = [record["kl"] for record in records]
    assert kl[0] == pytest.approx(0.0, abs=1e-4) and max(kl) > 0.02
    tenth = [record["reward"] for record in records][-(len(records) // 10) :]
    assert found["last"]["reward"] == pytest.approx(sum(tenth) / len(tenth))
    rollouts = len({record["step"] // settings(**more).steps_per_rollout for record in records})
    assert found["answers"] == rollouts * 4 * 8


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


@pytest.mark.parametrize(
    "changes",
    [
        {"method": "dpo", "steps": 4},
        {"method": "grpo", "steps": 4},
        {"method": "grpo", "steps": 9, "updates": 2, "minibatches": 2},
        {"method": "ppo", "steps": 5, "updates": 3},
    ],
)
def test_a_run_that_was_killed_draws_and_learns_the_same(
    tmp_path: Path, bandit: tuple[Path, Path], changes: dict[str, Any]
) -> None:
    start, requests = bandit
    how = settings(**changes, requests_per_step=4, checkpoint_every=1, keep_checkpoints=99)
    rl(how, start, requests, tmp_path / "out")
    whole = load_model(tmp_path / "out" / "model")
    for checkpoint in sorted((tmp_path / "out" / "checkpoints").iterdir())[2:]:  # the second one lies within a rollout
        shutil.rmtree(checkpoint)
    rl(how, start, requests, tmp_path / "out")
    again = load_model(tmp_path / "out" / "model")
    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), again.parameters(), strict=True))
    assert not torch.equal(whole.embedding.weight, load_model(start / "model").embedding.weight)
    if how.steps_per_rollout > 1:
        for checkpoint in sorted((tmp_path / "out" / "checkpoints").iterdir())[2:]:
            shutil.rmtree(checkpoint)
        shutil.rmtree(tmp_path / "out" / "rollouts")
        with pytest.raises(UserError, match="is gone, the answers that this run was learning from"):
            rl(how, start, requests, tmp_path / "out")


def test_rollouts_are_kept_no_longer_than_a_checkpoint_may_need_them(tmp_path: Path, bandit: tuple[Path, Path]) -> None:
    start, requests = bandit
    how = settings(method="ppo", steps=12, updates=2, requests_per_step=2, checkpoint_every=3, keep_checkpoints=1)
    (tmp_path / "out" / "rollouts").mkdir(parents=True)
    (tmp_path / "out" / "rollouts" / "00000000.77.tmp").touch()  # of a run that was killed as it wrote
    rl(how, start, requests, tmp_path / "out")
    kept = sorted(file.name for file in (tmp_path / "out" / "rollouts").iterdir())
    assert 1 <= len(kept) <= 3 and kept[-1] == "00000005.npz"


def batches_for(bandit: tuple[Path, Path], **changes: Any) -> DrawnBatches:
    start, requests = bandit
    model, tokenizer = load_model(start / "model"), Tokenizer.load(start / "model")
    rows = [json.loads(line) for line in (requests / "train.jsonl").read_text().splitlines()]
    how = settings(requests_per_step=4, **changes)
    if how.method == "ppo":
        model = ActorCritic(model, critic_of(how, start / "model", None))
    return DrawnBatches(how, model, tokenizer, rows, None)


@pytest.mark.parametrize("method", ["grpo", "ppo"])
def test_what_is_known_of_a_token_lies_where_the_token_does(bandit: tuple[Path, Path], method: str) -> None:
    batches = batches_for(bandit, method=method, updates=2, minibatches=2, answers=12, length=64, temperature=1.5)
    seen = []
    for step in range(4):
        batch = batches.batch(step)
        documents = Documents.from_ids(batch.document_ids)
        found = {"old_nats": nats_of(policy_of(batches.model), batch, documents)}
        if method == "ppo":
            found["old_values"] = values_of(batches.model.critic, batch, documents) * (batch.kinds > 0)
        for name, wanted in found.items():
            assert torch.allclose(getattr(batch, name), wanted, atol=2e-5)
        assert torch.equal(batch.old_nats, batch.reference_nats)  # before the first step it is the same model
        seen.append({tuple(row[row != IGNORED].tolist()) for row in batch.targets})
    assert len(batch.tokens) > 1  # some rows, so that answers are looked up by more than their order
    assert seen[0] | seen[1] == seen[2] | seen[3]


def test_ppos_advantages_are_scores_less_the_price_of_leaving_the_reference(bandit: tuple[Path, Path]) -> None:
    batches = batches_for(bandit, method="ppo", whiten=False, beta=0.3, gamma=0.9, gae_lambda=0.8)
    with torch.no_grad():
        batches.reference.head.weight.add_(0.05 * torch.randn(batches.reference.head.weight.shape))
    batch = batches.batch(0)
    rollout = batches.rollout
    assert rollout is not None
    slot = 0
    for row, slot in (batch.groups >= 0).nonzero().tolist():
        place = (batch.document_ids[row] == -1 - slot).nonzero().squeeze(1)[:-1]
        price = 0.3 * (batch.reference_nats - batch.old_nats)[row, place].double()
        score = float(rollout.rewards.flatten()[int(batch.numbers[row, slot])])
        values = [*batch.old_values[row, place].tolist(), 0.0]
        rewards = (-price).tolist()
        rewards[-1] += score
        deltas = [rewards[at] + 0.9 * values[at + 1] - values[at] for at in range(len(rewards))]
        for at in range(len(rewards)):
            wanted = sum((0.9 * 0.8) ** (later - at) * deltas[later] for later in range(at, len(deltas)))
            assert float(batch.advantages[row, place[at]]) == pytest.approx(wanted, abs=1e-5)
            assert float(batch.returns[row, place[at]]) == pytest.approx(wanted + values[at], abs=1e-5)
    whitened = batches_for(bandit, method="ppo").batch(0)
    each = whitened.advantages[whitened.kinds > 0]
    assert float(each.mean()) == pytest.approx(0.0, abs=1e-5)
    assert float(each.var(unbiased=False)) == pytest.approx(1.0, abs=1e-4)


def test_ppos_value_model_begins_as_the_reward_model(
    tmp_path: Path, base: Path, chat_tokenizer: Tokenizer, write: Any
) -> None:
    pair = {"prompt": "north?", "chosen": "a b", "rejected": "b a a", "strength": "better"}
    pairs = write("pairs", [pair | {"prompt": f"{n}?"} for n in range(6)], "preferences")
    how = {"length": 128, "rows": 2, "steps": 1, "heldout": 0.0, "precision": "fp32", "tensorboard": False}
    reward(RewardSettings(**how, peak_flops=1e10), base, [pairs], tmp_path / "judge")
    critic = critic_of(settings(method="ppo"), base / "model", tmp_path / "judge")
    judge = load_model(tmp_path / "judge" / "model", reward=True)
    assert torch.equal(critic.head.weight, judge.head.weight) and critic.head.weight.shape[0] == 1
    spoken = critic_of(settings(method="ppo"), base / "model", base)  # a judge that scores by its words' likelihood
    trunk = load_model(base / "model")
    assert spoken.head.weight.shape[0] == 1 and torch.equal(spoken.embedding.weight, trunk.embedding.weight)
    other = byte_tokenizer(("another",))
    other.save(tmp_path / "judge" / "model")
    with pytest.raises(UserError, match="another tokenizer"):
        critic_of(settings(method="ppo"), base / "model", tmp_path / "judge")


def test_what_has_not_ended_scores_below_all_and_is_not_read_by_the_judge(tmp_path: Path) -> None:
    folder = write_chain(tmp_path / "chain", digits({"7": 0.5, "3": 0.5}, 0.6)) / "model"
    tokenizer = Tokenizer.load(folder)
    rows = read_requests(write_requests(tmp_path, 10), AskSettings(kept_back=0.0))
    (prompt,) = {len(prompt_ids(tokenizer, row, row["messages"])) for row in rows}  # of all as long
    config = RewardConfig.of(tiny_config(vocab_size=tokenizer.vocab_size, max_length=prompt + 2))
    judge = RewardModel(Transformer(config), tokenizer)
    judge.model.initialize(0)
    how = settings(score="reward", answers=6, max_tokens=2, requests_per_step=4)
    batches = DrawnBatches(how, load_model(folder), tokenizer, rows, judge)
    batches.batch(0)
    found = batches.rollout
    assert found is not None and 0 < found.ended.sum() < found.ended.size
    bad = found.rewards[found.ended].min() - 1
    for request, ids, rewards, ended in zip(batches.asked(0), found.ids, found.rewards, found.ended, strict=True):
        for one, scored, whole in zip(ids, rewards, ended, strict=True):
            text = tokenizer.decode(one[1:-1].tolist())
            wanted = judge.score([request["messages"]], [[text]])[0][0] if whole else bad
            assert scored == pytest.approx(wanted, abs=1e-5)


def test_requests_that_leave_no_room_for_an_answer_are_not_asked(
    tmp_path: Path, bandit: tuple[Path, Path], requests: Path
) -> None:
    rows = [json.loads(line) for line in (requests / "train.jsonl").read_text().splitlines()]
    rows[2]["messages"][0]["content"] = "sheep " * 200
    (requests / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = rl(settings(steps=1, requests_per_step=7), bandit[0], requests, tmp_path / "out")
    assert (found["requests"], found["too_long"]) == (6, 1)
    (requests / "train.jsonl").write_text(json.dumps(rows[2]) + "\n")
    with pytest.raises(UserError, match="all 1 requests are longer than the 128 tokens"):
        rl(settings(steps=1), bandit[0], requests, tmp_path / "none")


def test_online_dpo_takes_the_best_and_the_worst_and_nothing_of_equals(base: Path, requests: Path) -> None:
    model, tokenizer = load_model(base / "model"), Tokenizer.load(base / "model")
    rows = [json.loads(line) for line in (requests / "train.jsonl").read_text().splitlines()]
    batches = DrawnBatches(settings(method="dpo"), model, tokenizer, rows, None)
    assert [len({row["id"] for row in batches.asked(step)}) for step in range(2)] == [3, 3]
    ids = [np.arange(n, n + 3, dtype=np.uint32) for n in range(4)]
    ended = np.array([True, True, False, True])
    example = batches._example(list(range(5)), ids, np.array([0.2, 0.9, -1.0, 0.5]), ended)
    assert [(int(one.ids[0]), one.rank) for one in example.answers] == [(1, 1.0), (2, 0.0)]
    assert [one.kinds.tolist() for one in example.answers] == [[CONTENT, FORMAT], [CONTENT, CONTENT]]
    assert batches._example(list(range(5)), ids, np.full(4, 0.3), ended) is None
    empty = batches._batch(Rollout(0, [], np.zeros((1, 4), np.float32), np.ones((1, 4), bool)), [], [])
    assert len(empty) == 1 and (empty.groups < 0).all()


def test_what_cannot_be_is_told(tmp_path: Path, base: Path, requests: Path) -> None:
    with pytest.raises(UserError, match="no reward model feeds this stage"):
        rl(settings(score="reward"), base, requests, tmp_path / "out")
    with pytest.raises(ValidationError, match="rl answers and learns in one process"):
        settings(parallel={"shard": 2})
    with pytest.raises(ValidationError, match="minibatches=4 share out the 3 requests_per_step"):
        settings(minibatches=4)
    with pytest.raises(ValidationError, match="leave out phases, accumulate"):
        settings(accumulate=2)
    (requests / "train.jsonl").write_text(
        json.dumps({"id": "1", "messages": [{"role": "user", "content": "?"}]}) + "\n"
    )
    with pytest.raises(UserError, match="some requests carry no check"):
        rl(settings(), base, requests, tmp_path / "out")
