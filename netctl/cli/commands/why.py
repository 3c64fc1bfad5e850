"""`netctl why A B[:port]`: print the path of a pair, and the rule and firewall that allow or deny a port."""

from __future__ import annotations

import argparse
import difflib
import ipaddress

from netctl.agent.flowfirewall import Asked, Verdict, ask_firewall
from netctl.agent.storage.locations import Locations
from netctl.agent.transport.pinger import Pinger
from netctl.cli import output
from netctl.cli.ask import NoAgentError, ask
from netctl.cli.options import add_output
from netctl.cli.whypath import PeerView, say_path
from netctl.config import load_document
from netctl.config.reach.rulelookup import Flow, flows, flows_behind, parse_address, parse_target
from netctl.model.addresses import Address
from netctl.model.document import Document
from netctl.model.errors import LocalError
from netctl.system.lineclient import Answer
from netctl.wire import agentrequests as r

UNREACHABLE = 2
"""Exit status of `why`: the document or the firewall denies the flow, or there is no path now."""
PINGS_S = 1.0
"""Seconds of pings that measure the round trip."""
NO_AGENT = "no agent runs on this host: `netctl up` starts it"


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument("source", metavar="A", help="a member")
    help_text = "a member, or an address behind one: nas, nas:22, nas:udp/53, nas:icmp, 192.168.7.9:80"
    parser.add_argument("target", metavar="B[:PORT]", help=help_text)
    add_output(parser)


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Print a pair's path, and which line of the document allows or denies a port. Exit 2: the flow does not pass."""
    path = locations.config
    try:
        loaded = load_document(path.read_text(), str(path))
    except OSError as error:
        raise LocalError(f"cannot read {path}: {error.strerror}") from error
    src = arguments.source
    behind = parse_address(arguments.target)
    dst, proto, port = parse_target(behind[1] if behind is not None else arguments.target)
    if ":" in src:
        asked = dst if behind is None else behind[0]
        raise LocalError(
            f"the port belongs to the second member: netctl why {src.partition(':')[0]} {asked}:22"
        )
    names = (src,) if behind is not None else (src, dst)
    for name in names:
        if name not in loaded.document.members:
            raise LocalError(_unknown(name, loaded.document))
    if behind is not None and (owner := _owner(loaded.document, behind[0])) is not None:
        behind, dst = None, owner
    if src == dst:
        raise LocalError("a host reaches itself; name two members")
    if behind is not None:
        answers = flows_behind(loaded, src, behind[0], proto, port)
        dst = next((flow.gateway for flow in answers if flow.gateway is not None), "")
        if not dst:
            reason = f"no member of a routed network of {src} has a route to {behind[0]}, and none has that address"
            raise LocalError(f"{reason} in the document")
    else:
        answers = flows(loaded, src, dst, proto, port)
    status = _status(locations)
    peer = _peer(locations, status, src, dst)
    allowed = any(flow.allowed for flow in answers)
    about = Asked(src, dst, proto, port, behind[0] if behind is not None else None)
    firewall = ask_firewall(status.reply, about) if allowed and status is not None else None
    own_relay = status.reply.own_relay if status is not None else None
    relay_blocked = own_relay.blocked if own_relay is not None else []
    if arguments.output == "json":
        output.json(
            {
                "from": src,
                "to": arguments.target,
                "flows": [_json(one) for one in answers],
                "firewall": firewall.plain() if firewall is not None else None,
                "own_relay_blocked": relay_blocked,
                "path": _path_json(peer),
            }
        )
    else:
        _say(src, dst, arguments.target, answers, peer)
        if firewall is not None:
            _say_firewall(firewall)
        for line in relay_blocked:
            output.check(False, line)
    connected = not isinstance(peer, PeerView) or peer.state.path != "none"
    dropped = firewall is not None and bool(firewall.drops)
    return 0 if allowed and connected and not dropped else UNREACHABLE


