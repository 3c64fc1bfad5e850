"""Render `docs/connectivity.md` from the trials of a matrix; pure."""

from __future__ import annotations

import itertools
import math
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from netctl.lab.matrix import Trial
from netctl.lab.nat import NatKind
from netctl.lab.theory import BLOCKED, SHARES, Verdict, shares_of_kinds, theory

HOW = {
    Verdict.DIRECT: "punching",
    Verdict.PREDICTED: "prediction",
    Verdict.BIRTHDAY: "birthday",
    Verdict.RELAYED: "none",
}
"""The word in the table for each verdict of the theory."""
ANOTHER_BLOCKED = 1.5
"""Per cent of users with blocked UDP, in the second model of the promised rates."""
RATE_AIMS: Sequence[tuple[str, float | None, float]] = (
    ("weighted direct rate", None, 92),
    (f"weighted direct rate, {ANOTHER_BLOCKED} % blocked", ANOTHER_BLOCKED, 95),
)
"""(name of the rate, share of users with blocked UDP or None for that of SHARES, aim); both in per cent."""
BUSY_LOAD = 2.0
"""Runnable processes on two cores. Above this load, measured times depend on the machine as much as on netctl."""


@dataclass(slots=True)
class Cell:
    """All trials of one pair of kinds."""

    one: NatKind
    other: NatKind
    trials: list[Trial] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """The best path that theory allows."""
        return theory(self.one, self.other)

    @property
    def connected(self) -> int:
        """Count of trials that connected."""
        return sum(trial.connected for trial in self.trials)

    @property
    def direct(self) -> int:
        """Count of trials with a direct path at the end."""
        return sum(trial.direct for trial in self.trials)

    @property
    def rate(self) -> float:
        """Share of trials with a direct path at the end, 0 to 1."""
        return self.direct / len(self.trials)

    def firsts(self) -> list[float]:
        """Seconds until both have heard the other, of the trials that connected."""
        return [trial.first_packet_s for trial in self.trials if trial.first_packet_s is not None]

    def directs(self) -> list[float]:
        """Seconds until the direct path, of the trials that have one."""
        return [trial.direct_s for trial in self.trials if trial.direct and trial.direct_s is not None]

    def word(self) -> str:
        """The text of this pair in the table of all kinds."""
        count = len(self.trials)
        if not count:
            return "–"
        mark = {Verdict.PREDICTED: " ᵖ", Verdict.BIRTHDAY: " ᵇ"}.get(self.verdict, "")
        lost = f", {self.connected} of {count} connected" if self.connected < count else ""
        if self.direct == count:
            return f"direct{mark}{lost}"
        if self.direct:
            return f"direct {self.direct} of {count}{mark}{lost}"
        paths = {path for trial in self.trials for path in trial.paths}
        return ("TLS" if "relay-tls" in paths else "relay") + lost


def cells_of(trials: Iterable[Trial]) -> dict[tuple[NatKind, NatKind], Cell]:
    """Trials by pair, in the order of NatKind. Trials of kinds that no longer exist are left out."""
    found: dict[tuple[NatKind, NatKind], Cell] = {}
    grouped: dict[tuple[str, str], list[Trial]] = defaultdict(list)
    for trial in trials:
        grouped[trial.one, trial.other].append(trial)
    for one, other in itertools.combinations_with_replacement(NatKind, 2):
        runs = grouped.get((str(one), str(other)), [])
        if runs:
            found[one, other] = Cell(one, other, runs)
    return found


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value such that `percent` of all values are no larger (nearest rank)."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def weighted(
    kinds: Iterable[NatKind],
    rate: Callable[[NatKind, NatKind], float],
    blocked_percent: float | None = None,
) -> float:
    """The direct rate of two users drawn independently, 0 to 1."""
    shares = shares_of_kinds(frozenset(str(kind) for kind in kinds), blocked_percent)
    pairs = itertools.product(shares.items(), repeat=2)
    return sum(a * b * rate(NatKind(one), NatKind(other)) for (one, a), (other, b) in pairs)


def plain_rate(one: NatKind, other: NatKind) -> float:
    """The direct rate that theory gives hole punching alone: 1 or 0."""
    return 1.0 if theory(one, other) is Verdict.DIRECT else 0.0


