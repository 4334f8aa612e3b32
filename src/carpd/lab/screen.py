"""What the demo shows while it runs: one block on a terminal that is drawn again and again, or plain lines."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from typing import TextIO

from carpd.lab import story
from carpd.lab.demo import ACTS, Demo
from carpd.lab.measure import ANSWER_NS, share_answered
from carpd.lab.story import FAMILIES, Step
from carpd.units import MILLISECOND, SECOND

_NETWORK = """\
             ┌─ fw-a ─┐
client ─ LAN ┤  sync  ├ WAN ─ server
             └─ fw-b ─┘"""

_CHARACTER_NS = 100 * MILLISECOND
"""What one character of a curve stands for."""

_CURVE_LIMIT = 60
_DRAW_NS = 100 * MILLISECOND
_BARS = "▁▂▃▄▅▆▇█"
_BOLD, _DIM, _RED, _GREEN, _CYAN, _YELLOW, _PLAIN = (f"\033[{n}m" for n in (1, 2, 31, 32, 36, 33, 0))
_ROLE_COLOURS = {"MASTER": _GREEN, "BACKUP": _CYAN, story.OFF: _RED}


class Screen:
    """Shows a demo on `out`. Give `show` to the demo, and call `close` at its end, also after an exception."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._live = out.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self._drawn = 0  # lines of the block that is on the terminal
        self._steps = 0  # steps that were printed
        self._act = ""
        self._drawn_ns = 0
        print(_NETWORK, end="\n\n", file=out, flush=True)

    def show(self, demo: Demo) -> None:
        for step in demo.story.steps[self._steps :]:
            self._print(self._result(step))
        self._steps = len(demo.story.steps)
        if self._live:
            now = time.monotonic_ns()
            if now >= self._drawn_ns + _DRAW_NS:
                self._drawn_ns = now
                self._draw(list(self._block(demo, now)))
        elif demo.act.name != self._act:
            self._act = demo.act.name
            seconds = (time.monotonic_ns() - demo.story.start_ns) / SECOND
            self._print(f"{seconds:5.1f} s  {demo.act.name}: {demo.act.what}")

    def close(self) -> None:
        """Leave the terminal as it was, with the steps above the cursor."""
        self._draw([])

    def _result(self, step: Step) -> str:
        name, master, _, _, _, bound, connections, _, stall, verdict = story.row(step)
        measured = f"connections {connections}"
        if step.bound_ns is not None:
            gap_ms = max(map(step.gap_ns, FAMILIES)) / MILLISECOND
            measured = f"gap {gap_ms:.0f} ms, bound {bound}, {measured}, stall {stall}"
        mark = self._coloured("✗ ", _RED) if step.fault else self._coloured("✓ ", _GREEN)
        return f"{mark}{name:<14}{master:<14}{measured}{'' if verdict == 'ok' else '  ' + verdict}"

    def _print(self, line: str) -> None:
        self._draw([])
        print(line, file=self._out, flush=True)

    def _draw(self, lines: list[str]) -> None:
        """Replace the block."""
        text = f"\033[{self._drawn}F\033[J" if self._drawn else ""
        text += "".join(f"{line}\n" for line in lines)
        self._drawn = len(lines)
        self._out.write(text)
        self._out.flush()

    def _block(self, demo: Demo, now: int) -> Iterator[str]:
        width = min(shutil.get_terminal_size().columns - 28, _CURVE_LIMIT)
        number = ACTS.index(demo.act) + 1
        yield ""
        yield (
            f"{self._coloured(f'{number}/{len(ACTS)} {demo.act.name}', _BOLD)}: {demo.act.what}"
            f"  {self._coloured(f'{(now - demo.story.start_ns) / SECOND:.1f} s', _DIM)}"
        )
        yield "   ".join(self._role(name, states) for name, states in demo.states.items())
        if width <= 0:
            return
        for family in FAMILIES:
            end = now - ANSWER_NS
            start = end - width * _CHARACTER_NS
            records = demo.streams(family)
            parts = zip(*(share_answered(r.sent, r.received, start, end, width) for r in records), strict=True)
            curve = "".join(self._probes(part) for part in parts)
            answered = all(record.answered_since(end - _CHARACTER_NS) for record in records)
            yield f"{family} probes    {curve} {'answered' if answered else self._coloured('LOST', _RED)}"
        broken = self._coloured(f", {len(demo.broken())} broken", _RED) if demo.broken() else ""
        yield f"connections    {len(demo.connections())}{broken}"
        for family, download in demo.downloads.items():
            rates = download.throughput(now - width * _CHARACTER_NS, now, width)
            top = max(*rates, 1.0)
            curve = "".join(_BARS[round(rate / top * (len(_BARS) - 1))] if rate else " " for rate in rates)
            yield f"{family} download  {curve} {rates[-2] / 1e6:.0f} Mbit/s"

    def _role(self, name: str, states: dict[str, str]) -> str:
        role = story.role(states)
        return f"{self._coloured(name, _BOLD)} {self._coloured(role, _ROLE_COLOURS.get(role, _YELLOW)):<24}"

    def _probes(self, shares: tuple[float | None, ...]) -> str:
        """One character for a tenth of a second of all streams of a family."""
        known = [share for share in shares if share is not None]
        if not known:
            return " "
        worst = min(known)
        return self._coloured(_BARS[round(worst * (len(_BARS) - 1))], _GREEN if worst == 1 else _RED)

    def _coloured(self, text: str, colour: str) -> str:
        return f"{colour}{text}{_PLAIN}" if self._live else text
