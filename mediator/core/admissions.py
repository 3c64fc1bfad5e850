"""Decides who is admitted with an invite, under which name and at which address. Pure; the shell writes the result.

The states of an invite:

| state   | event                                | next    |
|---------|--------------------------------------|---------|
| open    | redeemed, uses left                  | open    |
| open    | redeemed, the last use               | used up |
| open    | `expires_s` has passed               | expired |
| any     | `netctl invite revoke`               | revoked |

A host that is a member already gets its membership again, with an invite in any state but revoked, without a use.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from mediator.core.leasegrants import (
    Exhausted,
    GrantLease,
    LeaseKey,
    first_free,
    fixed_addresses,
    missing_leases,
    pool_size,
    usable,
)
from netctl.config.resolve.guests import Guest, obstacle, refused_keys, with_guests, without_keys
from netctl.model.document import Document, Network
from netctl.model.errors import RemoteError
from netctl.model.keys import IdentityKey, WireGuardKey

MAX_USES = 10_000
MAX_LIFE_S = 366 * 86400
"""Longest validity, in seconds: an invite older than a year is forgotten by all but a thief."""
MAX_PENDING = 256
"""Most pending members per network: more than an operator reads, too few to fill a disk."""
MAX_SUFFIX = 99
"""Highest number appended to a name that is taken; further machines must give another name."""


@dataclass(frozen=True, slots=True)
class Invite:
    """An invite as stored, without its token."""

    id: str
    network: str
    """The network's id."""
    uses: int
    used: int
    made_s: int
    expires_s: int
    """Unix time."""
    revoked: bool = False
    name: str = ""
    """The member's name, if the operator has set it."""

    def state(self, now_s: float) -> str:
        """The state: open, used up, expired or revoked."""
        if self.revoked:
            return "revoked"
        if now_s >= self.expires_s:
            return "expired"
        return "open" if self.used < self.uses else "used up"


@dataclass(frozen=True, slots=True)
class Admission:
    """One membership by invite: a key in a network."""

    key: WireGuardKey
    identity: IdentityKey
    name: str
    network: str
    """The network's id."""
    invite: str
    pending: bool
    joined_s: int = 0


@dataclass(frozen=True, slots=True)
class Book:
    """The store's records of members that joined by invite, as one transaction reads them.

    A decision about one applicant (`decide`) needs a part of them: see there.
    """

    admissions: tuple[Admission, ...] = ()
    revoked: Mapping[WireGuardKey, str] = field(default_factory=dict)
    """Revoked keys with their former names."""
    leases: Mapping[LeaseKey, IPv4Address] = field(default_factory=dict)
    number: int = field(default=0, compare=False)
    """The number of the store's state if several mediators use the store; else 0."""

    def identity_of(self, key: WireGuardKey) -> IdentityKey | None:
        """The identity of a member that joined by invite."""
        return next((entry.identity for entry in self.admissions if entry.key == key), None)

    def admitted(self, verdict: Verdict, number: int = 0) -> Book:
        """The book with the verdict's admission, as in the store after the same transaction. `number`: its state's."""
        if not verdict.fresh:
            return self
        entries = list(self.admissions)
        at = bisect_left(entries, _order(verdict.admission), key=_order)
        if entries[at : at + 1] == [verdict.admission]:  # read from the store since
            return self
        entries.insert(at, verdict.admission)
        leases, lease = dict(self.leases), verdict.lease
        if lease is not None:
            if lease.taken_from is not None:
                leases.pop((lease.network, lease.taken_from), None)
            leases[lease.network, lease.key] = lease.address
        return Book(tuple(entries), self.revoked, leases, number or self.number)

    def changed(self, records: Records) -> Book:
        """The book with these records, as in the store after the same transaction. The same again changes nothing."""
        entries = [entry for entry in self.admissions if entry.key not in records.keys]
        for entry in records.admissions:
            insort(entries, entry, key=_order)
        revoked = {key: name for key, name in self.revoked.items() if key not in records.keys}
        leases = self.leases
        if records.leases is not None:
            others = {lease: address for lease, address in leases.items() if lease[1] not in records.keys}
            leases = {**others, **records.leases}
        return Book(tuple(entries), {**revoked, **records.revoked}, leases, records.number or self.number)


