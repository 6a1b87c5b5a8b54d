"""Models that learn from preferences: rows against TRL on padded batches, ranks against one process, and whole runs."""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from herdbook.model.huggingface import load_model
from herdbook.posttrain.answers import batches_of, read_answers, resolved
from herdbook.posttrain.preference import PreferenceObjective, answer_logprobs, preference
from herdbook.posttrain.preference_batches import CONTENT, FORMAT, AnswerBatches, better, encode_all, with_mismatched
from herdbook.posttrain.preference_settings import PreferenceSettings
from herdbook.posttrain.preferences import read_preference
from herdbook.posttrain.reference import with_reference
from herdbook.settings import UserError
from herdbook.tokens.dialog import encode_dialog
from herdbook.tokens.tokenizer import Tokenizer
from herdbook.train.metrics import read_metrics
from tests.posttrain.conftest import Write
from tests.train.parity import Case
from tests.train.test_parallel import strays


def rows(count: int) -> list[dict[str, Any]]:
    """Sums, of which the chosen answer is right; every third has an edited answer too, every second several turns."""
    found = []
    for number in range(count):
        prompt = [{"role": "user", "content": f"{number} + {number % 7}?"}]
        if number % 2:
            prompt = [{"role": "system", "content": "Be brief."}, *prompt, {"role": "assistant", "content": "Hm."}]
            prompt.append({"role": "user", "content": "Well?"})
        right, wrong = f"{number + number % 7}.", f"It is {number + 10}, I am sure."
        row = {"id": str(number), "prompt": prompt, "round": 1}
        row |= {
            side: [{"role": "assistant", "content": said}] for side, said in (("chosen", right), ("rejected", wrong))
        }
        if number % 3 == 0:
            row["edited"] = [{"role": "assistant", "content": f"The sum is {right}"}]
        found.append(row)
    return found


def settings(**changes: Any) -> PreferenceSettings:
    quick: dict[str, Any] = {
        "rows": 2, "length": 128, "steps": 3, "warmup": 0, "peak_lr": 1e-3, "precision": "fp32", "threads": 1,
        "tensorboard": False, "peak_flops": 1e10, "checkpoint_every": 0, "heldout": 0.0,
    }  # fmt: skip
    return PreferenceSettings(**{**quick, **changes})


def batches(tokenizer: Tokenizer, count: int, **changes: Any) -> AnswerBatches:
    preferences = [read_preference(row, "here") for row in rows(count)]
    examples = encode_all(tokenizer, preferences, 128)
    if changes.get("loss") == "kto":
        examples = with_mismatched(examples, 0)
    found = batches_of(settings(**changes), examples)
    generator = torch.Generator().manual_seed(1)
    found.reference = -20 * torch.rand(found.answers, 2, generator=generator).numpy()
    if changes.get("loss") == "kto":  # less likely than under nearly even odds, so that the baseline is above 0
        sizes = [(answer.kinds > 0).sum() for example in examples for answer in example.answers]
        found.reference[:, 1] = -6.2 * np.array(sizes) + found.reference[:, 1] / 4
    return found


def dialog_logprobs(model: Any, tokenizer: Tokenizer, prompt: list[Any], answer: list[Any]) -> tuple[Tensor, Tensor]:
    """Summed log-probability of the ends of an answer, and of its content, by transformers on the whole dialog."""
    whole = encode_dialog(tokenizer, [*prompt, *answer])
    ids = torch.tensor([whole.ids])
    each = model(ids).logits.log_softmax(-1)[0, :-1].gather(1, ids[0, 1:, None])[:, 0]
    asked = len(encode_dialog(tokenizer, prompt).ids)
    said = torch.tensor(whole.answer) & (torch.arange(ids.shape[1]) >= asked)  # not what it said before
    content = said & (ids[0] != tokenizer.eot_id)
    return each[(said & ~content)[1:]].sum(), each[content[1:]].sum()


def test_answers_in_one_row_have_the_likelihoods_that_transformers_finds_for_each(
    base: Path, chat_tokenizer: Tokenizer
) -> None:
    from transformers import AutoModelForCausalLM

    data = batches(chat_tokenizer, 7)
    model = load_model(base / "model", dtype=torch.float64)
    peer = AutoModelForCausalLM.from_pretrained(base / "model", dtype=torch.float64)
    seen = 0
    for batch in data.all():
        found = answer_logprobs(model, batch)
        for row, slot in (batch.groups >= 0).nonzero().tolist():
            number = int(batch.numbers[row, slot])
            example = next(i for i in range(len(data.examples)) if data.first[i] <= number < data.first[i + 1])
            source = data.examples[example].source
            assert source is not None
            answer = source.answers[number - int(data.first[example])]
            wanted = dialog_logprobs(peer, chat_tokenizer, source.prompt, answer)
            # transformers has its norms in float32 whatever the model is in.
            torch.testing.assert_close(found[row, slot], torch.stack(wanted), rtol=1e-6, atol=1e-6)
            seen += 1
    assert seen == data.answers == 17


