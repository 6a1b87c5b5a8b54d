"""Reward models: rows against transformers on whole dialogs, ranks against one process, and whole runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from herdbook.evaluate.intervals import mean
from herdbook.inference.engine import Engine
from herdbook.model.config import ModelConfig
from herdbook.model.huggingface import load_model, read_config, save_model
from herdbook.model.reward import RewardConfig
from herdbook.model.transformer import Transformer
from herdbook.posttrain.answers import batches_of
from herdbook.posttrain.preference_batches import AnswerBatches, encode_all
from herdbook.posttrain.preference_settings import RewardSettings
from herdbook.posttrain.preferences import read_preference
from herdbook.posttrain.reading import AT_THE_END, Reading
from herdbook.posttrain.reward import Ranking, RewardModel, reward
from herdbook.posttrain.score_validation import Told, _shares
from herdbook.settings import UserError
from herdbook.tokens.dialog import encode_dialog
from herdbook.tokens.texts import is_heldout
from herdbook.tokens.tokenizer import Tokenizer
from herdbook.train.metrics import read_metrics
from tests.posttrain.conftest import Write
from tests.posttrain.test_preference import FOUR_RANKS, rows
from tests.support.models import tiny_config, tiny_model
from tests.train.parity import Case
from tests.train.test_parallel import strays


def settings(**changes: Any) -> RewardSettings:
    quick: dict[str, Any] = {
        "rows": 2, "length": 128, "steps": 3, "warmup": 0, "peak_lr": 1e-3, "precision": "fp32", "threads": 1,
        "tensorboard": False, "peak_flops": 1e10, "checkpoint_every": 0, "heldout": 0.0,
    }  # fmt: skip
    return RewardSettings(**{**quick, **changes})


def batches(tokenizer: Tokenizer, count: int) -> AnswerBatches:
    return batches_of(settings(), encode_all(tokenizer, [read_preference(row, "here") for row in rows(count)], 128))


def reward_shape(**changes: Any) -> ModelConfig:
    return RewardConfig.of(tiny_config(**changes))


def lively(config: ModelConfig) -> Transformer:
    model = Transformer(config)
    model.initialize(0)
    with torch.no_grad():
        model.embedding.weight.mul_(15)
        model.head.weight.mul_(30)
    return model


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory, chat_tokenizer: Tokenizer) -> Path:
    """A random reward model's folder."""
    folder = tmp_path_factory.mktemp("judge") / "model"
    model = lively(reward_shape(vocab_size=chat_tokenizer.vocab_size, max_length=256, layers=2))
    pad = chat_tokenizer.special_tokens["<|finetune_right_pad_id|>"]
    save_model(model, folder, bos_id=chat_tokenizer.bos_id, eos_ids=[chat_tokenizer.eot_id], pad_id=pad)
    chat_tokenizer.save(folder)
    return folder


PROMPTS = [
    [{"role": "user", "content": "How many sheep?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Who minds the sheep?"}],
    [{"role": "user", "content": "Hm?"}, {"role": "assistant", "content": "Hm."}, {"role": "user", "content": "Well"}],
]
ANSWERS = [["Five.", "Five sheep, and the dog that I counted too.", "5"], ["The dog."], ["So.", ""]]


def test_scores_are_those_of_transformers_on_padded_batches(judge: Path, chat_tokenizer: Tokenizer) -> None:
    from transformers import LlamaForSequenceClassification

    peer = LlamaForSequenceClassification.from_pretrained(judge).eval()
    dialogs = [
        encode_dialog(chat_tokenizer, [*prompt, {"role": "assistant", "content": answer}]).ids
        for prompt, answers in zip(PROMPTS, ANSWERS)
        for answer in answers
    ]
    longest = max(map(len, dialogs))
    ids = torch.tensor([ids + [peer.config.pad_token_id] * (longest - len(ids)) for ids in dialogs])
    mask = torch.arange(longest) < torch.tensor(list(map(len, dialogs))).unsqueeze(1)
    with torch.no_grad():
        theirs = peer(ids, attention_mask=mask.long()).logits[:, 0]
    ours = RewardModel.load(judge).score(PROMPTS, ANSWERS)
    assert [len(mine) for mine in ours] == [3, 1, 2]
    torch.testing.assert_close(torch.tensor([one for mine in ours for one in mine]), theirs, rtol=1e-4, atol=1e-4)
    assert theirs.std() > 0.5


