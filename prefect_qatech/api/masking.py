"""Taking the API token out of what QA.tech answers, however it is written there. Pure."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable
from functools import cache, cached_property
from html.entities import html5

_MASK = b"**********"
_MIN_TOKEN_LENGTH = 12
_ESCAPES = (b"%", b"\\/", b"\\u", b"&")


class TokenMask:
    """Masks one token: as it is, as JSON, HTML or an address may write each of its characters, and in base64.

    A short token would be found in words, so it is masked as it is, and only in texts that are shown anyway.
    """

    def __init__(self, token: str) -> None:
        self._is_short = len(token) < _MIN_TOKEN_LENGTH
        self._forms = [token] if self._is_short else [token, *_in_base64(token)]
        written = [*self._forms, json.dumps(token)[1:-1]]
        self._written = [form.encode() for form in dict.fromkeys(written) if form]

    def in_body(self, content: bytes) -> bytes:
        """Return the body of an answer, without the token."""
        return content if self._is_short else self._without_it(_in_utf_8(content))

    def in_text(self, text: str) -> str:
        """Return a text that is about to be shown, without the token."""
        return self._without_it(text.encode(errors="surrogatepass")).decode(errors="surrogatepass")

    def _without_it(self, content: bytes) -> bytes:
        for form in self._written:
            content = content.replace(form, _MASK)
        # Most answers escape nothing that a token has, and are not looked through character by character.
        if not self._is_short and any(escape in content for escape in _ESCAPES):
            for pattern in self._escaped:
                content = pattern.sub(_MASK, content)
        return content

    @cached_property
    def _escaped(self) -> list[re.Pattern[bytes]]:
        return [re.compile("".join(map(_in_any_way, form)).encode()) for form in self._forms]


def _in_utf_8(content: bytes) -> bytes:
    """Return a body in UTF-8, where it is in another encoding that Python takes for JSON."""
    encoding = json.detect_encoding(content)
    if encoding.startswith("utf-8"):
        return content
    try:
        return content.decode(encoding, errors="surrogatepass").encode(errors="surrogatepass")
    except UnicodeDecodeError:
        return content


def _in_base64(token: str) -> Iterable[str]:
    """Return what base64 makes of the token, whatever stands before and behind it: "Bearer ", for example."""
    for before in range(3):
        encoded = base64.b64encode(b"\0" * before + token.encode()).decode().rstrip("=")
        # The first and the last character may hold bits of the neighbours.
        whole = encoded[(0, 2, 3)[before] : (before + len(token)) * 8 // 6]
        yield from dict.fromkeys((whole, whole.replace("+", "-").replace("/", "_")))


@cache
def _in_any_way(character: str) -> str:
    """Return a pattern of a character as it is, percent-encoded, and escaped in JSON or HTML, each also repeatedly."""
    plain, code = re.escape(character), f"(?i:{ord(character):02x})"
    # Limited, as a long row of backslashes would be looked through again from each of them.
    escape = r"\\{1,8}"
    percent = f"(?:%|{escape}u0025)(?:25){{0,4}}{code}"
    names = "".join(f"|{name}" for name, meant in html5.items() if meant == character and name.endswith(";"))
    numbers = f"#0{{0,6}}{ord(character)};?|#[xX]0{{0,6}}{code};?"
    reference = f"(?:&|{escape}u0026)(?:amp;){{0,4}}(?:{numbers}{names})"
    return f"(?:{plain}|{percent}|{reference}|{escape}(?:u00{code}|{plain}))"
