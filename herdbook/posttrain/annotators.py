"""Who says which of two answers is better, and how much (§4.1.1): a simulated annotator, a chat model, people.

An annotator gets pairs and returns one judgement each: the better one, one of four strengths, and perhaps an edited
answer that is better than both; None where no judgement came of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from statistics import NormalDist
from threading import Lock
from typing import TYPE_CHECKING, Any

from herdbook.posttrain.asking import Request, chance, verdicts
from herdbook.posttrain.round_settings import TasteSettings
from herdbook.settings import UserError

if TYPE_CHECKING:
    from herdbook.corpus.quality.settings import EndpointSettings

STRENGTHS = ("significantly better", "better", "slightly better", "marginally better")


@dataclass(frozen=True)
class Pair:
    """Two answers to one request."""

    request: Request
    answers: tuple[str, str]
    models: tuple[str, str] = ("", "")
    number: int = 0
    """Which pair of its request it is."""

    @property
    def id(self) -> str:
        """The request's id; of its further pairs with their number."""
        return f"{self.request['id']}#{self.number + 1}" if self.number else str(self.request["id"])


@dataclass(frozen=True)
class Judgement:
    """What an annotator thinks of a pair."""

    chosen: int
    """The better answer, 0 or 1."""

    strength: str
    """One of `STRENGTHS`."""

    edited: str | None = None
    """An answer that is better than both."""


class Simulated:
    """The world's annotator: truth by `verify`, a taste, and errors drawn from the seed and the pair's id."""

    def __init__(self, settings: TasteSettings, seed: object) -> None:
        self.settings, self.seed = settings, seed

    def annotate(
        self, pairs: Sequence[Pair], true: Sequence[Sequence[float | None]] | None = None
    ) -> list[Judgement | None]:
        """One judgement per pair; None where the request carries no check, so that there is no truth.

        `true` are the verdicts on each pair's answers, where they are known.
        """
        if true is None:
            true = verdicts([pair.request for pair in pairs], [pair.answers for pair in pairs])
        return [self._judge(pair, worths) for pair, worths in zip(pairs, true, strict=True)]

    def _judge(self, pair: Pair, true: Sequence[float | None]) -> Judgement | None:
        first, second = true
        if first is None or second is None:
            return None
        slipped = chance("slip", self.seed, pair.id) < self.settings.slips
        seen = (second, first) if slipped else (first, second)
        worths = [self.worth(pair, place, value) for place, value in enumerate(seen)]
        chosen = int(worths[1] > worths[0])
        reference = pair.request.get("reference")
        edits = max(first, second) < 1.0 and isinstance(reference, str) and reference not in pair.answers
        edited = reference if edits and chance("edit", self.seed, pair.id) < self.settings.edits else None
        return Judgement(chosen, self.strength(abs(worths[0] - worths[1])), edited)

    def worth(self, pair: Pair, place: int, true: float) -> float:
        """What this annotator thinks an answer is worth: its truth, with taste and error."""
        taste, answer = self.settings, pair.answers[place]
        length = taste.length * math.log2(1 + len(answer))
        form = taste.form * well_formed(answer)
        drawn = chance("noise", self.seed, pair.id, place)
        return true + length + form + taste.noise * NormalDist().inv_cdf(min(max(drawn, 1e-12), 1 - 1e-12))

    def strength(self, difference: float) -> str:
        """How much better, in words."""
        return next(
            (name for name, least in zip(STRENGTHS, self.settings.strengths) if difference >= least), STRENGTHS[3]
        )


def well_formed(answer: str) -> bool:
    """Whether an answer ends as a sentence, a number or code does, and says no line of it twice."""
    lines = [line for line in answer.splitlines() if line.strip()]
    return bool(re.search(r"[\w.!?)\]}`\"']\s*$", answer)) and len(set(lines)) == len(lines)


