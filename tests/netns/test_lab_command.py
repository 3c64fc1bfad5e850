"""`netctl lab` as a person uses it: the demonstration, Ctrl-C, up and down, and what is left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from netctl.lab.internet import program
from netctl.lab.namespaces import check_machine
from netctl.model.errors import LocalError
from tests.support.patience import BUSY_S, wait_for

pytestmark = [pytest.mark.netns, pytest.mark.lab]

EXAMPLE = Path(__file__).parents[2] / "examples" / "lan-party.yaml"
BEGUN = "from netctl.cli.main import main; print('begun', flush=True); raise SystemExit(main())"
"""Before that a Ctrl-C is Python's own matter."""
DEMO_S = 90.0
"""The promise of the README, once everything is set up."""
NETCTL = [sys.executable, "-c", "from netctl.cli.main import main; raise SystemExit(main())"]


@pytest.fixture(autouse=True)
def _machine() -> None:
    try:
        check_machine()
    except LocalError as error:
        pytest.skip(str(error))


@pytest.fixture
def own_runtime(tmp_path: Path, leaves_nothing: dict[str, str]) -> dict[str, str]:
    """So that a lab of the person who runs the tests is left alone."""
    return {**leaves_nothing, "NETCTL_LAB": str(tmp_path / "lab")}


def marked(mark: str) -> dict[int, str]:
    """The processes that were started, however indirectly, with this mark in their environment."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if mark.encode() in (entry / "environ").read_bytes():
                    found[int(entry.name)] = (entry / "cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
    return found


@pytest.fixture
def leaves_nothing() -> Iterator[dict[str, str]]:
    """An environment for commands; afterwards no process, and so no namespace, of theirs is left."""
    mark = f"netctl-test-{uuid.uuid4()}"
    yield {**os.environ, "NETCTL_TEST_MARK": mark}
    wait_for("all of it ends", lambda: not marked(mark), every_s=0.05)
    assert "/run/lab" not in Path("/proc/self/mountinfo").read_text()


def test_the_demonstration_shows_the_main_job(leaves_nothing: dict[str, str]) -> None:
    started = time.monotonic()
    done = subprocess.run(
        [*NETCTL, "lab", "demo", str(EXAMPLE)],
        env=leaves_nothing,
        capture_output=True,
        text=True,
        check=False,
        timeout=BUSY_S,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert time.monotonic() - started < DEMO_S
    assert done.stdout.strip().splitlines()[-1].startswith("PASS: "), said
    assert "12 of 12 pings by name answered" in done.stdout
    for name in ("console", "desktop", "nas"):
        assert f"{name} (from 10.147.10.10)" in done.stdout, "a broadcast that was not heard"
    assert "0 wrong" in done.stdout
    assert "ok   guest joined lan-party with one string" in done.stdout
    assert "reaches laptop, console, desktop, nas by name" in done.stdout


def test_a_hub_with_spokes_is_one_network_too(leaves_nothing: dict[str, str]) -> None:
    done = subprocess.run(
        [*NETCTL, "lab", "demo", str(EXAMPLE.with_name("office.yaml"))],
        env=leaves_nothing,
        capture_output=True,
        text=True,
        check=False,
        timeout=BUSY_S,
    )
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "anna-phone has no identity" in done.stderr
    assert "through hub" in done.stdout
    assert "0 wrong" in done.stdout


@pytest.mark.parametrize("after_s", [0.2, 1.5, 4.0, 8.0])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_and_kill_leave_nothing(
    after_s: float, number: signal.Signals, leaves_nothing: dict[str, str]
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", BEGUN, "lab", "demo", str(EXAMPLE)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=leaves_nothing,
        text=True,
        start_new_session=True,
    ) as demo:
        assert demo.stdout is not None
        assert demo.stdout.readline() == "begun\n"
        time.sleep(after_s)
        assert demo.poll() is not None or marked(leaves_nothing["NETCTL_TEST_MARK"])
        # A terminal sends Ctrl-C to the whole process group; SIGKILL meets the command alone.
        if number is signal.SIGINT:
            os.killpg(demo.pid, number)
        else:
            demo.kill()
        _, err = demo.communicate(timeout=BUSY_S)
    assert demo.returncode in (130, -signal.SIGINT, -signal.SIGKILL), err
    assert "Traceback" not in err


def test_up_exec_status_down(own_runtime: dict[str, str]) -> None:
    def lab(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*NETCTL, "lab", *argv],
            env=own_runtime,
            capture_output=True,
            text=True,
            check=False,
            timeout=BUSY_S,
        )

    try:
        up = lab("up", str(EXAMPLE))
        assert up.returncode == 0, up.stderr
        again = lab("up", str(EXAMPLE))
        assert (again.returncode, len(again.stderr.strip().splitlines())) == (1, 1), again.stderr
        assert "already running" in again.stderr
        inside = lab("exec", "console", "--", "hostname")
        assert (inside.returncode, inside.stdout) == (0, "console\n")
        assert lab("exec", "console", "--", "sh", "-c", "exit 7").returncode == 7
        stranger = lab("exec", "stranger", "--", "true")
        assert stranger.returncode == 1
        assert "there are laptop" in stranger.stderr
        status = lab("status")
        assert status.returncode == 0
        assert "10.147.10.10" in status.stdout
    finally:
        down = lab("down")
    assert down.returncode == 0
    assert not Path(own_runtime["NETCTL_LAB"]).exists()
    assert lab("status").returncode == 1


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["demo", "/nowhere/networks.yaml"], "cannot read /nowhere/networks.yaml"),
        (["exec", "laptop", "--", "true"], "no lab is running"),
    ],
)
def test_bad_input_gets_one_line(argv: list[str], says: str, own_runtime: dict[str, str]) -> None:
    done = subprocess.run(
        [*NETCTL, "lab", *argv], env=own_runtime, capture_output=True, text=True, check=False, timeout=BUSY_S
    )
    assert done.returncode == 1
    assert says in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_the_console_script_is_installed() -> None:
    assert Path(program("netctl")).exists()
