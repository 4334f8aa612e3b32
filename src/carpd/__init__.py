"""carpd: CARP and pfsync for Linux."""

__version__ = "0.1.0"
