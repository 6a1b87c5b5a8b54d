"""Fine-tuning on dialogs: what is learnt, how rows are packed, and what comes out, against transformers."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from herdbook.inference.engine import Engine, Sampling
from herdbook.model.huggingface import load_model
from herdbook.posttrain.asking import read_requests
from herdbook.posttrain.dialog_batches import read_sets, resolved
from herdbook.posttrain.round_settings import AskSettings
from herdbook.posttrain.settings import SftSettings
from herdbook.posttrain.sft import sft
from herdbook.settings import UserError
from herdbook.tokens.tokenizer import Tokenizer
from herdbook.train.launch import as_paths, as_text
from herdbook.train.metrics import read_metrics
from herdbook.train.objective import AnswerTokens
from herdbook.train.phased import PhasedBatches
from herdbook.train.phases import Plan
from tests.posttrain.conftest import Write, sums
from tests.support.chains import write_requests
from tests.support.ranks import run_ranks


def options(**changes: Any) -> SftSettings:
    quick: dict[str, Any] = {"steps": 6, "rows": 4, "length": 128, "warmup": 1, "checkpoint_every": 0, "peak_lr": 3e-3}
    quick |= {"precision": "fp32", "threads": 1, "tensorboard": False, "peak_flops": 1e10}
    return SftSettings(**{**quick, **changes})


def batches_of(settings: SftSettings, folders: dict[str, Path], tokenizer: Tokenizer) -> PhasedBatches:
    sets = read_sets(folders, tokenizer, settings).sets
    settings = resolved(settings, sets)
    return PhasedBatches(sets, Plan.of(settings), settings.seed, settings.packing)


def split_dialogs(batch: Any) -> list[tuple[list[int], list[int]]]:
    """(ids, targets) of each dialog of a batch."""
    found = []
    for tokens, targets, ids in zip(batch.tokens, batch.targets, batch.document_ids):
        for id in ids.unique_consecutive():
            if id >= 0:
                found.append((tokens[ids == id].tolist(), targets[ids == id].tolist()))
    return found


def test_targets_are_the_assistants_words_and_the_ends_of_its_turns(write: Write, chat_tokenizer: Tokenizer) -> None:
    rows = sums(0, 40)
    batches = batches_of(options(epochs=1, steps=None), {"a": write("a", rows)}, chat_tokenizer)
    steps = batches.plan.total_steps
    learnt = [
        chat_tokenizer.decode(target for target in targets if target != -100)
        for step in range(steps)
        for _, targets in split_dialogs(batches.batch(step))
    ]
    said = ["".join(m["content"] + "<|eot_id|>" for m in row["messages"] if m["role"] == "assistant") for row in rows]
    assert steps > 1
    counts = Counter(learnt)
    assert set(counts) == set(said)
    assert sum(counts.values()) >= len(said)  # the last step's rows may begin a second pass


def test_a_packed_row_has_the_logits_and_the_loss_of_its_dialogs_alone(
    write: Write, base: Path, chat_tokenizer: Tokenizer
) -> None:
    batch = batches_of(options(), {"a": write("a", sums(0, 30))}, chat_tokenizer).batch(0)
    model = load_model(base / "model")
    peer = AutoModelForCausalLM.from_pretrained(base / "model", local_files_only=True).eval()
    dialogs = split_dialogs(batch)
    assert len(dialogs) > 2 * len(batch)  # rows hold several
    from herdbook.model.documents import Documents

    with torch.no_grad():
        packed = model(batch.tokens, Documents.from_ids(batch.document_ids))[batch.document_ids >= 0]
        loss = AnswerTokens()(model, batch)
        nats, count, place = 0.0, 0, 0
        for ids, targets in dialogs:
            labels = [-100, *targets[:-1]]  # transformers shifts them itself
            answer = peer(torch.tensor([ids]), labels=torch.tensor([labels]))
            counted = sum(label != -100 for label in labels)
            nats, count = nats + float(answer.loss) * counted, count + counted
            torch.testing.assert_close(packed[place : place + len(ids)], answer.logits[0], rtol=1e-4, atol=1e-4)
            place += len(ids)
    assert loss.count == count
    assert float(loss.total) == pytest.approx(nats, rel=1e-5)
    assert loss.tokens == sum(len(ids) for ids, _ in dialogs)


def test_each_set_is_gone_through_as_often_as_asked(write: Write, chat_tokenizer: Tokenizer) -> None:
    folders = {"a": write("a", sums(0, 60)), "b": write("b", sums(1000, 60)), "c": write("c", sums(2000, 30))}
    settings = options(steps=None, epochs=2, times={"b": 1.5, "c": 0.0}, rows=1)
    batches = batches_of(settings, folders, chat_tokenizer)
    assert "c" not in batches.epochs()
    asked = [
        int(chat_tokenizer.decode(ids).split("user<|end_header_id|>\n\n")[1].split(" ")[0])
        for step in range(batches.plan.total_steps)
        for ids, _ in split_dialogs(batches.batch(step))
    ]
    times = Counter(asked)
    assert max(asked) < 2000
    assert sum(times[number] for number in range(60)) == pytest.approx(2 * 60, abs=5)
    assert sum(times[number] for number in range(1000, 1060)) == pytest.approx(3 * 60, abs=5)
    assert set(times.values()) <= {1, 2, 3, 4}


def test_the_last_answer_alone(write: Write, chat_tokenizer: Tokenizer) -> None:
    rows = [row for row in sums(0, 9) if len(row["messages"]) > 3]
    batch = batches_of(options(answers="last"), {"a": write("a", rows)}, chat_tokenizer).batch(0)
    for _, targets in split_dialogs(batch):
        learnt = chat_tokenizer.decode(target for target in targets if target != -100)
        assert learnt == "Yes, the sheep agree.<|eot_id|>"


def test_what_is_too_long_or_cut_off_is_left_out_and_counted(write: Write, chat_tokenizer: Tokenizer) -> None:
    long = {"messages": [{"role": "user", "content": "x" * 300}, {"role": "assistant", "content": "y"}]}
    cut = {**sums(5, 1)[0], "ended": False}
    folder = write("a", [*sums(0, 3), long, cut])
    figures = read_sets({"a": folder}, chat_tokenizer, options()).figures["a"]
    assert (figures["dialogs"], figures["too_long"], figures["cut_off"]) == (3, 1, 1)
    with pytest.raises(UserError, match="no dialog of at most length=128 tokens to train on in the set 'a'"):
        read_sets({"a": write("b", [long])}, chat_tokenizer, options())


def test_what_gates_judge_by_is_not_learnt_from(write: Write, chat_tokenizer: Tokenizer, tmp_path: Path) -> None:
    asked = read_requests(write_requests(tmp_path, 200), AskSettings(kept_back=0.3), held=True)
    rows = [{**row, "id": f"problem-{number}"} for number, row in enumerate(sums(0, 200))]
    figures = read_sets({"a": write("a", rows)}, chat_tokenizer, options(kept_back=0.3)).figures["a"]
    assert figures["kept_back"] == len(asked) and figures["dialogs"] == 200 - len(asked)
    made = [{**row, "id": f"made/{row['id']}/0", "request": row["id"]} for row in rows]  # what was made of requests
    assert read_sets({"a": write("b", made)}, chat_tokenizer, options(kept_back=0.3)).figures["a"] == figures


def test_held_out_dialogs_share_no_prompt_with_trained_ones(write: Write, chat_tokenizer: Tokenizer) -> None:
    rows = [row for number in range(40) for row in sums(number, 1)]
    twice = [{**row, "messages": [*row["messages"][:-1], {"role": "assistant", "content": "No."}]} for row in rows]
    sets = read_sets({"a": write("a", rows), "b": write("b", twice)}, chat_tokenizer, options(heldout=0.3)).sets
    prompts: dict[str, set[str]] = {"train": set(), "heldout": set()}
    for splits in sets.sets.values():
        for split, found in splits.items():
            for number in range(len(found)):
                prompts[split].add(chat_tokenizer.decode(found.document(number)).split("assistant")[0])
    assert prompts["train"] and prompts["heldout"]
    assert not prompts["train"] & prompts["heldout"]


@pytest.fixture
def tuned(write: Write, base: Path, tmp_path: Path) -> tuple[Path, dict[str, Any], Path]:
    folder, out = write("a", sums(0, 60)), tmp_path / "tuned"
    out.mkdir()
    return out, sft(options(steps=60, heldout=0.2, validate_every=30), {"a": folder}, base, out), folder


def test_a_tuned_model_chats_and_its_held_out_nats_are_transformers(
    tuned: tuple[Path, dict[str, Any], Path], base: Path, chat_tokenizer: Tokenizer
) -> None:
    out, figures, folder = tuned
    records = read_metrics(out / "metrics.jsonl")
    assert figures["loss"] < 0.5 * records[0]["loss"]
    engine = Engine.load(out / "model")
    assert engine.knows_chat
    prompt = chat_tokenizer.chat([{"role": "user", "content": "4 + 4?"}])
    answer = engine.generate([prompt], Sampling(max_tokens=40, temperature=0))[0]
    assert answer.finish_reason == "stop"
    settings = options(steps=60, heldout=0.2)
    held = read_sets({"a": folder}, chat_tokenizer, settings).sets.sets["a"]["heldout"]
    peer = AutoModelForCausalLM.from_pretrained(out / "model", local_files_only=True).eval()
    assert peer.generation_config.eos_token_id == [
        chat_tokenizer.eos_id, chat_tokenizer.special_tokens["<|eom_id|>"], chat_tokenizer.eot_id,
    ]  # fmt: skip
    nats, count = 0.0, 0
    with torch.no_grad():
        for number in range(len(held)):
            ids = torch.from_numpy(held.document(number).astype("int64"))[None]
            part = slice(held.offsets[number], held.offsets[number + 1])
            assert held.counted is not None
            flags = torch.from_numpy(held.counted[part])
            labels = torch.where(flags[None], ids, -100)
            nats += float(peer(ids, labels=labels).loss) * int(flags.sum())
            count += int(flags.sum())
    assert figures["nats_per_token"] == pytest.approx(nats / count, rel=1e-4)


def test_two_ranks_train_the_model_that_one_does(write: Write, base: Path, tmp_path: Path) -> None:
    folder = write("a", sums(0, 60))
    outs = [tmp_path / "one", tmp_path / "two"]
    for out in outs:
        out.mkdir()
    quick: dict[str, Any] = {"steps": 4, "heldout": 0.2}
    one = sft(options(**quick), {"a": folder}, base, outs[0])
    two = run_ranks(2, sft, options(**quick, parallel={"shard": 2}), {"a": folder}, base, outs[1])[0]
    losses = [[record["loss"] for record in read_metrics(out / "metrics.jsonl")] for out in outs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    assert two["nats_per_token"] == pytest.approx(one["nats_per_token"], rel=1e-5)
    assert two["tokens"] == one["tokens"]
    models = [load_model(out / "model") for out in outs]
    for (name, weight), other in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(weight, other, rtol=1e-3, atol=1e-4, msg=name)


def test_a_set_that_nobody_gives_is_told(write: Write, base: Path, tmp_path: Path) -> None:
    folders = {"a": write("a", sums(0, 9)), "b": write("b", sums(9, 9))}
    with pytest.raises(UserError, match="mix: there is no set 'nobody'; the sets are a, b"):
        sft(options(mix={"nobody": 1.0}), folders, base, tmp_path / "out")


@pytest.mark.slow
def test_a_topology_in_the_settings_is_launched_with_its_named_sets(write: Write, base: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    folders = {"a": write("a", sums(0, 9)), "b": write("b", sums(9, 9))}
    figures = sft(options(steps=2, parallel={"data": 2}), folders, base, tmp_path / "out")
    assert set(figures["sets"]) == {"a", "b"}
    assert Engine.load(tmp_path / "out" / "model").knows_chat


def test_paths_go_to_ranks_and_back(tmp_path: Path) -> None:
    arguments = {"out": tmp_path, "start": None, "dialogs": {"a": tmp_path / "a"}, "models": [tmp_path / "b"]}
    assert as_paths(json.loads(json.dumps(as_text(arguments)))) == arguments


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"steps": 3, "epochs": 1}, "one of steps, tokens and epochs"),
        ({"steps": None, "mix": {"a": 1}}, "mix gives shares"),
        ({"times": {"a": 2}}, "give epochs instead"),
    ],
)
def test_settings_that_contradict_each_other_are_told(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        options(**changes)


def test_rows_longer_than_the_model_holds_are_told(write: Write, base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="rows of length=256 tokens are longer than the 128"):
        sft(options(length=256), {"a": write("a", sums(0, 3))}, base, tmp_path)


def test_a_recipe_with_dialogs_and_fine_tuning_is_checked(tmp_path: Path) -> None:
    from herdbook.recipe import RecipeError, read_recipe

    write = tmp_path / "x.jsonl"
    write.write_text(json.dumps(sums(0, 1)[0]) + "\n")
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"""
stages:
  world: {{kind: world}}
  corpus: {{kind: curate, from: {{pages: world}}}}
  words: {{kind: tokenizer, from: {{documents: corpus}}, vocab_size: 600}}
  tokens: {{kind: pack, from: {{documents: corpus, tokenizer: words}}}}
  base: {{kind: pretrain, from: {{tokens: tokens}}, model: llama3-8b, steps: 2}}
  talk: {{kind: dialogs, files: ["{write}"]}}
  chat: {{kind: sft, from: {{model: base, dialogs: [talk]}}, epochs: 1, times: {{walk: 2}}}}
"""
    )
    with pytest.raises(RecipeError, match=r"chat.times: from has no set 'walk'"):
        read_recipe(recipe)
    assert read_recipe(recipe, ["chat.times={talk: 2}"]).stages["chat"].inputs["dialogs"] == ("talk",)