@dataclass(frozen=True, slots=True)
class Records:
    """All that the store has of these keys after a change of them: a book with it has nothing else of them."""

    keys: frozenset[WireGuardKey]
    admissions: tuple[Admission, ...] = ()
    revoked: Mapping[WireGuardKey, str] = field(default_factory=dict)
    """Those of them that are revoked, with their former names."""
    leases: Mapping[LeaseKey, IPv4Address] | None = None
    """None: the change did not concern leases."""
    number: int = field(default=0, compare=False)
    """The number of the store's state after the change if several mediators use the store; else 0."""

    def of(self, keys: frozenset[WireGuardKey]) -> Records:
        """What of it concerns these of its keys."""
        leases = self.leases
        if leases is not None:
            leases = {lease: address for lease, address in leases.items() if lease[1] in keys}
        return Records(
            keys,
            tuple(entry for entry in self.admissions if entry.key in keys),
            {key: name for key, name in self.revoked.items() if key in keys},
            leases,
            self.number,
        )


def _order(entry: Admission) -> tuple[int, str, str]:
    """The order of a book."""
    return entry.joined_s, entry.name, entry.network


@dataclass(frozen=True, slots=True)
class Applicant:
    """A host that has proven both its keys and presents a token."""

    key: WireGuardKey
    identity: IdentityKey
    name: str
    exact: bool
    token: bytes


@dataclass(frozen=True, slots=True)
class Verdict:
    """The decision: what to write and what to answer."""

    admission: Admission
    network: str
    """The network's name."""
    fresh: bool
    """False: the membership exists already, so nothing is written."""
    lease: GrantLease | None = None


def effective(document: Document, book: Book) -> tuple[Document, dict[str, str]]:
    """The document with joined and without revoked members; and the waiting members with reasons."""
    return with_guests(without_keys(document, frozenset(book.revoked)), guests_of(document, book))


def guests_of(document: Document, book: Book) -> list[Guest]:
    """Admissions by member. A pending member belongs to no network yet."""
    names = {network.id: network.name for network in document.networks.values()}
    found: dict[WireGuardKey, Guest] = {}
    for entry in book.admissions:
        if entry.key in book.revoked:
            continue
        before = found.get(entry.key)
        networks = before.networks if before is not None else ()
        if not entry.pending and entry.network in names:
            networks = (*networks, names[entry.network])
        found[entry.key] = Guest(entry.name, entry.key, networks, entry.identity)
    return list(found.values())


def needs_book(invite: Invite | None, now_s: float, *, known: bool) -> bool:
    """Whether `decide` might not refuse, so that reading the book is worth it: any host can send invalid tokens.

    `known`: whether the applicant's key is a guest's already.
    """
    return invite is not None and not invite.revoked and (known or invite.state(now_s) == "open")


def decide(document: Document, book: Book, invite: Invite | None, who: Applicant, now_s: float) -> Verdict:
    """Decide on an applicant. Raises RemoteError, whose text says what the user can do.

    The decision is the same with the whole book and with these parts of it, which a store can find without reading
    more: whether the applicant's key is revoked; the entries with its key, its identity or one of `names_for`, those of
    other networks without their network; those that wait in the network, at most `MAX_PENDING`; all that are in it if
    it is a `mode: lan`; and of the network's leases that of the key, and those of `leasegrants.places` up to the first
    free one. With as many guests as there may be (`MAX_GUESTS`), or without a free address, it needs the whole book.
    """
    if invite is None or invite.revoked:
        raise RemoteError(
            "the mediator knows no such invite, or it was revoked: ask for another", "invite.unknown"
        )
    network = _network(document, invite)
    if who.key in book.revoked or who.key in refused_keys(document):
        message = "this host's key was taken out of use: make new ones with `netctl leave --forget-keys`"
        raise RemoteError(message, "enrol.revoked")
    mine = [entry for entry in book.admissions if entry.key == who.key and entry.identity == who.identity]
    for entry in mine:
        if entry.network == network.id:
            return Verdict(entry, network.name, fresh=False)
    _check_key(document, book, who)
    state = invite.state(now_s)
    if state != "open":
        raise RemoteError(f"this invite is {state}: ask for another", "invite." + state.replace(" ", "-"))
    pending = network.join.approve == "manual"
    if (
        pending
        and sum(entry.pending and entry.network == network.id for entry in book.admissions) >= MAX_PENDING
    ):
        raise RemoteError("too many hosts wait for approval already: try again later", "invite.full")
    name = (
        mine[0].name
        if mine
        else _name(document, book, invite.name or who.name, bool(invite.name) or who.exact)
    )
    admission = Admission(who.key, who.identity, name, network.id, invite.id, pending, int(now_s))
    lease = None if pending else _lease(document, book, network, admission)
    return Verdict(admission, network.name, True, lease)