def render(trials: Sequence[Trial], machine: str) -> str:
    """The whole document; `machine` describes the measuring machine."""
    cells = cells_of(trials)
    kinds = [kind for kind in NatKind if any(kind in pair for pair in cells)]
    rates = _rates(cells, kinds)
    parts = [
        _head(cells, machine),
        _promise(cells, rates),
        _table(cells, kinds),
        _weights(cells, kinds),
        _times(cells),
        _problems(cells, rates),
        _how(),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _ms(values: Sequence[float], percent: float) -> str:
    if not values:
        return "–"
    seconds = statistics.median(values) if percent == 50 else percentile(values, percent)
    return f"{seconds:.2f}" if seconds < 10 else f"{seconds:.1f}"


def _span(values: Sequence[str]) -> str:
    first, last = min(values), max(values)
    return first if first == last else f"{first} to {last}"


def _head(cells: dict[tuple[NatKind, NatKind], Cell], machine: str) -> str:
    trials = [trial for cell in cells.values() for trial in cell.trials]
    runs = sorted({len(cell.trials) for cell in cells.values()})
    count = f"{runs[0]}" if len(runs) == 1 else f"{runs[0]} to {runs[-1]}"
    loads = [trial.load for trial in trials]
    load = statistics.median(loads) if loads else 0.0
    busy = (
        f"While it ran, {load:.1f} processes wanted to run (median): the times are those of a busy machine."
        if load > BUSY_LOAD
        else f"While it ran, {load:.1f} processes wanted to run (median)."
    )
    when = _span([trial.when for trial in trials]) if trials else "never"
    return f"""# Connectivity: which pairs are direct, and how soon

Made by `make matrix` from real packets, not by hand: every pair of the kinds of boxes that `netctl lab`
has, with real agents, a real mediator and its relay in network namespaces. Runs of each pair: {count};
{len(trials)} in all.

Measured {when} UTC on {machine}. {busy} The internet between the boxes adds no delay: on a real one, round
trips come on top (to the mediator and back before punching starts, one more between the two)."""


def _rates(cells: dict[tuple[NatKind, NatKind], Cell], kinds: Sequence[NatKind]) -> list[float]:
    """The weighted direct rates of `RATE_AIMS`, 0 to 1; empty unless every pair was measured."""
    if len(cells) < len(NatKind) * (len(NatKind) + 1) // 2:
        return []

    def measured(kind: NatKind, other: NatKind) -> float:
        cell = cells.get((kind, other)) or cells.get((other, kind))
        return cell.rate if cell is not None else 0.0

    return [weighted(kinds, measured, percent) for _, percent, _ in RATE_AIMS]


def _promise(cells: dict[tuple[NatKind, NatKind], Cell], rates: Sequence[float]) -> str:
    trials = [trial for cell in cells.values() for trial in cell.trials]
    connected = sum(trial.connected for trial in trials)
    firsts = [at for cell in cells.values() for at in cell.firsts()]
    udp = [
        at
        for cell in cells.values()
        if NatKind.UDP_BLOCKED not in (cell.one, cell.other)
        for at in cell.firsts()
    ]
    plain = [cell for cell in cells.values() if cell.verdict is Verdict.DIRECT]
    guessed = {
        verdict: [cell for cell in cells.values() if cell.verdict is verdict]
        for verdict in (Verdict.PREDICTED, Verdict.BIRTHDAY)
    }
    directs = [at for cell in plain for at in cell.directs()]

    def ratio(group: Sequence[Cell]) -> str:
        return f"{sum(cell.direct for cell in group)} of {sum(len(cell.trials) for cell in group)}"

    weighed = [f"{100 * rate:.1f} %" for rate in rates] or ["not every pair was measured"] * len(RATE_AIMS)
    rows = [
        ("connected", "all", f"{connected} of {len(trials)}"),
        ("direct where punching can do it", "all", ratio(plain)),
        ("direct by prediction", "", ratio(guessed[Verdict.PREDICTED])),
        ("direct by birthday", "≥ 90 %", ratio(guessed[Verdict.BIRTHDAY])),
        ("time to first packet, p99", "< 1 s", f"{_ms(firsts, 99)} s (without blocked UDP {_ms(udp, 99)} s)"),
        ("time to direct, median, pooled over the pairs by punching", "< 1 s", f"{_ms(directs, 50)} s"),
        ("time to direct, p99, pooled over the pairs by punching", "< 3 s", f"{_ms(directs, 99)} s"),
    ]
    rows += [(name, f"≥ {aim} %", rate) for (name, _, aim), rate in zip(RATE_AIMS, weighed, strict=True)]
    lines = ["## The promise", "", "| | aim | measured |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {what} | {aim} | {found} |" for what, aim, found in rows)])


def _table(cells: dict[tuple[NatKind, NatKind], Cell], kinds: Sequence[NatKind]) -> str:
    lines = [
        "## Every pair",
        "",
        "ᵖ by prediction, ᵇ by birthday. TLS: UDP is blocked on one side, and that side reaches the relay over TLS.",
        "",
        "| | " + " | ".join(kinds) + " |",
        "|---" * (len(kinds) + 1) + "|",
    ]
    for row, one in enumerate(kinds):
        words = [
            cells[one, other].word() if (one, other) in cells else "–" if column >= row else ""
            for column, other in enumerate(kinds)
        ]
        lines.append(f"| **{one}** | " + " | ".join(words) + " |")
    return "\n".join(lines)


