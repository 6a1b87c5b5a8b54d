"""Classifiers of documents: learnt, measured against closed forms, applied, ranked per language, decided by rules."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.sparse import csr_matrix

from herdbook.corpus.curate import curate
from herdbook.corpus.quality.figures import auc, judge, share
from herdbook.corpus.quality.linear import LinearSettings, document_buckets, features, fit, softmax
from herdbook.corpus.quality.score import decide_scores_again, ranks, score
from herdbook.corpus.quality.settings import (
    EncoderSettings,
    EndpointSettings,
    HeadSettings,
    QualitySettings,
    ScoreSettings,
)
from herdbook.corpus.quality.train import load_heads, train_quality
from herdbook.corpus.rules import DEFAULT_RULES, Rule
from herdbook.corpus.settings import CurateSettings, DuplicateSettings, SourceSettings
from herdbook.corpus.why import why
from herdbook.settings import UserError
from tests.corpus.fake_endpoint import page_of, serving
from tests.support.worlds import tiny_truth, tiny_world

GOOD = ["because", "therefore", "theorem", "explains", "history", "careful", "evidence", "reason", "result", "study"]
BAD = ["buy", "cheap", "click", "offer", "discount", "free", "winner", "casino", "subscribe", "now"]
FILL = [
    "the",
    "a",
    "of",
    "and",
    "to",
    "in",
    "page",
    "house",
    "river",
    "year",
    "people",
    "time",
    "water",
    "day",
    "part",
    "place",
]


def text_of(draw: random.Random, words: list[str]) -> str:
    return " ".join(draw.choice(words if draw.random() < 0.15 else FILL) for _ in range(draw.randint(30, 80)))


def corpus(folder: Path, count: int = 240) -> tuple[Path, Path]:
    """An entry of documents in two files, and labels of them; the good ones are the even numbers."""
    draw, rows, labels = random.Random(3), [], []
    for number in range(count):
        good = number % 2 == 0
        row = {"id": f"d{number}", "url": f"https://a.example/{number}", "text": text_of(draw, GOOD if good else BAD)}
        rows.append(row | {"language": "en" if number % 3 else "de", "source": "a", "length_words": number})
        labels.append({"id": row["id"], "label": int(good), "kind": "study" if good else "shop"})
    (folder / "entry" / "documents").mkdir(parents=True)
    for part in range(2):
        pq.write_table(
            pa.Table.from_pylist(rows[part::2][::-1]), folder / "entry" / "documents" / f"{part:05d}.parquet"
        )
    (folder / "labels.jsonl").write_text("\n".join(map(json.dumps, labels)))
    return folder / "entry", folder / "labels.jsonl"


def quality(labels: Path, **more: Any) -> QualitySettings:
    heads = {"general": HeadSettings(file=labels), "topic": HeadSettings(file=labels, label_field="kind")}
    return QualitySettings(heads=heads, **more)


def everything(folder: Path, name: str = "documents") -> list[dict[str, Any]]:
    return [row for path in sorted((folder / name).glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def test_auc_counts_pairs_and_has_delongs_interval() -> None:
    draw = np.random.default_rng(1)
    good = draw.random(90) < 0.4
    scores = np.round(draw.normal(size=90) + good, 1)  # with ties
    above, below = scores[good], scores[~good]
    wins = (above[:, None] > below) + 0.5 * (above[:, None] == below)
    variance = wins.mean(1).var(ddof=1) / len(above) + wins.mean(0).var(ddof=1) / len(below)
    found = auc(scores, good)
    assert found and found["value"] == pytest.approx(wins.mean())
    logit, half = (
        np.log(wins.mean() / (1 - wins.mean())),
        1.959964 * np.sqrt(variance) / (wins.mean() * (1 - wins.mean())),
    )
    assert found["low"] == pytest.approx(1 / (1 + np.exp(half - logit)), abs=1e-6)
    assert found["high"] == pytest.approx(1 / (1 + np.exp(-half - logit)), abs=1e-6)


def test_auc_of_parted_classes_claims_no_certainty() -> None:
    found = auc(np.arange(20.0), np.arange(20) >= 10)
    assert found and found["value"] == 1 and 0.6 < found["low"] < 0.8
    assert auc(np.arange(3.0), np.ones(3, bool)) is None


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    draw, held = np.random.default_rng(5), 0
    for _ in range(400):
        good = np.arange(60) < 30
        found = auc(draw.normal(size=60) + good * 1.0, good)
        held += bool(found and found["low"] <= 0.7602 <= found["high"])  # Phi(1 / sqrt(2))
    assert 0.92 <= held / 400 <= 0.98


def test_judging_several_classes_tells_the_recall_of_each() -> None:
    chances = np.eye(3)[[0, 0, 1, 2]]
    found = judge(chances, np.array([0, 1, 1, 2]), ["a", "b", "c"])
    assert found["accuracy"] == share(3, 4) and found["guess"] == 0.5
    assert [found["recall"][name]["value"] for name in "abc"] == [1, 0.5, 1] and "auc" not in found


def test_features_count_words_and_pairs_by_hand() -> None:
    settings = LinearSettings(buckets=1 << 20)
    buckets = document_buckets("The mill, the mill and THE wheel", settings)
    assert len(buckets) == 7 + 6 and len(np.unique(buckets)) == 4 + 5  # 'the mill' comes twice
    matrix = features(["the mill the mill", "", "mill"], settings)
    counts = np.sort(matrix[0].data)  # the 2, mill 2, the-mill 2, mill-the 1
    wanted = np.log1p([1, 2, 2, 2])
    assert counts == pytest.approx(wanted / np.sqrt((wanted**2).sum()), rel=1e-6)
    assert matrix[1].nnz == 0 and matrix[2].data == pytest.approx([1.0])
    assert document_buckets("wheel mill", settings)[2] != document_buckets("mill wheel", settings)[2]


def test_long_documents_are_seen_at_both_ends() -> None:
    settings = LinearSettings(words=10, buckets=1 << 20)
    seen = set(document_buckets(" ".join(f"{n:07d}" for n in range(500)), settings).tolist())
    words = [document_buckets(f"{n:07d}", settings)[0] in seen for n in range(500)]
    assert words[0] and words[-1] and not words[250] and sum(words) <= 10


def test_the_weights_are_the_minimum_of_the_loss() -> None:
    draw = random.Random(1)
    texts = [text_of(draw, GOOD if n % 3 == 0 else BAD if n % 3 == 1 else FILL) for n in range(90)]
    truth = np.arange(90) % 3
    settings = LinearSettings(buckets=512, penalty=1e-2, iterations=1000)
    model = fit(texts, truth, 3, settings)
    matrix = csr_matrix(features(texts, settings), dtype=np.float64)
    weights, bias = model.weights.astype(np.float64), model.bias.astype(np.float64)
    off = (softmax(matrix @ weights + bias) - np.eye(3)[truth]) / 90
    assert np.abs(matrix.T @ off + settings.penalty * weights).max() < 1e-5
    assert np.abs(off.sum(axis=0)).max() < 1e-5
    # The same problem by plain gradient descent on a dense matrix.
    dense, other, shift = matrix.toarray(), np.zeros((512, 3)), np.zeros(3)
    for _ in range(1000):
        off = (softmax(dense @ other + shift) - np.eye(3)[truth]) / 90
        other, shift = other - 0.9 * (dense.T @ off + 1e-2 * other), shift - 0.9 * off.sum(axis=0)
    assert model.probabilities(texts) == pytest.approx(softmax(dense @ other + shift), abs=2e-3)


def test_sklearn_finds_the_same_probabilities() -> None:
    models = pytest.importorskip("sklearn.linear_model", reason="scikit-learn is not installed")
    draw = random.Random(2)
    texts = [text_of(draw, GOOD if n % 2 else BAD) for n in range(80)]
    settings = LinearSettings(buckets=4096, penalty=1e-2, iterations=1000)
    ours = fit(texts, np.arange(80) % 2, 2, settings).probabilities(texts)
    # Two rows of weights share the penalty: half of it for the difference.
    peer = models.LogisticRegression(C=2 / (80 * settings.penalty), max_iter=5000, tol=1e-9)
    peer.fit(features(texts, settings), np.arange(80) % 2)
    assert ours == pytest.approx(peer.predict_proba(features(texts, settings)), abs=1e-3)


def test_heads_are_trained_measured_scored_and_decided_by_rules(tmp_path: Path) -> None:
    entry, labels = corpus(tmp_path)
    found = train_quality(quality(labels), [entry], None, tmp_path / "model")
    assert found["general"]["auc"]["value"] > 0.95 and found["general"]["accuracy"]["low"] > found["general"]["guess"]
    assert found["topic"]["recall"]["shop"]["value"] > 0.9 and found["general"]["heldout"] == 48
    settings = ScoreSettings(rules=(Rule(name="low_quality", column="quality_general", below=0.5),))
    told = score(settings, [entry], [tmp_path / "model"], tmp_path / "out")
    kept, measured = everything(tmp_path / "out"), everything(tmp_path / "out", "measurements")
    assert told["documents"] == {"read": 240, "kept": len(kept), "dropped": 240 - len(kept)}
    assert told["dropped"] == {"low_quality": 240 - len(kept)} and len(measured) == 240
    right = sum((row["quality_general"] >= 0.5) == (int(row["id"][1:]) % 2 == 0) for row in measured)
    assert right > 228 and all(row["topic"] == "study" for row in kept if row["topic_probability"] > 0.7)
    assert {row["id"] for row in kept} == {row["id"] for row in measured if row["dropped_by"] is None}
    # Each row has its own score, whatever file it stood in.
    head = next(head for head in load_heads(tmp_path / "model") if head.name == "general")
    assert [row["quality_general"] for row in kept] == pytest.approx(
        head.score([r["text"] for r in kept])["quality_general"]
    )
    dropped = next(row for row in measured if row["dropped_by"])
    said = why(tmp_path / "out", dropped["url"])[0].lines()
    assert "dropped by low_quality" in said[1]


def test_deciding_again_scores_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry, labels = corpus(tmp_path, 60)
    train_quality(quality(labels), [entry], None, tmp_path / "model")
    score(ScoreSettings(), [entry], [tmp_path / "model"], tmp_path / "out")
    assert len(everything(tmp_path / "out")) == 60
    monkeypatch.setattr("herdbook.corpus.quality.score.score_shard", lambda *_: pytest.fail("scored again"))
    stricter = ScoreSettings(rules=(Rule(name="low_rank", column="quality_rank", below=0.5),), rank_least=10)
    heads = load_heads(tmp_path / "model")
    told = decide_scores_again(stricter, [entry], heads, tmp_path / "out")
    assert told["documents"]["kept"] == 30  # half of either language
    assert score(stricter, [entry], [tmp_path / "model"], tmp_path / "out")["documents"]["kept"] == 30
    (tmp_path / "out" / "scored" / "00001.parquet").unlink()
    with pytest.raises(UserError, match="score first"):
        decide_scores_again(stricter, [entry], heads, tmp_path / "out")


def test_curation_measures_scores_and_keeps_the_better_copy(tmp_path: Path) -> None:
    entry, labels = corpus(tmp_path)
    train_quality(quality(labels), [entry], None, tmp_path / "m")
    draw = random.Random(9)
    poor, fine = text_of(draw, BAD) + " casino offer winner" * 3, text_of(draw, GOOD) + " careful evidence theorem" * 3
    rows = [{"url": "https://a.example/p", "date": "2024-02-01", "text": poor}]  # the newer one
    rows.append({"url": "https://a.example/p", "date": "2024-01-01", "text": fine})
    (tmp_path / "pages.jsonl").write_text("\n".join(map(json.dumps, rows)))
    usual = {"sources": (SourceSettings(path=tmp_path / "pages.jsonl"),), "workers": 1}
    usual["rules"] = tuple(rule for rule in DEFAULT_RULES if rule.name == "url_duplicate")
    curate(CurateSettings(**usual), [], tmp_path / "newest")
    assert [row["text"] for row in everything(tmp_path / "newest")] == [poor]
    best = CurateSettings(**usual, duplicates=DuplicateSettings(prefer="quality_general"))
    curate(best, [], tmp_path / "best", quality=[tmp_path / "m"])
    (kept,) = everything(tmp_path / "best")
    assert kept["text"] == fine and kept["quality_general"] > 0.5 and kept["topic"] == "study"
    with pytest.raises(UserError, match="nothing measures 'quality_general'"):
        curate(best, [], tmp_path / "without")
    heads = {"language": HeadSettings(file=labels, label_field="kind")}
    train_quality(QualitySettings(heads=heads), [entry], None, tmp_path / "wrong")
    with pytest.raises(UserError, match="'language', which is measured already"):
        curate(best, [], tmp_path / "clash", quality=[tmp_path / "wrong"])


def test_a_head_learns_from_a_models_grades_and_tells_what_they_cost(tmp_path: Path) -> None:
    entry, _ = corpus(tmp_path, 120)
    graded = lambda body, _: f"Grade: {5 if set(page_of(body).split()) & set(GOOD) else 1}"  # noqa: E731
    with serving(graded) as server:
        endpoint = EndpointSettings(base_url=server.url, model="judge", cache=str(tmp_path / "c"), price_in=2.0)
        settings = QualitySettings(heads={"general": HeadSettings(rubric="general")}, endpoint=endpoint, sample=80)
        found = train_quality(settings, [entry], None, tmp_path / "m")["general"]
    assert found["auc"]["value"] > 0.9 and found["documents"] == 80 and len(server.bodies) == 80
    assert found["labelling"]["asked"] == 80 and found["labelling"]["cost"] == pytest.approx(80 * 100 * 2 / 1e6)


def test_heads_learn_from_the_worlds_truth_of_its_pages(tmp_path: Path) -> None:
    rows = []
    for row in tiny_truth():
        if row["clean_text"]:
            rows.append(
                {"id": row["record_id"], "text": row["clean_text"]} | {key: row[key] for key in ("url", "date")}
            )
    (tmp_path / "entry" / "documents").mkdir(parents=True)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "entry" / "documents" / "00000.parquet")
    small = LinearSettings(buckets=1 << 13, iterations=30)
    kinds = {"code": "code", "reasoning": "reasoning", "topic": "genre"}
    heads = {name: HeadSettings(world=kind, linear=small) for name, kind in kinds.items()}
    found = train_quality(QualitySettings(heads=heads), [tmp_path / "entry"], tiny_world(), tmp_path / "m")
    for name in ("code", "reasoning"):
        assert found[name]["auc"]["value"] > 0.97, name
    assert found["topic"]["accuracy"]["value"] > found["topic"]["guess"] + 0.1


def test_ranks_compare_within_a_language_only() -> None:
    draw = np.random.default_rng(0)
    scores, languages = draw.random(130), np.array(["en"] * 70 + ["de"] * 50 + ["fi"] * 10)
    scores[70:120] /= 100  # German pages score low as a whole
    found = ranks(scores, languages, 20)
    for name in ("en", "de"):
        mine = languages == name
        below = (scores[mine] < scores[mine][:, None]).sum(1) + (scores[mine] == scores[mine][:, None]).sum(1) / 2
        assert found[mine] == pytest.approx(below / mine.sum())
    assert np.isnan(found[languages == "fi"]).all()
    assert ranks(np.array([1.0, 1, 2, 2]), np.array(["x"] * 4), 1).tolist() == [0.25, 0.25, 0.75, 0.75]


def test_training_is_the_same_every_time(tmp_path: Path) -> None:
    entry, labels = corpus(tmp_path, 80)
    first = train_quality(quality(labels), [entry], None, tmp_path / "a")
    assert first == train_quality(quality(labels), [entry], None, tmp_path / "b")
    weights = [(tmp_path / name / "general" / "weights.safetensors").read_bytes() for name in "ab"]
    assert weights[0] == weights[1]
    train_quality(quality(labels, seed=1), [entry], None, tmp_path / "c")
    assert (tmp_path / "c" / "general" / "weights.safetensors").read_bytes() != weights[0]


def test_mistakes_are_told(tmp_path: Path) -> None:
    entry, labels = corpus(tmp_path, 40)
    with pytest.raises(ValueError, match="exactly one of"):
        HeadSettings(file=labels, world="good")
    with pytest.raises(ValueError, match="nobody to ask"):
        QualitySettings(heads={"general": HeadSettings(rubric="general")})
    with pytest.raises(ValueError, match="a head's name"):
        QualitySettings(heads={"Gen-eral": HeadSettings(file=labels)})
    with pytest.raises(UserError, match="no world feeds"):
        train_quality(QualitySettings(heads={"g": HeadSettings(world="good")}), [entry], None, tmp_path / "m")
    with pytest.raises(UserError, match="no classifier here"):
        load_heads(tmp_path)
    train_quality(quality(labels), [entry], None, tmp_path / "m")
    with pytest.raises(UserError, match="several classifiers give the column quality_general"):
        score(ScoreSettings(), [entry], [tmp_path / "m", tmp_path / "m"], tmp_path / "out")
    with pytest.raises(UserError, match="there is no score 'quality_code'; there is quality_general"):
        score(ScoreSettings(rank_by="quality_code"), [entry], [tmp_path / "m"], tmp_path / "out")
    (tmp_path / "m" / "general" / "weights.safetensors").write_bytes(b"half")
    with pytest.raises(UserError, match="damaged"):
        load_heads(tmp_path / "m")


def test_several_processes_give_the_same_scores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry, labels = corpus(tmp_path, 40)
    train_quality(quality(labels), [entry], None, tmp_path / "m")
    score(ScoreSettings(workers=1), [entry], [tmp_path / "m"], tmp_path / "one")
    monkeypatch.setattr("herdbook.corpus.quality.score.LEAST_BYTES", 0)
    score(ScoreSettings(workers=2), [entry], [tmp_path / "m"], tmp_path / "two")
    assert everything(tmp_path / "one") == everything(tmp_path / "two")


def test_an_encoder_learns_what_the_linear_classifier_learns(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    from tokenizers import Tokenizer, models, pre_tokenizers

    words = {
        word: number for number, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", "<mask>", *GOOD, *BAD, *FILL])
    }
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    names = {"pad_token": "<pad>", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"}
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(tmp_path / "tiny")
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    config = transformers.RobertaConfig(vocab_size=len(words), max_position_embeddings=100, pad_token_id=1, **shape)
    transformers.RobertaModel(config).save_pretrained(tmp_path / "tiny")
    entry, labels = corpus(tmp_path, 160)
    learn = EncoderSettings(model=str(tmp_path / "tiny"), length=64, rows=8, epochs=8, lr=3e-3)
    heads = {"general": HeadSettings(file=labels, encoder=learn)}
    found = train_quality(QualitySettings(heads=heads), [entry], None, tmp_path / "model")
    assert found["general"]["auc"]["value"] > 0.9
    score(ScoreSettings(), [entry], [tmp_path / "model"], tmp_path / "out")
    rows = everything(tmp_path / "out")
    assert np.mean([(r["quality_general"] > 0.5) == (int(r["id"][1:]) % 2 == 0) for r in rows]) > 0.85
    with pytest.raises(UserError, match="can't be loaded"):
        wrong = {"general": HeadSettings(file=labels, encoder=str(tmp_path / "entry"))}
        train_quality(QualitySettings(heads=wrong), [entry], None, tmp_path / "none")
