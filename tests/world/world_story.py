"""A world from a seed: its hosts and documents, what befalls them, and what must hold whatever happens."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from ipaddress import IPv4Address, ip_address
from types import MappingProxyType
from typing import Any

from netctl.config import Loaded, load_document
from netctl.model.addresses import Address
from netctl.model.document import Document
from netctl.model.hoststate import HostState, WireGuardLink
from netctl.model.keys import WireGuardKey
from netctl.model.view import View
from netctl.node.commit import Terms
from netctl.plan import describe, diff
from tests.world.world_clock import Clock, telling
from tests.world.world_mediator import SimMediator
from tests.world.world_member import SimMember
from tests.world.world_net import Internet, Site

POOLS = ("10.1.0.0/28", "10.2.0.0/28", "10.3.0.0/24")
STEP_S = 5.0
SETTLE_S = 150.0
"""A reconnect may wait its minute of back-off; sessions and paths follow within seconds."""
AGREE_S = 100.0
"""Before the end of the waiting: long enough after the newest document has reached everybody."""
JUMPS_S = (-315_000_000, -3600, 3600, 315_000_000)
"""Wall clocks jump by an hour and by ten years; monotonic time does not."""
HEARD_S = 40.0
"""Data that came this recently: four keepalives."""


LARGE_EVERY = 4
"""Of so many stories one has a mediator for which views of three members are large: presence goes by interest."""


class World:
    """Everything there is."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.clock = Clock()
        self.net = Internet(self.clock, self.chance)
        self.mediators = self._make_mediators()
        self.mediator = self.mediators[0]
        if seed % LARGE_EVERY == 0:
            for mediator in self.mediators:
                mediator.interest_above = 2
        self.sites: list[Site] = []
        self.members: list[SimMember] = []
        self._dirty = True
        self._looked_at: dict[str, tuple[View | None, WireGuardLink | None]] = {}
        """By member: the view and the link whose addresses were checked last."""
        for number in range(self.chance.randint(3, 5)):
            self._add_member(number)
        names = [member.name for member in self.members]
        self.absent = set(names[3:]) if len(names) > 3 and self.chance.random() < 0.6 else set()
        self.pools = [POOLS[0], POOLS[1]]
        self.fixed: dict[str, str] = {}
        self.second = self.chance.sample(names, self.chance.randint(2, len(names)))
        self.first: list[str] = ["*"] if self.chance.random() < 0.6 else names[:-1]
        self.loaded = self.write()
        self.documents = [self.loaded.document]

    more_networks: Mapping[str, dict[str, Any]] = MappingProxyType({})
    """Of the document, beside those whose members the story changes."""

    def _make_mediators(self) -> Sequence[SimMediator]:
        return [SimMediator(self.clock, self.net, self.chance.randbytes(32), self._changed)]

    def _entries(self) -> list[dict[str, Any]]:
        """The mediators, as the document has them."""
        return [
            {"url": f"netctl://{mediator.address}", "identity": [str(mediator.identity)]}
            for mediator in self.mediators
        ]

    @property
    def document(self) -> Document:
        """The newest."""
        return self.loaded.document

    def _changed(self) -> None:
        self._dirty = True

    def _add_member(self, number: int) -> None:
        near = self.sites and self.sites[-1].nat and self.chance.random() < 0.3
        if not near:
            nat = self.chance.random() < 0.7
            self.sites.append(Site(f"203.0.113.{number + 1}", nat, self.chance.uniform(0.001, 0.06)))
        site = self.sites[-1]
        inner = f"192.168.{len(self.sites)}.{number + 10}" if site.nat else site.public
        member = SimMember(f"host{number}", self.clock, self.net, site, inner, self.mediators, self._changed)
        self.members.append(member)

    # -- documents --------------------------------------------------------------------------------------------

    def write(self) -> Loaded:
        """The document as things are meant to be now."""
        members = {
            member.name: {"wireguard": str(member.key), "identity": str(member.identity)}
            | ({"state": "absent"} if member.name in self.absent else {})
            for member in self.members
        }
        present = [name for name in members if name not in self.absent]
        fixed = {name: address for name, address in self.fixed.items() if name in present}
        first = [name for name in self.first if name == "*" or name in present]
        networks: dict[str, dict[str, Any]] = {
            "party": {"mode": "lan", "ipv4": self.pools[0], "members": first, "addresses": fixed},
            "office": {
                "mode": "routed",
                "ipv4": self.pools[1],
                "members": [name for name in self.second if name in present] or present[:1],
            },
        }
        if first != ["*"]:
            networks["party"]["addresses"] = {n: a for n, a in fixed.items() if n in first}
        networks |= self.more_networks
        text = {
            "apiVersion": "netctl/v1",
            "id": "wrld-0001",
            "mediators": self._entries(),
            "members": members,
            "networks": networks,
        }
        return load_document(json.dumps(text))

    def edit(self) -> None:
        """The document changes: a member comes or goes, a network is renumbered, an address is fixed."""
        names = [member.name for member in self.members]
        match self.chance.randrange(4):
            case 0 if len(self.absent) < len(names) - 2:
                self.absent.add(self.chance.choice([name for name in names if name not in self.absent]))
            case 1 if self.absent:
                self.absent.remove(self.chance.choice(sorted(self.absent)))
            case 2:
                self.pools[0] = POOLS[2] if self.pools[0] == POOLS[0] else POOLS[0]
                self.fixed.clear()
            case _:
                taken = sorted(a for (_, a) in self.mediator.store.by_address if self._in_party(a))
                wanted = taken or [IPv4Address(int(ip_address(self.pools[0].split("/")[0])) + 5)]
                self.fixed = {self.chance.choice(names): str(self.chance.choice(wanted))}
        self.loaded = loaded = self.write()
        self.documents.append(loaded.document)
        self.clock.say(f"document {len(self.documents)}: absent {sorted(self.absent)}, fixed {self.fixed}")
        self.clock.after(self.chance.uniform(0, 5), lambda: self._publish(loaded))

    def _in_party(self, address: IPv4Address) -> bool:
        pool = self.document.networks["party"].ipv4
        return pool is not None and address in pool

    def _publish(self, loaded: Loaded) -> None:
        if loaded is self.loaded:
            self.mediator.load(loaded.document)
        for member in self.members:
            self.clock.after(self.chance.uniform(0, 10), partial(self._applied, member, loaded))

    def _applied(self, member: SimMember, loaded: Loaded) -> None:
        """Some arm their applies, and some of these confirm."""
        if loaded is not self.loaded or member.agent is None:
            return
        if self.chance.random() < 0.5:
            member.apply(loaded)
            return
        seconds = self.chance.uniform(5, 25)
        member.apply(loaded, Terms(confirm_s=seconds))
        if self.chance.random() < 0.5:
            self.clock.after(self.chance.uniform(1, 30), member.confirm)

    # -- what happens -----------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Everybody starts within a few seconds, the mediator among them."""
        self.net.loss = self.chance.choice([0.0, 0.05, 0.2])
        self.mediator.document = self.document
        self.clock.after(self.chance.uniform(0, 3), self.mediator.start)
        for member in self.members:
            member.disk.accepted.content = self.loaded if member.name not in self.absent else None
            member.crashed = partial(self._crashed, member)
            self.clock.after(self.chance.uniform(0, 3), member.start)
        self.run(self.chance.uniform(2, 12))

    def story(self) -> None:
        """A short script of bad luck."""
        for _ in range(self.chance.randint(3, 7)):
            self._mishap()
            self.run(self.chance.choice([0.05, 1.0, 4.0, 12.0]) * self.chance.uniform(0.5, 1.5))

    def _mishap(self) -> None:
        chance, member = self.chance, self.chance.choice(self.members)
        soon = chance.uniform(0.5, 15)
        match chance.randrange(16):
            case 0:
                one, other = chance.sample([*self.sites, self.mediator.site], 2)
                cut = frozenset((one.public, other.public))
                self.clock.say(f"cut {sorted(cut)}")
                self.net.cuts.add(cut)
                self.clock.after(soon, lambda: self.net.cuts.discard(cut))
            case 1:
                self.mediator.crash()
                self.clock.after(soon, self.mediator.start)
            case 2:
                self.mediator.crash_at_store = chance.choice(["before", "after"])
                self.edit()
                self.clock.after(soon + 5, self.mediator.start)
            case 3:
                member.stop()
                self.clock.after(soon, member.start)
            case 4:
                self.clock.say(f"{member.name} loses power")
                member.power_off()
                self.clock.after(soon, member.power_on)
            case 5:
                self.clock.say(f"connection of {member.name} dies")
                member.forget_connection()
            case 6:
                self.clock.say("all connections die at the mediator")
                self.mediator.forget_all()
            case 7:
                self.clock.say(f"NAT of {member.site.public} reboots")
                member.site.rebind()
            case 8:
                self.clock.say("the mediator's disk is full")
                self.mediator.store.full = True
                self.edit()
                self.clock.after(soon + 5, self._room)
            case 9:
                self.mediator.skew_s = chance.choice(JUMPS_S)
                self.clock.say(f"the mediator's clock is {self.mediator.skew_s} s off")
            case 10:
                member.skew_s = chance.choice(JUMPS_S)
                self.clock.say(f"the clock of {member.name} is {member.skew_s} s off")
            case 11 | 12 | 13:
                member.crash_in = chance.randrange(1, 12)
                self.edit()
            case 14:
                self.clock.say(f"the disk of {member.name} is full")
                member.disk.full = True
                self.edit()
                self.clock.after(soon + 5, lambda: self._member_room(member))
            case _:
                self.edit()

    def _crashed(self, member: SimMember) -> None:
        self.clock.after(self.chance.uniform(0.1, 15), member.power_on)

    def _member_room(self, member: SimMember) -> None:
        member.disk.full = False

    def _room(self) -> None:
        self.mediator.store.full = False

    def heal(self) -> None:
        """All faults end, and the newest document reaches everybody."""
        self.clock.say("everything heals")
        self.net.loss = 0.0
        self.net.cuts.clear()
        self._room()
        self.mediator.crash_at_store = None
        if self.mediator.document is not self.document:
            self.mediator.load(self.document)
        self.mediator.start()
        for member in self.members:
            member.disk.full, member.crash_in = False, None
            member.power_on()
            member.start()
            member.persist(self.loaded)

    def settle(self) -> None:
        """Time passes until all is well, and a while longer. Raises AssertionError when it does not become so."""
        end = self.clock.now + SETTLE_S
        wrong, good = self.unsettled(), 0
        while good < 2 and self.clock.now < end:  # a fault of the last moment shows only after a while
            self.run(STEP_S)
            if self.clock.now > end - AGREE_S:
                self._agree()
            wrong = self.unsettled()
            good = 0 if wrong else good + 1
        assert not wrong, "; ".join(wrong)

    def _agree(self) -> None:
        """Whoever missed a document refuses what moved by it, with reason, until a person agrees."""
        granted = self.mediator.store.history | {
            (network.id, document.members[name].wireguard, address)
            for document in self.documents
            for network in document.networks.values()
            for name, addresses in network.addresses.items()
            for address in addresses
        }
        for member in self.members:
            wanted = member.evaluation()
            if wanted is None or not wanted.leases_refused:
                continue
            told = [(network, key, address) for (network, key), address in wanted.leases_refused.items()]
            held = [(network, key, address) for (network, key), address in member.pins.items()]
            assert granted.issuperset(told), f"{member.name} is told of a lease that nobody granted"
            assert granted.issuperset(held), f"{member.name} has pinned a lease that nobody granted"
            self.clock.say(f"{member.name}: netctl leases forget --all")
            member.forget_leases()

    def run(self, seconds: float) -> None:
        """Let time pass, and look after every step."""
        self.clock.run(seconds, self._check)

    # -- what must hold ---------------------------------------------------------------------------------------

    def _check(self) -> None:
        if self._dirty:
            self._dirty = False
            for member in self.members:
                self._check_peers(member)
            self._check_addresses()

    def _check_peers(self, member: SimMember) -> None:
        """Nobody is a peer who is no present member in a shared network of the document that the host has."""
        link = member.engine.state.wireguard
        assert not member.overdue(), f"{member.name} has not gone back from what nobody confirmed"
        if link is None or not link.peers or not member.quiet:
            return
        documents = [document] if (document := member.lives_by) is not None else []
        # It died in the middle of an apply, which may have been its first: without a document it keeps what it has.
        # Nor does it change anything while it knows no lease: it died before it kept one, and no mediator tells it any.
        knows_nothing = member.agent is not None and member.agent.view is None and not member.pins
        if (member.agent is None or not documents or knows_nothing) and member.had is not None:
            documents.append(member.had)
        known = {other.wireguard: other for document in documents for other in document.members.values()}
        allowed = {name for document in documents for name in sharing(document, member.name)}
        view = member.agent.view if member.agent is not None else None
        for key in link.peers:
            other = known.get(key)
            assert other is not None, f"{member.name} has the peer {key.short}, who is nobody"
            assert view is None or key in view.members, (
                f"{member.name} keeps {other.name}, which its view lacks"
            )
            assert other.name in allowed, (
                f"{member.name} has the peer {other.name}, and shares nothing with it"
            )

    def _check_addresses(self) -> None:
        """In no view and on no host do two members have one address (the store refuses by itself)."""
        for member in self.members:
            view = member.agent.view if member.agent is not None else None
            link = member.engine.state.wireguard
            seen, had = self._looked_at.get(member.name, (None, None))
            self._looked_at[member.name] = view, link
            if view is not None and view is not seen:  # neither changes: it is replaced
                owners: dict[tuple[str, Address], WireGuardKey] = {}
                for (network, key), lease in view.leases.items():
                    for address in lease.addresses:
                        owner = owners.setdefault((network, address), key)
                        assert owner == key, (
                            f"{member.name} sees {address} of {owner.short} and of {key.short}"
                        )
            if link is not None and link is not had:
                prefixes = [prefix for peer in link.peers.values() for prefix in peer.allowed_ips]
                assert len(prefixes) == len(set(prefixes)), f"{member.name} routes one prefix to two peers"

    def unsettled(self) -> list[str]:
        """What is not yet as it should be in the end."""
        wrong: list[str] = []
        present = [member for member in self.members if member.name not in self.absent]
        own: dict[tuple[str, str], str] = {}
        for member in present:
            if member.document != self.document or member.disk.armed.read() is not None:
                wrong.append(f"{member.name} does not live by the newest document")
                continue
            wanted = member.evaluation()
            if member.agent is None or member.agent.session is None or wanted is None:
                wrong.append(f"{member.name} has no mediator or no view")
                continue
            left = diff(wanted.desired, member.engine.read())
            wrong += [f"{member.name} would still change: {line}" for line in describe(left)]
            if self.document.networks_of(member.name):
                wrong += [f"{member.name}: {c.peer}: {c.message}" for c in wanted.conditions]
            for network in self.document.networks_of(member.name):
                leases = member.agent.view.leases if member.agent.view is not None else {}
                lease = leases.get((network.name, member.key))
                addresses = lease.addresses if lease is not None else ()
                if {address.version for address in addresses} != {4, 6}:
                    wrong.append(f"{member.name} has no address in {network.name}")
                for address in addresses:
                    if own.setdefault((network.name, str(address)), member.name) != member.name:
                        wrong.append(f"{member.name} and another have {address}")
            wrong += self._unsettled_paths(member, wanted.desired)
        return wrong

    def _unsettled_paths(self, member: SimMember, state: HostState) -> list[str]:
        peers = state.wireguard.peers if state.wireguard is not None else {}
        expected = sharing(self.document, member.name)
        wrong = []
        others = {other.key: other for other in self.members}
        if {others[key].name for key in peers} != expected:
            found = sorted(others[key].name for key in peers)
            wrong.append(f"{member.name} has the peers {found} and should have {sorted(expected)}")
        assert member.agent is not None
        status = member.agent.manager.status()
        for key in peers:
            path = status[key].kind if key in status else "unknown"
            if path in ("none", "unknown"):
                wrong.append(f"{member.name} has no path to {others[key].name}")
            elif self.clock.now - member.wireguard.heard(key) > HEARD_S:
                wrong.append(f"{member.name} hears nothing from {others[key].name} (path {path})")
        return wrong


def sharing(document: Document, name: str) -> set[str]:
    """The others that share a network with a member."""
    return {other for net in document.networks_of(name) for other in net.member_names} - {name}


def tell(seed: int) -> World:
    """A whole story from its beginning to its good end. Raises AssertionError with the end of the story."""
    world = World(seed)
    with telling(world.clock, f"seed {seed}; run it again: NETCTL_WORLD_SEED={seed} make test-world"):
        world.begin()
        world.story()
        world.heal()
        world.settle()
    return world


def failures(seeds: list[int]) -> tuple[list[str], Counter[str]]:
    """What went wrong in the stories of these seeds, as text: it comes from another process; and what happened."""
    found, happened = [], Counter[str]()
    for seed in seeds:
        try:
            world = tell(seed)
        except AssertionError as error:
            found.append(str(error))
        else:
            for member in world.members:
                happened += member.tally
    return found, happened
