"""`carpctl completion SHELL`: what makes a shell complete the words of carpctl, made of its own parsers.

What completes an argument follows from its name in the help: NAME is a virtual host, NAME|GROUP also a group, FILE and
PATH are files; else its choices, if it has any.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from carpd.cli.carpctl import COMMANDS, overview, subcommand
from carpd.cli.parser import subparsers

NAMES, GROUPS, FILES = "names", "groups", "files"
_KINDS = {"NAME": NAMES, "NAME|GROUP": GROUPS, "FILE": FILES, "PATH": FILES, "DIR": FILES}
_ASK = {NAMES: "carpctl names 2>/dev/null", GROUPS: "carpctl names --groups 2>/dev/null"}


@dataclass(frozen=True, slots=True)
class Value:
    """What can be written for an argument: one of these words, or what a kind of thing is called."""

    title: str
    words: tuple[str, ...] = ()
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Option:
    """Its spellings, what it is for, and the value that it needs, if it needs one."""

    spellings: tuple[str, ...]
    text: str
    value: Value | None


@dataclass(frozen=True, slots=True)
class Level:
    """What can be written behind some words: "carpctl hook"."""

    path: str
    options: tuple[Option, ...]
    arguments: tuple[Value, ...]
    commands: Mapping[str, str]
    """With what they do."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("shell", metavar="SHELL", choices=sorted(_SHELLS), help="bash, fish or zsh")


def run(args: argparse.Namespace) -> int:
    """0."""
    print("\n".join(_SHELLS[args.shell](list(levels()))))
    return 0


def levels() -> Iterator[Level]:
    """All that carpctl knows, from the top."""
    top = _level("carpctl", overview(), {name: summary for name, (_, summary) in COMMANDS.items()})
    yield top
    for name in COMMANDS:
        yield from _below(f"carpctl {name}", subcommand(name))


def _below(path: str, parser: argparse.ArgumentParser) -> Iterator[Level]:
    """A parser and its subparsers."""
    below = {name: sub for action in parser._actions for name, sub in subparsers(action).items()}
    yield _level(path, parser, {name: (sub.description or "").rstrip(".") for name, sub in below.items()})
    for name, sub in below.items():
        yield from _below(f"{path} {name}", sub)


def _level(path: str, parser: argparse.ArgumentParser, commands: Mapping[str, str]) -> Level:
    options = []
    arguments = []
    for action in parser._actions:
        if action.option_strings:
            needs_value = action.nargs in (None, 1, "+")
            text = parser._get_formatter()._expand_help(action) if action.help else ""
            options.append(Option(tuple(action.option_strings), text, _value(action) if needs_value else None))
        elif not subparsers(action):
            arguments.append(_value(action))
    return Level(path, tuple(options), tuple(arguments), commands)


def _value(action: argparse.Action) -> Value:
    title = str(action.metavar or action.dest.upper())
    return Value(title, tuple(map(str, action.choices or ())), _KINDS.get(title, ""))


# bash


def _bash(levels: list[Level]) -> Iterator[str]:
    """Words are what blanks part: bash itself parts NAME:VHID, too, and wants its end alone."""
    below = "|".join(f'"{level.path}"' for level in levels[1:])
    valued = "|".join(f'"{level.path} {s}"' for level in levels for o in level.options if o.value for s in o.spellings)
    yield from (
        "# bash completion of carpctl, made by `carpctl completion bash`",
        "",
        "_carpctl() {",
        '    local line=${COMP_LINE:0:COMP_POINT} words word at=carpctl position=0 option="" i',
        '    read -ra words <<<"$line"',
        '    [[ $line == *[[:space:]] ]] && words+=("")',
        "    word=${words[-1]}",
        "    for ((i = 1; i < ${#words[@]} - 1; i++)); do",
        '        if [[ $option ]]; then option=""; continue; fi',
        '        case "$at ${words[i]}" in',
        f'            {below}) at+=" ${{words[i]}}" position=0 ;;',
        f"            {valued}) option=${{words[i]}} ;;",
        '            *" -"*) ;;',
        "            *) ((++position)) ;;",
        "        esac",
        "    done",
        "    COMPREPLY=()",
        "    [[ ! $option && $word == -* ]] && option=-",
        '    case "$at ${option:-$position}" in',
    )
    for level in levels:
        spellings = " ".join(spelling for option in level.options for spelling in option.spellings)
        yield f'        "{level.path} -") _carpctl_words "{spellings}" ;;'
        for option in level.options:
            if option.value and (what := _bash_value(option.value)):
                yield f"        {'|'.join(f'{level.path} {s}'.join(_QUOTES) for s in option.spellings)}) {what} ;;"
        for position, value in enumerate(_positions(level)):
            if what := _bash_value(value):
                yield f'        "{level.path} {position}") {what} ;;'
    yield from (
        "    esac",
        "}",
        "",
        "_carpctl_words() {",
        '    COMPREPLY=($(compgen -W "$1" -- "$word"))',
        "    if [[ $COMP_WORDBREAKS == *:* && $word == *:* ]]; then",
        '        COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*:}"}"}")',
        "    fi",
        "}",
        "",
        "_carpctl_files() {",
        "    compopt -o filenames 2>/dev/null",
        '    mapfile -t COMPREPLY < <(compgen -f -- "$word")',
        "}",
        "",
        "complete -F _carpctl carpctl",
    )


