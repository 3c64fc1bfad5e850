"""Every transaction of the store, for both databases: reads, decides (`mediator.core.admissions`) and writes.

`SqlStore` runs them on a database. A transaction that changes members returns what the store has of them after it, so
that no second request to a store is needed, which may be locked or away by then.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Coroutine, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Any, TypeVar

from mediator.core import admissions as a
from mediator.core import audit as log
from mediator.core.kept import Kept, StoredDocument
from mediator.core.leasegrants import (
    GrantLease,
    LeaseKey,
    first_free,
    fixed_addresses,
    places,
    pool_size,
)
from mediator.core.pairs import PairGrant
from mediator.core.relay_grants import GRANT_TTL_S
from mediator.core.transactions import Basis, Outdated
from mediator.shell.sqlsession import Row, Session
from mediator.shell.storeschema import TABLES
from netctl.config.resolve.guests import MAX_GUESTS
from netctl.model.document import Document, Mode, Network
from netctl.model.errors import LocalError, RemoteError
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.wire.invite import TOKEN_LEN, token_hash

T = TypeVar("T")
Body = Callable[[Session], Coroutine[Any, Any, T]]
"""The body of a transaction. It may run again if the connection is lost before its commit."""

ID_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
ID_LEN = 6
"""Characters of an invite's id for the operator: no secret, and easy to read aloud."""
MAX_INVITES = 10_000
FEW = 100
"""Most keys that a query names; for more, it reads the whole table."""
NEAR = 64
WIDER = 8
"""Addresses of a pool in which a free one is searched first, and by how much the search is widened each time."""
MAX_DOCUMENTS = 20
"""Documents kept in a store that several mediators use. Only the newest is in force; the others are for people."""
_INVITE = "id, network, uses, used, made_s, expires_s, revoked, name"
_ENTRY = "number, at_s, who, what, subject, detail"
_REST = (
    "INSERT INTO resting_port (port, until_s) VALUES (?,?) "
    "ON CONFLICT (port) DO UPDATE SET until_s = excluded.until_s"
)
_REVOKE = (
    "INSERT INTO revoked (member, name, at_s) VALUES (?,?,?) "
    "ON CONFLICT (member) DO UPDATE SET name = excluded.name, at_s = excluded.at_s"
)


# -- reading ------------------------------------------------------------------------------------------------


async def _of(db: Session, sql: str, column: str, keys: Iterable[WireGuardKey] | None) -> list[Row]:
    """The rows of a query; with `keys`, at least those of these members."""
    raw = sorted({key.raw for key in keys}) if keys is not None else []
    if keys is None or len(raw) > FEW:
        return await db.rows(sql)
    return await db.rows(f"{sql} WHERE {column} IN ({','.join('?' * len(raw))})", *raw) if raw else []


async def leases(db: Session, of: Iterable[WireGuardKey] | None = None) -> dict[LeaseKey, IPv4Address]:
    """Every lease ever granted and not moved since, by network id and key; with `of`, at least those of these keys."""
    rows = await _of(db, "SELECT network, member, address FROM lease", "member", of)
    return {(network, WireGuardKey(member)): IPv4Address(address) for network, member, address in rows}


async def relay_ports(db: Session, of: Iterable[WireGuardKey] | None = None) -> dict[WireGuardKey, int]:
    """Relay ports by key; with `of`, at least those of these keys."""
    rows = await _of(db, "SELECT member, port FROM relay_port", "member", of)
    return {WireGuardKey(key): port for key, port in rows}


async def resting_ports(db: Session) -> dict[int, int]:
    """Given-up relay ports, with the Unix time until which nobody else may have them."""
    return dict(await db.rows("SELECT port, until_s FROM resting_port"))


async def pairs(db: Session, of: Iterable[WireGuardKey] | None = None) -> list[PairGrant]:
    """Every pair with a stock app that has a relay port, wanted now or not, by port.

    `of`: at least those whose lower key is one of these.
    """
    rows = await _of(db, "SELECT low, high, port, apps FROM relay_pair", "low", of)
    rows.sort(key=lambda row: row[2])
    return [PairGrant((WireGuardKey(low), WireGuardKey(high)), port, apps) for low, high, port, apps in rows]


