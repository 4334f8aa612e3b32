"""The lines of keys, in every form that TOML has for a table."""

from __future__ import annotations

import pytest

from carpd.config.locate import key_lines

DOCUMENTS = {
    "headers": (
        "# first\n[carp.lan]\nvhid = 1\n\n  [ node . fw-b . 'carp' . \"l\\u0061n\" ] # second\n\tadvskew=1",
        {
            "carp": 2,
            "carp.lan": 2,
            "carp.lan.vhid": 3,
            "node": 5,
            "node.fw-b": 5,
            "node.fw-b.carp": 5,
            "node.fw-b.carp.lan": 5,
            "node.fw-b.carp.lan.advskew": 6,
        },
    ),
    "a header after what is below it": ("[a.b]\n[a]\nc = 1", {"a": 2, "a.b": 1, "a.c": 3}),
    "dotted keys": ("a.b = 1\na . c = 2\n[d]\ne.f = 3", {"a": 1, "a.b": 1, "a.c": 2, "d": 3, "d.e": 4, "d.e.f": 4}),
    "inline tables": (
        "a = { b = 1, c = { d.e = [1,\n 2], f = {} }, g = 3 }\nh = 1",
        {"a": 1, "a.b": 1, "a.c": 1, "a.c.d": 1, "a.c.d.e": 1, "a.c.f": 2, "a.g": 2, "h": 3},
    ),
    "arrays": ("a = [\n  'x', # ]\n  [1,\n 2],\n]\nb = [[], {}]\nc = 1", {"a": 1, "b": 6, "c": 7}),
    "arrays of tables": ("[[a]]\nb = 1\n[[a]]\nb = 2\n[a.c]\nd = 1", {"a": 3, "a.b": 4, "a.c": 5, "a.c.d": 6}),
    "strings of several lines": (
        'a = """\nb = 1 \\"""\n[c]"""\n'
        "d = '''\n\"\"\"[e]'''\nf = \"\"\"\"\"a\"\"\"\"\"\ng = ''''a'''''\nh = \"\"\ni = 1",
        {"a": 1, "d": 4, "f": 6, "g": 7, "h": 8, "i": 9},
    ),
    "scalars": (
        'a = 1979-05-27 07:32:00.5Z\r\nb = -1.5e+3 # = [\r\nc = \'[d]\'\r\n"" = true\r\n"x#=" = 1',
        {"a": 1, "b": 2, "c": 3, "": 4, "x#=": 5},
    ),
    "nothing": ("", {}),
    "no newline at the end": ("[a]", {"a": 1}),
}


@pytest.mark.parametrize(("text", "expected"), DOCUMENTS.values(), ids=DOCUMENTS)
def test_lines(text: str, expected: dict[str, int]) -> None:
    assert {".".join(path): line for path, line in key_lines(text).items()} == expected
