"""Reads the packet filter of this host: all tables but ours.

No program is run while nftables reports no change.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

from netctl.engine.filter.nft import TIMEOUT_S, first_line, nft
from netctl.engine.hostfirewall import iptables, nftjson
from netctl.engine.nlsocket import NetlinkSocket, attributes
from netctl.model.errors import EngineError
from netctl.model.hoststate import FILTER_TABLE, REWRITE_TABLE
from netctl.model.packetfilter import PacketFilter, Table

OURS = frozenset({("inet", FILTER_TABLE), ("inet", REWRITE_TABLE)})
MAX_TABLES = 64
"""Tables at most: nobody has more, and listing each takes some milliseconds."""
LEGACY_NAMES = {"ip": Path("/proc/net/ip_tables_names"), "ip6": Path("/proc/net/ip6_tables_names")}
"""Files with the names of legacy iptables' tables; a missing file: none."""
PROGRAMS = {"ip": "iptables", "ip6": "ip6tables"}
_GET_GENERATION = 10 << 8 | 16
"""NFNL_SUBSYS_NFTABLES, NFT_MSG_GETGEN (linux/netfilter/nf_tables.h)."""
_NETFILTER = 12
_GENERATION_ID = 1


def generation() -> int | None:
    """A number that increases with each change of any nftables table; None: the kernel does not report it."""
    with contextlib.suppress(OSError), contextlib.closing(NetlinkSocket(_NETFILTER)) as asker:
        for body in asker.ask(_GET_GENERATION, bytes(4)):  # struct nfgenmsg
            # The number is in network byte order, as all numbers of nftables.
            if (found := attributes(body[4:]).get(_GENERATION_ID)) is not None:
                return int.from_bytes(found, "big")
    return None


class HostFilter:
    """The packet filter of this host, cached until it changes."""

    def __init__(self) -> None:
        self._at: tuple[object, ...] | None = None
        self._kept = PacketFilter()

    def read(self) -> PacketFilter:
        """All tables that are not ours; `unread` names the parts that could not be read."""
        now = (generation(), *map(_legacy_tables, LEGACY_NAMES))
        if self._at is None or now != self._at:
            found, whole = _read()
            self._kept = found if found != self._kept else self._kept
            # Changes of legacy iptables are not announced; a failed reading may succeed the next time.
            self._at = now if whole and now[0] is not None and not any(now[1:]) else None
        return self._kept


def _legacy_tables(family: str) -> str:
    try:
        return LEGACY_NAMES[family].read_text()
    except OSError:
        return ""


def _read() -> tuple[PacketFilter, bool]:
    """All readable tables, and whether nothing failed or changed meanwhile."""
    unread: list[str] = []
    found: list[Table] = []
    steady = True
    try:
        listed, steady = _nftables()
        found += listed
    except EngineError as error:
        unread.append(str(error))
    for family, program in PROGRAMS.items():
        if _legacy_tables(family).strip():
            saved = _save(f"{program}-legacy-save")
            if saved is None:
                unread.append(f"there are tables of {program}-legacy, which is not here")
            else:
                found += iptables.legacy(saved, family)
    return PacketFilter(tuple(found), "; ".join(unread)), steady and not unread


def _nftables() -> tuple[list[Table], bool]:
    listed = _listing("list", "tables")
    names = [
        (body["family"], body["name"])
        for item in nftjson.as_list(listed.get("nftables"))
        if isinstance(item, dict)
        and isinstance(body := item.get("table"), dict)
        and isinstance(body.get("name"), str)
        and body.get("family") in nftjson.FAMILIES
        and (body.get("family"), body.get("name")) not in OURS
    ]
    if len(names) > MAX_TABLES:
        raise EngineError(f"there are more than {MAX_TABLES} tables of nftables")
    tables: list[Table] = []
    saved: dict[str, dict[str, Table]] = {}
    steady = True
    for family, name in names:
        try:
            listing = _listing("list", "table", family, name)
        except _GoneError:
            steady = False
            continue
        for table in nftjson.tables(listing):
            if table.is_iptables and family not in saved:
                text = _save(f"{PROGRAMS[family]}-nft-save") or _save(f"{PROGRAMS[family]}-save")
                steady = steady and text is not None
                saved[family] = {one.name: one for one in iptables.tables(text or "", family)}
            other = saved.get(family, {}).get(name)
            tables.append(iptables.named(table, other) if table.is_iptables and other else table)
    return tables, steady


class _GoneError(EngineError):
    """A table disappeared while it was read."""


def _listing(*words: str) -> dict[str, Any]:
    result = nft(["-j", *words])
    if result.returncode != 0:
        line = first_line(result)
        if "No such file" in line:
            raise _GoneError(line)
        raise EngineError(f"nft lists nothing: {line}")
    try:
        listed = json.loads(result.stdout)
    except ValueError as error:
        raise EngineError("nft gave no JSON") from error
    return listed if isinstance(listed, dict) else {}


def _save(program: str) -> str | None:
    """The output of a program of iptables; None where the program is missing or fails."""
    try:
        result = subprocess.run(
            [program],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout if result.returncode == 0 else None
