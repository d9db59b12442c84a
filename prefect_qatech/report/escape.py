"""Text from elsewhere, made safe for where it is shown.

Names, titles and thoughts come from an agent that reads third-party pages. Here they become text that shows as text,
and addresses become links only where they lead where they say. Nothing from the service goes into a report otherwise.

What is cut ends in "…". Invisible characters are dropped, and those that hide or reorder what follows (control
characters, overrides of the writing direction) show as "\N{REPLACEMENT CHARACTER}".
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from functools import lru_cache

from prefect_qatech.addresses import safe_url
from prefect_qatech.texts import cut, short_hash

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_DIRECTION = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_BLANKS = frozenset("\u115f\u1160\u2800\u3164\uffa0")  # letters by their category, and nothing to see

# Characters that begin a list, a heading or a rule at the beginning of a line.
_START = re.compile(r"^[0-9]{0,9}[-+=.)#:]")
_MARKUP = frozenset("&<>\"'`*_[]{}|\\~#$!")
# One UI of Prefect knows these references alone outside of HTML, and shows any other as it is written.
_REFERENCES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;"}
# A renderer that looks for bare addresses, mentions and emoji names looks for them after references were resolved, so
# that only a break between two pieces of text keeps it from finding one.
_SPECIAL = re.compile(
    r"""(?P<breaks>[:.@#](?=[^\s.])|/(?=/)|(?<=ww)w(?=\.))|[&<>"'`*_\[\]{}|\\~#$!]|[-+=.):]""", re.IGNORECASE
)
# In a table artifact a cell is Markdown and HTML to the one UI and plain text to the other. Only another character is
# safe in both: the full-width form, which reads alike and means nothing.
_CELL = re.compile(r"[&<>`*_\[\]|\\~@]|/(?=/)|(?<=www)\.", re.IGNORECASE)


def plain_text(text: str, max_length: int) -> str:
    """Return a text as one line that shows what it holds, without what is invisible: for terminals, attributes, JSON.

    Example:
        >>> plain_text("  Pay\\nby card ", 100)
        'Pay by card'
    """
    # Four times the length leaves room for dropped characters, without reading a megabyte for its first line.
    start = text[: 4 * max_length]
    line = " ".join("".join(map(_visible, start)).split())
    return cut(line, max_length, goes_on=len(start) < len(text))


@lru_cache(maxsize=4096)
def _visible(character: str) -> str:
    category, code = unicodedata.category(character), ord(character)
    if character.isspace() or character in _BLANKS:
        return " "
    if category in ("Cc", "Cs") or character in _DIRECTION or code & 0xFFFE == 0xFFFE or 0xFDD0 <= code <= 0xFDEF:
        return _REPLACEMENT
    return "" if category == "Cf" else character


def xml_text(text: str, max_length: int) -> str:
    """Return a text of several lines, without anything that XML 1.0 does not allow or that does not show.

    Example:
        >>> xml_text("it said\\x00\\n<b>", 100)
        'it said\N{REPLACEMENT CHARACTER}\\n<b>'
    """
    start = text[: 4 * max_length]
    joined = "\n".join(plain_text(line, max_length) for line in start.splitlines()).strip()
    return cut(joined, max_length, goes_on=len(start) < len(text))


def markdown_text(text: str, max_length: int) -> str:
    """Return a text as Markdown that shows exactly this text, in a paragraph, a list or a table cell.

    Args:
        text: A text from elsewhere.
        max_length: How many characters may show; the Markdown is longer.

    Returns:
        Markdown without emphasis, links, images, tags, bare addresses or line breaks.

    Example:
        >>> markdown_text("*Pay* <b>", 100)
        '\\\\*Pay\\\\* &lt;b&gt;'
    """
    return _escaped(text, max_length, lambda character: _REFERENCES.get(character, f"\\{character}"))


def html_text(text: str, max_length: int) -> str:
    """Return a text that shows exactly this text inside of HTML in Markdown, where a backslash would show.

    The HTML is longer than what may show of the text, and has no tags but `<wbr>`, bare addresses or line breaks.

    Example:
        >>> html_text("*Pay* <b>", 100)
        '&#42;Pay&#42; &#60;b&#62;'
    """
    return _escaped(text, max_length, lambda character: f"&#{ord(character)};")


def _escaped(text: str, max_length: int, escape: Callable[[str], str]) -> str:
    line = plain_text(text, max_length)
    start = _START.match(line)

    def replace(match: re.Match[str]) -> str:
        is_markup = match[0] in _MARKUP or (start is not None and match.end() == start.end())
        return (escape(match[0]) if is_markup else match[0]) + ("<wbr>" if match["breaks"] else "")

    return _SPECIAL.sub(replace, line)


def cell_text(text: str, max_length: int) -> str:
    """Return a text for a cell of a Prefect table artifact, where one UI renders Markdown and the other shows it raw.

    Example:
        >>> cell_text("<b>Pay</b>", 100)
        '＜b＞Pay＜/b＞'
    """
    line = _START.sub(lambda match: match[0][:-1] + _full_width(match), plain_text(text, max_length), count=1)
    return _CELL.sub(_full_width, line)


def _full_width(match: re.Match[str]) -> str:
    return chr(ord(match[0][-1]) + 0xFEE0)


def key_text(name: str, separator: str = "-") -> str:
    """Return a name as part of a key: lower case letters and digits, and a separator between its words.

    Different names give different keys: where letters are lost (capitals, accents, blanks), a short hash of the name
    stands behind the rest. The ids of test plans and simple names with dashes keep their form.

    Example:
        >>> key_text("pln_smoke"), key_text("nightly-eu"), key_text("Nightly EU")
        ('pln-smoke', 'nightly-eu', 'nightly-eu-a325ce42')
    """
    words = re.findall(r"[a-z0-9]+", name.lower())
    is_plan = words[:1] == ["pln"] and len(words) > 1
    plain = f"{'-'.join(words[:-1])}_{words[-1]}" if is_plan else "-".join(words)
    return separator.join(words if name == plain else [*words, short_hash(name, 8)])


def cut_key(key: str, max_length: int) -> str:
    """Return a key of limited length, 20 at least; a short hash at its end keeps it different from any other."""
    return key if len(key) <= max_length else f"{key[: max_length - 8]}{short_hash(key, 8)}"


def link(text: str, url: str | None, max_length: int = 200) -> str:
    """Return a Markdown link, or the text alone where the address may not become one.

    Args:
        text: What is shown; escaped here.
        url: An address from elsewhere.
        max_length: How many characters of the text may show.

    Example:
        >>> link("test", "https://app.qa.tech/x"), link("test", "javascript:alert(1)")
        ('[test](https://app.qa.tech/x)', 'test')
    """
    label, address = markdown_text(text, max_length), safe_url(url)
    # "&copy=" in an address is a character reference to some parsers.
    return f"[{label}]({address.replace('&', '&amp;')})" if address and label else label
