"""Text: cut to a length, cleaned of what cannot be stored, hashed, counted and listed; and times as they are read."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from typing import TypeVar

ItemT = TypeVar("ItemT")

_NO_CHARACTER = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")


def cut(text: str, max_length: int, *, goes_on: bool = False) -> str:
    """Return a text of limited length, which ends in "…" where it was longer, or is the beginning of one that was."""
    return text[: max_length - 1].rstrip() + "…" if goes_on or len(text) > max_length else text


def cut_to_bytes(text: str | None, max_length: int, max_bytes: int) -> str | None:
    """Return a text that is no longer than this, and no larger as JSON in UTF-8; None stays None."""
    kept = None if text is None else cut(text, max_length)
    while kept and kept != "…" and len(json.dumps(kept, ensure_ascii=False).encode()) > max_bytes:
        kept = cut(kept, max(1, len(kept) * 2 // 3))
    return kept


def clean_text(text: str) -> str:
    """Return a text that can be stored and sent: PostgreSQL takes no NUL, and no encoding takes half a character.

    Tabs and line breaks stay; a replacement character stands for what is none.
    """
    return _NO_CHARACTER.sub("\ufffd", text)


def short_hash(text: str, length: int = 16) -> str:
    """Return so many digits of a hash of a text, which tell it from others in a key or a name."""
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:length]


def counted(count: int, what: str) -> str:
    """Return "1 test", "2 tests"."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


def listed(items: Sequence[ItemT], most: int, show: Callable[[ItemT], str] = str) -> str:
    """Return the first of several things in words, and how many more there are: "a, b and 3 more"."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return ", ".join(map(show, items[:most])) + more


def in_utc(moment: datetime) -> datetime:
    """Return a moment in UTC; one without a time zone is taken to be in UTC."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)


def http_date(header: str) -> datetime | None:
    """Return the time that the header of an HTTP answer tells; None where it makes no sense."""
    try:
        return in_utc(parsedate_to_datetime(header))
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
