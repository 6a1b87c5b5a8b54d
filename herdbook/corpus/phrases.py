"""Phrases by which pages announce what is not their text: other stories, calls to share, time stamps (§3.1.1).

Headings that only ever stand over boilerplate, in the languages most of the web is written in, and short lines that
are never a sentence of the text. Each must match a whole line: a story *about* the most read stories is not meant.
"""

from __future__ import annotations

import re

LONGEST = 70
"""Characters of the longest line that is held against these phrases."""

_THINGS = "(?:stories|story|articles?|news|posts?|videos?|reviews?|content|headlines)"
_ENGLISH = (
    rf"(?:related|recent|latest|popular|top|trending|featured|recommended|similar|other|breaking|sponsored) {_THINGS}"
    rf"|more (?:\w+ )?{_THINGS}(?: .*)?"
    r"|popular this (?:week|month)|(?:most|popular) (?:read|popular|viewed|shared|commented|this week|now)(?: .*)?"
    r"|(?:you )?(?:may|might) also (?:like|enjoy|be interested).*|recommended(?: for you)?"
    r"|don['’]?t miss.*|(?:what to )?read (?:also|next)"
    r"|(?:leave|post|add|write) a (?:reply|comment|response|review)"
    r"|(?:top |recent |reader )comments|join the (?:conversation|discussion).*"
    r"|share this.*|follow us.*|partner (?:news|content|sites)|from (?:around|across) the web"
    r"|about the authors?"
)
_OTHERS = (
    r"(?:ähnliche|weitere|mehr|neueste|meistgelesene|verwandte|aktuelle) "
    r"(?:artikel|beiträge|themen|nachrichten|meldungen).*"
    r"|das könnte (?:sie|dich|ihnen|dir) .*"
    r"|(?:articles?|contenus?|sujets?) (?:similaires?|liés?|récents?|associés?)|(?:à )?lire aussi.*"
    r"|(?:les )?plus lus"
    r"|(?:artículos|noticias|entradas|notas) (?:relacionad[oa]s|recientes|similares)"
    r"|(?:te|le) (?:puede|podría) interesar.*|l[eo] más leído|lea también.*"
    r"|(?:notícias|artigos|posts|matérias) (?:relacionad[oa]s|recentes|semelhantes)"
    r"|(?:leia|veja) (?:também|mais).*|(?:as )?mais lidas"
    r"|(?:articoli|notizie) (?:correlat[ie]|recenti|simili)|leggi anche.*|(?:i )?più letti"
    r"|(?:lees|bekijk) ook.*|(?:gerelateerde|meest gelezen) .*"
    r"|(?:читайте|смотрите) (?:также|ещё|еще).*|похожие .*"
    r"|(?:самые популярные|последние|другие) (?:статьи|новости|записи|материалы).*"
    r"|czytaj (?:też|także|również).*|(?:powiązane|podobne|najnowsze|najpopularniejsze) (?:artykuły|wpisy|wiadomości)"
)
OTHER_STORIES = re.compile(rf"(?:{_ENGLISH}|{_OTHERS})\s*[:.…!]*".replace(".*", ".{0,25}"), re.IGNORECASE)
"""Headings over what does not belong to the text."""

STARTS = frozenset(
    start
    for line in (
        "rel,rec,lat,pop,top,tre,fea,sim,oth,bre,spo,mor,mos,you,may,mig,don,wha,rea,lea,pos,add,wri,joi,sha,fol,par",
        "fro,abo,ähn,wei,meh,neu,mei,ver,akt,das,art,con,suj,à l,lir,les,plu,not,ent,te ,le ,pue,pod,lo ,mat,lei,vej",
        "as ,mai,i p,più,lee,bek,ger,mee,чит,смо,пох,сам,пос,дру,czy,pow,naj",
    )
    for start in line.split(",")
)
"""First three letters of those headings: nearly all other lines are told from them by these."""

_CALL = (
    r"(?:like|enjoy(?:ed)?|love) this (?:story|article|post|page)\b.*"
    r"|share (?:it|this) (?:with|on|story|article|post).*|join the conversation.*|"
    r"\[? ?(?:read|view|see|show|load) (?:all|more)(?: \w+)? comments ?\]?"
    r"|\(?(?:view|see|show) all\)?|image \d+ of \d+|\d+ (?:shares|comments?|views|likes)"
    r"|advertisement|story continues below.*"
    r"|(?:click|tap) here to (?:subscribe|sign up).*"
)
CALL = re.compile(rf"(?:{_CALL})", re.IGNORECASE)
"""Lines that call for something to be done, or count what was."""
_CALL_STARTS = frozenset(
    ["lik", "enj", "lov", "sha", "joi", "rea", "vie", "see", "sho", "loa", "ima", "adv", "sto", "cli", "tap"]
)
"""First three letters of those that begin with a word."""

_CLOCK = re.compile(r"\b\d{1,2}:\d{2}(?!\d)")
_YEAR = re.compile(r"\b(?:19|20)\d\d\b")
_WORD = re.compile(r"[^\W\d_]+")


def other_stories(line: str) -> bool:
    """Whether a heading announces other stories, comments or the like."""
    return line[:3].lower() in STARTS and len(line) <= LONGEST and OTHER_STORIES.fullmatch(line) is not None


def no_text(line: str) -> bool:
    """Whether a line of its own announces other stories, calls for something, or is a stamp: date and time of day."""
    if len(line) > LONGEST:
        return False
    start = line[:3].lower()
    if start in STARTS and OTHER_STORIES.fullmatch(line):
        return True
    if (start in _CALL_STARTS or line[:1].isdigit() or line.startswith(("[", "("))) and CALL.fullmatch(line):
        return True
    if ":" not in line or line[-1] in ".!?":
        return False
    return bool(_CLOCK.search(line) and _YEAR.search(line)) and len(_WORD.findall(line)) <= 6
