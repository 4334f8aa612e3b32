"""Events, effects and reports as JSON objects: between our processes, and in recordings.

`{"type": "HostPrepared", "host": "lan"}`: a dataclass by the name of its class, bytes in hexadecimal, an enumeration
by the name of its member, an address as text. The type annotations say how each field is written and read.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import types
from collections.abc import Callable, Iterable
from functools import cache
from ipaddress import (
    IPv4Address,
    IPv4Interface,
    IPv4Network,
    IPv6Address,
    IPv6Interface,
    IPv6Network,
    ip_address,
    ip_interface,
    ip_network,
)
from operator import attrgetter
from typing import Any, NamedTuple, Union, get_args, get_origin, get_type_hints

from carpd.errors import DecodeError


class Codec:
    """Writes and reads values of a closed set of dataclasses."""

    def __init__(self, types_: Iterable[type]) -> None:
        self._types = {cls.__name__: cls for cls in types_}

    def encode(self, value: object) -> bytes:
        """One line of JSON, with its end of line. The value's class must be one of the codec's."""
        name = type(value).__name__
        assert self._types.get(name) is type(value), f"{name} is not among the codec's types"
        fields = {"type": name} | _form(self._types[name]).write(value)
        return json.dumps(fields, separators=(",", ":")).encode() + b"\n"

    def decode(self, line: bytes) -> Any:
        """Raise DecodeError for anything that `encode` would not have written."""
        try:
            fields = json.loads(line)
            return _form(self._types[fields.pop("type")]).read(fields)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DecodeError(f"no message of ours: {type(error).__name__}: {error}") from error


class _Form(NamedTuple):
    """How values of one annotation become JSON's own types, and come back."""

    write: Callable[[Any], Any]
    read: Callable[[Any], Any]


@cache
def _form(annotation: Any) -> _Form:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if dataclasses.is_dataclass(annotation):
        return _dataclass_form(annotation)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return _Form(attrgetter("name"), lambda data: annotation[data])
    if annotation is bytes:
        return _Form(bytes.hex, bytes.fromhex)
    if origin is tuple:
        assert arguments[1:] == (Ellipsis,), "only tuples of one type"
        write, read = _form(arguments[0])
        return _Form(lambda value: [*map(write, value)], lambda data: tuple(map(read, data)))
    if origin is dict:
        write, read = _form(arguments[1])
        return _Form(
            lambda value: {key: write(item) for key, item in value.items()},
            lambda data: {key: read(item) for key, item in data.items()},
        )
    if origin in (Union, types.UnionType):
        return _union_form(set(arguments))
    return _Form(lambda value: value, lambda data: _checked(annotation, data))


def _dataclass_form(cls: Any) -> _Form:
    hints = get_type_hints(cls)
    fields = [(field.name, *_form(hints[field.name])) for field in dataclasses.fields(cls)]
    readers = {name: read for name, _, read in fields}
    return _Form(
        lambda value: {name: write(getattr(value, name)) for name, write, _ in fields},
        lambda data: cls(**{name: readers[name](item) for name, item in data.items()}),
    )


def _union_form(members: set[Any]) -> _Form:
    """Addresses or networks of either family, or something that may be missing."""
    if members <= {IPv4Interface, IPv6Interface}:
        return _Form(str, ip_interface)
    if members <= {IPv4Address, IPv6Address}:
        return _Form(str, ip_address)
    if members <= {IPv4Network, IPv6Network}:
        return _Form(str, ip_network)
    (wanted,) = members - {types.NoneType}
    write, read = _form(wanted)
    return _Form(
        lambda value: None if value is None else write(value),
        lambda data: None if data is None else read(data),
    )


def _checked(annotation: type, data: Any) -> Any:
    if type(data) is not annotation:
        raise TypeError(f"need {annotation.__name__}, got {data!r}")
    return data
