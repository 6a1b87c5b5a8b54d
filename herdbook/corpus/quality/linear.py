"""A linear classifier on hashed words and word pairs: what fastText's is once its two matrices are multiplied.

Training is convex (L-BFGS on the softmax loss with a small penalty), so the same labels give the same weights on every
run, and no learning rate has to be found. Letters: N documents, B buckets, C classes.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.optimize import minimize
from scipy.sparse import csr_matrix

from herdbook.corpus.quality.settings import LinearSettings
from herdbook.corpus.words import TOKENS, hash_words

LETTERS_A_WORD = 8
_MIX = np.uint64(0x9E3779B97F4A7C15)


def document_buckets(text: str, settings: LinearSettings) -> np.ndarray:
    """The bucket (F,) int64 of each word and word run of a document, with repetitions."""
    limit = settings.words * LETTERS_A_WORD
    if len(text) > limit:
        text = f"{text[: limit // 2]} {text[-limit // 2 :]}"
    hashes = hash_words(TOKENS.findall(text.lower())[: settings.words])
    found, run = [hashes], hashes
    for size in range(2, settings.word_ngrams + 1):
        run = run[: max(len(hashes) - size + 1, 0)] * _MIX
        run ^= run >> np.uint64(32)
        run = run + hashes[size - 1 :]
        found.append(run * _MIX)
    return (np.concatenate(found) % np.uint64(settings.buckets)).astype(np.int64)


def features(texts: list[str], settings: LinearSettings) -> csr_matrix:
    """Logarithms of the counts (N, B) float32, each document scaled to length 1; an empty one is all zeros."""
    columns, values, ends = [], [], [0]
    for text in texts:
        buckets, counts = np.unique(document_buckets(text, settings), return_counts=True)
        weights = np.log1p(counts)
        columns.append(buckets.astype(np.int32))
        values.append((weights / max(float(np.sqrt(weights @ weights)), 1e-12)).astype(np.float32))
        ends.append(ends[-1] + len(buckets))
    if not texts:
        return csr_matrix((0, settings.buckets), dtype=np.float32)
    parts = (np.concatenate(values), np.concatenate(columns), np.array(ends, dtype=np.int64))
    return csr_matrix(parts, shape=(len(texts), settings.buckets))


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities (N, C) from logits (N, C)."""
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


class Linear:
    """Weights (B, C) and bias (C,), float32."""

    def __init__(self, settings: LinearSettings, weights: np.ndarray, bias: np.ndarray) -> None:
        self.settings, self.weights, self.bias = settings, weights, bias

    def probabilities(self, texts: list[str], seen: dict[str, csr_matrix] | None = None) -> np.ndarray:
        """Probability (N, C) of each class; `seen` keeps the features for other classifiers of the same texts."""
        seen = {} if seen is None else seen
        key = self.settings.model_dump_json(include={"buckets", "word_ngrams", "words"})
        if key not in seen:
            seen[key] = features(texts, self.settings)
        return softmax((seen[key] @ self.weights).astype(np.float64) + self.bias)

    def save(self, folder: Path) -> None:
        """Write the weights into a folder."""
        from safetensors.numpy import save_file

        save_file({"weights": self.weights, "bias": self.bias}, folder / "weights.safetensors")

    @classmethod
    def load(cls, folder: Path, settings: LinearSettings) -> Linear:
        """The classifier that `save` left."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            held = load_file(folder / "weights.safetensors")
        except SafetensorError as error:
            raise OSError(f"weights.safetensors: {error}") from None
        return cls(settings, held["weights"], held["bias"])


def fit(texts: list[str], truth: np.ndarray, classes: int, settings: LinearSettings) -> Linear:
    """Learn the classes (N,) int64 of texts."""
    matrix = features(texts, settings)
    seen = np.unique(matrix.indices)  # words that training never saw keep weight 0
    small = csr_matrix(
        (matrix.data.astype(np.float64), np.searchsorted(seen, matrix.indices), matrix.indptr),
        shape=(len(texts), len(seen)),
    )
    found, bias = _minimum(small, truth, classes, settings)
    weights = np.zeros((settings.buckets, classes), dtype=np.float32)
    weights[seen] = found
    return Linear(settings, weights, bias.astype(np.float32))


def _minimum(
    matrix: csr_matrix,  # (N, S) float64
    truth: np.ndarray,  # (N,) int64
    classes: int,
    settings: LinearSettings,
) -> tuple[np.ndarray, np.ndarray]:  # (S, C), (C,)
    count, seen = matrix.shape
    wanted = np.zeros((count, classes))
    wanted[np.arange(count), truth] = 1
    turned = matrix.T.tocsr()

    def loss(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights, bias = flat[classes:].reshape(seen, classes), flat[:classes]
        said = softmax(matrix @ weights + bias)
        off = (said - wanted) / count
        value = -np.log(np.maximum(said[np.arange(count), truth], 1e-300)).mean()
        value += settings.penalty / 2 * float(flat[classes:] @ flat[classes:])
        slope = turned @ off + settings.penalty * weights
        return float(value), np.concatenate([off.sum(axis=0), slope.reshape(-1)])

    start = np.zeros(classes * (seen + 1))
    options = {"maxiter": settings.iterations, "maxcor": 10, "ftol": 1e-10, "gtol": 1e-7}
    found = minimize(loss, start, jac=True, method="L-BFGS-B", options=options)
    return found.x[classes:].reshape(seen, classes), found.x[:classes]
