"""No test hangs: each of its phases has a bound, after which it fails and says where every thread is.

`NETCTL_HANG_S` is another bound in seconds, 0 none: for what takes long by intention.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import signal
import tempfile
import threading
from collections.abc import Iterator
from types import FrameType

import pytest

BOUND_S = 1200.0
"""Longer than anything a test waits for itself (`BUSY_S` several times, 900 s for the guest of `tests/kernel`), and
short enough for the others to be heard of."""


@contextlib.contextmanager
def _bounded(item: pytest.Item, phase: str) -> Iterator[None]:
    seconds = float(os.environ.get("NETCTL_HANG_S", str(BOUND_S)))
    if not seconds or threading.current_thread() is not threading.main_thread():
        yield
        return

    def late(number: int, frame: FrameType | None) -> None:
        with tempfile.TemporaryFile("w+") as file:
            faulthandler.dump_traceback(file)
            file.seek(0)
            pytest.fail(f"{item.nodeid}: its {phase} did not end within {seconds:g} s\n{file.read()}")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    with _bounded(item, "setup"):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with _bounded(item, "call"):
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    with _bounded(item, "teardown"):
        return (yield)
