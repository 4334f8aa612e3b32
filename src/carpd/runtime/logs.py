"""The daemon's log: one line an event, to the journal with its fields, or on standard error."""

from __future__ import annotations

import logging
import sys

from carpd.runtime import journal

LOG = logging.getLogger("carpd")


def start_logging(program: str = "carpd") -> None:
    """Log to the journal if it reads our standard error; else there, with a time in front."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if journal.reads(sys.stderr):
        handler.setFormatter(journal.PrefixFormatter())
        handler = journal.JournalHandler(program, handler, journal.ADDRESS)
    else:
        text = f"%(asctime)s.%(msecs)03d {program}: %(levelname)s: %(message)s"
        handler.setFormatter(logging.Formatter(text, "%Y-%m-%d %H:%M:%S"))
    LOG.addHandler(handler)
    LOG.setLevel(logging.INFO)
