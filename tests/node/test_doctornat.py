"""The words and the JSON for filters and for how ports are given out."""

from __future__ import annotations

import json
from typing import get_args

import pytest

from netctl.node.diagnosis import nat as doctornat
from netctl.paths.filtering import Filtering4787
from netctl.paths.predict import Allocation


@pytest.mark.parametrize("kind", get_args(Filtering4787))
def test_every_filter_has_words(kind: Filtering4787) -> None:
    (check,) = doctornat.filtering(kind)
    assert check["level"] == ("note" if kind == "unknown" else "ok")
    assert kind in check["text"] or kind == "endpoint-independent or address-dependent"


@pytest.mark.parametrize(
    ("found", "words", "told"),
    [
        (Allocation("kept", "1.2.3.4", 50000, 1, 1), "own port", ("kept", None, None)),
        (Allocation("sequential", "1.2.3.4", 20010, 1, 32), "up:", ("sequential", 1, [20010, 20041])),
        (
            Allocation("sequential", "1.2.3.4", 20010, -2, 3),
            "down, 2 at a",
            ("sequential", -2, [20006, 20010]),
        ),
        (Allocation("block", "1.2.3.4", 40000, 1, 128), "40000-40127", ("block", None, [40000, 40127])),
        (Allocation("random", "1.2.3.4", 1024, 1, 64512), "random", ("random", None, [1024, 65535])),
    ],
)
def test_every_way_has_words(found: Allocation, words: str, told: tuple[object, ...]) -> None:
    (check,) = doctornat.allocation(found)
    assert words in check["text"]
    answer = doctornat.allocation_json(found)
    assert answer is not None
    assert tuple(json.loads(json.dumps(answer)).values()) == told


def test_nothing_is_said_of_what_is_not_known() -> None:
    assert doctornat.allocation(None) == []
    assert doctornat.allocation_json(None) is None
