"""What a page of the documentation takes from the code when the site is built."""

from __future__ import annotations

from typing import Any

MARK = "<!-- the commands, as their help has them -->"


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: Any) -> str:
    """Put the help of all commands where a page has the mark for it.

    Args:
        markdown: The page as it is written.
        page: The page.
        config: The settings of the site.

    Returns:
        The page with what it takes from the code.
    """
    if MARK not in markdown:
        return markdown
    return markdown.replace(MARK, commands())


def commands() -> str:
    """Return the help of all commands as Markdown, without a title and a table of contents of its own."""
    from prefect_qatech.cli import app

    text = app.generate_docs()
    return text[text.index("## prefect-qatech ") :]