async def generation(db: Session) -> int:
    """The lowest generation of the next run; with several mediators, the number of the state."""
    rows = await db.rows("SELECT reserved FROM generation")
    return int(rows[0][0]) if rows else 0


async def name(db: Session) -> str:
    """The store's name, by which members distinguish it from other stores."""
    return str((await db.rows("SELECT name FROM place"))[0][0])


async def rename(db: Session, to: str) -> None:
    """Give the store the name of its source, after a move."""
    await db.change("UPDATE place SET name=?", to)


async def book(db: Session) -> a.Book:
    """Joined members, revocations and leases."""
    number = await generation(db) if db.shared else 0
    return a.Book(await _admissions(db, _ENTRIES), await _revoked(db), await leases(db), number)


def _networks(table: str) -> str:
    """The networks of a table, one look into an index for each: in it a member is found by network and key alone."""
    return (
        f"WITH RECURSIVE found (network) AS (SELECT min(network) FROM {table} UNION ALL SELECT (SELECT min(network) "
        f"FROM {table} WHERE network > found.network) FROM found WHERE found.network IS NOT NULL) "
    )


_ENTRY_OF = "g.member, g.identity, g.name, a.network, a.invite, a.pending, a.joined_s"
_ENTRIES = f"SELECT {_ENTRY_OF} FROM admission a JOIN guest g ON g.member = a.member"
_ENTRIES_OF = (
    f"{_networks('admission')} SELECT {_ENTRY_OF} FROM guest g CROSS JOIN found CROSS JOIN admission a "
    "WHERE a.network = found.network AND a.member = g.member AND "
)
"""`CROSS JOIN`: SQLite looks into the tables in this order."""
_LEASES_OF = (
    f"{_networks('lease')} SELECT lease.network, lease.address FROM found CROSS JOIN lease "
    "WHERE lease.network = found.network AND lease.member = ?"
)


async def _admissions(db: Session, query: str, *values: Any) -> tuple[a.Admission, ...]:
    """The entries that a query finds, in the order of the book."""
    rows = await db.rows(f"{query} ORDER BY a.joined_s, g.name, a.network", *values)
    return tuple(
        a.Admission(WireGuardKey(key), IdentityKey(identity), name, network, invite, bool(pending), joined_s)
        for key, identity, name, network, invite, pending, joined_s in rows
    )


async def _revoked(db: Session, which: str = "", *values: Any) -> dict[WireGuardKey, str]:
    """Revoked keys with their former names; `which`: condition, with its values."""
    rows = await db.rows(f"SELECT member, name FROM revoked{which}", *values)
    return {WireGuardKey(key): name for key, name in rows}


async def _entries_of(db: Session, key: WireGuardKey) -> tuple[a.Admission, ...]:
    return await _admissions(db, f"{_ENTRIES_OF}g.member = ?", key.raw)


async def _leases_of(db: Session, key: WireGuardKey) -> dict[str, IPv4Address]:
    """A key's leases by network id."""
    return {network: IPv4Address(address) for network, address in await db.rows(_LEASES_OF, key.raw)}


_GUESTS = (
    f"SELECT {_ENTRY_OF} FROM guest g LEFT JOIN admission a ON a.member = g.member AND a.network = ? WHERE "
)


