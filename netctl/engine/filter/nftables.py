"""Loads our nftables table through `nft -j`, and detects whether somebody has changed it since.

The kernel lists a table in another form than it was loaded, so the table is not parsed back. Instead the loaded table
is recorded with a digest of the kernel's listing right afterwards. An equal listing means an unchanged table.
"""

from __future__ import annotations

import hashlib
import ipaddress
import json
from pathlib import Path
from typing import Any

from netctl.engine.filter import conntrack
from netctl.engine.filter.nft import load, nft
from netctl.engine.filter.ruleset import RENDERING, remove, render
from netctl.engine.filter.ruleset_acl import FAMILY
from netctl.engine.records import forget, keep, kept
from netctl.model.addresses import Prefix
from netctl.model.document import PortRange
from netctl.model.errors import EngineError
from netctl.model.hoststate import FILTER_TABLE, FilterRule, FilterTable, Guards, SourceBinding

"""10,000 rules are loaded and listed again in some four seconds; this is for a machine that is drowning."""
VOLATILE = frozenset({"handle", "counter", "metainfo", "index"})
"""Keys of a listing that change although nobody changes the table."""
UNORDERED = frozenset({"elem", "set"})
"""Keys of a listing whose values are sets, which the kernel lists in any order."""


def plain_table(table: FilterTable) -> dict[str, Any]:
    """A table as plain JSON values."""
    return {
        "links": sorted(table.links),
        "rules": [_plain_rule(rule) for rule in table.rules],
        "bindings": [
            [b.segment, str(b.underlay), b.mac, sorted(map(str, b.addresses)), b.vni, b.ethertypes]
            for b in table.bindings
        ],
        "masquerade": [[str(pool), str(lan)] for pool, lan in table.masquerade],
        "stock": sorted(map(str, table.stock)),
        "sending": [_plain_rule(rule) for rule in table.sending],
        "guards": _plain_guards(table.guards),
    }


def _plain_guards(guards: Guards) -> dict[str, Any]:
    return {
        "sources": sorted(map(str, guards.sources)),
        "destinations": sorted(map(str, guards.destinations)),
        "leases": sorted(map(str, guards.leases)),
        "lans": sorted(map(str, guards.lans)),
        "remote": sorted(map(str, guards.remote)),
        "vnis": sorted(guards.vnis),
        "listen_port": guards.listen_port,
    }


def _guards_of(plain: dict[str, Any]) -> Guards:
    def prefixes(key: str) -> frozenset[Prefix]:
        return frozenset(map(ipaddress.ip_network, plain[key]))

    return Guards(
        sources=prefixes("sources"),
        destinations=prefixes("destinations"),
        leases=frozenset(map(ipaddress.ip_address, plain["leases"])),
        lans=prefixes("lans"),
        remote=prefixes("remote"),
        vnis=frozenset(map(int, plain["vnis"])),
        listen_port=int(plain["listen_port"]),
    )


def _plain_rule(rule: FilterRule) -> dict[str, Any]:
    return {
        "name": rule.name,
        "sources": sorted(map(str, rule.sources)),
        "destinations": sorted(map(str, rule.destinations)),
        "proto": rule.proto,
        "ports": [[port.first, port.last] for port in rule.ports],
    }


def _rule_of(plain: dict[str, Any]) -> FilterRule:
    return FilterRule(
        name=plain["name"],
        sources=frozenset(map(ipaddress.ip_network, plain["sources"])),
        destinations=frozenset(map(ipaddress.ip_network, plain["destinations"])),
        proto=plain["proto"],
        ports=tuple(PortRange(first, last) for first, last in plain["ports"]),
    )


