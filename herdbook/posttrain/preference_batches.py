"""Prompts and their ranked answers as packed rows: batches are a pure function of (seed, step).

A prompt is read once for all its answers: it is a trunk, and the answers branch from it (`model.documents`). The
prompt's last token foretells each answer's first, so each branch begins with a copy of it. Answers lie in an order
drawn by the seed, so that no place in the row says which is the better one.
Letters: B rows, T tokens, A answers of a row at most.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from herdbook.posttrain.preferences import Preference
from herdbook.settings import UserError
from herdbook.tokens.dialog import encode_dialog
from herdbook.tokens.rows import WholeRows, shuffled
from herdbook.tokens.tokenizer import Tokenizer

IGNORED = -100
FORMAT, CONTENT = 1, 2
"""Kinds of targets: ends of messages, and what the assistant says; 0 for what is not its to say.

Headers are not: whoever asks gives them, so fine-tuning never teaches them, and their cost would drown the answer's.
"""

NO_RANK = float("nan")
"""The rank of an answer that is compared with none."""


@dataclass(frozen=True)
class Answer:
    """One answer as ids."""

    ids: np.ndarray  # (n,) uint32: a copy of the prompt's last token, then header, content and end of each message
    kinds: np.ndarray  # (n - 1,) uint8: the kind of each id but the first
    rank: float
    """The higher the better."""


@dataclass(frozen=True)
class Example:
    """A prompt and its answers as ids."""

    trunk: np.ndarray  # (m,) uint32: the prompt without its last token
    answers: tuple[Answer, ...]
    source: Preference | None = None

    @property
    def size(self) -> int:
        """Tokens of the row that it takes."""
        return len(self.trunk) + sum(len(answer.ids) for answer in self.answers)

    @property
    def longest(self) -> int:
        """Tokens of the prompt with its longest answer."""
        return len(self.trunk) + max(len(answer.ids) for answer in self.answers)


def encode_example(
    tokenizer: Tokenizer,
    prompt: Sequence[dict[str, Any]],
    answers: Sequence[Sequence[dict[str, Any]]],
    ranks: Sequence[float],
    source: Preference | None = None,
    tools: Sequence[dict[str, Any]] | None = None,
) -> Example:
    """A prompt's messages and those of its answers as ids; UserError for messages that are none."""
    asked = encode_dialog(tokenizer, prompt, tools=tools).ids
    ends = {tokenizer.special_tokens[name] for name in ("<|eot_id|>", "<|eom_id|>") if name in tokenizer.special_tokens}
    made = []
    for answer, rank in zip(answers, ranks, strict=True):
        whole = encode_dialog(tokenizer, [*prompt, *answer], tools=tools)
        assert whole.ids[: len(asked)] == asked, "a prompt's ids do not depend on what follows"
        kinds = np.where(whole.answer, CONTENT, 0).astype(np.uint8)
        ids = np.array(whole.ids, np.uint32)
        kinds[(kinds == CONTENT) & np.isin(ids, list(ends))] = FORMAT
        made.append(Answer(ids[len(asked) - 1 :], kinds[len(asked) :], rank))
    return Example(np.array(asked[:-1], np.uint32), tuple(made), source)


def encode_all(
    tokenizer: Tokenizer, preferences: Iterable[Preference], length: int, dropped: Counter[str] | None = None
) -> list[Example]:
    """Preferences as examples; those longer than a row of `length` tokens are left out and counted as `too_long`."""
    dropped = Counter() if dropped is None else dropped
    examples = []
    for one in preferences:
        try:
            example = encode_example(tokenizer, one.prompt, one.answers, one.ranks, one, one.tools)
        except UserError as error:
            raise UserError(f"{one.where}: {error}") from None
        if example.size > length:
            dropped["too_long"] += 1
        else:
            examples.append(example)
    return examples


def with_mismatched(examples: list[Example], seed: int) -> list[Example]:
    """Each example with one more answer, an answer to another prompt, compared with none: what KTO's baseline needs."""
    if len(examples) < 2:
        raise UserError("kto needs answers to at least two prompts: its baseline is of answers to other prompts")
    order = shuffled(len(examples), seed, "mismatched")
    made = list(examples)
    for one, other in zip(order, np.roll(order, 1)):
        example, answer = examples[one], examples[other].answers[0]
        ids = np.concatenate([example.answers[0].ids[:1], answer.ids[1:]])
        made[one] = dataclasses.replace(example, answers=(*example.answers, Answer(ids, answer.kinds, NO_RANK)))
    return made


@dataclass
class AnswerBatch:
    """Packed rows of prompts and their answers; where a row has fewer than A answers, groups are -1."""

    tokens: Tensor  # (B, T) int64; 0 where there is padding
    targets: Tensor  # (B, T) int64 what follows within the answer, IGNORED where nothing does
    kinds: Tensor  # (B, T) uint8 of the targets
    last: Tensor  # (B, T) bool: the last token of an answer
    document_ids: Tensor  # (B, T) int32 as `model.documents` has them: prompts from 0, answers below 0
    filled: Tensor  # (B,) int64 tokens that are no padding
    groups: Tensor  # (B, A) int64 which prompt of the row an answer belongs to
    ranks: Tensor  # (B, A) float32; NaN for an answer that is compared with none
    lengths: Tensor  # (B, A, 2) float32 its tokens of format and of content
    numbers: Tensor  # (B, A) int64 which answer of all it is
    reference: Tensor | None = None  # (B, A, 2) float32 log-probability of its format and content under the reference

    def __len__(self) -> int:
        return len(self.tokens)

    def _with(self, change: Any) -> AnswerBatch:
        parts = {one.name: getattr(self, one.name) for one in dataclasses.fields(self)}
        return dataclasses.replace(self, **{name: change(part) for name, part in parts.items() if part is not None})

    def rows(self, start: int, stop: int | None = None) -> AnswerBatch:
        """Rows `start` to `stop`, not copied."""
        return self._with(lambda part: part[start:stop])

    def to(self, device: torch.device | str) -> AnswerBatch:
        """The batch on another device."""
        return self._with(lambda part: part.to(device, non_blocking=part.is_pinned()))

    def pin_memory(self) -> AnswerBatch:
        """The batch in memory that an accelerator copies from by itself."""
        return self._with(lambda part: part.pin_memory())


