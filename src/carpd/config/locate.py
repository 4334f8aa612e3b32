"""On which line each key of a TOML document stands.

The standard library reads values and forgets where they stood. tomlkit keeps the text, but not line numbers: they
would have to be counted from its internal containers, out-of-order tables included. A scanner that only follows
keys and brackets is smaller than that, and leaves a firewall's daemon with no dependency at all. It may be so small
because `tomllib` has accepted the document before: it looks for keys and never for errors.
"""

from __future__ import annotations

import re
import tomllib

from carpd.config.problems import KeyPath

_TOKEN = re.compile(
    r"""
      (?P<blank>   [ \t\r]+ | \#[^\n]* )
    | (?P<newline> \n )
    | (?P<mark>    [\[\]{}=,.] )
    | (?P<quoted>  \"{3}(?:\\.|[^\\])*?\"{3,5} | '{3}.*?'{3,5} | "(?:\\.|[^"\\])*" | '[^']*' )
    | (?P<bare>    [^\s\[\]{}=,.#"']+ )
    """,
    re.VERBOSE | re.DOTALL,
)


def key_lines(text: str) -> dict[KeyPath, int]:
    """The line, from 1, of every key and table of a valid document, also of tables that exist by a dotted key alone.

    A table with a header stands where its header is. Keys of tables inside arrays are listed below the array's key.
    """
    lines: dict[KeyPath, int] = {}
    line = 1
    table: KeyPath = ()  # of the last header
    open_brackets: list[KeyPath | None] = []  # the key that an inline table is the value of; None: an array
    parts: list[str] | None = []  # of the key that is being read; None: a value is
    path: KeyPath = ()  # of the value that is being read

    for match in _TOKEN.finditer(text):
        token = match.group()
        match match.lastgroup, token:
            case "newline", _ if not open_brackets:
                parts = []
            case (("bare" | "quoted"), _) if parts is not None:
                parts.append(_unquoted(token))
            case "mark", "=":
                outer = open_brackets[-1] if open_brackets else table
                path = (*(outer or ()), *(parts or ()))
                _note(lines, path, line)
                parts = None
            case "mark", "]" if not open_brackets and parts:  # the end of a header
                table = tuple(parts)
                _note(lines, table, line)
                parts = None
            case "mark", "{":
                open_brackets.append(path)
                parts = []
            case "mark", "[" if parts is None:
                open_brackets.append(None)
            case "mark", ("]" | "}") if open_brackets:
                open_brackets.pop()
                parts = None
            case "mark", "," if open_brackets[-1] is not None:
                parts = []
        line += token.count("\n")
    return lines


def _note(lines: dict[KeyPath, int], path: KeyPath, line: int) -> None:
    lines[path] = line
    for end in range(1, len(path)):
        lines.setdefault(path[:end], line)


def _unquoted(token: str) -> str:
    if token[0] not in "\"'":
        return token
    key: str = tomllib.loads(f"key = {token}")["key"]
    return key