async def book_for(db: Session, document: Document, invite: a.Invite, who: a.Applicant) -> a.Book:
    """The parts of the book that `mediator.core.admissions.decide` needs for an applicant.

    What is read does not grow with the members, except those that wait for approval and those of a `mode: lan`.
    """
    network = next((one for one in document.networks.values() if one.id == invite.network), None)
    if network is None:
        return a.Book()
    asked = "SELECT (SELECT count(*) FROM guest), (SELECT name FROM revoked WHERE member = ?)"
    guests, revoked = (await db.rows(asked, who.key.raw))[0]
    if guests >= MAX_GUESTS:
        return await book(db)
    names = tuple(a.names_for(invite.name or who.name, exact=bool(invite.name) or who.exact))
    found: dict[WireGuardKey, a.Admission] = {}
    theirs = f"g.member = ? OR g.identity = ? OR g.name IN ({','.join('?' * len(names))})"
    wanted: list[tuple[str, tuple[Any, ...]]] = [(theirs, (who.key.raw, who.identity.raw, *names))]
    if network.join.approve == "manual":
        wanted.append((f"a.pending <> 0 LIMIT {a.MAX_PENDING}", ()))
    if network.mode is Mode.LAN:
        wanted.append(("a.pending = 0", ()))
    for which, values in wanted:
        for key, identity, name, where, by, pending, joined_s in await db.rows(
            _GUESTS + which, network.id, *values
        ):
            found[WireGuardKey(key)] = a.Admission(
                WireGuardKey(key),
                IdentityKey(identity),
                name,
                where or "",
                by or "",
                bool(pending),
                joined_s or 0,
            )
    held = await _leases_near(db, network, who.key)
    if held is None:
        return await book(db)
    return a.Book(tuple(found.values()), {who.key: revoked} if revoked is not None else {}, held)


