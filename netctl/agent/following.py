"""What follows a host that was brought to another state: the shared port, and whom there are to be paths to."""

from __future__ import annotations

from netctl.agent.host import Host
from netctl.agent.transport.addressmonitor import AddressMonitor, tunnelled
from netctl.agent.transport.endpointnames import EndpointNames
from netctl.agent.transport.pathmtus import PathMtus
from netctl.agent.transport.pathrunner import PathRunner
from netctl.agent.transport.tunnels import Tunnels
from netctl.model.document import Document
from netctl.node.context import Context


class Following:
    """Keeps the path manager at what the host has."""

    def __init__(
        self,
        context: Context,
        host: Host,
        paths: PathRunner,
        tunnels: Tunnels,
        addresses: AddressMonitor,
        mtus: PathMtus,
        names: EndpointNames,
    ) -> None:
        self._names = names
        self._mtus = mtus
        self._context, self._host, self._paths = context, host, paths
        self._tunnels, self._addresses = tunnels, addresses
        self.engine_kind = ""
        self.data_path = ""
        """What moves the engine's packets, for people."""

    async def follow(self, document: Document | None) -> None:
        """Tell the path manager what there is now. Raises EngineError."""
        self._names.follow(document)
        desired, view = self._context.state.desired, self._context.state.view
        if desired.wireguard is None:
            self._tunnels.gone()
        self.engine_kind, port = await self._host.port()
        self.data_path = await self._host.data_path()
        if document is None or not document.mediators:
            self._paths.use_port(self.engine_kind, 0)
            self._paths.peers(frozenset())
            return
        self._paths.use_port(self.engine_kind, port)
        self._paths.inside(tunnelled(desired, document))
        self._paths.tunnel_mtu(desired.wireguard.mtu if desired.wireguard is not None else 0)
        self._mtus.again()
        await self._addresses.look(document)
        self._paths.peers(self._context.wanted_peers, document.stock_keys())
        self._paths.observe(self._tunnels.statuses)  # an endpoint that already works is where a path begins
        if view is not None:
            for key, member in view.members.items():
                self._paths.presence(key, member.online)

    def engine_gone(self) -> None:
        """The engine has ended: the port is opened again with the next one."""
        self._paths.engine_gone()

    def leave(self) -> None:
        """There is nothing to have paths to, and what the router has opened is given back."""
        self._tunnels.gone()
        self._paths.peers(frozenset())
        self._paths.use_port("", 0)
