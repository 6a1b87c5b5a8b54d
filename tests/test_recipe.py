"""A recipe's mistakes are told all at once, before anything runs, with line, value and the nearest right name."""

from __future__ import annotations

import string
import sysconfig
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

import tests.support.fakes  # noqa: F401  (registers the kinds)
from herdbook import schema
from herdbook.marked import Problem, parse, parse_value, read_scalar
from herdbook.recipe import Recipe, RecipeError, read_recipe
from herdbook.settings import UserError
from tests.support.fakes import Nested, RawSettings, SlowSettings

GOOD = """\
name: small
stages:
  pages: {kind: fake-raw, seed: 3}
  base:
    kind: fake-slow
    from: {raw: pages}
    steps: 5
    model:
      width: 16
aims:
  base.total: ">= 30"
"""


def read(folder: Path, text: str, *overrides: str) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return read_recipe(path, overrides)


def problems(folder: Path, text: str, *overrides: str) -> list[Problem]:
    with pytest.raises(RecipeError) as caught:
        read(folder, text, *overrides)
    return caught.value.problems


def test_a_good_recipe_gives_its_stages_in_order(tmp_path: Path) -> None:
    recipe = read(tmp_path, GOOD)
    assert list(recipe.stages) == ["pages", "base"]
    assert recipe.name == "small"
    base = recipe.stages["base"]
    assert base.inputs == {"raw": ("pages",)}
    assert base.settings == SlowSettings(steps=5, model=Nested(width=16))
    assert recipe.aims[0].bound == 30


