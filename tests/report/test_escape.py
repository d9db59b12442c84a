"""Text of the service shows as text, and addresses lead where they say."""

from __future__ import annotations

import re
from collections.abc import Callable
from xml.etree import ElementTree

import pytest
from hypothesis import given, settings, strategies as st

from prefect_qatech.addresses import safe_url
from prefect_qatech.report.escape import cell_text, html_text, link, markdown_text, plain_text, xml_text
from tests.report.reading import HOSTILE, invisible, render

# Half of the characters mean something to Markdown or HTML, or hide something.
TEXTS = st.text(
    st.one_of(st.sampled_from("*_`[](){}<>&#!|\\~:/.@-+=1w \n\t\u200b\u202e\"'ahtps"), st.characters()), max_size=60
)
CONTEXTS = {
    "paragraph": ("{}", {"p", "wbr"}),
    "list item": ("- {}", {"ul", "li", "wbr"}),
    "bold": ("- **x {} x**: y", {"ul", "li", "strong", "wbr"}),
    "before a link": ("{}[ours](https://ours.example)", {"p", "wbr", "a"}),
    "cell": ("| a | b |\n| - | - |\n| {} | y |", {"table", "thead", "tbody", "tr", "th", "td", "wbr"}),
    "html": ("- x\n\n  <details><summary>y</summary>{}</details>", {"ul", "li", "p", "details", "summary", "wbr"}),
}


def assert_shows(context: str, text: str) -> None:
    template, tags = CONTEXTS[context]
    escaped = html_text(text, 80) if context == "html" else markdown_text(text, 80)
    shown, expected = render(template.format(escaped)), plain_text(text, 80)
    # One of Prefect's UIs makes a link of these alone, which the renderer here does not.
    assert not re.search(r"www\.|://|\w@\w", escaped, re.IGNORECASE)
    assert shown.tags <= tags, (shown.tags, text)
    assert shown.images == []
    assert shown.links == (["https://ours.example"] if context == "before a link" else [])
    assert shown.items <= 1
    assert shown.cells == (2 if context == "cell" else 0)
    ours = render(template.format("")).text.split()
    assert " ".join(shown.text.split()) == " ".join(template_text(context, expected).split()), ours


def template_text(context: str, text: str) -> str:
    return {
        "paragraph": text,
        "list item": text,
        "bold": f"x {text} x: y",
        "before a link": f"{text}ours",
        "cell": f"a b {text} y",
        "html": f"x y{text}",
    }[context]


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_shows_as_text(kind: str) -> None:
    for context in CONTEXTS:
        assert_shows(context, HOSTILE[kind])


@settings(max_examples=150)
@given(context=st.sampled_from(sorted(CONTEXTS)), text=TEXTS)
def test_any_text_shows_as_text(context: str, text: str) -> None:
    assert_shows(context, text)


@settings(max_examples=150)
@given(text=TEXTS)
def test_any_text_in_a_table_artifact_shows_alike_as_markdown_and_raw(text: str) -> None:
    cell = cell_text(text, 80)
    # GFM, which the UI's renderer follows, makes no links of bare domains; with "www." it does.
    shown = render(cell, bare_domains=False)
    assert shown.tags <= {"p"}
    assert " ".join(shown.text.split()) == cell
    assert "://" not in cell
    assert "www." not in cell.lower()


@pytest.mark.parametrize("kind", HOSTILE)
def test_hostile_text_in_a_table_artifact(kind: str) -> None:
    cell = cell_text(HOSTILE[kind], 200)
    assert render(cell, bare_domains=False).tags <= {"p"}
    assert not re.search(r"[&<>`*_\[\]|\\~@]|://|www\.", cell)


@pytest.mark.parametrize("escape", [plain_text, markdown_text, html_text, cell_text, xml_text])
def test_nothing_invisible_remains(escape: Callable[[str, int], str]) -> None:
    assert {kind: invisible(escape(text, 200)) for kind, text in HOSTILE.items()} == {kind: [] for kind in HOSTILE}


@settings(max_examples=100)
@given(text=st.text(st.characters(exclude_categories=()), max_size=60))
def test_any_text_is_xml(text: str) -> None:
    element = ElementTree.Element("x", {"a": xml_text(text, 80)})
    element.text = xml_text(text, 80)
    again = ElementTree.fromstring(ElementTree.tostring(element))
    assert (again.text or "") == xml_text(text, 80)


def test_text_that_hides_what_follows_is_made_visible() -> None:
    assert plain_text("abc\u202egpj", 20) == "abc\ufffdgpj"
    assert plain_text("a\x1b[31mb", 20) == "a\ufffd[31mb"
    assert plain_text("a\u200bb", 20) == "ab"
    assert plain_text("a\ufffeb\U0001ffffc\ufdd0", 20) == "a\ufffdb\ufffdc\ufffd"


@pytest.mark.parametrize("escape", [markdown_text, html_text])
@pytest.mark.parametrize("text", ["@admin", ":smile:", "a@evil.com", "https://evil.com", "www.evil.com", "evil.com"])
def test_what_other_places_resolve_is_broken(escape: Callable[[str, int], str], text: str) -> None:
    """GitHub and GitLab look for these in the rendered text, which no renderer here shows."""
    assert "<wbr>" in escape(text, 50)
    assert render(escape(text, 50)).text.strip() == text


def test_lines_are_kept_where_they_may_be() -> None:
    assert xml_text("a\r\n\n b\u2028c", 50) == "a\n\nb\nc"
    assert plain_text("a\r\n\n b\u2028c", 50) == "a b c"


@pytest.mark.parametrize("escape", [plain_text, cell_text, xml_text])
@pytest.mark.parametrize("length", [1, 10, 99])
def test_cut_texts_say_so(escape: Callable[[str, int], str], length: int) -> None:
    assert len(escape("ä" * 100_000, length)) == length
    assert escape("ä" * 100_000, length).endswith("…")
    assert escape("ä" * length, length) == "ä" * length
    assert escape("\u200b" * 100_000 + "ä", length).endswith("…")


@pytest.mark.parametrize("url", ["https://app.qa.tech/x?a=1&copy=2", "https://a.example/x)](javascript:1)", "/x", None])
def test_links(url: str | None) -> None:
    page = render(f"a {link('text', url)} b")
    assert page.links == ([safe_url(url)] if safe_url(url) else [])
    assert page.text.strip() == "a text b"


@settings(max_examples=100)
@given(path=TEXTS, text=TEXTS)
def test_no_address_breaks_out_of_its_link(path: str, text: str) -> None:
    page = render(f"| x |\n| - |\n| {link(text, 'https://ours.example/' + path, 80)} |")
    assert page.cells == 1
    assert page.tags <= {"table", "thead", "tbody", "tr", "th", "td", "a", "wbr"}
    assert all(address.startswith("https://ours.example/") for address in page.links)
    assert " ".join(page.text.split()) == " ".join(f"x {plain_text(text, 80)}".split())
