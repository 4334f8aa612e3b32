"""What to say of a word that nobody knows."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

_SHOWN = 12
"""Of so many known words all are named."""


def hint(word: str, known: Iterable[str], *, otherwise: str = "known are") -> str:
    """The known word that looks like it; without one, the known ones."""
    from difflib import get_close_matches  # only when something is wrong: it is slow to import

    known = list(dict.fromkeys(known))
    folded = {name.casefold(): name for name in known}
    alike = get_close_matches(word.casefold(), folded, n=1)
    if alike:
        return f"did you mean {folded[alike[0]]!r}?"
    if not known:
        return "there is none"
    more = f" and {len(known) - _SHOWN} more" if len(known) > _SHOWN else ""
    return f"{otherwise} {', '.join(known[:_SHOWN])}{more}"