@pytest.mark.parametrize("mask", ["none", "format"])
def test_dpos_loss_and_gradient_of_a_batch_are_those_by_transformers_and_hand(
    base: Path, chat_tokenizer: Tokenizer, mask: str
) -> None:
    from transformers import AutoModelForCausalLM

    data = batches(chat_tokenizer, 6)
    objective = PreferenceObjective(settings(mask=mask))
    model = load_model(base / "model", dtype=torch.float64)
    ours = objective(model, data.batch(0))
    ours.total.backward()
    peer = AutoModelForCausalLM.from_pretrained(base / "model", dtype=torch.float64)
    total, pairs = torch.zeros((), dtype=torch.float64), 0
    assert data.reference is not None
    for example in {index for number in range(2) for index in data.row(number)}:
        source, first = data.examples[example].source, int(data.first[example])
        assert source is not None
        sides = []
        for place, answer in enumerate(source.answers):
            form, content = dialog_logprobs(peer, chat_tokenizer, source.prompt, answer)
            held = torch.from_numpy(data.reference[first + place]).double()
            length = int((data.examples[example].answers[place].kinds > 0).sum())
            gain = content - held[1] if mask == "format" else form + content - held.sum()
            sides.append((gain, -(form + content) / length))
        for winner in range(len(sides)):
            for loser in range(winner + 1, len(sides)):  # they come the best first
                total = total - F.logsigmoid(0.1 * (sides[winner][0] - sides[loser][0])) + 0.2 * sides[winner][1]
                pairs += 1
    assert ours.count == pairs == objective.count(data.batch(0))
    torch.testing.assert_close(ours.total, total, rtol=1e-6, atol=1e-6)
    total.backward()
    wanted = peer.model.layers[0].self_attn.k_proj.weight.grad
    torch.testing.assert_close(model.blocks[0].attention.key.weight.grad, wanted, rtol=1e-5, atol=1e-7)


def test_ktos_baseline_is_the_mean_gain_of_answers_to_other_prompts(base: Path, chat_tokenizer: Tokenizer) -> None:
    data = batches(chat_tokenizer, 6, loss="kto")
    batch, objective = data.batch(0), PreferenceObjective(settings(loss="kto"))
    model = load_model(base / "model")
    ours = objective(model, batch)
    assert batch.reference is not None
    gains = (answer_logprobs(model, batch) - batch.reference)[..., 1]
    other = batch.ranks.isnan() & (batch.groups >= 0)
    wanted = gains[other].mean().clamp(min=0)
    assert int(other.sum()) == len({*batch.groups[0].tolist()} - {-1}) + len({*batch.groups[1].tolist()} - {-1})
    assert wanted > 0.5
    torch.testing.assert_close(ours.metrics["kl_baseline"] / ours.count, wanted)
    own = [example.answers[-1].ids[1:].tolist() for example in data.examples]
    asked = [[answer.ids[1:].tolist() for answer in example.answers[:-1]] for example in data.examples]
    assert all(answer not in mine for answer, mine in zip(own, asked))
    ranked = ~batch.ranks.isnan()
    right = batch.ranks[ranked] > 0
    signed = torch.where(right, 1.0, -1.0) * 0.1 * (gains[ranked] - wanted)
    torch.testing.assert_close(ours.total, (1 - signed.sigmoid()).sum())


def test_batches_are_a_function_of_their_number_and_hold_every_answer_once_a_pass(chat_tokenizer: Tokenizer) -> None:
    data = batches(chat_tokenizer, 30)
    steps = math.ceil(data.table.count / 2)
    seen = Counter(
        int(number) for step in range(steps) for number in data.batch(step).numbers[data.batch(step).groups >= 0]
    )
    assert set(seen) == set(range(data.answers))
    assert sum(seen.values()) - data.answers <= max(len(data.batch(0).groups[0]), 1) * (2 * steps - data.table.count)
    again = batches(chat_tokenizer, 30)
    for field in dataclasses.fields(data.batch(5)):
        one, other = (getattr(which.batch(5), field.name) for which in (data, again))
        torch.testing.assert_close(one, other, equal_nan=True)
        part = getattr(data.batch(5, 1, 2), field.name)
        if field.name in ("tokens", "document_ids", "targets", "filled"):
            torch.testing.assert_close(part, one[1:2])
    places = [int(data.batch(step).ranks[0, 0]) for step in range(40)]
    assert {0, 1, 2} == set(places)  # no place in the row is that of the better answer
    batch = data.batch(0)
    assert {int(kind) for kind in batch.kinds[batch.targets >= 0]} == {FORMAT, CONTENT}
    row, winner, loser = better(batch)
    assert (batch.ranks[row, winner] > batch.ranks[row, loser]).all()


