"""The mediator's core: events in, effects out. Holds membership, online members, and who may see whom.

A connection goes through

| state   | event          | next                                         |
|---------|----------------|----------------------------------------------|
| GREETED | Login, good    | MEMBER                                       |
| GREETED | Login, good, while the key is online | GREETED until the older one answers or fails to (`duplicates`) |
| GREETED | Login, good, while the key is online at another mediator | the same, by its answer (`peers`) |
| GREETED | EnrolStart, …  | GREETED: see `mediator.core.enrollment`            |
| GREETED | anything else  | dropped                                      |
| MEMBER  | other messages | MEMBER                                       |

Members at other mediators of the store are online too: `mediator.core.peers` knows who is where. Without a bus that
table is empty.

Leases and relay ports become visible only after the shell has stored them (`stored`). If the store refuses (`refused`)
or is slow (`store_is_slow`), the rest of a new document takes effect all the same; the store is asked again.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address
from types import MappingProxyType

from mediator.core import busmessages as b
from mediator.core import peers as p
from mediator.core.allocations import Allocations
from mediator.core.apprelays import named, relay_of_pair
from mediator.core.audience import INTEREST_ABOVE, Audience, presences, questions
from mediator.core.controlconnections import KEEPALIVE_S, Connection, Connections, key_of
from mediator.core.duplicates import Duplicate
from mediator.core.effects import (
    Deliver,
    Drop,
    Effect,
    Left,
    LoggedIn,
    News,
    Publish,
    Say,
    Send,
    StoreMoved,
)
from mediator.core.enrollment import Challenge, Enrollment
from mediator.core.introducer import PUNCH_ACROSS_MS, Allowance, Introducer
from mediator.core.leasegrants import Exhausted, GrantLease
from mediator.core.logins import Logins
from mediator.core.membership import Membership, membership_of
from mediator.core.pace import Pace, Questions
from mediator.core.pairs import PairGrant, is_app
from mediator.core.portsbeside import PortsBeside
from mediator.core.relay_grants import GRANT_TTL_S, Agreement, RelaysApart, grant, nobody, usable
from mediator.core.relay_pairs import PairPort
from mediator.core.transactions import Basis
from mediator.core.viewcache import ViewCache, ViewClass
from netctl.model.addresses import Address, SocketAddress
from netctl.model.deadlines import earliest
from netctl.model.document import Document, Mediator
from netctl.model.errors import RemoteError
from netctl.model.forpeople import counted
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.model.view import View
from netctl.session.enrol import Agree
from netctl.session.login import Signer
from netctl.wire import control as w


class _Anywhere:
    """Members that are logged in, here or at another mediator."""

    __slots__ = ("_elsewhere", "_here")

    def __init__(self, here: Container[WireGuardKey], elsewhere: Container[WireGuardKey]) -> None:
        self._here, self._elsewhere = here, elsewhere

    def __contains__(self, key: object) -> bool:
        return key in self._here or key in self._elsewhere


def _in(ports: tuple[int, int], port: int) -> bool:
    return ports[0] <= port <= ports[1]


class Hub:
    """All state of a mediator that is not on disk.

    `now`: monotonic seconds; `unix_s`: seconds since 1970 by the clock that the relay shares: it checks grants.
    """

    def __init__(
        self,
        identity: IdentityKey,
        sign: Signer,
        relay_secret: bytes,
        *,
        generation: int = 0,
        stun_also: str = "",
        agree: Agreement = nobody,
        interest_above: int = INTEREST_ABOVE,
    ) -> None:
        """`generation` must be above that of any earlier run (the shell uses the clock).

        `stun_also`: another IPv4 address of the mediator's host, asked by members whose NAT may map by address.
        `agree`: on a secret with a relay apart. `interest_above`: members of a view above which its viewers are told
        of those alone that they are interested in.
        """
        self._apart = RelaysApart(agree)
        self.registered: Container[str] = frozenset()
        """Relays apart, by identity, that have been told the pairs with stock apps."""
        self.unheld_apart: Callable[[str], Collection[int]] = lambda _: ()
        """The ports that the relay apart with this identity could not bind."""
        self.beside = PortsBeside()
        self._stun_also = stun_also
        self.identity = identity
        self._secret = relay_secret
        self._generation = generation
        self._epoch = generation
        self._store = ""
        self._revision = 0
        self._shared = False
        """Whether several mediators use the store; its state's number is then the generation."""
        self._bus = False
        self._beside: Mapping[str, Mediator] = {}
        """By name of the relay beside it: the document's mediators, this one too, if they work on one store."""
        self._current = True
        """Whether members see the store's newest known state."""
        self._membership = Membership()
        self._view_cache = ViewCache(identity, sign)
        self._enrollment = Enrollment(identity)
        self._guests: frozenset[WireGuardKey] = frozenset()
        self._mediator: Mediator | None = None
        self._connections = Connections()
        self._online = self._connections.online
        self._allocations = Allocations()
        self._distances: dict[WireGuardKey, Mapping[str, int]] = {}
        """How far the relays are from each member that has told it, milliseconds."""
        self._introducer = Introducer()
        self._peers = p.Peers()
        self._anywhere: Container[WireGuardKey] = self._online
        self._audience = Audience(self._connections, self._view_cache, interest_above=interest_above)
        self._logins = Logins(identity, self._connections, self._peers, self._admit, self._drop)

    @property
    def exhausted(self) -> tuple[Exhausted, ...]:
        """Members without an address, and why."""
        return self._allocations.exhausted

    @property
    def without_port(self) -> int:
        """Count of pairs with a stock app without a relay port; a wider `relayPorts` helps."""
        return self._allocations.pairs.without_port

    def pair_port(self, one: WireGuardKey, other: WireGuardKey) -> int | None:
        """The relay port of a pair with a stock app."""
        return self._allocations.pairs.port(one, other)

    def meeting(self, app: WireGuardKey, peer: WireGuardKey) -> tuple[Mediator, int] | None:
        """The relay at which a stock app meets a peer, and their port there; None: the pair has no port."""
        port = self.pair_port(app, peer)
        members = self._membership.by_key
        if port is None or self._mediator is None:
            return None
        told = self._distances.get(peer, {})
        relay = relay_of_pair(self.document, members[app], members[peer], told, self.registered, self._beside)
        if relay is None:
            return self._mediator, port
        if not relay.relay_only:  # its ports are the store's
            return (relay, port) if _in(relay.relay_ports, port) else (self._mediator, port)
        shifted = port - self._relay_ports()[0] + relay.relay_ports[0]
        if shifted <= relay.relay_ports[1] and shifted not in self.unheld_apart(str(relay.identity[0])):
            return relay, shifted
        return None if named(self.document, members[app], members[peer]) else (self._mediator, port)

    def pair_ports(self) -> list[PairPort]:
        """The ports of pairs with a stock app that the relay must serve."""
        return self._allocations.pair_ports()

    def first_relay_port(self) -> int:
        """The first of the ports that members and pairs have at the relay beside the mediator."""
        return self._relay_ports()[0]

    @property
    def spread(self) -> bool:
        """Whether members may be logged in at any mediator of the document: a pair has the relays beside all."""
        return self.grants_beside and len(self._beside) > 1

    @property
    def grants_beside(self) -> bool:
        """Whether members may ask for grants at the relays beside the document's other mediators, as many as it names.

        They hear it at login, perhaps before this mediator has the document that names a second one. False without a
        bus, because members at different mediators are not introduced then.
        """
        return self._bus and self._shared

    def relay_port(self, key: WireGuardKey) -> int | None:
        """A member's relay port, which also names its account at the relay."""
        return self._allocations.port(key)

    @property
    def document(self) -> Document:
        """The document in force, with members that joined by invite."""
        return self._membership.document

    @property
    def generation(self) -> int:
        """The generation of the present membership and leases; it never decreases."""
        return self._generation

    @property
    def revision(self) -> int:
        """A number that changes with every change of membership, leases or ports."""
        return self._revision

    @property
    def store(self) -> str:
        """The store's name."""
        return self._store

    @property
    def online(self) -> int:
        """Count of members that are logged in here."""
        return len(self._online)

    @property
    def pace(self) -> Pace:
        """Limits logins per key."""
        return self._logins.pace

    def duplicates(self, now: float) -> list[Duplicate]:
        """Keys on two hosts."""
        return self._logins.duplicates(now)

    def is_online(self, key: WireGuardKey) -> bool:
        """Whether the member with this key is logged in, here or at another mediator."""
        return key in self._anywhere

    # -- membership -----------------------------------------------------------------------------------------

    def restore(
        self,
        leases: Mapping[tuple[str, WireGuardKey], IPv4Address],
        ports: Mapping[WireGuardKey, int],
        pairs: Iterable[PairGrant] = (),
        resting: Mapping[int, int] = MappingProxyType({}),
        *,
        generation: int = 0,
        store: str = "",
    ) -> None:
        """Take the store's content, before the first `load`; `resting`: ports with the end (Unix time) of their rest.

        `generation`: the lowest generation of this run. `store`: the store's name, sent at login.
        """
        self._allocations.restore(leases, ports, pairs, resting)
        self._store = store
        self._generation = self._epoch = max(self._generation, generation)

    def follow(self, number: int | None) -> None:
        """With several mediators on the store: the next `load` is the store's state of this number.

        None: this mediator cannot show that state; it shows what it can as part of the last state that it could show,
        and requests nothing from the store.
        """
        self._shared, self._current = True, number is not None
        if number is not None:
            self._generation = max(self._generation, number)

    def read(
        self,
        leases: Mapping[tuple[str, WireGuardKey], IPv4Address],
        ports: Mapping[WireGuardKey, int],
        pairs: Iterable[PairGrant],
        resting: Mapping[int, int],
    ) -> None:
        """Take the store's present content, before the next `load`."""
        self._allocations.restore(leases, ports, pairs, resting)

    def load(
        self,
        document: Document,
        mediator: Mediator,
        unix_s: int,
        *,
        guests: frozenset[WireGuardKey] = frozenset(),
    ) -> list[Effect]:
        """Take a valid document into force; `mediator`: its entry for this server.

        `guests`: members without a document, which get an excerpt of it in their view.
        """
        self._membership = membership_of(document)
        self._logins.membership = self._audience.membership = self._membership
        self._guests = guests
        self._mediator = mediator
        by_key = self._membership.by_key
        self._distances = {key: told for key, told in self._distances.items() if key in by_key}
        effects: list[Effect] = []
        for number, connection in self._connections.all():
            if connection.member is not None and connection.member not in self._membership.by_key:
                effects += self._drop(number, "login.removed", "this host is no member any more")
        self._count()
        self._hang()
        wanted = self._want(unix_s)
        full = document.full_mediators() if self._shared else ()
        self._beside = {one.relay_name: one for one in full}
        said = self._apart.load(document.relays(), mediator.relay_ports, document.circles)
        effects += [Say(text) for text in said]
        effects += [Say(item.message) for item in self.exhausted]
        if self.without_port:
            effects.append(
                Say(f"no relay port is left for {counted(self.without_port, 'pair')} with stock apps")
            )
        return effects + (wanted or self._show())

    def _want(self, unix_s: int) -> list[Effect]:
        """Request missing allocations from the store."""
        if not self._current:
            self._allocations.store_due = None
            return []
        wanted = self._allocations.want(
            self._membership, self._relay_ports(), unix_s, self.beside.unheld, self.beside.left
        )
        if wanted is None:
            return []
        basis = Basis(self._generation, self.document.digest) if self._shared else None
        return [replace(wanted, basis=basis)]

    def _relay_ports(self) -> tuple[int, int]:
        """The range of relay ports. Several mediators use the first entry's, or each would move the other's ports."""
        assert self._mediator is not None
        full = self.document.full_mediators() if self._shared else ()
        return (full[0] if full else self._mediator).relay_ports

    def _count(self) -> None:
        """Raise the generation, if only one mediator uses the store."""
        if not self._shared:
            self._generation += 1

    def release(self, unix_s: int) -> list[Effect]:
        """The open request is committed or obsolete, and the store was read: decide anew."""
        self._allocations.release()
        return self._show() + self._want(unix_s)

    def stored(
        self,
        leases: Iterable[GrantLease],
        ports: Iterable[tuple[WireGuardKey, int]],
        pairs: Iterable[PairGrant],
        resting: Iterable[tuple[int, int]],
        unix_s: int,
    ) -> list[Effect]:
        """The store has committed these: show them."""
        again = self._allocations.stored(leases, ports, pairs, resting)
        self._count()
        self._hang()
        return self._show() + (self._want(unix_s) if again else [])

    def granted(self, leases: Iterable[GrantLease]) -> None:
        """These leases were committed together with a new member; `load` follows."""
        self._allocations.granted(leases)

    def rekeyed(
        self, keys: Collection[WireGuardKey], leases: Mapping[tuple[str, WireGuardKey], IPv4Address]
    ) -> None:
        """A member's key was replaced: `leases` are all that its two keys have now. `load` follows."""
        self._allocations.rekeyed(keys, leases)

    def forget(self, key: WireGuardKey, unix_s: int, *, port: bool = True) -> None:
        """A key is no longer a member's: its relay port becomes free when its grants have expired.

        `port` False: the ports were read from the store since.
        """
        self._logins.forget(key)
        if port:
            self._allocations.forget(key, unix_s)

    def store_is_slow(self) -> list[Effect]:
        """The store has not answered yet: show all other changes, above all removed members."""
        return self._show()

    def refused(self, now: float) -> list[Effect]:
        """The store refused: show all other changes, and ask again later."""
        self._allocations.refused(now)
        self._count()
        self._hang()
        return self._show()

    # -- other mediators ------------------------------------------------------------------------------------

    def join_bus(self, run: bytes, name: str, now: float) -> None:
        """Other mediators work with the store, before anybody logs in. `run`: 16 fresh random bytes."""
        self._bus = True
        self._peers.begin(run, name, now)
        self._anywhere = _Anywhere(self._online, self._peers.here)

    def bus_works(self, now: float) -> None:
        """The bus is there, or there again."""
        self._peers.speak(now)

    def leave_bus(self) -> list[Effect]:
        """This mediator ends: the others hear of it, before its connections end."""
        return self._across(self._peers.leave(), 0.0)

    @property
    def bus_refused(self) -> int:
        """Messages of more mediators than there may be."""
        return self._peers.refused

    def peers(self, now: float) -> list[p.PeerRow]:
        """What is known of the other mediators."""
        return self._peers.rows(now)

    def shows(self, state: int) -> list[Effect]:
        """This mediator shows the store's state of this number: the others hear of it."""
        return self._across(self._peers.state_is(state), 0.0)

    def heard(self, message: b.Message, now: float) -> list[Effect]:
        """Another mediator has said something."""
        return self._across(self._peers.received(message, now), now)

    @property
    def bus_sooner(self) -> int:
        """A count that grows whenever `next_bus_timer` may have become earlier."""
        return self._peers.sooner

    def next_bus_timer(self) -> float | None:
        """When the other mediators are due to hear something, or something of them is due."""
        return self._peers.next_timer()

    def handle_bus_timer(self, now: float) -> list[Effect]:
        """Beats, gathered presence, and what has not come."""
        return self._across(self._peers.handle_timer(now), now)

    def _across(self, events: Iterable[p.Event], now: float) -> list[Effect]:
        effects: list[Effect] = []
        seen: dict[WireGuardKey, bool] = {}
        for event in events:
            if isinstance(event, p.Seen):
                if event.key not in self._online:
                    seen[event.key] = event.online
                continue
            if seen:  # in the order of events
                effects += self._seen(seen)
                seen = {}
            match event:
                case Publish() | StoreMoved():
                    effects.append(event)
                case p.Superseded(key):
                    effects += self._logins.superseded(key)
                case p.Asked():
                    effects += self._logins.asked(event, now)
                case p.Answered():
                    effects += self._logins.answered(event, now)
                case p.Carried():
                    effects += self._carried(event)
        return effects + self._seen(seen)

    def _seen(self, seen: Mapping[WireGuardKey, bool]) -> list[Effect]:
        """Members came or went at other mediators: the members here that see them are told, each once."""
        effects: list[Effect] = []
        by_key = self._membership.by_key
        for connections, keys in self._audience.of_all(key for key in seen if key in by_key):
            if connections:
                told = tuple(w.encode(w.Presence(str(key), seen[key])) for key in keys)
                effects.append(News(tuple(connections), told, elsewhere=True))
        for key, online in seen.items():
            if not online:
                self._introducer.forget(key)
        return effects

    def _carried(self, event: p.Carried) -> list[Effect]:
        """An introduction or a punch, for a member here of one elsewhere. Nothing else goes through to members."""
        connection = self._online.get(event.receiver)
        try:
            message = w.decode(event.frame)
        except RemoteError:
            return []
        if connection is None or self._peer(event.receiver, str(event.sender)) is None:
            return []
        match message:
            case w.Introduction(peer) if peer == str(event.sender):
                both = self._introducer.across(event.sender, event.receiver, message.round)
                punch = (
                    self._punch_across(event.receiver, connection, event.sender, event.run) if both else []
                )
                return [Send(connection, message), *punch]
            case w.Punch(peer) if peer == str(event.sender):
                return [Send(connection, message)]
        return []

    def _punch_across(
        self, key: WireGuardKey, connection: int, peer: WireGuardKey, run: bytes
    ) -> list[Effect]:
        """Both have offered. The mediator of the lower key says when, or each of two would."""
        if peer < key:
            return []
        told = w.encode(w.Punch(str(key), PUNCH_ACROSS_MS))
        return [
            Send(connection, w.Punch(str(peer), PUNCH_ACROSS_MS)),
            *self._peers.carry(run, key, peer, told),
        ]

    # -- connections ----------------------------------------------------------------------------------------

    def connected(self, connection: int, source: SocketAddress, nonce: bytes, now: float) -> list[Effect]:
        """A TLS connection is up. `nonce`: 32 fresh random bytes."""
        self._connections.add(connection, Connection(source, nonce, now, now, Allowance(now)))
        return [Send(connection, w.Hello(w.PROTOCOL_VERSION, nonce.hex()))]

    def disconnected(self, connection: int) -> list[Effect]:
        """A connection has ended: members that see its member are told it is offline."""
        gone = self._connections.pop(connection)
        self._enrollment.forget(connection)
        self._logins.gone(connection)
        self._audience.gone(connection)
        if gone is None or gone.member is None:
            return []
        if gone.shown is not None:
            self._view_cache.left(gone.member, gone.shown)
        if self._online.get(gone.member) != connection:
            return []
        del self._online[gone.member]
        self._peers.went(gone.member)
        if gone.member in self._anywhere:
            return []
        return self._presence(gone.member, online=False)

    def received(self, connection: int, payload: bytes, now: float, unix_s: int) -> list[Effect]:
        """A complete frame arrived."""
        state = self._connections.get(connection)
        if state is None:
            return []
        state.heard = now
        try:
            message = w.decode(payload)
            if state.member is not None:
                return self._from_member(connection, state, state.member, message, now, unix_s)
            if isinstance(message, w.Login):
                return self._login(connection, state, message, now)
            if isinstance(message, w.EnrolStart | w.Enrol | w.Rotate):
                previous = key_of(message.previous) if isinstance(message, w.Rotate) else None
                known = self._membership.by_key.get(previous) if previous is not None else None
                identity = known.identity if known is not None else None
                asked = self._enrollment.receive(connection, message, state.nonce, identity)
                if not isinstance(
                    asked, Challenge
                ):  # the login time-out starts anew: the store's time does not count against the host
                    state.since = now
                return [asked]
            raise RemoteError("log in first", "login.first")
        except RemoteError as error:
            return self._drop(connection, error.code, str(error))

    def challenged(self, connection: int, ephemeral: WireGuardKey, agree: Agree) -> list[Effect]:
        """The shell has made an ephemeral key for a host that enrols."""
        if connection not in self._connections:
            return []
        return [Send(connection, self._enrollment.challenged(connection, ephemeral, agree))]

    def refuse(self, connection: int, error: RemoteError) -> list[Effect]:
        """The shell could not perform the connection's request."""
        return self._drop(connection, error.code, str(error))

    def next_timer(self) -> float | None:
        """The earliest deadline."""
        return earliest(
            min(self._connections.deadlines(), default=None),
            self._allocations.store_due,
            self._logins.next_timer(),
            self._peers.next_timer(),
            self._audience.next_timer(),
        )

    def handle_timer(self, now: float, unix_s: int) -> list[Effect]:
        """Drop connections without a login and silent members; ask the store again after a refusal.

        Admit logins that waited for an older connection which has ended.
        """
        effects: list[Effect] = self.handle_bus_timer(now)
        effects += self._logins.handle_timer(now)
        self._audience.handle_timer(now)
        for number, state in self._connections.all():
            if now >= state.deadline:
                code = "login.timeout" if state.member is None else "silent"
                effects += self._drop(number, code, "nothing was heard in time")
        if self.beside.handle_timer(now) or self._allocations.is_due(now, unix_s):
            effects += self._want(unix_s)
        return effects

    def _drop(self, connection: int, code: str, message: str) -> list[Effect]:
        error = w.Error(code[:64], message[:512])
        return [Drop(connection, error), *self.disconnected(connection)]

    def _login(self, connection: int, state: Connection, login: w.Login, now: float) -> list[Effect]:
        behind = self._shared and login.newest > self._generation
        return self._logins.login(connection, state, login, now, behind=behind)

    def login_again(self, connection: int, login: w.Login, now: float) -> list[Effect]:
        """Process a login again, after the store was read or did not answer."""
        state = self._connections.get(connection)
        if state is None or state.member is not None:
            return []
        try:
            return self._login(connection, state, login, now)
        except RemoteError as error:
            return self._drop(connection, error.code, str(error))

    def _admit(self, connection: int, state: Connection, key: WireGuardKey, login: w.Login) -> list[Effect]:
        """Make a connection a member's."""
        assert self._mediator is not None
        effects: list[Effect] = []
        state.member = key
        state.minor = min(login.minor, w.MINOR_VERSION)
        state.questions = Questions(state.heard)
        self._online[key] = connection
        self._audience.logged_in(connection)
        self._epoch = self._peers.next_epoch(self._epoch)
        self._peers.came(key, self._epoch)
        stun = [f"0.0.0.0:{port}" for port in self._mediator.stun]
        if self._stun_also:
            stun += [f"{self._stun_also}:{port}" for port in self._mediator.stun[:1]]
        welcome = w.Welcome(
            self._generation,
            self._epoch,
            str(state.source),
            stun,
            KEEPALIVE_S,
            self._store,
            w.MINOR_VERSION,
            self.grants_beside,
        )
        name = self._membership.by_key[key].name
        effects += [LoggedIn(connection, name), Send(connection, welcome)]
        state.shown = view_class = self._view_cache.of(key)
        if login.view == view_class.digest:  # the member knows this view already
            effects.append(Deliver((connection,), (self._sealed((connection,), view_class),)))
        else:
            frames = self._view_cache.since(key, login.view, view_class, state.minor)
            effects.append(Deliver((connection,), (*frames, self._sealed((connection,), view_class))))
        return effects + self._presence(key, online=True)

    def _from_member(
        self,
        connection: int,
        state: Connection,
        key: WireGuardKey,
        message: w.Message,
        now: float,
        unix_s: int,
    ) -> list[Effect]:
        dear = isinstance(message, w.Refresh) or (isinstance(message, w.Interest) and message.all)
        asked = questions(message)
        if state.questions is not None and not state.questions.take(now, refresh=dear, count=asked):
            raise RemoteError("more questions than any agent has", "session.flood")
        match message:
            case w.Ping(id_):
                return [Send(connection, w.Pong(id_))]
            case w.Pong(id_):
                return self._logins.ponged(connection, state, id_, now)
            case w.Refresh():
                state.shown = self._view_cache.of(key)
                return [self._whole(connection, state, state.shown)]
            case w.Interest():
                return self._interest(connection, state, key, message, now)
            case w.Leave():
                return [Left(connection, key)] if key in self._guests else []
            case w.Candidates():
                return self._introduce(state, key, message, now)
            case w.RelayRequest():
                return self._relay(connection, key, message, unix_s)
            case _:
                raise RemoteError(f"unexpected {type(message).__name__} from a member", "protocol.order")

    # -- messages to members -----------------------------------------------------------------------------------

    def _peer(self, key: WireGuardKey, text: str) -> WireGuardKey | None:
        """The peer that a member names, if the member may see it; else None, so that no answer reveals who exists."""
        peer = key_of(text)
        me, other = self._membership.by_key.get(key), self._membership.by_key.get(peer)
        if me is None or other is None or me is other:
            return None
        return peer if other.name in self._membership.visible.get(me.name, frozenset()) else None

    def _introduce(
        self, state: Connection, key: WireGuardKey, message: w.Candidates, now: float
    ) -> list[Effect]:
        peer = self._peer(key, message.peer)
        if peer is None or not state.offers.take(now):
            return []
        if message.relays:
            self._distances[key] = {one.relay: one.rtt_ms for one in message.relays}
        mine, other = self._online[key], self._online.get(peer)
        if other is not None:
            return self._introducer.introduce(key, mine, peer, other, message)
        run = self._peers.here.get(peer)
        if run is None:
            return []
        # The relay without a name is the one beside this mediator: the peer would take it for the one beside its own.
        relays = [one for one in message.relays if one.relay]
        told = w.Introduction(str(key), message.round, message.candidates, message.nat, relays)
        carried = self._peers.carry(run, key, peer, w.encode(told))
        both = bool(carried) and self._introducer.across(key, peer, message.round)
        return [*carried, *(self._punch_across(key, mine, peer, run) if both else [])]

    def _relay(self, connection: int, key: WireGuardKey, asked: w.RelayRequest, unix_s: int) -> list[Effect]:
        peer = self._peer(key, asked.peer)
        own = self._allocations.port(key)
        port = self._port_for(key, peer) if peer is not None else None
        if peer is None or own is None or port is None:
            return []
        assert self._mediator is not None
        until = unix_s + GRANT_TTL_S
        at_pair = is_app(self._membership.by_key[peer])
        beside = self._beside.get(asked.relay)
        if not asked.relay or beside is not None:
            here = beside is None or beside == self._mediator
            if here and not usable(own, port, self.beside.unheld, at_pair=at_pair):
                return []
            if beside is not None and not (_in(beside.relay_ports, own) and _in(beside.relay_ports, port)):
                return []
            granted = grant(self._secret, own, port, until)
        elif at_pair and asked.relay not in self.registered:
            return []  # an app's address is known to a relay that has been told its pairs
        elif not self._apart.carries(
            asked.relay, self._membership.by_key[key].name, self._membership.by_key[peer].name
        ):
            return []
        else:
            first, unheld = self._relay_ports()[0], self.unheld_apart(asked.relay)
            apart = self._apart.grant(asked.relay, first, own, port, until, unheld, at_pair=at_pair)
            if apart is None:
                return []
            granted = apart
        address = f"0.0.0.0:{granted.port}"
        message = w.RelayGrant(
            str(peer), address, granted.allocation, granted.key, granted.expires_s, asked.relay
        )
        return [Send(connection, message)]

    def _port_for(self, key: WireGuardKey, peer: WireGuardKey) -> int | None:
        """The relay port to which a member sends packets for a peer."""
        if is_app(self._membership.by_key[peer]):
            return self._allocations.pairs.port(key, peer)
        return self._allocations.port(peer)

    def _presence(self, key: WireGuardKey, *, online: bool) -> list[Effect]:
        member = self._membership.by_key.get(key)
        effects: list[Effect] = []
        if member is not None:
            connections = tuple(self._audience.of(key))
            if connections:
                effects.append(News(connections, (w.encode(w.Presence(str(key), online)),)))
        if not online:
            self._introducer.forget(key)
        return effects

    def _interest(
        self, connection: int, state: Connection, key: WireGuardKey, message: w.Interest, now: float
    ) -> list[Effect]:
        added = self._audience.declare(connection, message, now)
        effects: list[Effect] = []
        if added:
            effects.append(Send(connection, presences(added, (key in self._anywhere for key in added))))
        if message.all:
            effects += self._show_to({key: connection})  # a seal is for the present view alone
            view_class = self._view_cache.of(key)
            sealed = self._view_cache.sealed(view_class, self._flags(view_class.keys))
            effects.append(Deliver((connection,), (sealed,)))
        return effects

    def view(self, key: WireGuardKey) -> View:
        """The view of the member with this key."""
        return self._view_cache.view(key, self._anywhere)

    def addresses(self, network_name: str, name: str, key: WireGuardKey) -> tuple[Address, ...]:
        """A member's addresses in a network: fixed by the document, leased, or derived from the key."""
        return self._allocations.addresses(self._membership, network_name, name, key)

    def _whole(self, connection: int, state: Connection, view_class: ViewClass) -> Deliver:
        sealed = self._sealed((connection,), view_class)
        return Deliver((connection,), (*self._view_cache.whole(view_class, state.minor), sealed))

    def _sealed(self, connections: Sequence[int], view_class: ViewClass) -> bytes:
        """The seal of a view that these members share, with presence if they are told of everybody."""
        told = self._audience.told_at_login(connections[0])
        for connection in connections if told else ():
            self._audience.shown_all(connection)
        return self._view_cache.sealed(view_class, self._flags(view_class.keys) if told else None)

    def _flags(self, keys: Iterable[WireGuardKey]) -> Iterable[bool]:
        """Whether each of these members is logged in anywhere. Each login asks for all members of its view."""
        here, elsewhere = self._online, self._peers.here
        if not elsewhere:
            return map(here.__contains__, keys)
        return [key in here or key in elsewhere for key in keys]

    def _hang(self) -> None:
        self._revision += 1
        self._view_cache.rebuild(self._membership, self._guests, self.addresses, self._generation)

    def _show(self) -> list[Effect]:
        """After a change of membership or leases: send the difference to each member whose view has changed."""
        return self._show_to(self._online)

    def _show_to(self, members: Mapping[WireGuardKey, int]) -> list[Effect]:
        """The same for these members alone, by key with their connections."""
        changes: dict[tuple[ViewClass | None, ViewClass, int], list[int]] = {}
        for key, connection in members.items():
            state = self._connections[connection]
            old, state.shown = state.shown, self._view_cache.of(key)
            if old is None or old.digest != state.shown.digest:
                changes.setdefault((old, state.shown, state.minor), []).append(connection)
        effects: list[Effect] = []
        for (old, new, minor), connections in changes.items():
            cache = self._view_cache
            frames = cache.change(old, new, minor) if old is not None else cache.whole(new, minor)
            sealed = self._sealed(connections, new)
            effects.append(Deliver(tuple(connections), (*frames, sealed)))
        return effects
