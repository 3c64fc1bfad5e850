"""Hundreds of members of one mediator: its real core and theirs, without paths and packets.

What is looked at is membership, leases and presence: views that are sent whole and as differences, lost, repeated,
torn, cut off, by a mediator that crashes, whose clock jumps, whose disk is full, and that lies at times.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mediator.core.audience import INTEREST_ABOVE
from netctl.config import Pins, load_document
from netctl.model.addresses import Address, SocketAddress
from netctl.model.document import Document
from netctl.model.foreign import Foreign
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.model.view import View
from netctl.node.evaluate import evaluate
from netctl.session import (
    Backoff,
    ClientSession,
    Closed,
    Effect,
    Kept,
    PresenceChanged,
    PresenceKnown,
    SendFrame,
    State,
    ViewChanged,
)
from netctl.session.views import open_view, pack_view
from netctl.wire.frame import LIMIT_AFTER_LOGIN, FrameDecoder, encode_frame
from tests.world.world_clock import Clock, Timer
from tests.world.world_mediator import ADDRESS, SimMediator
from tests.world.world_net import CONNECT_TIMEOUT_S, End, Internet, Site, stream

LOGIN_TIMEOUT_S = 10.0
SETTLE_S = 240.0
INTERESTS = 5
"""Members with which a member has open tunnels."""
STEP_S = 10.0
MALLORY = WireGuardKey(b"\x66" * 32)
JUMPS_S = (-315_000_000, -3600, 3600, 315_000_000)


class CrowdMember:
    """A host, as far as its mediator is concerned."""

    def __init__(self, number: int, crowd: Crowd) -> None:
        self.name, self._crowd = f"m{number}", crowd
        self.site = Site(
            f"203.0.{113 + number // 200}.{number % 200 + 1}", False, crowd.chance.uniform(0.001, 0.05)
        )
        self.key = WireGuardKey(crowd.chance.randbytes(32))
        self._login = Ed25519PrivateKey.from_private_bytes(crowd.chance.randbytes(32))
        self.identity = IdentityKey(self._login.public_key().public_bytes_raw())
        self.document: Document | None = None
        self.kept: Kept | None = None
        self.view: View | None = None
        self.pins: Pins = {}
        self.session: ClientSession | None = None
        self.interest: frozenset[WireGuardKey] = frozenset()
        """The members that it has open tunnels with, as it were."""
        self.refused = 0
        """How often the mediator's word was refused."""
        self._end: End | None = None
        self._backoff = Backoff()
        self._timer = Timer(crowd.clock, self._due)

    def connect(self) -> None:
        """One try; the next follows by itself."""
        crowd = self._crowd
        if crowd.net.cut(self.site, crowd.mediator.site) or crowd.mediator.life is None:
            crowd.clock.after(CONNECT_TIMEOUT_S * crowd.chance.random(), self._again)
            return
        self._end, theirs = stream(crowd.net, self.site, crowd.mediator.site)
        end, decoder = self._end, FrameDecoder(LIMIT_AFTER_LOGIN)
        session = self.session = ClientSession(
            identity=self.identity,
            key=self.key,
            sign=self._login.sign,
            pin=crowd.mediator.identity,
            pins=(crowd.mediator.identity,),
            mediator=(crowd.mediator.address,),
            nonce=crowd.chance.randbytes(32),
            now=crowd.clock.now,
            kept=self.kept,
            interest=self.interest,
        )

        def came(data: bytes) -> None:
            for payload in decoder.feed(data):
                for _ in range(crowd.times()):
                    if self.session is session:
                        self._perform(session.receive_frame(payload, crowd.clock.now))

        def slow() -> None:
            if self.session is session and session.state in (State.NEW, State.LOGGING_IN):
                self.lost()

        end.on_bytes = came
        end.on_lost = lambda: self.lost() if self.session is session else None
        crowd.mediator.accept(theirs, SocketAddress(self.site.public, 40000))
        crowd.clock.after(LOGIN_TIMEOUT_S, slow)

    def _again(self) -> None:
        self._crowd.clock.after(self._backoff.next_delay(self._crowd.chance.random()), self.connect)

    def lost(self, *, silently: bool = False) -> None:
        """The connection is over."""
        if self._end is not None:
            if silently:
                self._end.vanish()
            else:
                self._end.close()
        self.session = self._end = None
        self._again()

    def leave(self) -> None:
        """The agent ends, and does not come back."""
        if self._end is not None:
            self._end.close()
        self.session = self._end = None

    def restart(self) -> None:
        """Another life, from what the disk has: it must still be the mediator's word."""
        if self.kept is not None:
            pins = (self._crowd.mediator.identity,)
            again = open_view(pack_view(self.kept.view), self.kept.seal, pins, self.key)
            assert again == self.kept.view, f"{self.name} has kept something else"
        if self.session is not None:
            self.lost()

    def talk(self) -> None:
        """Tunnels open and close."""
        members = self._crowd.members
        others = [other.key for other in self._crowd.chance.sample(members, min(INTERESTS, len(members)))]
        self.interest = frozenset(others)
        if self.session is not None:
            self._perform(self.session.interested(self.interest, self._crowd.clock.now))

    def look(self) -> None:
        """Somebody looks at all members."""
        if self.session is not None:
            self._perform(self.session.look_at_all(self._crowd.clock.now))

    def knows(self, told: View, above: int) -> bool:
        """Whether the view has the presence that the mediator says, of all members that it must know."""
        view = self.view
        assert view is not None
        small = len(told.members) <= above
        for key, member in view.members.items():
            must = small or key in self.interest or key == self.key
            if member.online is None and not must:
                continue
            if member.online is not told.members[key].online:
                return False
        return True

    def _due(self) -> None:
        if self.session is not None:
            self._perform(self.session.handle_timer(self._crowd.clock.now))

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            match effect:
                case SendFrame(payload) if self._end is not None:
                    self._end.write(encode_frame(payload))
                case ViewChanged(view, kept):
                    self._backoff.reset()
                    self._backoff.spread(len(view.members))
                    self.view, self.kept = view, kept
                    self._crowd.seen(self)
                case PresenceChanged(key, online):
                    self._present({key: online})
                case PresenceKnown(told, later):
                    self.kept = later or self.kept
                    self._present(told)
                case Closed(error):
                    self.refused += error.code.startswith("view.")
                    self.lost()
                    return
                case _:
                    pass
        if self.session is not None:
            self._timer.set(self.session.next_timer())

    def _present(self, online: Mapping[WireGuardKey, bool | None]) -> None:
        if self.view is None:
            return
        members = dict(self.view.members)
        members.update(
            {key: replace(members[key], online=there) for key, there in online.items() if key in members}
        )
        self.view = replace(self.view, members=members)