def test_a_call_of_a_tool_is_content_and_its_end_is_format(chat_tokenizer: Tokenizer) -> None:
    tools = [{"type": "function", "function": {"name": "count", "description": "Counts.", "parameters": {}}}]
    call = {"role": "assistant", "tool_calls": [{"function": {"name": "count", "arguments": {"of": "sheep"}}}]}
    row = {
        "prompt": "How many?", "tools": tools, "rejected": "Many.",
        "chosen": [call, {"role": "tool", "content": "5"}, {"role": "assistant", "content": "Five."}],
    }  # fmt: skip
    (example,) = encode_all(chat_tokenizer, [read_preference(row, "here")], 2000)
    assert "Counts." in chat_tokenizer.decode(example.trunk)
    chosen = example.answers[0]
    said = [chat_tokenizer.decode(chosen.ids[1:][chosen.kinds == kind]) for kind in (CONTENT, FORMAT, 0)]
    first, second = (f"<|start_header_id|>{role}<|end_header_id|>\n\n" for role in ("assistant", "ipython"))
    assert said[0] == '{"name": "count", "parameters": {"of": "sheep"}}Five.'
    assert said[1] == "<|eom_id|><|eot_id|>"
    assert said[2] == f"{first}{second}5<|eot_id|>{first}"


class PreferenceCase(Case):
    """A case of the parity table whose rows are prompts with their answers."""

    def __init__(self, tokenizer: Tokenizer, layers: int = 2, **changes: Any) -> None:
        super().__init__(layers, 2, {"vocab_size": tokenizer.vocab_size}, steps=3)
        self.tokenizer, self.loss = tokenizer, changes
        self.objective = PreferenceObjective(settings(**changes))

    def batches(self) -> AnswerBatches:
        found = batches(self.tokenizer, 40, **self.loss)
        found.per_batch = 4
        return found


@pytest.mark.parametrize("loss", ["dpo", "kto"])
def test_ranks_learn_from_preferences_as_one_process_does(tmp_path: Path, chat_tokenizer: Tokenizer, loss: str) -> None:
    how: dict[str, Any] = {"FSDP": {"shard": 2}}  # with KTO, whose baseline is a mean over the rows of all ranks
    if loss == "dpo":
        how |= {"TP": {"tensor": 2}, "CP": {"context": 2}, "PP": {"pipeline": 2}}
    case = PreferenceCase(chat_tokenizer, loss=loss)
    assert strays(tmp_path, case, {f"{loss}: {name}": topology for name, topology in how.items()}) == {}


FOUR_RANKS: dict[str, Any] = {
    "FSDP × TP": {"shard": 2, "tensor": 2},
    "FSDP × PP": {"shard": 2, "pipeline": 2},
    "TP × PP": {"tensor": 2, "pipeline": 2},
    "TP × CP": {"tensor": 2, "context": 2},
    "DP × FSDP": {"data": 2, "shard": 2},
}


@pytest.mark.slow
def test_four_ranks_learn_from_preferences_as_one_process_does(tmp_path: Path, chat_tokenizer: Tokenizer) -> None:
    assert strays(tmp_path, PreferenceCase(chat_tokenizer, 4, loss="dpo"), FOUR_RANKS) == {}


def test_a_model_learns_to_prefer_and_its_chosen_answers_stay_likely(
    tmp_path: Path, base: Path, write: Write, own_cache: Path
) -> None:
    given = write("pairs", rows(60), "preferences")
    how = settings(steps=12, rows=4, heldout=0.2, peak_lr=3e-3, schedule="constant")
    found = preference(how, base, [given], tmp_path / "out")
    records = read_metrics(tmp_path / "out" / "metrics.jsonl")
    # Before its first step the model is its own reference.
    assert records[0]["preference_loss"] == pytest.approx(math.log(2), abs=1e-4)
    assert abs(records[0]["reward_margin"]) < 1e-4 and abs(records[0]["kl"]) < 1e-3
    assert records[-1]["reward_margin"] > 0.2
    assert found["preferences"]["kept"] == 60
    assert (
        0 < found["preferences"]["heldout"] <= found["heldout"]["accuracy"]["n"]
    )  # with an edited answer: three pairs
    assert found["heldout"]["accuracy"]["value"] > 0.9
    assert found["chosen_logprob_slope"] > 0  # the cost of the chosen answer's tokens is part of the loss
    folder = tmp_path / "out" / "model"
    ends = json.loads((folder / "generation_config.json").read_text())["eos_token_id"]
    assert Tokenizer.load(folder).eot_id in ends
    assert len(list(own_cache.glob("reference-*.npy"))) == 2  # of those to train on and of the held-out ones


