"""Where tests run and which may run beside each other: apart from the machine, and all but those marked `alone`."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from hypothesis import HealthCheck, settings
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

from netctl.wg import native
from tests.support import apart, bound

ROOT = Path(__file__).parents[1]
LONGEST = (
    "world/test_world.py",
    "world/test_several.py",
    "netns/test_guards_real.py",
    "netns/test_fleet_real.py",
    "kernel/test_kernel_guest.py",
    "netns/test_sync_real.py",
    "netns/test_roaming_real.py",
    "machines/test_machines.py",
    "machines/test_packages.py",
    "netns/test_commit_real.py",
    "netns/test_idle_real.py",
    "netns/test_apply_real.py",
    "netns/test_roles_real.py",
    "netns/test_soak_slice.py",
    "netns/test_port_real.py",
    "mediator/test_cluster_history.py",
    "world/test_nat_pairs.py",
)
"""The files that take longest, by a measured run: more than a hundred seconds each. Only the order counts."""
TOLD = ("tests/world/test_world.py", "tests/world/test_several.py")
"""Whose stories are told by as many processes as there are cores, at a low priority: one worker waits for them, one
file after the other, and the other workers run meanwhile what waits for packets."""
SLOW = ("tests/kernel/", "tests/machines/", "tests/release/", "tests/netns/", "tests/world/")
"""Whose files come next, in this order: a long file that begins last leaves the other cores idle at the end."""

settings.register_profile(
    "patient",
    settings(),
    deadline=None,
    suppress_health_check=[*settings().suppress_health_check, HealthCheck.too_slow],
)
# Of how long an example takes by the clock, a busy machine decides.
settings.load_profile("patient")

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # so a shell starts jobs in the background, and all they start
    signal.signal(signal.SIGINT, signal.default_int_handler)

DOOR, ROOM = 0, 1
"""Bytes of the file that says which tests run."""
_LOCK = pytest.StashKey[IO[bytes]]()
_WHY = pytest.StashKey[str | None]()


@functools.cache
def _measures_time(file: str) -> bool:
    """Whether all tests of a file are marked `alone`: read from its text, for the controller imports no tests."""
    return "\npytestmark = [pytest.mark.alone" in (ROOT / file).read_text(encoding="utf-8")


class _EachFileInOneWorker(LoadScopeScheduling):  # type: ignore[misc]  # xdist says its types, but not that it does
    """Each file to whichever worker is free; files with tests that must be alone are one, and the last.

    Those whose stories other processes tell are one, too, and the first.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return "alone" if _measures_time(file) else "told" if file in TOLD else file

    def _reschedule(self, node: WorkerController) -> None:
        """Give a worker its next file as late as possible: one that waits behind a long test is in no other's hands.

        A worker begins a test only when it has the one after it, too.
        """
        if self.workqueue and self._pending_of(self.assigned_work[node]) > 1:
            return
        super()._reschedule(node)


def _turn(nodeid: str) -> tuple[bool, int, int]:
    file = nodeid.partition("::")[0]
    longest = (number for number, name in enumerate(LONGEST) if file == f"tests/{name}")
    slow = (number for number, folder in enumerate(SLOW) if file.startswith(folder))
    return _measures_time(file), next(longest, len(LONGEST)), next(slow, len(SLOW))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> _EachFileInOneWorker:
    config.option.loadscopereorder = False
    return _EachFileInOneWorker(config, log)


@pytest.fixture(params=["native", "python"])
def data_path(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both data paths of netctl-wg, one after the other: the one in C, and the one in Python."""
    if request.param == "python":
        monkeypatch.setenv(native.SWITCH, "0")
    elif native.load()[0] is None:
        pytest.skip(f"the data path is {native.describe()}")
    return str(request.param)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In every worker the same, and so in the order in which the scheduler gives files out."""
    items.sort(key=lambda item: _turn(item.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: WorkerController) -> None:
    """Hand the lock to a worker that is about to start."""
    node.workerinput["lock"] = node.config.stash[_LOCK].name


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """A test marked `alone` waits until no other runs in this session, and lets none begin; all others run together.

    Those marked `machines` or `images` fetch packages and start whole machines: for that they go back to this one.
    """
    about_the_machine = any(item.get_closest_marker(name) for name in ("machines", "images"))
    place = apart.on_the_machine() if about_the_machine else contextlib.nullcontext()
    name = getattr(item.config, "workerinput", {}).get("lock")
    if name is None:  # no workers: every test is alone
        with place:
            return (yield)
    kind = fcntl.LOCK_EX if item.get_closest_marker("alone") is not None else fcntl.LOCK_SH
    with open(name, "r+b") as lock:
        # Whoever waits for the room stands in the door: without that, one that must be alone could wait for all.
        fcntl.lockf(lock, fcntl.LOCK_EX, 1, DOOR)
        fcntl.lockf(lock, kind, 1, ROOM)
        fcntl.lockf(lock, fcntl.LOCK_UN, 1, DOOR)
        with place:
            return (yield)


def pytest_configure(config: pytest.Config) -> None:
    """Before any test is read: a worker is a process of its own, and so alone on its loopback too.

    Who only hands out work stays: its workers are to find the machine where it is.
    """
    why = apart.why_not()
    hands_out = config.getoption("dist", "no") != "no" and not hasattr(config, "workerinput")
    if why is None and not hands_out:
        apart.leave_the_machine()
    config.stash[_WHY] = why
    config.pluginmanager.register(bound)
    config.stash[_LOCK] = tempfile.NamedTemporaryFile(prefix="netctl-tests-")  # noqa: SIM115


def pytest_report_header(config: pytest.Config) -> str:
    """Whether what tests see of links, routes, tables and /etc is this machine's."""
    why = config.stash[_WHY]
    return "namespaces: of their own" if why is None else f"namespaces: the machine's ({why})"


def pytest_unconfigure(config: pytest.Config) -> None:
    """The lock goes with the session."""
    config.stash[_LOCK].close()
