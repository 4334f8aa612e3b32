"""The demo as a picture: time across, the role of each node, the probes that were lost, the throughput.

It is SVG without anything from elsewhere; `render` puts it into a page with the table, or returns it alone.
Light or dark as the reader's system is.
"""

from __future__ import annotations

import html
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from carpd.lab.story import COLUMNS, FAMILIES, Span, Story, row
from carpd.units import SECOND

_WIDTH = 1180
_LEFT, _RIGHT = 92, 20
_BAR = 18
_TOP = 58  # below the names of the steps
_LANES = {
    "fw-a lan": _TOP,
    "fw-a wan": _TOP + 20,
    "fw-b lan": _TOP + 62,
    "fw-b wan": _TOP + 82,
    "lost IPv4": _TOP + 124,
    "lost IPv6": _TOP + 144,
}
_CURVE_TOP, _CURVE_HEIGHT = _TOP + 186, 110
_AXIS = _CURVE_TOP + _CURVE_HEIGHT
_HEIGHT = _AXIS + 34
_NARROWEST = 1.5  # a lost probe is a millisecond and has to be seen

_LIGHT = {
    "text": "#1f2933", ".soft": "#68737d", ".line": "#c5ccd3", ".lane": "#f0f3f5", ".MASTER": "#12855f",
    ".BACKUP": "#7ba7cf", ".INIT": "#d9962b", ".off": "#b4bcc4", ".lost": "#d03b3b", ".IPv4": "#2563b8",
    ".IPv6": "#a34fa0", ".in": "#ffffff",
}  # fmt: skip
_DARK = {
    "text": "#e6ebef", ".soft": "#9aa5ae", ".line": "#3a444d", ".lane": "#222a31", ".MASTER": "#1f9a72",
    ".BACKUP": "#4f7ca6", ".INIT": "#c98f35", ".off": "#56616b", ".lost": "#f26d6d", ".IPv4": "#6fa8f5",
    ".IPv6": "#d58ad2",
}  # fmt: skip


def _colours(palette: Mapping[str, str]) -> str:
    """CSS rules. No variables: image viewers know none."""
    return "".join(
        f"svg {what}{{{'stroke' if what in _STROKED else 'fill'}:{colour}}}" for what, colour in palette.items()
    )


_STROKED = (".line", ".IPv4", ".IPv6")
_STYLE = (
    "svg{font:13px system-ui,sans-serif}.soft{font-size:11px}.in{font-weight:600;font-size:12px}"
    ".line{stroke-dasharray:2 3}.hatch{fill:url(#hatch)}.curve{fill:none;stroke-width:1.6}"
)

_PAGE = """<!DOCTYPE html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>carpd demo</title>
<style>
:root{{color-scheme:light dark;--bg:#fff;--ink:#1f2933;--soft:#68737d;--line:#d5dbe1;--bad:#d03b3b;--good:#12855f}}
@media (prefers-color-scheme:dark){{:root{{--bg:#161b20;--ink:#e6ebef;--soft:#9aa5ae;--line:#3a444d;--bad:#f26d6d;
--good:#2bb586}}}}
body{{margin:2rem auto;max-width:75rem;padding:0 1rem;background:var(--bg);color:var(--ink);
font:16px/1.5 system-ui,sans-serif}}
h1{{font-size:1.4rem;margin:0}}p{{color:var(--soft);margin:.3rem 0 1.2rem}}svg{{width:100%;height:auto}}
table{{border-collapse:collapse;margin-top:1.5rem;width:100%;font-variant-numeric:tabular-nums}}
th,td{{text-align:left;padding:.35rem .7rem;border-bottom:1px solid var(--line)}}th{{color:var(--soft);font-weight:500}}
td:nth-child(n+3):nth-child(-n+9),th:nth-child(n+3):nth-child(-n+9){{text-align:right}}
.ok{{color:var(--good)}}.wrong{{color:var(--bad)}}
</style>
<h1>Two firewalls, one pair of gateway addresses: {verdict}</h1>
<p>carpd {version}, Linux {kernel}, {seconds:.0f} s in network namespaces. The client sends a probe every millisecond to
the gateway and through it to the server. Connections that are made once go through the firewalls, whose rules are
stateful: over TCP a download, an upload and one that is begun outside, and UDP. All by IPv4, with address translation,
and by IPv6.</p>
{svg}
<table><tr>{head}</tr>
{rows}
</table>
<p>A gap lasts from the last probe that was answered to the next one that is. The bound is the protocol's own: the
backup's master-down time after a failure that nobody announces, and nothing for a planned move. A stall is the longest
time in which a connection moved nothing: TCP, which doubles its waiting time, may need twice the gap.</p>
</html>
"""


def render(story: Story, *, svg_alone: bool = False) -> str:
    """The picture of a finished run, as an HTML page or as SVG."""
    svg = "\n".join(_svg(story))
    if svg_alone:
        return svg
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells[:-1]) + _verdict_cell(cells[-1]) + "</tr>"
        for cells in map(row, story.steps)
    )
    return _PAGE.format(
        verdict="; ".join(map(html.escape, story.faults)) or "every step did what it must",
        version=html.escape(story.version),
        kernel=html.escape(story.kernel),
        seconds=(story.end_ns - story.start_ns) / SECOND,
        svg=svg,
        head="".join(f"<th>{html.escape(name)}</th>" for name in COLUMNS),
        rows=rows,
    )


def _verdict_cell(verdict: str) -> str:
    return f'<td class="{"ok" if verdict == "ok" else "wrong"}">{html.escape(verdict)}</td>'