_QUOTES = ('"', '"')


def _bash_value(value: Value) -> str:
    if value.kind == FILES:
        return "_carpctl_files"
    words = f"$({_ASK[value.kind]})" if value.kind else " ".join(value.words)
    return f'_carpctl_words "{words}"' if words else ""


def _positions(level: Level) -> list[Value]:
    """What can be written at the first place, at the second, ..."""
    return [*([Value("COMMAND", tuple(level.commands))] if level.commands else []), *level.arguments]


# zsh


def _zsh(levels: list[Level]) -> Iterator[str]:
    yield from ("#compdef carpctl", "# zsh completion of carpctl, made by `carpctl completion zsh`")
    for level in levels:
        yield from ("", f"{_zsh_function(level.path)}() {{")
        options = [_zsh_option(option, spelling) for option in level.options for spelling in option.spellings]
        values = [_quoted(f"{n}:{value.title}:{_zsh_value(value)}") for n, value in enumerate(level.arguments, start=1)]
        if level.commands:
            commands = " ".join(_quoted(f"{name}:{text}") for name, text in level.commands.items())
            yield "    local context state state_descr line"
            yield "    typeset -A opt_args"
            yield from _continued(["_arguments -C", *options, "'1:command:->command'", "'*::argument:->argument'"])
            yield "    case $state in"
            yield f"        command) local -a known=({commands}); _describe command known ;;"
            yield "        argument)"
            yield "            case $words[1] in"
            yield from (
                f"                {name}) {_zsh_function(f'{level.path} {name}')} ;;" for name in level.commands
            )
            yield "            esac ;;"
            yield "    esac"
        else:
            yield from _continued(["_arguments", *options, *values])
        yield "}"
    yield from (
        "",
        f'_carpctl_ask_names() {{ compadd -- ${{(f)"$({_ASK[NAMES]})"}} }}',
        f'_carpctl_ask_groups() {{ compadd -- ${{(f)"$({_ASK[GROUPS]})"}} }}',
        "",
        "if [[ $funcstack[1] == _carpctl ]]; then _carpctl; else compdef _carpctl carpctl; fi",
    )


def _zsh_function(path: str) -> str:
    return "_" + path.replace(" ", "_").replace("-", "_")


def _zsh_option(option: Option, spelling: str) -> str:
    text = option.text.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]")
    value = f":{option.value.title}:{_zsh_value(option.value)}" if option.value else ""
    return _quoted(f"{spelling}[{text}]{value}")


def _zsh_value(value: Value) -> str:
    if value.kind:
        return "_files" if value.kind == FILES else f"_carpctl_ask_{value.kind}"
    return f"({' '.join(value.words)})" if value.words else " "


def _continued(words: list[str]) -> Iterator[str]:
    """A command on several lines."""
    yield from (f"    {'    ' if number else ''}{word} \\" for number, word in enumerate(words[:-1]))
    yield f"        {words[-1]}"


def _quoted(text: str) -> str:
    """For zsh."""
    return "'" + text.replace("'", "'\\''") + "'"


# fish


def _fish(levels: list[Level]) -> Iterator[str]:
    yield from ("# fish completion of carpctl, made by `carpctl completion fish`", "", "complete -c carpctl -f")
    for level in levels:
        words = level.path.split()[1:]
        seen = [f"__fish_seen_subcommand_from {word}" for word in words] or ["__fish_use_subcommand"]
        if words and level.commands:
            seen.append(f"not __fish_seen_subcommand_from {' '.join(level.commands)}")
        here = f"complete -c carpctl -n {_fish_quoted('; and '.join(seen))}"
        for name, text in level.commands.items():
            yield f"{here} -a {name} -d {_fish_quoted(text)}"
        for option in level.options:
            spellings = " ".join(f"-{'l' if s.startswith('--') else 's'} {s.lstrip('-')}" for s in option.spellings)
            value = f" -r{_fish_value(option.value)}" if option.value else ""
            yield f"{here} {spellings}{value} -d {_fish_quoted(option.text)}"
        for argument in level.arguments:
            if what := _fish_value(argument):
                yield f"{here}{what}"


def _fish_value(value: Value) -> str:
    if value.kind == FILES:
        return " -F"
    words = f"({_ASK[value.kind]})" if value.kind else " ".join(value.words)
    return f" -a {_fish_quoted(words)}" if words else ""


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_SHELLS = {"bash": _bash, "fish": _fish, "zsh": _zsh}
