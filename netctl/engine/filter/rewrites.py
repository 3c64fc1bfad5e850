"""Rewrites ports with nftables: one peer's packets use another local port than the engine's, with any engine.

A second, stateless table of ours: it rewrites the destination port before connection tracking sees an incoming packet,
and the source port after connection tracking has seen an outgoing one. So the host's own firewall and the engine see a
flow of the WireGuard port, and the network sees a flow of the other port.

The rewrites are recorded before they are loaded: the record proves our ownership, and the next agent reads it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from netctl.engine.filter.nft import load, nft
from netctl.engine.records import forget, is_kept, keep, kept
from netctl.model.addresses import SocketAddress
from netctl.model.errors import EngineError
from netctl.model.hoststate import REWRITE_TABLE

REWRITES_FILE = "rewrites.json"
"""The record, in the state directory."""
_ONE_AT_A_TIME = threading.Lock()
"""Held while recording and loading, so that threads do not mix them."""
MAX_REWRITES = 4096
"""Rewrites at most: more peers behind such NATs than any host has."""


@dataclass(frozen=True, slots=True)
class PortRewrite:
    """`remote`, an IPv4 socket address, sees the engine's `listen_port` as `local_port`."""

    remote: SocketAddress
    local_port: int
    listen_port: int


def script(rewrites: frozenset[PortRewrite]) -> str:
    """The transaction that loads exactly these rewrites; without rewrites it removes the table."""
    gone = f"add table inet {REWRITE_TABLE}\ndelete table inet {REWRITE_TABLE}\n"
    if not rewrites:
        return gone
    ordered = sorted(rewrites, key=lambda one: (one.remote, one.local_port))
    inward = ", ".join(
        f"{one.remote.host} . {one.remote.port} . {one.local_port} : {one.listen_port}" for one in ordered
    )
    outward = ", ".join(
        f"{one.remote.host} . {one.remote.port} . {one.listen_port} : {one.local_port}" for one in ordered
    )
    key = "type ipv4_addr . inet_service . inet_service : inet_service"
    return f"""{gone}table inet {REWRITE_TABLE} {{
  map inward {{ {key}; elements = {{ {inward} }} }}
  map outward {{ {key}; elements = {{ {outward} }} }}
  chain prerouting {{
    type filter hook prerouting priority -310; policy accept;
    udp dport set ip saddr . udp sport . udp dport map @inward
  }}
  chain postrouting {{
    type filter hook postrouting priority 200; policy accept;
    udp sport set ip daddr . udp dport . udp sport map @outward
  }}
}}
"""


def listed(wanted: frozenset[PortRewrite]) -> bool:
    """Whether nftables has exactly these rewrites, in a table with both rules."""
    result = nft(["-j", "list", "table", "inet", REWRITE_TABLE])
    try:
        items = json.loads(result.stdout)["nftables"] if result.returncode == 0 else []
        elements = next(
            item["map"].get("elem", []) for item in items if item.get("map", {}).get("name") == "inward"
        )
        found = {(*key["concat"], port) for key, port in elements}
    except (ValueError, KeyError, TypeError, StopIteration):
        return False
    rows = {(one.remote.host, one.remote.port, one.local_port, one.listen_port) for one in wanted}
    return found == rows and [kind for item in items for kind in item].count("rule") == len(("in", "out"))


class Rewrites:
    """The rewrites of this host. `record`: the file in which they are recorded. Blocking."""

    def __init__(self, record: Path) -> None:
        self._record = record

    def read(self) -> frozenset[PortRewrite]:
        """The rewrites that were loaded last, by this or an earlier agent."""
        try:
            rows = json.loads(kept(self._record))
            found = [PortRewrite(SocketAddress.parse(at), int(own), int(port)) for at, own, port in rows]
        except (OSError, ValueError, TypeError):
            return frozenset()
        return frozenset(one for one in found if not one.remote.is_ipv6)

    def stands(self) -> bool:
        """Whether the table contains the rewrites loaded last; True where none were loaded."""
        wanted = self.read()
        return not wanted or listed(wanted)

    def restore(self) -> bool:
        """Load the last rewrites again. False: unchanged, or none were loaded. Raises EngineError."""
        with _ONE_AT_A_TIME:
            wanted = self.read()
            if not wanted or listed(wanted):
                return False
            load([], script(wanted), "the rewrite of ports")
            return True

    def any(self) -> bool:
        """Whether there may be rewrites."""
        return is_kept(self._record)

    def set(self, rewrites: Mapping[SocketAddress, tuple[int, int]]) -> None:
        """Load exactly these rewrites: remote to (local port, listen port). Raises EngineError."""
        wanted = frozenset(PortRewrite(remote, *ports) for remote, ports in rewrites.items())
        if len(wanted) > MAX_REWRITES:
            raise EngineError(f"more than {MAX_REWRITES} peers by rewritten ports")
        if not wanted and not self.any():
            return
        with _ONE_AT_A_TIME:
            self._set(wanted)

    def _set(self, wanted: frozenset[PortRewrite]) -> None:
        rows = [[str(one.remote), one.local_port, one.listen_port] for one in wanted]
        keep(self._record, json.dumps(sorted(rows)))
        load([], script(wanted), "the rewrite of ports")
        if not wanted:
            forget(self._record)

    def remove(self) -> None:
        """Remove all rewrites and the table; no error when there are none."""
        self.set({})
