"""A transformer encoder as classifier (the paper uses DistilRoBERTa), for those with a GPU; needs `transformers`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from herdbook.console import progress
from herdbook.corpus.quality.settings import EncoderSettings
from herdbook.settings import UserError

BATCH = 32


def _transformers() -> Any:
    try:
        import transformers
    except ImportError:
        raise UserError("an encoder needs transformers; install it with: pip install 'herdbook[encoder]'") from None
    return transformers


class Encoder:
    """A sequence classifier and its tokenizer."""

    def __init__(self, model: Any, tokenizer: Any, settings: EncoderSettings) -> None:
        import torch

        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model, self.tokenizer, self.settings = model.to(self.device), tokenizer, settings

    @classmethod
    def load(cls, source: Path | str, settings: EncoderSettings, classes: int | None = None) -> Encoder:
        """From a folder or a name; `classes` gives it a fresh head. UserError where it can't be loaded."""
        library = _transformers()
        more = {} if classes is None else {"num_labels": classes, "ignore_mismatched_sizes": True}
        try:
            model = library.AutoModelForSequenceClassification.from_pretrained(str(source), **more)
            tokenizer = library.AutoTokenizer.from_pretrained(str(source))
        except (OSError, ValueError) as error:
            first = str(error).strip().split("\n")[0]
            raise UserError(f"the encoder {source} can't be loaded: {first}; name a folder that holds one") from None
        return cls(model, tokenizer, settings)

    def save(self, folder: Path) -> None:
        """Write model and tokenizer as a Hugging Face folder."""
        self.model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)

    def _batch(self, texts: list[str]) -> dict[str, Any]:
        shown = [text[: self.settings.length * 12] for text in texts]
        made = self.tokenizer(
            shown, truncation=True, max_length=self.settings.length, padding=True, return_tensors="pt"
        )
        return {name: value.to(self.device) for name, value in made.items()}

    def probabilities(self, texts: list[str]) -> np.ndarray:
        """Probability (N, C) of each class."""
        import torch

        self.model.eval()
        parts = [np.zeros((0, self.model.config.num_labels))]
        with torch.no_grad():
            for start in range(0, len(texts), BATCH):
                logits = self.model(**self._batch(texts[start : start + BATCH])).logits
                parts.append(logits.double().softmax(-1).cpu().numpy())
        return np.concatenate(parts)


def fit(texts: list[str], truth: np.ndarray, classes: int, settings: EncoderSettings, seed: int) -> Encoder:
    """Learn the classes (N,) int64 of texts, with AdamW from the encoder's weights."""
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = Encoder.load(settings.model, settings, classes)
        steps = max(1, round(settings.epochs * len(texts) / settings.rows))
        optimizer = torch.optim.AdamW(encoder.model.parameters(), lr=settings.lr, weight_decay=0.01)
        warm = max(1, steps // 10)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warm, (steps - step) / max(steps - warm, 1))
        )
        generator = np.random.default_rng(seed)
        order = np.concatenate([generator.permutation(len(texts)) for _ in range(int(settings.epochs) + 2)])
        encoder.model.train()
        with progress("encoder", steps, "steps") as bar:
            for step in range(steps):
                rows = order[step * settings.rows : (step + 1) * settings.rows]
                wanted = torch.from_numpy(truth[rows]).to(encoder.device)
                logits = encoder.model(**encoder._batch([texts[row] for row in rows])).logits
                loss = torch.nn.functional.cross_entropy(logits, wanted)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(encoder.model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                optimizer.zero_grad()
                bar.note(loss=float(loss.detach()))
                bar.advance()
    return encoder
