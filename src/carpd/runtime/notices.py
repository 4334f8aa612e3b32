"""What operators are told of: each notice once, to everybody who wants it (log, monitor, hooks, metrics).

A notice has a kind, by which programs know it, a text, by which people do, and fields with the facts.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from carpd.runtime.logs import LOG

_RENAMED = {"old": "FROM", "new": "TO"}


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that has happened. `time_s` is of the system's clock, `level` one of Python's logging."""

    kind: str
    level: int
    text: str
    fields: Mapping[str, Any]
    time_s: float

    def document(self) -> dict[str, Any]:
        """As JSON's own types: what `carpctl monitor --json` prints and hooks are given."""
        when = datetime.fromtimestamp(self.time_s, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return {"time": when, "kind": self.kind, "text": self.text, **self.fields}

    def facts(self) -> Iterator[tuple[str, Any]]:
        """The fields that are known, as the journal and environments call them: CARP_VHID, CARP_FROM (`old`)..."""
        for name, value in self.fields.items():
            if value is not None:
                yield f"CARP_{_RENAMED.get(name, name.upper())}", value

    def variables(self) -> dict[str, str]:
        """The facts as an environment has them. Lists are left out: there is no room for long ones."""
        return {name: _text(value) for name, value in self.facts() if isinstance(value, str | int | float)}


def _text(value: str | float) -> str:
    """As JSON spells it, but strings without quotes, and without what an environment can't contain."""
    text = value if isinstance(value, str) else json.dumps(value)
    return text.encode(errors="replace").decode().replace("\0", "")


Receiver = Callable[[Notice], None]


class Notices:
    """Where they are published. The log has each of them; who else wants them subscribes."""

    def __init__(self) -> None:
        self._receivers: list[Receiver] = []

    def subscribe(self, receiver: Receiver) -> Callable[[], None]:
        """Call this for each from now on; what is returned ends that."""
        self._receivers.append(receiver)
        return lambda: self._receivers.remove(receiver)

    def publish(self, kind: str, text: str, level: int = logging.INFO, **fields: Any) -> None:
        notice = Notice(kind, level, text, fields, time.time())
        LOG.log(level, "%s", text, extra={"notice": notice})
        for receiver in tuple(self._receivers):
            receiver(notice)
