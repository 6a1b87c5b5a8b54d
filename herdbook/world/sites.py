"""Sites of the known world: the skeletons of pages and all that stands around an article.

A site has a look of its own (template, navigation, adverts, comments) and may have changed its software once: pages
older than that day keep the old look. What stands around the article is in the page's language and is never part of
its truth.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from html import escape

from herdbook.world.article import Article
from herdbook.world.html import Look, block_html, hash_text, text_html
from herdbook.world.labels import LABELS, Labels

STYLE = (
    "<style>body{font-family:sans-serif;margin:0;color:#222}.nav li{display:inline;padding:4px}.ad{border:1px dotted}"
    "@media(max-width:600px){.side{display:none}}</style>"
)
SCRIPT = (
    '<script>window.dataLayer=window.dataLayer||[];function gtag(){dataLayer.push(arguments)}gtag("config","G-0");'
    'document.write("<p>This text is written by a script and is not content.</p>");</script>'
)
NOSCRIPT = (
    "<noscript>"
    '<img height="1" width="1" alt="" src="/pixel.gif">Please enable JavaScript to use all functions.</noscript>'
)


@dataclass(frozen=True)
class Site:
    """One host: its name, the look before and after it changed its software, and the day of the change."""

    host: str
    old: Look
    new: Look
    moved: str  # ISO date from which pages have the new look
    name: str

    def look(self, date: str) -> Look:
        """The look of a page of this date (ISO)."""
        return self.old if date < self.moved else self.new


@dataclass(frozen=True)
class Frame:
    """Everything about a page but its article: where it is, what it claims, what it links to."""

    site: Site
    path: str
    date: str  # ISO date of publication
    declared_language: str  # what the `lang` attribute and the meta tags say
    charset: str  # declared in a meta tag; empty for none
    related: tuple[tuple[str, str], ...]  # (path, title) of other pages of the site
    seed: int  # draws adverts, comments and what else varies from page to page


_OLD = ("layout_table", "plain", "nested")
_NEW = ("semantic", "cards", "nested")


def make_site(host: str, number: int) -> Site:
    """The site of a host; `number` goes round through the templates so that every world has all of them."""
    draw = random.Random(hash_text(host))
    old = Look(
        template="forum" if "forum" in host else _OLD[number % 3],
        code="plain",
        math="image",
        entities=number % 2 == 0,
        wrapped=number % 3 != 2,
        table_head=False,
        answers=draw.choice(("breaks", "paragraphs")),
    )
    new = replace(
        old,
        template="forum" if "forum" in host else _NEW[number % 3],
        code=("spans", "lines")[number // 3 % 2],
        math="mathml",
        entities=False,
        wrapped=False,
        table_head=True,
    )
    name = host.removeprefix("www.").split(".")[0].replace("-", " ").title()
    return Site(host, old, new, moved=f"{draw.choice((2022, 2023))}-{draw.randint(1, 12):02d}-01", name=name)


def _links(pairs: Sequence[tuple[str, str]], tag: str = "li") -> str:
    return "".join(f'<{tag}><a href="{path}">{escape(title, quote=False)}</a></{tag}>' for path, title in pairs)


def _menu(labels: Labels) -> str:
    return _links([(f"/{number}/", word) for number, word in enumerate(labels.menu)])


def _cookie(site: Site, labels: Labels, draw: random.Random) -> str:
    name = draw.choice(("cookie-banner", "cc-window consent", "gdpr-notice"))
    return (
        f'<div class="{name}" role="dialog"><p>{labels.cookie.format(name=site.name)}</p>'
        f"<button>{labels.accept}</button> <button>{labels.settings}</button></div>"
    )


def _advert(labels: Labels, draw: random.Random) -> str:
    name = draw.choice(("ad", "advertisement", "banner-ad sponsored"))
    return (
        f'<div class="{name}">'
        f'<span>{labels.advert}</span> <a href="//ads.example/c?{draw.randrange(9999)}">'
        f"{draw.choice(labels.adverts)}</a></div>"
    )


def _share(labels: Labels) -> str:
    links = "".join(f'<a class="share-{word.lower()}" href="#">{word}</a> ' for word in labels.share)
    return f'<div class="share social-buttons">{links}</div>'


def _comments(labels: Labels, draw: random.Random) -> str:
    said = "".join(
        f'<div class="comment"><b>{draw.choice(labels.nicknames)}</b> <p>{remark}</p></div>'
        for remark in draw.sample(labels.remarks, draw.randint(0, 2))
    )
    return (
        f'<section id="comments" class="comments">'
        f'<h3>{labels.comments}</h3>{said}<form action="/comment" method="post">'
        f'<label>{labels.name} <input name="n"></label><label>{labels.mail} <input name="m"></label>'
        f'<textarea name="t" placeholder="{labels.your_comment}">'
        f"</textarea><button>{labels.send}</button></form></section>"
    )


def _sidebar(frame: Frame, labels: Labels) -> str:
    return (
        f'<h3>{labels.related}</h3><ul class="related">{_links(frame.related)}</ul><h3>{labels.newsletter}</h3>'
        f'<form><input type="email" placeholder="{labels.mail}"><button>{labels.subscribe}</button></form>'
    )


def _footer(site: Site, labels: Labels) -> str:
    links = " | ".join(f'<a href="/legal/{number}">{word}</a>' for number, word in enumerate(labels.legal))
    return f"<p>© 2024 {site.name}. {labels.rights}</p><p>{links}</p>"


def _head(title: str, frame: Frame, labels: Labels) -> str:
    charset = f'<meta charset="{frame.charset}">' if frame.charset else ""
    full = f"{escape(title)} – {frame.site.name}"
    return (
        f"<head>{charset}\n<title>{full}</title>\n"
        f'<meta name="viewport" content="width=device-width">'
        f'<meta name="description" content="{escape(labels.description)}">'
        f'<meta property="og:title" content="{escape(title)}">'
        f'<meta property="og:locale" content="{frame.declared_language}">'
        f'<meta name="date" content="{frame.date}"><link rel="canonical" href="https://{frame.site.host}{frame.path}">'
        f'<link rel="stylesheet" href="/s.css">{STYLE}{SCRIPT}</head>'
    )


def _crumbs(title: str, labels: Labels, look: Look) -> str:
    return f'<a href="/">{labels.menu[0]}</a> › <a href="/1/">{labels.menu[1]}</a> › {text_html(title, look)}'


def _body_html(article: Article, look: Look, labels: Labels, draw: random.Random) -> str:
    """The blocks, with an advert somewhere between them on longer pages."""
    blocks = [block_html(block, look) for block in article.blocks]
    if len(blocks) > 4:
        blocks.insert(draw.randint(2, len(blocks) - 1), _advert(labels, draw))
    return "\n".join(blocks)


def _semantic(article: Article, frame: Frame, look: Look, labels: Labels, draw: random.Random) -> str:
    byline = (
        f'<p class="byline meta">{labels.by} {draw.choice(labels.nicknames)} · '
        f'<time datetime="{frame.date}">{frame.date}</time>'
        f"</p>"
    )
    return (
        f'<header class="site-header"><a class="logo" href="/">{frame.site.name}</a>'
        f'<nav class="nav"><ul>{_menu(labels)}</ul></nav>'
        f'<form role="search"><input placeholder="{labels.search}"></form></header>\n'
        f'<nav class="breadcrumb" aria-label="breadcrumb">{_crumbs(article.title, labels, look)}</nav>\n'
        f"<main><article><h1>{text_html(article.title, look)}</h1>\n{byline}\n{_share(labels)}\n"
        f"{_body_html(article, look, labels, draw)}\n</article></main>\n"
        f'<aside class="side">{_sidebar(frame, labels)}</aside>{_comments(labels, draw)}\n'
        f"<footer>{_footer(frame.site, labels)}</footer>"
    )


def _cards(article: Article, frame: Frame, look: Look, labels: Labels, draw: random.Random) -> str:
    cards = "".join(
        f'<div class="card"><a href="{path}"><img src="/t.jpg" alt=""><h4>{escape(title)}</h4></a></div>'
        for path, title in frame.related
    )
    return (
        f'<div class="navbar"><div class="container"><a href="/">{frame.site.name}</a>'
        f'<ul class="navbar-nav">{_menu(labels)}</ul></div></div>\n'
        f'<div class="container"><div class="row"><div class="col-8"><div class="post"><div class="post-header">'
        f'<h1 class="post-title">{text_html(article.title, look)}</h1></div>\n<div class="post-body">'
        f"{_body_html(article, look, labels, draw)}</div>\n{_share(labels)}</div>\n{_comments(labels, draw)}</div>"
        f'<div class="col-4 sidebar">{_advert(labels, draw)}<h3>{labels.related}</h3>{cards}</div></div></div>\n'
        f'<div class="footer">{_footer(frame.site, labels)}</div>'
    )


def _nested(article: Article, frame: Frame, look: Look, labels: Labels, draw: random.Random) -> str:
    return (
        f'<div id="wrapper"><div id="top"><div id="logo">{frame.site.name}</div>'
        f'<div id="menu"><ul>{_menu(labels)}</ul></div></div>'
        f'<div id="breadcrumbs">{_crumbs(article.title, labels, look)}</div>\n<div id="main">'
        f'<div class="inner"><div class="box"><div>'
        f"<h1>{text_html(article.title, look)}</h1>\n<div>{_body_html(article, look, labels, draw)}</div></div></div>"
        f'</div>\n<div id="sidebar">{_sidebar(frame, labels)}</div></div>{_comments(labels, draw)}'
        f'<div id="footer">{_footer(frame.site, labels)}</div></div>'
    )


def _layout_table(article: Article, frame: Frame, look: Look, labels: Labels, draw: random.Random) -> str:
    return (
        f'<table width="100%" border="0"><tr><td colspan="3" bgcolor="#ddeeff">'
        f'<font size="5"><b>{frame.site.name}</b></font></td></tr>\n'
        f'<tr><td width="120" valign="top"><ul>{_menu(labels)}</ul>'
        f'</td>\n<td valign="top"><h1>{text_html(article.title, look)}</h1>\n'
        f"{_body_html(article, look, labels, draw)}</td>\n"
        f'<td width="140" valign="top"><b>{labels.related}</b><br>{_links(frame.related, "p")}</td></tr>\n'
        f'<tr><td colspan="3" align="center"><font size="1">{_footer(frame.site, labels)}</font></td></tr></table>'
    )


def _plain(article: Article, frame: Frame, look: Look, labels: Labels, draw: random.Random) -> str:
    menu = " | ".join(f'<a href="/{number}/">{word}</a>' for number, word in enumerate(labels.menu))
    return (
        f"<center>[ {menu} ]</center>"
        f"<hr>\n<h1>{text_html(article.title, look)}</h1>\n{_body_html(article, look, labels, draw)}\n"
        f"<hr><b>{labels.related}</b><ul>{_links(frame.related)}</ul><hr><small>{_footer(frame.site, labels)}</small>"
    )


def _forum(article: Article, frame: Frame, look: Look, labels: Labels, draw: random.Random) -> str:
    return (
        f'<div id="page"><div class="headerbar">{frame.site.name}</div><ul class="nav">{_menu(labels)}</ul>\n'
        f'<div class="crumbs">{_crumbs(article.title, labels, look)}</div>'
        f'<h1 class="topic-title">{text_html(article.title, look)}</h1>\n'
        f'<div class="post" id="p{draw.randrange(9999)}">'
        f'<div class="postprofile"><img class="avatar" alt="" src="/a.png">'
        f"<b>{draw.choice(labels.nicknames)}</b><br>{labels.posts}: {draw.randrange(5000)}</div>"
        f'<div class="postbody"><div class="content">{_body_html(article, look, labels, draw)}</div></div></div>\n'
        f'<div class="quick-reply"><form><textarea placeholder="{labels.your_comment}">'
        f"</textarea><button>{labels.send}</button></form></div>"
        f'<div class="related"><h3>{labels.related}</h3><ul>{_links(frame.related)}</ul></div>'
        f'<div id="page-footer">{_footer(frame.site, labels)}</div></div>'
    )


Template = Callable[[Article, Frame, Look, Labels, random.Random], str]
TEMPLATES: dict[str, Template] = {
    "semantic": _semantic,
    "cards": _cards,
    "nested": _nested,
    "layout_table": _layout_table,
    "plain": _plain,
    "forum": _forum,
}


def page_html(article: Article, frame: Frame) -> str:
    """The whole page of an article, as its site shows it."""
    look = frame.site.look(frame.date)
    labels = LABELS.get(article.language, LABELS["en"])
    draw = random.Random(frame.seed)
    body = TEMPLATES[look.template](article, frame, look, labels, draw)
    cookie = _cookie(frame.site, labels, draw)
    first, last = (cookie, "") if frame.seed % 2 else ("", cookie)
    doctype = "<!DOCTYPE html>" if look.template not in ("plain", "layout_table") else ""
    return (
        f'{doctype}<html lang="{frame.declared_language}">\n{_head(article.title, frame, labels)}\n'
        f"<body>{first}{NOSCRIPT}\n{body}\n{last}</body></html>\n"
    )


def menu_html(language: str, frame: Frame) -> str:
    """A page of navigation alone: no sentence of content."""
    labels = LABELS.get(language, LABELS["en"])
    return (
        f'<!DOCTYPE html><html lang="{frame.declared_language}">\n{_head(labels.menu[0], frame, labels)}\n<body>'
        f'<nav><ul>{_menu(labels)}</ul></nav><div id="content"><ul>{_links(frame.related)}</ul></div>'
        f"<footer>{_footer(frame.site, labels)}</footer></body></html>\n"
    )