MISTAKES = {
    "a setting mistyped": ("steps: 5", "stepps: 5", 7, ["base.stepps", "'steps'"]),
    "a nested setting mistyped": ("width: 16", "widht: 16", 9, ["base.model.widht", "'width'"]),
    "a nested setting written at the top": ("steps: 5", "steps: 5\n    depth: 2", 8, ["base.depth", "'model.depth'"]),
    "a text for a number": ("steps: 5", "steps: many", 7, ["base.steps", '"many"', "integer"]),
    "a quoted number for a number": ("steps: 5", "steps: '5'", 7, ["base.steps", '"5"', "integer"]),
    "a boolean for a number": ("steps: 5", "steps: true", 7, ["base.steps", "true", "integer"]),
    "a list for settings": ("width: 16", "- 16", 8, ["base.model", "[16]"]),
    "a mistake in one branch of a union": (
        "steps: 5",
        "steps: 5\n    start: {widht: 3}",
        8,
        ["base.start.widht", "'width'"],
    ),
    "a value for no branch of a union": ("steps: 5", "steps: 5\n    start: 3", 8, ["base.start", "not 3"]),
    "a wrong choice": ("steps: 5", "steps: 5\n    optimizer: adam", 8, ["base.optimizer", '"adam"', "'adamw'"]),
    "a required setting left out": ("    steps: 5\n", "", 4, ["base.steps must be given", "Steps to take."]),
    "a kind mistyped": ("kind: fake-slow", "kind: fake-slwo", 5, ["fake-slwo", "'fake-slow'"]),
    "no kind": ("    kind: fake-slow\n", "", 4, ["'base'", "no 'kind'"]),
    "a kind that is no text": ("kind: fake-slow", "kind: [1]", 5, ["[1]"]),
    "an unknown stage": ("raw: pages", "raw: page", 6, ["base.from.raw", "'page'", "'pages'"]),
    "an unknown input": ("raw: pages", "rwa: pages", 6, ["base.from.rwa", "'raw'"]),
    "an input left out": ("    from: {raw: pages}\n", "", 4, ["must be fed 'raw'", "pages can"]),
    "fed by itself": ("raw: pages", "raw: base", 6, ["fed by itself"]),
    "fed by a list where one is taken": ("raw: pages", "raw: [pages]", 6, ["takes one stage, not a list"]),
    "fed by a number": ("raw: pages", "raw: 7", 6, ["must name a stage, not 7"]),
    "from is a text": ("from: {raw: pages}", "from: pages", 6, ["'from' must be a mapping", "{raw: STAGE"]),
    "fed by the wrong thing": ("raw: pages}", "raw: pages, model: pages}", 6, ["takes fake-model", "gives fake-pages"]),
    "a missing file": ("seed: 3", "sources: [{path: /no/where.txt}]", 3, ["pages.sources.0.path", "/no/where.txt"]),
    "a key twice": ("    steps: 5", "    steps: 5\n    steps: 6", 8, ["'steps'", "second time", "line 7"]),
    "a recipe key mistyped": ("aims:", "aim:", 10, ["'aim'", "'aims'"]),
    "an aim that compares nothing": ('">= 30"', '"30"', 11, ["base.total", "'30'", ">= 0.9"]),
    "an aim of an unknown stage": ("base.total", "bsae.total", 11, ["'bsae'", "'base'"]),
    "an aim bound to an unknown stage": ('">= 30"', '">= pgaes.x"', 11, ["'pgaes'", "'pages'"]),
    "an aim without a metric": ("base.total", "base", 11, ["STAGE.METRIC"]),
    "an unknown placeholder": ("seed: 3", "seed: '${python_libary}'", 3, ["python_libary", "'python_library'"]),
    "an unset variable": ("seed: 3", "seed: '${env:HERDBOOK_NO}'", 3, ["HERDBOOK_NO", "not set"]),
    "a stage that is no mapping": ("{kind: fake-raw, seed: 3}", "fake-raw", 3, ["'pages'", "'fake-raw'"]),
    "a stage name with a dot": ("  pages:", "  pa.ges:", 3, ["'pa.ges'"]),
    "broken YAML": ("{raw: pages}", "{raw: pages", 7, ["not valid YAML"]),
    "a tab": ("    steps: 5", "\tsteps: 5", 7, ["not valid YAML", "\\t"]),
    "a YAML tag": ("seed: 3", "seed: !!python/name:os.system 3", 3, ["YAML"]),
    "a foreign YAML tag": ("seed: 3", "seed: !seed 3", 3, ["'!seed'"]),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_with_its_line_and_the_right_name(tmp_path: Path, name: str) -> None:
    right, wrong, line, words = MISTAKES[name]
    assert GOOD.count(right) == 1
    found = problems(tmp_path, GOOD.replace(right, wrong))
    told = [item for item in found if item.line == line and all(word in str(item) for word in words)]
    assert told, "\n".join(map(str, found))
    assert told[0].where.endswith(f"recipe.yaml:{line}")


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    wrong = GOOD.replace("seed: 3", "sed: 3").replace("width: 16", "width: wide").replace("raw: pages", "raw: pag")
    found = problems(tmp_path, wrong)
    assert [item.line for item in found] == [3, 6, 9]


def test_a_stage_fed_from_below_or_in_a_circle_is_told_so(tmp_path: Path) -> None:
    below = "stages:\n  a: {kind: fake-slow, steps: 1, from: {raw: b}}\n  b: {kind: fake-raw}\n"
    assert "write 'b' above it" in str(problems(tmp_path, below)[0])
    circle = "stages:\n  a: {kind: fake-raw, from: {pages: b}}\n  b: {kind: fake-raw, from: {pages: [a]}}\n"
    assert "circle (a ← b ← a)" in str(problems(tmp_path, circle)[0])


def test_a_kind_that_needs_one_of_several_says_so(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, "stages:\n  c: {kind: curate}\n")
    assert "needs 'from: {pages: …}' or the setting 'sources'" in str(found)


REAL = """\
stages:
  pages: {kind: curate, sources: [{path: "${recipe}"}]}
  tokenizer: {kind: tokenizer, from: {documents: pages}}
  tokens: {kind: pack, from: {documents: [pages], tokenizer: tokenizer}}
  base: {kind: pretrain, from: {tokens: tokens}, steps: 5, model: llama3-8b, mix: {pages: 1}}
  exam: {kind: evaluate, from: {model: base}, data: "${recipe}"}
"""


@pytest.mark.parametrize(
    ("right", "wrong", "line", "words"),
    [
        ("{pages: 1}", "{page: 1}", 5, ["base.mix", "'page'", "'pages'"]),
        ("model: llama3-8b, ", "", 5, ["'from: {model: …}'", "the setting 'model'"]),
        ("model: llama3-8b", "model: llama-8b", 5, ["base.model", "llama3-8b"]),
        ("model: llama3-8b", "model: {dim: 64}", 5, ["base.model.heads must be given"]),
        ("steps: 5", "tokens: 5, steps: 5", 5, ["steps", "tokens"]),
        (', data: "${recipe}"', "", 6, ["'from: {world: …}'", "'from: {tokens: …}'", "the setting 'data'"]),
        (', data: "${recipe}"', ', data: "${recipe}", tasks: [bit]', 6, ["'bit'", "bits"]),
    ],
)
def test_mistakes_in_real_kinds_are_told_too(
    tmp_path: Path, right: str, wrong: str, line: int, words: list[str]
) -> None:
    assert REAL.count(right) == 1
    read(tmp_path, REAL)
    found = problems(tmp_path, REAL.replace(right, wrong))
    assert any(item.line == line and all(word in str(item) for word in words) for item in found), found


@pytest.mark.parametrize(
    "text", ["", "just words", "[1, 2]", "stages:", "stages: {}", "stages: [a]", "\0", "a: &x [*x]"]
)
def test_what_is_no_recipe_is_refused(tmp_path: Path, text: str) -> None:
    assert problems(tmp_path, text)


def test_a_recipe_that_is_not_there_or_not_text_is_told(tmp_path: Path) -> None:
    (tmp_path / "laptop.yaml").write_text(GOOD)
    with pytest.raises(UserError, match=r"'laptop\.yaml'"):
        read_recipe(tmp_path / "lapotp.yaml")
    (tmp_path / "bytes.yaml").write_bytes(b"name: \xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        read_recipe(tmp_path / "bytes.yaml")
    with pytest.raises(UserError, match="can't be read"):
        read_recipe(tmp_path)


def test_a_missing_file_beside_a_similar_one_is_suggested(tmp_path: Path) -> None:
    (tmp_path / "debian-docs.warc.gz").write_text("")
    wrong = GOOD.replace("seed: 3", f"sources: [{{path: {tmp_path}/debian-doc.warc.gz}}]")
    assert "'debian-docs.warc.gz'" in str(problems(tmp_path, wrong)[0])


def test_overrides_change_add_and_nest(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    (tmp_path / "b").write_text("")
    text = GOOD.replace("seed: 3", f"sources: [{{path: {tmp_path}/a}}]")
    recipe = read(
        tmp_path,
        text,
        "base.steps=7",
        "base.model.depth=2",
        "base.mix={x: .5, y: 0.5}",
        f"pages.sources.0.path={tmp_path}/b",
        "base.rate=2e-4",
    )
    assert recipe.stages["base"].settings == SlowSettings(
        steps=7, model=Nested(width=16, depth=2), mix={"x": 0.5, "y": 0.5}, rate=2e-4
    )
    assert schema.source_paths(recipe.stages["pages"].settings) == {("sources", 0, "path"): tmp_path / "b"}


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("bsae.steps=1", ["'bsae'", "'base'"]),
        ("base.stepps=1", ["base.stepps", "'steps'"]),
        ("base.steps=x", ["base.steps", '"x"']),
        ("base.steps", ["STAGE.SETTING=VALUE"]),
        ("base", ["STAGE.SETTING=VALUE", "--only base"]),
        ("steps=1", ["STAGE.SETTING=VALUE"]),
        ("base.=1", ["STAGE.SETTING=VALUE"]),
        ("base.steps.x=1", ["base.steps is 5"]),
        ("base.steps=[1", ["not valid YAML"]),
    ],
)
def test_a_wrong_override_is_told_as_of_the_command_line(tmp_path: Path, override: str, words: list[str]) -> None:
    (found,) = problems(tmp_path, GOOD, override)
    assert found.where == f"command line, {override}"
    assert all(word in str(found) for word in words)


KEYS = st.sampled_from(["steps", "rate", "model.width", "model.depth"])
NUMBERS = st.integers(min_value=-(10**12), max_value=10**12)


@given(st.dictionaries(KEYS, NUMBERS, min_size=1))
def test_an_override_says_the_same_as_the_recipe(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, int]
) -> None:
    folder = tmp_path_factory.mktemp("recipe")
    overridden = read(folder, GOOD, *(f"base.{key}={value}" for key, value in values.items()))
    tree = yaml.safe_load(GOOD)
    for key, value in values.items():
        *way, last = key.split(".")
        here = tree["stages"]["base"]
        for step in way:
            here = here[step]
        here[last] = value
    assert read(folder, yaml.safe_dump(tree, sort_keys=False)).stages == overridden.stages


