"""Opens the host's own firewall for our links, with the firewall's own tools, and closes it again.

Only for `firewall: manage`. Openings are recorded before they are made, so a crash leaves no unrecorded one. An apply
does not fail when the firewall refuses: the refusal is reported (`troubles`) and the opening tried again.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path

from netctl.engine.filter.nft import TIMEOUT_S, first_line, nft
from netctl.engine.hostfirewall.reading import HostFilter
from netctl.engine.records import forget, keep, kept
from netctl.model.errors import EngineError
from netctl.model.hoststate import Opening
from netctl.node.firewall.openings import MARK, is_rule_of, stands

OPENINGS_FILE = "openings.json"
MAX_OPENINGS = 256
"""Openings at most: two for each LAN and link; no host has more."""
MAX_TWICE = 16
"""Copies of one rule that are removed: each crash leaves at most one more."""
XTABLES_WAIT_S = 5
"""Seconds to wait for another iptables' lock."""
_WORD = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
"""A name of a link, table or chain that is safe as an argument of a program which parses its arguments."""


class Opener:
    """Our openings in the host's firewall. `record`: the file in which they are recorded."""

    def __init__(self, record: Path, found: HostFilter) -> None:
        self._record = record
        self._found = found
        self._refused: dict[Opening, str] = {}

    def recorded(self) -> frozenset[Opening]:
        """The recorded openings, whether they are in force or not."""
        try:
            rows = json.loads(kept(self._record))
            return frozenset(Opening(**row) for row in rows)
        except (OSError, ValueError, TypeError):
            return frozenset()

    def read(self) -> frozenset[Opening]:
        """The openings, and whether each is in force. A refused one counts as in force: no apply could change it."""
        recorded = self.recorded()
        if not recorded:
            return frozenset()
        there = self._found.read()
        return frozenset(replace(one, stands=one in self._refused or stands(one, there)) for one in recorded)

    def _keep(self, openings: Iterable[Opening]) -> None:
        rows = [asdict(replace(one, stands=True)) for one in sorted(openings)]
        if rows:
            keep(self._record, json.dumps(rows[:MAX_OPENINGS]), generations_too=True)
        else:
            forget(self._record)

    def open(self, opening: Opening) -> None:
        """Make an opening. A refusal becomes one of `troubles`. Raises EngineError where it cannot be recorded."""
        recorded = self.recorded()
        self._keep({*recorded, opening})
        try:
            self._do(opening, again=opening in recorded)
        except EngineError as error:
            self._refused[opening] = str(error)
        else:
            self._refused.pop(opening, None)

    def close(self, opening: Opening) -> None:
        """Remove an opening; a missing one is no error. Raises EngineError where the firewall refuses."""
        opening = replace(opening, stands=True)
        _UNDO[opening.manager](opening, self._found)
        self._refused.pop(opening, None)
        self._keep(self.recorded() - {opening})

    def troubles(self) -> tuple[str, ...]:
        """The refused openings, in words for people."""
        return tuple(
            f"the firewall cannot be opened: {why}; it is tried again by itself"
            for why in self._refused.values()
        )

    def retry(self) -> None:
        """Try refused openings again."""
        for opening in tuple(self._refused):
            self.open(opening)

    def _do(self, opening: Opening, *, again: bool) -> None:
        if again:  # incomplete, or removed by somebody: the firewall's own files may still contain it
            _UNDO[opening.manager](opening, self._found)
        _DO[opening.manager](opening)
        if not stands(opening, self._found.read()):
            raise EngineError(f"{opening.manager} took the rule, and it is not in force")


