"""Who joined by invite, on disk: invites without their tokens, admissions, and keys that were shut out.

Every method is one transaction. What is decided (`mediator.core.admissions`) is decided inside of it, on what the
same transaction has read. One that changes something answers with what the book says after it, so that nobody has to
ask a store that may be locked by then.
"""

from __future__ import annotations

import secrets
import sqlite3

from mediator.core import admissions as a
from mediator.shell.memberstore import Kept
from mediator.shell.store import Store, read_leases, rest_port, write_leases
from netctl.model.document import Document
from netctl.model.errors import LocalError, RemoteError
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.wire.invite import TOKEN_LEN, token_hash

ID_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"
ID_LEN = 6
"""Names an invite for its operator: no secret, and read aloud without a mistake."""
MAX_INVITES = 10_000
_INVITE = "id, network, uses, used, made_s, expires_s, revoked, name"


def _invite(row: tuple[str, str, int, int, int, int, int, str]) -> a.Invite:
    identifier, network, uses, used, made_s, expires_s, revoked, name = row
    return a.Invite(identifier, network, uses, used, made_s, expires_s, bool(revoked), name)


def _book(db: sqlite3.Connection) -> a.Book:
    rows = db.execute(
        "SELECT member, identity, name, network, invite, pending, joined_s FROM admission JOIN guest USING (member)"
        " ORDER BY joined_s, name, network"
    )
    admissions = tuple(
        a.Admission(WireGuardKey(key), IdentityKey(identity), name, network, invite, bool(pending), joined_s)
        for key, identity, name, network, invite, pending, joined_s in rows
    )
    revoked = {WireGuardKey(key): name for key, name in db.execute("SELECT member, name FROM revoked")}
    return a.Book(admissions, revoked, read_leases(db))


