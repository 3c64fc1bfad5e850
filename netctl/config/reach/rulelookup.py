"""Finds whether a member may reach a target (a member, or an address behind a gateway), and the rule that decides."""

from __future__ import annotations

import contextlib
import ipaddress
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from netctl.config.load.acl import Evaluator, Verdict
from netctl.config.load.loader import Path, format_path
from netctl.config.load.pipeline import Loaded
from netctl.model.addresses import Address, Prefix
from netctl.model.document import Mode, Network
from netctl.model.errors import LocalError, Mark

PROTOCOLS = ("tcp", "udp", "icmp")


@dataclass(frozen=True, slots=True)
class Flow:
    """The document's decision in one network that both ends are members of."""

    network: str
    allowed: bool
    why: str
    """The name of the rule that decides, or the reason without one."""
    path: str
    """The place in the document that decides."""
    mark: Mark
    partly: bool = False
    """The question named no protocol, and the rule allows only some protocols or ports."""
    gateway: str | None = None
    """The member that the address is behind; None: the target is a member."""
    route: str | None = None
    """The one of the gateway's `routes` that covers the address."""


def parse_target(text: str) -> tuple[str, str | None, int | None]:
    """Name, protocol and port of ``nas``, ``nas:22`` (tcp), ``nas:udp/53`` or ``nas:icmp``. Raises LocalError."""
    name, separator, what = text.partition(":")
    proto, _, port = what.partition("/") if not what.isdigit() else ("tcp", "/", what)
    if not separator:
        return name, None, None
    valid = proto in PROTOCOLS and (not port or (port.isascii() and port.isdigit() and 0 < int(port) < 65536))
    if not valid or (proto == "icmp" and port):
        raise LocalError(f"'{text}' is no target: say nas, nas:22, nas:tcp/22, nas:udp/53 or nas:icmp")
    return name, proto, int(port) if port else None


def parse_address(text: str) -> tuple[Address, str] | None:
    """The address of ``192.168.7.9:80``, ``[fd00::9]:80`` or either without a port, and the rest as a target.

    In the target, ``address`` stands for the address. None: the text contains no address, so it is a name.
    """
    if text.startswith("["):
        inside, bracket, rest = text[1:].partition("]")
    else:
        inside, bracket, rest = text, "]", ""
        if text.count(":") <= 1:
            inside, _, rest = text.partition(":")
            rest = f":{rest}" if ":" in text else ""
    with contextlib.suppress(ValueError):
        if bracket:
            return ipaddress.ip_address(inside), f"address{rest}"
    return None


def flows_behind(
    loaded: Loaded, src: str, address: Address, proto: str | None, port: int | None
) -> tuple[Flow, ...]:
    """One answer for each network in which a gateway has a route to the address; otherwise as `flows`."""
    found = []
    for network in loaded.document.networks.values():
        if network.mode is not Mode.ROUTED or src not in network.member_names:
            continue
        ways = [
            (route, name)
            for name in network.member_names
            for route in loaded.document.members[name].routes
            if name != src and address in route
        ]
        if ways:
            route, gateway = _narrowest(ways)
            evaluator = Evaluator(loaded.document, network)
            flow = _judged(loaded, evaluator, proto, port, partial(evaluator.decide_behind, src, address))
            found.append(replace(flow, gateway=gateway, route=str(route)))
    return tuple(found)


def _narrowest(ways: list[tuple[Prefix, str]]) -> tuple[Prefix, str]:
    return max(ways, key=lambda way: way[0].prefixlen)


def flows(loaded: Loaded, src: str, dst: str, proto: str | None, port: int | None) -> tuple[Flow, ...]:
    """One answer for each network of both members, in the document's order.

    Without a protocol: whether any flow passes, by the first rule that allows one.
    """
    found = []
    for network in loaded.document.networks.values():
        if src in network.member_names and dst in network.member_names:
            found.append(flow_in(loaded, network, src, dst, proto, port))
    return tuple(found)


def flow_in(
    loaded: Loaded,
    network: Network,
    src: str,
    dst: str,
    proto: str | None,
    port: int | None,
    evaluator: Evaluator | None = None,
) -> Flow:
    """The answer for one network of both members. `evaluator`: of that network, for callers with many pairs."""
    evaluator = evaluator or Evaluator(loaded.document, network)
    return _judged(loaded, evaluator, proto, port, partial(evaluator.decide, src, dst))


Decide = Callable[[str, int | None], Verdict]


def _judged(
    loaded: Loaded, evaluator: Evaluator, proto: str | None, port: int | None, decide: Decide
) -> Flow:
    network = evaluator.network
    base: Path = ("networks", network.name)
    rules = network.acls
    if rules is None:
        return Flow(network.name, True, "no acls: all reach all", format_path(base), loaded.mark(base))
    if proto is not None:
        verdict = decide(proto, port)
        allowed, why = verdict.allowed, verdict.rule
    else:
        asked = (decide(rule.proto or "tcp", rule.ports[0].first if rule.ports else 1) for rule in rules)
        allowed, why = next(((v.allowed, v.rule) for v in asked if v.allowed), (False, "default deny"))
    names = [rule.name for rule in rules]
    narrow = {rule.name for rule in rules if rule.proto is not None or rule.ports}
    path: Path = (*base, "acls", names.index(why)) if allowed and why in names else (*base, "acls")
    partly = allowed and proto is None and why in narrow
    return Flow(network.name, allowed, why, format_path(path), loaded.mark(path), partly)
