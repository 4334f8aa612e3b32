"""What makes output readable on a terminal; what goes to a file or another program has none of it."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import TextIO

_CODES = {"MASTER": "32", "BACKUP": "36", "INIT": "31", "bold": "1", "trouble": "33"}


class Style:
    """How a stream wants its text."""

    def __init__(self, stream: TextIO) -> None:
        """Ref: https://no-color.org"""
        self.terminal = stream.isatty()
        self._coloured = self.terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def paint(self, text: str, how: str) -> str:
        """As a state ("MASTER"), as the most important ("bold"), or as what is not as it should be ("trouble")."""
        return f"\033[{_CODES[how]}m{text}\033[0m" if self._coloured and how in _CODES else text

    def bar(self, part: float, width: int = 24) -> str:
        """How much of something is done, from 0 to 1; nothing where nobody watches."""
        full = int(width * min(max(part, 0.0), 1.0))
        return f"[{'#' * full}{'-' * (width - full)}] {100 * part:.0f} %" if self.terminal else ""

    def screen(self, lines: Iterable[str]) -> str:
        """What replaces the screen by these lines, as many as it has room for."""
        _, height = os.get_terminal_size()
        shown = list(lines)
        if len(shown) >= height:
            shown[height - 2 :] = [f"... {len(shown) - height + 2} more lines"]
        return "\033[H" + "".join(f"{line}\033[K\n" for line in shown) + "\033[J"


def aligned(rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """The cells of a table, each as wide as its column."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