JUDGE_PROMPT = """\
You compare two answers that assistants gave to the same request. Judge by whether an answer is correct, does what is
asked, and says no more than it should. The order in which they stand means nothing.

<request>
{request}
</request>

<answer_a>
{first}
</answer_a>

<answer_b>
{second}
</answer_b>

Say in one or two sentences what decides. Then end with one line of this form, and nothing behind it:
Verdict: A significantly better
In place of A write A or B; in place of "significantly better" write one of: significantly better, better,
slightly better, marginally better."""
REMINDER = 'Answer again, with nothing but the line "Verdict: A better" or the like.'
_VERDICT = re.compile(rf"^\W*verdict:?\W*([AB])\W+(?:is\s+)?({'|'.join(STRENGTHS)})\W*$", re.IGNORECASE | re.MULTILINE)


@dataclass
class Judge:
    """A chat model behind an OpenAI-compatible address; the order of the two answers is drawn for each pair."""

    settings: EndpointSettings
    seed: int = 0
    bill: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(
            ("asked", "nonsense", "failed", "retries", "tokens_in", "tokens_out", "cost"), 0
        )
    )

    def __post_init__(self) -> None:
        from herdbook.corpus.quality.client import Client

        self.client = Client(self.settings)
        self.lock = Lock()

    def close(self) -> None:
        """Close the connections."""
        self.client.close()

    def annotate(self, pairs: Sequence[Pair]) -> list[Judgement | None]:
        """One judgement per pair; None where its replies were nonsense, its address failed, or the budget is spent.

        UserError when the address refuses us, or fails for `give_up` pairs and for all of them.
        """
        from herdbook.corpus.quality.client import Failed

        if self.settings.budget is not None and self.bill["cost"] >= self.settings.budget:
            return [None] * len(pairs)
        with ThreadPoolExecutor(self.settings.parallel) as pool:
            replies = list(pool.map(self._ask, pairs))
        failed = [reply for reply in replies if isinstance(reply, Failed)]
        self.bill["asked"] += len(pairs)
        self.bill["failed"] += len(failed)
        prices = self.settings.price_in, self.settings.price_out
        self.bill["cost"] = (self.bill["tokens_in"] * prices[0] + self.bill["tokens_out"] * prices[1]) / 1e6
        fatal = next((item for item in failed if item.fatal), None)
        if fatal or (len(failed) == len(pairs) and len(failed) >= min(self.settings.give_up, len(pairs)) > 0):
            what = "check base_url, model and api_key_env" if fatal else "see whether it runs"
            raise UserError(
                f"the judge at {self.client.url} fails: {fatal or failed[0]}; {what}, then run the same command "
                "again: what was judged is kept"
            )
        return [None if isinstance(reply, Failed) else reply for reply in replies]

    def _ask(self, pair: Pair) -> Any:
        from herdbook.corpus.quality.client import Failed, content, tokens

        turned = chance("order", self.seed, pair.id) < 0.5
        first, second = reversed(pair.answers) if turned else pair.answers
        request = "\n".join(f"{item['role']}: {item.get('content') or ''}" for item in pair.request["messages"])
        messages = [
            {"role": "user", "content": JUDGE_PROMPT.format(request=request, first=first, second=second)},
        ]
        for _ in range(self.settings.nonsense_tries):
            asked = {"messages": messages, "temperature": 0, "max_tokens": self.settings.max_tokens}
            try:
                body = self.client.post(asked, self._count_retry)
            except Failed as failed:
                return failed
            self._count(tokens_in=tokens(body, "prompt_tokens"), tokens_out=tokens(body, "completion_tokens"))
            answer = content(body)
            judged = read_verdict(answer)
            if judged is not None:
                return Judgement(1 - judged.chosen, judged.strength) if turned else judged
            messages = [messages[0], {"role": "assistant", "content": answer[:2000]}]
            messages.append({"role": "user", "content": REMINDER})
        self._count(nonsense=1)
        return None

    def _count_retry(self) -> None:
        self._count(retries=1)

    def _count(self, **amounts: float) -> None:
        """Add to the bill; pairs are asked about in many threads."""
        with self.lock:
            for name, amount in amounts.items():
                self.bill[name] += amount


def read_verdict(answer: str) -> Judgement | None:
    """The judgement in a judge's answer; None unless exactly one line gives one."""
    found = {(match[1].upper(), match[2].lower()) for match in _VERDICT.finditer(answer)}
    if len(found) != 1:
        return None
    letter, strength = found.pop()
    return Judgement("AB".index(letter), strength)
