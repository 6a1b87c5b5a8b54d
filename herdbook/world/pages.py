"""Which pages the crawl holds: every article once, and beside them the pages with something wrong.

A page is planned here and written as bytes only when its turn comes (crawl.py). Copies are made of articles that have
no other defect, so a cluster of duplicates is one article and one copy of it.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from herdbook.settings import UserError
from herdbook.world import filler, texts
from herdbook.world.article import Article, Block
from herdbook.world.defects import EDIT_RATES, DefectSettings, edit_words, lose_characters
from herdbook.world.html import hash_text
from herdbook.world.labels import LABELS

CRAWLED_FROM = datetime(2024, 1, 1)
PUBLISHED_FROM = datetime(2021, 1, 1)


@dataclass
class Page:
    """One page of the crawl with the truth about it."""

    article: Article  # what it shows; the site is the host that shows it
    url: str
    crawled: datetime
    published: str  # ISO date, decides between a site's old and new look
    defect: str = ""
    variant: int = 0  # which form of its defect
    edit_rate: float = 0.0  # words changed, as a share of the original's words
    original: Page | None = None  # the page this one is a copy of
    declared_language: str = ""  # empty: the article's own
    boilerplate: tuple[str, ...] = ()  # lines of the site between the paragraphs, not part of the article
    record_id: str = ""
    number: int = field(default=0)  # position in the plan; seeds adverts and the like


class Planner:
    """Draws pages and their defects; everything depends on the seed alone."""

    def __init__(self, settings: DefectSettings, articles: Sequence[Article], seed: int) -> None:
        self.settings, self.articles, self.draw = settings, articles, random.Random(f"pages-{seed}")
        self.hosts: dict[str, list[str]] = defaultdict(list)
        for article in articles:
            if article.site not in self.hosts[article.language]:
                self.hosts[article.language].append(article.site)
        self.vocabulary = {language: self._vocabulary(language) for language in self.hosts}
        self.pages = [self._page(article) for article in articles]
        self.free = list(range(len(articles)))
        self.draw.shuffle(self.free)

    def _vocabulary(self, language: str) -> list[str]:
        """Words of the articles in one language, to edit with."""
        found: set[str] = set()
        for article in [article for article in self.articles if article.language == language][:300]:
            found.update(word for block in article.blocks if block.kind == "paragraph" for word in block.text.split())
        return sorted(word for word in found if word.isalpha() and word.islower()) or filler.words(language)

    def _page(self, article: Article, **more: object) -> Page:
        crawled = CRAWLED_FROM + timedelta(seconds=self.draw.randrange(365 * 86_400))
        published = (PUBLISHED_FROM + timedelta(days=self.draw.randrange(1_080))).date().isoformat()
        page = Page(article, page_url(article, published), crawled, published)
        return replace(page, **more)  # type: ignore[arg-type]

    def _take(self, kind: str, fits: Callable[[Article], bool] = lambda article: True) -> list[Page]:
        """Pages for one kind of defect, out of those that have none and fit; they are then no longer free."""
        count = self.settings.pages(kind, len(self.articles))
        chosen = [index for index in self.free if fits(self.articles[index])][:count]
        if len(chosen) < count:
            raise UserError(
                f"world: {len(chosen)} articles are left for {count} pages of the defect {kind!r}; "
                f"lower defects.{kind} or defects.least, or make the world larger"
            )
        taken = set(chosen)
        self.free = [index for index in self.free if index not in taken]
        return [self.pages[index] for index in chosen]

    def _elsewhere(self, article: Article) -> str:
        """Another host of the same language (a second one of the same site where there is no other)."""
        others = [host for host in self.hosts[article.language] if host != article.site]
        return self.draw.choice(others) if others else f"www2.{article.site}"

    # Good pages with something wrong about them come first: they are the hardest to find articles for.

    def wrong_charset(self) -> None:
        """Give pages with accents to wrong charsets (in place)."""
        for variant, page in enumerate(self._take("wrong_charset", lambda article: accents(article) >= 5)):
            page.defect, page.variant = "wrong_charset", variant

    def lying_language(self) -> None:
        """Let pages declare another language than theirs, half of them in English (in place)."""
        count = self.settings.pages("lying_language", len(self.articles))
        free = [self.articles[index] for index in self.free]
        foreign = [article.slug for article in free if article.language != "en"][: count // 2]
        english = [article.slug for article in free if article.language == "en"][: count - len(foreign)]
        chosen = {*foreign, *english}
        for page in self._take("lying_language", lambda article: article.slug in chosen):
            others = [language for language in filler.LANGUAGES if language != page.article.language]
            page.defect = "lying_language"
            page.declared_language = "en" if page.article.language != "en" else self.draw.choice(others)

    def mirrored_site(self) -> Iterator[Page]:
        """Copies of all pages of one site, on a host of their own; the site is the one nearest to the wished size."""
        count = self.settings.pages("mirrored_site", len(self.articles))
        if not count:
            return
        sites: dict[str, list[int]] = defaultdict(list)
        for index, article in enumerate(self.articles):
            sites[article.site].append(index)
        untouched = [
            site for site in sites if len(sites[site]) >= self.settings.least and set(sites[site]) <= set(self.free)
        ]
        if not untouched:
            raise UserError(
                "world: no site is large enough to be mirrored; lower defects.least or make the world larger"
            )
        site = min(untouched, key=lambda name: (abs(len(sites[name]) - count), name))
        self.free = [index for index in self.free if index not in set(sites[site])]
        for hosts in self.hosts.values():  # nothing else goes there, or the mirror would not be whole
            if site in hosts:
                hosts.remove(site)
        host = f"mirror.{site.removeprefix('www.')}"
        for index in sites[site]:
            original = self.pages[index]
            copy = self._page(replace(original.article, site=host), defect="mirrored_site", original=original)
            yield replace(copy, url=original.url.replace(site, host))

    def repeated_lines(self) -> None:
        """Set the site's sentences between the paragraphs of some English pages of a few sites (in place)."""
        count = self.settings.pages("repeated_lines", len(self.articles))
        sites: dict[str, list[str]] = defaultdict(list)
        for index in self.free:
            if self.articles[index].language == "en" and len(self.articles[index].blocks) >= 2:
                sites[self.articles[index].site].append(self.articles[index].slug)
        enough = max(1, min(30, count))
        chosen: set[str] = set()
        for site in sorted(sites, key=lambda name: (-min(len(sites[name]), enough), hash_text(name))):
            chosen.update(sites[site][: min(enough, count - len(chosen))])
        for page in self._take("repeated_lines", lambda article: article.slug in chosen):
            name = page.article.site.removeprefix("www.").split(".")[0].replace("-", " ").title()
            lines = [line.format(name=name) for line in LABELS["en"].repeated[:3]]
            page.defect, page.boilerplate = "repeated_lines", tuple(self.draw.sample(lines, 2))

    def url_duplicate(self) -> Iterator[Page]:
        """Earlier visits to the same address; every second one found an older text."""
        for variant, page in enumerate(self._take("url_duplicate", lambda article: len(article.blocks) > 3)):
            article = page.article
            if variant % 2:
                article = edited(self.draw, article, 0.1, self.vocabulary[article.language])[0] or article
                article = replace(article, blocks=article.blocks[:-1])
            earlier = page.crawled - timedelta(days=self.draw.randint(30, 400), seconds=self.draw.randrange(86_400))
            yield replace(
                page, article=article, crawled=earlier, defect="url_duplicate", original=page, variant=variant
            )

    def exact_duplicate(self) -> Iterator[Page]:
        """The same text at another address: in turn on the same site and on another one."""
        for variant, page in enumerate(self._take("exact_duplicate")):
            site = self._elsewhere(page.article) if variant % 2 else page.article.site
            article = replace(
                page.article, site=site, slug=f"{page.article.slug}-{self.draw.choice(('copy', 'print', 'archive'))}"
            )
            yield self._page(article, defect="exact_duplicate", original=page, variant=variant)

    def near_duplicate(self) -> Iterator[Page]:
        """Edited copies on other sites, with each edit rate in turn."""
        long_enough = self._take("near_duplicate", lambda article: prose_words(article) >= 60)
        for variant, page in enumerate(long_enough):
            rate = EDIT_RATES[variant % len(EDIT_RATES)]
            copy, edits = edited(self.draw, page.article, rate, self.vocabulary[page.article.language])
            share = edits / len(page.article.clean_text().split())
            copy = replace(
                copy, site=self._elsewhere(page.article), slug=f"{page.article.slug}-{self.draw.randint(2, 99)}"
            )
            yield self._page(copy, defect="near_duplicate", original=page, variant=variant, edit_rate=share)

    def junk(self, kind: str) -> Iterator[Page]:
        """Pages with a text of their own that tell no fact."""
        for variant in range(self.settings.pages(kind, len(self.articles))):
            language = self.draw.choice(("de", "fr", "es", "it")) if kind == "broken_encoding" else "en"
            hosts = self.hosts[language] or self.hosts["en"]
            host = (
                f"offers-{self.draw.randint(1, 9)}.example"
                if kind in ("ngram_spam", "adult")
                else self.draw.choice(hosts)
            )
            title, blocks = junk_text(self.draw, kind, language, variant)
            article = Article(f"{kind.replace('_', '-')}-{variant}", host, title, language, "general", "junk", blocks)
            article = replace(article, slug=f"{hash_text(article.clean_text()):x}-{variant}")
            yield self._page(article, defect=kind, variant=variant)

    def plan(self) -> list[Page]:
        """All pages of the crawl in the order in which they were found."""
        copies = list(self.mirrored_site())
        self.wrong_charset()
        self.lying_language()
        self.repeated_lines()
        copies += [*self.url_duplicate(), *self.near_duplicate(), *self.exact_duplicate()]
        for kind in (
            "ngram_spam",
            "adult",
            "personal_data",
            "gibberish",
            "broken_encoding",
            "truncated_record",
            "thin",
        ):
            copies += self.junk(kind)
        pages = self.pages + copies
        self.draw.shuffle(pages)
        for number, page in enumerate(pages):
            page.number = number
        return pages


