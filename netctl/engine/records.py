"""What an engine notes on disk, beside what the kernel keeps for it."""

from __future__ import annotations

from pathlib import Path

from netctl.model.errors import EngineError
from netctl.system.files import write_atomic


def keep(path: Path, text: str) -> None:
    """Note it, whole or not at all. Raises EngineError, for which an apply is rolled back."""
    try:
        write_atomic(path, text)
    except OSError as error:
        raise EngineError(f"cannot write {path}: {error.strerror}") from error
