"""Commit-confirm on a real host with real processes: without an agent, with one, and with one that was killed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.netns.onehost import NETCTL, STATE, One, one_host
from tests.support.hosts import needs_namespaces
from tests.support.patience import BUSY_S, wait_for

pytestmark = [pytest.mark.netns, needs_namespaces]


@pytest.fixture
def one() -> Iterator[One]:
    with one_host() as one:
        yield one


def test_without_an_agent_the_deadline_takes_the_host_back(one: One) -> None:
    assert one.apply(one.good, "--engine", "wireguard-go")[0] == 0
    assert one.netctl("confirm")[0] == 1
    code, said = one.apply(one.bad, "--confirm-within", "20s")
    assert (code, "netctl confirm" in said) == (0, True), said
    assert one.has("10.8.0.99")
    assert one.accepted() == one.bad
    assert len(one.waiting()) == 1
    wait_for("the host is back", lambda: not one.waiting())
    assert one.has("10.8.0.1")
    assert not one.has("10.8.0.99")
    assert one.accepted() == one.good
    code, said = one.apply(one.bad)
    assert (code, "--force" in said) == (1, True), said
    code, said = one.apply(one.bad, "--force")
    assert code == 0, said
    assert one.has("10.8.0.99")


def test_without_an_agent_confirm_keeps_and_rollback_does_not_wait(one: One) -> None:
    assert one.apply(one.good, "--engine", "wireguard-go", "--confirm-within", "600s")[0] == 0
    code, said = one.netctl("confirm")
    assert (code, said) == (0, "confirmed: the apply stays\n")
    wait_for("nobody waits any more", lambda: not one.waiting())
    assert one.netctl("confirm") == (1, "error: nothing is armed: there is nothing to confirm\n")
    assert one.apply(one.bad, "--confirm-within", "600s")[0] == 0
    code, said = one.apply(one.good)
    assert (code, "waits for its confirmation" in said) == (1, True), said
    one.write(one.bad)
    code, said = one.netctl("rollback")
    assert code == 0, said
    assert one.has("10.8.0.1")
    assert one.accepted() == one.good
    assert one.netctl("rollback")[0] == 1


@pytest.mark.parametrize("ends", ["", "KILL", "STOP"], ids=["alive", "killed", "hanging"])
def test_with_an_agent_the_deadline_takes_the_host_back_whether_it_lives_or_not(one: One, ends: str) -> None:
    one.start_agent()
    assert one.apply(one.good)[0] == 0
    code, said = one.apply(one.bad, "--confirm-within", "20s")
    assert code == 0, said
    assert one.has("10.8.0.99")
    armed = one.status()["armed"]
    assert 0 < armed["rolls_back_in_s"] <= 20
    assert one.agent is not None
    if ends:
        one.host.run("sh", "-c", f"kill -{ends} $(cat {STATE}/lock)")
    wait_for("the host is back", lambda: not one.waiting() and one.has("10.8.0.1"))
    # The agent goes back in several steps, and who waited for a confirmation may have ended before.
    wait_for("all of it", lambda: not one.has("10.8.0.99") and one.accepted() == one.good)
    if ends:
        one.agent.kill()  # what started it: it stops with what it started
        one.start_agent()  # the lock and the socket are free
    status = one.status()
    assert (status["armed"], status["refused"]) == (None, [armed["digest"]])
    assert one.apply(one.bad)[0] == 1


def test_who_comes_through_a_tunnel_is_armed_without_asking(one: One) -> None:
    assert one.apply(one.good, "--engine", "wireguard-go")[0] == 0
    ridden = "10.8.0.2 50000 10.8.0.1 22"
    code, said = one.apply(one.bad, "--ssh-connection", ridden)
    assert (code, "armed" in said) == (0, True), said
    assert one.netctl("rollback")[0] == 0
    code, said = one.apply(one.bad, "--force", "--ssh-connection", ridden, "--no-confirm")
    assert (code, "armed" in said) == (0, False), said


def test_two_applies_at_once_come_one_after_the_other(one: One) -> None:
    one.write(one.good)
    command = one.host.command(NETCTL, "apply", "--yes", "--engine", "wireguard-go")
    both = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    ends = [(*process.communicate(timeout=BUSY_S), process.returncode) for process in both]
    assert [code for _, _, code in ends] == [0, 0], ends
    assert sorted(out.startswith("applied") for out, _, _ in ends) == [False, True], ends
    held = one.host.start("flock", "--no-fork", f"{STATE}/lock", "sh", "-c", "echo held; exec sleep 1000")
    assert held.stdout is not None
    assert held.stdout.readline() == "held\n"
    waits = one.start(NETCTL, "apply", "--yes")
    assert waits.stdout is not None
    assert "waiting for another netctl" in waits.stdout.readline()
    held.kill()
    held.communicate()
    said, _ = waits.communicate(timeout=BUSY_S)
    assert waits.returncode == 0, said
