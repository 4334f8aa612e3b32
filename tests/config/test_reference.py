"""docs/configuration.md says of every key what the parser's own table says."""

from __future__ import annotations

import enum
from pathlib import Path

from carpd.config.keys import DEFAULTS, KEYS

DOCUMENT = Path(__file__).parents[2] / "docs" / "configuration.md"


def _default(name: str) -> str:
    if KEYS[name].required:
        return "required"
    value = DEFAULTS.get(name)
    if isinstance(value, enum.Enum):
        return f'`"{value.value}"`'
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if value is None:
        return "none"
    return f'`"{value}"`' if isinstance(value, str) else "`[]`" if value == () else f"`{value}`"


def test_the_table_of_keys() -> None:
    rows = [
        f"| `{key.name}` | {_default(key.name)} | {'yes' if key.shared else ''} | {key.meaning} |"
        for key in KEYS.values()
    ]
    written = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("| `")]
    assert written == rows, "the table should be:\n" + "\n".join(rows)
