"""Tools, long contexts, languages, system messages: real tools, checks and language model; the writer is scripted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from herdbook.posttrain.dialogs import read_dialogs
from herdbook.posttrain.rows import write_rows
from herdbook.posttrain.synthesis.long_context import contexts, pieces_of
from herdbook.posttrain.synthesis.repository import dependents
from herdbook.posttrain.synthesis.settings import SynthesizeSettings
from herdbook.posttrain.synthesis.stage import synthesize
from herdbook.posttrain.synthesis.text_settings import WISHES, LongSettings
from herdbook.posttrain.synthesis.tools import TOOLS
from herdbook.settings import UserError
from tests.corpus.fake_endpoint import Answer
from tests.posttrain.scripted import scripted

PAGES = {"a": "The mill of Tabton was built in 1804. It grinds.", "b": "The mill of Sulmere was built in 1811."}


def documents(folder: Path, texts: dict[str, str]) -> Path:
    (folder / "documents").mkdir(parents=True)
    table = pa.table({"id": list(texts), "text": list(texts.values())})
    pq.write_table(table, folder / "documents" / "0.parquet")
    return folder


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def errand(id: str, words: str, value: str, shape: str) -> dict[str, Any]:
    final = {"kind": "number", "value": value}
    row = {"id": id, "task": "tool", "messages": [{"role": "user", "content": words}], "tools": TOOLS}
    return {**row, "final": final, "shape": shape, "step": 1, "check": final, "split": "train"}


def call(name: str, **arguments: str) -> str:
    return json.dumps({"name": name, "parameters": arguments})


def clerk(messages: list[dict[str, Any]], seed: int) -> Answer:
    """Looks up both mills at once, then takes years apart; at odd seeds it guesses without looking."""
    words = next(message["content"] for message in messages if message["role"] == "user")
    given = [message["content"] for message in messages if message["role"] == "ipython"]
    if "hopeless" in words:
        return call("python", code="print(1/0)")
    if seed % 2:
        return "It is 7."
    if not given:
        return "; ".join(call("search", query=f"mill {town}") for town in ("Tabton", "Sulmere"))
    years = re.findall(r"1[0-9]{3}", given[0])
    if len(given) == 1:
        return call("calculator", expression=f"{years[1]} - {years[0]}")
    return f"It is {given[1]}."


def test_calls_are_carried_out_and_what_comes_to_the_right_answer_is_kept(tmp_path: Path) -> None:
    rows = [errand("mills", "How many years lie between the mills of Tabton and Sulmere?", "7", "nested")]
    rows += [errand("no", "A hopeless errand.", "7", "single"), {**rows[0], "id": "later", "step": 2}]
    write_rows(tmp_path / "requests" / "train.jsonl", rows)
    pages = documents(tmp_path / "pages", PAGES)
    with scripted(clerk, tmp_path) as (_, endpoint):
        settings = SynthesizeSettings(judge={"endpoint": endpoint}, tools={"tries": 2, "turns": 3})
        figures = synthesize(settings, None, [pages], tmp_path / "requests", None, tmp_path / "out")["tools"]
    # Of four ways one is right by its calls; the guess has the right number, and is no errand carried out.
    assert (figures["errands"], figures["right"], figures["solved"]) == (2, 0.25, 0.5)
    assert figures["unanswered"] == 0
    assert figures["solved_of"] == {"nested": 1.0, "single": 0.0} and figures["failed_calls"] == 6
    dialog = next(read_dialogs(tmp_path / "out"))
    assert [message["role"] for message in dialog.messages] == [
        "user", "assistant", "ipython", "assistant", "ipython", "assistant",
    ]  # fmt: skip
    assert (
        dialog.messages[2]["content"] == "The mill of Tabton was built in 1804.\nThe mill of Sulmere was built in 1811."
    )
    assert dialog.messages[5]["content"] == "It is 7." and dialog.columns["calls"] == 3 and dialog.tools == TOOLS


def test_errands_are_made_of_documents(tmp_path: Path) -> None:
    def writer(messages: list[dict[str, Any]], seed: int) -> Answer:
        asked = messages[0]["content"]
        if "You make one question" in asked:
            return "Question: How old was the mill of Tabton in 1900?\nAnswer: 96" if "Tabton" in asked else "No."
        given = [message["content"] for message in messages if message["role"] == "ipython"]
        steps = [call("search", query="mill of Tabton"), call("calculator", expression="1900 - 1804"), "It was 96."]
        assert given != ["x"] and (not given or "1804" in given[0])
        return steps[len(given)]

    pages = documents(tmp_path / "pages", PAGES)
    with scripted(writer, tmp_path) as (_, endpoint):
        settings = SynthesizeSettings(judge={"endpoint": endpoint}, tools={"tries": 1})
        figures = synthesize(settings, None, [pages], None, None, tmp_path / "out")["tools"]
    assert (figures["no_question"], figures["solved"], figures["dialogs"]) == (1, 1.0, 1)


def test_contexts_have_their_lengths_and_no_text_is_read_twice() -> None:
    texts = [f"Document {number}. " + "x" * 70 + f" end {number}." for number in range(40)]
    settings = LongSettings(characters=(200, 500))
    found = contexts(texts, settings)
    assert [len(one) for one in found] == [200, 500] * (len(found) // 2) + [200] * (len(found) % 2) and len(found) > 8
    marks = re.findall(r"Document (\d+)\.", "".join(found))
    assert len(marks) == len(set(marks))
    text = "".join(f"line {number}\n" for number in range(100))
    pieces = pieces_of(text, 64)
    assert "".join(pieces) == text and max(map(len, pieces)) <= 64 and all(piece.endswith("\n") for piece in pieces)


def test_questions_come_from_a_piece_and_summaries_from_all_pieces(tmp_path: Path) -> None:
    texts = {f"d{n}": f"The keeper of goat {n} is Keeper{n}.\n" + "It rains.\n" * 30 for n in range(60)}

    def writer(messages: list[dict[str, Any]], seed: int) -> Answer:
        asked = messages[-1]["content"]
        goats = re.findall(r"goat (\d+) is Keeper", asked)
        if "You make one question" in asked:
            return f"Question: Who keeps goat {goats[0]}?\nAnswer: Keeper{goats[0]}" if goats else "Rain."
        if "Answer the question from the text" in asked:
            goat = re.search(r"Who keeps goat (\d+)", asked)[1]  # type: ignore[index]
            return f"It is Keeper{goat}." if int(goat) % 2 else "Somebody does."
        return f"goat {' goat '.join(re.findall(r'goat ([0-9]+)', asked))}."

    pages = documents(tmp_path / "pages", texts)
    with scripted(writer, tmp_path) as (_, endpoint):
        long = {"characters": (3000,), "piece": 1000, "summaries": 0.5}
        settings = SynthesizeSettings(judge={"endpoint": endpoint}, long=long)
        figures = synthesize(settings, None, [pages], None, None, tmp_path / "out")["long"]
    rows = rows_of(tmp_path / "out" / "dialogs" / "long.jsonl")
    assert figures["contexts"] == 6 and figures["questions"] + figures["summaries"] == len(rows) > 1
    assert figures["summaries"] > 0 and figures["characters"] == 18_000
    for row in rows:
        context, said = row["messages"][0]["content"], row["messages"][1]["content"]
        if context.endswith("Summarise the text above."):
            assert re.findall(r"goat (\d+)", said) == re.findall(r"goat (\d+) is", context)
        else:
            goat = re.search(r"Who keeps goat (\d+)\?$", context)[1]  # type: ignore[index]
            assert f"goat {goat} is" in context and said == f"It is Keeper{goat}." and int(goat) % 2


def problem(number: int) -> dict[str, Any]:
    check = {"kind": "number", "value": str(number + 4)}
    words = f"Anna has {number} apples and buys four more. How many apples does she have now?"
    row = {"id": f"p{number}", "task": "problem", "messages": [{"role": "user", "content": words}], "split": "train"}
    return {**row, "check": check, "reference": f"{number} + 4 = {number + 4}. #### {number + 4}"}


def test_translations_are_in_their_language_and_end_right(tmp_path: Path) -> None:
    write_rows(tmp_path / "requests" / "train.jsonl", [problem(number) for number in range(10, 19)])

    def writer(messages: list[dict[str, Any]], seed: int) -> Answer:
        asked = messages[0]["content"]
        number = int(re.search(r"(?:has |^)(\d+)", asked, re.MULTILINE)[1])  # type: ignore[index]
        if "Anna has" in asked and number % 3 == 0:
            return f"Anna has {number} apples and buys four more, and this is still English, is it not?"
        if "Anna has" in asked:
            return f"Anna hat {number} Äpfel und kauft noch vier dazu. Wie viele Äpfel hat sie jetzt?"
        if number % 3 == 0:
            return f"She has {number} apples and buys four of them. #### {number + 4}"
        return f"Sie hat am Anfang {number} Äpfel. #### {number + (4 if number % 3 == 1 else 5)}"

    with scripted(writer, tmp_path) as (_, endpoint):
        languages = {"languages": {"de": "German"}}
        settings = SynthesizeSettings(judge={"endpoint": endpoint}, languages=languages)
        figures = synthesize(settings, None, [], tmp_path / "requests", None, tmp_path / "out")["languages"]
    assert figures == {"asked": 9, "translated": 9, "in_language": 6, "right": 3, "dialogs": 3}
    rows = rows_of(tmp_path / "out" / "dialogs" / "languages.jsonl")
    assert {row["id"] for row in rows} == {f"languages/p{number}/de" for number in (10, 13, 16)}
    assert all(row["language"] == "de" for row in rows)


def test_answers_keep_to_their_system_message_and_are_right(tmp_path: Path) -> None:
    write_rows(tmp_path / "requests" / "train.jsonl", [problem(number) for number in range(10, 40)])
    wishes = [WISHES[1].model_dump(), {"system": "Talk like a captain."}]

    def writer(messages: list[dict[str, Any]], seed: int) -> Answer:
        if "You judge" in messages[0]["content"]:
            return f"Verdict: {'kept' if 'Ahoy' in messages[0]['content'] else 'broken'}"
        number = int(re.search(r"has (\d+)", messages[-1]["content"])[1])  # type: ignore[index]
        said = f"It is {number + (4 if number % 3 else 5)}."  # every third is wrong
        captain = "captain" in messages[0]["content"]
        if seed % 4 < 2:  # at first it does not listen
            return said
        return f"Ahoy! {said}" if captain else said.upper()

    with scripted(writer, tmp_path) as (_, endpoint):
        settings = SynthesizeSettings(judge={"endpoint": endpoint}, steer={"tries": 3, "wishes": wishes})
        figures = synthesize(settings, None, [], tmp_path / "requests", None, tmp_path / "out")["steer"]
    assert (figures["asked"], figures["answers"], figures["right"], figures["kept_to"]) == (30, 90, 60, 20)
    rows = rows_of(tmp_path / "out" / "dialogs" / "steer.jsonl")
    assert len(rows) == 20
    for row in rows:
        system, said = row["messages"][0]["content"], row["messages"][2]["content"]
        assert said.startswith("Ahoy!") if "captain" in system else said.isupper()


def test_every_wish_that_can_be_checked_has_a_check_that_exists() -> None:
    from herdbook.evaluate.constraints import followed

    assert sum(wish.check is not None for wish in WISHES) == 6
    good = ["Yes.", "YES.", "yes.", "Yes and no.", '"Yes."', "<<A title>>\nYes."]
    bad = ["word " * 13, "Yes.", "Yes.", "Yes, no.", "Yes.", "Yes."]
    for wish, yes, no in zip((wish for wish in WISHES if wish.check), good, bad, strict=True):
        assert wish.check and followed(yes, wish.check) and not followed(no, wish.check)


def test_long_contexts_need_enough_text(tmp_path: Path) -> None:
    pages = documents(tmp_path / "pages", PAGES)
    with scripted(lambda messages, seed: "no", tmp_path) as (_, endpoint):
        settings = SynthesizeSettings(judge={"endpoint": endpoint}, long={})
        with pytest.raises(ValueError, match="all documents together are shorter than a context of 64,000"):
            synthesize(settings, None, [pages], None, None, tmp_path / "out")


def test_a_package_below_another_folder_is_found_by_its_own_name() -> None:
    farm = {
        "src/farm/__init__.py": "",
        "src/farm/barn.py": "",
        "src/farm/cow.py": "from .barn import hay",
        "tests/test_barn.py": "from farm import barn",
        "main.py": "import json, farm.barn",
        "tools/json.py": "",  # no package holds it, so `import json` is Python's own
    }
    found = dependents(farm)
    assert found["src/farm/barn.py"] == ["main.py", "src/farm/cow.py", "tests/test_barn.py"]
    assert set(found) == {"src/farm/barn.py", "src/farm/__init__.py"}
    twice = {f"{side}/farm/{name}.py": "" for side in "ab" for name in ("__init__", "barn")}
    users = {"a/run.py": "import farm.barn", "b/run.py": "import farm.barn", "run.py": "import farm.barn"}
    assert dependents(twice | users) == {"a/farm/barn.py": ["a/run.py"], "b/farm/barn.py": ["b/run.py"]}


def test_a_file_is_taken_out_of_a_repository_and_its_dependents_are_asked_for(tmp_path: Path) -> None:
    farm = {
        "farm/__init__.py": "from .barn import Barn",
        "farm/barn.py": "class Barn:\n    pass",
        "farm/cow.py": "def milk():\n    from farm import barn\n    return barn",
        "farm/hay/bale.py": "from ..barn import Barn as B",
        "farm/hay/rack.py": "from .. import barn",
        "farm/dog.py": "import farm.barn as b",
        "farm/cat.py": "text = 'import farm.barn'  # import farm.barn",
        "farm/broken.py": "import farm.barn (",
        "farm/hay/__init__.py": "from . import bale, rack",
    }
    texts = {f"herd/{path}": text for path, text in farm.items()} | {"other/barn.py": "x = 1", "notes.txt": "barn"}
    (tmp_path / "documents").mkdir()
    table = pa.table({"id": list("abcdefghijk"), "url": list(texts), "text": list(texts.values())})
    pq.write_table(table, tmp_path / "documents" / "0.parquet")
    users = ["farm/__init__.py", "farm/cow.py", "farm/dog.py", "farm/hay/bale.py", "farm/hay/rack.py"]

    def make(name: str, **settings: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        with scripted(lambda messages, seed: "nobody asks", tmp_path) as (server, endpoint):
            chosen = SynthesizeSettings(judge={"endpoint": endpoint}, repository=settings)
            figures = synthesize(chosen, None, [tmp_path], None, None, tmp_path / name)["repository"]
            assert not server.bodies
        return figures, rows_of(tmp_path / name / "dialogs" / "repository.jsonl")

    figures, rows = make("one")
    assert figures == {"repositories": 2, "key_files": 1, "too_long": 0, "dialogs": 1}
    context, named, _, written = [message["content"] for message in rows[0]["messages"]]
    assert named.split("\n") == users and "farm/barn.py is missing" in context
    assert context.count("# farm/") == len(farm) - 1 and "class Barn" not in context
    assert written == f"```python\n{farm['farm/barn.py']}\n```"
    _, rows = make("short", characters=280)
    assert len(rows[0]["messages"][0]["content"]) < 390 and all(
        f"# {one}" in rows[0]["messages"][0]["content"] for one in users
    )
    with pytest.raises(UserError, match="no maker kept a dialog"):
        make("none", characters=100)
