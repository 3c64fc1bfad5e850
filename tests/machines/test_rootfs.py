"""The look whether machines can be had: the same answer for everybody who looks at the same time."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.machines.rootfs import requirements_for, why_not

LOOKS = 24
"""Two workers collect at the same time: with one name for all, one took away what the other had made."""


@pytest.mark.machines
@pytest.mark.skipif(os.geteuid() != 0, reason="machines: not root")
def test_many_look_at_once() -> None:
    alone = why_not()
    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: why_not(), range(LOOKS))) == {alone}


@pytest.mark.parametrize(
    ("python", "numpy", "also"), [("3.11", "2.1.0", "extensions"), ("3.13", "2.3.0", "")]
)
def test_a_locked_set_is_that_of_the_distributions_python(python: str, numpy: str, also: str) -> None:
    """Not of the Python that runs this, which is another distribution's."""
    locked = (
        "# made by\nnumpy==2.1.0 ; python_full_version < '3.12' \\\n    --hash=sha256:aa \\\n    --hash=sha256:bb\n"
        "    # via netctl\nnumpy==2.3.0 ; python_full_version >= '3.12' \\\n    --hash=sha256:aa \\\n"
        "    --hash=sha256:bb\nextensions==1 ; python_version < '3.13' \\\n    --hash=sha256:cc\n"
        "windows==1 ; sys_platform == 'win32' \\\n    --hash=sha256:dd\n"
    )
    wanted = f"numpy=={numpy} --hash=sha256:aa --hash=sha256:bb\n"
    assert requirements_for(locked, python) == wanted + (f"{also}==1 --hash=sha256:cc\n" if also else "")
