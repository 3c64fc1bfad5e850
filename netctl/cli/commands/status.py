"""`netctl status`: print the state of this host, its networks and its peers."""

from __future__ import annotations

import argparse
import contextlib
import time

from netctl.agent.storage.locations import Locations
from netctl.cli import output
from netctl.cli.ask import ask
from netctl.cli.options import add_output
from netctl.model.errors import LocalError, NetctlError
from netctl.wire import agentrequests as r

EVERY_S = 2.0
"""Interval of `--watch` without a change."""
REST_S = 0.2
"""Shortest interval of `--watch`, however much changes."""
SHOWN_DRIFT = 20
"""Lines of drift shown: one screen. A host that lost its link has thousands."""


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add_output(parser)
    parser.add_argument("--watch", action="store_true", help="show it anew every two seconds, until Ctrl-C")


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Print the state of this host, its networks and its peers."""
    if not arguments.watch:
        return _show(arguments, locations)
    if arguments.output == "json":
        raise LocalError("--watch is for people; for programs: `netctl status -o json`, as often as you like")
    seen = -1
    while True:
        output.anew()
        try:
            _show(arguments, locations)
        except NetctlError as error:
            output.error(str(error))
        seen = _change(locations, seen)


def _change(locations: Locations, seen: int) -> int:
    """Wait for a change, at most EVERY_S; returns the count of changes. The agent probes peers meanwhile."""
    began, before = time.monotonic(), seen
    with contextlib.suppress(NetctlError):  # no agent, or one too old for this request
        seen = ask(locations, r.Watch(before, EVERY_S)).reply.changes
    rest_s = REST_S if seen != before else EVERY_S
    time.sleep(max(began + rest_s - time.monotonic(), 0.0))
    return seen


def _show(arguments: argparse.Namespace, locations: Locations) -> int:
    answer = ask(locations, r.Status())
    if arguments.output == "json":
        output.json(answer.raw)
        return 0
    state = answer.reply
    if state.document.digest is None:
        _armed(state)
        output.line(f"No document yet: edit {locations.config}, then `netctl apply`; or `netctl join`.")
        return 0
    if state.joined is not None:
        output.line(f"joined {state.joined} by invite: networks and members are as the mediator says")
    engine = state.engine or "not running"
    if state.data_path:
        engine += f", data path {state.data_path}"
    output.line(f"{state.member or 'not a member'}  (engine {engine})")
    output.line(_mediator(state.mediator))
    output.line()
    rows = [(name, network.mode, _addresses(network)) for name, network in state.networks.items()]
    output.table("networks", ("name", "mode", "addresses"), rows)
    output.table(
        "peers",
        ("name", "online", "path", "for", "rtt", "handshake", "received", "sent", "endpoint"),
        [_peer(peer) for peer in state.peers],
    )
    if any(peer.path == "idle" for peer in state.peers):
        output.line("idle: nobody talks to it, and its tunnel opens with the first packet")
    if (relay := state.own_relay) is not None and relay.error is None:
        bindings, passed = output.counted(relay.bindings, "binding"), output.size(relay.forwarded_bytes)
        output.line(f"relays for its networks: {relay.state}, {bindings}, {passed} passed on")
    _armed(state)
    for condition in state.conditions:
        output.warning(condition)
    for drift in state.drift[:SHOWN_DRIFT]:
        paths = ", ".join(drift.paths)
        output.warning(f"the host departs from the document at {paths}: {drift.line}")
    if (more := len(state.drift) - SHOWN_DRIFT) > 0:
        output.warning(
            f"the host departs from the document in {output.counted(more, 'more way')}: `netctl status -o json`"
        )
    return 0


def _mediator(link: r.MediatorState) -> str:
    age = output.age(link.since_s)
    said = {"none": "none in the document", "connected": f"connected for {age}"}
    text = said.get(link.state, f"{link.state} for {age}")
    return f"mediator: {text}" + (f": {link.error}" if link.error else "")


def _addresses(network: r.NetworkState) -> str:
    if network.down:
        return "down"
    return "refused" if network.refused else ", ".join(network.addresses) or "no address yet"


def _peer(peer: r.PeerState) -> tuple[str, ...]:
    return (
        peer.name,
        _online(peer),
        peer.path,
        output.age(peer.since_s) if peer.path != "none" else "-",
        f"{peer.rtt_ms:.1f} ms" if peer.rtt_ms is not None else "-",
        f"{output.age(peer.last_handshake_s)} ago" if peer.last_handshake_s is not None else "never",
        output.size(peer.rx_bytes),
        output.size(peer.tx_bytes),
        peer.via or peer.endpoint or "-",
    )


def _online(peer: r.PeerState) -> str:
    if peer.answers is False and peer.online:
        return "not answering"
    if peer.online or peer.answers:
        return "yes"
    return "no" if peer.presence_known else "?"


def _armed(state: r.StatusReply) -> None:
    if state.armed is not None:
        seconds = state.armed.rolls_back_in_s
        output.warning(f"armed: rolls back in {seconds:.0f} s unless you run `netctl confirm`")
