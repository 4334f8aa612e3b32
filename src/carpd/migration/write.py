"""The configuration as TOML, with comments, and the files that it names."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import tomlkit
from tomlkit.container import Container
from tomlkit.items import Item, Table

from carpd.migration.found import Remark, Script, printable
from carpd.migration.merge import Section, Value

_PASSWORD_FILE = "password"
_SECRET_SIZE = 32


@dataclass(frozen=True, slots=True)
class Written:
    """What is to be written."""

    text: str
    """carpd.toml."""
    files: Mapping[str, str]
    """Secrets, by the name of their file, beside carpd.toml."""


def write(
    sections: Sequence[Section],
    scripts: Sequence[tuple[Script, str]],
    remarks: Iterable[Remark],
    sources: Sequence[str],
) -> Written:
    """`scripts` come with the names of their virtual hosts; `sources` are the files that all was made of."""
    files = _take_out_secrets(sections)
    document = tomlkit.document()
    _comments(
        document,
        f"Made by `carpctl import` from {', '.join(sources)}.",
        "The same on every host; what differs stands in [node.HOST.*], HOST being its host name.",
    )
    for section in sections:
        _append(document, section.path, section.common, str(section.place))
    for node in dict.fromkeys(node for section in sections for node in section.own):
        for section in sections:
            if node in section.own:
                _append(document, ("node", node, *section.path), section.own[node])
    _append_hooks(document, scripts)
    _append_remarks(document, "Taken over, but:", [remark for remark in remarks if remark.taken])
    _append_remarks(document, "Not taken over:", [remark for remark in remarks if not remark.taken])
    return Written(tomlkit.dumps(document).rstrip("\n") + "\n", files)


def _take_out_secrets(sections: Sequence[Section]) -> dict[str, str]:
    """They have files of their own: carpd.toml can then be shown. Equal passwords have one file."""
    passwords = {section.path: section.common["password"].value for section in sections if "password" in section.common}
    files: dict[str, str] = {}
    for section in sections:
        if section.path in passwords:
            alone = len(set(passwords.values())) > 1
            file = f"{section.path[-1]}.{_PASSWORD_FILE}" if alone else _PASSWORD_FILE
            files[file] = f"{passwords[section.path]}\n"
            _replace(section, "password", "password_file", Value(file))
        if "secret_file" in section.common:
            secret = base64.b64encode(secrets.token_bytes(_SECRET_SIZE)).decode()
            files[section.common["secret_file"].value] = f"{secret}\n"
    return files


def _replace(section: Section, old: str, new: str, value: Value) -> None:
    """A key by another one, in the same place."""
    section.common = {new if key == old else key: value if key == old else v for key, v in section.common.items()}


def _append(document: Container, path: Sequence[str], values: Mapping[str, Value], comment: str = "") -> None:
    """A table with this header."""
    parent: Container | Table = document
    for name in path[:-1]:
        if name not in parent:
            parent.append(name, tomlkit.table(is_super_table=True))
        inner = parent[name]
        assert isinstance(inner, Table), "what has a table below it is one"
        parent = inner
    table = tomlkit.table()
    if comment:
        table.comment(printable(comment))
    for key, value in values.items():
        item = _item(key, value.value)
        if value.comment:
            item.comment(printable(value.comment))
        table.append(key, item)
    parent.append(path[-1], table)


def _item(key: str, value: object) -> Item:
    if key == "nodes" and isinstance(value, dict):
        nodes = tomlkit.inline_table()
        nodes.update(value)
        return nodes
    return tomlkit.item(value)


def _append_hooks(document: Container, scripts: Sequence[tuple[Script, str]]) -> None:
    """As a suggestion: what a script is told, and what is left to do for it, differs."""
    if not scripts:
        return
    _comments(
        document,
        "",
        "Scripts were run. carpd puts addresses on and takes them away by itself, and tells a hook what happens by its",
        "standard input and its environment. Look at what these do, and take the # away where they are still needed:",
    )
    names: dict[str, int] = {}
    for script, host in scripts:
        base = f"{host}-{script.event or 'any'}"
        names[base] = names.get(base, 0) + 1
        name = base if names[base] == 1 else f"{base}-{names[base]}"
        _comments(
            document,
            "",
            f"[hook.{name}]  # {script.place}",
            f"command = {_array(script.command)}",
            *([f"events = {_array([script.event])}"] if script.event else []),
            f"virtual_hosts = {_array([host])}",
            *([f"user = {json.dumps(script.user, ensure_ascii=False)}"] if script.user else []),
        )


def _append_remarks(document: Container, title: str, remarks: Sequence[Remark]) -> None:
    if remarks:
        _comments(document, "", title)
        for remark in remarks:
            _comments(document, f"  {remark.where}: {remark.text}: {remark.reason}")


def _comments(document: Container, *lines: str) -> None:
    """Lines of comment; an empty one parts them from what is above."""
    for line in lines:
        document.add(tomlkit.comment(printable(line)) if line else tomlkit.nl())


def _array(words: Iterable[str]) -> str:
    """As JSON writes it, so does TOML."""
    return json.dumps(list(words), ensure_ascii=False)
