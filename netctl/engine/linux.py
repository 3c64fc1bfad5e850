"""The engine for a Linux host: WireGuard through one of two drivers, links, filter, names and kernel parameters."""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from netctl.engine.api import Restored
from netctl.engine.filter.nftables import Nftables
from netctl.engine.filter.rewrites import REWRITES_FILE, Rewrites
from netctl.engine.hostfirewall.opener import OPENINGS_FILE, Opener
from netctl.engine.hostfirewall.reading import HostFilter
from netctl.engine.links import ipv6switch
from netctl.engine.links.foreignscan import resolvers
from netctl.engine.links.netlink import Netlink
from netctl.engine.names import Names
from netctl.engine.records import forget, is_kept, keep
from netctl.engine.sysctls import Sysctls
from netctl.engine.wireguard import userspace
from netctl.engine.wireguard.handshakes import Handshakes
from netctl.engine.wireguard.kernel import KernelDriver
from netctl.engine.wireguard.observed import Observed
from netctl.engine.wireguard.uapiclient import DeviceState, UapiDriver, read_private_key
from netctl.model.addresses import Prefix, SocketAddress
from netctl.model.errors import EngineError
from netctl.model.foreign import Foreign
from netctl.model.hoststate import (
    DOMAIN,
    FILTER_TABLE,
    LINK_ALIAS,
    REWRITE_TABLE,
    SEGMENT_PREFIX,
    WIREGUARD_LINK,
    HostState,
    Peer,
    PeerStatus,
    WireGuardLink,
    is_session,
)
from netctl.model.keys import WireGuardKey
from netctl.model.packetfilter import PacketFilter
from netctl.plan import Change, diff
from netctl.plan import changes as c
from netctl.system.clock import boottime

GONE_TIMEOUT_S = 5.0
"""Seconds to wait for the end of a userspace engine, which takes about a second after its interface is removed."""


def kernel_has_wireguard() -> bool:
    """Whether the kernel has WireGuard. Creates nothing; the question may load the kernel's module."""
    if Path("/sys/module/wireguard").exists():
        return True
    try:
        KernelDriver(WIREGUARD_LINK).close()
    except (EngineError, OSError):
        return False
    return True


