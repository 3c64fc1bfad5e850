"""The document of all pairs, from trials that are written here."""

from __future__ import annotations

import itertools

import pytest

from netctl.lab.connectivity import cells_of, percentile, plain_rate, render, weighted
from netctl.lab.matrix import Trial, document_of, pairs_of
from netctl.lab.nat import NatKind
from netctl.lab.theory import SHARES, Verdict, shares_of_kinds, theory


def trial(one: NatKind, other: NatKind, run: int = 0, **changes: object) -> Trial:
    direct = theory(one, other) is not Verdict.RELAYED
    path = "direct" if direct else "relay-udp"
    plain = {
        "one": str(one),
        "other": str(other),
        "run": run,
        "connected": True,
        "paths": (path, path),
        "first_packet_s": 0.1,
        "direct_s": 0.2 if direct else None,
        "lost": 0,
        "relayed": 0,
        "when": "2026-01-02 03:04",
        "load": 0.5,
    }
    return Trial(**{**plain, **changes})  # type: ignore[arg-type]


def every(runs: int = 1) -> list[Trial]:
    return [trial(one, other, run) for one, other in pairs_of(list(NatKind)) for run in range(runs)]


def test_a_trial_is_a_line_and_a_line_a_trial() -> None:
    one = trial(NatKind.OPEN, NatKind.FIREWALL)
    assert "\n" not in one.to_json()
    assert Trial.from_json(one.to_json()) == one


def test_only_what_is_connected_and_agreed_on_is_direct() -> None:
    one = (NatKind.OPEN, NatKind.OPEN)
    assert trial(*one).direct
    assert not trial(*one, paths=("direct", "relay-udp")).direct
    assert not trial(*one, connected=False).direct
    assert not trial(*one, problem="packets at the relay").direct


@pytest.mark.parametrize(
    ("one", "other", "verdict"),
    [
        ("port-restricted", "port-restricted", Verdict.DIRECT),
        ("symmetric-random", "address-restricted", Verdict.DIRECT),
        ("symmetric-random", "full-cone", Verdict.DIRECT),
        ("symmetric-random", "firewall", Verdict.BIRTHDAY),
        ("address-dependent", "port-changed", Verdict.BIRTHDAY),
        ("port-block", "port-restricted", Verdict.PREDICTED),
        ("symmetric-random", "symmetric-sequential", Verdict.RELAYED),
        ("open", "udp-blocked", Verdict.RELAYED),
    ],
)
def test_theory(one: str, other: str, verdict: Verdict) -> None:
    assert theory(NatKind(one), NatKind(other)) is verdict
    assert theory(NatKind(other), NatKind(one)) is verdict


def test_shares_are_whole_and_name_kinds_that_exist_or_may() -> None:
    assert sum(share for share, _ in SHARES.values()) == 100
    assert {str(kind) for kind in NatKind} <= {kind for _, kinds in SHARES.values() for kind in kinds}
    present = frozenset(str(kind) for kind in NatKind)
    assert sum(shares_of_kinds(present).values()) == pytest.approx(1)
    other = shares_of_kinds(present, 1.5)
    assert sum(other.values()) == pytest.approx(1)
    assert other["udp-blocked"] == pytest.approx(0.015)


def test_weighing_draws_both_sides() -> None:
    kinds = [NatKind.OPEN, NatKind.UDP_BLOCKED]
    open_share = 8 / 11
    assert weighted(kinds, plain_rate) == pytest.approx(open_share**2)
    assert weighted(list(NatKind), lambda one, other: 1.0) == pytest.approx(1)
    assert 0.75 < weighted(list(NatKind), plain_rate) < 0.80


def test_a_percentile_is_a_value_that_was_seen() -> None:
    values = [0.1 * step for step in range(1, 101)]
    assert percentile(values, 99) == pytest.approx(9.9)
    assert percentile([3.0, 1.0, 2.0], 99) == 3.0
    assert percentile([1.0], 50) == 1.0


def test_the_document_says_what_was_measured() -> None:
    text = render(every(3), "a machine of words")
    assert "a machine of words" in text
    assert f"{3 * len(pairs_of(list(NatKind)))} of {3 * len(pairs_of(list(NatKind)))}" in text
    assert "## What missed its aim\n\nNothing." in text
    assert "busy machine" not in text
    assert "not every pair" not in text


def test_the_document_says_what_failed() -> None:
    bad = trial(
        NatKind.OPEN,
        NatKind.OPEN,
        1,
        paths=("relay-udp", "relay-udp"),
        direct_s=None,
        load=7.0,
        problem="odd",
    )
    lonely = trial(
        NatKind.OPEN, NatKind.FIREWALL, 1, connected=False, paths=("none", "none"), first_packet_s=None
    )
    text = render([*every(), bad, lonely], "words")
    assert "open – open: theory allows punching, 1 of 2 were direct" in text
    assert "open – open, run 2: odd" in text
    assert "open – firewall: 1 of 2 were connected at all" in text
    assert "direct 1 of 2" in text


def test_a_part_of_the_pairs_has_no_weighted_rate() -> None:
    text = render([trial(NatKind.OPEN, NatKind.OPEN)], "words")
    assert text.count("not every pair was measured") == 2
    assert len(cells_of([trial(NatKind.OPEN, NatKind.OPEN)])) == 1


def test_the_document_of_a_lab_gives_each_pair_a_network_of_its_own() -> None:
    pairs = list(itertools.islice(pairs_of(list(NatKind)), 5))
    text, sidecar = document_of(pairs)
    assert text.count('"pair-') == 5
    assert sidecar.count('"open-a-box"') == 1
