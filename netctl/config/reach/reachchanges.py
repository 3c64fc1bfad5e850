"""What changes for people between two documents: reach, addresses, members, keys and tunnels.

A plan lists changes of links and peers on one host. This module describes their effect: "desktop loses
nas:tcp/5432". It uses only the documents, so the result holds for every host, for a review, and for a roll-out.
Bounded: members that the rules treat alike are one row (`netctl.config.reach.reachmatrix`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field, replace

from netctl.config.reach.reachmatrix import MAX_CLASS_PAIRS, Bits, Class, Side, classes
from netctl.model.addresses import Address
from netctl.model.derive import member_ipv6
from netctl.model.document import Document, MemberState, Network
from netctl.model.view import View

MAX_NAMES = 10
"""Names in one group: nobody reads more; `count` is the number of all."""
MAX_ROWS = 200
"""Rows of one kind: nobody reads a change for each of 10,000 members; `left_out` counts the rest."""
NOBODY = Document({}, {})


@dataclass(frozen=True, slots=True)
class Group:
    """The members (or LANs behind them, as ``192.168.50.0/24 behind branch``) of a row, and their count."""

    names: tuple[str, ...]
    """At most MAX_NAMES of them."""
    count: int


@dataclass(frozen=True, slots=True)
class ReachChange:
    """A change of reach in one network, from each member of `src` to each of `dst` except itself."""

    network: str
    src: Group
    dst: Group
    gained: tuple[str, ...]
    """Flows: ``tcp/22``, ``udp/1000-2000``, ``icmp``, ``everything``, ``everything but tcp/22``."""
    lost: tuple[str, ...]
    at_all: str = ""
    """``lost``: `src` no longer reaches `dst` in any network (`CutOff`); ``gained``: did so in none before; else ""."""


@dataclass(frozen=True, slots=True)
class CutOff:
    """Each member of `src` reached each of `dst` before, and afterwards reaches it in no network at all."""

    src: Group
    dst: Group


@dataclass(frozen=True, slots=True)
class AddressMove:
    """A changed address of a member. None: an address that the mediator will lease or has leased."""

    network: str
    member: str
    before: str | None
    after: str | None


@dataclass(frozen=True, slots=True)
class KeyChange:
    """A member with a changed WireGuard key."""

    member: str
    before: str
    after: str


@dataclass(frozen=True, slots=True)
class TunnelDrop:
    """Tunnels between each of `members` and each of `peers` that end or are set up anew."""

    members: Group
    peers: Group
    why: str


@dataclass(frozen=True, slots=True)
class ComingAndGoing:
    """Members added to and removed from the document (`network` empty) or a network of both documents."""

    network: str
    come: Group
    go: Group


@dataclass(frozen=True, slots=True)
class ReachChanges:
    """All changes. False when nothing changes for anybody."""

    reach: tuple[ReachChange, ...] = ()
    cut_off: tuple[CutOff, ...] = ()
    addresses: tuple[AddressMove, ...] = ()
    members: tuple[ComingAndGoing, ...] = ()
    renamed: tuple[tuple[str, str], ...] = ()
    """(old name, new name) of members that kept their key."""
    networks_renamed: tuple[tuple[str, str], ...] = ()
    """(old name, new name) of networks that kept their `id`."""
    keys: tuple[KeyChange, ...] = ()
    tunnels: tuple[TunnelDrop, ...] = ()
    networks_come: tuple[str, ...] = ()
    networks_go: tuple[str, ...] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    """Count of rows past MAX_ROWS, by kind (``reach``, ``addresses``, …)."""
    complete: bool = True
    """False: not every pair was compared, because there are too many different rules."""

    def __bool__(self) -> bool:
        return self != ReachChanges()


def reach_changes(
    before: Document | None, after: Document, *, view: View | None = None, about: str | None = None
) -> ReachChanges:
    """The changes for people when `after` replaces `before` (None: there was no document).

    `view`: contains the leases. Without it, a leased IPv4 address counts as moved when its pool or key changes.
    `about`: only changes that concern this member (by its name afterwards, or before if it is removed).
    """
    before, networks_renamed = _networks_renamed(before or NOBODY, after)
    old_names = _renamed(before, after)
    keys = tuple(_keys(before, after, old_names))
    rekeyed = frozenset(change.member for change in keys)
    bits = Bits()
    found = classes(Side(before, bits), Side(after, bits), old_names, rekeyed, about)
    reach, cut_off, tunnels, complete = _compare(found, bits, about)
    # In a host's own networks, the moves of other members concern the host, too.
    mine = frozenset(after.networks) if about is None else frozenset(n.name for n in after.networks_of(about))
    addresses = [move for move in _addresses(before, after, old_names, view) if move.network in mine]
    if about is not None:
        keys = tuple(change for change in keys if change.member == about)
    then = {about, old_names.get(about or "")} if about is not None else None
    kinds: dict[str, Sized] = {
        "reach": reach,
        "cut_off": cut_off,
        "addresses": addresses,
        "keys": keys,
        "tunnels": tunnels,
    }
    return ReachChanges(
        reach=tuple(reach[:MAX_ROWS]),
        cut_off=tuple(cut_off[:MAX_ROWS]),
        addresses=tuple(addresses[:MAX_ROWS]),
        members=tuple(_comings(before, after, old_names, about)),
        renamed=tuple((old, new) for new, old in old_names.items())[:MAX_ROWS],
        networks_renamed=networks_renamed,
        keys=keys[:MAX_ROWS],
        tunnels=tuple(tunnels[:MAX_ROWS]),
        networks_come=tuple(_only_in(after, before, then)),
        networks_go=tuple(_only_in(before, after, then)),
        left_out={kind: len(rows) - MAX_ROWS for kind, rows in kinds.items() if len(rows) > MAX_ROWS},
        complete=complete,
    )


def _only_in(one: Document, other: Document, whose: set[str | None] | None) -> Iterator[str]:
    for name, network in one.networks.items():
        if name not in other.networks and (whose is None or not whose.isdisjoint(network.member_names)):
            yield name


def group(names: Iterable[str]) -> Group:
    """A group of these names."""
    listed = tuple(names)
    return Group(listed[:MAX_NAMES], len(listed))


def _present(document: Document) -> dict[str, str]:
    return {
        name: str(member.wireguard)
        for name, member in document.members.items()
        if member.state is MemberState.PRESENT and member.wireguard is not None
    }


def _renamed(before: Document, after: Document) -> dict[str, str]:
    """Old names by new name: of keys in both documents whose names each occur in only one of them."""
    then, now = _present(before), _present(after)
    was = {key: name for name, key in then.items() if name not in now}
    return {name: was[key] for name, key in now.items() if name not in then and key in was}


def _networks_renamed(before: Document, after: Document) -> tuple[Document, tuple[tuple[str, str], ...]]:
    """The document before, but with the new names of networks that kept their id; and (old name, new name) of these."""
    new = {network.id: name for name, network in after.networks.items() if name not in before.networks}
    names = {
        name: new[network.id]
        for name, network in before.networks.items()
        if name not in after.networks and network.id in new
    }
    if not names:
        return before, ()
    networks = {
        names.get(name, name): replace(network, name=names.get(name, name))
        for name, network in before.networks.items()
    }
    return replace(before, networks=networks), tuple(names.items())


def _keys(before: Document, after: Document, old_names: Mapping[str, str]) -> Iterator[KeyChange]:
    then = _present(before)
    for name, key in _present(after).items():
        old = then.get(old_names.get(name, name))
        if old is not None and old != key:
            yield KeyChange(name, old, key)


def _comings(
    before: Document, after: Document, old_names: Mapping[str, str], about: str | None
) -> Iterator[ComingAndGoing]:
    new_names = {old: new for new, old in old_names.items()}

    then, now = _present(before), _present(after)
    was = dict.fromkeys(new_names.get(name, name) for name in then)
    yield from _coming("", was, dict.fromkeys(now), about)
    for name, network in after.networks.items():
        if name in before.networks:
            earlier = (new_names.get(old, old) for old in before.networks[name].member_names)
            # Members added to or removed from the document have been reported above.
            yield from _coming(
                name,
                dict.fromkeys(member for member in earlier if member in now),
                dict.fromkeys(member for member in network.member_names if member in was),
                about,
            )


def _coming(
    network: str, was: Mapping[str, None], will: Mapping[str, None], about: str | None
) -> Iterator[ComingAndGoing]:
    come = group(name for name in will if name not in was and about in (None, name))
    go = group(name for name in was if name not in will and about in (None, name))
    if come.count or go.count:
        yield ComingAndGoing(network, come, go)


def _addresses(
    before: Document, after: Document, old_names: Mapping[str, str], view: View | None
) -> Iterator[AddressMove]:
    for name, network in after.networks.items():
        earlier = before.networks.get(name)
        if earlier is None:
            continue
        was = frozenset(earlier.member_names)
        for member in network.member_names:
            old = old_names.get(member, member)
            if old not in was:
                continue
            then, now = _homes(before, earlier, old, view), _homes(after, network, member, view)
            for version in (4, 6):
                one, other = then.get(version), now.get(version)
                if one != other:
                    yield AddressMove(name, member, _home(one), _home(other))


def _home(home: object) -> str | None:
    return str(home) if home is not None and not isinstance(home, tuple) else None


def _homes(document: Document, network: Network, name: str, view: View | None) -> dict[int, object]:
    """A member's address by family; for an unknown leased address the pool and key that it depends on."""
    key = document.members[name].wireguard
    homes: dict[int, object] = {address.version: address for address in network.addresses.get(name, ())}
    if network.ipv6 is not None and key is not None:
        homes.setdefault(6, member_ipv6(network.ipv6, key))
    if network.ipv4 is not None and key is not None and 4 not in homes:
        lease = view.leases.get((network.name, key)) if view is not None else None
        leased: Address | None = next((a for a in lease.addresses if a.version == 4), None) if lease else None
        fits = leased is not None and leased in network.ipv4
        homes[4] = leased if fits else (network.ipv4, key)
    return homes


