"""Log-likelihoods of given continuations: what multiple choice and perplexity are made of (§5).

Sequences are packed end to end as documents of one row, so no work is spent on padding; a sequence that is
the beginning of another (answers of one token after one prompt) is read off the longer one's pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from herdbook.model.documents import Documents
from herdbook.model.transformer import Transformer
from herdbook.settings import UserError

LOGITS = 1 << 25  # logits held at once, numbers


@dataclass(frozen=True)
class Score:
    """How likely a continuation is."""

    logprob: float
    """Natural log of its probability given the prompt, summed over its tokens."""

    tokens: int
    """Its length."""

    greedy: bool
    """Whether each of its tokens is the likeliest one in its place."""


def score(
    model: Transformer, prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]], row_tokens: int
) -> list[Score]:
    """The score of each continuation after its prompt; about `row_tokens` tokens are read at a time.

    Raises UserError for an empty prompt (nothing foretells the first token) or one too long for the model.
    """
    read = check_pairs(prompts, continuations, model.config.max_length)
    scores = [Score(0.0, 0, True)] * len(prompts)
    for row in _rows(_carriers(read), read, row_tokens):
        asked = [(start, index) for start, members in row for index in members if continuations[index]]
        tokens = [token for _, members in row for token in read[members[0]]]
        places = [start + len(prompts[i]) - 1 + k for start, i in asked for k in range(len(continuations[i]))]
        targets = [token for _, i in asked for token in continuations[i]]
        lengths = [len(read[members[0]]) for _, members in row]
        logprobs, greedy = _read(model, tokens, lengths, places, targets)
        at = 0
        for _, index in asked:
            end = at + len(continuations[index])
            scores[index] = Score(sum(logprobs[at:end]), end - at, all(greedy[at:end]))
            at = end
    return scores


def check_pairs(
    prompts: Sequence[Sequence[int]], continuations: Sequence[Sequence[int]], limit: int
) -> list[tuple[int, ...]]:
    """What is read to score each continuation: all but its last token; UserError as `score`."""
    if len(prompts) != len(continuations):
        raise ValueError(f"{len(prompts)} prompts but {len(continuations)} continuations")
    read: list[tuple[int, ...]] = []
    for number, (prompt, continuation) in enumerate(zip(prompts, continuations, strict=True)):
        if not prompt:
            raise UserError(f"prompt {number} is empty; begin it with the begin-of-text token")
        read.append((*prompt, *continuation[:-1]))
        if len(read[-1]) > limit:
            raise UserError(
                f"prompt {number} with its continuation has {len(read[-1])} tokens, the model reads {limit}"
            )
    return read


def _carriers(read: list[tuple[int, ...]]) -> list[list[int]]:
    """Groups of requests that one pass serves; the first of a group is the longest, the others its beginnings."""
    order = sorted(range(len(read)), key=lambda index: read[index], reverse=True)
    groups: list[list[int]] = []
    for index in order:  # in this order a sequence comes right after those that begin with it
        if groups and read[groups[-1][0]][: len(read[index])] == read[index]:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def _rows(
    groups: list[list[int]], read: list[tuple[int, ...]], row_tokens: int
) -> Iterator[list[tuple[int, list[int]]]]:
    """Packed rows of about `row_tokens` tokens: each group with the place where its sequence starts."""
    row: list[tuple[int, list[int]]] = []
    used = 0
    for group in groups:
        length = len(read[group[0]])
        if row and used + length > row_tokens:
            yield row
            row, used = [], 0
        row.append((used, group))
        used += length
    if row:
        yield row


@torch.inference_mode()
def _read(
    model: Transformer, tokens: list[int], lengths: list[int], places: list[int], targets: list[int]
) -> tuple[list[float], list[bool]]:
    """For each place in a packed row: the log-probability of its target, and whether that is the likeliest."""
    device = model.embedding.weight.device
    row = torch.tensor([tokens], device=device)
    hidden = model.hidden(row, Documents.from_lengths(lengths, device))[0]
    logprobs: list[float] = []
    greedy: list[bool] = []
    step = max(1, LOGITS // model.config.vocab_size)
    for at in range(0, len(places), step):
        wanted = torch.tensor(targets[at : at + step], device=device)
        logits: Tensor = model.head(hidden[torch.tensor(places[at : at + step], device=device)]).float()
        chosen = logits.gather(1, wanted[:, None])[:, 0] - logits.logsumexp(-1)
        logprobs += chosen.tolist()
        greedy += (logits.argmax(-1) == wanted).tolist()
    return logprobs, greedy
