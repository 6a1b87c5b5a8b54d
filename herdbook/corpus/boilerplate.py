"""Which parts of a page are boilerplate, and which element holds its content (§3.1.1).

Plain rules over the tree: what tags, names, hiding and link density call boilerplate is left out, and the page is
narrowed to the element that holds its paragraphs. No decision made by name may take more than a share of the page's
paragraph text: a page wrapped in `class="sidebar-layout"` is still a page.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from herdbook.corpus.phrases import LONGEST, other_stories


def _names(words: str) -> frozenset[str]:
    return frozenset(words.split())


BLOCK = _names(
    "address article aside blockquote body caption center dd details dir div dl dt fieldset figcaption figure footer "
    "form h1 h2 h3 h4 h5 h6 header hgroup hr html legend li main menu nav ol optgroup option p section summary table "
    "tbody td tfoot th thead tr ul"
)
CODE = _names("pre listing xmp plaintext")
PARAGRAPH = CODE | _names("p blockquote dd dt li td h1 h2 h3 h4 h5 h6")
DROP = _names(
    "applet audio button canvas datalist dialog embed frameset head iframe input link map meta meter noframes noscript "
    "object progress rp rt script select style svg template textarea video"
)
HEADINGS = _names("h2 h3 h4 h5 h6")
ANNOUNCERS = HEADINGS | _names("p div strong b label span")
NEVER_CONTENT = _names("nav footer")
ASIDES = _names("aside menu")
ROLES = _names("navigation banner contentinfo complementary search dialog alert alertdialog menu menubar toolbar")
LINK_BOXES = _names("ul ol dl div section table td p header form center figure h2 h3 h4")
LISTS = _names("ul ol dl p h2 h3 h4")
CONTENT_TAGS = frozenset({"article", "main"})

# Words that name boilerplate wherever they stand in a class or id…
ANYWHERE = (
    "sidebar|breadcrumb|cookie|consent|gdpr|newsletter|advert|sponsor|disqus|outbrain|taboola|paginat|recommend|related|subscri|"
    "copyright|masthead|footer|navbar|navigation|navheader|docnav|popup|popover|modal|signup|sign-up|sharing|sharedaddy|share-|"
    "-share|sharebar|socialmedia|social-|-social|site-header|siteheader|skip-?link|comment|byline|author-?(?:bio|box|info|card)|"
    "read-?more|more-?(?:stories|news|articles|from)|most-?(?:read|popular|viewed)|trending|headerlink|editsection|linenos?|"
    "line-?numbers?|gutter|toolbar|tool-bar|donat|paywall|promo(?!te)|screen-reader|visually-hidden|sr-only"
)
# … and words that name it only when they stand alone.
ALONE = (
    "nav|navi|menus?|ads?|adv|ad-?(?:box|slot|unit|wrapper|container|text)|shares?|social|tags?|tagcloud|widgets?|login|banner|"
    "rail|print|skip|toc|ratings?|meta|postmeta|metadata|metabar|popular|latest|follow|likes?|replies|respond|feedback|legal|"
    "disclaimer|alert|hidden|teasers?|caption|credit|dateline|timestamp|published|pubdate|topbar|bottombar|hero-nav|site-nav|"
    "prev-?next|pager|sitemap|search|searchbox|searchform|languages?-?(?:list|switcher|menu)|lang-?switch(?:er)?"
)
NAMES = re.compile(rf"(?:{ANYWHERE})|(?<![a-z])(?:{ALONE})(?![a-z])")
CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")
POSTS = re.compile("comment|repl(?:y|ies)|respon", re.IGNORECASE)
BESIDE = re.compile("sidebar|related|recommend", re.IGNORECASE)
HIDDEN = re.compile(r"display\s*:\s*none|visibility\s*:\s*hidden")


@dataclass
class ExtractRules:
    """The few numbers extraction goes by; shares are of the page's paragraph text."""

    named_share: float = 0.3
    """An element with a boilerplate name is kept when it holds more than this share."""
    thread_share: float = 0.7
    """Posts named as comments or replies are the page itself when together they hold more than this share."""
    tag_share: float = 0.5
    """The same for aside and menu elements, and for roles."""
    never_share: float = 0.9
    """The same for nav and footer: only a page that hardly has anything else kept them open by mistake."""
    link_density: float = 0.5
    """Lists and boxes with more link text than this are left out …"""
    link_free: int = 120
    """… unless they hold this many characters outside links."""
    paragraph_share: float = 0.2
    """A page with less of its text in paragraph elements writes its paragraphs as plain boxes,"""
    own_text: int = 60
    """which then count as paragraphs from so many characters directly inside them."""
    many_links: int = 3
    """Links that make a cell, or a paragraph in one, a heap of links."""
    teaser: int = 400
    """Characters a teaser (linked heading, a sentence or two) has at most."""
    article: int = 1500
    """Characters of paragraphs that are an article, whatever more a page holds of other stories."""
    descend: float = 0.85
    """The page is narrowed to a child that holds more than this share of its parent's paragraph text,"""
    descend_content: float = 0.4
    """and to an article or main element that holds more than this."""


