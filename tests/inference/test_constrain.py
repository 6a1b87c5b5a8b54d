"""What a random model writes under a form always has it: judged by jsonschema and by regular expressions."""

from __future__ import annotations

import json
import re
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from herdbook.inference.constrain import Guide, Guided
from herdbook.inference.engine import Engine, Sampling
from herdbook.settings import UserError
from tests.support.models import tiny_model
from tests.support.tokenizers import byte_tokenizer

TOKENIZER = byte_tokenizer(("true", "null", '": ', '"name"', "grün"))
# More logits than tokens, and not a multiple of 32, as padded embeddings have it.
VOCABULARY = TOKENIZER.vocab_size + 5
ENGINE = Engine(
    tiny_model(5, vocab_size=VOCABULARY, max_length=4096), TOKENIZER, [TOKENIZER.eos_id, TOKENIZER.eot_id], rows=8
)
GUIDE = Guide(TOKENIZER, VOCABULARY, TOKENIZER.eot_id)


def write(form: Guided, seed: int, temperature: float = 1.0, **more: Any) -> tuple[str, str]:
    """What the model writes, and why it ended."""
    sampling = Sampling(
        max_tokens=4000, temperature=temperature, seed=seed, constraint=form.copy(), **{"top_p": 0.95, **more}
    )
    got = ENGINE.generate([[TOKENIZER.bos_id]], sampling)[0]
    return got.text, got.finish_reason


KEYS = st.text('abé"\\ /', min_size=1, max_size=4)
LEAVES = st.one_of(
    st.builds(
        lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more},
        st.integers(-99, 99),
        st.integers(0, 50),
    ),
    st.builds(lambda size: {"type": "string", "maxLength": size}, st.integers(0, 6)),
    st.just({"type": "string", "pattern": "^[a-f]{2,5}$"}),
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.lists(st.one_of(st.text(max_size=4), st.integers(-9, 9), st.none()), min_size=1, max_size=3).map(
        lambda values: {"enum": values}
    ),
)


def larger(inner: st.SearchStrategy[dict[str, Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects, arrays and choices of schemas."""
    objects = st.dictionaries(KEYS, inner, max_size=3).flatmap(
        lambda fields: st.builds(
            lambda needed: {
                "type": "object",
                "properties": fields,
                "required": sorted(needed),
                "additionalProperties": False,
            },
            st.sets(st.sampled_from(sorted(fields))) if fields else st.just(set()),
        )
    )
    arrays = st.builds(
        lambda items, most: {"type": "array", "items": items, "maxItems": most}, inner, st.integers(0, 3)
    )
    return objects | arrays | st.lists(inner, min_size=1, max_size=2).map(lambda parts: {"anyOf": parts})


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.recursive(LEAVES, larger, max_leaves=5), st.integers(0, 2**31), st.sampled_from([0.7, 1.0, 3.0]))
def test_json_by_a_schema_always_validates(schema: dict[str, Any], seed: int, temperature: float) -> None:
    text, finish = write(GUIDE.json_schema(schema), seed, temperature)
    assert finish == "stop"
    jsonschema.validate(json.loads(text), schema)


@pytest.mark.parametrize("seed", range(8))
def test_any_object_is_json(seed: int) -> None:
    text, finish = write(GUIDE.json_object(), seed, logit_bias={ord("}"): 6.0, ord('"'): 3.0})
    assert finish == "stop" and isinstance(json.loads(text), dict)


@pytest.mark.parametrize("pattern", [r"\d{3}-[a-z]+\.", "(yes|no)( indeed){0,2}", "é+🐄", "[^a]{5}", "x*"])
def test_a_regular_expression_matches_all_of_it(pattern: str) -> None:
    texts = set()
    for seed in range(6):
        text, finish = write(GUIDE.regex(pattern), seed)
        assert finish == "stop" and re.fullmatch(pattern, text), text
        texts.add(text)
    assert len(texts) > 1


def test_a_choice_is_one_of_the_texts_and_all_come() -> None:
    texts = ["yes", 'n"o', "may\nbe", "grün", "yes, please"]
    assert {write(GUIDE.choice(texts), seed, 20.0, top_p=1.0)[0] for seed in range(60)} == set(texts)


def test_a_grammar_is_kept_to() -> None:
    form = GUIDE.lark('start: "(" start ")" | "x"')
    for seed in range(5):
        text, _ = write(form, seed)
        assert re.fullmatch(r"\(*x\)*", text) and text.count("(") == text.count(")")


def test_the_mask_is_exact() -> None:
    form = GUIDE.regex("ab?")
    bits = np.unpackbits(form.mask().view(np.uint8), bitorder="little")
    assert len(bits) >= VOCABULARY and np.flatnonzero(bits).tolist() == [ord("a")]
    form.take(ord("a"))
    bits = np.unpackbits(form.mask().view(np.uint8), bitorder="little")
    assert set(np.flatnonzero(bits)) == {ord("b"), TOKENIZER.eot_id} and not form.ended
    form.take(TOKENIZER.eot_id)
    assert form.ended


def test_answers_to_one_form_do_not_disturb_each_other() -> None:
    form = GUIDE.json_schema({"type": "object", "properties": {"a": {"type": "integer", "maximum": 99, "minimum": 0}}})
    samplings = [Sampling(max_tokens=900, temperature=1.0, seed=s, constraint=form.copy()) for s in range(6)]
    together = [one.token_ids for one in ENGINE.generate([[TOKENIZER.bos_id]] * 6, samplings)]
    again = [Sampling(max_tokens=900, temperature=1.0, seed=s, constraint=form.copy()) for s in range(6)]
    prompts = [[TOKENIZER.bos_id]] * 6
    assert together == [one.token_ids for one in ENGINE.generate(prompts, again)]


def test_a_form_that_cannot_be_kept_to_is_told() -> None:
    for make in (lambda: GUIDE.regex("("), lambda: GUIDE.json_schema({"type": "cow"}), lambda: GUIDE.lark("nothing")):
        with pytest.raises(UserError, match="the form of the answer"):
            make()


def test_a_form_that_becomes_too_much_ends_the_answer() -> None:
    form = GUIDE.regex("a+")
    form.error = "too complex"
    bits = np.unpackbits(form.mask().view(np.uint8), bitorder="little")
    assert form.ended and np.flatnonzero(bits).tolist() == [TOKENIZER.eot_id]
