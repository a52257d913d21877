"""How motion.py groups the query columns of the motion term. Apart from it, as the forecast asks without torch."""

from __future__ import annotations


def column_groups(width: int) -> list[slice]:
    """Returns the query columns in groups of at most 8: fewer zeros in a skewed map than with one group, and GEMMs that
    are still large (14 columns on a CPU: one group 1.2 times, four groups 1.2 times the time of two)."""
    size = -(-width // -(-width // 8))
    return [slice(start, min(start + size, width)) for start in range(0, width, size)]