def table_of(plain: dict[str, Any]) -> FilterTable:
    """The table of `plain_table`'s values. Raises KeyError, TypeError or ValueError for anything else."""
    network = ipaddress.ip_network
    return FilterTable(
        links=frozenset(plain["links"]),
        rules=tuple(map(_rule_of, plain["rules"])),
        bindings=frozenset(
            SourceBinding(
                segment,
                ipaddress.ip_address(underlay),
                mac,
                frozenset(map(ipaddress.ip_address, addresses)),
                vni,
                None if ethertypes is None else tuple(ethertypes),
            )
            for segment, underlay, mac, addresses, vni, ethertypes in plain["bindings"]
        ),
        masquerade=frozenset((network(pool), network(lan)) for pool, lan in plain["masquerade"]),
        stock=frozenset(map(network, plain["stock"])),
        sending=tuple(map(_rule_of, plain["sending"])),
        guards=_guards_of(plain["guards"]),
    )


def _steady(listing: Any) -> Any:
    """A listing without the parts that change by themselves."""
    if isinstance(listing, dict):
        steady = {key: _steady(value) for key, value in listing.items() if key not in VOLATILE}
        for key in UNORDERED & steady.keys():
            if isinstance(steady[key], list):
                steady[key] = sorted(json.dumps(item, sort_keys=True) for item in steady[key])
        return steady
    if isinstance(listing, list):
        return [_steady(item) for item in listing]
    return listing


class Nftables:
    """Our table on this host. `record`: the file in which the loaded table is recorded."""

    def __init__(self, record: Path) -> None:
        self._record = record
        self._was_open = False
        """Whether the table was missing or changed at the last `read`: then any flow may have begun meanwhile."""

    def _load(self, transaction: dict[str, Any]) -> None:
        load(["-j"], json.dumps(transaction), "the table")

    def _listing_digest(self) -> str | None:
        """A digest of the table as the kernel lists it; None when there is none."""
        result = nft(
            ["-j", "-p", "list", "table", FAMILY, FILTER_TABLE]
        )  # -p: numbers of protocols, so that the listing does not depend on /etc/protocols
        if result.returncode != 0:
            return None
        try:
            listing = json.loads(result.stdout)
        except ValueError as error:
            raise EngineError("nft gave no JSON") from error
        return hashlib.sha256(json.dumps(_steady(listing), sort_keys=True).encode()).hexdigest()

    def read(self) -> FilterTable | None:
        """The loaded table; a changed table reads as an empty one, which differs from every desired state."""
        listed, record = self._listing_digest(), self._read_record()
        self._was_open = record is not None and record.get("listing") != listed
        if listed is None:
            return None
        try:
            if record is not None and not self._was_open and record["rendering"] == RENDERING:
                return table_of(record["table"])
        except (ValueError, KeyError, TypeError):
            pass
        return FilterTable(frozenset(), ())

    def _read_record(self) -> dict[str, Any] | None:
        try:
            record: dict[str, Any] = json.loads(kept(self._record))
        except (OSError, ValueError):
            return None
        return record if isinstance(record, dict) else None

    def stands(self) -> bool:
        """Whether the table is unchanged since it was loaded last; True where none was loaded."""
        record = self._read_record()
        return record is None or record.get("listing") == self._listing_digest()

    def restore(self) -> int | None:
        """Load the last table again; returns the count of ended flows. None: unchanged, or none was loaded."""
        table = self._loaded()
        if table is None or self.stands():
            return None
        self._was_open = True
        return self.set(table)

    def _loaded(self) -> FilterTable | None:
        """The table that was loaded last, even if it was changed since."""
        record = self._read_record()
        try:
            return table_of(record["table"]) if record is not None else None
        except (ValueError, KeyError, TypeError):
            return None

    def set(self, table: FilterTable) -> int:
        """Replace the table in one transaction, and end flows that only the old table allowed; returns their count.

        A table that was missing or changed allowed all flows.
        """
        before, was_open = self._loaded(), self._was_open
        self._load(render(table))
        ended = 0
        if was_open:
            ended = conntrack.end_flows_beside(table)
        elif before is not None:
            ended = conntrack.end_flows(before, table)
        record = {
            "listing": self._listing_digest(),
            "rendering": RENDERING,
            "table": plain_table(table),
        }
        keep(self._record, json.dumps(record))
        self._was_open = False
        return ended

    def remove(self) -> None:
        """Remove the table; no error when there is none."""
        self._load(remove())
        forget(self._record)
