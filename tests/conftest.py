"""Which tests may run beside each other: those with real packets never, they measure silences; all others do."""

from __future__ import annotations

import signal

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

REAL = "tests/netns/"

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # so a shell starts jobs in the background, and all they start
    signal.signal(signal.SIGINT, signal.default_int_handler)


class _RealOnesInTurn(LoadScopeScheduling):  # type: ignore[misc]  # xdist says its types, but not that it does
    """All of tests/netns to one worker, in order; of the rest each file to whichever is free."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return REAL if file.startswith(REAL) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _RealOnesInTurn:
    return _RealOnesInTurn(config, log)
