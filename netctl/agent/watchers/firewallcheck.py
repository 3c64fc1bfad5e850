"""Finds flows that the document allows and the host's own firewall drops, on request."""

from __future__ import annotations

from dataclasses import replace

from netctl.agent.host import Host
from netctl.agent.runner import Runner
from netctl.model.errors import EngineError, LocalError
from netctl.model.hoststate import HostState
from netctl.model.packetfilter import PacketFilter
from netctl.node.context import Context
from netctl.node.evaluate import member_name
from netctl.node.firewall.obstacles import Obstacle, obstacles


class Firewall:
    """The check of one host's firewall."""

    def __init__(self, context: Context, host: Host, runner: Runner) -> None:
        self._context, self._host, self._runner = context, host, runner
        self.obstacles: tuple[Obstacle, ...] = ()
        """The result of the last check."""
        self._seen: tuple[PacketFilter, HostState] | None = None
        """The firewall and desired state of the last check."""

    async def look(self) -> tuple[Obstacle, ...]:
        """Check the firewall against the desired state."""
        state = self._context.state
        document = state.document
        if document is None or state.desired.wireguard is None:
            self.obstacles, self._seen = (), None
            return ()
        try:
            found = await self._host.packet_filter()
            name = member_name(document, self._context.key)
        except (EngineError, LocalError):  # reported elsewhere, where more depends on it
            return self.obstacles
        if self._seen is None or self._seen[0] is not found or self._seen[1] is not state.desired:
            foreign = replace(state.foreign, packet_filter=found)
            self.obstacles = obstacles(state.desired, document, name, foreign)
            self._seen = found, state.desired
        return self.obstacles

    async def refresh(self) -> None:
        """Check again, but do not wait for an apply."""
        if not self._runner.node.busy:
            await self.look()
