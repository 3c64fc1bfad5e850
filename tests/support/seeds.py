"""Stories that a number begins: a failure says which number, so that it can be told again."""

from __future__ import annotations

from collections.abc import Callable


def tell(story: Callable[[int], object], first: int, end: int) -> None:
    """All stories from `first` up to `end`, without it. Whatever one raises has its seed as a note."""
    for seed in range(first, end):
        try:
            story(seed)
        except BaseException as error:
            error.add_note(f"seed {seed}")
            raise
