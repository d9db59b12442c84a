"""Tables and bars, as the benches print them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Bar:
    """What was promised, and what was measured.

    Attributes:
        promise: The bar, in words.
        measured: What came of it, in words.
        met: Whether it is met.
    """

    promise: str
    measured: str
    met: bool


def print_table(title: str, heads: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table with a title; numbers to the right."""
    cells = [[f"{cell:,.2f}" if isinstance(cell, float) else str(cell) for cell in row] for row in [heads, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heads))]
    print(f"\n{title}")
    for number, row in enumerate(cells):
        print("  " + "  ".join(_aligned(cell, width) for cell, width in zip(row, widths, strict=True)).rstrip())
        if number == 0:
            print("  " + "  ".join("-" * width for width in widths))


def _aligned(cell: str, width: int) -> str:
    return cell.rjust(width) if cell[:1].isdigit() else cell.ljust(width)


def print_bars(bars: Sequence[Bar]) -> None:
    """Print which bars are met."""
    print("\nBars")
    for bar in bars:
        print(f"  {'met     ' if bar.met else 'NOT MET '} {bar.promise}: {bar.measured}")
