"""Ends the flows that a narrower table no longer lets through (ctnetlink: linux/netfilter/nfnetlink_conntrack.h).

The table accepts established flows without evaluating the rules, so a flow would live until the kernel forgets it.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from socket import AF_INET, AF_INET6

from netctl.engine.nlsocket import NESTED, NetlinkError, NetlinkSocket, attribute, attributes
from netctl.model.addresses import Address
from netctl.model.errors import EngineError
from netctl.model.hoststate import VXLAN_PORT, FilterRule, FilterTable

_NETLINK_NETFILTER = 12
_GET, _DELETE = 0x0101, 0x0102  # NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_*
_TUPLE_ORIG, _TUPLE_REPLY, _ID, _ZONE = 1, 2, 12, 18
_TUPLE_IP, _TUPLE_PROTO = 1, 2
_PLACES: dict[int, tuple[int, int]] = {AF_INET: (1, 2), AF_INET6: (3, 4)}
_PROTO_NUM, _PROTO_DST_PORT = 1, 3
_PROTOCOLS = {6: "tcp", 17: "udp", 1: "icmp", 58: "icmp"}
_NO_TABLE = frozenset({errno.ENOENT, errno.EPROTONOSUPPORT, errno.EOPNOTSUPP, errno.EINVAL})
"""Errors of a kernel that has not loaded conntrack or was built without its netlink side: it has no flow to end."""


@dataclass(frozen=True, slots=True)
class Flow:
    """One tracked flow in the direction in which it began."""

    source: Address
    destination: Address
    proto: str | None
    """tcp, udp, icmp (both families), or None: another protocol."""
    port: int | None
    """Destination port of tcp and udp."""
    answered_to: Address | None = None
    """The destination of the flow's answers: the source, unless source NAT has rewritten it."""


def lets(rule: FilterRule, flow: Flow) -> bool:
    """Whether this rule allows the flow to begin."""
    if rule.proto is not None and rule.proto != flow.proto:
        return False
    if rule.ports and not any(port.first <= (flow.port or 0) <= port.last for port in rule.ports):
        return False
    return any(flow.source in p for p in rule.sources) and any(
        flow.destination in p for p in rule.destinations
    )


def narrowing(before: FilterTable, after: FilterTable) -> Callable[[Flow], bool] | None:
    """A function that tells whether only `before` allows a flow; None where `after` removes nothing.

    The cost for a flow grows with the number of removed rules, not with the number of all rules.
    """
    kept = set(after.rules)
    gone = [rule for rule in before.rules if rule not in kept]
    kept_sending = set(after.sending)
    gone_sending = [rule for rule in before.sending if rule not in kept_sending]
    stock = after.stock - before.stock
    if not gone and not gone_sending and not stock:
        return None

    def ended(flow: Flow) -> bool:
        if any(lets(rule, flow) for rule in gone) and not any(lets(rule, flow) for rule in after.rules):
            return True
        sent = any(lets(rule, flow) for rule in gone_sending) or any(flow.destination in p for p in stock)
        if not sent or not any(flow.destination in prefix for prefix in after.stock):
            return False
        return not any(lets(rule, flow) for rule in after.sending)

    return ended


def beside(table: FilterTable) -> Callable[[Flow], bool]:
    """A function that tells whether this table would not have allowed a flow: it began while the table was missing.

    The kernel does not record the link by which a flow came. A flow came by our links if its source is in a pool,
    behind another member, or a segment's link-local address, and is no address or LAN of this host.
    """
    guards = table.guards
    theirs = [*guards.sources, *guards.remote]
    inner = {address for binding in table.bindings for address in binding.addresses}
    segments = {binding.underlay for binding in table.bindings}

    def ended(flow: Flow) -> bool:
        source = flow.source
        hidden = any(source in pool and flow.destination in lan for pool, lan in table.masquerade)
        if hidden and source == flow.answered_to:
            return True  # it leaves with a source address that hosts there cannot answer
        if source not in guards.leases and not any(source in lan for lan in guards.lans):
            came = source in inner or any(source in prefix for prefix in theirs)
            frames = source in segments and (flow.proto, flow.port) == ("udp", VXLAN_PORT)
            if came and not frames and not any(lets(rule, flow) for rule in table.rules):
                return True
        sent = any(flow.destination in prefix for prefix in table.stock)
        return sent and not any(lets(rule, flow) for rule in table.sending)

    return ended


def end_flows_beside(table: FilterTable) -> int:
    """Delete the tracked flows that began while this table was missing and that it does not allow.

    Returns their count. Raises EngineError.
    """
    return _end_all(beside(table))


def end_flows(before: FilterTable, after: FilterTable) -> int:
    """Delete the tracked flows that `before` allows and `after` does not. Returns their count. Raises EngineError."""
    ended = narrowing(before, after)
    return _end_all(ended) if ended is not None else 0


def _end_all(ended: Callable[[Flow], bool]) -> int:
    try:
        connection = NetlinkSocket(_NETLINK_NETFILTER)
    except OSError:
        return 0  # no netfilter over netlink: nothing is tracked
    try:
        return _end(connection, ended)
    except OSError as error:
        raise EngineError(
            f"the flows that the new rules deny could not be ended: {error.strerror}"
        ) from error
    finally:
        connection.close()


def _end(connection: NetlinkSocket, ended: Callable[[Flow], bool]) -> int:
    count = 0
    for family in (AF_INET, AF_INET6):
        head = struct.pack("!BBH", family, 0, 0)
        try:
            entries = connection.dump(_GET, head)
        except NetlinkError as error:
            if error.errno in _NO_TABLE:
                continue
            raise
        for which in _matching(entries, family, ended):
            try:
                connection.ask(_DELETE, head + which)
            except NetlinkError as error:
                if error.errno != errno.ENOENT:  # the flow has ended by itself
                    raise
            count += 1
    return count


def _matching(entries: Iterable[bytes], family: int, ended: Callable[[Flow], bool]) -> Iterator[bytes]:
    """For each flow to end, the attributes that identify it."""
    for body in entries:
        found = attributes(body[4:])
        flow = flow_of(found.get(_TUPLE_ORIG, b""), family)
        answers = flow_of(found.get(_TUPLE_REPLY, b""), family)
        if flow is not None and answers is not None:
            flow = replace(flow, answered_to=answers.destination)
        if flow is not None and ended(flow):
            parts = [attribute(_TUPLE_ORIG | NESTED, found[_TUPLE_ORIG])]
            parts += [attribute(kind, found[kind]) for kind in (_ID, _ZONE) if kind in found]
            yield b"".join(parts)


def flow_of(original: bytes, family: int) -> Flow | None:
    """The flow of a kernel's tuple; None: malformed."""
    parts = attributes(original)
    where = attributes(parts.get(_TUPLE_IP, b""))
    what = attributes(parts.get(_TUPLE_PROTO, b""))
    source, destination = (where.get(place) for place in _PLACES[family])
    number = what.get(_PROTO_NUM)
    if not source or not destination or not number:
        return None
    port = what.get(_PROTO_DST_PORT)
    return Flow(
        ip_address(source),
        ip_address(destination),
        _PROTOCOLS.get(number[0]),
        int.from_bytes(port, "big") if port is not None else None,
    )