@pytest.mark.parametrize("loss", ["dpo", "kto"])
def test_a_run_that_was_killed_goes_on_to_the_same_model(tmp_path: Path, base: Path, write: Write, loss: str) -> None:
    given = write("pairs", rows(40), "preferences")
    how = settings(steps=6, checkpoint_every=2, keep_checkpoints=9, loss=loss)
    preference(how, base, [given], tmp_path / "out")
    whole = load_model(tmp_path / "out" / "model")
    shutil.rmtree(tmp_path / "out" / "model")
    for step in (4, 6):
        shutil.rmtree(tmp_path / "out" / "checkpoints" / f"step-{step:08}")
    preference(how, base, [given], tmp_path / "out")
    again = load_model(tmp_path / "out" / "model")
    assert all(torch.equal(one, other) for one, other in zip(whole.parameters(), again.parameters(), strict=True))
    assert [record["step"] for record in read_metrics(tmp_path / "out" / "metrics.jsonl")] == list(range(6))


def test_few_steps_are_warmed_up_over_a_tenth_of_them(base: Path, write: Write) -> None:
    data = read_answers(settings(), [write("pairs", rows(60), "preferences")], Tokenizer.load(base / "model"))
    short, long = (
        resolved(settings(steps=None, epochs=epochs, warmup=20), batches_of(settings(), data.train))
        for epochs in (1, 40)
    )
    assert 20 <= short.steps < 100 and short.warmup == short.steps // 10
    assert long.steps > 200 and long.warmup == 20


def test_a_reference_is_found_once_and_again_for_another_model_or_other_answers(
    tmp_path: Path, base: Path, chat_tokenizer: Tokenizer, own_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, how, folder = load_model(base / "model"), settings(), base / "model"
    first = batches(chat_tokenizer, 5)
    with_reference(first, model, folder, how)
    monkeypatch.setattr("herdbook.posttrain.reference.measured", None)
    again = batches(chat_tokenizer, 5)
    with_reference(again, model, folder, how)
    assert (again.reference == first.reference).all()
    for part, where in (
        (batches(chat_tokenizer, 6), folder),
        (batches(chat_tokenizer, 5), other_model(tmp_path, base)),
    ):
        with pytest.raises(TypeError):  # it would have to look again
            with_reference(part, model, where, how)
    (kept,) = own_cache.glob("*.npy")
    kept.write_bytes(kept.read_bytes()[:-4])
    with pytest.raises(TypeError):
        with_reference(again, model, folder, how)


def other_model(tmp_path: Path, base: Path) -> Path:
    folder = Path(shutil.copytree(base / "model", tmp_path / "other"))
    data = bytearray((folder / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (folder / "model.safetensors").write_bytes(data)
    return folder


def test_useless_preferences_are_counted_and_bad_rows_named(tmp_path: Path, base: Path, write: Write) -> None:
    good, tokenizer = rows(3), Tokenizer.load(base / "model")
    said = [{"role": "assistant", "content": "Yes."}]
    odd = [
        {**good[1], "rejected": [{"role": "assistant", "content": "  "}]},
        {**good[1], "rejected": good[1]["chosen"]},
        {**good[1], "strength": "slightly better"},
        {**good[1], "strength": "better"},
        {**good[1], "rejected": [{"role": "assistant", "content": "no " * 200}]},
        {"prompt": "Well?", "completion": "Yes.", "label": True},
    ]
    found = read_answers(settings(), [write("odd", [*good, *odd], "preferences")], tokenizer)
    assert found.figures == {
        "kept": 4, "heldout": 0, "dropped": {"empty": 1, "identical": 1, "too_long": 1, "unpaired": 1, "weak": 1},
    }  # fmt: skip
    bad: list[tuple[Any, str]] = [
        (
            {**good[1], "rejected": [{"role": "user", "content": "no"}]},
            "row 2: an answer has no message of the assistant",
        ),
        ({"prompt": "Well?", "chosen": said}, "row 2: its columns are prompt, chosen"),
        ({**good[1], "strength": "much better"}, "strength is 'much better'"),
        ({**good[1], "prompt": [{"role": "narrator", "content": "Once."}]}, "row 2: message 0 has the role 'narrator'"),
        ({"prompt": "Well?", "completion": "Yes.", "label": "good"}, "label is 'good'"),
    ]
    for number, (row, message) in enumerate(bad):
        with pytest.raises(UserError, match=message):
            read_answers(settings(), [write(f"bad{number}", [good[0], row], "preferences")], tokenizer)
    with pytest.raises(UserError, match="no preference is left to train on"):
        read_answers(settings(), [write("none", [odd[1]], "preferences")], tokenizer)
