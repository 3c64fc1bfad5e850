"""Cache of members' views: members that may see the same share one view, encoded and signed once.

A view class is a set of members that now see the same members and networks. A thousand members that reconnect at once
cost one encoding; a change costs one difference per pair of old and new view class. The views of members that have left
are kept for some changes more: a member that comes back with the view that it was shown last is sent the difference.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Container, Iterable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv6Network
from typing import NamedTuple

from mediator.core.membership import Membership
from netctl.config.edit.excerpt import excerpt
from netctl.model.addresses import Address
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.model.view import Lease, View, ViewMember
from netctl.session import views as v
from netctl.session.login import Signer
from netctl.session.rows import RowMember, lease_text, make_rows
from netctl.wire import control as w

COMPRESS_ABOVE = 1_000
"""Bytes of a message. A shorter one is sent in one packet anyway."""
MAX_PAST_ROWS = 1 << 18
"""Rows of all past views: at 8 bytes each, 2 MB. That is thirteen views of 10,000 members with a lease each."""
MAX_LATELY = 1 << 20
"""Bytes of whole views that were made for one member and are kept for the second: hundreds of small networks."""
AddressesOf = Callable[[str, str, WireGuardKey], tuple[Address, ...]]
"""Gives a member's addresses in a network, from network name, member name and key."""


class _MemberRows(NamedTuple):
    """A member, as it is needed in views."""

    key: WireGuardKey
    row: w.MemberRow
    line: bytes
    """In the digest."""


class _LeaseRows(NamedTuple):
    """A lease, as it is needed in views."""

    lease: Lease
    row: w.LeaseRow
    line: bytes
    """In the digest."""
    text: str
    """In a `Row`."""


@dataclass(slots=True)
class _Rows:
    """Every row of every view, made once per membership and leases."""

    rank: dict[str, int]
    """Rank of each member by raw key, by member name."""
    members: dict[str, _MemberRows]
    leases: dict[str, dict[str, _LeaseRows]]
    """Leases by network name and member name."""
    prefixes: dict[str, str]
    """The IPv6 prefix of each network; empty: none."""


@dataclass(frozen=True, slots=True)
class PastView:
    """A view of before a change, as far as a difference needs it. Its rows are those of the other views."""

    digest: str
    document: str
    members: tuple[w.MemberRow, ...]
    leases: tuple[w.LeaseRow, ...]

    def __len__(self) -> int:
        """Count of rows."""
        return len(self.members) + len(self.leases)

    def member_rows(self) -> Sequence[w.MemberRow]:
        """The rows of all members in the view."""
        return self.members

    def lease_rows(self) -> Sequence[w.LeaseRow]:
        """The rows of all leases in the view."""
        return self.leases


@dataclass(eq=False, slots=True)
class ViewClass:
    """The view of one class of members."""

    names: tuple[str, ...]
    """Names of the visible members, in the order of raw keys."""
    keys: tuple[WireGuardKey, ...]
    networks: tuple[str, ...]
    document: str
    digest: str
    rows: _Rows
    viewers: int = 0
    attentive: tuple[WireGuardKey, ...] | None = None
    """Those of `keys` that are told of all members in their views (`mediator.core.audience`); None: not computed yet.
    """
    frames: dict[int, tuple[bytes, ...]] = field(default_factory=dict)
    """The encoded whole view by the minor version that it is for; kept if more than one member needs it."""
    seals: dict[int, w.Sealed] = field(default_factory=dict)
    """The seal of the newest generation only."""
    bare_seal: bytes = b""
    """The same, encoded, without presence."""
    differences: dict[tuple[str, int], tuple[bytes, ...]] = field(default_factory=dict)
    """The frames that lead from past views to this one, by their digest and the minor version."""

    def member_rows(self) -> list[w.MemberRow]:
        """The rows of all members in the view."""
        return [self.rows.members[name].row for name in self.names]

    def row_members(self) -> Iterable[RowMember]:
        """All members in the view with their leases."""
        for name in self.names:
            held = [
                (network, self.rows.leases[network][name].text)
                for network in self.networks
                if name in self.rows.leases[network]
            ]
            yield RowMember(name, self.rows.members[name].row.key, held)

    def leases(self) -> Iterable[_LeaseRows]:
        """All leases in the view, by network name, then raw key."""
        for network in self.networks:
            held = self.rows.leases[network]
            yield from (held[name] for name in self.names if name in held)

    def lease_rows(self) -> list[w.LeaseRow]:
        """The rows of all leases in the view."""
        return [one.row for one in self.leases()]


def _member_rows(name: str, key: WireGuardKey) -> _MemberRows:
    text = str(key)
    return _MemberRows(key, w.MemberRow(name, text), v.member_line(name, text))


