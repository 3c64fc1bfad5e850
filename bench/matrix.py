"""Every pair of kinds of boxes with real agents and packets, and `docs/connectivity.md` from it. As root.

Run: python bench/matrix.py [--runs 3] [--only KIND …] [--birthday N] [--again] [--report]. Each run is a line of
docs/connectivity.jsonl: a second call does what is missing, `--again` does everything anew, `--report` only writes the
document. `--minutes` bounds it. `--families` measures address families instead and writes docs/families.md.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from netctl.lab import families
from netctl.lab.connectivity import render
from netctl.lab.matrix import Trial, pairs_of, standing
from netctl.lab.namespaces import check_machine
from netctl.lab.nat import NatKind
from netctl.lab.theory import Verdict, theory
from netctl.model.errors import NetctlError

DOCS = Path(__file__).parents[1] / "docs"
FAMILIES = DOCS / "families.md"
RESULTS, DOCUMENT = DOCS / "connectivity.jsonl", DOCS / "connectivity.md"
MINUTES = 25.0
Pair = tuple[NatKind, NatKind]


def chosen(only: list[NatKind] | None) -> list[Pair]:
    """The pairs to measure. `only` None: all; one kind: with every other; several kinds: among themselves."""
    every = pairs_of(list(NatKind))
    if not only:
        return every
    if len(only) == 1:
        return [pair for pair in every if only[0] in pair]
    return [pair for pair in every if set(pair) <= set(only)]


def read(path: Path) -> list[Trial]:
    """The trials of earlier calls."""
    return [Trial.from_json(line) for line in path.read_text().splitlines()] if path.exists() else []


def missing(pairs: list[Pair], done: list[Trial], runs: int) -> list[tuple[Pair, int]]:
    """The missing runs: every pair once before any pair a second time."""
    counts = Counter((trial.one, trial.other) for trial in done)
    return [(pair, run) for run in range(runs) for pair in pairs if counts[str(pair[0]), str(pair[1])] <= run]


def machine() -> str:
    """A description of this machine."""
    cores = os.cpu_count() or 1
    return f"a virtual machine with {cores} shared core{'s' if cores > 1 else ''}"


def told(trial: Trial) -> str:
    """A progress line about a trial."""
    first = "never" if trial.first_packet_s is None else f"{trial.first_packet_s:.2f} s"
    direct = "" if trial.direct_s is None else f", direct after {trial.direct_s:.2f} s"
    paths = " and ".join(dict.fromkeys(trial.paths))
    return f"{trial.one} x {trial.other}: {paths}; first packet {first}{direct} {trial.problem}".rstrip()


def measure(pairs: list[Pair], work: list[tuple[Pair, int]], results: Path, minutes: float) -> None:
    """Run the missing trials; saves each result at once."""
    deadline = time.monotonic() + 60 * minutes
    with (
        tempfile.TemporaryDirectory() as directory,
        results.open("a") as kept,
        standing(Path(directory), pairs, lambda text: print(f"  {text}", flush=True)) as matrix,
    ):
        for number, (pair, run) in enumerate(work, 1):
            if time.monotonic() > deadline:
                print(
                    f"{minutes:g} minutes are over: {len(work) - number + 1} runs are left for another time"
                )
                return
            trial = matrix.trial(*pair, run)
            kept.write(trial.to_json() + "\n")
            kept.flush()
            print(f"{number}/{len(work)} {told(trial)}", flush=True)


def measure_families(document: Path) -> int:
    """Measure every pair of families with a mediator of each; the count of pairs without their expected path."""
    found: list[families.Meeting] = []
    for mediator in families.MEDIATORS:
        every = families.reaching(list(families.Family), mediator)
        with (
            tempfile.TemporaryDirectory() as directory,
            families.standing(Path(directory), every, mediator) as (lab, began),
        ):
            seen = families.meetings(lab, began, every, mediator)
        found += seen
        slowest = max((meeting.seconds or 0.0 for meeting in seen), default=0.0)
        wrong = [meeting for meeting in seen if meeting.seconds is None]
        print(
            f"mediator {mediator}: {len(seen) - len(wrong)} of {len(seen)} pairs as they should be, {slowest:.1f} s"
        )
    document.write_text(families.render(found, machine()))
    return sum(meeting.seconds is None for meeting in found)


def main() -> int:
    """Measure what is missing, then write the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=3, help="of every pair (default: 3)")
    parser.add_argument(
        "--only",
        action="append",
        type=NatKind,
        metavar="KIND",
        help="pairs of this kind; of several: among them",
    )
    parser.add_argument(
        "--birthday", type=int, metavar="N", help="N runs of the pairs by birthday, and no others"
    )
    parser.add_argument("--again", action="store_true", help="forget what was measured before")
    parser.add_argument("--report", action="store_true", help="write the document and measure nothing")
    parser.add_argument(
        "--minutes", type=float, default=MINUTES, help="begin no run after so many (default: 25)"
    )
    parser.add_argument("--families", action="store_true", help="address families instead of kinds of NAT")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where runs are kept, a line each")
    parser.add_argument("--document", type=Path, default=DOCUMENT, help="what is written from them")
    arguments = parser.parse_args()
    if arguments.families:
        return 1 if measure_families(FAMILIES) else 0
    pairs = chosen(arguments.only)
    runs = arguments.runs
    if arguments.birthday is not None:
        pairs, runs = [pair for pair in pairs if theory(*pair) is Verdict.BIRTHDAY], arguments.birthday
    if arguments.again:
        arguments.results.unlink(missing_ok=True)
    try:
        work = missing(pairs, read(arguments.results), runs)
        if work and not arguments.report:
            check_machine()
            measure(pairs, work, arguments.results, arguments.minutes)
        trials = read(arguments.results)
    except NetctlError as error:
        print(f"matrix: {error}", file=sys.stderr)
        return 1
    if not trials:
        print("matrix: nothing has been measured yet", file=sys.stderr)
        return 1
    arguments.document.write_text(render(trials, machine()))
    print(f"{arguments.document}: {len(trials)} runs")
    return 0


if __name__ == "__main__":
    sys.exit(main())