def _run(argv: list[str], *harmless: str) -> None:
    """Run a program. Raises EngineError with its last line, unless that has one of these words."""
    if shutil.which(argv[0]) is None:
        raise EngineError(f"`{argv[0]}` is missing")
    try:
        result = subprocess.run(
            argv,
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise EngineError(f"`{' '.join(argv)}`: {error}") from error
    said = (result.stderr.strip() or result.stdout.strip() or "no reason given").splitlines()[-1]
    if result.returncode != 0 and not any(word in said for word in harmless):
        raise EngineError(f"`{' '.join(argv)}`: {said}")


def _ufw(opening: Opening) -> tuple[list[str], list[str]]:
    """The words before and after `allow`."""
    if opening.port:
        return [], [f"{opening.ports(':')}/udp"]
    into = ["in", "on", opening.iif]
    return (["route"], [*into, "out", "on", opening.oif]) if opening.oif else ([], into)


def _open_ufw(opening: Opening) -> None:
    before, after = _ufw(opening)
    _run(["ufw", *before, "allow", *after, "comment", MARK])


def _close_ufw(opening: Opening, found: HostFilter) -> None:
    if shutil.which("ufw") is None:
        return  # its rules are gone, too
    before, after = _ufw(opening)
    _run(["ufw", "--force", *before, "delete", "allow", *after], "non-existent")


def _firewalld(opening: Opening, verb: str) -> list[str]:
    if opening.port:
        return [f"--{verb}-port={opening.ports('-')}/udp"]
    return ["--zone=trusted", f"--{verb}-interface={opening.iif}"]


def _open_firewalld(opening: Opening) -> None:
    # Not --reload: it would remove the temporary settings of others.
    for how in ([], ["--permanent"]):
        _run(["firewall-cmd", *how, *_firewalld(opening, "add")], "ALREADY_ENABLED")


def _close_firewalld(opening: Opening, found: HostFilter) -> None:
    if shutil.which("firewall-cmd") is None:
        return
    what = _firewalld(opening, "remove")
    gone = ("NOT_ENABLED", "UNKNOWN_INTERFACE", "ZONE_CONFLICT", "not in")
    try:
        _run(["firewall-cmd", "--state"])
    except EngineError:  # firewalld does not run: its settings for the next start are in its files
        _run(["firewall-offline-cmd", *what], *gone)
        return
    for how in ([], ["--permanent"]):
        _run(["firewall-cmd", *how, *what], *gone)


def _iptables(opening: Opening, verb: str) -> list[str]:
    family, table, chain = opening.place.split()
    program = "iptables" if family == "ip" else "ip6tables"
    nft_one = f"{program}-nft"
    what = ["-p", "udp", "-m", "udp", "--dport", opening.ports(":")] if opening.port else ["-i", opening.iif]
    what += ["-o", opening.oif] if opening.oif else []
    return [
        nft_one if shutil.which(nft_one) else program,
        *("-w", str(XTABLES_WAIT_S), "-t", table, verb, chain),
        *(*what, "-m", "comment", "--comment", MARK, "-j", "ACCEPT"),
    ]


def _open_iptables(opening: Opening) -> None:
    _run(_iptables(opening, "-I"))


def _close_iptables(opening: Opening, found: HostFilter) -> None:
    for _ in range(MAX_TWICE):
        try:
            _run(_iptables(opening, "-C"))
        except EngineError:
            return  # the rule, its chain or iptables is gone
        _run(_iptables(opening, "-D"))


def _nft_words(opening: Opening) -> tuple[list[str], str]:
    """The place and the text of the rule."""
    place = opening.place.split()
    for word in (*place, opening.iif or MARK, opening.oif or MARK):
        if not _WORD.fullmatch(word):
            raise EngineError(f"'{word}' is no name that a rule of nftables can be made with")
    if opening.port:
        return place, f'udp dport {opening.ports("-")} accept comment "{MARK}"'
    out = f' oifname "{opening.oif}"' if opening.oif else ""
    return place, f'iifname "{opening.iif}"{out} accept comment "{MARK}"'


def _open_nft(opening: Opening) -> None:
    place, rule = _nft_words(opening)
    result = nft(["-f", "-"], f"insert rule {' '.join(place)} {rule}\n")
    if result.returncode != 0:
        raise EngineError(f"nft refused a rule in {' '.join(place)}: {first_line(result)}")


def _close_nft(opening: Opening, found: HostFilter) -> None:
    place, _ = _nft_words(opening)
    for table in found.read().tables:
        for chain in table.chains.values():
            for rule in chain.rules:
                if rule.handle and is_rule_of(opening, table, chain, rule):
                    _run(["nft", "delete", "rule", *place, "handle", str(rule.handle)], "No such file")


_DO: dict[str, Callable[[Opening], None]] = {
    "ufw": _open_ufw,
    "firewalld": _open_firewalld,
    "iptables": _open_iptables,
    "nft": _open_nft,
}
_UNDO: dict[str, Callable[[Opening, HostFilter], None]] = {
    "ufw": _close_ufw,
    "firewalld": _close_firewalld,
    "iptables": _close_iptables,
    "nft": _close_nft,
}