async def _leases_near(
    db: Session, network: Network, key: WireGuardKey
) -> dict[LeaseKey, IPv4Address] | None:
    """The key's lease in the network, and those of its places up to the first free one; None: none is free."""
    held: dict[LeaseKey, IPv4Address] = {}
    if network.ipv4 is None:
        return held
    fixed, most, size = fixed_addresses(network), NEAR, pool_size(network.ipv4)
    while size:
        most = min(most, size)
        ranges = [int(address) for part in places(network, key, most) for address in part]
        near = " OR ".join(["member = ?", *["address BETWEEN ? AND ?"] * (len(ranges) // 2)])
        rows = await db.rows(
            f"SELECT member, address FROM lease WHERE network = ? AND ({near})", network.id, key.raw, *ranges
        )
        held |= {(network.id, WireGuardKey(member)): IPv4Address(address) for member, address in rows}
        if first_free(network, key, fixed.union(held.values()), most) is not None:
            return held
        if most == size:
            return None
        most *= WIDER
    return None


async def in_force(db: Session, known: str) -> StoredDocument | None:
    """The document in force, without its text if its digest is `known`."""
    rows = await db.rows("SELECT number, digest FROM document ORDER BY number DESC LIMIT 1")
    if not rows:
        return None
    number, digest = rows[0]
    if digest == known:
        return StoredDocument(number, digest)
    (content,) = (await db.rows("SELECT content FROM document WHERE number=?", number))[0]
    return StoredDocument(number, digest, content)


async def kept(db: Session, known: str = "") -> Kept:
    """The whole content of the store."""
    return Kept(
        await book(db),
        await relay_ports(db),
        tuple(await pairs(db)),
        await resting_ports(db),
        await generation(db),
        await name(db),
        await in_force(db, known) if db.shared else None,
    )


def _invite(row: Row) -> a.Invite:
    identifier, network, uses, used, made_s, expires_s, revoked, name = row
    return a.Invite(identifier, network, uses, used, made_s, expires_s, bool(revoked), name)


async def invites(db: Session) -> list[a.Invite]:
    """All invites, newest last."""
    return [_invite(row) for row in await db.rows(f"SELECT {_INVITE} FROM invite ORDER BY made_s, id")]


async def audit(db: Session, since_s: int, after: int) -> list[log.Entry]:
    """A page of the audit log."""
    rows = await db.rows(
        f"SELECT {_ENTRY} FROM audit WHERE number > ? AND at_s >= ? ORDER BY number LIMIT {log.PAGE}",
        after,
        since_s,
    )
    return [log.Entry(*row) for row in rows]


# -- writing ------------------------------------------------------------------------------------------------


async def _advance(db: Session, by: int = 1) -> int:
    """The number of the state after this transaction; 0 if one mediator counts itself. `by`: count of its changes.

    A reader of this state sees all transactions with lower numbers, as each holds `place` until its end.
    """
    if not db.shared:
        return 0
    rows = await db.rows(
        "INSERT INTO generation (one, reserved) VALUES (1, ?) "
        "ON CONFLICT (one) DO UPDATE SET reserved = generation.reserved + excluded.reserved RETURNING reserved",
        by,
    )
    return int(rows[0][0])


async def _check_document(db: Session, digest: str) -> None:
    """Raise Outdated unless this is the document in force, if several mediators use the store."""
    if not db.shared:
        return
    found = await in_force(db, digest)
    if found is not None and found.digest != digest:
        raise Outdated("the document in force is another one")


async def _note(db: Session, now_s: int, who: str, what: str, subject: str, detail: str = "") -> None:
    """Write a line of the audit log, in the transaction that it describes."""
    await db.change(
        f"INSERT INTO audit ({_ENTRY}) SELECT coalesce(max(number), 0) + 1, ?, ?, ?, ?, ? FROM audit",
        now_s,
        who,
        what,
        subject,
        detail,
    )
    await db.change("DELETE FROM audit WHERE number <= (SELECT max(number) FROM audit) - ?", log.MAX_ENTRIES)


async def _guest_name(db: Session, key: WireGuardKey) -> str | None:
    rows = await db.rows("SELECT name FROM guest WHERE member=?", key.raw)
    return rows[0][0] if rows else None


async def _grant(db: Session, granted: Iterable[GrantLease]) -> None:
    """Grant leases; a member's older lease in the network is removed."""
    granted = list(granted)
    gone = [(lease.network, key.raw) for lease in granted for key in (lease.key, lease.taken_from) if key]
    await db.delete_many("lease", ("network", "member"), gone)
    rows = [(lease.network, int(lease.address), lease.key.raw) for lease in granted]
    await db.insert_many("lease", TABLES["lease"], rows)


async def _grant_pairs(db: Session, granted: Iterable[PairGrant]) -> None:
    """Grant ports of pairs; a pair's older port is removed."""
    gone = [
        (pair[0].raw, pair[1].raw) for grant in granted for pair in (grant.pair, grant.taken_from) if pair
    ]
    await db.delete_many("relay_pair", ("low", "high"), gone)
    rows = [(grant.pair[0].raw, grant.pair[1].raw, grant.port, grant.apps) for grant in granted]
    await db.insert_many("relay_pair", TABLES["relay_pair"], rows)


async def _rest_port(db: Session, key: WireGuardKey, unix_s: int) -> None:
    """Let a member's given-up relay port rest while a grant for it may be valid."""
    await db.change("DELETE FROM resting_port WHERE until_s <= ?", unix_s)
    rows = await db.rows("SELECT port FROM relay_port WHERE member=?", key.raw)
    await db.change_many(_REST, [(port, unix_s + GRANT_TTL_S) for (port,) in rows])
    await db.change("DELETE FROM relay_port WHERE member=?", key.raw)


async def _moved_on(db: Session, basis: Basis, several: Sequence[Adding]) -> bool:
    """Whether another mediator has granted or taken something of these since the choice."""
    if await generation(db) == basis.number:
        return False
    if any(one.takes for one in several):
        return True
    granted = [lease for one in several for lease in one.leases]
    held = await leases(db, [one.key for one in granted])
    if any(held.get((one.network, one.key), one.address) != one.address for one in granted):
        return True
    ports = [port for one in several for port in one.ports]
    there = await relay_ports(db, [key for key, _ in ports])
    if any(there.get(key, port) != port for key, port in ports):
        return True
    of_pairs = [grant for one in several for grant in one.of_pairs]
    known = {grant.pair: grant.port for grant in await pairs(db, [grant.pair[0] for grant in of_pairs])}
    return any(known.get(grant.pair, grant.port) != grant.port for grant in of_pairs)


@dataclass(frozen=True, slots=True)
class Adding:
    """The body of a transaction that grants leases and ports of members and pairs, all or none. `MemberStore.add`."""

    leases: tuple[GrantLease, ...]
    ports: tuple[tuple[WireGuardKey, int], ...] = ()
    of_pairs: tuple[PairGrant, ...] = ()
    resting: tuple[tuple[int, int], ...] = ()
    basis: Basis | None = None

    @property
    def takes(self) -> bool:
        """Whether a former holder loses something."""
        return any(one.taken_from for one in self.leases) or any(one.taken_from for one in self.of_pairs)

    def concerns(self) -> Iterator[Hashable]:
        """The leases, ports and pairs that change, by their holders."""
        yield from ((lease.network, lease.key) for lease in self.leases)
        yield from (key for key, _ in self.ports)
        yield from (grant.pair for grant in self.of_pairs)

    async def __call__(self, db: Session) -> int:
        """Returns the state's number."""
        return (await add_all(db, [self]))[0]


async def add_all(db: Session, several: Sequence[Adding]) -> list[int]:
    """Carry out requests together, with the same result as one after the other. Returns each one's state's number.

    Raises Outdated or the database's error if any of them cannot be carried out, or if two concern the same holder:
    then undo all, and carry out each by itself.
    """
    if len(several) > 1:
        concerned = [what for one in several for what in one.concerns()]
        if len(set(concerned)) < len(concerned):
            raise Outdated("two requests concern the same member")
    granted = [lease for one in several for lease in one.leases]
    ports = [port for one in several for port in one.ports]
    of_pairs = [grant for one in several for grant in one.of_pairs]
    if db.shared:
        for basis in {one.basis: None for one in several if one.basis is not None}:
            await _check_document(db, basis.document)
            if await _moved_on(db, basis, [one for one in several if one.basis == basis]):
                raise Outdated("another mediator has granted leases or ports to the same members")
    await _grant(db, granted)
    if ports:
        await db.delete_many("relay_port", ("member",), [(key.raw,) for key, _ in ports])
        await db.insert_many("relay_port", TABLES["relay_port"], [(key.raw, port) for key, port in ports])
    if of_pairs:
        await _grant_pairs(db, of_pairs)
    await db.change_many(_REST, [rest for one in several for rest in one.resting])
    last = await _advance(db, len(several))
    return [max(0, last - later) for later in reversed(range(len(several)))]


async def add(
    db: Session,
    granted: Iterable[GrantLease],
    ports: Iterable[tuple[WireGuardKey, int]],
    of_pairs: Iterable[PairGrant] = (),
    resting: Iterable[tuple[int, int]] = (),
    basis: Basis | None = None,
) -> int:
    """Grant leases and ports of members and pairs, all or none. Returns the state's number."""
    return await Adding(tuple(granted), tuple(ports), tuple(of_pairs), tuple(resting), basis)(db)


async def reserve_generation(db: Session, reserved: int) -> None:
    """Record that generations up to this one may be in use; several mediators count on from it. It never decreases."""
    await db.change(
        "INSERT INTO generation (one, reserved) VALUES (1,?) ON CONFLICT (one) DO UPDATE SET reserved = "
        "CASE WHEN excluded.reserved > generation.reserved THEN excluded.reserved ELSE generation.reserved END",
        reserved,
    )


async def offer(
    db: Session, content: str, digest: str, based_on: int, now_s: int, by: str, detail: str
) -> int:
    """Put a document in force for all mediators. Returns the state's number."""
    before = await in_force(db, digest)
    if (before.number if before is not None else 0) != based_on:
        raise Outdated("another document has come into force")
    number = await _advance(db)
    await db.change("INSERT INTO document (number, digest, content) VALUES (?,?,?)", number, digest, content)
    await db.change(
        "DELETE FROM document WHERE number NOT IN (SELECT number FROM document ORDER BY number DESC LIMIT ?)",
        MAX_DOCUMENTS,
    )
    await _note_document(db, digest, detail, now_s, by)
    return number


async def _new_invite(db: Session, made: a.Invite, token: bytes, called: str, by: str) -> None:
    await db.change("DELETE FROM invite WHERE expires_s < ?", made.made_s - a.MAX_LIFE_S)
    if (await db.rows("SELECT count(*) FROM invite"))[0][0] >= MAX_INVITES:
        raise LocalError(f"there are {MAX_INVITES} invites already: revoke some")
    await db.change(
        "INSERT INTO invite (id, hash, network, uses, made_s, expires_s, name) VALUES (?,?,?,?,?,?,?)",
        made.id,
        token_hash(token),
        made.network,
        made.uses,
        made.made_s,
        made.expires_s,
        made.name,
    )
    until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(made.expires_s))
    await _note(db, made.made_s, by, "invited", made.id, log.of_invite(called, made.uses, until, made.name))


async def _revoke_invite(db: Session, identifier: str, now_s: int, by: str) -> None:
    if not await db.change("UPDATE invite SET revoked=1 WHERE id=?", identifier):
        raise LocalError(f"there is no invite '{identifier}'; `netctl invite list` shows all")
    await _note(db, now_s, by, "invite-revoked", identifier)


async def redeem(db: Session, document: Document, who: a.Applicant, now_s: int) -> tuple[a.Verdict, int]:
    """Admit a host. Of `MemberStore`."""
    await _check_document(db, document.digest)
    rows = await db.rows(f"SELECT {_INVITE} FROM invite WHERE hash=?", token_hash(who.token))
    invite = _invite(rows[0]) if rows else None
    before = a.Book()
    if invite is not None and (
        a.needs_book(invite, now_s, known=False)
        or a.needs_book(invite, now_s, known=await _guest_name(db, who.key) is not None)
    ):
        before = await book_for(db, document, invite, who)
    verdict = a.decide(document, before, invite, who, now_s)
    if not verdict.fresh:
        return verdict, await generation(db) if db.shared else 0
    entry = verdict.admission
    used = "UPDATE invite SET used=used+1 WHERE id=? AND used<uses AND revoked=0"
    if not await db.change(used, entry.invite):
        raise RemoteError("this invite is used up: ask for another", "invite.used-up")
    await db.change(
        "INSERT INTO guest (member, identity, name) VALUES (?,?,?) ON CONFLICT DO NOTHING",
        entry.key.raw,
        entry.identity.raw,
        entry.name,
    )
    await db.change(
        "INSERT INTO admission (network, member, invite, pending, joined_s) VALUES (?,?,?,?,?)",
        entry.network,
        entry.key.raw,
        entry.invite,
        int(entry.pending),
        entry.joined_s,
    )
    await _grant(db, [verdict.lease] if verdict.lease is not None else [])
    await _note(db, now_s, entry.name, "joined", entry.name, log.of_joined(verdict))
    return verdict, await _advance(db)


async def _records(
    db: Session, key: WireGuardKey, entries: tuple[a.Admission, ...], revoked: dict[WireGuardKey, str]
) -> a.Records:
    """What the store has of the key now: its number is the next one."""
    return a.Records(frozenset({key}), entries, revoked, number=await _advance(db))


async def _approve(db: Session, key: WireGuardKey, now_s: int, by: str) -> a.Records:
    entries = await _entries_of(db, key)
    pending = [(entry.network, key.raw) for entry in entries if entry.pending]
    if not pending:
        raise LocalError("this member does not wait for approval; `netctl members pending` shows who does")
    await db.change_many("UPDATE admission SET pending=0 WHERE network=? AND member=?", pending)
    await _note(db, now_s, by, "approved", entries[0].name, log.of_key(key))
    revoked = await _revoked(db, " WHERE member=?", key.raw)
    return await _records(db, key, tuple(replace(entry, pending=False) for entry in entries), revoked)


async def _forget(db: Session, key: WireGuardKey, unix_s: int) -> a.Records:
    await db.change("DELETE FROM guest WHERE member=?", key.raw)
    await _rest_port(db, key, unix_s)
    return await _records(db, key, (), await _revoked(db, " WHERE member=?", key.raw))


async def _leave(db: Session, key: WireGuardKey, now_s: int, unix_s: int) -> a.Records:
    name = await _guest_name(db, key)
    if name is not None:
        await _note(db, now_s, name, "left", name, log.of_key(key))
    return await _forget(db, key, unix_s)


async def _revoke(db: Session, key: WireGuardKey, name: str, now_s: int, unix_s: int, by: str) -> a.Records:
    entries = await _entries_of(db, key)
    waits = bool(entries) and all(entry.pending for entry in entries)
    await _note(db, now_s, by, "rejected" if waits else "revoked", name, log.of_key(key))
    await db.change(_REVOKE, key.raw, name, now_s)
    return await _forget(db, key, unix_s)


async def _restore(db: Session, key: WireGuardKey, now_s: int, by: str) -> a.Records:
    names = await _revoked(db, " WHERE member=?", key.raw)
    if not names:
        raise LocalError("this key was not revoked here; `netctl members` shows which are")
    await db.change("DELETE FROM revoked WHERE member=?", key.raw)
    await _note(db, now_s, by, "restored", names[key], log.of_key(key))
    return await _records(db, key, await _entries_of(db, key), {})


async def _note_document(db: Session, digest: str, detail: str, now_s: int, by: str) -> None:
    last = "SELECT subject, detail FROM audit WHERE what='document' ORDER BY number DESC LIMIT 1"
    if await db.rows(last) != [(digest, detail)]:
        await _note(db, now_s, by, "document", digest, detail)


async def _rekey(
    db: Session,
    old: WireGuardKey,
    key: WireGuardKey,
    identity: IdentityKey,
    now_s: int,
    unix_s: int,
    by: str | None,
) -> a.Records:
    """Replace a member's key. Its relay port is not moved, as the holder of the old key may have a grant for it."""
    theirs = f"{_ENTRIES_OF}(g.member IN (?,?) OR g.identity = ?)"
    concerned = await _admissions(db, theirs, old.raw, key.raw, identity.raw)
    a.rekeyed(a.Book(concerned, await _revoked(db, " WHERE member=?", key.raw)), old, key, identity)
    entries = tuple(replace(entry, key=key, identity=identity) for entry in concerned)
    name = entries[0].name
    held, former = await _leases_of(db, old), await _leases_of(db, key)
    await db.delete_many("lease", ("network", "member"), [(network, key.raw) for network in former])
    moved = [(key.raw, network, old.raw) for network in held]
    await db.change_many("UPDATE lease SET member=? WHERE network=? AND member=?", moved)
    for one in (old, key):
        await _rest_port(db, one, unix_s)
    await db.change("UPDATE guest SET member=?, identity=? WHERE member=?", key.raw, identity.raw, old.raw)
    await db.change(_REVOKE, old.raw, name, now_s)
    await _note(db, now_s, by or name, "rekeyed", name, log.of_rekeyed(old, key))
    leases = {(network, key): address for network, address in held.items()}
    return a.Records(frozenset({old, key}), entries, {old: name}, leases, await _advance(db))


class SqlStore:
    """A `MemberStore` without the way to run a transaction, which a subclass adds."""

    async def within(self, what: str, body: Body[T], *, writes: bool = True) -> T:
        """Run a body as one transaction; `what` names it in errors. Raises LocalError, or the body's exceptions."""
        raise NotImplementedError

    took: Callable[[float, bool], None] | None = None
    """Called after each transaction with its seconds since the request, and whether it was carried out."""

    async def _ask(self, what: str, body: Body[T], *, writes: bool = True) -> T:
        began, done = time.monotonic(), False
        try:
            result = await self.within(what, body, writes=writes)
            done = True
            return result
        except (RemoteError, Outdated):
            done = True  # the request's fault: the store itself has answered
            raise
        finally:
            if self.took is not None:
                self.took(time.monotonic() - began, done)

    async def kept(self, known: str = "") -> Kept:
        """Of `MemberStore`."""
        return await self._ask("a look at all that it holds", lambda db: kept(db, known), writes=False)

    async def state(self) -> int:
        """Of `MemberStore`."""
        return await self._ask("a look at its state", generation, writes=False)

    async def add(
        self,
        leases: Iterable[GrantLease],
        ports: Iterable[tuple[WireGuardKey, int]],
        pairs: Iterable[PairGrant] = (),
        resting: Iterable[tuple[int, int]] = (),
        basis: Basis | None = None,
    ) -> int:
        """Of `MemberStore`."""
        asked = Adding(tuple(leases), tuple(ports), tuple(pairs), tuple(resting), basis)
        return await self._ask("new leases", asked)

    async def offer(
        self, content: str, digest: str, based_on: int, now_s: int, *, by: str, detail: str
    ) -> int:
        """Of `MemberStore`."""
        return await self._ask(
            "a document", lambda db: offer(db, content, digest, based_on, now_s, by, detail)
        )

    async def reserve_generation(self, reserved: int) -> None:
        """Of `MemberStore`."""
        await self._ask("the next generations", lambda db: reserve_generation(db, reserved))

    async def invite(
        self, network: str, *, called: str, uses: int, made_s: int, expires_s: int, name: str, by: str
    ) -> tuple[a.Invite, bytes]:
        """Of `MemberStore`."""
        token = secrets.token_bytes(TOKEN_LEN)
        identifier = "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_LEN))
        made = a.Invite(identifier, network, uses, 0, made_s, expires_s, name=name)
        await self._ask("a new invite", lambda db: _new_invite(db, made, token, called, by))
        return made, token

    async def invites(self) -> list[a.Invite]:
        """Of `MemberStore`."""
        return await self._ask("a look at its invites", invites, writes=False)

    async def revoke_invite(self, identifier: str, now_s: int, *, by: str) -> None:
        """Of `MemberStore`."""
        await self._ask("to revoke an invite", lambda db: _revoke_invite(db, identifier, now_s, by))

    async def redeem(self, document: Document, who: a.Applicant, now_s: int) -> tuple[a.Verdict, int]:
        """Of `MemberStore`."""
        return await self._ask("a new member", lambda db: redeem(db, document, who, now_s))

    async def approve(self, key: WireGuardKey, now_s: int, *, by: str) -> a.Records:
        """Of `MemberStore`."""
        return await self._ask("an approval", lambda db: _approve(db, key, now_s, by))

    async def revoke(self, key: WireGuardKey, name: str, now_s: int, *, unix_s: int, by: str) -> a.Records:
        """Of `MemberStore`."""
        return await self._ask("to revoke a member", lambda db: _revoke(db, key, name, now_s, unix_s, by))

    async def leave(self, key: WireGuardKey, now_s: int, *, unix_s: int) -> a.Records:
        """Of `MemberStore`."""
        return await self._ask("to let a member go", lambda db: _leave(db, key, now_s, unix_s))

    async def restore(self, key: WireGuardKey, now_s: int, *, by: str) -> a.Records:
        """Of `MemberStore`."""
        return await self._ask("to restore a member", lambda db: _restore(db, key, now_s, by))

    async def rekey(
        self,
        old: WireGuardKey,
        key: WireGuardKey,
        identity: IdentityKey,
        now_s: int,
        *,
        unix_s: int,
        by: str | None,
    ) -> a.Records:
        """Of `MemberStore`."""
        return await self._ask("a new key", lambda db: _rekey(db, old, key, identity, now_s, unix_s, by))

    async def note_document(self, digest: str, detail: str, now_s: int, *, by: str) -> None:
        """Of `MemberStore`."""
        await self._ask("a line of its audit log", lambda db: _note_document(db, digest, detail, now_s, by))

    async def audit(self, since_s: int = 0, after: int = 0) -> list[log.Entry]:
        """Of `MemberStore`."""
        return await self._ask("a look at its audit log", lambda db: audit(db, since_s, after), writes=False)
