"""A real fleet: hosts with real sshd, rolled out by real Ansible. NETCTL_FLEET_HOSTS says how many (default 3).

One fleet for the whole file: the tests run in order.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.fleetkit import Fleet, fleet_of
from tests.support.hosts import needs_namespaces

HOSTS = int(os.environ.get("NETCTL_FLEET_HOSTS", "3"))
NAMES = [f"h{number}" for number in range(1, HOSTS + 1)]
pytestmark = [pytest.mark.netns, needs_namespaces]
CLOSED = "    acls:\n      - {name: ping, src: ['*'], dst: ['*'], proto: icmp}\n"


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet_of(tmp_path_factory.mktemp("fleet"), HOSTS) as fleet:
        yield fleet


def accepted(fleet: Fleet, name: str) -> str:
    return fleet.hosts[name].run("cat", "/var/lib/netctl/accepted.yaml", check=False)


def pings(fleet: Fleet, one: str, other: str) -> bool:
    ping = ("ping", "-n", "-c", "1", "-W", "3", f"10.77.0.{other[1:]}")
    return any("1 received" in fleet.hosts[one].run(*ping, check=False) for _ in range(10))


def nothing_is_left(fleet: Fleet) -> bool:
    return not list((fleet.directory / "tmp").glob("netctl-rollout-*"))


def test_keys_are_made_on_the_hosts_and_written_into_the_document(fleet: Fleet) -> None:
    fleet.file.write_text(fleet.document(keys=False))
    said = fleet.rollout("--enrol")
    assert "written" in said["text"]
    text = fleet.file.read_text()
    assert text == fleet.document().replace("host: ", "host: ")  # the keys, and every other word as it was
    assert text.startswith("# The fleet.\n")
    private = {host.run("cat", "/var/lib/netctl/wireguard.key").strip() for host in fleet.hosts.values()}
    assert len(private) == HOSTS
    assert not any(key in text + said["text"] + said["stderr"] for key in private)


def test_check_mode_changes_nothing_and_says_what_would(fleet: Fleet) -> None:
    said = fleet.rollout("--check", "--diff")
    assert {run["state"] for run in said["hosts"].values()} == {"done"}
    assert all(run["changed"] > 0 for run in said["hosts"].values())
    assert any("10.77.0.0/24" in line for line in said["hosts"]["h1"]["diff"])
    assert "No such file" in accepted(fleet, "h1")


def test_the_first_run(fleet: Fleet) -> None:
    said = fleet.rollout("--canary", "1", "--batch", "50%")
    assert said["ok"]
    assert said["plan"][0]["networks_come"] == ["fleet"]
    assert said["batches"][0] == ["h1"]
    assert all(accepted(fleet, name) == fleet.file.read_text() for name in NAMES)
    assert pings(fleet, "h1", "h2")
    assert pings(fleet, "h3", "h1")
    assert nothing_is_left(fleet)


def test_the_second_run_changes_nothing(fleet: Fleet) -> None:
    said = fleet.rollout("--batch", "100%")
    assert {name: run["changed"] for name, run in said["hosts"].items()} == dict.fromkeys(NAMES, 0)
    assert said["plan"][0]["reach"] == []


def test_a_change(fleet: Fleet) -> None:
    fleet.file.write_text(fleet.document(CLOSED))
    said = fleet.rollout("--batch", "100%")
    assert said["plan"][0]["reach"][0]["lost"]
    assert all(accepted(fleet, name) == fleet.file.read_text() for name in NAMES)
    assert pings(fleet, "h2", "h1")


def test_a_bad_change_stops_at_the_canary_and_heals_itself(fleet: Fleet) -> None:
    """The controller's own address behind another member: the answers to it would go into a tunnel."""
    good = fleet.file.read_text()
    fleet.file.write_text(fleet.document(CLOSED, routes={"h2": "10.99.0.254/32"}))
    said = fleet.rollout(
        "--canary", "h3", "--confirm-within", "8s", "-e", "netctl_reconnect_timeout=6", status=1
    )
    states = {name: run["state"] for name, run in said["hosts"].items()}
    assert states == {**dict.fromkeys(NAMES, "waiting"), "h3": "healed"}
    # Either the connection ends during the apply, or no new one comes; it may answer again just when the wait is over.
    why = said["hosts"]["h3"]["why"]
    assert "over a new connection" in why or "Apply, armed to go back" in why, why
    assert accepted(fleet, "h3") == good
    assert "10.99.0.254" not in fleet.hosts["h3"].run("ip", "route")
    assert pings(fleet, "h3", "h1")
    fleet.file.write_text(good)


def test_a_host_that_is_down_is_left_out_and_caught_up_later(fleet: Fleet) -> None:
    fleet.file.write_text(fleet.document(CLOSED.replace("ping", "icmp")))
    fleet.hosts["h2"].run("ip", "link", "set", "eth0", "down")
    said = fleet.rollout("--batch", "100%", status=1)
    states = {name: run["state"] for name, run in said["hosts"].items()}
    assert states == {**dict.fromkeys(NAMES, "done"), "h2": "down"}
    assert said["hosts"]["h2"]["why"]
    fleet.hosts["h2"].run("ip", "link", "set", "eth0", "up")
    said = fleet.rollout("--resume")
    states = {name: run["state"] for name, run in said["hosts"].items()}
    assert states == {**dict.fromkeys(NAMES, "there"), "h2": "done"}
    assert accepted(fleet, "h2") == fleet.file.read_text()


def test_an_own_inventory_with_other_names(fleet: Fleet, tmp_path: Path) -> None:
    inventory = tmp_path / "hosts.ini"
    rows = [f"web-{name} ansible_host=10.99.0.{name[1:]} netctl_member={name}" for name in NAMES[:2]]
    inventory.write_text("[web]\n" + "\n".join(rows) + "\nother ansible_host=10.99.0.253\n")
    said = fleet.rollout("-i", str(inventory))
    assert {name: run["changed"] for name, run in said["hosts"].items()} == {"web-h1": 0, "web-h2": 0}
    assert said["left_out"][-1] == "other"


def test_a_member_that_is_removed(fleet: Fleet) -> None:
    said = fleet.rollout("--limit", "h1", "-e", "netctl_state=absent")
    assert said["hosts"]["h1"]["state"] == "done"
    assert "nctl0" not in fleet.hosts["h1"].run("ip", "link")
    assert "No such file" in accepted(fleet, "h1")
    assert fleet.hosts["h1"].run("cat", "/var/lib/netctl/wireguard.key")
    said = fleet.rollout("--limit", "h1", "-e", "netctl_state=absent")
    assert said["hosts"]["h1"]["changed"] == 0
