"""How one kind of message lies on the wire."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Generic, NamedTuple, TypeVar

M = TypeVar("M")


class Layout(NamedTuple, Generic[M]):
    """The size of a message, and a whole batch of them, packed without gaps, in both directions.

    `decode` gets a multiple of size.
    """

    size: int
    decode: Callable[[bytes], list[M]]
    encode: Callable[[Sequence[M]], bytes]
