"""The mediator's machine: the real hub, membership service and relay table, a store, and ways to die."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from mediator.core import effects as fx
from mediator.core import hub as h
from mediator.core.audience import INTEREST_ABOVE
from mediator.core.membershipservice import Done, MembershipService
from mediator.core.relay_table import RelayTable
from mediator.core.transactions import Change, Committed, Job
from netctl.model.addresses import SocketAddress
from netctl.model.document import Document
from netctl.model.errors import LocalError, NetctlError
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.wire import stun
from netctl.wire.control import encode
from netctl.wire.datagram import DatagramKind, classify
from netctl.wire.frame import LIMIT_AFTER_LOGIN, FrameDecoder, encode_frame
from tests.world.world_clock import Clock, Timer
from tests.world.world_net import End, Internet, Site, Station
from tests.world.world_store import MemoryStore

ADDRESS = "198.51.100.1"
EXPIRE_S = 5.0
RESERVE_GENERATIONS = 1000
COMMIT_S = 0.05
"""At most, for a transaction that somebody waits for: others come in between."""
LOOK_S = 1.0
"""After a commit whose answer was lost the store is looked at anew."""
T = TypeVar("T")


class Life:
    """One process: what is gone after a crash."""

    def __init__(self, hub: h.Hub, relay: RelayTable) -> None:
        self.hub = hub
        self.service = MembershipService(hub)
        self.relay = relay
        self.ends: dict[int, tuple[End, FrameDecoder]] = {}
        self.next = 0


class SimMediator:
    """A machine with an identity, a document file and a disk."""

    def __init__(
        self,
        clock: Clock,
        net: Internet,
        identity: bytes,
        on_change: Callable[[], None],
        host: str = ADDRESS,
    ) -> None:
        self.site = Site(host, nat=False, delay_s=0.005)
        self.address = SocketAddress(host, 8443)
        self.powered = True
        self.skew_s = 0
        self.lie = ""
        """What the next process does that an honest one never would: "rollback" or "stranger"."""
        self.store = MemoryStore()
        self.document: Document | None = None
        self.crash_at_store: str | None = None
        """"before" or "after" the next commit; None: live on. "doubt": live on, and the answer is lost."""
        self.interest_above = INTEREST_ABOVE
        """Members of a view above which its viewers are told of those alone that they are interested in."""
        self.jobs = 0
        """How many transactions of membership were carried out."""
        self._clock, self._net, self._changed = clock, net, on_change
        self._private = Ed25519PrivateKey.from_private_bytes(identity)
        self.identity = IdentityKey(self._private.public_key().public_bytes_raw())
        self._secret = net.chance.randbytes(32)
        self.life: Life | None = None
        self._timer = Timer(clock, self._due)
        net.stations.append(self)

    @property
    def _unix(self) -> int:
        """What this machine's wall clock shows; grants and ports go by one that nobody sets."""
        return self._clock.unix + self.skew_s

    @property
    def serves(self) -> bool:
        """Whether a member that connects is answered."""
        return self.life is not None

    # -- life and death -------------------------------------------------------------------------------------

    def start(self) -> None:
        """A new process, from what the disk has."""
        if self.life is not None or self.document is None:
            return
        generation = max(self._unix, self.store.generation)
        self.store.generation = generation + RESERVE_GENERATIONS
        if self.lie == "rollback":
            generation = 5
        hub = h.Hub(
            self.identity,
            self._private.sign,
            self._secret,
            generation=generation,
            interest_above=self.interest_above,
        )
        if self.lie == "stranger":
            other = Ed25519PrivateKey.from_private_bytes(b"\x0b" * 32)
            hub._view_cache._identity = IdentityKey(other.public_key().public_bytes_raw())
            hub._view_cache._sign = other.sign
        ports = range(*self.document.mediators[0].relay_ports)
        relay = RelayTable(self._secret, self._net.chance.randbytes(32), ports)
        self.life = life = Life(hub, relay)
        hub.restore(self.store.leases(), self.store.ports, resting=self.store.resting)
        life.service.book = self.store.book()
        self._clock.say("mediator starts")
        self._perform(life.service.set_document(self.document, self.document.mediators[0], self._clock.unix))
        self._clock.after(EXPIRE_S, lambda: self._expire(life))

    def crash(self) -> None:
        """At once, without a word of its own; the kernel closes the sockets."""
        if self.life is not None:
            self._clock.say("mediator crashes")
            life, self.life = self.life, None
            for end, _ in life.ends.values():
                end.close()

    def load(self, document: Document) -> None:
        """The operator has written a new document."""
        self.document = document
        if self.life is not None:
            self._perform(self.life.service.set_document(document, document.mediators[0], self._clock.unix))

    # -- streams --------------------------------------------------------------------------------------------

    def accept(self, end: End, source: SocketAddress) -> None:
        """A TLS connection is up."""
        life = self.life
        assert life is not None
        life.next += 1
        number = life.next
        decoder = FrameDecoder()
        life.ends[number] = end, decoder
        end.on_bytes = lambda data: self._bytes(life, number, data)
        end.on_lost = lambda: self._lost(life, number)
        self._perform(life.hub.connected(number, source, self._net.chance.randbytes(32), self._clock.now))

    def forget_all(self) -> None:
        """The mediator's end of every connection dies in silence."""
        if self.life is not None:
            for number, (end, _) in list(self.life.ends.items()):
                end.vanish()
                self._lost(self.life, number)

    def _bytes(self, life: Life, number: int, data: bytes) -> None:
        if self.life is not life or number not in life.ends:
            return
        for payload in life.ends[number][1].feed(data):
            self._perform(life.hub.received(number, payload, self._clock.now, self._clock.unix))

    def _lost(self, life: Life, number: int) -> None:
        if self.life is life and life.ends.pop(number, None) is not None:
            self._perform(life.hub.disconnected(number))

    def _due(self) -> None:
        if self.life is not None:
            self._perform(self.life.hub.handle_timer(self._clock.now, self._clock.unix))
        if self.life is not None:
            self._perform(self.life.service.handle_timer(self._clock.now, self._clock.unix))

    def _expire(self, life: Life) -> None:
        if self.life is life:
            life.relay.expire(self._clock.now)
            self._clock.after(EXPIRE_S, lambda: self._expire(life))

    def _perform(self, effects: list[fx.Effect]) -> None:
        pending = list(reversed(effects))
        life = self.life
        while pending and life is not None and self.life is life:
            match pending.pop():
                case fx.Send(number, message):
                    if number in life.ends:
                        life.ends[number][0].write(encode_frame(encode(message)))
                case fx.Deliver(numbers, payloads):
                    for number in numbers:
                        if number in life.ends:
                            life.ends[number][0].write(b"".join(map(encode_frame, payloads)))
                case fx.Drop(number, error):
                    if number in life.ends:
                        end, _ = life.ends.pop(number)
                        self._clock.say(f"mediator drops {number}: {error.code}")
                        end.write(encode_frame(encode(error)))
                        end.close()
                case fx.LoggedIn(number, member):
                    self._clock.say(f"mediator: {member} logs in")
                    life.ends[number][1].limit = LIMIT_AFTER_LOGIN
                case fx.Store() as wanted:
                    done = self._commit(life, wanted, pending[::-1])
                    if done is None:
                        break
                    pending.extend(reversed(done))
                case fx.Challenge(number):
                    pending.extend(reversed(self._challenge(life, number)))
                case fx.Redeem() as request:
                    self._ask(life.service.redeem(request, self._unix), pending[::-1])
                    break
                case fx.Left() as request:
                    self._ask(life.service.leave(request, self._unix), pending[::-1])
                    break
                case fx.Rekey() as request:
                    self._ask(life.service.rekey(request, self._unix), pending[::-1])
                    break
                case fx.Say(text):
                    self._clock.say(f"mediator says: {text}")
                case fx.Publish() | fx.StoreMoved() | fx.LookFirst() as asked:
                    self._across(life, asked)
        self._set_timer()

    def _across(self, life: Life, asked: fx.Publish | fx.StoreMoved | fx.LookFirst) -> None:
        """What only several mediators ask for."""
        raise AssertionError(f"a lone mediator asks for {asked}")

    def _set_timer(self) -> None:
        if self.life is not None:
            for due in (self.life.hub.next_timer(), self.life.service.next_timer()):
                if due is not None:
                    self._timer.set(due)

    def _commit(self, life: Life, wanted: fx.Store, behind: list[fx.Effect]) -> list[fx.Effect] | None:
        """What to perform before the effects `behind`; None: all of them are performed later."""
        moment, self.crash_at_store = self.crash_at_store, None
        if moment != "before":
            try:
                self.store.add(wanted)
            except LocalError as error:
                self._clock.say(f"no new leases: {error}")
                return life.hub.refused(self._clock.now)
            self._changed()
        if moment in ("before", "after"):
            self.crash()
            return []
        return life.hub.stored(wanted.leases, wanted.ports, wanted.pairs, wanted.resting, self._clock.unix)

    # -- membership -----------------------------------------------------------------------------------------

    def _challenge(self, life: Life, number: int) -> list[fx.Effect]:
        private = X25519PrivateKey.from_private_bytes(self._net.chance.randbytes(32))

        def agree(key: WireGuardKey) -> bytes:
            return private.exchange(X25519PublicKey.from_public_bytes(key.raw))

        return life.hub.challenged(number, WireGuardKey(private.public_key().public_bytes_raw()), agree)

    def _ask(self, job: Job[list[fx.Effect]], behind: list[fx.Effect]) -> None:
        self._carry(
            job, lambda effects: self._perform([*effects, *behind]), lambda error: self._perform(behind)
        )

    def operate(
        self,
        job: Callable[[MembershipService, int], Job[T]],
        done: Callable[[T], None],
        refused: Callable[[NetctlError], None] = lambda error: None,
    ) -> None:
        """What an operator asks for. He hears of it, or the mediator dies before."""
        if self.life is not None:
            self._carry(job(self.life.service, self._unix), done, refused)

    def decide(self, job: Callable[[MembershipService, int], Job[Done]], done: Callable[[str], None]) -> None:
        """What an operator decides about a member."""

        def finished(result: Done) -> None:
            self._perform(result.effects)
            if self.life is not None:
                done(result.name)

        self.operate(job, finished)

    def _carry(self, job: Job[T], done: Callable[[T], None], refused: Callable[[NetctlError], None]) -> None:
        """A transaction takes its time, and the process may die before, at and after it."""
        life = self.life

        def step(outcome: Any = None, error: NetctlError | None = None, *, first: bool = False) -> None:
            if self.life is not life:
                job.close()
                return
            try:
                if first:
                    change = next(job)
                elif error is not None:
                    change = job.throw(error)
                else:
                    change = job.send(Committed(outcome, self._clock.now, self._clock.unix))
            except StopIteration as end:
                done(end.value)
                self._set_timer()
            except NetctlError as raised:
                refused(raised)
            else:
                self._clock.after(self._net.chance.uniform(0, COMMIT_S), lambda: commit(change))

        def commit(change: Change[Any]) -> None:
            if self.life is not life:
                return step()
            moment, self.crash_at_store = self.crash_at_store, None
            self.jobs += 1
            if moment == "before":
                self.crash()
                return step()
            try:
                outcome = self.store.change(change, self._clock.unix)
            except NetctlError as error:
                return step(error=error)
            self._changed()
            if moment == "after":
                self.crash()
            elif moment == "doubt":
                self._clock.after(LOOK_S, lambda: self._look_again(life))
                return step(error=LocalError("the connection was lost"))
            return step(outcome)

        step(first=True)

    def _look_again(self, life: Life | None) -> None:
        if life is not None and self.life is life:
            self._perform(life.service.read_again(self.store.kept(), self._clock.unix))

    # -- datagrams ------------------------------------------------------------------------------------------

    def datagram(self, data: bytes, source: SocketAddress, port: int) -> None:
        """STUN and the relay."""
        if self.life is not None:
            spread = self.life.hub.spread
            serve_datagram(self, self._net, self.life.relay, data, source, port, self._clock, spread=spread)


def serve_datagram(
    station: Station,
    net: Internet,
    relay: RelayTable,
    data: bytes,
    source: SocketAddress,
    port: int,
    clock: Clock,
    load: int = 0,
    *,
    spread: bool = False,
) -> None:
    """Answer a datagram that came to `port` of a machine with STUN and a relay, or pass it on. `load`: the relay's;
    `spread`: as of `stun.binding_success`.
    """
    if port in (3478, 3479):
        answer = stun.respond(data, source, load, spread=spread)
        if answer is not None:
            net.send(station, port, source, answer)
        return
    kind = classify(data)
    if kind is DatagramKind.RELAY:
        for out in relay.handle_control(data, source, port, clock.now, clock.unix):
            net.send(station, out.port, out.destination, out.data)
    elif kind in (DatagramKind.WIREGUARD, DatagramKind.RELAYED_PROBE):
        flow = relay.flow(port, source, clock.now)
        if flow is not None and flow.toll.take(len(data), clock.now):
            net.send(station, flow.port, flow.destination, data)
