"""Indices: the random 32-bit names by which a receiver finds a session or a handshake (paper §5.4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from netctl.tunnel.keypair import Keypair
    from netctl.tunnel.peer import Peer


class IndexTable:
    """Who is behind an index of ours. Only configured peers ever have one."""

    def __init__(self, rng: Callable[[int], bytes]) -> None:
        self._rng = rng
        self.keypairs: dict[int, Keypair] = {}
        self.handshakes: dict[int, Peer] = {}
        """Peers with an initiation of ours under way."""

    def fresh(self) -> int:
        """An index that nobody has."""
        while True:
            index = int.from_bytes(self._rng(4), "little")
            if index not in self.keypairs and index not in self.handshakes:
                return index

    def peer(self, index: int) -> Peer | None:
        """The peer that an index belongs to, whatever for."""
        keypair = self.keypairs.get(index)
        return keypair.peer if keypair is not None else self.handshakes.get(index)
