"""Writes our names to the hosts file. A hosts file that cannot be written does not fail an apply."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from netctl.engine.hosts import HostsFile
from netctl.model.addresses import Address
from netctl.model.errors import EngineError
from netctl.model.foreign import ForeignName


class Names:
    """Our block of the hosts file. A refusal is reported (`trouble`), and `retry` tries again."""

    def __init__(self, path: Path) -> None:
        self._hosts = HostsFile(path)
        self._refused: dict[str, tuple[Address, ...]] | None = None
        self.trouble = ""
        """Why the names are not in the hosts file, for people; empty: they are."""

    def read(self) -> Mapping[str, tuple[Address, ...]]:
        """Our names; refused names count as written, since no apply could change that."""
        if self._refused is not None:
            return dict(self._refused)
        try:
            return self._hosts.read()
        except EngineError:
            return {}  # the next `write` reports the error

    def foreign(self, domain: str) -> tuple[ForeignName, ...]:
        """Names below our domain outside our block."""
        return self._hosts.foreign(domain)

    def write(self, names: Mapping[str, tuple[Address, ...]]) -> None:
        """Replace our block. Never raises: a refusal becomes `trouble`."""
        try:
            self._hosts.write(names)
        except EngineError as error:
            self._refused = dict(names)
            self.trouble = f"members' names do not resolve here: {error}; it is tried again by itself"
        else:
            self._refused, self.trouble = None, ""

    def retry(self) -> None:
        """Try to write refused names again."""
        if self._refused is not None:
            self.write(self._refused)
