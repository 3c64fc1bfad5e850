"""The look whether machines can be had: the same answer for everybody who looks at the same time."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest
from rootfs import why_not

LOOKS = 24
"""Two workers collect at the same time: with one name for all, one took away what the other had made."""


@pytest.mark.machines
@pytest.mark.skipif(os.geteuid() != 0, reason="machines: not root")
def test_many_look_at_once() -> None:
    alone = why_not()
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: why_not(), range(LOOKS))) == {alone}
