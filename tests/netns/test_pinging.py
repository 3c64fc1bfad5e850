"""Pings are counted as lost only when no answer comes, though the last answer be late."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from netctl.lab.pinging import pinged
from tests.support.hosts import Host, needs_namespaces

pytestmark = [pytest.mark.netns, needs_namespaces]

COUNT, LOST, LATE = 10, 3, 10
"""Pings; the number of the one that gets no answer; the number of the one whose answer is late."""
RESPONDER = f"""
import fcntl, os, struct, subprocess, time
tun = os.open("/dev/net/tun", os.O_RDWR)
fcntl.ioctl(tun, 0x400454CA, struct.pack("16sH22x", b"slow", 0x1001))  # TUNSETIFF, IFF_TUN | IFF_NO_PI
subprocess.run("ip addr add 10.1.0.1/24 dev slow && ip link set slow up", shell=True, check=True)
print("ready", flush=True)
while True:
    packet = bytearray(os.read(tun, 2048))
    if packet[0] != 0x45 or packet[9] != 1 or packet[20] != 8:
        continue  # no echo request
    number = int.from_bytes(packet[26:28], "big")
    if number == {LOST}:
        continue
    if number == {LATE}:
        time.sleep(1)
    packet[12:16], packet[16:20], packet[20] = packet[16:20], packet[12:16], 0
    checksum = int.from_bytes(packet[22:24], "big") + 0x0800  # RFC 1624: the type became 0
    packet[22:24] = ((checksum & 0xFFFF) + (checksum >> 16)).to_bytes(2, "big")
    os.write(tun, packet)
"""


@contextmanager
def responder() -> Iterator[Host]:
    """A host on whose link one ping is lost and one is answered after a second, all others at once."""
    host = Host("pinging")
    answering = host.start(sys.executable, "-c", RESPONDER)
    try:
        assert answering.stdout is not None
        assert answering.stdout.readline() == "ready\n"
        yield host
    finally:
        answering.kill()
        answering.communicate()
        host.close()


def test_a_late_answer_is_no_loss() -> None:
    with responder() as host:
        found = pinged(host.say, "10.1.0.2", COUNT, interval_s=0.05, wait_s=20)
        assert found.lost == 1, found.said
        assert found.mean_ms is not None
        # ping by itself has gone by then.
        alone = host.say(["ping", "-n", "-q", "-c", str(COUNT), "-i", "0.05", "-W", "20", "10.1.0.2"])
        assert f"{COUNT} packets transmitted, {COUNT - 2} received" in alone


def test_without_any_answer_all_are_lost() -> None:
    with responder() as host:
        host.run("sysctl", "-qw", "net.ipv4.icmp_echo_ignore_all=1")
        found = pinged(host.say, "10.1.0.1", 2, wait_s=1)
    assert (found.lost, found.mean_ms) == (2, None), found.said
