"""The table of kinds and the rooms' functions agree: every input is a keyword, every setting has its line of help."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from herdbook.recipe import RecipeError, read_recipe
from herdbook.schema import fields
from herdbook.settings import UserError
from herdbook.stages import KINDS, StageKind, load, register

REAL = [name for name in KINDS if not name.startswith("fake")]


@pytest.fixture(params=REAL)
def kind(request: pytest.FixtureRequest) -> StageKind:
    return KINDS[request.param]


def test_a_kinds_function_takes_its_inputs_by_keyword(kind: StageKind) -> None:
    assert bool(kind.function) != bool(kind.expand), "a kind has a function, or becomes stages that have one"
    if kind.expand:
        inspect.signature(load(kind.expand)).bind("name", object(), {})
        return
    signature = inspect.signature(kind.load_function())
    inputs = {takes.argument or name: () for name, takes in kind.takes.items()}
    signature.bind(object(), **inputs, out=object())
    needed = {name for name, item in signature.parameters.items() if item.default is inspect.Parameter.empty}
    assert needed - {"settings", "out"} <= set(inputs)


def test_every_setting_says_what_it_does(kind: StageKind) -> None:
    silent = [item.name for item in fields(kind.settings_class()) if not item.help]
    assert not silent, f"{kind.name} has settings without a line of help: {silent}"


def test_no_setting_is_called_as_what_stands_beside_it(kind: StageKind) -> None:
    assert {"kind", "from"}.isdisjoint(kind.settings_class().model_fields)
    assert set(kind.either) <= set(kind.takes) | set(kind.settings_class().model_fields)


def test_what_a_kind_takes_another_one_gives() -> None:
    given = {what for name in REAL for what in (KINDS[name].gives, *KINDS[name].also)}
    assert {takes.gives for name in REAL for takes in KINDS[name].takes.values()} <= given


def test_a_kind_is_registered_once() -> None:
    with pytest.raises(UserError, match="already"):
        register(KINDS["world"])


def test_a_world_feeds_what_takes_its_requests_or_its_dialogs(tmp_path: Path) -> None:
    text = """\
name: chat
stages:
  world: {kind: world, seed: 1}
  corpus: {kind: curate, from: {pages: world}}
  tokenizer: {kind: tokenizer, from: {documents: corpus}}
  tokens: {kind: pack, from: {documents: corpus, tokenizer: tokenizer}}
  base:
    kind: pretrain
    from: {tokens: tokens}
    model: {dim: 32, layers: 1, heads: 2, kv_heads: 2, ffn_dim: 64}
    tokens: 999
  sft: {kind: sft, from: {model: base, dialogs: world}}
"""
    (tmp_path / "recipe.yaml").write_text(text)
    assert read_recipe(tmp_path / "recipe.yaml").stages["sft"].inputs["dialogs"] == ("world",)
    (tmp_path / "recipe.yaml").write_text(text.replace("dialogs: world", "dialogs: corpus"))
    with pytest.raises(RecipeError, match="takes dialogs, and 'corpus' gives documents; world can"):
        read_recipe(tmp_path / "recipe.yaml")
