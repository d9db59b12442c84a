"""Screenshots: a page, drawn, that names the test and what came of it."""

from __future__ import annotations

import re
import textwrap
from html import escape

__all__ = ["screenshot"]

_COLOURS = {"PASSED": "#1a7f37", "FAILED": "#b42318"}
_NOT_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_WIDTH, _HEIGHT = 800, 450


def screenshot(name: str, state: str, reason: str | None, where: str) -> bytes:
    """Draw a page in a browser's window.

    Args:
        name: Of the test.
        state: What came of it, in the API's word.
        reason: Why, in a few words.
        where: What the address bar shows.

    Returns:
        An SVG document.
    """
    title = [
        f'<text x="40" y="{110 + 38 * row}" font-size="28" font-weight="bold">{_text(line)}</text>'
        for row, line in enumerate(_wrapped(name, 44, 4))
    ]
    why = [
        f'<text x="40" y="{325 + 26 * row}" font-size="18" fill="#444">{_text(line)}</text>'
        for row, line in enumerate(_wrapped(reason or "", 80, 4))
    ]
    drawing = (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{_HEIGHT}" '
        f'viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" role="img">'
        f"<title>{_text(name[:200])}</title>"
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff" stroke="#999"/>'
        f'<rect width="{_WIDTH}" height="44" fill="#e8e8ec"/>'
        '<circle cx="22" cy="22" r="6" fill="#bbb"/><circle cx="42" cy="22" r="6" fill="#bbb"/>'
        '<rect x="66" y="9" width="700" height="26" rx="13" fill="#fff"/>'
        f'<text x="82" y="27" font-size="14" fill="#555">{_text(where[:90])}</text>'
        f"{''.join(title)}"
        f'<rect x="40" y="255" width="200" height="36" rx="6" fill="{_COLOURS.get(state, "#6b6b76")}"/>'
        f'<text x="140" y="279" font-size="18" text-anchor="middle" fill="#fff">{_text(state[:18])}</text>'
        f"{''.join(why)}</svg>"
    )
    return drawing.encode()


def _wrapped(text: str, width: int, rows: int) -> list[str]:
    return textwrap.wrap(text[: 2 * width * rows], width, max_lines=rows, placeholder=" …")


def _text(text: str) -> str:
    return escape(_NOT_IN_XML.sub("\ufffd", text))
