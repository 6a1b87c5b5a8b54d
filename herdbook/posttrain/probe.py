"""The `probe` stage (§4.3.6): what a model does not know, it is taught to say it does not know.

Six steps: an excerpt of what it may have read, a question about it, the model's answers, whether each is right by the
excerpt, whether each is informative, and a refusal where they are consistently informative and wrong. With requests,
whose truth is known, a check takes the judge's place, and the thresholds themselves can be measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from herdbook.console import log
from herdbook.evaluate.answers import holds_text
from herdbook.evaluate.refusals import does_not_know, refuses
from herdbook.evaluate.verify import verify_all
from herdbook.inference.sampler import Sampling
from herdbook.posttrain import probe_questions, probing
from herdbook.posttrain.judging import Prompts, ask, read_verdict
from herdbook.posttrain.probe_questions import Question
from herdbook.posttrain.probe_settings import ProbeSettings
from herdbook.posttrain.probing import Probed
from herdbook.posttrain.rows import write_rows
from herdbook.posttrain.shown import Row
from herdbook.posttrain.writer import Answer, Kept, make_writer
from herdbook.settings import UserError
from herdbook.tokens.texts import draw


def probe(
    settings: ProbeSettings,
    model: Path,
    documents: list[Path],
    requests: Path | None,
    judge: Path | None,
    out: Path,
) -> dict[str, Any]:
    """Write `out`/dialogs/probed.jsonl and `out`/probes.jsonl, every question with its answers; returns figures.

    Raises UserError when the settings' questions have nothing to come from.
    """
    writer = make_writer(model, None, out)
    assert writer is not None
    by_model = settings.questions == "model"
    referee = make_writer(judge or model, settings.judge.endpoint, out, "judge") if by_model else None
    count: Counter[str] = Counter()
    questions = make_questions(settings, documents, requests, referee, count)
    sampling = Sampling(
        max_tokens=settings.max_tokens, temperature=settings.temperature, top_p=settings.top_p, seed=settings.seed
    )
    answers = writer.write([question.messages for question in questions], sampling, settings.answers)
    asked = [(question, some) for question, some in zip(questions, answers, strict=True) if some]
    if not asked:
        raise UserError(
            f"probe: none of {len(questions)} questions fits the model's context "
            f"with {settings.max_tokens} tokens of answer"
        )
    probed = judge_answers(settings, asked, referee, count)
    verdicts = [probing.verdict(one, settings.refuse_from, settings.known_from) for one in probed]
    if settings.refuse == "random":
        verdicts = at_random([question.id for question, _ in asked], verdicts, settings.seed)
    write_rows(out / "probes.jsonl", (_row(q, one, said) for (q, _), one, said in zip(asked, probed, verdicts)))
    rows = dialogs_of(settings, [question for question, _ in asked], probed, verdicts)
    write_rows(out / "dialogs" / "probed.jsonl", rows)
    found = dict(Counter(verdicts))
    log("probed", questions=len(asked), **found, dialogs=len(rows))
    return {
        "questions": len(asked),
        "too_long": len(questions) - len(asked),
        **{name: found.get(name, 0) for name in ("refuse", "known", "between")},
        "dialogs": len(rows),
        "judge": dict(count),
        **probing.figures(probed, settings.refuse_from, settings.known_from),
    }


def at_random(ids: Sequence[str], verdicts: Sequence[str], seed: int) -> list[str]:
    """As many questions to decline, chosen by a hash of their ids, whatever is known of them; of the others what is."""
    ordered = sorted(range(len(ids)), key=lambda place: (draw(ids[place], f"random-{seed}"), ids[place]))
    declined = set(ordered[: list(verdicts).count("refuse")])
    others = {"refuse": "between"}
    return ["refuse" if place in declined else others.get(one, one) for place, one in enumerate(verdicts)]


def make_questions(
    settings: ProbeSettings, documents: list[Path], requests: Path | None, judge: Kept | None, count: Counter[str]
) -> list[Question]:
    """Steps 1 and 2."""
    if settings.questions == "requests":
        if requests is None:
            raise UserError("probe: questions are to come from requests, and no stage feeds any")
        return probe_questions.from_requests(requests, settings)
    if not documents:
        raise UserError(f"probe: questions by {settings.questions} are made from documents, and no stage feeds any")
    if settings.questions == "templates":
        return probe_questions.by_templates(documents, settings)
    assert judge is not None
    found = probe_questions.by_judge(documents, settings, judge, count)
    if not found:
        raise UserError("probe: the judge made no question that could be read; a model that knows no chat cannot judge")
    return found


def judge_answers(
    settings: ProbeSettings, asked: Sequence[tuple[Question, list[Answer]]], judge: Kept | None, count: Counter[str]
) -> list[Probed]:
    """Steps 4 and 5, for all answers together; what a judge cannot say counts as neither right nor informative."""
    flat = [(question, answer.text.strip()) for question, some in asked for answer in some]
    informative = [bool(text) and not does_not_know(text) and not refuses(text) for _, text in flat]
    if settings.questions == "requests":
        verdicts = verify_all([question.request for question, _ in flat], [text for _, text in flat])
        right = [one.correct for one in verdicts]
    elif settings.questions == "templates":
        right = [holds_text(text, question.answer) if text else False for question, text in flat]
    else:
        assert judge is not None
        right, informative = _judged(settings, flat, judge, count)
    found, at = [], 0
    for question, some in asked:
        part = slice(at, at + len(some))
        at += len(some)
        told = tuple(one or good for one, good in zip(informative[part], right[part]))
        group = str(question.request.get("exposures", ""))
        found.append(Probed(tuple(answer.text.strip() for answer in some), tuple(right[part]), told, group))
    return found


def _judged(
    settings: ProbeSettings, flat: Sequence[tuple[Question, str]], judge: Kept, count: Counter[str]
) -> tuple[list[bool], list[bool]]:
    prompts, most = Prompts(settings.judge.prompts), settings.judge.max_tokens
    correct = [prompts.fill("probe_correct", excerpt=q.excerpt, question=q.words, answer=text) for q, text in flat]
    said = ask(judge, correct, read_verdict("right", "wrong", "unclear"), count, most)
    told = [prompts.fill("probe_informative", question=q.words, answer=text) for q, text in flat]
    heard = ask(judge, told, read_verdict("informative", "uninformative"), count, most)
    # An answer that is judged neither right nor wrong must not count as a wrong one.
    informative = [one == "informative" and what in ("right", "wrong") for one, what in zip(heard, said)]
    return [one == "right" for one in said], informative


def dialogs_of(
    settings: ProbeSettings, questions: Sequence[Question], probed: Sequence[Probed], verdicts: Sequence[str]
) -> list[Row]:
    """Step 6: refusals, and beside them what the model knows, in its own words."""
    rows = []
    known = [place for place, said in enumerate(verdicts) if said == "known"]
    if settings.known_per_refusal is not None:
        most = round(settings.known_per_refusal * verdicts.count("refuse"))
        known = sorted(sorted(known, key=lambda place: draw(questions[place].id, f"known-{settings.seed}"))[:most])
    for place, (question, one) in enumerate(zip(questions, probed, strict=True)):
        if verdicts[place] == "refuse":
            number = int(draw(question.id, f"refusal-{settings.seed}") * len(settings.refusals))
            answer = settings.refusals[number]
        elif place in set(known):
            good = [text for text, right in zip(one.answers, one.right) if right]
            answer = Counter(good).most_common(1)[0][0]
        else:
            continue
        messages = [*question.messages, {"role": "assistant", "content": answer}]
        task = "unknown" if verdicts[place] == "refuse" else "fact"
        more = {"request": question.id} if question.request else {}
        rows.append({"id": f"probe/{question.id}", "task": task, "source": "probe", "messages": messages, **more})
    return rows


def _row(question: Question, one: Probed, said: str) -> Row:
    more = {"exposures": question.request["exposures"]} if "exposures" in question.request else {}
    return {
        "id": question.id,
        "messages": question.messages,
        "excerpt": question.excerpt,
        "reference": question.answer,
        "answers": list(one.answers),
        "right": list(one.right),
        "informative": list(one.informative),
        "verdict": said,
        **more,
    }
