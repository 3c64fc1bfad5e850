"""Routes to peers whose path carries less than the tunnels do have that size (`netctl.paths.mtuprobe`).

The kernel then cuts or refuses what is larger where it begins, tells senders behind this host so (path MTU discovery),
and announces the TCP segment size that fits. A size is no part of the host's desired state: it goes with the path.
"""

from __future__ import annotations

import asyncio

from netctl.agent.host import Host
from netctl.agent.log import say
from netctl.model.hoststate import WIREGUARD_LINK
from netctl.model.keys import WireGuardKey
from netctl.node.context import Context


class PathMtus:
    """Of one host."""

    def __init__(self, context: Context, host: Host) -> None:
        self._context, self._host = context, host
        self._sizes: dict[WireGuardKey, int] = {}
        self._wanted = asyncio.Event()
        self._was_set = True  # the agent before may have left some

    def limit(self, key: WireGuardKey, mtu: int | None) -> None:
        """Packets to this peer are to be no larger; None: as large as the tunnels carry."""
        if mtu is None:
            self._sizes.pop(key, None)
        else:
            self._sizes[key] = mtu
        what = f"packets of up to {mtu} bytes pass" if mtu is not None else "full packets pass"
        say(f"{self._context.state.name_of(key)}: {what}")
        self._wanted.set()

    def again(self) -> None:
        """Routes were set anew."""
        if self._sizes or self._was_set:
            self._wanted.set()

    async def run(self) -> None:
        """Until cancelled."""
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
