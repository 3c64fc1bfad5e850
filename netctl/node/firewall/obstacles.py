"""Lists what the document allows and the host's own firewall drops, in words, with the command that opens it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from netctl.model.document import Document, Firewall
from netctl.model.foreign import Foreign
from netctl.model.hoststate import HostState, Opening
from netctl.model.packetfilter import Judgement, PacketFilter, Place
from netctl.node.firewall.openings import NAMES, command, manager_of, openings_at, ours
from netctl.node.firewall.questions import Question, questions
from netctl.node.firewall.walk import Skips, judge

SHOWN = 6
"""Protocols and ports named in one line."""


@dataclass(frozen=True, slots=True)
class Obstacle:
    """What one firewall drops, for one direction into or through this host."""

    manager: str
    """A key of NAMES."""
    iif: str
    oif: str
    what: tuple[str, ...]
    """``tcp/22``, ``udp``, ``answers``."""
    at: str
    """The rule or policy that drops the first of these packets."""
    commands: tuple[str, ...]
    openings: tuple[Opening, ...] = ()
    """What `firewall: manage` opens for this; empty: it can open nothing."""
    relay: bool = False
    """Whether these are packets to the relay that this member is."""

    @property
    def text(self) -> str:
        """The problem in words."""
        named = ", ".join(self.what[:SHOWN])
        more = len(self.what) - SHOWN
        named += f" and {more} more" if more > 0 else ""
        named += " to this member's relay" if self.relay else ""
        way = f"from {self.iif} to {self.oif}" if self.oif else f"on {self.iif}"
        return f"{NAMES[self.manager]} drops {named} {way} ({self.at})"

    @property
    def advice(self) -> str:
        """The command to type."""
        return "; ".join(f"`{one}`" for one in self.commands)

    def __str__(self) -> str:
        return f"{self.text}: {self.advice}, or `firewall: manage` on this member"


def obstacles(
    desired: HostState, document: Document, member: str, foreign: Foreign, *, without_us: bool = False
) -> tuple[Obstacle, ...]:
    """What the firewall drops of what a document allows. `without_us`: as if netctl had opened nothing."""
    if not foreign.packet_filter.tables:
        return ()
    asked = questions(desired, document, member, foreign)
    return blocked(foreign.packet_filter, asked, foreign.opened if without_us else ())


def openings(desired: HostState, document: Document, member: str, foreign: Foreign) -> frozenset[Opening]:
    """What netctl is to open in the host's firewall: nothing, unless the document says `firewall: manage`."""
    body = document.members.get(member)
    if body is None or body.firewall is not Firewall.MANAGE:
        return frozenset()
    found = obstacles(desired, document, member, foreign, without_us=True)
    return frozenset(opening for one in found for opening in one.openings)


def blocked(
    found: PacketFilter, asked: Iterable[Question], opened: Iterable[Opening] = ()
) -> tuple[Obstacle, ...]:
    """The questions whose packets are dropped; those with the same answer are grouped."""
    groups: dict[tuple[str, str, str, bool], list[tuple[Question, Place]]] = {}
    skips: Skips = ours(opened)
    for question in asked:
        place = dropped_at(judge(found, question.packet, skips))
        if place is not None:
            key = (manager_of(place), question.packet.iif, question.packet.oif, question.relay)
            groups.setdefault(key, []).append((question, place))
    return tuple(_obstacle(*key, cases) for key, cases in groups.items())


def dropped_at(judgement: Judgement) -> Place | None:
    """Where a packet is dropped; None: it passes, or that is unknown."""
    return judgement.at if judgement.kind == "dropped" else None


def _obstacle(manager: str, iif: str, oif: str, relay: bool, cases: list[tuple[Question, Place]]) -> Obstacle:
    commands: dict[str, None] = {}
    openings: dict[Opening, None] = {}
    for question, place in cases:
        for one in openings_at(question, place):
            commands[command(one, is_legacy=place.table.is_legacy)] = None
            if not place.table.is_legacy and not (one.manager == "firewalld" and one.oif):
                # a policy of firewalld needs a reload, which deletes what other programs have set at run time
                openings[one] = None
    what = tuple(dict.fromkeys(question.what for question, _ in cases))
    return Obstacle(manager, iif, oif, what, str(cases[0][1]), tuple(commands), tuple(openings), relay)