@given(
    st.one_of(st.integers(), st.floats(allow_nan=False), st.booleans(), st.none(), st.text(string.ascii_letters + " "))
)
@example("no")
@example(1e22)
@example(-0.5)
def test_scalars_mean_what_another_yaml_writer_meant(value: object) -> None:
    written = yaml.safe_dump(value, explicit_end=False).removesuffix("...\n")
    tree = parse(written, "x", [])
    read_back = tree.bare() if tree else None
    assert read_back == value
    assert isinstance(read_back, bool) == isinstance(value, bool)


def test_scalars_follow_yaml_1_2() -> None:
    assert [read_scalar(text) for text in ("no", "on", "2e-3", "1e6", "1_000", "0x10", "12:30", "2024-01-01")] == [
        "no", "on", 0.002, 1_000_000, 1000, 16, "12:30", "2024-01-01",
    ]  # fmt: skip
    assert parse_value("no", "x", []).bare() == "no"


def test_placeholders_are_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HERDBOOK_TEST_STEPS", "12")
    monkeypatch.delenv("HERDBOOK_TEST_NONE", raising=False)
    text = GOOD.replace("steps: 5", "steps: ${env:HERDBOOK_TEST_STEPS}").replace(
        "seed: 3", "sources: [{path: '${python_library}'}, {path: '${recipe}/${env:HERDBOOK_TEST_NONE:-recipe.yaml}'}]"
    )
    recipe = read(tmp_path, text)
    assert recipe.stages["base"].settings.steps == 12
    sources = list(schema.source_paths(recipe.stages["pages"].settings).values())
    assert sources == [Path(sysconfig.get_paths()["stdlib"]), tmp_path / "recipe.yaml"]
    assert read(tmp_path, "name: a$${b}\n" + GOOD.replace("name: small\n", "")).name == "a$${b}"


