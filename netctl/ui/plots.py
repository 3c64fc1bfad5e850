"""Draws small plots: as a path of SVG for the page, and in braille for a terminal. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence

Points = Sequence[tuple[float, float | None]]
"""Pairs of time and value, oldest first; None: the value is not known."""
_DOTS = ((0x40, 0x04, 0x02, 0x01), (0x80, 0x20, 0x10, 0x08))
"""The bits of the dots of a braille cell (Unicode: Braille Patterns), for each column from the bottom up."""
BRAILLE = 0x2800
"""The code point of the braille cell without dots."""


def svg_path(points: Points, *, now: float, window_s: float, width: int, height: int) -> str:
    """The attribute `d` of an SVG path. The right edge is `now`; a missing value leaves a gap. Empty: there are
    no values."""
    top = max((value for _, value in points if value is not None), default=0.0)
    parts: list[str] = []
    pen = "M"
    for at, value in points:
        if value is None:
            pen = "M"
            continue
        x = width * (1 - (now - at) / window_s)
        y = height - 1 - (height - 2) * (value / top if top > 0 else 0.0)
        parts.append(f"{pen}{x:.1f} {y:.1f}")
        pen = "L"
    return "".join(parts)


def braille(values: Sequence[float | None], width: int) -> str:
    """The last values as columns of dots, in `width` characters. Each has two values, with four heights each."""
    newest = list(values)[-2 * width :]
    wanted: list[float | None] = [*[None] * (2 * width - len(newest)), *newest]
    top = max((value for value in wanted if value is not None), default=0.0)
    cells = []
    for left in range(0, 2 * width, 2):
        code = BRAILLE
        for column in (0, 1):
            value = wanted[left + column]
            if value is not None:
                height = max(1, math.ceil(4 * value / top)) if top > 0 and value > 0 else 1
                code |= sum(_DOTS[column][:height])
        cells.append(chr(code))
    return "".join(cells)