def _owner(document: Document, address: Address) -> str | None:
    """The member with this fixed address in the document."""
    return next(
        (
            name
            for network in document.networks.values()
            for name, fixed in network.addresses.items()
            if address in fixed
        ),
        None,
    )


def _say(src: str, dst: str, target: str, answers: tuple[Flow, ...], peer: PeerView | str | None) -> None:
    if not answers:
        output.check(False, f"{src} and {dst} have no network in common")
    for flow in answers:
        if flow.gateway is not None:
            output.line(f"     {flow.network}: {flow.route} is behind {flow.gateway}")
        text = "denied" if not flow.allowed else "allowed in part" if flow.partly else "allowed"
        output.check(flow.allowed, f"{flow.network}: {text} by {flow.path} ({flow.why}), {flow.mark}")
    if any(flow.partly for flow in answers):
        output.line(
            f"     only what the rule names passes; to ask about a port: netctl why {src} {target}:22"
        )
    if peer is None:
        output.note("the path is known on the two hosts themselves: run this on one of them")
    elif isinstance(peer, str):
        output.note(f"the path is not known: {peer}")
    else:
        say_path(src if peer.state.name != src else dst, peer)


def _say_firewall(found: Verdict) -> None:
    for one in found.drops:
        output.check(False, one.text)
        output.line(f"       {one.advice}, or `firewall: manage` on {found.host}")
    if found.unknown:
        output.note(found.unknown)
    elif not found.drops:
        output.check(True, f"the firewall of {found.host} lets it through")


def _status(locations: Locations) -> Answer[r.StatusReply] | None:
    try:
        return ask(locations, r.Status())
    except NoAgentError:
        return None


def _peer(
    locations: Locations, status: Answer[r.StatusReply] | None, src: str, dst: str
) -> PeerView | str | None:
    """The path of the pair as this host's agent sees it, or why it is unknown; None: this host is neither member."""
    if status is None:
        return NO_AGENT
    state = status.reply
    if state.member not in (src, dst):
        return None
    try:
        doctor = ask(locations, r.Doctor())
    except NoAgentError:
        return NO_AGENT
    other = dst if state.member == src else src
    for number, peer in enumerate(state.peers):
        if peer.name == other:
            plain = status.plain["peers"][number]
            return PeerView(peer, plain, _pinged(peer), doctor.reply, doctor.plain, state.down.everything)
    return f"this host has no tunnel to {other}: has the document been applied here?"


def _pinged(peer: r.PeerState) -> float | None:
    """Round trip through the tunnel in ms; None: no answer, or a direct path, whose round trip the agent measures.

    The relay carries only WireGuard's own messages, so the agent's path probes cannot measure a relayed path.
    """
    addresses = [ipaddress.ip_address(text) for held in peer.addresses.values() for text in held]
    if not addresses or not peer.path.startswith("relay"):
        return None
    address = min(addresses, key=lambda one: one.version)
    pinger = Pinger([address], every_s=PINGS_S / 4)
    try:
        return pinger.stretch(PINGS_S)[address].rtt_ms
    finally:
        pinger.close()


def _path_json(peer: PeerView | str | None) -> object:
    if peer is None:
        return None
    return {"unknown": peer} if isinstance(peer, str) else peer.plain()


def _json(flow: Flow) -> dict[str, object]:
    behind = {} if flow.gateway is None else {"gateway": flow.gateway, "route": flow.route}
    return {
        "network": flow.network,
        "allowed": flow.allowed,
        "rule": flow.why,
        "partly": flow.partly,
        "path": flow.path,
        "file": flow.mark.file,
        "line": flow.mark.line,
        **behind,
    }


def _unknown(name: str, document: Document) -> str:
    near = difflib.get_close_matches(name, document.members, 1)
    meant = f"did you mean '{near[0]}'" if near else "there are"
    return f"there is no member '{name}'; {meant}" + ("?" if near else f": {_some(document)}")


def _some(document: Document) -> str:
    names = list(document.members)
    return ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
