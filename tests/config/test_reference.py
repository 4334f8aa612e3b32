"""docs/configuration.md says of every key what the parser's own tables say, and its examples are right."""

from __future__ import annotations

import enum
import json
import re
from pathlib import Path

import pytest

from carpd.config.keys import CARP_KEYS, CONTROL_KEYS, HOOK_KEYS, IGNORE_KEYS, METRICS_KEYS, PFSYNC_KEYS, Key
from carpd.config.parse import load

DOCUMENT = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text()


def _default(key: Key) -> str:
    if key.required:
        return "required"
    return "none" if key.default is None or key.keys is not None else f"`{_spelt(key.default)}`"


def _spelt(value: object) -> str:
    """As TOML has it."""
    if isinstance(value, enum.Enum):
        return _spelt(value.value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(_spelt, value))}]"
    return json.dumps(value)


def _row(key: Key, *, same: bool) -> str:
    cells = [f"`{key.name}`", _default(key), *(["yes" if key.shared else ""] if same else []), key.meaning]
    return "| " + " | ".join(cells) + " |"


def test_there_is_one_table_of_keys_for_each_table_of_the_file() -> None:
    written = [line for line in DOCUMENT.splitlines() if line.startswith("| `")]
    rows = [
        _row(key, same=keys in (CARP_KEYS, PFSYNC_KEYS))
        for keys in (CARP_KEYS, PFSYNC_KEYS, IGNORE_KEYS, CONTROL_KEYS, METRICS_KEYS, HOOK_KEYS)
        for key in keys.values()
    ]
    assert written == rows, "the tables should be:\n" + "\n".join(rows)


SOMETHING_TO_DO = """
[pfsync]
syncdev = "eth2"
secret_file = "pfsync.key"
"""
"""For examples that are about something else."""

EXAMPLES = re.findall(r"^```toml\n(.*?)^```$", DOCUMENT, re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("node", ["fw-a", "fw-b"])
@pytest.mark.parametrize("example", EXAMPLES)
def test_examples(tmp_path: Path, example: str, node: str) -> None:
    for name, content in {"password": "xyzzy", "pfsync.key": "0123456789abcdef"}.items():
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o600)
    file = tmp_path / "carpd.toml"
    rest = "" if "[carp." in example or "[pfsync]" in example else SOMETHING_TO_DO
    file.write_text(example.replace("/etc/carpd/", "") + rest)
    assert [str(problem) for problem in load(file, node).problems] == []
