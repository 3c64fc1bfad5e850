"""Asks the kernel for the source address of packets to an address, which tells routes over our links from others."""

from __future__ import annotations

import ipaddress
import socket

from netctl.model.addresses import Address, parse_address

KEPT_S = 1.0
"""Seconds for which an answer is cached: routes change with every apply."""
KEPT = 1024
"""Cached answers: some sixteen candidates for each peer that is punched at the same time."""


class SourceLookup:
    """Asks with a connected UDP socket that sends nothing; caches answers for `KEPT_S`."""

    def __init__(self) -> None:
        self._kept: dict[Address, tuple[float, Address | None]] = {}

    def find(self, destination: Address, now: float) -> Address | None:
        """The source address of packets to `destination` (`now`: monotonic seconds); None: there is no route."""
        at, source = self._kept.get(destination, (float("-inf"), None))
        if now - at <= KEPT_S:
            return source
        source = _ask(destination)
        if len(self._kept) >= KEPT:
            self._kept.clear()
        self._kept[destination] = now, source
        return source


def _ask(destination: Address) -> Address | None:
    family = socket.AF_INET6 if destination.version == 6 else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as asker:
            asker.connect((str(destination), 9))  # the discard port: nothing is sent to it
            return parse_address(asker.getsockname()[0].partition("%")[0])
    except (OSError, ipaddress.AddressValueError):
        return None