def page_url(article: Article, published: str) -> str:
    """The address of an article, in the form its site likes."""
    form = hash_text(article.site) % 4
    path = (
        f"/{article.genre}/{article.slug}.html",
        f"/{article.slug}/",
        f"/{published[:4]}/{published[5:7]}/{article.slug}",
        f"/index.php?page={article.slug}",
    )[form]
    return f"https://{article.site}{path}"


def accents(article: Article) -> int:
    """Characters of the article that need more than ASCII and that Windows-1252 has."""
    text = article.clean_text()
    return sum(1 for letter in text if ord(letter) > 127 and letter.encode("windows-1252", "ignore"))


def _prose(article: Article) -> list[int]:
    return [index for index, block in enumerate(article.blocks) if block.kind in ("paragraph", "qa")]


def prose_words(article: Article) -> int:
    """Words of the article that an edit may touch: those of paragraphs and answers."""
    return sum(len(article.blocks[index].text.split()) for index in _prose(article))


def edited(draw: random.Random, article: Article, rate: float, vocabulary: list[str]) -> tuple[Article, int]:
    """A copy with a share `rate` of its words changed, at least one, and the number of words changed."""
    places = _prose(article)
    heights = [article.blocks[index].text.count("\n") + 1 for index in places]
    edits = max(1, round(rate * len(article.clean_text().split())))
    text = "\n".join(article.blocks[index].text for index in places)
    edits = min(edits, len(text.split()) // 2)
    lines = edit_words(draw, text, edits, vocabulary).split("\n")
    blocks = list(article.blocks)
    for index, height in zip(places, heights):
        blocks[index] = replace(blocks[index], text="\n".join(lines[:height]))
        lines = lines[height:]
    return replace(article, blocks=tuple(blocks)), edits


def junk_text(draw: random.Random, kind: str, language: str, variant: int) -> tuple[str, tuple[Block, ...]]:
    """(title, blocks) of a page of one of the kinds that have a text of their own."""
    if kind == "ngram_spam":
        return texts.spam(draw)
    if kind == "adult":
        return texts.adult(draw)
    if kind == "personal_data":
        return texts.personal_data(draw)
    if kind == "gibberish":
        return texts.gibberish(draw, variant)
    if kind == "thin":
        return LABELS[language].menu[2], ()
    lines = [filler.paragraph(draw, language, draw.randint(3, 6)) for _ in range(draw.randint(4, 8))]
    title = " ".join(filler.sentence(draw, language).split()[:6])
    if kind == "broken_encoding" and variant % 5 < 4:
        title, lines = (
            lose_characters(draw, title, variant % 5),
            [lose_characters(draw, line, variant % 5) for line in lines],
        )
    return title, tuple(Block("paragraph", text=line) for line in lines)