RULES = ExtractRules()


@lru_cache(1 << 14)
def names_boilerplate(name: str) -> bool:
    """Whether a class and id speak of boilerplate; sites repeat theirs, so answers are remembered."""
    return len(name) > 1 and NAMES.search(CAMEL.sub("-", name).lower()) is not None


class Page:
    """The tree as arrays: element i's parent, characters of text, of link text and of paragraph text."""

    def __init__(self, body: Any, rules: ExtractRules) -> None:
        self.rules = rules
        self.elements: list[Any] = [body]
        self.parents: list[int] = [-1]
        self.tags: list[str] = [body.tag]
        self.text: list[int] = [len((body.text or "").strip())]
        self.links: list[int] = []
        self.anchors: list[int] = []
        self.paragraphs: list[int] = []
        self.dropped: set[Any] = set()
        self.total = 1
        self._collect()
        own = self.text.copy()
        self._add_up()
        if self.paragraphs[0] < rules.paragraph_share * (self.text[0] - self.links[0]):
            self.text = own
            self._add_up(rules.own_text)

    def _collect(self) -> None:
        """All elements, parents before their children; what is never content is not entered."""
        elements, parents, tags, text, dropped = self.elements, self.parents, self.tags, self.text, self.dropped
        enter, under, name, measure = elements.append, parents.append, tags.append, text.append
        for parent, element in enumerate(elements):  # the list grows while it is read: breadth first
            around = 0
            for child in element:
                tag = child.tag
                words = child.tail
                if words:
                    around += len(words.strip())
                if tag in DROP and not (tag == "script" and "math/tex" in (child.get("type") or "")):
                    dropped.add(child)
                elif tag.__class__ is str:
                    enter(child)
                    under(parent)
                    name(tag)
                    words = child.text
                    measure(len(words.strip()) if words else 0)
            if around:
                text[parent] += around

    def _add_up(self, own_text: int | None = None) -> None:
        """Add up from the leaves; with `own_text`, elements with so much text of their own count as paragraphs too."""
        count, own = len(self.elements), self.text.copy()
        text, tags, parents = self.text, self.tags, self.parents
        links, paragraphs, anchors = [0] * count, [0] * count, [0] * count
        for i in range(count - 1, -1, -1):
            tag = tags[i]
            if tag == "a":
                links[i], anchors[i] = text[i], 1
            if tag in PARAGRAPH:
                paragraphs[i] = max(paragraphs[i], text[i] - links[i])
            elif own_text is not None and own[i] >= own_text and tag != "a":
                paragraphs[i] += own[i]
            parent = parents[i]
            if parent >= 0:
                text[parent] += text[i]
                links[parent] += links[i]
                anchors[parent] += anchors[i]
                paragraphs[parent] += paragraphs[i]
        self.links, self.paragraphs, self.anchors = links, paragraphs, anchors

    def prune(self) -> None:
        """Mark what is left out, from the top down, and take its paragraph text off its ancestors."""
        rules = self.rules
        if not self.elements:
            return
        total = self.total = max(self.paragraphs[0], 1)
        gone: set[int] = set()
        for i, element in enumerate(self.elements):
            if i == 0:
                continue
            if self.parents[i] in gone:
                gone.add(i)
                continue
            if not self.text[i]:
                continue  # nothing to leave out
            share = self.paragraphs[i] / total
            if self._boilerplate(i, element, share, rules):
                gone.add(i)
                self.dropped.add(element)
                held, up = self.paragraphs[i], self.parents[i]
                while up >= 0 and held:
                    self.paragraphs[up] -= held
                    up = self.parents[up]

    def _boilerplate(self, i: int, element: Any, share: float, rules: ExtractRules) -> bool:
        tag = self.tags[i]
        if tag in CODE or tag in ("code", "math"):
            return False
        if (tag in NEVER_CONTENT and share <= rules.never_share) or (tag in ASIDES and share <= rules.tag_share):
            return True
        attributes = element.attrib
        if attributes and self._named(i, attributes, share, rules):
            return True
        # What wraps the whole of a page with little text is judged by its parts.
        return tag in LINK_BOXES and (share <= rules.tag_share or tag in LISTS) and self._only_links(i, tag, rules)

    def _only_links(self, i: int, tag: str, rules: ExtractRules) -> bool:
        """Whether a box is a heap of links. Cells and paragraphs in cells or list items need several of them."""
        text, links = self.text[i], self.links[i]
        if not text or links <= rules.link_density * text or text - links >= rules.link_free:
            return False
        if tag == "td":
            return self.anchors[i] >= rules.many_links
        if tag != "p":
            return True
        if links <= 0.75 * text or text >= 200:
            return False
        return self.anchors[i] >= rules.many_links or self.tags[self.parents[i]] not in ("li", "td", "dd")

    def _named(self, i: int, attributes: Any, share: float, rules: ExtractRules) -> bool:
        tag, element = self.tags[i], self.elements[i]
        if attributes.get("role") in ROLES and share <= rules.tag_share:
            return True
        if share > rules.named_share or tag in ("html", "body", "main"):
            return False
        if tag == "article":  # one of many on a list of articles has all sorts of names
            return BESIDE.search(attributes.get("class", "")) is not None
        if (
            "hidden" in attributes
            or attributes.get("aria-hidden") == "true"
            or HIDDEN.search(attributes.get("style", ""))
        ):
            return True
        name = attributes.get("class", "")
        if not names_boilerplate(f"{name} {attributes.get('id', '')}"):
            return False
        if POSTS.search(name) and self._thread(i) > rules.thread_share * self.total:
            return False  # a forum's posts, each small, are the page together
        # A post that is quoted stands in a box named after where it was posted.
        return tag == "blockquote" or all(child.tag != "blockquote" for child in element)

    def _thread(self, i: int) -> int:
        """Paragraph text of an element and those beside it that are posts too."""
        beside = self._children(self.parents[i])
        return sum(self.paragraphs[j] for j in beside if POSTS.search(self.elements[j].get("class", "")))

    def narrow(self) -> Any:
        """The innermost element that still holds the page's paragraphs."""
        if not self.elements:
            return None
        node = 0
        while True:
            held = self.paragraphs[node]
            if not held:
                return self.elements[node]
            children = [
                i
                for i in self._children(node)
                if self.tags[i] not in PARAGRAPH and self.elements[i] not in self.dropped
            ]
            best = max(children, key=lambda i: self.paragraphs[i], default=None)
            content = [i for i in children if self.tags[i] in CONTENT_TAGS]
            if len(content) == 1 and self.paragraphs[content[0]] > self.rules.descend_content * held:
                best = content[0]
            elif best is None or self.paragraphs[best] < self.rules.descend * held:
                return self.elements[node]
            assert best is not None
            node = best

    def _children(self, node: int) -> range:
        """Rows of an element's children, which stand together."""
        first = bisect_left(self.parents, node)
        return range(first, bisect_right(self.parents, node, first))

    def drop_teasers(self) -> None:
        """Leave out rows of teasers: three or more siblings that are little more than a linked heading each."""
        groups: dict[tuple[int, str], dict[int, None]] = {}
        for i, tag in enumerate(self.tags):
            if tag in HEADINGS and self._linked(i):
                card = self._card(i)
                if card > 0:
                    groups.setdefault((self.parents[card], self.tags[card]), {})[card] = None
        total = max(self.paragraphs[0], 1)
        for cards in groups.values():
            if len(cards) >= 3 and sum(self.paragraphs[i] for i in cards) <= self.rules.named_share * total:
                self.dropped.update(self.elements[i] for i in cards)

    def drop_other_stories(self) -> None:
        """Leave out what a heading says are other stories or comments: up to the next heading beside it."""
        limit = max(self.rules.tag_share * self.paragraphs[0], self.paragraphs[0] - self.rules.article)
        for i, tag in enumerate(self.tags):
            if tag not in ANNOUNCERS or not 3 < self.text[i] <= LONGEST:
                continue
            element = self.elements[i]
            line = "".join(element.itertext()) if tag in HEADINGS else element.text or ""
            if element in self.dropped or not other_stories(" ".join(line.split())):
                continue
            while self.parents[i] > 0 and self.text[self.parents[i]] == self.text[i]:
                i = self.parents[i]  # alone in its box: it is the box that stands over the stories
            section, held = [i], 0
            for follower in range(i + 1, self._children(self.parents[i]).stop):
                if self.tags[follower] in HEADINGS:
                    break
                section.append(follower)
                held += self.paragraphs[follower]
            if held <= limit:
                self.dropped.update(self.elements[j] for j in section)

    def _linked(self, i: int) -> bool:
        """Whether a heading leads to another page: it holds a link, or stands in one."""
        heading, up = self.elements[i], self.elements[self.parents[i]]
        link = up if up.tag == "a" else next(heading.iter("a"), None)
        return link is not None and not (link.get("href") or "#").startswith("#")

    def _card(self, i: int) -> int:
        """The largest element around a heading that is still no longer than a teaser."""
        while self.parents[i] > 0 and self.text[self.parents[i]] <= self.rules.teaser:
            i = self.parents[i]
        return i

    def drop_empty_headings(self) -> None:
        """Leave out headings whose section is gone: up to the next heading nothing follows but what was left out."""
        for i, tag in enumerate(self.tags):
            if tag in HEADINGS and self.elements[i] not in self.dropped and self._section_gone(self.elements[i]):
                self.dropped.add(self.elements[i])

    def _section_gone(self, heading: Any) -> bool:
        follower, gone = heading, False
        while not (follower.tail or "").strip():
            follower = follower.getnext()
            if follower is None or follower.tag in HEADINGS:
                return gone
            if follower in self.dropped:
                gone = gone or follower.tag not in DROP
            elif follower.text is not None or len(follower):
                return False
        return False

    def heading_outside(self, scope: Any) -> Any:
        """The page's one h1 when narrowing left it out: the title belongs to the text."""
        headings = [i for i, tag in enumerate(self.tags) if tag == "h1"]
        inside = list(scope.iter("h1")) if scope is not None else []
        if len(headings) != 1 or inside or scope is self.elements[0]:
            return None
        up = headings[0]
        while up >= 0:
            if self.elements[up] in self.dropped:
                return None
            up = self.parents[up]
        return self.elements[headings[0]]