@dataclass
class AnswerBatches:
    """The batches of a run over examples; see `AnswerBatch`. Passes over the data follow each other, each shuffled."""

    examples: list[Example]
    length: int
    """Tokens of a row."""

    per_batch: int
    """Rows of a batch."""

    seed: int = 0
    reference: np.ndarray | None = None  # (answers, 2) float32, see `AnswerBatch.reference`
    table: WholeRows = field(init=False)

    def __post_init__(self) -> None:
        sizes = np.array([example.size for example in self.examples], np.int64)
        self.offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
        self.table = WholeRows(self.offsets, self.length, self.seed, "answers")
        counts = [len(example.answers) for example in self.examples]
        self.first = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])  # of each example's answers
        if not self.table.count:
            raise UserError(f"there is no preference of at most length={self.length} tokens to train on")

    @property
    def answers(self) -> int:
        """How many answers there are in all."""
        return int(self.first[-1])

    def example_of(self, answer: int) -> int:
        """Which example an answer belongs to, by the number it has among all answers."""
        return int(np.searchsorted(self.first, answer, "right")) - 1

    def size(self, step: int) -> int:
        """Rows of a step's batch."""
        return self.per_batch

    def row(self, number: int) -> list[int]:
        """The examples that lie in the row of that number, counted over all passes."""
        epoch, place = divmod(number, self.table.count)
        return [int(np.searchsorted(self.offsets, span.start, "right")) - 1 for span in self.table.row(epoch, place)]

    def batch(self, step: int, start: int = 0, stop: int | None = None) -> AnswerBatch:
        """The batch of a step, or only its rows `start` to `stop`."""
        numbers = range(step * self.per_batch, (step + 1) * self.per_batch)[start:stop]
        return self.assemble([self.row(number) for number in numbers], numbers.start)

    def all(self) -> Iterator[AnswerBatch]:
        """Every example once, in batches of as many rows; the last batch is filled up with empty rows."""
        for start in range(0, self.table.count, self.per_batch):
            rows = [self.row(number) for number in range(start, min(start + self.per_batch, self.table.count))]
            yield self.assemble(rows + [[]] * (self.per_batch - len(rows)), 0)

    def assemble(self, rows: list[list[int]], first: int) -> AnswerBatch:
        """Rows of examples as tensors; `first`, the number of the first row, decides the order of answers."""
        most = max([1, *(sum(len(self.examples[one].answers) for one in row) for row in rows)])
        shape, slots = (len(rows), self.length), (len(rows), most)
        found: dict[str, np.ndarray] = {
            "tokens": np.zeros(shape, np.int64),
            "targets": np.full(shape, IGNORED, np.int64),
            "kinds": np.zeros(shape, np.uint8),
            "last": np.zeros(shape, np.bool_),
            "document_ids": np.zeros(shape, np.int32),
            "filled": np.zeros(len(rows), np.int64),
            "groups": np.full(slots, -1, np.int64),
            "ranks": np.full(slots, NO_RANK, np.float32),
            "lengths": np.zeros((*slots, 2), np.float32),
            "numbers": np.zeros(slots, np.int64),
        }
        for place, row in enumerate(rows):
            self._fill({name: part[place : place + 1] for name, part in found.items()}, row, first + place)
        if self.reference is not None:
            found["reference"] = self.reference[found["numbers"]] * (found["groups"] >= 0)[:, :, None]
        return AnswerBatch(**{name: torch.from_numpy(part) for name, part in found.items()})

    def _fill(self, into: dict[str, np.ndarray], examples: list[int], number: int) -> None:
        """Lay examples side by side into one row, which has that number."""
        at = slot = 0
        for group, index in enumerate(examples):
            example = self.examples[index]
            end = at + len(example.trunk)
            into["tokens"][0, at:end], into["document_ids"][0, at:end] = example.trunk, group
            at = end
            for which in shuffled(len(example.answers), self.seed, number, index, "answers"):
                answer = example.answers[which]
                end, kinds = at + len(answer.ids), answer.kinds
                into["tokens"][0, at:end], into["document_ids"][0, at:end] = answer.ids, -1 - slot
                into["targets"][0, at : end - 1] = np.where(kinds > 0, answer.ids[1:].astype(np.int64), IGNORED)
                into["kinds"][0, at : end - 1], into["last"][0, end - 1] = kinds, True
                into["groups"][0, slot], into["ranks"][0, slot] = group, answer.rank
                into["lengths"][0, slot] = [(kinds == FORMAT).sum(), (kinds == CONTENT).sum()]
                into["numbers"][0, slot] = self.first[index] + which
                at, slot = end, slot + 1
        into["document_ids"][0, at:], into["filled"][0] = len(examples), at


def better(batch: AnswerBatch) -> tuple[Tensor, Tensor, Tensor]:
    """(P,) row, better answer and worse answer of each pair of answers to one prompt that differ in rank."""
    same = (batch.groups.unsqueeze(2) == batch.groups.unsqueeze(1)) & (batch.groups >= 0).unsqueeze(2)
    above = batch.ranks.unsqueeze(2) > batch.ranks.unsqueeze(1)
    row, winner, loser = (same & above).nonzero().unbind(1)
    return row, winner, loser
