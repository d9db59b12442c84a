"""Pure: how much of the service's texts a report takes; Prefect stores it as a result."""

from __future__ import annotations

import json

from prefect_qatech.texts import cut


def cut_to_bytes(text: str | None, length: int, size: int) -> str | None:
    """Return a text of limited length, and of limited size where it is stored.

    Args:
        text: A text from elsewhere; None stays None.
        length: How many characters it may have.
        size: How many bytes it may take as JSON in UTF-8.
    """
    kept = None if text is None else cut(text, length)
    while kept and kept != "…" and len(json.dumps(kept, ensure_ascii=False).encode()) > size:
        kept = cut(kept, max(1, len(kept) * 2 // 3))
    return kept
