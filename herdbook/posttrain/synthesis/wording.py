"""Requests in other languages (§4.3.2) and under system messages (§4.3.7), kept where the answer is still right."""

from __future__ import annotations

from typing import Any

from herdbook.corpus.language import identify
from herdbook.evaluate.constraints import followed
from herdbook.evaluate.verify import verify_all
from herdbook.posttrain.judging import read_verdict
from herdbook.posttrain.shown import Row
from herdbook.posttrain.synthesis.desk import Desk, assistant, need, user
from herdbook.posttrain.synthesis.text_settings import LanguagesSettings, SteerSettings


def translate(settings: LanguagesSettings, desk: Desk) -> tuple[list[Row], dict[str, Any]]:
    """Dialogs of requests and ideal answers in another language; the language is identified, the end is checked."""
    rows = [row for row in desk.requests_of(settings.tasks, settings) if row.get("reference") and row.get("check")]
    need(rows, f"languages finds no requests of the tasks {settings.tasks} with a reference and a check")
    codes = [desk.pick(list(settings.languages), str(row["id"])) for row in rows]
    asked = [
        [user(desk.prompts.fill("translate_text", language=settings.languages[code], text=str(text)))]
        for row, code in zip(rows, codes)
        for text in (row["messages"][-1]["content"], row["reference"])
    ]
    said = [some[0].text.strip() if some and some[0].ended else "" for some in desk.write(asked, settings)]
    pairs = list(zip(said[::2], said[1::2]))
    whole = [place for place, (question, answer) in enumerate(pairs) if question and answer]
    spoken = [place for place in whole if identify(" ".join(pairs[place]))[0] == codes[place]]
    verdicts = verify_all([rows[place] for place in spoken], [pairs[place][1] for place in spoken])
    kept = [place for place, verdict in zip(spoken, verdicts) if verdict.correct]
    dialogs = [
        {
            "id": f"{rows[place]['id']}/{codes[place]}",
            "task": rows[place]["task"],
            "language": codes[place],
            "messages": [*rows[place]["messages"][:-1], user(pairs[place][0]), assistant(pairs[place][1])],
        }
        for place in kept
    ]
    return dialogs, {"asked": len(rows), "translated": len(whole), "in_language": len(spoken), "right": len(kept)}


def steer(settings: SteerSettings, desk: Desk) -> tuple[list[Row], dict[str, Any]]:
    """Dialogs with a system message that the answer keeps to; what no constraint can tell, the judge does."""
    rows = need(desk.requests_of(settings.tasks, settings), f"steer finds no requests of the tasks {settings.tasks}")
    rows = [row for row in rows if row["messages"][0]["role"] != "system"]
    wishes = [desk.pick(settings.wishes, str(row["id"])) for row in rows]
    dialogs = [[{"role": "system", "content": wish.system}, *row["messages"]] for row, wish in zip(rows, wishes)]
    answers = desk.write(dialogs, settings, settings.tries)
    flat = [(place, one.text.strip()) for place, some in enumerate(answers) for one in some if one.ended and one.text]
    verdicts = verify_all([rows[place] for place, _ in flat], [text for _, text in flat])
    right = [one for one, verdict in zip(flat, verdicts) if verdict.correct]
    keeps = [
        (place, text) for place, text in right if (check := wishes[place].check) is not None and followed(text, check)
    ]
    asked = [(place, text) for place, text in right if wishes[place].check is None]
    prompts = [
        desk.prompts.fill(
            "steer_judge", system=wishes[place].system, request=str(rows[place]["messages"][-1]["content"]), answer=text
        )
        for place, text in asked
    ]
    said = desk.ask(prompts, read_verdict("kept", "broken"))
    keeps += [one for one, verdict in zip(asked, said) if verdict == "kept"]
    first: dict[int, str] = {}
    for place, text in keeps:
        first.setdefault(place, text)
    made = [
        {"id": rows[place]["id"], "task": rows[place]["task"], "messages": [*dialogs[place], assistant(text)]}
        for place, text in sorted(first.items())
    ]
    return made, {"asked": len(rows), "answers": len(flat), "right": len(right), "kept_to": len(keeps)}