def test_a_score_depends_neither_on_the_other_answers_nor_on_the_other_prompts(
    judge: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = RewardModel.load(judge)
    together = model.score(PROMPTS, ANSWERS)
    for prompt, answers, found in zip(PROMPTS, ANSWERS, together):
        alone = [model.score([prompt], [[answer]])[0][0] for answer in answers]
        assert found == pytest.approx(alone, abs=1e-5)
        assert model.score([prompt], [answers[::-1]])[0][::-1] == pytest.approx(found, abs=1e-5)
    monkeypatch.setattr("herdbook.posttrain.reward.ROW_TOKENS", 50)
    for found, again in zip(together, model.score(PROMPTS, ANSWERS)):
        assert found == pytest.approx(again, abs=1e-5)
    assert model.score([PROMPTS[0], PROMPTS[1]], [[], ["The dog."]]) == [[], pytest.approx(together[1], abs=1e-5)]


def test_a_call_is_scored_as_the_call_that_was_preferred(judge: Path, chat_tokenizer: Tokenizer) -> None:
    tools = [{"type": "function", "function": {"name": "count", "description": "Counts.", "parameters": {}}}]
    model, text = RewardModel.load(judge), '{"name": "count", "parameters": {"of": "sheep"}}'
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "count", "arguments": {"of": "sheep"}}}]}
    model.model = lively(reward_shape(vocab_size=chat_tokenizer.vocab_size, max_length=2000))
    ids = encode_dialog(chat_tokenizer, [*PROMPTS[0], call], tools=tools).ids
    with torch.no_grad():
        wanted = model.model(torch.tensor([ids]))[0, -1, 0]
    (found,) = model.score([PROMPTS[0]], [[text, "Five."]], [tools])
    assert found[0] == pytest.approx(float(wanted), abs=1e-4) and found[0] != found[1]


def test_a_prompt_that_is_too_long_is_named_and_a_language_model_is_no_reward_model(judge: Path, base: Path) -> None:
    with pytest.raises(UserError, match=r"prompt 1 with its longest answer has 3.. tokens; the reward model holds 256"):
        RewardModel.load(judge).score([PROMPTS[0]] * 2, [["Five."], ["Baa. " * 60]])
    with pytest.raises(UserError, match=r"architecture is .'LlamaForCausalLM'., need LlamaForSequenceClassification"):
        RewardModel.load(base)
    with pytest.raises(UserError, match=r"architecture is .'LlamaForSequenceClassification'., need LlamaForCausalLM"):
        Engine.load(judge)


def test_a_reward_models_folder_holds_what_was_saved(judge: Path, tmp_path: Path) -> None:
    model = load_model(judge, reward=True)
    assert isinstance(model.config, RewardConfig) and model.config == read_config(judge, reward=True)
    assert model.head.weight.shape == (1, model.config.dim)
    assert model.config.parameters() == sum(weight.numel() for weight in model.parameters())


def test_the_loss_of_a_batch_is_that_of_its_pairs_by_hand(judge: Path, chat_tokenizer: Tokenizer) -> None:
    data, model = batches(chat_tokenizer, 6), RewardModel.load(judge)
    ours = Ranking()(model.model, data.batch(0))
    total, right, pairs = 0.0, 0, 0
    for index in {index for number in range(2) for index in data.row(number)}:
        source = data.examples[index].source
        assert source is not None
        (found,) = model.score([source.prompt], [[answer[0]["content"] for answer in source.answers]])
        for winner in range(len(found)):  # they come the best first
            for loser in range(winner + 1, len(found)):
                margin = found[winner] - found[loser]
                total -= float(F.logsigmoid(torch.tensor(margin)))
                right, pairs = right + (margin > 0), pairs + 1
    assert ours.count == pairs == Ranking().count(data.batch(0)) and pairs >= 4
    assert ours.total.item() == pytest.approx(total, rel=1e-4)
    assert ours.metrics["accuracy"] == right