Delta = tuple[tuple[str, tuple[str, ...], tuple[str, ...], str], ...]
"""(network, gained, lost, at all) of each network in which a pair's reach differs."""


def _delta(bits: Bits, before: int, after: int) -> Delta:
    then, now = bits.flows(before), bits.flows(after)
    at_all = "lost" if before and not after else "gained" if after and not before else ""
    rows = []
    for network in dict.fromkeys((*then, *now)):
        had, has = then.get(network), now.get(network)
        if had is None or has is None:
            whole = tuple((had or has).words())  # type: ignore[union-attr]
            gained, lost = (whole, ()) if had is None else ((), whole)
        else:
            gained, lost = tuple(has.minus(had).plain()), tuple(had.minus(has).plain())
        if gained or lost:
            rows.append((network, gained, lost, at_all))
    return tuple(rows)


def _compare(
    found: list[Class], bits: Bits, about: str | None
) -> tuple[list[ReachChange], list[CutOff], list[TunnelDrop], bool]:
    first = [number for number, one in enumerate(found) if one.changed]
    if about is not None:
        first = [number for number, one in enumerate(found) if one.names == (about,)]
    in_first = frozenset(first)
    deltas: dict[tuple[int, int], Delta] = {}
    reach: dict[tuple[str, tuple[str, ...], tuple[str, ...], str], Table] = {}
    cut: Table = {}
    drops: dict[str, Table] = {}
    budget = MAX_CLASS_PAIRS

    def look(a: int, b: int) -> int:
        """Compare two classes; returns the cost, in pairs."""
        one, other = found[a], found[b]
        pair = one.before.reach(other.before), one.after.reach(other.after)
        if pair[0] == pair[1]:
            return 1
        cost = 1
        if pair not in deltas:
            deltas[pair] = _delta(bits, *pair)
            cost += pair[0].bit_count() + pair[1].bit_count()
        if not pair[1]:
            cut.setdefault(a, []).append(b)
        for row in deltas[pair]:
            reach.setdefault(row, {}).setdefault(a, []).append(b)
        return cost

    for a in first:
        if budget < 0:
            break
        for b, other in enumerate(found):
            budget -= look(a, b)
            if b not in in_first:
                budget -= look(b, a)
            why = _why_it_drops(found[a], other)
            # Both ends may be in `first`: the pair is reported for the end that is the cause.
            if why and (b not in in_first or _cause(found[a]) <= _cause(other)):
                drops.setdefault(why, {}).setdefault(a, []).append(b)
    rows = [
        ReachChange(network, group(src), group(dst), gained, lost, at_all)
        for (network, gained, lost, at_all), table in reach.items()
        for src, dst in _rows(found, table)
    ]
    # Losses come first: they surprise people.
    rows.sort(key=lambda row: (not row.lost, row.network, row.src.names, row.dst.names))
    cut_off = [CutOff(group(src), group(dst)) for src, dst in _rows(found, cut)]
    tunnels = []
    for why, table in drops.items():
        told = set()
        for members, peers in _rows(found, table):
            if (peers, members) not in told:
                told.add((members, peers))
                tunnels.append(TunnelDrop(group(members), group(peers), why))
    return rows, cut_off, tunnels, budget >= 0


