"""The live data of a host in a terminal (`netctl top`), drawn by rich: one line for each peer.

Text from others is made printable, so that it cannot control the terminal.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from netctl.model.forpeople import counted
from netctl.model.printable import printable
from netctl.ui.peerhistory import PeerHistory, Sample
from netctl.ui.peerview import cells, matches, presence, troubles
from netctl.ui.plots import braille
from netctl.wire.agentrequests import PeerState, StatusReply

LOOK = {"online": "green", "silent": "yellow", "offline": "dim", "unknown": "dim"}
"""Styles of rich by presence."""
PLOT_CELLS = 16
"""Columns of a plot, with two samples in each: the last half minute."""
MAX_FILTER = 64
"""Characters of a filter."""
HELP = "q leaves · s sorts by the next column · r turns round · / filters · ↑↓ moves"
WIDE = 100
"""Columns that a terminal needs to have room for plots."""


def _traffic(peer: PeerState, sample: Sample | None) -> Any:
    return -(sample.rx_rate + sample.tx_rate) if sample is not None else 0.0


ORDERS: dict[str, Callable[[PeerState, Sample | None], Any]] = {
    "name": lambda peer, _: peer.name,
    "path": lambda peer, _: (presence(peer) != "online", peer.path, peer.name),
    "rtt": lambda peer, _: (peer.rtt_ms is None, peer.rtt_ms or 0.0, peer.name),
    "traffic": lambda peer, sample: (_traffic(peer, sample), peer.name),
    "handshake": lambda peer, _: (peer.last_handshake_s is None, peer.last_handshake_s or 0.0, peer.name),
}
"""The key by which rows are sorted, for each column that can be chosen."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What the person has chosen.

    `turned`: the order is reversed; `words`: the filter; `typing`: the person is typing the filter; `top`: the index of
    the first line shown; `left`: the person quits.
    """

    order: str = "name"
    turned: bool = False
    words: str = ""
    typing: bool = False
    top: int = 0
    left: bool = False


def pressed(choice: Choice, key: str) -> Choice:
    """The choice after a key was pressed: a character, or ``up``, ``down``, ``enter``, ``escape``,
    ``backspace``."""
    if choice.typing:
        if key in ("enter", "escape"):
            return replace(choice, typing=False, words="" if key == "escape" else choice.words)
        if key == "backspace":
            return replace(choice, words=choice.words[:-1], top=0)
        if len(key) == 1 and key.isprintable():
            return replace(choice, words=(choice.words + key)[:MAX_FILTER], top=0)
        return choice
    names = list(ORDERS)
    match key:
        case "q":
            return replace(choice, left=True)
        case "s":
            return replace(choice, order=names[(names.index(choice.order) + 1) % len(names)], top=0)
        case "r":
            return replace(choice, turned=not choice.turned, top=0)
        case "/":
            return replace(choice, typing=True, words="", top=0)
        case "escape":
            return replace(choice, words="", top=0)
        case "up":
            return replace(choice, top=max(choice.top - 1, 0))
        case "down":
            return replace(choice, top=choice.top + 1)
    return choice


def listed(status: StatusReply, history: PeerHistory, choice: Choice) -> list[PeerState]:
    """The peers that the filter lets through, sorted as chosen."""
    found = [peer for peer in status.peers if matches(peer, choice.words, (), "")]
    order = ORDERS[choice.order]
    return sorted(found, key=lambda peer: order(peer, history.last(peer.name)), reverse=choice.turned)


def picture(
    status: StatusReply | None,
    error: str | None,
    history: PeerHistory,
    choice: Choice,
    size: tuple[int, int],
    now: float,
) -> RenderableType:
    """What fills a screen of `size` (columns, lines) at `now` (monotonic seconds). `error`: why there is no new
    status."""
    width, height = size
    said = [error] if error is not None else troubles(status) if status is not None else []
    head: list[RenderableType] = [_title(status)]
    head += [
        Text(f"! {printable(line)}", style="red", no_wrap=True, overflow="ellipsis") for line in said[:3]
    ]
    foot = Text(f"filter: {choice.words}▏" if choice.typing else HELP, style="dim", no_wrap=True)
    if choice.words and not choice.typing:
        foot = Text(f"filter: {choice.words} (escape shows all) · {HELP}", style="dim", no_wrap=True)
    if status is None:
        return Group(*head, foot)
    peers = listed(status, history, choice)
    room = max(height - len(head) - 3, 1)
    top = min(choice.top, max(len(peers) - room, 0))
    table = _table(choice, wide=width >= WIDE)
    for peer in peers[top : top + room]:
        table.add_row(*_row(peer, history, now, wide=width >= WIDE))
    hidden = len(peers) - len(peers[top : top + room])
    if hidden:
        foot = Text(f"{hidden} more · ", style="dim", no_wrap=True) + foot
    return Group(*head, table, foot)


def _title(status: StatusReply | None) -> Text:
    if status is None:
        return Text("netctl top", style="bold")
    online = sum(presence(peer) == "online" for peer in status.peers)
    title = Text(printable(status.member or "not a member"), style="bold", no_wrap=True)
    return title.append(f"  {online} of {counted(len(status.peers), 'other')} online", style="not bold")


def _table(choice: Choice, *, wide: bool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", expand=False)
    table.add_column("", no_wrap=True)
    heads: Sequence[tuple[str, str]] = [("name", "name"), ("", "address"), ("path", "path"), ("rtt", "rtt")]
    heads = [*heads, *([("", "")] if wide else []), ("traffic", "in"), ("", "out")]
    heads = [*heads, *([("", "")] if wide else []), ("handshake", "handshake")]
    for order, text in heads:
        arrow = (" ▲" if choice.turned else " ▼") if order and order == choice.order else ""
        table.add_column(text + arrow, no_wrap=True, overflow="ellipsis")
    return table


def _row(peer: PeerState, history: PeerHistory, now: float, *, wide: bool) -> list[Text]:
    shown = cells(peer, history.last(peer.name))
    past = history.of(peer.name, now) if wide else ()
    address = next((text for held in peer.addresses.values() for text in held), "")
    odd = shown.presence == "silent" or peer.path.startswith("relay")
    row = [
        Text({"online": "●", "unknown": "?"}.get(shown.presence, "○"), style=LOOK[shown.presence]),
        Text(printable(peer.name), style="dim" if shown.presence == "offline" else ""),
        Text(printable(address)),
        Text(shown.path_text, style="yellow" if odd else ""),
        Text(shown.rtt),
    ]
    if wide:
        row.append(Text(braille([one.rtt_ms for one in past], PLOT_CELLS), style="cyan"))
    row += [Text(shown.received), Text(shown.sent)]
    if wide:
        row.append(Text(braille([one.rx_rate + one.tx_rate for one in past], PLOT_CELLS), style="cyan"))
    return [*row, Text(shown.handshake.removesuffix(" ago"))]