class AdmissionStore:
    """The store's tables about invites and those who came with them."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def book(self) -> a.Book:
        """All of it as it is now. It waits for no writer."""
        with self._store.reading("a look at its members") as db:
            return _book(db)

    def kept(self) -> Kept:
        """All that the store holds, as one moment has it. It waits for no writer. Raises LocalError."""
        store = self._store
        with store.reading("a look at all that it holds") as db:
            return Kept(
                _book(db),
                store.relay_ports(),
                tuple(store.pairs()),
                store.resting_ports(),
                store.generation(),
            )

    # -- invites --------------------------------------------------------------------------------------------

    def invite(
        self, network: str, *, uses: int, made_s: int, expires_s: int, name: str
    ) -> tuple[a.Invite, bytes]:
        """A new invite to the network with this id, and its token, which is nowhere else. Raises LocalError."""
        token = secrets.token_bytes(TOKEN_LEN)
        identifier = "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_LEN))
        made = a.Invite(identifier, network, uses, 0, made_s, expires_s, name=name)
        with self._store.transaction("a new invite") as db:
            db.execute("DELETE FROM invite WHERE expires_s < ?", (made_s - a.MAX_LIFE_S,))
            if db.execute("SELECT count(*) FROM invite").fetchone()[0] >= MAX_INVITES:
                raise LocalError(f"there are {MAX_INVITES} invites already: revoke some")
            db.execute(
                "INSERT INTO invite (id, hash, network, uses, made_s, expires_s, name) VALUES (?,?,?,?,?,?,?)",
                (identifier, token_hash(token), network, uses, made_s, expires_s, name),
            )
        return made, token

    def invites(self) -> list[a.Invite]:
        """All of them, the newest last."""
        with self._store.reading("a look at its invites") as db:
            return [_invite(row) for row in db.execute(f"SELECT {_INVITE} FROM invite ORDER BY made_s, id")]

    def revoke_invite(self, identifier: str) -> None:
        """It is good for nothing any more; who came with it stays. Raises LocalError."""
        with self._store.transaction("to revoke an invite") as db:
            done = db.execute("UPDATE invite SET revoked=1 WHERE id=?", (identifier,))
            if not done.rowcount:
                raise LocalError(f"there is no invite '{identifier}'; `netctl invite list` shows all")

    def redeem(self, document: Document, who: a.Applicant, now_s: int) -> tuple[a.Verdict, a.Book]:
        """Let a host in: the use, the membership and the lease are one transaction. The book is as it is after it.

        Raises RemoteError when it may not come in, LocalError when the disk does not take it.
        """
        with self._store.transaction("a new member") as db:
            row = db.execute(
                f"SELECT {_INVITE} FROM invite WHERE hash=?", (token_hash(who.token),)
            ).fetchone()
            invite = _invite(row) if row is not None else None
            known = db.execute("SELECT 1 FROM guest WHERE member=?", (who.key.raw,)).fetchone() is not None
            book = _book(db) if a.needs_book(invite, now_s, known=known) else a.Book()
            verdict = a.decide(document, book, invite, who, now_s)
            if not verdict.fresh:
                return verdict, book
            entry = verdict.admission
            used = db.execute(
                "UPDATE invite SET used=used+1 WHERE id=? AND used<uses AND NOT revoked", (entry.invite,)
            )
            if not used.rowcount:
                raise RemoteError("this invite is used up: ask for another", "invite.used-up")
            guest = (entry.key.raw, entry.identity.raw, entry.name)
            db.execute("INSERT OR IGNORE INTO guest (member, identity, name) VALUES (?,?,?)", guest)
            row = (entry.network, entry.key.raw, entry.invite, entry.pending, entry.joined_s)
            db.execute(
                "INSERT INTO admission (network, member, invite, pending, joined_s) VALUES (?,?,?,?,?)", row
            )
            write_leases(db, [verdict.lease] if verdict.lease is not None else [])
            return verdict, book.admitted(verdict)

    # -- members --------------------------------------------------------------------------------------------

    def approve(self, key: WireGuardKey) -> a.Book:
        """Let in who waits. What the book says then. Raises LocalError."""
        with self._store.transaction("an approval") as db:
            done = db.execute("UPDATE admission SET pending=0 WHERE member=? AND pending", (key.raw,))
            if not done.rowcount:
                raise LocalError(
                    "this member does not wait for approval; `netctl members pending` shows who does"
                )
            return _book(db)

    def revoke(self, key: WireGuardKey, name: str, now_s: int) -> a.Book:
        """Shut a key out for good, whether it joined or is in the document. Its addresses stay bound to it."""
        with self._store.transaction("to revoke a member") as db:
            db.execute("DELETE FROM guest WHERE member=?", (key.raw,))
            rest_port(db, key, now_s)
            db.execute(
                "INSERT OR REPLACE INTO revoked (member, name, at_s) VALUES (?,?,?)", (key.raw, name, now_s)
            )
            return _book(db)

    def leave(self, key: WireGuardKey, now_s: int) -> a.Book:
        """Forget a member that joined; its addresses stay bound to its key."""
        with self._store.transaction("to let a member go") as db:
            db.execute("DELETE FROM guest WHERE member=?", (key.raw,))
            rest_port(db, key, now_s)
            return _book(db)

    def restore(self, key: WireGuardKey) -> a.Book:
        """Take a revocation back: a member of the document is one again, others need a new invite."""
        with self._store.transaction("to restore a member") as db:
            if not db.execute("DELETE FROM revoked WHERE member=?", (key.raw,)).rowcount:
                raise LocalError("this key was not revoked here; `netctl members` shows which are")
            return _book(db)

    def rekey(self, old: WireGuardKey, key: WireGuardKey, identity: IdentityKey, now_s: int) -> a.Book:
        """Move name, memberships and leases to a new key. Raises RemoteError or LocalError.

        The relay port is not moved: whoever has the old key may have a grant for it.
        """
        with self._store.transaction("a new key") as db:
            book = _book(db)
            a.rekeyed(book, old, key, identity)
            name = next(entry.name for entry in book.admissions if entry.key == old)
            # What the new key had before goes.
            db.execute("DELETE FROM lease WHERE member=?", (key.raw,))
            db.execute("UPDATE lease SET member=? WHERE member=?", (key.raw, old.raw))
            for one in (old, key):
                rest_port(db, one, now_s)
            db.execute(
                "UPDATE guest SET member=?, identity=? WHERE member=?", (key.raw, identity.raw, old.raw)
            )
            db.execute(
                "INSERT OR REPLACE INTO revoked (member, name, at_s) VALUES (?,?,?)", (old.raw, name, now_s)
            )
            return _book(db)