def _lease_rows(lease: Lease, prefix: IPv6Network | None) -> _LeaseRows:
    """The lease in views; `prefix`: that of its network."""
    key = str(lease.key)
    row = w.LeaseRow(lease.network, key, [str(address) for address in lease.addresses])
    line = v.lease_line(lease.network, key, lease.addresses)
    return _LeaseRows(lease, row, line, lease_text(lease.addresses, prefix, lease.key))


class ViewCache:
    """All view classes of one membership, without presence, which changes every second."""

    def __init__(self, identity: IdentityKey, sign: Signer, *, max_past_rows: int = MAX_PAST_ROWS) -> None:
        """`max_past_rows`: of the past views that are kept; the oldest are forgotten first."""
        self._identity = identity
        self._sign = sign
        self._max_past_rows = max_past_rows
        self._membership = Membership()
        self._guests: frozenset[WireGuardKey] = frozenset()
        self._generation = 0
        self._rows = _Rows({}, {}, {}, {})
        self._classes: dict[tuple[frozenset[str], tuple[str, ...], str], ViewClass] = {}
        self._of: dict[WireGuardKey, ViewClass] = {}
        self._networks: dict[str, tuple[str, ...]] = {}
        self._past: OrderedDict[str, PastView] = OrderedDict()
        """By digest, the newest last."""
        self._past_rows = 0
        self._lately: OrderedDict[ViewClass, tuple[bytes, ...]] = OrderedDict()
        """Frames that were made for one member alone, the newest last: the next of a network mostly comes soon."""
        self._lately_bytes = 0
        self._left: dict[WireGuardKey, str] = {}
        """The digest of the view that a member was shown when it logged out."""

    def rebuild(
        self,
        membership: Membership,
        guests: frozenset[WireGuardKey],
        addresses: AddressesOf,
        generation: int,
    ) -> None:
        """Start anew with a changed membership or leases. Rows that are the same are kept: to make one costs more
        than all else that a change costs for a member that it does not concern.
        """
        self._keep_past()
        self._membership, self._guests, self._generation = membership, guests, generation
        self._classes.clear()
        self._of.clear()
        self._lately.clear()
        self._lately_bytes = 0
        document = membership.document
        before = self._rows
        by_key = sorted(membership.by_key.items(), key=lambda item: item[0].raw)
        members: dict[str, _MemberRows] = {}
        for key, member in by_key:
            row = before.members.get(member.name)
            members[member.name] = row if row and row.key == key else _member_rows(member.name, key)
        leases: dict[str, dict[str, _LeaseRows]] = {}
        networks: dict[str, list[str]] = {}
        for network_name in sorted(document.networks):
            table = leases[network_name] = {}
            prefix = document.networks[network_name].ipv6
            same = before.prefixes.get(network_name) == str(prefix or "")
            had = before.leases[network_name] if same else {}
            for name in document.networks[network_name].member_names:
                if name not in members:
                    continue
                networks.setdefault(name, []).append(network_name)
                key = members[name].key
                lease, held = Lease(network_name, key, addresses(network_name, name, key)), had.get(name)
                table[name] = held if held and held.lease == lease else _lease_rows(lease, prefix)
        self._networks = {name: tuple(found) for name, found in networks.items()}
        rank = {member.name: index for index, (_, member) in enumerate(by_key)}
        prefixes = {name: str(network.ipv6 or "") for name, network in document.networks.items()}
        self._rows = _Rows(rank, members, leases, prefixes)

    def _keep_past(self) -> None:
        """The present views are past ones now: those that a member which is gone may come back with."""
        wanted = set(self._left.values())
        for view_class in self._classes.values():
            view_class.frames.clear()
            view_class.differences.clear()
            if view_class.digest not in wanted:
                continue
            if view_class.digest in self._past:
                self._past.move_to_end(view_class.digest)
                continue
            rows = tuple(view_class.member_rows()), tuple(view_class.lease_rows())
            past = PastView(view_class.digest, view_class.document, *rows)
            if len(past) > self._max_past_rows:
                continue
            self._past[past.digest] = past
            self._past_rows += len(past)
            while self._past_rows > self._max_past_rows:
                self._past_rows -= len(self._past.popitem(last=False)[1])
        self._left = {key: digest for key, digest in self._left.items() if digest in self._past}

    def left(self, key: WireGuardKey, shown: ViewClass) -> None:
        """A member has logged out; `shown`: the view that it was sent."""
        self._left[key] = shown.digest

    def since(self, key: WireGuardKey, digest: str, new: ViewClass, minor: int) -> tuple[bytes, ...]:
        """Frames, without the seal, for a member that logs in with the view of this digest.

        A difference names members that are gone. So it is made from the view alone that this very member was shown when
        it logged out, and for whoever knows another digest the frames are those of the whole view.
        """
        known = self._left.pop(key, None)
        past = self._past.get(digest) if digest and known == digest else None
        if past is None:
            return self.whole(new, minor)
        found = new.differences.get((digest, minor))
        if found is None:
            found = new.differences[digest, minor] = self.change(past, new, minor)
        return found

    def of(self, key: WireGuardKey) -> ViewClass:
        """The view class of the member with this key."""
        found = self._of.get(key)
        if found is None:
            name = self._membership.by_key[key].name
            seen = self._membership.visible.get(name) or frozenset({name})
            networks = self._networks.get(name, ())
            part = excerpt(self._membership.document, name, seen) if key in self._guests else ""
            which = (seen, networks, part)
            found = self._classes.get(which)
            if found is None:
                found = self._classes[which] = self._paint(seen, networks, part)
            found.viewers += 1
            self._of[key] = found
        return found

    def _paint(self, seen: Collection[str], networks: tuple[str, ...], document: str) -> ViewClass:
        rows = self._rows
        names = tuple(sorted((name for name in seen if name in rows.rank), key=rows.rank.__getitem__))
        keys = tuple(rows.members[name].key for name in names)
        view_class = ViewClass(names, keys, networks, document, "", rows)
        lines = (rows.members[name].line for name in names)
        view_class.digest = v.digest_of(lines, (one.line for one in view_class.leases()), document)
        return view_class

    def view(self, key: WireGuardKey, online: Container[WireGuardKey]) -> View:
        """The view of a member as a value, for use inside the mediator."""
        view_class = self.of(key)
        members = {
            peer: ViewMember(name, peer, peer in online)
            for name, peer in zip(view_class.names, view_class.keys, strict=True)
        }
        leases = {(one.lease.network, one.lease.key): one.lease for one in view_class.leases()}
        return View(self._generation, members, leases, view_class.document)

    def whole(self, view_class: ViewClass, minor: int) -> tuple[bytes, ...]:
        """The encoded whole view, without its seal, for members of this minor version of the protocol.

        It is compressed once for all who share it. For one member alone that would cost ten times what it saves.
        """
        if (kept := view_class.frames.get(minor)) is not None:
            return kept
        shared = view_class.viewers > 1
        if minor >= 2:
            plain = self.whole(view_class, 1)
            if not shared:
                return plain
            view_class.frames.pop(1, None)  # nearly all members are of the newest version
            frames = tuple(w.compressed(one) if len(one) > COMPRESS_ABOVE else one for one in plain)
            view_class.frames[minor] = frames
            return frames
        if minor == 1 and (lately := self._lately.get(view_class)) is not None:
            if shared:
                del self._lately[view_class]
                self._lately_bytes -= sum(map(len, lately))
                view_class.frames[minor] = lately
            return lately
        document, prefixes = view_class.document, view_class.rows.prefixes
        parts: Sequence[w.Message] = (
            make_rows(view_class.row_members(), prefixes, document)
            if minor == 1
            else v.make_chunks(view_class.member_rows(), view_class.lease_rows(), document)
        )
        frames = tuple(w.encode(part) for part in parts)
        if shared:
            view_class.frames[minor] = frames
        elif minor == 1:
            self._lately[view_class] = frames
            self._lately_bytes += sum(map(len, frames))
            while self._lately_bytes > MAX_LATELY:
                self._lately_bytes -= sum(map(len, self._lately.popitem(last=False)[1]))
        return frames

    def sealed(self, view_class: ViewClass, online: Iterable[bool] | None) -> bytes:
        """The seal of a view, with the present presence of each of its keys; None: without, the same bytes for all of
        the class.
        """
        sealed = view_class.seals.get(self._generation)
        if sealed is None:
            sealed = v.seal(self._generation, view_class.digest, "", self._identity, self._sign)
            view_class.seals.clear()
            view_class.seals[self._generation] = sealed
            view_class.bare_seal = w.encode(sealed)
        if online is None:
            return view_class.bare_seal
        bits = v.online_bits(online)
        return w.encode(
            w.Sealed(sealed.generation, sealed.digest, sealed.identity, sealed.signature, online=bits)
        )

    def change(self, old: ViewClass | PastView, new: ViewClass, minor: int) -> tuple[bytes, ...]:
        """Frames that lead from one view to another, without the seal: a difference, or the whole view."""
        before, after = {row.key: row for row in old.member_rows()}, {r.key: r for r in new.member_rows()}
        had = {(row.network, row.key): row for row in old.lease_rows()}
        has = {(row.network, row.key): row for row in new.lease_rows()}
        delta = w.ViewDelta(
            old.digest,
            [row for key, row in after.items() if before.get(key) != row],
            [key for key in before if key not in after],
            [row for name, row in has.items() if had.get(name) != row],
            [w.LeaseName(*name) for name in had if name not in has],
            None if old.document == new.document else new.document,
        )
        rows = len(delta.members) + len(delta.gone) + len(delta.leases) + len(delta.released)
        small = rows <= min(v.ROWS_PER_CHUNK, (len(after) + len(has)) // 2)
        if small and len(delta.document or "") <= v.TEXT_PER_CHUNK:
            return (w.encode(delta),)
        return self.whole(new, minor)
