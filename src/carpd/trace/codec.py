"""Events, effects and reports as JSON objects: between our processes, and in recordings.

`{"type": "HostPrepared", "host": "lan"}`: a dataclass by the name of its class, bytes in hexadecimal, an enumeration
by the name of its member, an address as text. What is written is what the type annotations say, so reading needs no
tags but the first.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import types
from collections.abc import Callable, Iterable
from functools import cache
from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Interface, ip_address, ip_interface
from typing import Any, Union, get_args, get_origin, get_type_hints

from carpd.errors import DecodeError

_TEXTUAL = (IPv4Address, IPv6Address, IPv4Interface, IPv6Interface)
_Reader = Callable[[Any], Any]


class Codec:
    """Writes and reads values of a closed set of dataclasses."""

    def __init__(self, types_: Iterable[type]) -> None:
        self._types = {cls.__name__: cls for cls in types_}

    def encode(self, value: object) -> bytes:
        """One line of JSON, with its end of line. The value's class must be one of the codec's."""
        name = type(value).__name__
        assert self._types.get(name) is type(value), f"{name} is not among the codec's types"
        return json.dumps({"type": name, **_plain_fields(value)}, separators=(",", ":")).encode() + b"\n"

    def decode(self, line: bytes) -> Any:
        """Raise DecodeError for anything that `encode` would not have written."""
        try:
            fields = json.loads(line)
            return _reader(self._types[fields.pop("type")])(fields)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise DecodeError(f"no message of ours: {type(error).__name__}: {error}") from error


def _plain_fields(value: Any) -> dict[str, object]:
    return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}


def _plain(value: Any) -> object:
    """The value in JSON's own types."""
    if dataclasses.is_dataclass(value):
        return _plain_fields(value)
    if isinstance(value, enum.Enum):
        return value.name
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, _TEXTUAL):
        return str(value)
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    return value


@cache
def _reader(annotation: Any) -> _Reader:
    """What turns JSON back into a value of this annotation."""
    if dataclasses.is_dataclass(annotation):
        return _dataclass_reader(annotation)
    if isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return lambda data: annotation[data]
    if annotation is bytes:
        return bytes.fromhex
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is tuple:
        return _tuple_reader(arguments)
    if origin is dict:
        item = _reader(arguments[1])
        return lambda data: {key: item(value) for key, value in data.items()}
    if origin in (Union, types.UnionType):
        return _union_reader(arguments)
    return lambda data: _checked(annotation, data)


def _checked(annotation: type, data: Any) -> Any:
    if type(data) is not annotation:
        raise TypeError(f"need {annotation.__name__}, got {data!r}")
    return data


def _dataclass_reader(cls: Any) -> _Reader:
    hints = get_type_hints(cls)
    readers = {field.name: _reader(hints[field.name]) for field in dataclasses.fields(cls)}
    return lambda data: cls(**{name: readers[name](item) for name, item in data.items()})


def _tuple_reader(arguments: tuple[Any, ...]) -> _Reader:
    item = _reader(arguments[0])
    assert arguments[1:] == (Ellipsis,), "only tuples of one type"
    return lambda data: tuple(item(value) for value in data)


def _union_reader(arguments: tuple[Any, ...]) -> _Reader:
    """Addresses of either family, or something that may be missing."""
    if set(arguments) <= {IPv4Interface, IPv6Interface}:
        return ip_interface
    if set(arguments) <= {IPv4Address, IPv6Address}:
        return ip_address
    (wanted,) = (a for a in arguments if a is not types.NoneType)
    item = _reader(wanted)
    return lambda data: None if data is None else item(data)
