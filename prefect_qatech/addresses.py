"""Web addresses: which are on this machine, and which may become links."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import quote, urlsplit

MAX_URL_LENGTH = 2_000
_WEB_ADDRESS = re.compile(r"https?://(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?(?:[/?#]\S*)?")

# A password that is not percent-encoded may hold what ends a host: what comes behind its colon is no port then.
_USER = re.compile(
    r"^(\s*(?:[a-z][a-z0-9+.-]*:)?[/\\]+)(?:[^/?#\\]*|[^/?#\\@:\[]*:(?![0-9]{0,5}(?:[/?#\\]|$)).*)@",
    re.IGNORECASE | re.DOTALL,
)


def is_loopback(host: str | None) -> bool:
    """Return whether a host is this machine: `localhost`, 127.0.0.0/8 or ::1. No name is looked up.

    Example:
        >>> is_loopback("127.0.0.1"), is_loopback("app.qa.tech")
        (True, False)
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def safe_url(url: str | None) -> str | None:
    """Return an address, percent-encoded, as it may become a link: https, or http of this machine, without a user name.

    Example:
        >>> safe_url("https://app.qa.tech/a(b)"), safe_url("javascript:alert(1)")
        ('https://app.qa.tech/a%28b%29', None)
    """
    # An address that ends in "…" was cut, and leads nowhere.
    if not url or url.endswith("…") or re.search(r"[\x00-\x20\x7f-\xa0]", url):
        return None
    try:
        parts = urlsplit(url)
        if parts.scheme == "http" and not is_loopback(parts.hostname):
            return None
        encoded = parts._replace(
            path=_quoted(parts.path), query=_quoted(parts.query), fragment=_quoted(parts.fragment)
        ).geturl()
    except (ValueError, UnicodeEncodeError):  # a host that is none, or half of a surrogate pair
        return None
    # No user name before the host, and no letters that look like others.
    return encoded if len(encoded) <= MAX_URL_LENGTH and _WEB_ADDRESS.fullmatch(encoded) else None


def without_password(url: str) -> str:
    """Return an address without user name and password: what is kept is read by more people than may sign in there.

    Example:
        >>> without_password("https://ada:secret@staging.example.com/shop")
        'https://staging.example.com/shop'
    """
    return _USER.sub(r"\1", url)


def _quoted(part: str) -> str:
    # "%" stays: the address is percent-encoded already where it is well formed.
    return quote(part, safe="%/:?#@$&+,;=-._~")
