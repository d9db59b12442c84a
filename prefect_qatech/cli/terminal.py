"""What a terminal is like: columns that fit it, and colours, which nothing else gets."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import IO

from rich.console import Console
from rich.text import Text

MIN_WIDTH, MAX_WIDTH = 60, 120
_STYLES = {
    "green": ("ok", "pass", "passed", "yes", "PASS"),
    "yellow": ("note", "inconclusive", "flaky", "INCONCLUSIVE"),
    "red": ("wrong", "fail", "failed", "no", "FAIL", "OPEN"),
    "dim": ("skipped",),
}
BAR_STYLE, ASIDE_STYLE = "cyan", "dim"
_COLOURS = {word: colour for colour, words in _STYLES.items() for word in words}
_FIRST_WORD = re.compile(rf"^ *({'|'.join(_COLOURS)})(?=[ :]|$)")


def terminal_width() -> int:
    """Return how many columns a line may have: 80 where stdout is no terminal."""
    return max(MIN_WIDTH, min(MAX_WIDTH, shutil.get_terminal_size((80, 24)).columns))


def row(cells: Sequence[tuple[str, int]], text: str, width: int) -> list[str]:
    """Return the lines of a row: cells of a fixed width, then a text that goes on below itself.

    A cell that is longer pushes the rest aside; a word that is longer, an address for example, is not broken.
    """
    head = "".join(f"{cell:<{room}}  " for cell, room in cells)
    indent = " " * sum(room + 2 for _, room in cells)
    told = textwrap.wrap(
        text,
        max(width, len(indent) + 20),
        initial_indent=head,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return [line.rstrip() for line in told or [head]]


def show(lines: Iterable[str], file: IO[str] | None = None) -> None:
    """Print lines; in a terminal, a verdict at the beginning of a line has its colour.

    Where whoever reads them has gone (`| head`), the rest is not printed: that is no error, as any other OSError is.
    """
    file = file or sys.stdout
    try:
        if file.isatty():
            _show_in_colour(lines, file)
        else:
            for line in lines:
                print(line, file=file, flush=True)
    except BrokenPipeError:
        # Python would fail for it once more when it ends.
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())


def _show_in_colour(lines: Iterable[str], file: IO[str]) -> None:
    console = Console(file=file, highlight=False)
    for line in lines:
        text = Text(line)
        if judged := _FIRST_WORD.match(line):
            text.stylize(_COLOURS[judged[1]], *judged.span(1))
        console.print(text, soft_wrap=True)
