"""One spelling per address, so that two ways to write it count as one page (§3.1.1)."""

from __future__ import annotations

import posixpath
import re
from urllib.parse import quote, unquote_to_bytes, urlsplit

TRACKING = re.compile(
    r"^(?:utm_\w+|fbclid|gclid|dclid|msclkid|yclid|mc_[ce]id|igshid|_ga|_gl|ref|ref_src|referrer|source|share|phpsessid|jsessionid|sid|sessionid|session_id|cmpid|ocid|spm)$",
    re.IGNORECASE,
)
INDEX = re.compile(r"/(?:index|default)\.(?:html?|php|aspx?)$", re.IGNORECASE)
SESSION = re.compile(r";(?:jsessionid|phpsessid|sid)=[^/?#]*", re.IGNORECASE)
HOST = re.compile(r"^[a-z][a-z0-9+.-]*://(?:[^/?#@]*@)?(\[[^\]]*\]|[^/?#:]*)", re.IGNORECASE)
SAFE = "!$&'()*+,;=:@-._~/"


def canonical(url: str) -> str:
    """The address without scheme, fragment, tracking parameters, default port and directory index.

    `canonical(canonical(u)) == canonical(u)`; what is no web address (a file's path) is returned as it is.
    """
    url = url.strip()
    try:
        parts = urlsplit(url if "://" in url else f"//{url}" if url.startswith("//") else url)
        host, port = (parts.hostname or "").lower().rstrip("."), parts.port
    except ValueError:
        return url
    if not host or parts.scheme not in ("http", "https", ""):
        return url
    host = host.removeprefix("www.")
    try:
        host = host.encode("idna").decode("ascii") if not host.isascii() else host
    except UnicodeError:
        pass
    if ":" in host:
        host = f"[{host}]"
    if port and port not in (80, 443):
        host = f"{host}:{port}"
    path = quote(unquote_to_bytes(SESSION.sub("", parts.path)), safe=SAFE) or "/"
    slash = path.endswith(("/", "/.", "/.."))
    path = posixpath.normpath(path)
    path = "/" + path.strip("/")
    path = INDEX.sub("/", f"{path}/" if slash and path != "/" else path)
    path = path.rstrip("/")
    asked = (quote(pair.strip(), safe=SAFE + "%?") for pair in parts.query.split("&"))
    pairs = sorted(pair for pair in asked if pair and not TRACKING.match(pair.partition("=")[0]))
    query = "?" + "&".join(pairs) if pairs else ""
    return f"//{host}{path}{query}"


def host_of(url: str) -> str:
    """The host of an address in lower case, without a final dot; empty for a file's path."""
    match = HOST.match(url)
    return match.group(1).lower().rstrip(".") if match else ""
