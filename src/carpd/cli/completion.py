"""`carpctl completion SHELL`: what makes a shell complete the words of carpctl, made of its own parsers.

What completes an argument follows from its name in the help: NAME is a virtual host, NAME|GROUP also a group, FILE and
PATH are files; else its choices, if it has any. Names are asked for with the --socket that is on the line.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from carpd.cli.carpctl import COMMANDS, overview, subcommand
from carpd.cli.names import GROUPS, HOOKS, HOSTS, INTERFACES

FILES = "files"
_KINDS = {
    "NAME": HOSTS,
    "NAME|GROUP": f"{HOSTS} {GROUPS}",
    "GROUP [WORDS]": GROUPS,
    "[INTERFACE [WORDS]]": INTERFACES,
    "HOOK": HOOKS,
    "FILE": FILES,
    "PATH": FILES,
    "DIR": FILES,
}
"""The words of `carpctl names`, or files."""


@dataclass(frozen=True, slots=True)
class Value:
    """What can be written for an argument: one of these words, or what a kind of thing is called."""

    title: str
    words: tuple[str, ...] = ()
    kind: str = ""
    repeated: bool = False
    """Whether more such arguments may follow."""


@dataclass(frozen=True, slots=True)
class Option:
    """Its spellings, what it is for, and the value that it needs, if it needs one."""

    spellings: tuple[str, ...]
    text: str
    value: Value | None


@dataclass(frozen=True, slots=True)
class Level:
    """What can be written behind "carpctl", or behind "carpctl COMMAND"."""

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
    yield _level("carpctl", overview(), {name: summary for name, (_, summary) in COMMANDS.items()})
    for name in COMMANDS:
        yield _level(f"carpctl {name}", subcommand(name), {})


def _level(path: str, parser: argparse.ArgumentParser, commands: Mapping[str, str]) -> Level:
    options = []
    arguments = []
    for action in parser._actions:
        if action.option_strings:
            needs_value = action.nargs in (None, 1, argparse.ONE_OR_MORE, argparse.REMAINDER)
            text = parser._get_formatter()._expand_help(action) if action.help else ""
            options.append(Option(tuple(action.option_strings), text, _value(action) if needs_value else None))
        else:
            arguments.append(_value(action))
    return Level(path, tuple(options), tuple(arguments), commands)


def _value(action: argparse.Action) -> Value:
    title = str(action.metavar or action.dest.upper())
    words = tuple(map(str, action.choices or ()))
    return Value(title, words, _KINDS.get(title, ""), repeated=action.nargs == argparse.ONE_OR_MORE)


# bash


def _bash(levels: list[Level]) -> Iterator[str]:
    """Words are what blanks part: bash itself parts NAME:VHID, too, and wants its end alone."""
    below = "|".join(f'"{level.path}"' for level in levels[1:])
    valued = "|".join(f'"{level.path} {s}"' for level in levels for o in level.options if o.value for s in o.spellings)
    yield from (
        "# bash completion of carpctl, made by `carpctl completion bash`",
        "",
        "_carpctl() {",
        '    local line=${COMP_LINE:0:COMP_POINT} words word at=carpctl position=0 option="" socket=() i',
        '    read -ra words <<<"$line"',
        '    [[ $line == *[[:space:]] ]] && words+=("")',
        "    word=${words[-1]}",
        "    for ((i = 1; i < ${#words[@]} - 1; i++)); do",
        '        [[ $option == --socket ]] && socket=(--socket "${words[i]}")',
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
                yield f'        "{level.path} "{"[0-9]*" if value.repeated else position}) {what} ;;'
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
        '    mapfile -t COMPREPLY < <(compgen -f -- "$word" || compgen -f -- "${word#*=}")',  # HOST=FILE
        "}",
        "",
        "complete -F _carpctl carpctl",
    )


_QUOTES = ('"', '"')


def _bash_value(value: Value) -> str:
    if value.kind == FILES:
        return "_carpctl_files"
    words = f'$(carpctl names {value.kind} "${{socket[@]}}" 2>/dev/null)' if value.kind else " ".join(value.words)
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
        values = [
            _quoted(f"{'*' if value.repeated else n}:{value.title}:{_zsh_value(value)}")
            for n, value in enumerate(level.arguments, start=1)
        ]
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
        "_carpctl_names() {",
        "    local -a socket",
        "    local -i at=${words[(I)--socket]}",
        '    (( at )) && socket=(--socket "${words[at + 1]}")',
        '    compadd -- ${(f)"$(carpctl names $* $socket 2>/dev/null)"}',
        "}",
        "_carpctl_files() { compset -P '[^/=]##='; _files }",  # HOST=FILE
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
        return "_carpctl_files" if value.kind == FILES else f"{{_carpctl_names {value.kind}}}"
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
    yield from (
        "# fish completion of carpctl, made by `carpctl completion fish`",
        "",
        "function __carpctl_names",
        "    set -l words (commandline -opc)",
        "    set -l socket",
        "    set -l at (contains -i -- --socket $words)",
        "    and set socket --socket $words[(math $at + 1)]",
        "    carpctl names $argv $socket 2>/dev/null",
        "end",
        "",
        "complete -c carpctl -f",
    )
    for level in levels:
        _, *command = level.path.split()
        seen = f"__fish_seen_subcommand_from {command[0]}" if command else "__fish_use_subcommand"
        here = f"complete -c carpctl -n {_fish_quoted(seen)}"
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
    words = f"(__carpctl_names {value.kind})" if value.kind else " ".join(value.words)
    return f" -a {_fish_quoted(words)}" if words else ""


def _fish_quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_SHELLS = {"bash": _bash, "fish": _fish, "zsh": _zsh}
