"""Web addresses: which of them are this machine, and which may become links."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit


def is_loopback(host: str | None) -> bool:
    """Return whether a host is this machine. No name is looked up but `localhost`.

    Args:
        host: The host of an address, without brackets.

    Returns:
        True for `localhost`, 127.0.0.0/8 and ::1.

    Example:
        ```python
        is_loopback("127.0.0.1")  # True
        ```
    """
    try:
        return host == "localhost" or ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def is_web_link(url: str | None) -> bool:
    """Return whether an address of the service may become a link: https, or http on this machine.

    Args:
        url: The address.

    Returns:
        Whether it leads where it says, without a user name or characters that could be markup.

    Example:
        ```python
        is_web_link("https://app.qa.tech/p/shop/results/abc123")  # True
        ```
    """
    if not url or len(url) > 2_000 or not re.fullmatch(r"https?://[!#-&*-;=?-\[\]-~]+", url, re.IGNORECASE):
        return False
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    if not parts.hostname or parts.username is not None:
        return False
    return parts.scheme == "https" or is_loopback(parts.hostname)