def _network(document: Document, invite: Invite) -> Network:
    network = next((n for n in document.networks.values() if n.id == invite.network), None)
    if network is None:
        raise RemoteError("the network of this invite is gone: ask for another", "invite.network")
    if not network.join.invites:
        raise RemoteError(f"'{network.name}' lets nobody in by invite any more", "invite.closed")
    return network


def _check_key(document: Document, book: Book, who: Applicant) -> None:
    for member in document.members.values():
        if who.key == member.wireguard or who.identity == member.identity:
            message = f"the document has this host's keys already, as '{member.name}': give it the document"
            raise RemoteError(message, "enrol.known")
    for entry in book.admissions:
        if (entry.key == who.key) != (entry.identity == who.identity):
            raise RemoteError("one of this host's two keys belongs to another member", "enrol.mixed")


def names_for(wanted: str, *, exact: bool) -> Iterator[str]:
    """The names that a host may get, best first."""
    yield wanted
    for number in range(2, MAX_SUFFIX + 1) if not exact else ():
        end = f"-{number}"
        yield wanted[: 63 - len(end)].rstrip("-") + end


def _name(document: Document, book: Book, wanted: str, exact: bool) -> str:
    taken = {entry.name for entry in book.admissions}
    for name in names_for(wanted, exact=exact):
        if name not in taken and name not in document.members:
            return name
    raise RemoteError(f"the name '{wanted}' is taken: say another with `--name`", "enrol.name")


def _lease(document: Document, book: Book, network: Network, admission: Admission) -> GrantLease | None:
    """The address of the new member, granted in the same transaction. Raises RemoteError if none is left."""
    guest = Guest(admission.name, admission.key, (network.name,), admission.identity)
    others = [other for other in guests_of(document, book) if other.key != guest.key]
    if (reason := obstacle(document, guest, network, others)) is not None:
        raise RemoteError(reason, "invite.full")
    if network.ipv4 is None:
        return None
    held = {
        key: address
        for (where, key), address in book.leases.items()
        if where == network.id and usable(network.ipv4, address)
    }
    fixed = fixed_addresses(network)
    if guest.key in held and held[guest.key] not in fixed:
        return None
    taken = fixed.union(held.values())
    free = first_free(network, guest.key, taken, pool_size(network.ipv4))
    if free is not None:
        return GrantLease(network.id, guest.key, free)
    trial, _ = effective(document, Book((*book.admissions, admission), book.revoked, book.leases))
    for item in missing_leases(trial, book.leases):
        if isinstance(item, Exhausted):
            if (item.network, item.member) == (admission.network, admission.name):
                raise RemoteError(f"{item.message}: no address is left for this host", "invite.full")
        elif (item.network, item.key) == (admission.network, admission.key):
            return item
    return None


def rekeyed(book: Book, old: WireGuardKey, key: WireGuardKey, identity: IdentityKey) -> None:
    """Raise RemoteError unless a member that joined by invite may take these keys.

    Of the book it needs the entries with the old key, the new one or the identity, and whether the new one is revoked.
    """
    if not any(entry.key == old for entry in book.admissions):
        message = (
            "this member is in the document: write its new key there, with the old one in `previousKeys`"
        )
        raise RemoteError(message, "rotate.document")
    if key in book.revoked or any(
        key == entry.key or identity == entry.identity for entry in book.admissions
    ):
        raise RemoteError("the new key or identity is in use already, or was shut out", "rotate.taken")


def names_of(entries: Iterable[Admission]) -> dict[str, WireGuardKey]:
    """Keys of members that joined, by name."""
    return {entry.name: entry.key for entry in entries}
