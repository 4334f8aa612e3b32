"""The daemon's log: one line an event, on standard error; the service manager adds time and name where it reads."""

from __future__ import annotations

import logging
import os
import sys

LOG = logging.getLogger("carpd")

_PRIORITY = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class _JournalFormatter(logging.Formatter):
    """`<4>text`: the journal takes the priority off. Ref: sd-daemon(3)."""

    def format(self, record: logging.LogRecord) -> str:
        return f"<{_PRIORITY.get(record.levelno, 5)}>{super().format(record)}"


def start_logging() -> None:
    """Log to standard error, as the journal reads it or with a time in front."""
    handler = logging.StreamHandler(sys.stderr)
    if "JOURNAL_STREAM" in os.environ:
        handler.setFormatter(_JournalFormatter("%(message)s"))
    else:
        text = "%(asctime)s.%(msecs)03d carpd: %(levelname)s: %(message)s"
        handler.setFormatter(logging.Formatter(text, "%Y-%m-%d %H:%M:%S"))
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