def _weights(cells: dict[tuple[NatKind, NatKind], Cell], kinds: Sequence[NatKind]) -> str:
    present = frozenset(str(kind) for kind in kinds)
    shares = ", ".join(f"{name} {share:g}" for name, (share, _) in SHARES.items())
    missing = [name for name, (_, stand) in SHARES.items() if not present & set(stand)]
    left = f" Not measured, and left out of the sums: {', '.join(missing)}." if missing else ""

    def no_udp(one: NatKind, other: NatKind) -> float:
        return 0.0 if NatKind.UDP_BLOCKED in (one, other) else 1.0

    def theoretical(percent: float | None) -> str:
        return f"{100 * weighted(kinds, plain_rate, percent):.1f} %"

    del cells
    return f"""## Weighed by users

Shares of users in per cent: {shares}. Both sides of a pair are drawn independently, so the rate is the sum
of share × share × direct rate; a group of several kinds is shared out evenly.{left} These shares are a
model: nobody has counted.

| | direct |
|---|---|
| plain hole punching on this model, by theory | {theoretical(None)} |
| the same with {ANOTHER_BLOCKED} % of "{BLOCKED}" | {theoretical(ANOTHER_BLOCKED)} |
| the most that is possible while blocked pairs are relayed | {100 * weighted(kinds, no_udp):.1f} % |
| libp2p, 4.4 million attempts in the open, published | 70 % ± 7 |
| Hamachi, its vendor's word | "roughly 95 %" |

The published numbers count other people's networks and are no measurement of this model."""


def _times(cells: dict[tuple[NatKind, NatKind], Cell]) -> str:
    lines = [
        "## Times",
        "",
        "Seconds. With few runs the p99 is the slowest one.",
        "",
        "| pair | by | connected | direct | first packet, median | p99 | direct, median | p99 |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for cell in cells.values():
        count = len(cell.trials)
        figures = [
            f"{cell.one} – {cell.other}",
            HOW[cell.verdict],
            f"{cell.connected}/{count}",
            f"{cell.direct}/{count}",
            _ms(cell.firsts(), 50),
            _ms(cell.firsts(), 99),
            _ms(cell.directs(), 50),
            _ms(cell.directs(), 99),
        ]
        lines.append("| " + " | ".join(figures) + " |")
    return "\n".join(lines)


def _problems(cells: dict[tuple[NatKind, NatKind], Cell], rates: Sequence[float]) -> str:
    lines = [
        f"- {name}: {100 * rate:.2f} %, where {aim} % is the aim."
        for (name, _, aim), rate in zip(RATE_AIMS, rates, strict=False)
        if 100 * rate < aim
    ]
    lines += [
        f"- {cell.one} – {cell.other}: theory allows {HOW[cell.verdict]}, "
        f"{cell.direct} of {len(cell.trials)} were direct."
        for cell in cells.values()
        if cell.verdict in (Verdict.DIRECT, Verdict.PREDICTED) and cell.direct < len(cell.trials)
    ]
    lines += [
        f"- {cell.one} – {cell.other}: {cell.connected} of {len(cell.trials)} were connected at all."
        for cell in cells.values()
        if cell.connected < len(cell.trials)
    ]
    lines += [
        f"- {trial.one} – {trial.other}, run {trial.run + 1}: {trial.problem}."
        for cell in cells.values()
        for trial in cell.trials
        if trial.problem
    ]
    return "\n".join(["## What missed its aim", "", *(lines or ["Nothing."])])


def _how() -> str:
    return """## How it is measured

- Every kind of box stands twice, one host behind each; every pair of kinds has a network of its own. All
  these networks are down at first; the agents run, are logged in, know their NAT, and have no peers.
- A run takes one network up on both hosts (`netctl up`), and from then on a packet goes each way through
  the tunnel every 20 ms. **The clock starts when the later of both has the network's address and sends its
  first packet.**
- Time to first packet: both have heard the other, over whatever path. Time to direct: both agents have
  chosen a direct path.
- What is called direct is checked twice: both agents say so, and while packets flow for half a second the
  relay's host does not receive them.
- Then the network is taken down and what the boxes remember of the pair is deleted, so that every run
  punches anew. Before an attempt by birthday both agents are started anew, since after a failed one they
  would wait for an hour.
- Boxes of the lab are nftables rules ([the kinds](design.md)); real ones differ more than a dozen kinds can
  show. No packets are lost and nothing else runs through the boxes.

`make matrix` goes on where it was interrupted and keeps every run as a line of `docs/connectivity.jsonl`;
`python bench/matrix.py --help` has the options (`--only KIND`, `--runs N`, `--birthday 20`, `--report`)."""
