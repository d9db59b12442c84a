"""The README and the pages of the documentation, as tests read them."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {
    str(path.relative_to(ROOT / "docs")): path.read_text(encoding="utf-8")
    for path in sorted((ROOT / "docs").rglob("*.md"))
}
DOCUMENTS = {"README.md": README, **PAGES}


def blocks(text: str, language: str = "") -> list[str]:
    """Return the code blocks of a language, in order; without one, those that name none."""
    found = re.findall(r"^```([a-z]*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [block for named, block in found if named == language]


def shell(text: str) -> list[tuple[str, str]]:
    """Return the blocks of commands, in order, each with the comment above it: where it is run, or why not."""
    found = re.findall(r"^(?:<!-- ((?:not )?run.*?) -->\n\n)?```sh\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    return [(block, note) for note, block in found]


def section(text: str, heading: str) -> str:
    """Return what stands below a heading, up to the next one of its level or above."""
    level, rest = re.split(rf"^(?=#+ {re.escape(heading)}$)", text, flags=re.MULTILINE)[1].split(" ", 1)
    return re.split(rf"^#{{1,{len(level)}}} ", rest, flags=re.MULTILINE)[0]


def rows(text: str) -> list[list[str]]:
    """Return the cells of the tables of a text, without their heads."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rules = [number for number, row in enumerate(cells) if set("".join(row)) == {"-"}]
    return [row for number, row in enumerate(cells) if number not in rules and number + 1 not in rules]
