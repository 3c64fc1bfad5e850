"""Our `Device` over a plain UDP socket against wireguard-go: the same protocol, or it would not answer."""

from __future__ import annotations

import base64
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from netctl.tunnel.primitives import public_key
from tests.support.hosts import Host, needs_namespaces
from tests.support.patience import BUSY_S, wait_for

pytestmark = [pytest.mark.netns, needs_namespaces]

LINK = "wgi0"
THEIRS_V4, THEIRS_V6, OURS_V4, OURS_V6 = "10.88.0.1", "fd88::1", "10.88.0.2", "fd88::2"
THEIR_PORT, OUR_PORT = 51888, 51889


def text(key: bytes) -> str:
    return base64.b64encode(key).decode()


class Go:
    """wireguard-go in a namespace, its key, and ours."""

    def __init__(self, host: Host, preshared_key: bytes) -> None:
        self.host, self.private, self.ours = host, os.urandom(32), os.urandom(32)
        self.preshared_key = preshared_key
        self.daemon = subprocess.Popen(
            host.command("wireguard-go", "-f", LINK), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        started = ("wg", "show", LINK)
        wait_for(
            "wireguard-go", lambda: not host.run(*started, check=False).startswith("Unable"), every_s=0.05
        )
        self.set("private-key", self.private)
        host.run("wg", "set", LINK, "listen-port", str(THEIR_PORT))
        self.set("preshared-key", preshared_key, "peer", text(public_key(self.ours)))
        allowed = f"{OURS_V4}/32,{OURS_V6}/128"
        host.run("wg", "set", LINK, "peer", text(public_key(self.ours)), "allowed-ips", allowed)
        host.run("ip", "address", "add", f"{THEIRS_V4}/24", "dev", LINK)
        host.run("ip", "address", "add", f"{THEIRS_V6}/64", "dev", LINK, "nodad")
        host.run("ip", "link", "set", LINK, "up")

    def set(self, what: str, key: bytes, *before: str) -> None:
        self.host.run("wg", "set", LINK, *before, what, "/dev/stdin", text=text(key) + "\n")

    def peer(self, *arguments: str) -> list[str]:
        """The command line of our side."""
        script = Path(__file__).with_name("tunnelpeer.py")
        keys = ["--private-key", text(self.ours), "--peer", text(public_key(self.private))]
        keys += ["--preshared-key", text(self.preshared_key)]
        mine = ["--port", str(OUR_PORT), "--v4", OURS_V4, "--v6", OURS_V6]
        return self.host.command(sys.executable, str(script), *keys, *mine, *arguments)

    def close(self) -> None:
        self.daemon.terminate()
        self.daemon.wait(BUSY_S)


@pytest.fixture(params=[bytes(32), bytes(range(32))], ids=["plain", "preshared"])
def go(request: pytest.FixtureRequest) -> Iterator[Go]:
    host = Host("tunnel-interop")
    other = None
    try:
        other = Go(host, request.param)
        yield other
    finally:
        if other is not None:
            other.close()
        host.close()


def test_we_initiate_and_both_families_get_through(go: Go) -> None:
    result = subprocess.run(
        go.peer("--endpoint", f"127.0.0.1:{THEIR_PORT}", THEIRS_V4, THEIRS_V6),
        capture_output=True,
        text=True,
        timeout=BUSY_S,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    assert "answered=2" in result.stdout
    handshake = go.host.run("wg", "show", LINK, "latest-handshakes").split()[-1]
    assert abs(int(handshake) - time.time()) < 30


@pytest.mark.parametrize("load", [[], ["--under-load"]], ids=["calm", "under-load"])
def test_they_initiate_and_take_our_cookie_when_we_ask(go: Go, load: list[str]) -> None:
    go.host.run("wg", "set", LINK, "peer", text(public_key(go.ours)), "endpoint", f"127.0.0.1:{OUR_PORT}")
    with subprocess.Popen(
        go.peer("--limit", "120", "--replies", "2", *load), stdout=subprocess.PIPE, text=True
    ) as ours:
        assert ours.stdout is not None
        assert ours.stdout.readline() == "ready\n"
        go.host.run("ping", "-c", "1", "-W", "60", OURS_V4, timeout=BUSY_S)
        go.host.run("ping", "-6", "-c", "1", "-W", "60", OURS_V6, timeout=BUSY_S)
        output = ours.stdout.read()
    assert ours.returncode == 0
    assert ("cookies=0" in output) == (not load)
