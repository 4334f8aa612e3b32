"""There is one carpd, and one who synchronises states, in a network namespace: what is left behind is a dead one's."""

from __future__ import annotations

import socket
from types import TracebackType
from typing import Self

from carpd.errors import CarpdError

CARPD, PFSYNCD = "carpd", "pfsyncd"
"""What is claimed; whoever synchronises states has the second."""


class Claim:
    """An abstract socket name: it belongs to the namespace, and is free again when its owner is gone."""

    def __init__(self, name: str) -> None:
        """Raise CarpdError if somebody else has it."""
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._socket.bind(f"\0{name}")
        except OSError as error:
            self._socket.close()
            raise CarpdError(f"another {name} is running in this network namespace (see `ss -xlp`)") from error
        self._socket.listen()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        self._socket.close()
