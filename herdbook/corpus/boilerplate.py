"""Which parts of a page are boilerplate, and which element holds its content (§3.1.1).

Plain rules over the tree: what tags, names, hiding and link density call boilerplate is left out, and the page is
narrowed to the element that holds its paragraphs. No decision made by name may take more than a share of the page's
paragraph text: a page wrapped in `class="sidebar-layout"` is still a page.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from herdbook.corpus.phrases import LONGEST, STARTS, other_stories
from herdbook.corpus.tree import CODE, DROP, TELLING, Tree, attributes
from herdbook.corpus.tree import names as _names

BLOCK = _names(
    "address article aside blockquote body caption center dd details dir div dl dt fieldset figcaption figure footer "
    "form h1 h2 h3 h4 h5 h6 header hgroup hr html legend li main menu nav ol optgroup option p section summary table "
    "tbody td tfoot th thead tr ul"
)
PARAGRAPH = CODE | _names("p blockquote dd dt li td h1 h2 h3 h4 h5 h6")
HEADINGS = _names("h2 h3 h4 h5 h6")
ANNOUNCERS = HEADINGS | _names("p div strong b label span")
NEVER_CONTENT = _names("nav footer")
ASIDES = _names("aside menu")
ROLES = _names("navigation banner contentinfo complementary search dialog alert alertdialog menu menubar toolbar")
LINK_BOXES = _names("ul ol dl div section table td p header form center figure h2 h3 h4")
LISTS = _names("ul ol dl p h2 h3 h4")
JUDGED = NEVER_CONTENT | ASIDES | LINK_BOXES
"""Elements that may be boilerplate whatever their attributes say."""
CONTENT_TAGS = frozenset({"article", "main"})
PERMALINK = frozenset({"¶", "#", "§", "🔗", "\uf0c1"})

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


class Traits(NamedTuple):
    """What an element's attributes say of it."""

    landmark: bool
    """Its role is one of a page's furniture."""
    hidden: bool
    named: bool
    """Its class or id speaks of boilerplate,"""
    posts: bool
    """its class of posts and replies,"""
    beside: bool
    """or of what stands beside the text."""


PLAIN = Traits(False, False, False, False, False)


@lru_cache(1 << 15)
def names_boilerplate(name: str) -> bool:
    """Whether a class or an id speaks of boilerplate; sites repeat theirs, so answers are remembered."""
    return len(name) > 1 and NAMES.search(CAMEL.sub("-", name).lower()) is not None


@lru_cache(1 << 14)
def _traits(telling: tuple[tuple[str, str], ...]) -> Traits:
    """Traits by the telling attributes."""
    found = dict(reversed(telling))
    name = found.get("class", "")
    hidden = "hidden" in found or found.get("aria-hidden") == "true" or HIDDEN.search(found.get("style", ""))
    all_of = Traits(
        found.get("role") in ROLES,
        bool(hidden),
        any(map(names_boilerplate, name.split())) or names_boilerplate(found.get("id", "")),
        POSTS.search(name) is not None,
        BESIDE.search(name) is not None,
    )
    return all_of if any(all_of) else PLAIN


@lru_cache(1 << 14)
def traits(markup: str) -> Traits:
    """Traits by a tag with its attributes."""
    telling = TELLING.findall(markup)
    return _traits(tuple(telling)) if telling else PLAIN


