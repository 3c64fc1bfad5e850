"""The relay's options for limits, and its part of `netctl-mediator status`."""

from __future__ import annotations

import argparse
from typing import Any

from mediator.core.relay_limits import Limits
from mediator.shell import output
from netctl.model.forpeople import counted
from netctl.model.portspans import spans_text

LIMITS = (
    ("--pair-rate", "MBIT/S", 1000.0, "what one member may send to one other"),
    ("--member-rate", "MBIT/S", 0.0, "what one member may send to all others together"),
    ("--quota", "GB", 0.0, "what one member may send and get in a day"),
)
MAX_LIMIT = 1e6
"""In the option's unit: a terabit or a petabyte; a larger value is a mistake of the unit."""
BYTES_OF_MBIT = 125_000
BYTES_OF_GB = 1_000_000_000
CLOCK_NOTICE_S = 300.0
"""A clock that is so far behind is wrong: machines that ask time servers are within a second."""
BUSIEST = 5
"""Members that `status` lists; JSON has more."""


def add_limits(parser: argparse.ArgumentParser) -> None:
    """Add the options for a relay's limits, in the units in which people buy lines and traffic."""
    group = parser.add_argument_group("limits of the relay (0: none)")
    for option, unit, default, what in LIMITS:
        group.add_argument(
            option, type=_amount, metavar=unit, default=default, help=f"{what} (default {default:g})"
        )


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= MAX_LIMIT:
        raise argparse.ArgumentTypeError(f"'{text}' is no number from 0 to {MAX_LIMIT:g}")
    return value


def limits_of(arguments: argparse.Namespace) -> Limits:
    """The limits from the options, in bytes."""
    return Limits(
        pair_rate=arguments.pair_rate * BYTES_OF_MBIT,
        member_rate=arguments.member_rate * BYTES_OF_MBIT,
        quota=int(arguments.quota * BYTES_OF_GB),
    )


def say_relay(relay: dict[str, Any] | None, names: dict[int, str]) -> None:
    """Print the traffic of members, refused bytes, and which apps are bound."""
    if relay is None:
        output.line("no relay runs here")
        return
    done, limits = relay["counters"], relay["limits"]
    output.line(
        f"relay: {counted(relay['bindings'], 'binding')}, {_size(done['forwarded_bytes'])} passed on, "
        f"datagrams dropped: {done['dropped_stranger']} of strangers, {done['dropped_type']} not WireGuard's, "
        f"{done['dropped_rate']} beyond a limit"
    )
    for row in relay["accounts"][:BUSIEST]:
        quota = f" of {_size(limits['quota'])}" if limits["quota"] else ""
        refused = f", {_size(row['refused'])} refused" if row["refused"] else ""
        output.line(
            f"  {names.get(row['port'], row['port'])}: {_size(row['sent'])} sent, {_size(row['received'])} "
            f"received, {_size(row['today'])}{quota} today{refused}"
        )
    if relay.get("unheld"):  # not told by a relay of an earlier release that still runs
        output.warning(
            f"{relay['unheld_in_all']} of {counted(relay['ports'], 'relay port')} cannot be had, because other "
            f"programs hold them: UDP {spans_text(relay['unheld'])}; they are tried again (reserve them with "
            "net.ipv4.ip_local_reserved_ports)"
        )
    if relay["clock_behind_s"] > CLOCK_NOTICE_S:
        output.warning(
            f"this machine's clock is at least {relay['clock_behind_s'] / 60:.0f} minutes behind a mediator's: grants "
            "of mediators show it"
        )
    if relay["ahead"] or relay["overdue"]:
        output.warning(
            f"refused by this machine's clock: {counted(relay['overdue'], 'message')} with a grant that is over, "
            f"{relay['ahead']} with one that ends too late"
        )
    heard = [side["at"] is not None for pair in relay["pairs"] for side in pair["sides"] if side["stock"]]
    if heard:
        output.line(f"  stock apps heard: {sum(heard)} of {counted(len(heard), 'pair')}")


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
