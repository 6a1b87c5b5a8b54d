"""Semantic duplicates against brute force, on documents whose words are shuffled; a tiny encoder from a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from herdbook.corpus import semantic
from herdbook.corpus.curate import decide_again
from herdbook.corpus.measure import as_table, measure
from herdbook.corpus.read import RawPage
from herdbook.corpus.settings import CurateSettings, MeasureSettings
from herdbook.files import write_json
from herdbook.settings import UserError

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnprst" for b in "aeiou" for c in "klmnrst"]


def page(number: int, words: list[str]) -> RawPage:
    return RawPage(f"https://a.example/{number}", f"2024-01-{1 + number // 60}", str(number), "text", " ".join(words))


@pytest.fixture(scope="module")
def shuffled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 documents, and 60 with the same words in another order: no near duplicates, but semantic ones."""
    out, draw = tmp_path_factory.mktemp("shuffled"), np.random.default_rng(1)
    topics = [draw.choice(WORDS, 60, replace=False) for _ in range(6)]
    texts = [draw.choice(topics[number % 6], 80).tolist() for number in range(60)]
    texts += [draw.permutation(words).tolist() for words in texts]
    settings = MeasureSettings(minhash_permutations=48)
    (out / "measured").mkdir()
    for number, start in enumerate(range(0, 120, 30)):
        rows = [
            measure(
                RawPage(f"https://a.example/{i}", f"2024-01-{1 + i // 60}", str(i), "text", " ".join(texts[i])),
                "m",
                settings,
            )
            for i in range(start, start + 30)
        ]
        pq.write_table(as_table(rows, settings), out / "measured" / f"{number:05d}.parquet")
        write_json(out / "measured" / f"{number:05d}.json", {"losses": [], "skipped": {}, "pages": 30})
    return out


def settings_of(**semantic: Any) -> CurateSettings:
    off = ["adult_words", "few_words", "language_unknown", "token_divergence", "line_repeated", "ngram_repetition"]
    return CurateSettings.model_validate(
        {"workers": 1, "off": off, "on": ["semantic_duplicate"], "duplicates": {"semantic": semantic}}
    )


def dropped(out: Path) -> dict[int, tuple[str | None, str | None]]:
    table = pa.concat_tables([pq.read_table(f) for f in sorted((out / "measurements").glob("*.parquet"))])
    urls = dict(zip(table["id"].to_pylist(), table["url"].to_pylist()))
    return {
        int(row["url"].rsplit("/", 1)[1]): (row["dropped_by"], urls.get(row["duplicate_of"]))
        for row in table.to_pylist()
    }


def test_the_same_words_in_another_order_are_found_only_when_the_rule_is_on(shuffled: Path) -> None:
    decide_again(settings_of(cluster_documents=40), shuffled)
    found = dropped(shuffled)
    # The second sixty are newer, so the first sixty go, each for its own shuffled twin.
    assert [found[number] for number in range(60)] == [
        ("semantic_duplicate", f"https://a.example/{60 + number}") for number in range(60)
    ]
    assert all(found[number][0] is None for number in range(60, 120))
    decide_again(settings_of(cluster_documents=40).model_copy(update={"on": ()}), shuffled)
    assert not any(rule for rule, _ in dropped(shuffled).values())


def test_a_document_goes_for_the_best_one_that_stays() -> None:
    draw = np.random.default_rng(2)
    vectors = semantic.unit(draw.standard_normal((80, 3)).astype(np.float32))
    keeper, alike = semantic.greedy(vectors, 0.9)
    stay: list[int] = []
    for place in range(80):
        first = next((other for other in stay if vectors[other] @ vectors[place] > 0.9), None)
        assert keeper[place] == (-1 if first is None else first)
        assert first is None or alike[place] == pytest.approx(float(vectors[first] @ vectors[place]), abs=1e-6)
        if first is None:
            stay.append(place)
    assert 5 < len(stay) < 75


def test_k_means_finds_what_is_far_apart() -> None:
    draw = np.random.default_rng(3)
    middle = np.eye(5, 16, dtype=np.float32)
    label = np.repeat(np.arange(5), 40)
    vectors = semantic.unit(middle[label] + 0.05 * draw.standard_normal((200, 16)).astype(np.float32))
    found, _ = semantic.nearest(vectors, semantic.k_means(vectors, 5))
    assert len({tuple(sorted(np.flatnonzero(found == cluster))) for cluster in set(found.tolist())}) >= 4
    assert all(len(set(label[found == cluster])) <= 2 for cluster in set(found.tolist()))


def test_an_encoder_from_a_folder_gives_the_vectors(shuffled: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (herdbook[encoder])")
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]))
    transformers.BertTokenizerFast(vocab_file=str(tmp_path / "vocab.txt")).save_pretrained(tmp_path)
    config = transformers.BertConfig(
        vocab_size=len(WORDS) + 5, hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    transformers.BertModel(config).save_pretrained(tmp_path)
    table = pa.table({"text": ["bak dek fil", "", "bak dek fil", "gor gor"]})
    found = semantic.Encoder(tmp_path).embed(table)
    assert found.shape == (4, 32) and np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert np.allclose(found[0], found[2], atol=1e-5) and not np.allclose(found[0], found[3], atol=1e-2)
    with pytest.raises(UserError, match="holds no encoder"):
        semantic.Encoder(tmp_path / "nothing")
