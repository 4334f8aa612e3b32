"""What to say of a word that nobody knows: in a file, on a command line or in a request."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_SHOWN = 24
"""Of so many known words all are named: no table of the configuration has more keys."""


def hint(word: str, known: Iterable[str], *, otherwise: str = "known are") -> str:
    """The known word that looks like it; without one, the known ones."""
    from difflib import get_close_matches  # only when something is wrong: it is slow to import

    known = list(dict.fromkeys(known))
    folded = {_folded(name): name for name in known}
    alike = get_close_matches(_folded(word), folded, n=1)
    if alike:
        return f"did you mean {folded[alike[0]]!r}?"
    if not known:
        return "there is none"
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    return f"{otherwise} {', '.join(known[:_SHOWN])}{more}"


def _folded(word: str) -> str:
    """What is alike in it however it is written: ADV-BASE is adv_base."""
    return word.casefold().replace("-", "_")
