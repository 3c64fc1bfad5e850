"""The views of all members: one for all members that may see the same, encoded and signed once for all of them.

A view class is a set of members at one moment: the same others visible, the same networks. A thousand members that
come back at once cost one encoding; a change costs one difference for each pair of view classes, old and new.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from mediator.core.membership import Membership
from netctl.config.edit.excerpt import excerpt
from netctl.model.addresses import Address
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.model.view import Lease, View, ViewMember
from netctl.session import views as v
from netctl.session.login import Signer
from netctl.wire import control as w

AddressesOf = Callable[[str, str, WireGuardKey], tuple[Address, ...]]
"""Network name, member name and key to the member's addresses there."""


@dataclass(slots=True)
class _Rows:
    """Every row of every view, made once for a membership and its leases."""

    rank: dict[str, int]
    """By member name: the order of the raw keys."""
    members: dict[str, tuple[WireGuardKey, w.MemberRow, bytes]]
    leases: dict[str, dict[str, tuple[Lease, w.LeaseRow, bytes]]]
    """By network name and member name."""


@dataclass(eq=False, slots=True)
class ViewClass:
    """What one class of members sees."""

    names: tuple[str, ...]
    """In the order of the raw keys."""
    keys: tuple[WireGuardKey, ...]
    networks: tuple[str, ...]
    document: str
    digest: str
    rows: _Rows
    viewers: int = 0
    frames: tuple[bytes, ...] = ()
    """The whole view, encoded; kept where more than one member needs it."""
    seals: dict[int, w.Sealed] = field(default_factory=dict)
    """The newest generation's alone."""

    def member_rows(self) -> list[w.MemberRow]:
        """Of everybody in the view."""
        return [self.rows.members[name][1] for name in self.names]

    def leases(self) -> Iterable[tuple[Lease, w.LeaseRow, bytes]]:
        """By network name, then raw key."""
        for network in self.networks:
            held = self.rows.leases[network]
            yield from (held[name] for name in self.names if name in held)

    def lease_rows(self) -> list[w.LeaseRow]:
        """Of all networks that the class belongs to."""
        return [row for _, row, _ in self.leases()]


class ViewCache:
    """All view classes of one membership. Everything but presence, which changes by the second."""

    def __init__(self, identity: IdentityKey, sign: Signer) -> None:
        self._identity = identity
        self._sign = sign
        self._membership = Membership()
        self._guests: frozenset[WireGuardKey] = frozenset()
        self._generation = 0
        self._rows = _Rows({}, {}, {})
        self._classes: dict[tuple[frozenset[str], tuple[str, ...], str], ViewClass] = {}
        self._of: dict[WireGuardKey, ViewClass] = {}
        self._networks: dict[str, tuple[str, ...]] = {}

    def rebuild(
        self,
        membership: Membership,
        guests: frozenset[WireGuardKey],
        addresses: AddressesOf,
        generation: int,
    ) -> None:
        """Start again with another membership or other leases."""
        self._membership, self._guests, self._generation = membership, guests, generation
        self._classes.clear()
        self._of.clear()
        document = membership.document
        by_key = sorted(membership.by_key.items())
        members = {
            member.name: (key, w.MemberRow(member.name, str(key)), v.member_line(member.name, str(key)))
            for key, member in by_key
        }
        leases: dict[str, dict[str, tuple[Lease, w.LeaseRow, bytes]]] = {}
        networks: dict[str, list[str]] = {}
        for network_name in sorted(document.networks):
            table = leases[network_name] = {}
            for name in document.networks[network_name].member_names:
                if name not in members:
                    continue
                networks.setdefault(name, []).append(network_name)
                key, row, _ = members[name]
                found = addresses(network_name, name, key)
                lease_row = w.LeaseRow(network_name, row.key, [str(address) for address in found])
                line = v.lease_line(network_name, row.key, found)
                table[name] = Lease(network_name, key, found), lease_row, line
        self._networks = {name: tuple(found) for name, found in networks.items()}
        rank = {member.name: index for index, (_, member) in enumerate(by_key)}
        self._rows = _Rows(rank, members, leases)

    def of(self, key: WireGuardKey) -> ViewClass:
        """What the member with this key sees."""
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
        keys = tuple(rows.members[name][0] for name in names)
        view_class = ViewClass(names, keys, networks, document, "", rows)
        lines = (rows.members[name][2] for name in names)
        view_class.digest = v.digest_of(lines, (line for _, _, line in view_class.leases()), document)
        return view_class

    def view(self, key: WireGuardKey, online: Mapping[WireGuardKey, int]) -> View:
        """As a value, for whoever asks inside the mediator."""
        view_class = self.of(key)
        members = {
            peer: ViewMember(name, peer, peer in online)
            for name, peer in zip(view_class.names, view_class.keys, strict=True)
        }
        leases = {(lease.network, lease.key): lease for lease, _, _ in view_class.leases()}
        return View(self._generation, members, leases, view_class.document)

    def whole(self, view_class: ViewClass) -> tuple[bytes, ...]:
        """The whole view, without its seal."""
        if view_class.frames:
            return view_class.frames
        chunks = v.make_chunks(view_class.member_rows(), view_class.lease_rows(), view_class.document)
        frames = tuple(w.encode(chunk) for chunk in chunks)
        if view_class.viewers > 1:
            view_class.frames = frames
        return frames

    def sealed(self, view_class: ViewClass, online: Mapping[WireGuardKey, int]) -> bytes:
        """The seal of a view with the presence of now."""
        sealed = view_class.seals.get(self._generation)
        if sealed is None:
            sealed = v.seal(self._generation, view_class.digest, "", self._identity, self._sign)
            view_class.seals.clear()
            view_class.seals[self._generation] = sealed
        bits = v.online_bits(map(online.__contains__, view_class.keys))
        return w.encode(
            w.Sealed(sealed.generation, sealed.digest, sealed.identity, sealed.signature, online=bits)
        )

    def change(self, old: ViewClass, new: ViewClass) -> tuple[bytes, ...]:
        """What brings a member from one view to another, without its seal: a difference, or the whole."""
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
        return self.whole(new)
