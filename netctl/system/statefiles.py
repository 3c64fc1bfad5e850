"""State files with checksums and a previous generation: a reader detects damage and falls back.

A state file contains only its content, so that people and other tools can read it. Beside `NAME` are `NAME.sums`, the
SHA-256 of the present and of the previous content, and `NAME.previous`, the previous content. The previous content is
the old file itself under a second name, so that damage to the new file does not reach it. The sums are written before
the file: a crash in between leaves the old file, whose sum is still listed.

A file without sums is from an earlier version or was put there by hand: it is accepted unless it is blank. A missing
file was removed by somebody: its previous generation is not used.
"""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from pathlib import Path

from netctl.system import files

SUMS = ".sums"
PREVIOUS = ".previous"
BLANK = b"\0 \t\r\n"
"""Bytes that a file system leaves in a file whose content never reached the disk (NULs, also of the right length)."""


@dataclass(frozen=True, slots=True)
class Found:
    """The usable content of a file. `lost`: why it is not the content written last, or None."""

    content: bytes | None
    lost: str | None = None

    @property
    def text(self) -> str | None:
        """The content as UTF-8. Raises UnicodeDecodeError."""
        return self.content.decode() if self.content is not None else None


def write(path: Path, content: str | bytes) -> None:
    """Replace `path` by `content`; whole present content becomes the previous generation. Raises OSError."""
    new = content.encode() if isinstance(content, str) else content
    known = _sums(path)
    present = _content(path)
    if present is not None and _is_whole(present, known):
        if present != new:
            files.second_name(path, _previous(path))
        sums = (_sum(new), _sum(present)) if present != new else (_sum(new), *known[1:2])
    elif present is not None:
        sums = (_sum(new), *known)  # damaged content becomes no generation: the previous generation stays
    else:
        sums = (_sum(new),)  # the file was removed: its previous generation does not come back
    files.write_atomic(_beside(path, SUMS), "".join(f"{one}\n" for one in dict.fromkeys(sums)))
    files.write_atomic(path, new)


def read(path: Path) -> Found:
    """The content written last, or the generation before it. Raises OSError for a file that cannot be read."""
    known, present = _sums(path), _content(path)
    if present is None:
        return Found(None)
    if _is_whole(present, known):
        if not known and _beside(path, SUMS).exists():
            return Found(
                present, f"{path}{SUMS} is damaged: nobody can tell whether {path} is what was written last"
            )
        return Found(present)
    how = "is empty" if not present.strip(BLANK) else "is not what was written into it"
    with contextlib.suppress(OSError):
        before = _content(_previous(path))
        if before is not None and _is_whole(before, known):
            return Found(before, f"{path} {how}: the generation before it is used")
    return Found(None, f"{path} {how}, and there is none of before")


def previous(path: Path) -> bytes | None:
    """The previous generation, if it is whole: for a caller that cannot use the present content."""
    with contextlib.suppress(OSError):
        before = _content(_previous(path))
        if before is not None and _is_whole(before, _sums(path)):
            return before
    return None


def remove(path: Path) -> None:
    """Remove a file, its sums and its previous generation; a missing file is no error. Raises OSError."""
    files.remove(path)
    for beside in (_beside(path, SUMS), _previous(path)):
        with contextlib.suppress(FileNotFoundError):
            beside.unlink()


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def _previous(path: Path) -> Path:
    return _beside(path, PREVIOUS)


def _content(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _sums(path: Path) -> tuple[str, ...]:
    try:
        lines = _beside(path, SUMS).read_text(encoding="ascii").split("\n")
    except (OSError, UnicodeDecodeError):
        return ()
    return tuple(line for line in lines if len(line) == hashlib.sha256().digest_size * 2)


def _sum(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _is_whole(content: bytes, known: tuple[str, ...]) -> bool:
    return bool(content.strip(BLANK)) and (not known or _sum(content) in known)