class RewardCase(Case):
    """A case of the parity table whose rows are prompts with their answers, scored."""

    def __init__(self, tokenizer: Tokenizer, reading: Reading = AT_THE_END, layers: int = 2) -> None:
        super().__init__(layers, 2, steps=3)
        self.tokenizer, self.objective, self.reading = tokenizer, Ranking(reading), reading

    def model(self, seed: int = 0) -> Any:
        shape = {"layers": self.layers, "heads": 4, "kv_heads": 4, "vocab_size": self.tokenizer.vocab_size}
        if self.reading.likelihood:
            return tiny_model(seed, **shape)
        return lively(reward_shape(**shape))

    def batches(self) -> AnswerBatches:
        found = batches(self.tokenizer, 40)
        found.per_batch = 4
        return found


def test_ranks_learn_rewards_as_one_process_does(tmp_path: Path, chat_tokenizer: Tokenizer) -> None:
    how = {"FSDP": {"shard": 2}, "TP": {"tensor": 2}, "CP": {"context": 2}, "PP": {"pipeline": 2}}
    topologies = {f"reward: {name}": topology for name, topology in how.items()}
    assert strays(tmp_path, RewardCase(chat_tokenizer), topologies) == {}


@pytest.mark.parametrize("weight", [0.0, 5.0])
@pytest.mark.slow
def test_four_ranks_learn_rewards_as_one_process_does(tmp_path: Path, chat_tokenizer: Tokenizer, weight: float) -> None:
    assert strays(tmp_path, RewardCase(chat_tokenizer, Reading(weight), 4), FOUR_RANKS) == {}


def likely(base: Path, weight: float) -> RewardModel:
    """A language model whose answers' likelihoods are scores."""
    return RewardModel(load_model(base / "model"), Tokenizer.load(base / "model"), Reading(weight))


def test_scores_of_likelihood_are_those_of_transformers_for_each_dialog_alone(base: Path) -> None:
    from transformers import LlamaForCausalLM

    judge, peer = likely(base, 5.0), LlamaForCausalLM.from_pretrained(base / "model").eval()
    tokenizer = judge.tokenizer
    header = len(tokenizer.encode("assistant")) + len(tokenizer.encode("\n\n")) + 2
    wanted = []
    for prompt, answers in zip(PROMPTS[:2], ANSWERS[:2]):
        first = len(encode_dialog(tokenizer, prompt).ids) + header
        for answer in answers:
            ids = torch.tensor(encode_dialog(tokenizer, [*prompt, {"role": "assistant", "content": answer}]).ids)
            with torch.no_grad():
                logs = peer(ids.unsqueeze(0)).logits[0].log_softmax(-1)
            said = logs[torch.arange(first - 1, len(ids) - 2), ids[first:-1]]
            wanted.append(5.0 * said.mean())
    ours = judge.score(PROMPTS[:2], ANSWERS[:2])
    torch.testing.assert_close(
        torch.tensor([one for mine in ours for one in mine]), torch.stack(wanted), rtol=1e-4, atol=1e-4
    )
    assert torch.stack(wanted).std() > 0.1
    (alone,) = judge.score(PROMPTS[:1], [ANSWERS[0][1:2]])
    assert alone[0] == pytest.approx(ours[0][1], abs=1e-4)


def test_how_a_score_is_read_is_kept_beside_the_model(tmp_path: Path) -> None:
    AT_THE_END.save(tmp_path)
    assert list(tmp_path.iterdir()) == [] and Reading.load(tmp_path) == AT_THE_END
    Reading(2.0).save(tmp_path)
    assert Reading.load(tmp_path) == Reading(2.0)
    (tmp_path / "reward.json").write_text('{"likelihood": "much"}')
    with pytest.raises(UserError, match="must say by what likelihood is multiplied"):
        Reading.load(tmp_path)


