"""Which tests may run beside each other: those that measure silences of real packets never, all others do."""

from __future__ import annotations

import signal

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from netctl.wg import native

REAL = "tests/netns/test_"
UNHURRIED = ("acl_sides", "apply", "commit", "fleet", "foreign", "gateway", "gitops", "roles")
"""Real packets too, but nothing in them is about fractions of a second."""

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # so a shell starts jobs in the background, and all they start
    signal.signal(signal.SIGINT, signal.default_int_handler)


class _RealOnesInTurn(LoadScopeScheduling):  # type: ignore[misc]  # xdist says its types, but not that it does
    """Nearly all of tests/netns to one worker, in order; of the rest each file to whichever is free."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        unhurried = file.removeprefix(REAL).removesuffix("_real.py") in UNHURRIED
        return REAL if file.startswith(REAL) and not unhurried else file


@pytest.fixture(params=["native", "python"])
def data_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both data paths of netctl-wg, one after the other: the one in C, and the one in Python."""
    if request.param == "python":
        monkeypatch.setenv(native.SWITCH, "0")
    elif native.load()[0] is None:
        pytest.skip(f"the data path is {native.describe()}")
    return str(request.param)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _RealOnesInTurn:
    return _RealOnesInTurn(config, log)