class LinuxEngine:
    """The engine of one host. Blocking: an agent calls it from one worker thread."""

    def __init__(
        self,
        private_key: Path,
        *,
        kind: str,
        state_dir: Path,
        hosts_file: Path,
        interface: str = WIREGUARD_LINK,
    ) -> None:
        self._key_file = private_key
        self._interface = interface
        self._uapi = UapiDriver(interface)
        self._kernel: KernelDriver | None = None
        self.kind = self._choose(kind)  # before anything is opened, so that a failure leaks nothing
        self._netlink = Netlink()
        self._nftables = Nftables(state_dir / "filter.json")
        self._rewrites = Rewrites(state_dir / REWRITES_FILE)
        self._sysctls = Sysctls(state_dir / "sysctls.json")
        self._names = Names(hosts_file)
        self._host_filter = HostFilter()
        self._opener = Opener(state_dir / OPENINGS_FILE, self._host_filter)
        self._making = state_dir / "making"
        self._handshakes = Handshakes()
        self._observed = Observed()

    def _choose(self, kind: str) -> str:
        if self._uapi.answers():
            return userspace.running_kind(self._interface)
        if kind == "kernel" or (kind == "auto" and kernel_has_wireguard()):
            return "kernel"
        if kind != "auto":
            userspace.find(kind)
            return kind
        found = userspace.available()
        if found is None:
            names = " or ".join(userspace.PREFERENCE)
            raise EngineError(f"the kernel has no WireGuard and there is no userspace one; install {names}")
        return found

    @property
    def _driver(self) -> UapiDriver | KernelDriver:
        if self.kind != "kernel":
            return self._uapi
        if self._kernel is None:
            self._kernel = KernelDriver(self._interface)
        return self._kernel

    def close(self) -> None:
        """Close sockets and handles."""
        self._netlink.close()
        if self._kernel is not None:
            self._kernel.close()

    def _owned(self) -> bool:
        """Whether the WireGuard link exists and is ours. Raises EngineError for a foreign link with our name."""
        link = self._netlink.find(self._interface)
        if link is None:
            return False
        if link.alias == LINK_ALIAS or is_kept(self._making):
            return True
        raise EngineError(
            f"there is a link {self._interface} that netctl did not make; remove it (ip link del "
            f"{self._interface}) if nothing needs it"
        )

    def _device(self) -> DeviceState | None:
        if not self._owned():
            return None
        try:
            return self._driver.read()
        except EngineError:
            if self.kind != "kernel" and not self._uapi.answers():
                return None  # its engine has died: the link is created anew
            raise

    def _device_called(self, name: str) -> DeviceState | None:
        """The device of a renamed link: a userspace engine keeps its socket, the kernel is asked by the new name."""
        if self.kind != "kernel":
            return self._uapi.read() if self._uapi.answers() else None
        driver = KernelDriver(name)
        try:
            return driver.read()
        finally:
            driver.close()

    def read(self) -> HostState:
        """The state of all our objects on the host."""
        segments = {segment.name: segment for segment in self._netlink.segments()}
        return HostState(
            wireguard=self._read_link(),
            segments=segments,
            routes=frozenset(self._netlink.routes()),
            unreachable=self._netlink.unreachable(),
            filter=self._nftables.read(),
            names=self._names.read(),
            sysctls=self._sysctls.read(frozenset(segments)),
            rewrites=self._rewrites.any(),
            openings=self._opener.read(),
        )

    def foreign(self) -> Foreign:
        """The foreign objects on the host that could conflict with ours."""
        kinds, routes, own = self._netlink.foreign()
        # A VXLAN may be ours, left unmarked by a crash: `check_segment` decides when the segment is created.
        ours = {
            name: kind for name, kind in kinds.items() if name.startswith(SEGMENT_PREFIX) and kind != "vxlan"
        }
        holder = self._netlink.segment_port_holder()
        return Foreign(
            routes,
            own,
            ours,
            holder,
            self._names.foreign(DOMAIN),
            resolvers(),
            self._netlink.stacked(),
            ipv6switch.why_not((self._interface,)),
            self._host_filter.read(),
            self._opener.recorded(),
        )

    def packet_filter(self) -> PacketFilter:
        """The host's own firewall."""
        return self._host_filter.read()

    def _read_link(self) -> WireGuardLink | None:
        name, device = self._interface, self._device()
        if device is None and (other := self._netlink.renamed_from(name)) is not None:
            name, device = other, self._device_called(other)
        if device is None:
            return None
        public = X25519PrivateKey.from_private_bytes(device.private_key).public_key().public_bytes_raw()
        addresses, now = self._netlink.addresses(name), time.time()
        handshakes = self._settled(device, now)
        peers = {
            key: Peer(
                key,
                frozenset(peer.allowed_ips),
                peer.endpoint,
                peer.keepalive_s,
                is_live=is_session(handshakes.get(key, 0.0), now),
            )
            for key, peer in device.peers.items()
        }
        return WireGuardLink(
            key=WireGuardKey(public),
            listen_port=device.listen_port,
            mtu=self._netlink.mtu(name),
            addresses=frozenset(address for address, _ in addresses),
            peers=peers,
            name=name,
        )

    def observe(self) -> Mapping[WireGuardKey, PeerStatus]:
        """The present status of each peer's tunnel; empty while there is no link."""
        device = self._device()
        if device is None:
            return {}
        return self._observed.statuses(device, self._settled(device, time.time()))

    def _settled(self, device: DeviceState, unix_now: float) -> dict[WireGuardKey, float]:
        """Times of the last handshakes that there were, corrected for steps of the wall clock."""
        told = {key: peer.last_handshake_s for key, peer in device.peers.items() if peer.last_handshake_s > 0}
        return self._handshakes.settled(told, unix_now, boottime())

    def steer(
        self,
        endpoints: Mapping[WireGuardKey, SocketAddress],
        anew: frozenset[WireGuardKey] = frozenset(),
    ) -> None:
        """Send each peer's packets to its endpoint from now on; with the peers in `anew` handshakes begin anew."""
        self._driver.steer(endpoints, anew)

    def link_stands(self) -> bool:
        """Whether the WireGuard link exists."""
        try:
            socket.if_nametoindex(self._interface)
        except OSError:
            return False
        return True

    def tables_stand(self) -> bool:
        """Whether our tables are unchanged since they were loaded last."""
        return self._nftables.stands() and self._rewrites.stands()

    def restore_tables(self) -> Restored:
        """Load our tables again as they were loaded last, unless they are unchanged."""
        tables: list[str] = []
        ended = self._nftables.restore()
        if ended is not None:
            tables.append(FILTER_TABLE)
        if self._rewrites.restore():
            tables.append(REWRITE_TABLE)
        return Restored(tuple(tables), ended or 0)

    def restore_routes(self, desired: HostState) -> int:
        """Set missing routes and addresses, kernel parameters and links that are down again; returns their count.

        Missing links are not created.
        """
        wanted = desired.wireguard
        if wanted is None or self._netlink.find(wanted.name) is None:
            return 0
        raised = sum(self._netlink.bring_up(name) for name in (wanted.name, *desired.segments))
        there = frozenset(address for address, _ in self._netlink.addresses(wanted.name))
        segments = {
            name: replace(segment, addresses=self._netlink.addresses(name))
            if self._netlink.find(name) is not None
            else segment
            for name, segment in desired.segments.items()
        }
        actual = replace(
            desired,
            wireguard=replace(wanted, addresses=there, underlay=frozenset()),
            segments=segments,
            routes=frozenset(self._netlink.routes()),
            unreachable=self._netlink.unreachable(),
            sysctls=self._sysctls.read(frozenset(segments)),
        )
        missing = [
            change
            for change in diff(desired, actual).changes
            if isinstance(change, c.AddAddress | c.SetRoute | c.AddUnreachable)
            or (isinstance(change, c.SetSysctl) and change.before is not None)  # else the kernel has none
        ]
        self.apply_all(missing)
        return raised + len(missing)

    def limit_sizes(self, link: str, sizes: Mapping[Prefix, int]) -> None:
        """Limit packets by destination to so many bytes on our routes over a link; others to the link's MTU."""
        if self._netlink.find(link) is not None:
            self._netlink.limit_sizes(link, sizes)

    def troubles(self) -> tuple[str, ...]:
        """Failed steps that did not fail the apply, in words for people."""
        names = (self._names.trouble,) if self._names.trouble else ()
        return (*names, *self._opener.troubles())

    def retry(self) -> None:
        """Try the steps of `troubles` again."""
        self._names.retry()
        self._opener.retry()

    def listen_port(self) -> int:
        """The UDP port in use; 0 while there is no link."""
        device = self._device()
        return device.listen_port if device is not None else 0

    def data_path(self) -> str:
        """For netctl-wg: whether it moves packets in C or in Python; else empty."""
        return self._uapi.data_path() if self.kind == "netctl-wg" else ""

    def faults(self) -> int:
        """For netctl-wg: count of inputs that it failed to handle since its start; else 0."""
        return self._uapi.faults() if self.kind == "netctl-wg" else 0

    def apply(self, change: Change) -> None:
        """Do one step. Raises EngineError."""
        match change:
            case c.CreateWireGuard(link):
                self._create(link)
            case c.SetWireGuard(link):
                self._netlink.set_mtu(link.name, link.mtu)
                port = link.listen_port or self._driver.read().listen_port
                self._driver.configure(read_private_key(self._key_file), port)
            case c.RenameLink(before, after):
                self._netlink.rename(before, after)
            case c.DeleteWireGuard(name):
                self._delete(name)
            case c.SetPeer(_, peer):
                self._driver.set_peers([peer])
            case c.RemovePeer(_, key):
                self._driver.remove_peer(key)
            case c.CreateSegment(segment):
                if self._netlink.index(segment.name) is not None:
                    self._netlink.check_segment(segment)
                    self._netlink.delete(segment.name)
                self._netlink.create_segment(segment, self._interface)
            case c.SetSegmentMtu(name, mtu):
                self._netlink.set_mtu(name, mtu)
            case c.DeleteSegment(name):
                self._netlink.delete(name)
            case c.AddAddress(link_name, address, prefix_len):
                self._netlink.add_address(link_name, address, prefix_len)
            case c.RemoveAddress(link_name, address, prefix_len):
                self._netlink.remove_address(link_name, address, prefix_len)
            case c.AddFlood(name, destination):
                self._netlink.add_flood(name, destination)
            case c.RemoveFlood(name, destination):
                self._netlink.remove_flood(name, destination)
            case c.SetRoute(route):
                self._netlink.set_routes([route])
            case c.RemoveRoute(route):
                self._netlink.remove_route(route)
            case c.AddUnreachable(prefix):
                self._netlink.add_unreachable(prefix)
            case c.RemoveUnreachable(prefix):
                self._netlink.remove_unreachable(prefix)
            case c.SetFilter(table):
                self._nftables.set(table)
            case c.RemoveFilter():
                self._nftables.remove()
            case c.RemoveRewrites():
                self._rewrites.remove()
            case c.SetNames(names):
                self._names.write(names)
            case c.OpenFirewall(opening):
                self._opener.open(opening)
            case c.CloseFirewall(opening):
                self._opener.close(opening)
            case c.SetSysctl(key, value):
                self._sysctls.set(key, value, link_bound=f"/{SEGMENT_PREFIX}" in key)
            case c.RestoreSysctl(key):
                self._sysctls.restore(key)

    def apply_all(self, changes: Sequence[Change]) -> None:
        """Do several steps in order; consecutive peers and consecutive routes are set in one request."""
        for kind, group in groupby(changes, type):
            if kind is c.SetPeer:
                self._driver.set_peers(change.peer for change in group if isinstance(change, c.SetPeer))
            elif kind is c.SetRoute:
                self._netlink.set_routes(change.route for change in group if isinstance(change, c.SetRoute))
            else:
                for change in group:
                    self.apply(change)

    def _create(self, link: WireGuardLink) -> None:
        private_key = read_private_key(self._key_file)
        public = X25519PrivateKey.from_private_bytes(private_key).public_key().public_bytes_raw()
        if public != link.key.raw:
            raise EngineError(f"the key at {self._key_file} is not this member's key in the document")
        keep(self._making, "")  # proves our ownership if a crash leaves the link without its mark
        if self.kind == "kernel":
            self._netlink.create_wireguard(link.name)
        elif not self._uapi.answers():
            self._netlink.delete(link.name)
            userspace.start(self.kind, link.name)
        try:
            self._netlink.up(link.name, link.mtu)
            self._driver.configure(private_key, link.listen_port)
        except EngineError:
            self._delete(link.name)
            raise
        forget(self._making)

    def _delete(self, name: str) -> None:
        self._netlink.delete(name)
        if self.kind != "kernel":
            deadline = time.monotonic() + GONE_TIMEOUT_S
            while self._uapi.answers() and time.monotonic() < deadline:
                time.sleep(0.02)
        forget(self._making)


def open_engine(
    private_key: Path, *, kind: str = "auto", state_dir: Path, hosts_file: Path = Path("/etc/hosts")
) -> LinuxEngine:
    """The engine of this host. `kind`: auto, kernel, netctl-wg, wireguard-go. Raises EngineError.

    auto: the kernel's WireGuard if it has one, else the best userspace engine. A userspace engine that already runs is
    taken over, independent of `kind`, since its tunnels live in it.
    """
    return LinuxEngine(private_key, kind=kind, state_dir=state_dir, hosts_file=hosts_file)
