"""A member's disk: what outlives a crash, what a full disk refuses, and what a torn write leaves."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Generic, TypeVar

from netctl.config import Loaded, Pins
from netctl.node.choices import Down, Joined
from netctl.node.commit import PendingCommit
from netctl.session import Kept

T = TypeVar("T")


@dataclass
class File(Generic[T]):
    """One file of state, with the generation before it beside (`netctl.system.statefiles`)."""

    content: T | None = None
    before: T | None = None
    torn: bool = False

    def read(self) -> T | None:
        """What was written last, or what was before where that is torn."""
        return self.before if self.torn else self.content

    def write(self, content: T | None) -> None:
        """A new generation; None: there is no file any more, and nothing comes in its place."""
        if not self.torn:
            self.before = self.content
        self.content, self.torn = content, False
        if content is None:
            self.before = None

    def tear(self) -> None:
        """What was written last never came to the disk."""
        self.torn = self.content is not None


@dataclass
class SimDisk:
    """The state directory."""

    full: bool = False
    accepted: File[Loaded] = field(default_factory=File)
    armed: File[PendingCommit] = field(default_factory=File)
    refused: File[frozenset[str]] = field(default_factory=File)
    joined: File[Joined] = field(default_factory=File)
    view: File[Kept] = field(default_factory=File)
    pins: File[Pins] = field(default_factory=File)
    down: File[Down] = field(default_factory=File)
    written: File[object] | None = None
    """What was written last, for whoever tears it."""

    def write(self, file: File[T], content: T | None) -> None:
        """Raises OSError where there is no room."""
        if self.full and content is not None:
            raise OSError(28, "No space left on device")
        file.write(content)
        self.written = file  # type: ignore[assignment]

    def tear(self) -> bool:
        """What was written last never came to the disk; whether anything was."""
        if self.written is None:
            return False
        self.written.tear()
        return True

    @property
    def newest(self) -> frozenset[str]:
        """Digests of documents that were rolled back."""
        return self.refused.read() or frozenset()
