"""Our names on the host: the least of an apply, so nothing else waits for a hosts file that cannot be written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from netctl.engine.hosts import HostsFile
from netctl.model.addresses import Address
from netctl.model.errors import EngineError
from netctl.model.foreign import ForeignName


class Names:
    """The block of the hosts file. What it refuses is said (`trouble`), and tried again by `retry`."""

    def __init__(self, path: Path) -> None:
        self._hosts = HostsFile(path)
        self._refused: dict[str, tuple[Address, ...]] | None = None
        self.trouble = ""
        """Why the names are not on the host, for people; empty: they are."""

    def read(self) -> dict[str, tuple[Address, ...]]:
        """Our names; those that the file refuses count as there, for no change of ours could bring them."""
        if self._refused is not None:
            return dict(self._refused)
        try:
            return self._hosts.read()
        except EngineError:
            return {}  # whoever then writes is told

    def foreign(self, domain: str) -> tuple[ForeignName, ...]:
        """Names below our domain that somebody else gives an address."""
        return self._hosts.foreign(domain)

    def write(self, names: Mapping[str, tuple[Address, ...]]) -> None:
        """Replace our block. Never raises: a refusal is `trouble`."""
        try:
            self._hosts.write(names)
        except EngineError as error:
            self._refused = dict(names)
            self.trouble = f"members' names do not resolve here: {error}; it is tried again by itself"
        else:
            self._refused, self.trouble = None, ""

    def retry(self) -> None:
        """Once more what was refused."""
        if self._refused is not None:
            self.write(self._refused)
