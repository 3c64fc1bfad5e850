"""May A talk to B over this, and which line of the document says so?"""

from __future__ import annotations

from dataclasses import dataclass

from netctl.config.acl import Evaluator
from netctl.config.document import Loaded
from netctl.config.loader import Path, format_path
from netctl.model.document import Network
from netctl.model.errors import LocalError, Mark

PROTOCOLS = ("tcp", "udp", "icmp")


@dataclass(frozen=True, slots=True)
class Flow:
    """The document's word on one network that both are members of."""

    network: str
    allowed: bool
    why: str
    """The rule's name, or why there is none."""
    path: str
    """The place in the document that decides."""
    mark: Mark
    partly: bool = False
    """Nothing was asked for, and the rule allows only some protocols or ports."""


def parse_target(text: str) -> tuple[str, str | None, int | None]:
    """``nas``, ``nas:22`` (tcp), ``nas:udp/53``, ``nas:icmp`` to name, protocol, port. Raises LocalError."""
    name, separator, what = text.partition(":")
    proto, _, port = what.partition("/") if not what.isdigit() else ("tcp", "/", what)
    if not separator:
        return name, None, None
    valid = proto in PROTOCOLS and (not port or (port.isascii() and port.isdigit() and 0 < int(port) < 65536))
    if not valid or (proto == "icmp" and port):
        raise LocalError(f"'{text}' is no target: say nas, nas:22, nas:tcp/22, nas:udp/53 or nas:icmp")
    return name, proto, int(port) if port else None


def flows(loaded: Loaded, src: str, dst: str, proto: str | None, port: int | None) -> tuple[Flow, ...]:
    """One answer for each network that both are in, in the document's order.

    Without a protocol: whether anything at all passes, judged by the first rule that covers both.
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
    """The answer for one network that both are in. `evaluator`: of that network, for who asks about many pairs."""
    evaluator = evaluator or Evaluator(loaded.document, network)
    base: Path = ("networks", network.name)
    rules = network.acls
    if rules is None:
        return Flow(network.name, True, "no acls: all reach all", format_path(base), loaded.mark(base))
    if proto is not None:
        verdict = evaluator.decide(src, dst, proto, port)
        allowed, why = verdict.allowed, verdict.rule
    else:
        asked = (
            evaluator.decide(src, dst, rule.proto or "tcp", rule.ports[0].first if rule.ports else 1)
            for rule in rules
        )
        allowed, why = next(((v.allowed, v.rule) for v in asked if v.allowed), (False, "default deny"))
    names = [rule.name for rule in rules]
    narrow = {rule.name for rule in rules if rule.proto is not None or rule.ports}
    path: Path = (*base, "acls", names.index(why)) if allowed and why in names else (*base, "acls")
    partly = allowed and proto is None and why in narrow
    return Flow(network.name, allowed, why, format_path(path), loaded.mark(path), partly)
