"""Sets the MTU of routes to peers whose path carries smaller packets than the tunnels (`netctl.paths.mtuprobe`).

The kernel then fragments or refuses larger packets at their source, informs senders behind this host (path MTU
discovery), and announces a fitting TCP segment size. These MTUs belong to paths, not to the host's desired state.
"""

from __future__ import annotations

import asyncio

from netctl.agent.host import Host
from netctl.agent.log import say
from netctl.model.hoststate import WIREGUARD_LINK
from netctl.model.keys import WireGuardKey
from netctl.node.context import Context
from netctl.paths.effects import LimitSize


class PathMtus:
    """The route MTUs of one host."""

    def __init__(self, context: Context, host: Host) -> None:
        self._context, self._host = context, host
        self._sizes: dict[WireGuardKey, int] = {}
        self._wanted = asyncio.Event()
        self._was_set = True  # an earlier agent may have left route MTUs

    def limit(self, wanted: LimitSize) -> None:
        """Limit packets to a peer."""
        key, mtu = wanted.key, wanted.mtu
        if mtu is None:
            self._sizes.pop(key, None)
        else:
            self._sizes[key] = mtu
        if wanted.found:
            what = f"packets of up to {mtu} bytes pass" if mtu is not None else "full packets pass"
            say(f"{self._context.state.name_of(key)}: {what}")
        self._wanted.set()

    def again(self) -> None:
        """Routes were set again: set their MTUs again."""
        if self._sizes or self._was_set:
            self._wanted.set()

    async def run(self) -> None:
        """Set MTUs after changes, until cancelled."""
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            link = self._context.state.desired.wireguard
            peers = link.peers if link is not None else {}
            sizes = {
                prefix: mtu
                for key, mtu in self._sizes.items()
                if key in peers
                for prefix in peers[key].allowed_ips
            }
            self._was_set = bool(sizes)
            await self._host.limit_sizes(WIREGUARD_LINK, sizes)
