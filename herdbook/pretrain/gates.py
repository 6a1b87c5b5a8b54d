"""The gate at the end of a long-context stage (§3.4.2): short evaluations have recovered, and the needle is perfect.

Short evaluations are bits per byte of held-out pages in rows of the length before. They are held against the model
before its *first* extension, which a model that was extended brings along, so that small losses can't add up unseen.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from herdbook.files import read_json, write_json
from herdbook.pretrain.settings import ExtendSettings
from herdbook.settings import UserError

if TYPE_CHECKING:
    import torch

    from herdbook.model.transformer import Transformer
    from herdbook.tokens.batches import HeldOut
    from herdbook.tokens.shards import TokenSets
    from herdbook.train.parallel import Parallel

BEFORE = "before.json"


@dataclass(frozen=True)
class Before:
    """What the short evaluations said before the first extension."""

    length: int
    """Tokens of the rows they were in."""

    bits_per_byte: float

    @classmethod
    def find(cls, out: Path, start: Path) -> Before | None:
        """What this stage, or the one before it, has written down."""
        for path in (out / BEFORE, start / BEFORE):
            if path.is_file():
                return cls(**read_json(path))
        return None

    def write(self, out: Path) -> None:
        """Keep it for this stage's next attempt, and for the next stage."""
        out.mkdir(parents=True, exist_ok=True)
        write_json(out / BEFORE, {"length": self.length, "bits_per_byte": self.bits_per_byte})


def short_pages(settings: ExtendSettings, sets: TokenSets, names: list[str], length: int) -> HeldOut:
    """Held-out pages in rows of the short length."""
    from herdbook.tokens.batches import HeldOut

    chosen = [sets.sets[name]["heldout"] for name in settings.short_sets or names]
    pages = HeldOut(chosen, length, max(1, 4096 // length), settings.validate_tokens)
    if not pages.documents:
        raise UserError(
            f"extend: the sets {', '.join(settings.short_sets or names)} have no held-out documents, so nobody can say "
            "whether short evaluations have recovered; raise heldout of the pack stage, or name short_sets"
        )
    return pages


class Gate:
    """Measures a model while it is trained; `passed` says whether figures open the gate."""

    def __init__(
        self,
        settings: ExtendSettings,
        before: Before,
        pages: HeldOut,
        questions: Path,
        tokens: Path,
        parallel: Parallel | None = None,
        folder: Path | None = None,
    ) -> None:
        """`questions` is the folder of the needles' file; a missing one is told now, not after an hour.

        Where the model is in parts (`parallel`), `folder` is for a moment where it lies whole.
        """
        from herdbook.evaluate.tasks import find_task
        from herdbook.tokens.tokenizer import Tokenizer

        self.settings, self.before, self.pages = settings, before, pages
        self.parallel, self.folder = parallel, folder
        self.tokenizer = Tokenizer.load(tokens / "tokenizer")
        self.needles = find_task("needle").load(questions)

    def __call__(self, model: Any, final: bool) -> dict[str, float]:
        """`needle` (share found at the stage's length) and `short_bits_per_byte`."""
        from herdbook.pretrain.stages import bits_of

        return {
            "needle": self.needle(model),
            "short_bits_per_byte": bits_of(model, self.pages) / max(self.pages.bytes, 1),
        }

    def needle(self, model: Any) -> float:
        """The share of needles found in hay of the stage's whole length, over all depths.

        Answers are written by one process, token by token: a model in parts is put together for the first rank.
        """
        if self.parallel is None:
            return self.found(model)
        from herdbook.train.export import save_spread

        assert self.folder is not None
        save_spread(self.parallel.ranks, model, self.folder, bos_id=None, eos_ids=[])
        return float(self.parallel.same(partial(self._found_by_first, self.folder, self.parallel.ranks.device)))

    def _found_by_first(self, folder: Path, device: torch.device) -> float:
        from herdbook.model.huggingface import load_model

        try:
            return self.found(load_model(folder, device=device))
        finally:
            shutil.rmtree(folder)

    def found(self, model: Transformer) -> float:
        """`needle` of a whole model."""
        from herdbook.evaluate.scoring import Candidate, ask_needles
        from herdbook.evaluate.settings import EvaluateSettings
        from herdbook.evaluate.tasks import find_task
        from herdbook.inference.engine import Engine

        settings = self.settings
        asked = EvaluateSettings.model_validate(
            {
                "needle_lengths": (settings.length,),
                "needle_questions": settings.needle_questions,
                "needle_depths": settings.needle_depths,
            }
        )
        samples = ask_needles(Candidate(Engine(model, self.tokenizer), asked), find_task("needle"), self.needles, [])
        return sum(bool(sample["right"]) for sample in samples) / len(samples)

    @property
    def allowed(self) -> float:
        """The most bits per byte that count as recovered."""
        return self.before.bits_per_byte * (1 + self.settings.tolerance)

    def passed(self, figures: dict[str, float]) -> bool:
        """Whether both conditions hold."""
        return figures["needle"] >= 1.0 and figures["short_bits_per_byte"] <= self.allowed

    def failure(self, figures: dict[str, Any]) -> str:
        """Why the gate stayed shut until the limit, and what to do."""
        count = self.settings.needle_questions * len(self.settings.needle_depths)
        wrong = []
        if figures["needle"] < 1.0:
            wrong.append(
                f"{round(figures['needle'] * count)} of {count} needles found at {self.settings.length} tokens"
            )
        if figures["short_bits_per_byte"] > self.allowed:
            wrong.append(
                f"short evaluations at {figures['short_bits_per_byte']:.4f} bits per byte in rows of "
                f"{self.before.length}, where {self.allowed:.4f} would do (before: {self.before.bits_per_byte:.4f})"
            )
        return (
            f"the gate at {self.settings.length} tokens is shut after {figures['tokens']:,} tokens, the limit: "
            f"{'; '.join(wrong)}. Raise the limit, give more documents of this length, grow in smaller steps, or raise "
            "rope_theta"
        )
