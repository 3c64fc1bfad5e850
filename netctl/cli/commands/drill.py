"""`netctl drill mediator-down`: show on the live network what this host loses without its mediator, without harm."""

from __future__ import annotations

import argparse
import ipaddress
import time
from dataclasses import asdict, dataclass

from netctl.agent.storage.locations import Locations
from netctl.agent.transport.pinger import Answers, Pinger
from netctl.cli import output
from netctl.cli.ask import ask
from netctl.cli.options import add_output
from netctl.model.addresses import Address
from netctl.model.errors import LocalError
from netctl.wire import agentrequests as r

BEFORE_S = 3.0
"""Seconds of pings with the mediator, before the drill."""
AFTER_S = 3.0
"""Seconds of pings with the mediator, after the drill."""
BACK_S = 15.0
"""Longest wait for the mediator: the first attempt comes at once, the next within 2 s, login takes some round trips."""
MAX_S = 600
"""Maximum of `--seconds`: longer than a person waits for a drill."""
GAP_S = 3.0
"""A longer gap between answers is an interruption that a person notices."""


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 1 <= seconds <= MAX_S:
        raise argparse.ArgumentTypeError(f"1 to {MAX_S} seconds")
    return seconds


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument("what", choices=["mediator-down"], help="what is to be taken for gone")
    parser.add_argument(
        "--seconds", type=_seconds, default=20.0, metavar="N", help="for how long (default 20)"
    )
    add_output(parser)


@dataclass(frozen=True, slots=True)
class Row:
    """How one peer answered before, during and after the drill."""

    name: str
    address: str
    path: str
    path_after: str
    before: Answers
    during: Answers
    after: Answers
    verdict: str


def _targets(state: r.StatusReply) -> dict[Address, r.PeerState]:
    """One address of each peer that has had a handshake."""
    found: dict[Address, r.PeerState] = {}
    for peer in state.peers:
        addresses = [ipaddress.ip_address(text) for held in peer.addresses.values() for text in held]
        if addresses and peer.last_handshake_s is not None:
            found[min(addresses, key=lambda address: address.version)] = peer
    return found


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Have the agent ignore its mediator for a while, and ping the peers before, during and after."""
    state = ask(locations, r.Status()).reply
    if state.mediator.state != "connected":
        raise LocalError("this host has no mediator just now: that is no drill; `netctl status` says why")
    targets = _targets(state)
    if not targets:
        raise LocalError("no peer has a tunnel with this host yet: there is nothing to show")
    pinger = Pinger(targets)
    try:
        output.progress(f"asking {output.counted(len(targets), 'peer')}, with the mediator")
        before = pinger.stretch(BEFORE_S)
        ask(locations, r.Drill(arguments.seconds))
        try:
            output.progress(f"the same for {arguments.seconds:g} s without it (Ctrl-C ends the drill)")
            during = pinger.stretch(arguments.seconds)
        finally:
            ask(locations, r.Drill(0))
        back_s = _wait_back(locations)
        output.progress("and with it again")
        after = pinger.stretch(AFTER_S)
    finally:
        pinger.close()
    now = {peer.name: peer for peer in ask(locations, r.Status()).reply.peers}
    rows = [
        Row(
            peer.name,
            str(address),
            peer.path,
            now.get(peer.name, peer).path,
            before[address],
            during[address],
            after[address],
            _verdict(before[address], during[address], after[address]),
        )
        for address, peer in targets.items()
    ]
    return _tell(arguments, rows, back_s)


def _wait_back(locations: Locations) -> float | None:
    """Seconds until the agent is logged in again; None: not within BACK_S."""
    start = time.monotonic()
    while time.monotonic() - start < BACK_S:
        if ask(locations, r.Status(look=False)).reply.mediator.state == "connected":
            return time.monotonic() - start
        time.sleep(0.1)
    return None


def _verdict(before: Answers, during: Answers, after: Answers) -> str:
    if not before.received:
        return "did not answer before: an ACL may forbid it"
    if not during.received or not after.received:
        return "lost"
    gap = max(during.longest_gap_s, after.longest_gap_s)
    return f"interrupted for {gap:.1f} s" if gap > GAP_S else "held"


def _tell(arguments: argparse.Namespace, rows: list[Row], back_s: float | None) -> int:
    asked = [row for row in rows if row.before.received]
    held = [row for row in asked if row.verdict == "held"]
    good = bool(asked) and len(held) == len(asked) and back_s is not None
    if arguments.output == "json":
        output.json({"peers": [asdict(row) for row in rows], "back_s": back_s, "held": good})
        return 0 if good else 1
    output.table(
        "peers",
        ("name", "path", "before", "during", "after", "longest gap", "verdict"),
        [
            (
                row.name,
                row.path if row.path == row.path_after else f"{row.path}, then {row.path_after}",
                *(f"{seen.received}/{seen.sent}" for seen in (row.before, row.during, row.after)),
                f"{row.during.longest_gap_s:.1f} s",
                row.verdict,
            )
            for row in rows
        ],
    )
    relayed = [row.name for row in rows if row.path.startswith("relay")]
    if relayed:
        output.note(
            f"{', '.join(relayed)}: relayed. The relay went on in this drill; with the whole machine of the "
            "mediator gone, these would be lost"
        )
    if not asked:
        output.verdict(False, "no peer answered even before: nothing was shown")
    elif back_s is None:
        output.verdict(False, f"this host is not back at its mediator after {BACK_S:.0f} s")
    else:
        tunnels = output.counted(len(asked), "tunnel")
        said = f"{len(held)} of {tunnels} held for {arguments.seconds:g} s without the mediator"
        output.verdict(good, f"{said}; back after {back_s:.1f} s")
    return 0 if good else 1