def test_merged_mappings_are_read(tmp_path: Path) -> None:
    text = "stages:\n  a: &a {kind: fake-raw, seed: 4, lines: 2}\n  b: {<<: *a, lines: 9}\n"
    assert read(tmp_path, text).stages["b"].settings == RawSettings(seed=4, lines=9)


def test_source_paths_are_found_wherever_they_stand(tmp_path: Path) -> None:
    from herdbook.settings import InputPath, Settings

    class Many(Settings):
        one: InputPath
        maybe: InputPath | None = None
        several: tuple[InputPath, ...] = ()
        named: dict[str, InputPath] | None = None
        pair: tuple[int, InputPath] | None = None
        plain: Path | None = None

    here = Path("x")
    many = Many(one=here, maybe=here, several=(here, here), named={"a": here}, pair=(1, here), plain=here)
    assert list(schema.source_paths(many)) == [
        ("one",), ("maybe",), ("several", 0), ("several", 1), ("named", "a"), ("pair", 1),
    ]  # fmt: skip


def test_a_unions_other_branches_do_not_complain_besides(tmp_path: Path) -> None:
    (found,) = problems(tmp_path, GOOD.replace("steps: 5", "steps: 5\n    start: {widht: 3}"))
    assert "base.start.widht" in str(found)


def test_a_recipes_seed_is_that_of_every_stage_that_is_given_none(tmp_path: Path) -> None:
    text = GOOD.replace("  base:", "  words: {kind: fake-raw}\n  base:")

    def seeds(*overrides: str, head: str = "") -> list[int]:
        found = read(tmp_path, head + text, *overrides)
        return [found.stages[name].settings.seed for name in ("pages", "words")]  # type: ignore[attr-defined]

    assert seeds() == [3, 1]
    assert seeds("seed=7") == seeds(head="seed: 7\n") == [3, 7]
    assert seeds("seed=7", "words.seed=2", head="seed: 5\n") == [3, 2]
    assert [item.line for item in problems(tmp_path, "seed: one\n" + text)] == [1]
    (told,) = problems(tmp_path, text, "seed=-1")
    assert "'seed' is a whole number from 0 on, not -1" in told.message
