"""A dozen pairs of kinds of boxes in one lab, with real agents: all connected, and direct where punching can do it."""

from __future__ import annotations

from pathlib import Path

import pytest

from netctl.lab.matrix import DIRECT_KINDS, Trial, standing
from netctl.lab.namespaces import check_machine
from netctl.lab.nat import NatKind
from netctl.lab.theory import Verdict, theory
from netctl.model.errors import LocalError

pytestmark = [pytest.mark.netns, pytest.mark.lab]

K = NatKind
PAIRS = [
    (K.OPEN, K.SYMMETRIC_RANDOM),
    (K.OPEN, K.UDP_BLOCKED),
    (K.OPEN, K.PORT_RESTRICTED),
    (K.FULL_CONE, K.SYMMETRIC_RANDOM),
    (K.FULL_CONE, K.PORT_RESTRICTED),
    (K.ADDRESS_RESTRICTED, K.SYMMETRIC_RANDOM),
    (K.ADDRESS_RESTRICTED, K.PORT_CHANGED),
    (K.PORT_RESTRICTED, K.PORT_RESTRICTED),
    (K.PORT_RESTRICTED, K.PORT_CHANGED),
    (K.PORT_RESTRICTED, K.UDP_BLOCKED),
    (K.SYMMETRIC_RANDOM, K.SYMMETRIC_RANDOM),
    (K.UDP_BLOCKED, K.UDP_BLOCKED),
]
MOST_LOST = 3
"""Of 50: packets that were on their way when counting began or ended."""


def wrong(trial: Trial) -> bool:
    verdict = theory(NatKind(trial.one), NatKind(trial.other))
    wanted = trial.direct if verdict is Verdict.DIRECT else not set(trial.paths) & set(DIRECT_KINDS)
    return not trial.connected or not wanted or trial.lost > MOST_LOST or bool(trial.problem)


def test_a_dozen_pairs(tmp_path: Path) -> None:
    try:
        check_machine()
    except LocalError as error:
        pytest.skip(str(error))
    with standing(tmp_path, PAIRS, lambda text: None) as matrix:
        trials = [matrix.trial(one, other, 0) for one, other in PAIRS]
    for trial in trials:
        print(trial)
    assert not [trial for trial in trials if wrong(trial)]
    assert "relay-tls" in trials[-1].paths