def _svg(story: Story) -> Iterator[str]:
    yield (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        'aria-label="Roles, lost probes and throughput over time">'
    )
    yield f"<style>{_STYLE}{_colours(_LIGHT)}@media (prefers-color-scheme:dark){{{_colours(_DARK)}}}</style>"
    yield (
        '<defs><pattern id="hatch" width="7" height="7" patternUnits="userSpaceOnUse" patternTransform="rotate(45)">'
        '<rect width="3" height="7" fill="#000" opacity=".28"/></pattern></defs>'
    )
    yield from _frame(story)
    bars = list(_bars(story))
    for bar in bars:
        yield bar.rectangle(story)
    for span in story.troubles:
        yield from _trouble(story, span)
    for bar in bars:
        yield bar.text(story)
    yield from _curves(story)
    yield "</svg>"


def _x(story: Story, time_ns: int) -> float:
    share = (time_ns - story.start_ns) / (story.end_ns - story.start_ns)
    return _LEFT + share * (_WIDTH - _LEFT - _RIGHT)


def _frame(story: Story) -> Iterator[str]:
    """Lanes, their names, the steps and the seconds."""
    width = _WIDTH - _LEFT - _RIGHT
    for name, y in _LANES.items():
        yield f'<text x="{_LEFT - 12}" y="{y + 13}" text-anchor="end">{name}</text>'
        yield f'<rect class="lane" x="{_LEFT}" y="{y}" width="{width}" height="{_BAR}" rx="2"/>'
    for number, step in enumerate(story.steps):
        x = _x(story, step.start_ns)
        y = 18 + number % 2 * 20  # in two rows: a short step has a long name
        yield f'<line class="line" x1="{x:.1f}" x2="{x:.1f}" y1="{y + 4}" y2="{_AXIS}"/>'
        yield f'<text x="{x + 4:.1f}" y="{y}"><title>{html.escape(step.what)}</title>{html.escape(step.name)}</text>'
    yield f'<line class="line" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{_AXIS}" y2="{_AXIS}"/>'
    for second in range(0, (story.end_ns - story.start_ns) // SECOND + 1, 5):
        x = _x(story, story.start_ns + second * SECOND)
        yield f'<text class="soft" x="{x:.1f}" y="{_AXIS + 18}" text-anchor="middle">{second} s</text>'


@dataclass(frozen=True, slots=True)
class _Bar:
    """A coloured bar on its lane, with a label in it where there is room."""

    span: Span
    style: str
    title: str

    def rectangle(self, story: Story) -> str:
        x, width = self._place(story)
        return (
            f'<rect class="{self.style}" x="{x:.1f}" y="{_LANES[self.span.lane]}" width="{width:.1f}" '
            f'height="{_BAR}" rx="2"><title>{html.escape(self.title)}</title></rect>'
        )

    def text(self, story: Story) -> str:
        x, width = self._place(story)
        if width < 9 * len(self.span.what) + 10:
            return ""
        return f'<text class="in" x="{x + 7:.1f}" y="{_LANES[self.span.lane] + 13}">{self.span.what}</text>'

    def _place(self, story: Story) -> tuple[float, float]:
        x = _x(story, self.span.start_ns)
        return x, max(_x(story, self.span.end_ns) - x, _NARROWEST)


def _bars(story: Story) -> Iterator[_Bar]:
    """The states of the virtual hosts, and the outages with their lengths."""
    for span in story.states:
        seconds = (span.end_ns - span.start_ns) / SECOND
        yield _Bar(span, span.what, f"{span.lane}: {span.what} for {seconds:.2f} s")
    for family in FAMILIES:
        for outage in story.outages[family]:
            gap = f"{outage.gap_ns / 1e6:.0f} ms"
            span = Span(f"lost {family}", gap, outage.start_ns, outage.end_ns)
            yield _Bar(span, "lost", f"{family}: {outage.lost} probes in {gap}")


def _trouble(story: Story, span: Span) -> Iterator[str]:
    """Hatches over both bars of a node, and below them what it lacked."""
    x, y = _x(story, span.start_ns), _LANES[f"{span.lane} lan"]
    bottom = _LANES[f"{span.lane} wan"] + _BAR
    width = _x(story, span.end_ns) - x
    yield f'<rect class="hatch" x="{x:.1f}" y="{y}" width="{width:.1f}" height="{bottom - y}"/>'
    yield f'<text class="soft" x="{x + 3:.1f}" y="{bottom + 14}">{html.escape(span.what)}</text>'


def _curves(story: Story) -> Iterator[str]:
    """The downloads, both on one scale."""
    top = max(1.0, *(rate for rates in story.throughput.values() for rate in rates))
    yield f'<text class="soft" x="{_LEFT - 12}" y="{_CURVE_TOP + 8}" text-anchor="end">{top / 1e6:.0f} Mbit/s</text>'
    yield f'<text class="soft" x="{_LEFT - 12}" y="{_AXIS}" text-anchor="end">0</text>'
    for number, (family, rates) in enumerate(story.throughput.items()):
        step = (_WIDTH - _LEFT - _RIGHT) / max(len(rates), 1)
        points = " ".join(
            f"{_LEFT + (i + 0.5) * step:.1f},{_AXIS - rate / top * _CURVE_HEIGHT:.1f}" for i, rate in enumerate(rates)
        )
        yield f'<polyline class="curve {family}" points="{points}"/>'
        y = _CURVE_TOP + 36 + number * 20
        yield f'<line class="{family}" x1="12" x2="30" y1="{y - 4}" y2="{y - 4}" stroke-width="2"/>'
        yield f'<text class="soft" x="36" y="{y}">TCP {family}</text>'
