"""Gives the path manager the new port and peers after a change of the host."""

from __future__ import annotations

from netctl.agent.host import Host
from netctl.agent.ownrelay import OwnRelay
from netctl.agent.transport.addressmonitor import AddressMonitor, tunnelled
from netctl.agent.transport.endpointnames import EndpointNames
from netctl.agent.transport.pathmtus import PathMtus
from netctl.agent.transport.pathrunner import PathRunner
from netctl.agent.transport.tunnels import Tunnels
from netctl.config.resolve.guests import guests_in, with_guests
from netctl.model.document import Document, Mediator
from netctl.model.keys import WireGuardKey
from netctl.node.context import Context


class Following:
    """Keeps the path manager in step with the host."""

    def __init__(
        self,
        context: Context,
        host: Host,
        paths: PathRunner,
        tunnels: Tunnels,
        addresses: AddressMonitor,
        mtus: PathMtus,
        names: EndpointNames,
        own_relay: OwnRelay,
    ) -> None:
        self.own_relay = own_relay
        self._names = names
        self._mtus = mtus
        self._context, self._host, self._paths = context, host, paths
        self._tunnels, self._addresses = tunnels, addresses
        self.engine_kind = ""
        self.data_path = ""
        """The engine's data path, as text for people."""

    async def follow(self, document: Document | None) -> None:
        """Tell the path manager the host's present port, networks and peers. Raises EngineError."""
        self._names.follow(document)
        desired, view = self._context.state.desired, self._context.state.view
        if desired.wireguard is None:
            self._tunnels.gone()
        self.engine_kind, port = await self._host.port()
        self.data_path = await self._host.data_path()
        self._paths.relays(*self._relays(document), () if document is None else document.relays_beside())
        # A mediator's document does not make a relay of a host that joined by invite: its owner did not write it.
        here = desired.wireguard is not None and self._context.state.joined is None
        await self.own_relay.follow(document if here else None)
        if document is None or not document.mediators:
            self._paths.use_port(self.engine_kind, 0)
            self._paths.peers(frozenset())
            return
        self._paths.use_port(self.engine_kind, port)
        self._paths.inside(tunnelled(desired, document))
        self._paths.tunnel_mtu(desired.wireguard.mtu if desired.wireguard is not None else 0)
        self._mtus.again()
        await self._addresses.look(document)
        lazy = self._context.lazy_peers
        if lazy and not self._tunnels.statuses:
            await self._tunnels.observe()  # an engine that outlived the last agent may have sessions
        self._paths.peers(
            self._context.wanted_peers, document.stock_keys(), lazy=lazy, live=self._tunnels.live
        )
        self._paths.observe(self._tunnels.statuses)  # so paths start with endpoints that already work
        if view is not None:
            self._paths.presence_in_view({key: member.online for key, member in view.members.items()})

    def _relays(
        self, document: Document | None
    ) -> tuple[tuple[Mediator, ...], dict[str, frozenset[WireGuardKey]]]:
        """The relays apart that this host may use, and of those that are members the peers whose packets they carry."""
        if document is None:
            return (), {}
        whole, _ = with_guests(document, guests_in(document, self._context.state.view))
        me = whole.member_by_key(self._context.key)
        name = me.name if me is not None else ""
        relays = tuple(relay for relay in whole.relays() if not relay.member or relay.member != name)
        found = {}
        for relay in relays:
            circles = whole.circles(relay)
            if circles is not None:
                peers = {other for circle in circles if name in circle for other in circle}
                keys = (whole.members[other].wireguard for other in peers)
                found[str(relay.identity[0])] = frozenset(key for key in keys if key is not None)
        return tuple(relay for relay in relays if found.get(str(relay.identity[0]), True)), found

    def engine_gone(self) -> None:
        """The engine has ended: close the shared port; the next engine opens it again."""
        self._paths.engine_gone()

    def leave(self) -> None:
        """End all paths and this member's relay, and close the port at the router."""
        self.own_relay.stop()
        self._tunnels.gone()
        self._paths.peers(frozenset())
        self._paths.use_port("", 0)
