"""What somebody may have meant who mistyped a name."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: object, known: Iterable[str], count: int = 3) -> list[str]:
    """At most so many of the known names, the most similar first; none that is too far from what was given."""
    return difflib.get_close_matches(str(name), list(dict.fromkeys(known)), n=count, cutoff=0.4)