def _why_it_drops(one: Class, other: Class) -> str:
    if not one.before.tunnel(other.before):
        return ""
    if not one.after.tunnel(other.after):
        return "no network joins them any more"
    return "another key" if one.rekeyed or other.rekeyed else ""


def _cause(end: Class) -> int:
    """Rank of an end as the cause of a dropped tunnel; lowest first: another key, no tunnels afterwards, or neither."""
    return 0 if end.rekeyed else 1 if not end.after.calls | end.after.answers else 2


Table = dict[int, list[int]]
"""Numbers of classes to numbers of classes."""
Names = tuple[str, ...]


def _rows(found: list[Class], table: Table) -> Iterator[tuple[Names, Names]]:
    """Rows of (names, names): classes with the same other side share one row. A member is not paired with itself."""
    merged: dict[tuple[int, ...], list[int]] = {}
    for a, others in table.items():
        merged.setdefault(tuple(sorted(set(others))), []).append(a)
    for beside, mine in merged.items():
        names = tuple(name for a in sorted(mine) for name in found[a].names)
        theirs = tuple(name for b in beside for name in found[b].names)
        if len(names) == 1:
            theirs = tuple(name for name in theirs if not _is_its_own(name, names[0]))
        elif len(theirs) == 1:
            names = tuple(name for name in names if not _is_its_own(name, theirs[0]))
        if names and theirs:
            yield names, theirs


def _is_its_own(one: str, other: str) -> bool:
    """Whether two ends are one member, or a member and a LAN behind it."""
    return one == other or one.endswith(f" behind {other}") or other.endswith(f" behind {one}")
