"""Moments and lengths of time, as people read and write them."""

from __future__ import annotations

import argparse
import re
from datetime import UTC, datetime

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_LENGTH = r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?"


def age(since: str | None) -> str:
    """How long ago, in the largest unit: 45s, 12m, 3h, 5d."""
    if since is None:
        return "-"
    seconds = max(int((datetime.now(UTC) - datetime.fromisoformat(since)).total_seconds()), 0)
    unit, length = next((unit, length) for unit, length in _UNITS.items() if seconds >= length or length == 1)
    return f"{seconds // length}{unit}"


def clock(moment: str) -> str:
    """When, as the clock of the reader shows it; with the date if that is not today."""
    local = datetime.fromisoformat(moment).astimezone()
    today = datetime.now().astimezone().date()
    return local.strftime("%H:%M" if local.date() == today else "%Y-%m-%d %H:%M")


def precise(moment: str) -> str:
    """Likewise to the millisecond, without the date."""
    return datetime.fromisoformat(moment).astimezone().strftime("%H:%M:%S.%f")[:-3]


def length(text: str) -> int:
    """The seconds in 90s, 30m, 2h, 1d, 1h30m. Raise ArgumentTypeError."""
    match = re.fullmatch(_LENGTH, text)
    if not text or match is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no length of time: write 90s, 30m, 2h, 1d or 1h30m")
    return sum(int(number or 0) * seconds for number, seconds in zip(match.groups(), _UNITS.values(), strict=True))