class Page:
    """A tree and, of each element, the characters of text, of link text and of paragraph text in it."""

    def __init__(self, tree: Tree, rules: ExtractRules) -> None:
        self.tree, self.rules = tree, rules
        self.tags, self.parents, self.ends, self.opens = tree.tags, tree.parents, tree.ends, tree.opens
        self.headings = [i for i, tag in enumerate(self.tags) if tag in HEADINGS]
        self.total = 1
        self._add_up()
        if self.paragraphs[0] < rules.paragraph_share * (self.text[0] - self.links[0]):
            self._add_up(rules.own_text)

    def _add_up(self, own_text: int | None = None) -> None:
        """Add up from the leaves; with `own_text`, elements with so much text of their own count as paragraphs too."""
        own, tags, parents = self.tree.text, self.tags, self.parents
        text, count = own.copy(), len(own)
        links, paragraphs, anchors = [0] * count, [0] * count, [0] * count
        for i, (linked, number) in self.tree.code_links.items():
            links[i], anchors[i] = linked, number
        for i in range(count - 1, 0, -1):
            tag, size, parent = tags[i], text[i], parents[i]
            if tag == "a":
                anchors[parent] += 1
                links[i] = size
                if size == 1:
                    self._permalink(i)
            elif anchors[i]:
                anchors[parent] += anchors[i]
            if not size:
                continue
            text[parent] += size
            if links[i]:
                links[parent] += links[i]
            if tag in PARAGRAPH:
                paragraphs[i] = max(paragraphs[i], size - links[i])
            elif own_text is not None and own[i] >= own_text and tag != "a":
                paragraphs[i] += own[i]
            if paragraphs[i]:
                paragraphs[parent] += paragraphs[i]
        if own_text is not None and count and own[0] >= own_text:
            paragraphs[0] += own[0]
        self.text, self.links, self.paragraphs, self.anchors = text, links, paragraphs, anchors

    def _permalink(self, i: int) -> None:
        """A link of one sign beside a heading is no text."""
        first = self.opens[i]
        if self.tree.closes[i] == first + 1 and self.tree.texts[first].strip() in PERMALINK:
            self.tree.texts[first] = ""

    def gone(self, i: int) -> bool:
        """Whether an element itself was left out."""
        return self.opens[i] in self.tree.gone

    def _leave_out(self, i: int) -> None:
        self.tree.gone[self.opens[i]] = self.tree.closes[i]

    def prune(self) -> None:
        """Mark what is left out, from the top down, and take its paragraph text off its ancestors."""
        text, ends, tags, opens, markup = self.text, self.ends, self.tags, self.opens, self.tree.markup
        total = self.total = max(self.paragraphs[0], 1)
        self.held = self.paragraphs.copy()
        i, count = 1, len(text)
        while i < count:
            if not text[i]:  # nothing to leave out
                i = ends[i]
                continue
            tag, attributes = tags[i], markup[opens[i]]
            found = traits(attributes) if len(attributes) > len(tag) else PLAIN
            if (found is not PLAIN or tag in JUDGED) and self._boilerplate(i, tag, found, self.held[i] / total):
                self._leave_out(i)
                held, up = self.held[i], self.parents[i]
                while up >= 0 and held:
                    self.paragraphs[up] -= held
                    up = self.parents[up]
                i = ends[i]
            else:
                i += 1

    def _boilerplate(self, i: int, tag: str, found: Traits, share: float) -> bool:
        rules = self.rules
        if tag in CODE:
            return False
        if (tag in NEVER_CONTENT and share <= rules.never_share) or (tag in ASIDES and share <= rules.tag_share):
            return True
        if found is not PLAIN and self._named(i, tag, found, share):
            return True
        # What wraps the whole of a page with little text is judged by its parts.
        return tag in LINK_BOXES and (share <= rules.tag_share or tag in LISTS) and self._only_links(i, tag)

    def _only_links(self, i: int, tag: str) -> bool:
        """Whether a box is a heap of links. Cells and paragraphs in cells or list items need several of them."""
        text, links, rules = self.text[i], self.links[i], self.rules
        if links <= rules.link_density * text or text - links >= rules.link_free:
            return False
        if tag == "td":
            return self.anchors[i] >= rules.many_links
        if tag != "p":
            return True
        if links <= 0.75 * text or text >= 200:
            return False
        return self.anchors[i] >= rules.many_links or self.tags[self.parents[i]] not in ("li", "td", "dd")

    def _named(self, i: int, tag: str, found: Traits, share: float) -> bool:
        rules = self.rules
        if found.landmark and share <= rules.tag_share:
            return True
        if share > rules.named_share or tag == "main":
            return False
        if tag == "article":  # one of many on a list of articles has all sorts of names
            return found.beside
        if found.hidden:
            return True
        if not found.named:
            return False
        if found.posts and self._thread(i) > rules.thread_share * self.total:
            return False  # a forum's posts, each small, are the page together
        # A post that is quoted stands in a box named after where it was posted.
        return tag == "blockquote" or all(self.tags[child] != "blockquote" for child in self._children(i))

    def _thread(self, i: int) -> int:
        """Paragraph text of an element and those beside it that are posts too."""
        beside = self._children(self.parents[i])
        return sum(self.held[j] for j in beside if traits(self.tree.markup[self.opens[j]]).posts)

    def _children(self, i: int) -> Iterator[int]:
        """The rows of an element's children."""
        child, end = i + 1, self.ends[i]
        while child < end:
            yield child
            child = self.ends[child]

    def narrow(self) -> int:
        """The innermost element that still holds the page's paragraphs."""
        node, paragraphs, tags = 0, self.paragraphs, self.tags
        while held := paragraphs[node]:
            children = [i for i in self._children(node) if tags[i] not in PARAGRAPH and not self.gone(i)]
            best = max(children, key=paragraphs.__getitem__, default=node)
            content = [i for i in children if tags[i] in CONTENT_TAGS]
            if len(content) == 1 and paragraphs[content[0]] > self.rules.descend_content * held:
                best = content[0]
            elif best == node or paragraphs[best] < self.rules.descend * held:
                break
            node = best
        return node

    def drop_teasers(self) -> None:
        """Leave out rows of teasers: three or more siblings that are little more than a linked heading each."""
        groups: dict[tuple[int, str], dict[int, None]] = {}
        for i in self.headings:
            if self._linked(i):
                card = self._card(i)
                if card > 0:
                    groups.setdefault((self.parents[card], self.tags[card]), {})[card] = None
        total = max(self.paragraphs[0], 1)
        for cards in groups.values():
            if len(cards) >= 3 and sum(self.paragraphs[i] for i in cards) <= self.rules.named_share * total:
                for i in cards:
                    self._leave_out(i)

    def drop_other_stories(self) -> None:
        """Leave out what a heading says are other stories or comments: up to the next heading beside it."""
        texts, text = self.tree.texts, self.text
        limit = max(self.rules.tag_share * self.paragraphs[0], self.paragraphs[0] - self.rules.article)
        short = [i for i, (tag, size) in enumerate(zip(self.tags, text)) if 3 < size <= LONGEST and tag in ANNOUNCERS]
        for i in short:
            first = self.opens[i]
            line = "".join(texts[first : self.tree.closes[i]]) if self.tags[i] in HEADINGS else texts[first]
            if not line or line.lstrip()[:3].lower() not in STARTS:
                continue
            if not other_stories(" ".join(line.split())) or self.gone(i):
                continue
            while self.parents[i] > 0 and text[self.parents[i]] == text[i]:
                i = self.parents[i]  # alone in its box: it is the box that stands over the stories
            section, follower, held = [i], self.ends[i], 0
            while follower < self.ends[self.parents[i]] and self.tags[follower] not in HEADINGS:
                section.append(follower)
                held += self.paragraphs[follower]
                follower = self.ends[follower]
            if held <= limit:
                for j in section:
                    self._leave_out(j)

    def _linked(self, i: int) -> bool:
        """Whether a heading leads to another page: it holds a link, or stands in one."""
        up = self.parents[i]
        links = [up] if self.tags[up] == "a" else [j for j in range(i, self.ends[i]) if self.tags[j] == "a"]
        return bool(links) and not (attributes(self.tree.markup[self.opens[links[0]]]).get("href") or "#").startswith(
            "#"
        )

    def _card(self, i: int) -> int:
        """The largest element around a heading that is still no longer than a teaser."""
        while self.parents[i] > 0 and self.text[self.parents[i]] <= self.rules.teaser:
            i = self.parents[i]
        return i

    def drop_empty_headings(self) -> None:
        """Leave out headings whose section is gone: up to the next heading nothing follows but what was left out."""
        for i in self.headings:
            if not self.gone(i) and self._section_gone(self.tree.closes[i]):
                self._leave_out(i)

    def _section_gone(self, token: int) -> bool:
        """Whether nothing stands between the token that closes a heading and the next one but what was left out."""
        tree, gone = self.tree, False
        while token + 1 < len(tree.names) and (not tree.texts[token] or tree.texts[token].isspace()):
            token += 1
            name = tree.names[token]
            if name[0] == "/" or name in HEADINGS:
                return gone
            if token in tree.gone:
                gone, token = True, tree.gone[token]
            elif name[-1] != "/" and name not in DROP:
                return False
        return False

    def heading_outside(self, scope: int) -> int | None:
        """The page's one h1 when narrowing left it out: the title belongs to the text."""
        heading = self.tags.index("h1") if scope and self.tags.count("h1") == 1 else None
        if heading is None or scope <= heading < self.ends[scope]:
            return None
        up = heading
        while up >= 0:
            if self.gone(up):
                return None
            up = self.parents[up]
        return heading
