"""What the firewall of the receiving host does to a flow. Only that host can answer, so the check runs only there.

For `netctl why` and the page's Why.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Any

from netctl.engine.hostfirewall.reading import HostFilter
from netctl.engine.links.netlink import Netlink
from netctl.model.addresses import Address, host_prefix
from netctl.model.errors import EngineError
from netctl.model.foreign import Foreign
from netctl.model.hoststate import WIREGUARD_LINK
from netctl.model.packetfilter import Judgement, Packet, PacketFilter
from netctl.node.firewall.obstacles import Obstacle, blocked
from netctl.node.firewall.questions import ANYTHING, Question, link_to, unnamed_port
from netctl.node.firewall.walk import judge
from netctl.wire import agentrequests as r


@dataclass(frozen=True, slots=True)
class Asked:
    """A flow from member `src` to member `dst`, or to an address behind `dst`. `proto` None: any protocol."""

    src: str
    dst: str
    proto: str | None
    port: int | None
    behind: Address | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the firewall of `host` drops the flow.

    `unknown`: why there is no answer. If both `unknown` and `drops` are empty, the flow passes.
    """

    host: str
    drops: tuple[Obstacle, ...] = ()
    unknown: str = ""

    def plain(self) -> dict[str, Any]:
        """The answer for programs."""
        return {
            "host": self.host,
            "drops": [{"text": one.text, "commands": list(one.commands)} for one in self.drops],
            "unknown": self.unknown or None,
        }


def ask_firewall(state: r.StatusReply, asked: Asked, rules: HostFilter | None = None) -> Verdict:
    """Ask this host's firewall about a flow; `unknown` if another host receives it. `rules`: a reader to reuse."""
    if state.member != asked.dst:
        return Verdict(
            asked.dst,
            unknown=f"what the firewall of {asked.dst} does to it is known there alone: run this on {asked.dst}",
        )
    try:
        foreign = _foreign(asked, rules or HostFilter())
    except (EngineError, OSError) as error:
        return Verdict(asked.dst, unknown=f"what this host's firewall does to it is not known: {error}")
    found = foreign.packet_filter
    questions = _questions(state, asked, foreign)
    if not questions:
        return Verdict(
            asked.dst,
            unknown=f"what this host's firewall does to it is not known: it has no way to {asked.behind}",
        )
    drops = blocked(found, questions)
    return Verdict(asked.dst, drops, "" if drops else _doubt(found, questions))


def _foreign(asked: Asked, rules: HostFilter) -> Foreign:
    found = rules.read()
    if asked.behind is None:
        return Foreign(packet_filter=found)
    netlink = Netlink()
    try:
        _, routes, _ = netlink.foreign()
    finally:
        netlink.close()
    return Foreign(routes=routes, packet_filter=found)


def _questions(state: r.StatusReply, asked: Asked, foreign: Foreign) -> list[Question]:
    """The first packets of the flow; for a gateway also the replies to them."""
    port = asked.port or unnamed_port(foreign.packet_filter)
    wanted = [
        (proto, 0 if proto == "icmp" else port)
        for proto in (ANYTHING if asked.proto is None else (asked.proto,))
    ]
    peer = next((peer for peer in state.peers if peer.name == asked.src), None)
    sources = [
        ipaddress.ip_address(text) for held in (peer.addresses if peer else {}).values() for text in held
    ]
    own = [ipaddress.ip_address(text) for one in state.networks.values() for text in one.addresses]
    found = []
    for source in sources:
        for address in own if asked.behind is None else [asked.behind]:
            if address.version != source.version:
                continue
            start, end = host_prefix(source), host_prefix(address)
            for proto, number in wanted:
                what = f"{proto}/{number}" if asked.port else proto
                if asked.behind is None:
                    found.append(Question(Packet("input", WIREGUARD_LINK, start, end, proto, number), what))
                elif link := link_to(end, foreign):
                    there = Packet("forward", WIREGUARD_LINK, start, end, proto, number, link)
                    back = Packet("forward", link, end, start, proto, number, WIREGUARD_LINK, "established")
                    found += [Question(there, what), Question(back, "answers")]
    return found


def _doubt(found: PacketFilter, questions: list[Question]) -> str:
    """Why no answer is possible for some packet of the flow; empty: all packets pass."""
    answers: list[Judgement] = [judge(found, question.packet) for question in questions]
    why = next((answer.why for answer in answers if answer.kind == "unknown"), "")
    return f"what this host's firewall does to it cannot be known: {why}" if why else ""