def test_unseen_pairs_judge_and_the_likelihood_at_first_is_the_rival(tmp_path: Path, base: Path, write: Write) -> None:
    given, other = write("given", rows(40), "preferences"), write("other", rows(60), "preferences")
    how = settings(steps=25, rows=4, heldout=0.2, peak_lr=3e-3, schedule="constant", edited=False, likelihood=2.0)
    found = reward(how, base, [given], tmp_path / "out", unseen=[other])
    data = [row for row in rows(60) if row["id"] not in {row["id"] for row in rows(40)}]
    kept = found["preferences"]["unseen"]
    assert kept["kept"] == found["unseen"]["accuracy"]["n"] == 20 + found["preferences"]["heldout"]
    assert kept["trained_on"] == 40 - found["preferences"]["heldout"]
    assert found["unseen"]["accuracy"]["value"] > 0.9 and found["unseen"]["longest"]["value"] == 0.0
    # The rival, found by scoring each answer alone with the model at first.
    judge, right = likely(base, 1.0), 0
    heldout = [row for row in rows(40) if is_heldout(read_preference(row, "here").key, 0.2)]
    for row in (*heldout, *data):
        (one,) = judge.score([row["prompt"]], [[row["chosen"][0]["content"], row["rejected"][0]["content"]]])
        right += one[0] > one[1]
    assert found["unseen"]["likelihood"]["value"] == pytest.approx(right / kept["kept"], abs=1e-6)
    model = RewardModel.load(tmp_path / "out")
    assert model.reading == Reading(2.0)
    (scores,) = model.score([[{"role": "user", "content": "3 + 3?"}]], [["6.", "It is 13, I am sure."]])
    assert scores[0] > scores[1]
    with pytest.raises(UserError, match="have prompts that are trained on"):
        reward(settings(steps=1), base, [given], tmp_path / "again", unseen=[given])


def test_pairs_of_the_same_prompt_make_an_interval_no_narrower() -> None:
    right = [float(number % 3 > 0) for number in range(60)]
    single = [Told((mark, 0.0, 0.5), str(number), 0, "other") for number, mark in enumerate(right)]
    found, many = _shares(single), _shares([pair for pair in single for _ in range(9)])
    assert (found.pop("pairs"), many.pop("pairs")) == (60, 540) and many == found
    assert found["accuracy"] == mean(right) and found["above_longest"] == mean(right)
    assert found["above_likelihood"] == mean([mark - 0.5 for mark in right])
    # A prompt with more pairs weighs more: 3 of 4 are right, not 1 of 2.
    assert _shares([*single[1:2] * 3, single[0]])["accuracy"]["value"] == 0.75


def test_a_reward_model_learns_what_was_preferred_where_length_says_the_opposite(
    tmp_path: Path, base: Path, write: Write
) -> None:
    later = [{**row, "round": 2} for row in rows(70)[40:]]
    given = [write("first", rows(40), "preferences"), write("second", later, "preferences")]
    how = settings(steps=25, rows=4, heldout=0.2, peak_lr=3e-3, schedule="constant", edited=False)
    found = reward(how, base, given, tmp_path / "out")
    assert found["heldout"]["accuracy"]["value"] > 0.9 and found["heldout"]["longest"]["value"] == 0.0
    assert found["heldout"]["above_longest"]["low"] > 0.5
    assert found["heldout"]["latest"]["round"] == 2
    assert 0 < found["heldout"]["latest"]["accuracy"]["n"] < found["heldout"]["accuracy"]["n"]
    records = read_metrics(tmp_path / "out" / "metrics.jsonl")
    assert records[0]["loss"] == pytest.approx(0.69, abs=0.2) and records[-1]["accuracy"] > 0.9
    model = RewardModel.load(tmp_path / "out")
    (scores,) = model.score([[{"role": "user", "content": "3 + 3?"}]], [["6.", "It is 13, I am sure."]])
    assert scores[0] > scores[1]
    # The trunk is that of the model it was made of, trained on.
    trunk, before = model.model.embedding.weight, load_model(base / "model").embedding.weight
    assert trunk.shape == before.shape and 0 < (trunk - before).abs().max() < 0.5


def test_a_reward_model_made_by_adapters_differs_from_its_base_by_their_rank_and_its_head(
    tmp_path: Path, base: Path, write: Write
) -> None:
    how = settings(steps=4, rows=4, peak_lr=1e-2, lora={"rank": 2})
    found = reward(how, base, [write("pairs", rows(30), "preferences")], tmp_path / "out")
    model, before = load_model(tmp_path / "out" / "model", reward=True), load_model(base / "model")
    change = model.blocks[0].attention.query.weight - before.blocks[0].attention.query.weight
    assert torch.linalg.matrix_rank(change, atol=1e-6) == 2
    assert torch.equal(model.embedding.weight, before.embedding.weight)
    drawn = torch.nn.Linear(model.config.dim, 1)
    assert model.head.weight.shape == drawn.weight.shape and found["trained_share"] < 0.2
