"""Keys and tokens that open something: known by how their makers begin them, or by a name and their entropy (§3.1.1).

Documentation is full of made-up ones ("xxxx", "your-key-here", a run of one letter); those are told by their entropy.
"""

from __future__ import annotations

import math
import re
from collections import Counter

_PREFIXED = (
    r"(?:AKIA|ASIA)[A-Z0-9]{16}"  # Amazon
    r"|gh[pousr]_[A-Za-z0-9]{36,251}|github_pat_[A-Za-z0-9_]{60,100}"
    r"|glpat-[A-Za-z0-9_-]{20,64}"
    r"|xox[abposr]-[A-Za-z0-9-]{20,200}"  # Slack
    r"|sk-(?:proj-|ant-|svcacct-)?[A-Za-z0-9_-]{20,200}"
    r"|(?:sk|rk|pk)_live_[A-Za-z0-9]{20,100}"  # Stripe
    r"|AIza[A-Za-z0-9_-]{35}"  # Google
    r"|hf_[A-Za-z0-9]{30,60}"
    r"|npm_[A-Za-z0-9]{36}|pypi-[A-Za-z0-9_-]{60,250}"
    r"|SG\.[A-Za-z0-9_-]{20,24}\.[A-Za-z0-9_-]{39,50}"  # SendGrid
    r"|eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{20,}"  # JSON web token
)
_NAMED = r"(?:api[_-]?key|secret|token|password|passwd)[\"']?[ \t]{0,3}[:=][ \t]{0,3}[\"'][A-Za-z0-9+/_=-]{20,128}[\"']"
SECRET = re.compile(rf"(?<![\w-])(?:{_PREFIXED})(?![\w-])|(?i:\b{_NAMED})")
PRIVATE_KEY = re.compile(
    r"-----BEGIN (?:[A-Z]{2,9} )?PRIVATE KEY-----[A-Za-z0-9+/=\s]{40,8000}"
    r"(?:-----END (?:[A-Z]{2,9} )?PRIVATE KEY-----)?"
)
_STARTS = "AKIA ASIA ghp_ gho_ ghu_ ghs_ ghr_ github_pat_ glpat- xox sk- k_live_ AIza hf_ npm_ pypi- SG. eyJ"
STARTS = tuple(_STARTS.split())
TOKEN_START = re.compile("|".join(map(re.escape, STARTS)))
QUOTED = re.compile(r"[:=][ \t]{0,3}[\"'][A-Za-z0-9+/_=-]{20}")


def may_hold_secret(text: str) -> bool:
    """Whether anything begins like a secret; much quicker than looking for one."""
    return any(start in text for start in STARTS) or QUOTED.search(text) is not None


LEAST_ENTROPY = 3.0
"""Bits per character of the random part, below which a key is an example; 20 random base64 characters have over 3.5."""
VALUE = re.compile(r"[A-Za-z0-9+/_=-]{16,}(?=[\"']?$)")


def is_secret(hit: str) -> bool:
    """Whether a key or token is as random as real ones are."""
    value = VALUE.search(hit)
    text = value.group() if value else hit
    if "_live_" in text or text[:4] in ("ghp_", "gho_", "ghu_", "ghs_", "ghr_"):
        text = text.rpartition("_")[2]
    if entropy(text) < LEAST_ENTROPY or not any(map(str.isdigit, text)):
        return False
    words = text.lower()
    return not any(word in words for word in ("example", "your", "xxxx", "12345678"))


def entropy(text: str) -> float:
    """Bits per character of a text's own distribution of characters."""
    total = len(text)
    return -sum(n / total * math.log2(n / total) for n in Counter(text).values()) if total else 0.0
