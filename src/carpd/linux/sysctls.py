"""Settings below /proc/sys/net that are changed for a while, and a journal to put them back from.

Their names are paths, ("ipv4", "conf", "eth0.5", "arp_ignore"): interfaces' names may have dots.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from carpd.errors import SystemCallError

_ROOT = Path("/proc/sys/net")


def read(*name: str) -> str | None:
    """The value of a setting; None if there is none of this name."""
    try:
        return _ROOT.joinpath(*name).read_text().strip()
    except OSError:
        return None


def names(*directory: str) -> list[str]:
    """The settings in a directory; none if it is not there."""
    try:
        return sorted(path.name for path in _ROOT.joinpath(*directory).iterdir())
    except OSError:
        return []


def write(value: str, *name: str) -> None:
    """Change a setting, for things that vanish with their settings. Raise SystemCallError."""
    try:
        _ROOT.joinpath(*name).write_text(value)
    except OSError as error:
        tried = f"set net/{'/'.join(name)} to {value}"
        raise SystemCallError(tried, error.errno or 0, error.strerror or str(error)) from error


@dataclass(frozen=True, slots=True)
class Change:
    """One changed setting: what it was, and what we made of it."""

    name: tuple[str, ...]
    original: str
    ours: str


class SysctlJournal:
    """Changes settings after it wrote down their values, so that even a killed daemon's changes can be taken back."""

    def __init__(self, path: Path) -> None:
        """Continue the journal at `path`, if there is one. Raise SystemCallError if it can't be read."""
        self._path = path
        self._changes = {change.name: change for change in self._load()}

    def set(self, value: str, *name: str) -> None:
        """Change a setting; one that is already so, or does not exist here, is left alone. Raise SystemCallError."""
        now = read(*name)
        if now is None or now == value:
            return
        before = self._changes.get(name)
        # What somebody else made of it since we changed it is what they will want back.
        original = before.original if before and before.ours == now else now
        self._changes[name] = Change(name, original, value)
        self._save()
        write(value, *name)

    def restore(self, *parts: str) -> list[tuple[str, ...]]:
        """Put back what is still as we set it, the last change first, and return the names.

        With `parts` only what has all of these in its name: an interface, a setting. Raise SystemCallError.
        """
        restored = []
        changes = [change for change in self._changes.values() if set(parts) <= set(change.name)]
        for change in reversed(changes):
            if read(*change.name) == change.ours:
                write(change.original, *change.name)
                restored.append(change.name)
            del self._changes[change.name]
        if self._changes:
            self._save()
        else:
            self._path.unlink(missing_ok=True)
        return restored

    def _load(self) -> list[Change]:
        try:
            entries = json.loads(self._path.read_text())
            return [Change(tuple(entry["name"]), entry["original"], entry["ours"]) for entry in entries]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise SystemCallError(f"read {self._path}", error.errno or 0, error.strerror or str(error)) from error
        except (ValueError, TypeError, KeyError) as error:
            raise SystemCallError(f"read {self._path}", 0, f"it is damaged, delete it: {error}") from error

    def _save(self) -> None:
        """Replace the journal as a whole: whoever reads it finds the old or the new one."""
        new = self._path.with_suffix(".new")
        try:
            with new.open("w") as journal:
                json.dump([asdict(change) for change in self._changes.values()], journal, indent=1)
                journal.flush()
                os.fsync(journal.fileno())
            new.replace(self._path)
        except OSError as error:
            raise SystemCallError(f"write {self._path}", error.errno or 0, error.strerror or str(error)) from error
