"""netctl-wg with worker threads and real packets: each gave up what one gives up; sessions come and go under load."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from netctl.system.confine import KEPT
from netctl.wg import native
from tests.netns.netkit import pings
from tests.support.hosts import Host, join, needs_namespaces
from tests.support.patience import BUSY_S, wait_for
from tests.support.processes import EVERY
from tests.support.wgside import LINK, OURS, Side, stream

THREADS = 3
pytestmark = [
    pytest.mark.netns,
    needs_namespaces,
    pytest.mark.skipif(native.load()[0] is None, reason=f"the data path is {native.describe()}"),
]


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Side, Side]]:
    monkeypatch.setenv(native.THREADS, str(THREADS))
    hosts = Host("wg-threads-1"), Host("wg-threads-2")
    try:
        join(*hosts, "192.0.2.1/24", "192.0.2.2/24")
        one, other = Side(hosts[0], OURS, 1), Side(hosts[1], OURS, 2)
        one.peer(other, "192.0.2.2")
        other.peer(one, "192.0.2.1")
        yield one, other
    finally:
        for host in hosts:
            host.close()


def pid(side: Side) -> str:
    """Of the one netctl-wg of a host, also where a script starts it."""
    (found,) = re.findall(rf"^ *(\d+) .*netctl.wg.* {LINK}$", side.host.run(*EVERY), re.MULTILINE)
    return str(found)


def statuses(side: Side) -> list[dict[str, str]]:
    """Of the first thread and each worker of the one netctl-wg of a host."""
    text = side.host.run("sh", "-c", f"for each in /proc/{pid(side)}/task/*; do cat $each/status; echo; done")
    blocks = (block.splitlines() for block in text.strip().split("\n\n"))
    found = [
        {key: value.strip() for key, _, value in (line.partition(":") for line in block)} for block in blocks
    ]
    return [each for each in found if each["Pid"] == each["Tgid"] or each["Name"] == "wg-crypt"]


def test_packets_keys_and_the_end(pair: tuple[Side, Side]) -> None:
    one, other = pair
    assert one.ping(other) == 0
    stream(one, other)
    stream(other, one)
    for side in pair:
        found = statuses(side)
        assert len(found) >= THREADS, "a sanitizer has one of its own"
        for thread in found:
            assert int(thread["CapEff"], 16) == int(thread["CapPrm"], 16) == KEPT
            assert int(thread["CapBnd"], 16) & ~KEPT == 0
            assert thread["NoNewPrivs"] == "1"
            assert thread["Seccomp"] == "2"
    takes_sigterm = [thread for thread in statuses(one) if not int(thread["SigBlk"], 16) >> 14 & 1]
    assert [thread["Pid"] for thread in takes_sigterm] == [takes_sigterm[0]["Tgid"]], "the interpreter's"

    # Keys go and come while packets of both directions are with the workers: a peer is removed and added each time.
    shaken = 0
    while shaken < 2:  # a busy machine may need more than one run for that
        with other.host.start("iperf3", "-s", "-1") as server:
            wait_for("iperf3", lambda: ":5201" in other.host.run("ss", "-Hltn"))
            with one.host.start("iperf3", "-c", "10.77.0.2", "-t", "4", "--bidir") as client:
                while client.poll() is None:
                    one.host.run("wg", "set", LINK, "peer", other.key, "remove")
                    one.peer(other, "192.0.2.2")
                    # What waits for a new session with iperf's packets may be dropped with them.
                    assert all(pings(one.host, address) for address in ("10.77.0.2", "fd77::2"))
                    shaken += 1
                assert client.returncode == 0, client.communicate()[0]
            server.terminate()
    stream(one, other)
    stream(other, one)

    one.host.run("ip", "link", "del", LINK)
    wait_for("netctl-wg ends with its link and takes its sockets along", one.has_ended)
    other.host.run("kill", "-TERM", pid(other))
    wait_for("and at a signal", other.has_ended)


@pytest.mark.parametrize(
    ("said", "threads", "complaint"),
    [
        ("2", 2, ""),
        ("1", 1, ""),
        ("9", 1, "NETCTL_WG_THREADS='9' is no number from 1 to 8: 1 taken"),
        ("x", 1, "'x'"),
    ],
)
def test_the_number_of_threads_is_said(
    said: str, threads: int, complaint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(native.THREADS, said)
    host = Host("wg-threads")
    try:
        with host.start("taskset", "1", OURS, "-f", "--log-level", "info", LINK) as process:
            wait_for("the socket", lambda: f"{LINK}.sock" in host.run("ls", "/run/wireguard", check=False))
            host.run("ip", "link", "del", LINK)
            output = process.communicate(timeout=BUSY_S)[0]
        assert (f", {threads} threads" in output) == (threads > 1), output
        assert complaint in output
    finally:
        host.close()
