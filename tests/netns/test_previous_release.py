"""The previous release beside this one: its agents with this mediator, and this one's agents with its mediator.

One lab lives through an upgrade of a network, one host after the other, and a step back. Real agents, real packets.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from netctl import __version__
from netctl.lab.internet import Lab
from netctl.lab.probes import ping_all
from tests.netns.previous import VERSION, unpacked, why_not
from tests.support.lablife import PARTY, addresses, connected_lab, everybody_connected
from tests.support.patience import wait_for

pytestmark = [pytest.mark.netns, pytest.mark.lab, pytest.mark.skipif(bool(why_not()), reason=str(why_not()))]


@contextlib.contextmanager
def running(code: Path) -> Iterator[None]:
    """What is started meanwhile runs that code."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(code))
        yield


def version_of(lab: Lab, name: str) -> str:
    """Of the code that the service of a host runs: read from the process itself."""
    pid = lab.services[name]
    code = "import netctl; print(netctl.__version__)"
    place = lab.node(name).run(
        ["sh", "-c", f"tr '\\0' '\\n' < /proc/{pid}/environ | sed -n 's/^PYTHONPATH=//p'"]
    )
    variables = {**os.environ, "PYTHONPATH": place.strip()}
    done = subprocess.run([sys.executable, "-P", "-c", code], env=variables, capture_output=True, text=True)
    return done.stdout.strip()


def versions(lab: Lab) -> dict[str, str]:
    return {name: version_of(lab, name) for name in ("mediator", "laptop", "desktop")}


def works(lab: Lab) -> None:
    wait_for("everybody is connected", lambda: everybody_connected(lab))
    wait_for("everybody answers by name", lambda: None not in ping_all(lab).values())


def restart(lab: Lab, name: str) -> None:
    lab.stop(name)
    if name == "mediator":
        lab.start_mediator()
    else:
        lab.start_agent(name)
        wait_for("the agent takes up its document", lambda: lab.apply(name) is not None)


def test_an_upgrade_host_by_host(tmp_path: Path) -> None:
    before, new = unpacked(tmp_path / "code"), __version__
    assert new != VERSION, "the version is raised after a release"
    with contextlib.ExitStack() as stack:
        with running(before):  # mediator, relay, two members and their engines
            lab = stack.enter_context(connected_lab(PARTY))
        had = addresses(lab)
        assert versions(lab) == {"mediator": VERSION, "laptop": VERSION, "desktop": VERSION}
        works(lab)

        restart(lab, "laptop")  # this agent, with the state, engine and mediator of the previous release
        assert versions(lab) == {"mediator": VERSION, "laptop": new, "desktop": VERSION}
        works(lab)

        restart(lab, "mediator")  # this mediator, with its store and an agent of the previous release
        assert versions(lab) == {"mediator": new, "laptop": new, "desktop": VERSION}
        works(lab)

        with running(before):  # and a member goes back, to the state that this agent wrote
            restart(lab, "laptop")
        assert versions(lab) == {"mediator": new, "laptop": VERSION, "desktop": VERSION}
        works(lab)
        assert addresses(lab) == had, "addresses are kept all the way"
        for name in ("laptop", "desktop", "mediator"):
            assert "Traceback" not in lab.log(name, 500), lab.log(name, 500)