class Crowd:
    """All of them, and what happens to them."""

    def __init__(self, seed: int, size: int, *, interest_above: int = INTEREST_ABOVE) -> None:
        self.chance = random.Random(seed)
        self.clock = Clock()
        self.net = Internet(self.clock, self.chance)
        self.mediator = SimMediator(self.clock, self.net, self.chance.randbytes(32), lambda: None)
        self.mediator.interest_above = interest_above
        self.members = [CrowdMember(number, self) for number in range(size)]
        for member in self.members:
            member.talk()
        self.faults = False
        """Whether messages are lost and repeated."""
        self.absent: set[str] = set()
        self.fixed: dict[str, str] = {}
        self.document = self.write()
        self.views = 0

    def write(self, *, hostile: bool = False) -> Document:
        """The document as things are now; a hostile one adds a member and moves addresses."""
        members = {
            member.name: {
                "wireguard": str(member.key),
                "identity": str(member.identity),
                "groups": ["few"][number % 9 :],
            }
            | ({"state": "absent"} if member.name in self.absent else {})
            for number, member in enumerate(self.members)
        }
        present = [name for name in members if name not in self.absent]
        fixed = {name: address for name, address in self.fixed.items() if name in present}
        if hostile:
            members["mallory"] = {"wireguard": str(MALLORY), "groups": []}
            taken = sorted({address for _, address in self.mediator.store.by_address}, key=int)
            inside = [str(address) for address in taken if str(address).startswith("10.1.")]
            fixed = dict(zip(present[1:4], inside[:3], strict=False))
        text = {
            "apiVersion": "netctl/v1",
            "id": "crwd-0001",
            "mediators": [{"url": f"netctl://{ADDRESS}:8443", "identity": [str(self.mediator.identity)]}],
            "members": members,
            "networks": {
                "all": {"mode": "routed", "ipv4": "10.1.0.0/16", "members": ["*"], "addresses": fixed},
                "work": {
                    "mode": "routed",
                    "ipv4": "10.2.0.0/16",
                    "members": present[::3],
                    "acls": [{"name": "few", "src": ["group:few"], "dst": ["*"], "proto": "icmp"}],
                },
            },
        }
        return load_document(json.dumps(text)).document

    def times(self) -> int:
        """How often a message arrives."""
        return self.chance.choices((0, 1, 2), (2, 95, 3))[0] if self.faults else 1

    def seen(self, member: CrowdMember) -> None:
        """A member has another view: what must hold of it."""
        view, life = member.view, self.mediator.life
        assert view is not None
        self.views += 1
        owners: dict[tuple[str, Address], WireGuardKey] = {}
        for (network, key), lease in view.leases.items():
            for address in lease.addresses:
                owner = owners.setdefault((network, address), key)
                assert owner == key, f"{member.name} sees {address} of two members"
        if life is not None and view.generation == life.hub.generation and member.name not in self.absent:
            told = life.hub.view(member.key)
            assert dict(view.leases) == dict(told.leases), (
                f"{member.name} has other leases than its mediator says"
            )
            assert set(view.members) == set(told.members), f"{member.name} sees others than its mediator says"
        self.configure(member)

    def configure(self, member: CrowdMember) -> None:
        """What the host makes of it; only a few do, for the time's sake."""
        if member.document is None or member.document.members[member.name].state.value != "present":
            return
        if self.members.index(member) % 40:
            return
        wanted = evaluate(
            member.document, member.view, member.pins, Foreign(), frozenset(), {}, key=member.key
        )
        pins = wanted.pins if wanted.pins is not None else {}
        for where, address in pins.items():
            moved = member.pins.get(where, address) != address
            assert not moved or address in member.document.networks["all"].addresses, (
                "a pinned lease has moved"
            )
        member.pins = pins
        link = wanted.desired.wireguard
        assert link is not None
        known = {other.wireguard for other in member.document.members.values()}
        assert set(link.peers) <= known, f"{member.name} has a peer whom its document does not know"
        prefixes = [prefix for peer in link.peers.values() for prefix in peer.allowed_ips]
        assert len(prefixes) == len(set(prefixes)), f"{member.name} routes one prefix to two peers"

    # -- what happens -----------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Everybody comes within a few seconds."""
        self.mediator.document = self.document
        self.mediator.start()
        for member in self.members:
            member.document = self.document
            self.clock.after(self.chance.uniform(0, 5), member.connect)
        self.run(15)

    def edit(self) -> None:
        """A few members come or go, or an address is fixed; hosts learn of it later."""
        names = [member.name for member in self.members]
        for _ in range(self.chance.randint(1, 5)):
            self.absent ^= {self.chance.choice(names)}
        self.fixed = {self.chance.choice(names): f"10.1.250.{self.chance.randint(1, 250)}"}
        self.publish()

    def publish(self) -> None:
        """To the mediator now, to the hosts one after the other."""
        self.document = document = self.write()
        self.mediator.load(document)
        for member in self.members:
            self.clock.after(self.chance.uniform(0, 5), partial(self._applied, member, document))

    def _applied(self, member: CrowdMember, document: Document) -> None:
        member.document = document
        self.configure(member)

    def mishap(self) -> None:
        """Something goes wrong."""
        chance, soon = self.chance, self.chance.uniform(1, 8)
        for member in chance.sample(self.members, len(self.members) // 4):
            chance.choice([member.talk, member.look])()
        match chance.randrange(9):
            case 0:
                self.clock.say("the mediator crashes")
                self.mediator.crash()
                self.clock.after(soon, self.mediator.start)
            case 1:
                self.mediator.crash_at_store = chance.choice(["before", "after"])
                self.edit()
                self.clock.after(soon, self.mediator.start)
            case 2:
                some = chance.sample(self.members, len(self.members) // 4)
                cuts = [frozenset((member.site.public, ADDRESS)) for member in some]
                self.clock.say(f"{len(some)} members are cut off")
                self.net.cuts.update(cuts)
                self.clock.after(soon, lambda: self.net.cuts.difference_update(cuts))
            case 3:
                self.clock.say("all connections die at the mediator")
                self.mediator.forget_all()
            case 4:
                for member in chance.sample(self.members, len(self.members) // 10):
                    if member.session is not None:
                        member.lost(silently=True)
            case 5:
                self.mediator.skew_s = chance.choice(JUMPS_S)
                self.clock.say(f"the mediator's clock is {self.mediator.skew_s} s off")
                self.mediator.crash()
                self.clock.after(soon, self.mediator.start)
            case 6:
                self.mediator.store.full = True
                self.edit()
                self.clock.after(soon, self._room)
            case 7:
                self._takeover(chance.choice(["rollback", "stranger", "document"]), soon)
            case _:
                for member in chance.sample(self.members, len(self.members) // 10):
                    member.restart()
                self.edit()

    def _takeover(self, how: str, seconds: float) -> None:
        """Somebody has the mediator for a while."""
        self.clock.say(f"the mediator is taken over: {how}")
        if how == "document":
            self.mediator.load(self.write(hostile=True))
        else:
            self.mediator.crash()
            self.mediator.lie = how
            self.mediator.start()
        self.clock.after(seconds, self._honest)

    def _honest(self) -> None:
        if self.mediator.lie:
            self.mediator.crash()
            self.mediator.lie = ""
        self.mediator.load(self.document)
        self.mediator.start()

    def _room(self) -> None:
        self.mediator.store.full = False

    def story(self) -> None:
        """Some mishaps, with messages lost and repeated."""
        for _ in range(self.chance.randint(3, 5)):
            self.faults = self.chance.random() < 0.7
            self.mishap()
            self.run(self.chance.choice([0.2, 3.0, 10.0]))

    def heal(self) -> None:
        """All faults end; one more change brings to light what got lost in them."""
        self.faults = False
        self.net.cuts.clear()
        self._room()
        self.mediator.crash_at_store = None
        self._honest()
        self.run(1.0)
        self.fixed = {}
        self.absent ^= {self.members[0].name}
        self.publish()

    def settle(self) -> None:
        """Time passes until all is well. Raises AssertionError when it does not become so."""
        end = self.clock.now + SETTLE_S
        while (wrong := self.unsettled()) and self.clock.now < end:
            self.run(STEP_S)
        assert not wrong, "; ".join(wrong[:5])

    def leave(self) -> None:
        """Some go for good: the others learn it, and keep them in their views."""
        gone = [member for member in self.members if member.name not in self.absent][::7]
        for member in gone:
            member.leave()
        self.run(2.0)
        life = self.mediator.life
        assert life is not None
        present = [member for member in self.members if member.name not in self.absent and member not in gone]
        assert life.hub.online == len(present)
        for member in present:
            told, view = life.hub.view(member.key), member.view
            assert view is not None
            above = self.mediator.interest_above
            assert member.knows(told, above), f"{member.name} does not know who has left"
            assert not any(view.members[other.key].online for other in gone)

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.clock.run(seconds, lambda: None)

    def unsettled(self) -> list[str]:
        """What is not yet as it should be in the end."""
        life = self.mediator.life
        if life is None:
            return ["there is no mediator"]
        present = [member for member in self.members if member.name not in self.absent]
        wrong = [
            f"{member.name} is not logged in" for member in present if not life.hub.is_online(member.key)
        ]
        if life.hub.online != len(present) or len(life.ends) > len(self.members):
            wrong.append(f"{life.hub.online} are logged in, {len(life.ends)} connections")
        for member in present if not wrong else ():
            told = life.hub.view(member.key)
            view = member.view
            if view is None or member.session is None:
                wrong.append(f"{member.name} has no view")
            elif view.members.keys() != told.members.keys() or dict(view.leases) != dict(told.leases):
                wrong.append(f"{member.name} has another view than its mediator")
            elif not member.knows(told, self.mediator.interest_above):
                wrong.append(f"{member.name} has another presence than its mediator")
        return wrong
