"""The errors that cross a layer. Each message is one line that an operator can act on."""

from __future__ import annotations


class CarpdError(Exception):
    """The root of our own errors: anything else that is raised is a defect."""


class DecodeError(CarpdError):
    """Bytes from the network or a file that are no valid message: the caller counts and drops them."""


class SystemCallError(CarpdError):
    """The kernel refused something: the message says what was tried, `errno` why it was refused."""

    def __init__(self, tried: str, errno: int, reason: str) -> None:
        super().__init__(f"{tried}: {reason}")
        self.tried = tried
        self.errno = errno
